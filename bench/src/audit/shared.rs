//! What all tasks of an audit share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::books::{Books, Trust};
use super::latencies::{Latencies, Summary};
use super::value::RunId;

/// So many failed requests are told one by one.
const FAILURES_TOLD: u64 = 20;

/// How long a client waits after a failed request.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// The books, the clock, and the sign to stop.
#[derive(Debug)]
pub(super) struct Shared {
    books: Mutex<Books>,
    pub(super) run: RunId,
    /// How far a read of the default quorum is to be trusted.
    pub(super) trust: Trust,
    started: Instant,
    /// What the clock showed then.
    offset: Duration,
    pub(super) stop: watch::Sender<bool>,
    /// How many clients have written each of their keys once.
    filled: AtomicU64,
    kills: AtomicU64,
    handed_over_before_kills: AtomicU64,
    failures: AtomicU64,
    down: Mutex<Option<String>>,
    latencies: Mutex<Latencies>,
}

impl Shared {
    /// The clock begins at `offset`.
    pub(super) fn new(books: Books, trust: Trust, offset: Duration) -> Self {
        Self {
            run: books.run(),
            books: Mutex::new(books),
            trust,
            started: Instant::now(),
            offset,
            stop: watch::Sender::new(false),
            filled: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            handed_over_before_kills: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            down: Mutex::new(None),
            latencies: Mutex::default(),
        }
    }

    /// The moment by the clock of this audit.
    pub(super) fn now(&self) -> Duration {
        self.offset + self.started.elapsed()
    }

    /// The books, for a moment.
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing panics while it holds the lock.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the load is to end.
    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits for so long, or until the load is to end.
    pub(super) async fn sleep(&self, duration: Duration) {
        let mut stop = self.stop.subscribe();
        let stopped = stop.wait_for(|stopped| *stopped);
        let _either = tokio::time::timeout(duration, stopped).await;
    }

    /// A request failed: counted, and the first ones told. Its client pauses for a moment, so that a
    /// cluster that is down is not asked all the time.
    pub(super) async fn fail(&self, what: &str, key: u32, error: &dynakv_client::Error) {
        self.books().fail();
        if self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES_TOLD {
            let at = self.now().as_secs_f64();
            let down = self
                .down()
                .map_or_else(String::new, |id| format!(" ({id} was down)"));
            eprintln!("{at:.3} s: {what} of key {key} failed{down}: {error}");
        }
        self.sleep(PAUSE_AFTER_FAILURE).await;
    }

    /// One more client has written each of its keys once.
    pub(super) fn has_filled(&self) {
        self.filled.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether so many clients have.
    pub(super) fn is_filled_by(&self, clients: u32) -> bool {
        self.filled.load(Ordering::Relaxed) >= u64::from(clients)
    }

    // Spells.

    /// From now on requests are noted, under this name.
    pub(super) fn begin_spell(&self, name: String) {
        self.latencies().begin(name);
    }

    /// From now on they are not.
    pub(super) fn end_spell(&self) {
        self.latencies().end();
    }

    /// A request has succeeded that began then.
    pub(super) fn succeeded(&self, began: Duration) {
        let took = self.now().saturating_sub(began);
        self.latencies().note(took);
    }

    /// What came of each spell.
    pub(super) fn spells(&self) -> Vec<Summary> {
        self.latencies().summaries()
    }

    fn latencies(&self) -> MutexGuard<'_, Latencies> {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A node was killed.
    pub(super) fn killed(&self, id: &str) {
        self.kills.fetch_add(1, Ordering::Relaxed);
        *self.lock_down() = Some(id.to_owned());
    }

    /// It is back.
    pub(super) fn is_back(&self) {
        *self.lock_down() = None;
    }

    /// Which node is down.
    pub(super) fn down(&self) -> Option<String> {
        self.lock_down().clone()
    }

    /// How many were killed.
    pub(super) fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    /// A node that is about to be killed, and with it its counter, has handed over so many hints.
    pub(super) fn handed_over(&self, hints: u64) {
        self.handed_over_before_kills
            .fetch_add(hints, Ordering::Relaxed);
    }

    /// How many all those had.
    pub(super) fn handed_over_before_kills(&self) -> u64 {
        self.handed_over_before_kills.load(Ordering::Relaxed)
    }

    fn lock_down(&self) -> MutexGuard<'_, Option<String>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
