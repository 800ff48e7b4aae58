//! How many owners were given a request and may have acted on it.
//!
//! A write that is handed on to one owner after the other keeps its id, so what two of them wrote is one
//! write. But what a later one says, or this node when it takes over, is no word about an earlier one: that
//! may have written it and be unable to say so.

use dynakv_protocol::ErrorReply;

/// The owners that were given one request and have not said that they left it alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts(u8);

impl Attempts {
    /// One more owner is given it.
    pub fn begin(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    /// The owner that was given it last has certainly not acted on it.
    pub fn take_back(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// Whether some owner may have acted on it.
    pub fn any(self) -> bool {
        self.0 > 0
    }

    /// Whether some owner before the one that was given it last may have.
    pub fn any_earlier(self) -> bool {
        self.0 > 1
    }

    /// What its client is told of a write that failed here, after owners before were given it.
    pub fn in_doubt(self, mut error: ErrorReply) -> ErrorReply {
        if self.any() && !error.maybe_applied {
            error.maybe_applied = true;
            error.message += "; but another owner was asked before, did not answer in time, \
                              and may have written it";
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ErrorCode;

    use super::*;

    #[test]
    fn only_who_was_given_it_and_did_not_leave_it_alone_counts() {
        let mut attempts = Attempts::default();
        assert!(!attempts.any());
        attempts.begin();
        assert!(attempts.any() && !attempts.any_earlier());
        attempts.begin();
        assert!(attempts.any_earlier());
        attempts.take_back();
        attempts.take_back();
        assert_eq!(attempts, Attempts::default());
        attempts.take_back();
        assert_eq!(attempts, Attempts::default());
    }

    #[test]
    fn a_failure_after_an_attempt_says_that_it_may_have_been_written() {
        let error = || ErrorReply::new(ErrorCode::QuorumUnavailable, "two owners are away");
        let mut attempts = Attempts::default();
        assert_eq!(attempts.in_doubt(error()), error());
        attempts.begin();
        let doubtful = attempts.in_doubt(error());
        assert!(doubtful.maybe_applied && doubtful.message.contains("may have written it"));
        // Who has said so already does not say it twice.
        let said = error().maybe_applied(true);
        assert_eq!(attempts.in_doubt(said.clone()), said);
    }
}
