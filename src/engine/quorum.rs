//! Counting answers, as plain data.
//!
//! Replicas are named by their place in the preference list, so that each owner counts once however
//! often it answers.

/// How one request's quorum stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    needed: u8,
    replicas: u8,
    /// Bit i: the i-th owner of the preference list.
    asked: u32,
    granted: u32,
    failed: u32,
}

/// What can be said by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// More answers are needed, and more may come.
    Pending,
    /// Enough have answered.
    Met,
    /// Too many have failed: the rest can't make it up any more.
    Impossible,
}

/// A place in a preference list: 0 is the first owner.
pub type Place = u8;

impl Quorum {
    /// A quorum of `needed` out of the `replicas` owners (at most 32,
    /// [`N_MAX`](dynakv_protocol::ring_document::N_MAX)).
    pub fn new(needed: u8, replicas: u8) -> Self {
        Self {
            needed,
            replicas,
            asked: 0,
            granted: 0,
            failed: 0,
        }
    }

    /// How many must answer.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// How many have answered.
    pub fn got(&self) -> u8 {
        // At most 32 bits are set.
        self.granted.count_ones() as u8
    }

    /// Takes note that this owner was asked.
    pub fn ask(&mut self, place: Place) {
        self.asked |= bit(place);
    }

    /// Whether this owner was asked.
    pub fn was_asked(&self, place: Place) -> bool {
        self.asked & bit(place) != 0
    }

    /// Whether this owner was asked and has neither answered nor failed.
    pub fn awaits(&self, place: Place) -> bool {
        self.asked & !(self.granted | self.failed) & bit(place) != 0
    }

    /// Whether this owner was neither asked nor has answered or failed.
    pub fn is_untouched(&self, place: Place) -> bool {
        (self.asked | self.granted | self.failed) & bit(place) == 0
    }

    /// How many were asked and have not answered.
    pub fn outstanding(&self) -> u8 {
        (self.asked & !(self.granted | self.failed)).count_ones() as u8
    }

    /// Counts an answer. An owner that failed before and answers late counts too.
    pub fn grant(&mut self, place: Place) {
        self.granted |= bit(place);
        self.failed &= !bit(place);
    }

    /// Counts a failure, unless the owner has answered already.
    pub fn fail(&mut self, place: Place) {
        self.failed |= bit(place) & !self.granted;
    }

    /// Somebody else is asked in the place of this owner, which failed or is silent.
    pub fn reopen(&mut self, place: Place) {
        self.asked |= bit(place);
        self.failed &= !bit(place);
    }

    /// Whether this owner has answered.
    pub fn has_granted(&self, place: Place) -> bool {
        self.granted & bit(place) != 0
    }

    /// What can be said by now.
    pub fn outcome(&self) -> Outcome {
        let failed = self.failed.count_ones() as u8;
        if self.got() >= self.needed {
            Outcome::Met
        } else if self.replicas - failed < self.needed {
            Outcome::Impossible
        } else {
            Outcome::Pending
        }
    }

    /// How many more must be asked so that those asked can still make the quorum.
    pub fn lacking(&self) -> u8 {
        self.needed.saturating_sub(self.got() + self.outstanding())
    }
}

/// The bit of a place in a set of places.
pub(super) fn bit(place: Place) -> u32 {
    1_u32.checked_shl(u32::from(place)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_counts_once() {
        let mut quorum = Quorum::new(2, 3);
        quorum.grant(0);
        quorum.grant(0);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        quorum.grant(2);
        assert_eq!(quorum.outcome(), Outcome::Met);
        assert_eq!(quorum.got(), 2);
    }

    #[test]
    fn it_is_impossible_once_too_many_failed() {
        let mut quorum = Quorum::new(2, 3);
        quorum.fail(1);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        quorum.fail(1);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        quorum.fail(2);
        assert_eq!(quorum.outcome(), Outcome::Impossible);
        // A late answer is an answer all the same.
        quorum.grant(2);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        // A failure after an answer takes nothing back.
        quorum.grant(0);
        quorum.fail(0);
        assert_eq!(quorum.outcome(), Outcome::Met);
    }

    #[test]
    fn a_place_counts_once_whoever_fills_it() {
        let mut quorum = Quorum::new(2, 3);
        quorum.ask(0);
        quorum.fail(0);
        quorum.fail(1);
        assert_eq!(quorum.outcome(), Outcome::Impossible);
        quorum.reopen(0);
        assert!(quorum.awaits(0) && quorum.outcome() == Outcome::Pending);
        // The stand-in, and the owner itself, late.
        quorum.grant(0);
        quorum.grant(0);
        assert_eq!(quorum.got(), 1);
        assert!(quorum.has_granted(0) && !quorum.has_granted(2));
        quorum.grant(2);
        assert_eq!(quorum.outcome(), Outcome::Met);
    }

    #[test]
    fn lacking_counts_those_that_still_may_answer() {
        let mut quorum = Quorum::new(2, 3);
        quorum.ask(0);
        quorum.ask(1);
        assert_eq!(quorum.lacking(), 0);
        quorum.fail(1);
        assert_eq!(quorum.lacking(), 1);
        quorum.ask(2);
        assert_eq!(quorum.lacking(), 0);
        assert!(quorum.awaits(2) && !quorum.awaits(1));
    }

    #[test]
    fn every_combination_of_three_agrees_with_plain_counting() {
        for needed in 1..=3_u8 {
            for pattern in 0..27_u32 {
                let mut quorum = Quorum::new(needed, 3);
                let (mut granted, mut failed) = (0, 0);
                for place in 0..3_u8 {
                    match pattern / 3_u32.pow(u32::from(place)) % 3 {
                        1 => {
                            quorum.grant(place);
                            granted += 1;
                        }
                        2 => {
                            quorum.fail(place);
                            failed += 1;
                        }
                        _ => {}
                    }
                }
                let expected = if granted >= needed {
                    Outcome::Met
                } else if 3 - failed < needed {
                    Outcome::Impossible
                } else {
                    Outcome::Pending
                };
                assert_eq!(quorum.outcome(), expected);
            }
        }
    }
}
