//! When a read asks one owner more than it needs, because those that it asked take long.
//!
//! Hedged requests (Dean and Barroso, *The Tail at Scale*, 2013): one more is asked after what 95 % of
//! reads take, which costs little and cuts off the tail. When everything is slow, one request more for
//! each would make it slower; so hedging has a budget, a small share of the reads. Beyond the budget only
//! the [late rule](Hedging::is_late) is left, and it asks nobody who is as slow as those that are waited for.

use std::time::Duration;

/// After how long one more may be asked. Few steps, so that the reads of each can wait in a queue that is
/// in order by itself.
pub const DELAYS: [Duration; 5] = [
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    LATE,
];

/// From when on a read is late, whatever is expected of whom it asked.
pub const LATE: Duration = Duration::from_millis(50);

/// From when on it is late even if the next owner is as slow.
const LATE_MAX: Duration = Duration::from_secs(1);

/// For latencies that are distributed exponentially, 95 % lie below three times the mean (ln 20 = 2.996).
const MEANS: u32 = 3;

/// Each read earns a tenth of a hedge.
const READS_PER_HEDGE: u32 = 10;

/// How many hedges may be saved up: what a node that freezes leaves waiting at one coordinator.
const HEDGES_MAX: u32 = 100;

/// The budget of one coordinator.
#[derive(Debug)]
pub struct Hedging {
    /// In reads: a hedge costs [`READS_PER_HEDGE`] of them.
    saved: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self {
            saved: HEDGES_MAX * READS_PER_HEDGE,
        }
    }
}

impl Hedging {
    /// A read begins.
    pub fn earn(&mut self) {
        self.saved = (self.saved + 1).min(HEDGES_MAX * READS_PER_HEDGE);
    }

    /// Takes a hedge out of the budget; false when nothing is left.
    #[must_use]
    pub fn spend(&mut self) -> bool {
        match self.saved.checked_sub(READS_PER_HEDGE) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }

    /// After which of the [`DELAYS`] a read asks one more, when this long is expected of the slowest that
    /// it asked.
    pub fn step(expected: Duration) -> usize {
        let after = expected.saturating_mul(MEANS);
        let is_enough = |delay: &Duration| *delay >= after;
        DELAYS
            .iter()
            .position(is_enough)
            .unwrap_or(DELAYS.len() - 1)
    }

    /// Whether a read that waits for this long asks one more without a budget: it would have been
    /// answered twice by now if it had asked that one, so the cluster is not slow, but an owner is. When
    /// it is not late yet, then how long a wait makes it so.
    ///
    /// # Errors
    /// How long a read waits until it is late.
    pub fn is_late(waited: Duration, expected_of_next: Duration) -> Result<(), Duration> {
        let late = expected_of_next.saturating_mul(2).clamp(LATE, LATE_MAX);
        if waited >= late { Ok(()) } else { Err(late) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_delay_follows_the_latency_in_steps() {
        let delay = |us| DELAYS[Hedging::step(Duration::from_micros(us))];
        assert_eq!(delay(0), ms(2));
        assert_eq!(delay(666), ms(2));
        assert_eq!(delay(667), ms(5));
        assert_eq!(delay(4_000), ms(20));
        assert_eq!(delay(10_000), ms(50));
        assert_eq!(delay(u64::MAX), ms(50));
    }

    #[test]
    fn a_tenth_of_the_reads_and_a_burst() {
        let mut hedging = Hedging::default();
        let mut spent = 0;
        while hedging.spend() {
            spent += 1;
        }
        assert_eq!(spent, HEDGES_MAX);
        spent = 0;
        for _ in 0..10_000 {
            hedging.earn();
            spent += u32::from(hedging.spend());
        }
        assert_eq!(spent, 1_000);
        for _ in 0..10_000_000 {
            hedging.earn();
        }
        assert_eq!(hedging.saved, HEDGES_MAX * READS_PER_HEDGE);
    }

    #[test]
    fn beyond_the_budget_only_an_owner_that_should_be_faster_is_asked() {
        assert_eq!(Hedging::is_late(ms(49), ms(1)), Err(ms(50)));
        assert_eq!(Hedging::is_late(ms(50), ms(1)), Ok(()));
        assert_eq!(Hedging::is_late(ms(50), ms(100)), Err(ms(200)));
        assert_eq!(Hedging::is_late(ms(200), ms(100)), Ok(()));
        assert_eq!(Hedging::is_late(ms(1_000), ms(5_000)), Ok(()));
    }
}
