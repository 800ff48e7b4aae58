//! How many lines one place of the program may write into the log.
//!
//! What anybody from outside can cause again and again, a refused connection say, would otherwise fill the disk
//! that the log is on, and hide what matters. So each place has a budget, a token bucket: a burst, and then a
//! line a second. What is left out is counted, and the log says so where it begins and where it ends.

use std::time::Duration;

/// So many lines a place may write at once: a start in a large cluster has one for each member.
pub const BURST_LINES: u32 = 100;

/// How long it takes until a place that has used up its burst may write one more line.
pub const LINE_EVERY: Duration = Duration::from_secs(1);

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is written.
    Written {
        /// So many of the same place were left out before it.
        left_out: u64,
    },
    /// It is left out, the first one since the last that was written.
    FirstLeftOut,
    /// It is left out, as others before it.
    LeftOut,
}

/// The budget of one place.
#[derive(Debug, Clone)]
pub struct LogPace {
    lines: u32,
    /// Since when the next line is being saved up. It only grows.
    since: Duration,
    left_out: u64,
}

impl Default for LogPace {
    fn default() -> Self {
        Self {
            lines: BURST_LINES,
            since: Duration::ZERO,
            left_out: 0,
        }
    }
}

impl LogPace {
    /// A line is to be written at this time, counted from any fixed moment.
    pub fn take(&mut self, now: Duration) -> Verdict {
        let waited = now.saturating_sub(self.since);
        let earned = waited.as_nanos() / LINE_EVERY.as_nanos();
        let room = BURST_LINES - self.lines;
        match u32::try_from(earned) {
            Ok(earned) if earned < room => {
                self.lines += earned;
                self.since += LINE_EVERY * earned;
            }
            // A full budget saves nothing up.
            _ => {
                self.lines = BURST_LINES;
                self.since = self.since.max(now);
            }
        }
        if self.lines == 0 {
            self.left_out += 1;
            return match self.left_out {
                1 => Verdict::FirstLeftOut,
                _ => Verdict::LeftOut,
            };
        }
        self.lines -= 1;
        Verdict::Written {
            left_out: std::mem::take(&mut self.left_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: Verdict = Verdict::Written { left_out: 0 };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_written_and_then_a_line_a_second() {
        let mut pace = LogPace::default();
        for _ in 0..BURST_LINES {
            assert_eq!(pace.take(at(5000)), WRITTEN);
        }
        assert_eq!(pace.take(at(5000)), Verdict::FirstLeftOut);
        assert_eq!(pace.take(at(5999)), Verdict::LeftOut);
        assert_eq!(pace.take(at(6000)), Verdict::Written { left_out: 2 });
        assert_eq!(pace.take(at(6001)), Verdict::FirstLeftOut);
        // Two seconds have been saved up, and no third.
        assert_eq!(pace.take(at(8500)), Verdict::Written { left_out: 1 });
        assert_eq!(pace.take(at(8500)), WRITTEN);
        assert_eq!(pace.take(at(8500)), Verdict::FirstLeftOut);
    }

    #[test]
    fn a_flood_of_an_hour_is_bounded() {
        let mut pace = LogPace::default();
        let written = |verdict: &Verdict| matches!(verdict, Verdict::Written { .. });
        let hour = (0..3_600_000).map(|ms| pace.take(at(ms)));
        let count = hour.filter(written).count();
        assert!(
            (3600..=3600 + BURST_LINES as usize).contains(&count),
            "{count}"
        );
    }

    #[test]
    fn who_is_quiet_saves_up_a_burst_and_no_more() {
        let mut pace = LogPace::default();
        for _ in 0..BURST_LINES {
            assert_eq!(pace.take(at(0)), WRITTEN);
        }
        let days = at(3 * 24 * 3600 * 1000);
        for _ in 0..BURST_LINES {
            assert_eq!(pace.take(days), WRITTEN);
        }
        assert_eq!(pace.take(days), Verdict::FirstLeftOut);
        // A clock that goes back earns nothing.
        assert_eq!(pace.take(at(0)), Verdict::LeftOut);
    }
}
