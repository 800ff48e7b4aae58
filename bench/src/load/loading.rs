//! The loading phase: every key is written once, many at a time.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal};
use std::rc::Rc;
use std::time::{Duration, Instant};

use dynakv_client::{Client, Error};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::keys::KeyName;
use super::options::Plan;
use super::values::Values;
use crate::report::Loading;

/// Requests in flight, while their values fit into [`IN_FLIGHT_BYTES_MAX`].
const IN_FLIGHT_MAX: usize = 1024;

/// Bytes of values in flight.
const IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How often a key is tried, each time with all that the client tries.
const TRIES_MAX: u32 = 5;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// How often something is said where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

struct Shared {
    keys: u64,
    value_bytes: (usize, usize),
    w: Option<u8>,
    next: Cell<u64>,
    done: Cell<u64>,
    values: RefCell<Values>,
}

/// Writes all keys.
///
/// # Errors
/// The error of the first key that could not be written.
pub(super) async fn load(
    plan: &Plan,
    clients: &[Client],
    values: Values,
) -> Result<Loading, Error> {
    let begun = Instant::now();
    let keys = plan.sequence.keys;
    let shared = Rc::new(Shared {
        keys,
        value_bytes: plan.sequence.value_bytes,
        w: plan.w,
        next: Cell::new(0),
        done: Cell::new(0),
        values: RefCell::new(values),
    });
    let fitting = IN_FLIGHT_BYTES_MAX / shared.value_bytes.1.max(1);
    let callers = fitting.clamp(4, IN_FLIGHT_MAX);
    let mut tasks = JoinSet::new();
    for client in clients.iter().cycle().take(callers) {
        let names = KeyName::new(plan.key_bytes);
        tasks.spawn_local(write_keys(Rc::clone(&shared), client.clone(), names));
    }
    let progress = Progress::new(keys);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                // A task that panicked has written its message already; its key is missing.
                Some(Ok(outcome)) => outcome?,
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
                None => break,
            },
            _ = ticks.tick() => progress.show(shared.done.get(), begun.elapsed()),
        }
    }
    progress.finish(shared.done.get(), begun.elapsed());
    Ok(Loading {
        keys: shared.done.get(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

async fn write_keys(shared: Rc<Shared>, client: Client, mut names: KeyName) -> Result<(), Error> {
    loop {
        let key = shared.next.get();
        if key >= shared.keys {
            return Ok(());
        }
        shared.next.set(key + 1);
        // All sizes between the two, without a generator that the run would have to share.
        let (smallest, largest) = shared.value_bytes;
        let span = (largest - smallest) as u64 + 1;
        let value_bytes = smallest + (key.wrapping_mul(0x9e37_79b9) % span) as usize;
        let mut tries = 0;
        loop {
            let value = shared.values.borrow_mut().next(value_bytes);
            let mut request = client.put(names.of(key), value);
            if let Some(w) = shared.w {
                request = request.w(w);
            }
            tries += 1;
            match request.send().await {
                Ok(_) => break,
                Err(error) if tries < TRIES_MAX && error.is_retryable() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        shared.done.set(shared.done.get() + 1);
    }
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    keys: u64,
    said_at: Cell<Duration>,
}

impl Progress {
    fn new(keys: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let template = "loading {wide_bar} {human_pos}/{human_len} keys, {per_sec}, {eta} left";
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(keys).with_style(style)
        });
        Self {
            bar,
            keys,
            said_at: Cell::new(Duration::ZERO),
        }
    }

    fn show(&self, done: u64, elapsed: Duration) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if elapsed >= self.said_at.get() + LINE_INTERVAL {
            self.said_at.set(elapsed);
            eprintln!(
                "loading: {done} of {} keys after {} s",
                self.keys,
                elapsed.as_secs()
            );
        }
    }

    fn finish(&self, done: u64, elapsed: Duration) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("loaded {done} keys in {:.1} s", elapsed.as_secs_f64());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Also when loading fails or is interrupted: the message comes on a line of its own.
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
