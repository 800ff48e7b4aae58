//! **bounded**: no task panics, no node ends by itself, and every request ends by its deadline.

use std::time::Duration;

use crate::client::Failure;

pub(crate) const NAME: &str = "bounded";

/// Whether a request came to an end in time.
pub(crate) fn check<T>(answer: &Result<T, Failure>, now: Duration) -> Option<String> {
    let at = now.as_secs_f64();
    matches!(answer, Err(Failure::Silent)).then(|| format!("a request had no end by {at:.3}"))
}

/// How a run ended: what a node or a client failed with, and how many tasks panicked in it.
pub(crate) fn check_run(end: Result<(), String>, panics: usize) -> Option<String> {
    match end {
        Err(error) => Some(error),
        // A task that panics takes no test down with it by itself.
        Ok(()) if panics > 0 => Some("a task panicked; its message stands above".to_owned()),
        Ok(()) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_panics_are_noticed() {
        let now = Duration::from_secs(1);
        assert!(check(&Err::<(), _>(Failure::Silent), now).is_some());
        assert!(check(&Err::<(), _>(Failure::Broken), now).is_none());
        assert!(check(&Ok(()), now).is_none());
        assert!(check_run(Ok(()), 0).is_none());
        assert!(check_run(Ok(()), 1).is_some());
        assert!(check_run(Err("a node ended".to_owned()), 0).is_some());
    }
}
