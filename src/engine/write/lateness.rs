//! How late a message comes, told by two clocks that do not agree.
//!
//! The sender dates what it sends by the time since it was welcomed, the receiver by the time since it said so. A welcome
//! takes its time as well, so the difference between the two is at least the time that the message was on its way. It
//! changes as clocks drift apart. So what is taken away from it is the smallest difference that was seen (the delay
//! measure of LEDBAT, RFC 6817), which may grow, but only as slowly as clocks drift: messages that are held are not taken
//! for the measure of others.

use dynakv_protocol::{ErrorCode, ErrorReply};

/// What is said of a write that is not begun any more. Whoever handed it on has given it to another owner by now, or is
/// about to, and clients may have gone on from there: it would replace what they wrote. (A write with a context replaces
/// only what that names.)
pub fn refusal() -> ErrorReply {
    let message =
        "it was on its way for so long that it may have been done elsewhere; send it again";
    ErrorReply::new(ErrorCode::Timeout, message).retryable()
}

/// The measure grows by a millisecond in so many. No clock that is of use drifts as fast.
const DRIFT_PER_MS: i64 = 1_000;

/// What was seen of one connection.
#[derive(Debug, Default)]
pub struct Lateness {
    /// The difference of a message that is hardly on its way. At first the clocks agree, but for the time of the welcome.
    smallest: i64,
    /// Until when it has grown, by the receiver's clock.
    grown_until_ms: i64,
}

impl Lateness {
    /// Takes note of a message, and gives for how many milliseconds it has been on its way, at most; by so much less as
    /// the measure may have grown since the last one. Both times are in milliseconds since the welcome, each by its own
    /// clock.
    pub fn of(&mut self, sent_ms: u64, now_ms: u64) -> u64 {
        let sent_ms = i64::try_from(sent_ms).unwrap_or(i64::MAX);
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let growth = now_ms.saturating_sub(self.grown_until_ms).max(0) / DRIFT_PER_MS;
        self.smallest = self.smallest.saturating_add(growth);
        self.grown_until_ms += growth * DRIFT_PER_MS;
        let difference = now_ms.saturating_sub(sent_ms);
        let late = difference.saturating_sub(self.smallest);
        self.smallest = self.smallest.min(difference);
        u64::try_from(late).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_is_late_be_it_the_first_and_whatever_came_before() {
        for first_late in [0, 3_000] {
            let mut lateness = Lateness::default();
            let mut of = |sent, came| lateness.of(sent, came);
            let about = |late: u64, expected: u64| late <= expected && late + 10 >= expected;
            assert!(about(of(100, 100 + first_late), first_late));
            assert!(about(of(4_000, 4_110), 110));
            assert!(about(of(4_300, 7_310), 3_010));
            // Others that were held as long are no measure, however much later they come.
            for minute in 1..10 {
                let sent = minute * 60_000;
                let late = lateness.of(sent, sent + 3_000);
                assert!((2_400..=3_000).contains(&late), "{minute}: {late}");
            }
        }
    }

    #[test]
    fn a_welcome_that_was_held_makes_all_late_and_not_for_ever() {
        let mut lateness = Lateness::default();
        let mut late = |sent| lateness.of(sent, sent + 400);
        assert_eq!(late(0), 400);
        assert_eq!(late(100_000), 300);
        assert_eq!(late(500_000), 0);
    }

    #[test]
    fn clocks_that_drift_are_followed() {
        // A tenth of the growth that is permitted, either way, which is much.
        for drift in [10_001, 9_999] {
            let mut lateness = Lateness::default();
            for second in 1..40_000 {
                let late = lateness.of(second * 1_000, second * drift / 10);
                assert!(late <= 1, "{drift}, {second}: {late}");
            }
            // Two minutes of silence hide no more than a growth of two minutes.
            let now = 40_120_000 * drift / 10_000;
            let late = lateness.of(40_120_000, now + 2_500);
            assert!((2_360..=2_512).contains(&late), "{drift}: {late}");
        }
    }

    #[test]
    fn no_number_is_too_large() {
        let mut lateness = Lateness::default();
        for (sent, came) in [(u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (0, 0)] {
            lateness.of(sent, came);
        }
    }
}
