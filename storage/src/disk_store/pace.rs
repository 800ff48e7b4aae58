//! How fast a checkpoint goes: no faster than it must, so that requests do not feel it.

use std::time::Duration;

/// The pause of a checkpoint that has time.
const PAUSE: Duration = Duration::from_millis(8);

/// How full the active generation may be when the frozen one has to be in the tree, as a part of its bound.
/// The rest is for the sync at the end.
const FILLED_AT_END: f64 = 0.7;

/// How much faster it is at the end than on the average. What is hot is written over before long, and then not carried:
/// so an arc costs the less the later it is come to, and the whole costs less.
const HASTE_AT_END: f64 = 1.5;

/// How far two generations are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// How much of the frozen one is in the tree, from 0 to 1.
    pub(super) carried: f64,
    /// How full the active one is, as a part of its bound.
    pub(super) filled: f64,
}

/// How long a checkpoint pauses after a batch: not at all once it is behind.
pub(super) fn pause(progress: Progress) -> Duration {
    if progress.carried.powf(HASTE_AT_END.recip()) * FILLED_AT_END > progress.filled {
        PAUSE
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_done_before_the_active_generation_is_full() {
        // Whatever the writer's speed: as long as carrying without pauses is faster than filling.
        for fill_per_batch in [0.0001, 0.001, 0.004] {
            let mut progress = Progress {
                carried: 0.0,
                filled: 0.0,
            };
            while progress.carried < 1.0 {
                progress.carried += 0.01;
                let paused = pause(progress);
                // A pause lasts as long as two batches here.
                let batches = if paused.is_zero() { 1.0 } else { 3.0 };
                progress.filled += fill_per_batch * batches;
            }
            assert!(progress.filled < 0.75, "{fill_per_batch}: {progress:?}");
        }
        let behind = Progress {
            carried: 0.5,
            filled: 0.5,
        };
        assert_eq!(pause(behind), Duration::ZERO);
        let idle = Progress {
            carried: 0.1,
            filled: 0.0,
        };
        assert!(!pause(idle).is_zero());
    }
}
