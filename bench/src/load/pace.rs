//! When the next operation is due: at once (closed loop), or at its place in a fixed schedule (open
//! loop).
//!
//! In an open loop the schedule goes on while the servers stall. Operations that are due and wait for a
//! caller are one number, not a queue: the schedule is evenly spaced, so the number of those already
//! taken tells when the next one was meant to be sent.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::timer::Timer;

/// Operations that come due within this time are released together: a timer for each would cost more
/// than they do.
const BATCH_INTERVAL: Duration = Duration::from_micros(100);

/// How long callers who are idle at the end get to take what came due last.
const LAST_TURNS: Duration = Duration::from_millis(5);

/// Tells callers when to send.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    end: Instant,
    open: Option<Open>,
    stopped: Cell<bool>,
}

#[derive(Debug)]
struct Open {
    rate: f64,
    taken: Cell<u64>,
    due: Semaphore,
}

impl Pace {
    /// From now on for so long; with so many operations per second, or as many as there can be.
    pub(super) fn new(duration: Duration, rate: Option<f64>) -> Self {
        let start = Instant::now();
        Self {
            start,
            end: start + duration,
            open: rate.map(|rate| Open {
                rate,
                taken: Cell::new(0),
                due: Semaphore::new(0),
            }),
            stopped: Cell::new(false),
        }
    }

    /// When it began.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Nothing more is sent.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        if let Some(open) = &self.open {
            open.due.close();
        }
    }

    /// The moment that the caller's next operation counts from, as soon as it is due; `None` when there
    /// is no next one. `now` is the present, in a closed loop.
    pub(super) async fn turn(&self, now: Instant) -> Option<Instant> {
        let Some(open) = &self.open else {
            let ended = self.stopped.get() || now >= self.end;
            return (!ended).then_some(now);
        };
        // Closed at the end of the run.
        open.due.acquire().await.ok()?.forget();
        let index = open.taken.get();
        open.taken.set(index + 1);
        Some(self.start + after(index, open.rate))
    }

    /// Releases operations as they come due, until the end. In a closed loop it only waits for it.
    pub(super) async fn run(&self) -> io::Result<()> {
        let Some(open) = &self.open else {
            tokio::time::sleep_until(self.end.into()).await;
            return Ok(());
        };
        let timer = Timer::new()?;
        let mut released = 0;
        loop {
            let now = Instant::now();
            let elapsed = now.min(self.end) - self.start;
            let due = due(elapsed, open.rate);
            let fresh = usize::try_from(due.saturating_sub(released)).unwrap_or(usize::MAX);
            // A semaphore takes no more than this; nobody has waited for so many operations.
            open.due
                .add_permits(fresh.min(Semaphore::MAX_PERMITS - open.due.available_permits()));
            released = due.max(released);
            if now >= self.end || self.stopped.get() {
                // Callers who wait take what has just come due.
                timer.wait(LAST_TURNS).await?;
                self.stop();
                return Ok(());
            }
            let next = self.start + after(released, open.rate);
            let next = next.max(now + BATCH_INTERVAL).min(self.end);
            timer
                .wait(next.saturating_duration_since(Instant::now()))
                .await?;
        }
    }

    /// How many operations were due and never sent.
    pub(super) fn unsent(&self) -> u64 {
        self.open
            .as_ref()
            .map_or(0, |open| open.due.available_permits() as u64)
    }
}

/// When the operation of this number is due, since the start.
fn after(index: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(index as f64 / rate).unwrap_or(Duration::MAX / 4)
}

/// How many are due after this time: the first one is at once.
fn due(elapsed: Duration, rate: f64) -> u64 {
    (elapsed.as_secs_f64() * rate) as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn the_schedule_is_even() {
        assert_eq!(after(0, 1000.0), Duration::ZERO);
        assert_eq!(after(1500, 1000.0), Duration::from_millis(1500));
        assert_eq!(after(1, 0.5), Duration::from_secs(2));
        assert_eq!(due(Duration::ZERO, 1000.0), 1);
        assert_eq!(due(Duration::from_millis(1500), 1000.0), 1501);
        assert_eq!(due(Duration::from_secs(1), 0.5), 1);
    }

    #[test]
    fn an_open_loop_counts_from_the_intended_moment_however_late_the_caller_is() {
        block_on(async {
            let pace = Pace::new(Duration::from_millis(300), Some(1000.0));
            let taken = async {
                let mut intended = Vec::new();
                // The caller is away for most of the time, as if the server had stalled.
                tokio::time::sleep(Duration::from_millis(200)).await;
                for _ in 0..200 {
                    intended.extend(pace.turn(Instant::now()).await);
                }
                intended
            };
            let (ran, intended) = tokio::join!(pace.run(), taken);
            ran.unwrap();
            assert_eq!(intended.len(), 200);
            for (index, intended) in intended.iter().enumerate() {
                assert_eq!(
                    *intended - pace.start(),
                    Duration::from_millis(index as u64)
                );
            }
            // All that was due is accounted for, and nothing is left to take.
            assert!((99..=101).contains(&pace.unsent()), "{}", pace.unsent());
            assert_eq!(pace.turn(Instant::now()).await, None);
        });
    }

    #[test]
    fn a_closed_loop_begins_at_once_and_ends() {
        block_on(async {
            let pace = Pace::new(Duration::from_secs(3600), None);
            let now = Instant::now();
            assert_eq!(pace.turn(now).await, Some(now));
            assert_eq!(pace.turn(pace.end).await, None);
            pace.stop();
            assert_eq!(pace.turn(now).await, None);
            assert_eq!(pace.unsent(), 0);
        });
    }

    #[test]
    fn stopping_wakes_those_who_wait() {
        block_on(async {
            let pace = Pace::new(Duration::from_secs(3600), Some(0.001));
            let wait = async {
                let first = pace.turn(Instant::now()).await;
                let second = pace.turn(Instant::now()).await;
                (first, second)
            };
            let stop = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                pace.stop();
            };
            let (waited, ()) = tokio::select! {
                both = async { tokio::join!(wait, stop) } => both,
                _ = pace.run() => panic!("it runs for an hour"),
            };
            assert_eq!(waited, (Some(pace.start()), None));
        });
    }
}
