//! Keeps hints: one thread that writes them to their log, syncs once for all that wait, and tells what is
//! owed to whom.
//!
//! It mints too, for sloppy writes that no owner could be reached for. What it mints lies nowhere but in
//! its hint, so its actor is one of its own, new after every start and after any hint was given up: an
//! actor must never mint where an earlier write of it is missing (docs/design/causality.md, "Actors").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{ErrorReply, NodeId, RingVersion};
use dynakv_storage::{HintLog, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use super::store_worker::{Fence, StoreEvent, Token};
use crate::engine::anti_entropy::handoff::{Hint, HintBook};
use crate::engine::placement::ring::Ring;
use crate::engine::read::answer::sealed;
use crate::engine::write::mint::Minter;
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::put::Replaced;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::{Disk, Stall, StoreThreads, WallClock};

mod following;
mod jobs;
mod keeping;
mod kept;

pub use self::jobs::{Batch, Confirmation, Due, HintJob, Owed};
pub use self::kept::KeptHints;
use self::kept::enter;

/// The most jobs that share one sync.
const JOBS_PER_SYNC_MAX: usize = 4096;

/// How many reminders may wait for the worker; more are dropped, and anti-entropy takes over.
const REMINDERS_WAITING_MAX: usize = 65_536;

/// Every how many ticks all hints are looked over for their age.
const LOOKS_EVERY_TICKS: u32 = 10;

/// About what a key takes in memory, in the index of the log and in the book, in bytes: a reminder takes more
/// there than on disk.
const MEMORY_PER_KEY_BYTES: u64 = 256;

/// What bounds hints.
#[derive(Debug, Clone, Copy)]
pub struct HintBounds {
    /// How many bytes hints may take: on disk, and for their keys in memory.
    pub bytes_max: u64,
    /// How old a hint may become that counts for nothing.
    pub age_max: Duration,
}

/// Hands jobs to the worker. Dropping all of them ends it once all jobs are done.
#[derive(Debug, Clone)]
pub struct HintHandle {
    jobs: mpsc::UnboundedSender<Vec<HintJob>>,
    reminders_waiting: Arc<AtomicUsize>,
    kept: Arc<AtomicU64>,
    counted: Arc<AtomicU64>,
    owed: watch::Receiver<Vec<Owed>>,
}

// What waits in the queue is bounded: requests are in the node's books (`ledger.rs`), reminders have a count,
// and the handoff task has a few questions under way.

impl HintHandle {
    /// Hands over jobs that somebody waits for.
    pub fn send(&self, jobs: Vec<HintJob>) {
        // A worker that is gone has reported why.
        let _ = self.jobs.send(jobs);
    }

    /// Hands over reminders. Gives back how many were dropped because too many wait.
    pub fn remind(&self, reminders: Vec<(Bytes, NodeId)>) -> usize {
        let waiting = self.reminders_waiting.load(Ordering::Relaxed);
        let room = REMINDERS_WAITING_MAX.saturating_sub(waiting);
        let dropped = reminders.len().saturating_sub(room);
        let taken: Vec<_> = reminders.into_iter().take(room).collect();
        if !taken.is_empty() {
            self.reminders_waiting
                .fetch_add(taken.len(), Ordering::Relaxed);
            let _ = self.jobs.send(vec![HintJob::Remind { reminders: taken }]);
        }
        dropped
    }

    /// Has hints be kept under this ring from then on, and gives what tells when: once what was asked for before is done.
    pub fn move_fence(&self, version: RingVersion) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        let _ = self.jobs.send(vec![HintJob::Fence { version, done }]);
        is_done
    }

    /// From now on hints are owed to the owners under this ring.
    pub fn follow(&self, ring: Arc<Ring>) {
        self.send(vec![HintJob::Follow { ring }]);
    }

    /// How many keys are kept for others.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// How many of them an acknowledged write counts on.
    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    /// To whom anything is owed, as of the last sync or so.
    pub fn owed(&self) -> Vec<Owed> {
        self.owed.borrow().clone()
    }
}

/// What the worker is given.
pub struct Parts {
    /// How its work is done, and the store, which knows how much room the disk has.
    pub disk: Disk,
    /// The hints that are there.
    pub hints: KeptHints,
    /// Mints for writes that no owner could be reached for.
    pub minter: Minter,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub bounds: HintBounds,
    /// Where news for the coordinator goes.
    pub events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    /// Whether the disk answers.
    pub progress: Arc<DiskProgress>,
}

