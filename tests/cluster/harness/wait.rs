//! Waiting for what must become true.

use std::time::{Duration, Instant};

/// Far longer than anything takes on a machine that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked again.
const INTERVAL: Duration = Duration::from_millis(50);

/// Tries until it works, and panics with the last reason when it does not within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => {
                panic!("not within {PATIENCE:?}: {what}: {reason}");
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}
