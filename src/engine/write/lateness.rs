//! How late a message comes, told by two clocks that do not agree.
//!
//! The sender dates what it sends by the time since it was welcomed, the receiver by the time since it said so. A welcome
//! takes its time as well, so the difference between the two is at least the time that the message was on its way. It
//! grows as clocks drift apart, so the smallest that was seen of late is taken away from it (the delay measure of LEDBAT,
//! RFC 6817).

use std::time::Duration;

use dynakv_protocol::{ErrorCode, ErrorReply};

/// A first attempt of a blind write is begun so long after it was handed on at the latest. Another owner may have been
/// given it since, and clients may have gone on from there: it would replace what they wrote. (A later attempt
/// is known by its id where the first was done, and a write with a context replaces only what that names.)
///
/// Who hands it on waits for longer before another owner gets it.
pub const LATE: Duration = Duration::from_millis(900);

/// What is said of one that was to be begun later.
pub fn refusal() -> ErrorReply {
    let message =
        "it was on its way for so long that it may have been done elsewhere; send it again";
    ErrorReply::new(ErrorCode::Timeout, message).retryable()
}

/// The smallest difference is that of so long a time, in milliseconds, and of the one before. Of a welcome that took long
/// it is known after that; a message that is held takes others before it as its measure.
const WINDOW_MS: i64 = 10_000;

/// What was seen of one connection.
#[derive(Debug)]
pub struct Lateness {
    /// When this window began, by the receiver's clock.
    began_ms: i64,
    /// The smallest difference in it, and in the one before.
    smallest: Option<i64>,
    before: i64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self {
            began_ms: 0,
            // The clocks agree, but for the time of the welcome.
            smallest: Some(0),
            before: 0,
        }
    }
}

impl Lateness {
    /// Takes note of a message, and gives for how many milliseconds it has been on its way, at most. (Less only where all
    /// others were on their way for as long, for two windows.) Both times are in milliseconds since the welcome, each by
    /// its own clock.
    pub fn of(&mut self, sent_ms: u64, now_ms: u64) -> u64 {
        let sent_ms = i64::try_from(sent_ms).unwrap_or(i64::MAX);
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        if now_ms.saturating_sub(self.began_ms) >= WINDOW_MS {
            self.began_ms = now_ms;
            self.before = self.smallest.take().unwrap_or(self.before);
        }
        let difference = now_ms.saturating_sub(sent_ms);
        let known = self.smallest.map_or(self.before, |it| it.min(self.before));
        self.smallest = Some(self.smallest.map_or(difference, |it| it.min(difference)));
        u64::try_from(difference.saturating_sub(known)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_is_late_be_it_the_first_and_nothing_else_is() {
        for first_late in [0, 3_000] {
            let mut lateness = Lateness::default();
            assert_eq!(lateness.of(100, 100 + first_late), first_late);
            assert_eq!(lateness.of(3_000, 3_110), 110);
            assert_eq!(lateness.of(3_300, 6_310), 3_010);
            assert_eq!(lateness.of(6_400, 6_410), 10);
        }
    }

    #[test]
    fn a_welcome_that_was_held_makes_all_late_and_only_for_a_while() {
        let mut lateness = Lateness::default();
        let mut late = |sent| lateness.of(sent, sent + 4_000);
        assert_eq!(late(0), 4_000);
        assert_eq!(late(9_000), 4_000);
        assert_eq!(late(20_000), 0);
    }

    #[test]
    fn clocks_that_drift_are_followed_and_a_long_silence_forgets_nothing() {
        let mut lateness = Lateness::default();
        // One part in a thousand, which is much: a second in 17 minutes.
        for second in 0..4_000 {
            let late = lateness.of(second * 1_000, second * 1_001);
            assert!(late <= 25, "{second}: {late}");
        }
        let late = lateness.of(9_000_000, 9_004_000 + 2_500);
        assert!((2_500..=2_525).contains(&late), "{late}");
    }

    #[test]
    fn no_number_is_too_large() {
        let mut lateness = Lateness::default();
        for (sent, came) in [(u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (0, 0)] {
            lateness.of(sent, came);
        }
    }
}