/// Starts the worker on the hints that are there.
///
/// # Errors
/// What the disk says, or that the system gives no more threads.
pub fn start(parts: Parts) -> Result<HintHandle, StoreError> {
    let Parts {
        disk,
        hints,
        minter,
        clock,
        metrics,
        bounds,
        events,
        progress,
    } = parts;
    let (log, book) = enter(hints, &metrics)?;
    let (jobs, waiting) = mpsc::unbounded_channel();
    let (owed_out, owed) = watch::channel(Vec::new());
    let reminders_waiting = Arc::new(AtomicUsize::new(0));
    let (kept, counted) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut worker = Worker {
        log,
        book,
        store: disk.store.clone(),
        fence: Fence::default(),
        minter,
        gave_up_any: false,
        clock,
        metrics,
        bounds,
        events,
        written: Vec::new(),
        failed: None,
        ticks: 0,
        own_jobs: jobs.downgrade(),
        waits_to_follow: false,
        follows_in_memory: false,
        reminders_waiting: reminders_waiting.clone(),
        kept: kept.clone(),
        counted: counted.clone(),
        owed: owed_out,
        progress,
    };
    worker.publish();
    match &disk.threads {
        StoreThreads::Own => {
            let thread = std::thread::Builder::new().name("hint-writer".to_owned());
            let thread = thread.spawn(move || worker.run(waiting));
            thread.map_err(|source| StoreError::Io {
                doing: "starting the thread that keeps hints",
                path: disk.hints.path(),
                source,
            })?;
        }
        StoreThreads::Simulated { sync_us, stall } => {
            let sync_takes = Duration::from_micros(*sync_us);
            tokio::spawn(worker.run_simulated(waiting, sync_takes, stall.clone()));
        }
    }
    Ok(HintHandle {
        jobs,
        reminders_waiting,
        kept,
        counted,
        owed,
    })
}

struct Worker {
    log: HintLog,
    book: HintBook,
    /// Knows how much room the disk has.
    store: Arc<dyn Store>,
    /// Of its own: its queue is not the store's.
    fence: Fence,
    minter: Minter,
    /// Whether a hint was given up since the actor last minted.
    gave_up_any: bool,
    clock: Arc<dyn WallClock>,
    metrics: Arc<Metrics>,
    bounds: HintBounds,
    events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    /// Who waits for the next sync.
    written: Vec<Token>,
    /// Why the disk takes nothing more.
    failed: Option<StoreError>,
    ticks: u32,
    /// Where it asks itself to go on with what is long. Holds nobody up who ends.
    own_jobs: mpsc::WeakUnboundedSender<Vec<HintJob>>,
    /// Whether it has asked itself to go on with following the ring.
    waits_to_follow: bool,
    /// Whether the disk took nothing since it follows this ring: what is owed is not written then until there is need.
    follows_in_memory: bool,
    reminders_waiting: Arc<AtomicUsize>,
    kept: Arc<AtomicU64>,
    counted: Arc<AtomicU64>,
    owed: watch::Sender<Vec<Owed>>,
    progress: Arc<DiskProgress>,
}

impl Worker {
    fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Vec<HintJob>>) {
        while let Some(first) = jobs.blocking_recv() {
            self.progress.hints.begin();
            let must_sync = self.apply_waiting(first, &mut jobs);
            let is_good = self.settle(must_sync);
            self.progress.hints.end();
            if !is_good {
                return;
            }
        }
        if self.settle(true) {
            self.mark_durable();
        }
    }

    async fn run_simulated(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Vec<HintJob>>,
        sync_takes: Duration,
        stall: Stall,
    ) {
        while let Some(first) = jobs.recv().await {
            self.progress.hints.begin();
            let must_sync = self.apply_waiting(first, &mut jobs);
            if must_sync && self.log.needs_sync() {
                tokio::time::sleep(sync_takes).await;
                stall.passes().await;
            }
            let is_good = self.settle(must_sync);
            self.progress.hints.end();
            if !is_good {
                return;
            }
        }
        self.settle(true);
    }

    /// Applies the first list and those that wait behind it. Whether somebody waits for a sync.
    fn apply_waiting(
        &mut self,
        first: Vec<HintJob>,
        jobs: &mut mpsc::UnboundedReceiver<Vec<HintJob>>,
    ) -> bool {
        let now_unix_ms = self.clock.unix_ms();
        let mut must_sync = false;
        let mut next = Some(first);
        while let Some(list) = next {
            let mut is_long = false;
            for job in list {
                is_long |= matches!(job, HintJob::Follow { .. } | HintJob::FollowOn);
                must_sync |= self.apply(job, now_unix_ms);
                self.progress.hints.step();
            }
            // Whoever waits for the sync does not wait for all hints to follow the ring.
            let full = self.failed.is_some() || is_long || self.written.len() >= JOBS_PER_SYNC_MAX;
            next = if full { None } else { jobs.try_recv().ok() };
        }
        must_sync
    }

    /// Applies one job. Whether a sync is due for it.
    fn apply(&mut self, job: HintJob, now_unix_ms: u64) -> bool {
        match job {
            HintJob::Keep {
                token,
                ring_version,
                key,
                hint,
            } => {
                let is_of_ring = self.fence.check(ring_version);
                let result = is_of_ring.and_then(|()| self.keep(&key, *hint).map(|_| ()));
                self.answer_later(token, result)
            }
            HintJob::Mint {
                token,
                ring_version,
                key,
                intent,
                owed,
                needed,
                cluster_id,
            } => {
                let hint = Hint {
                    versions: None,
                    owed,
                    needed,
                    kept_at_ms: now_unix_ms,
                };
                let is_of_ring = self.fence.check(ring_version);
                let minted = is_of_ring.and_then(|()| self.mint(&key, *intent, hint, now_unix_ms));
                let result = minted.map(|versions| {
                    self.send(vec![StoreEvent::Job {
                        token,
                        outcome: JobOutcome::Minted {
                            versions: versions.to_bytes(),
                            context: sealed(cluster_id, &key, &versions),
                            rebuilding: false,
                            replaced: Replaced::new(),
                        },
                    }]);
                });
                self.answer_later(token, result)
            }
            HintJob::Remind { reminders } => {
                self.reminders_waiting
                    .fetch_sub(reminders.len(), Ordering::Relaxed);
                for (key, owner) in reminders {
                    let hint = Hint::reminder([owner], now_unix_ms);
                    if self.keep(&key, hint).is_err() {
                        self.metrics.hints.dropped_at_bound.increment(1);
                    }
                }
                // They may be lost: nobody counts on them.
                false
            }
            HintJob::Next {
                node,
                after,
                keys_max,
                bytes_max,
                reply,
            } => {
                let hints = self.next(&node, after.as_ref(), (keys_max, bytes_max));
                let _ = reply.send(Batch {
                    ring_version: self.book.ring_version(),
                    hints,
                });
                false
            }
            HintJob::Confirm {
                by,
                ring_version,
                confirmations,
            } => {
                for confirmation in confirmations {
                    self.confirm(&by, ring_version, &confirmation);
                }
                // A hint that comes back after a crash is handed over twice, which does no harm.
                false
            }
            HintJob::Fence { version, done } => {
                self.fence.raise(version);
                // At a start nobody waits for it.
                let _ = done.send(());
                false
            }
            HintJob::Follow { ring } => self.follow(ring),
            HintJob::FollowOn => self.follow_on(),
            HintJob::Tick => {
                // After a failure of the disk all hints are looked at anew.
                self.ask_to_follow_on();
                // Looks at all hints, so not each time.
                if self.ticks.is_multiple_of(LOOKS_EVERY_TICKS) {
                    self.look_over(now_unix_ms);
                }
                self.ticks = self.ticks.wrapping_add(1);
                self.mark_durable();
                true
            }
        }
    }

    /// On a full disk, or in a shortage, it is tried again.
    fn mark_durable(&mut self) {
        match self.log.mark_durable() {
            Err(error) if !error.passes() => self.failed = Some(error),
            _ => {}
        }
    }

    fn answer_later(&mut self, token: Token, result: Result<(), ErrorReply>) -> bool {
        match result {
            Ok(()) => {
                self.written.push(token);
                true
            }
            Err(error) => {
                self.send(vec![StoreEvent::Job {
                    token,
                    outcome: JobOutcome::Refused(error),
                }]);
                false
            }
        }
    }

    /// Makes everything durable if that is due, and says so. False when the disk failed.
    fn settle(&mut self, must_sync: bool) -> bool {
        if self.failed.is_none()
            && must_sync
            && self.log.needs_sync()
            && let Err(error) = self.log.sync()
        {
            self.on_failed(error);
        }
        if let Some(error) = self.failed.take() {
            self.send(vec![StoreEvent::Failed(Arc::new(error))]);
            return false;
        }
        if must_sync {
            let written = std::mem::take(&mut self.written).into_iter();
            let durable = written.map(|token| StoreEvent::Job {
                token,
                outcome: JobOutcome::Durable {
                    rebuilding: false,
                    beside: None,
                },
            });
            self.send(durable.collect());
        }
        self.publish();
        true
    }

    /// Tells others what is kept now: who waits for it to be handed over must not be shown what was.
    fn publish(&mut self) {
        self.report();
        self.kept.store(self.book.len() as u64, Ordering::Relaxed);
        let counted = self.book.counted() as u64;
        self.counted.store(counted, Ordering::Relaxed);
        let owed: Vec<_> = self.book.owed().collect();
        let owed = owed.into_iter().map(|(node, keys)| Owed {
            node: node.clone(),
            keys: keys as u64,
        });
        let owed: Vec<_> = owed.collect();
        self.owed.send_if_modified(|known| {
            let is_news = *known != owed;
            *known = owed;
            is_news
        });
    }

    /// What counts towards the bound.
    fn kept_bytes(&self) -> u64 {
        self.log.live_bytes() + self.book.len() as u64 * MEMORY_PER_KEY_BYTES
    }

    fn report(&self) {
        let hints = &self.metrics.hints;
        hints.waiting.set(self.book.len() as f64);
        hints.waiting_counted.set(self.book.counted() as f64);
        hints.bytes.set(self.kept_bytes() as f64);
        hints.bytes_max.set(self.bounds.bytes_max as f64);
        hints.file_bytes.set(self.log.file_bytes() as f64);
    }

    fn send(&self, events: Vec<StoreEvent>) {
        if !events.is_empty() {
            // A coordinator that is gone has no use for them.
            let _ = self.events.send(events);
        }
    }
}

#[cfg(test)]
mod tests;
