//! Counting answers, as plain data.
//!
//! Replicas are named by their place in the preference list, so that each owner counts once however
//! often it answers. While the ring changes a list has the owners of two rings, and what is written must meet
//! a quorum of each: joint consensus (Ongaro and Ousterhout, 2014, § 6), applied to copies.

/// How one request's quorum stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// Each is to be met. The second has no places unless the ring changes.
    sides: [Side; 2],
    asked: Places,
    granted: Places,
    failed: Places,
}

/// So many of these places must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    places: Places,
    needed: u8,
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

/// A set of places: bit i for the i-th. A list has at most twice
/// [`N_MAX`](dynakv_protocol::ring_document::N_MAX) owners.
pub type Places = u64;

/// Of so many of `n` owners one at least has each write that `w` of them acknowledged.
pub fn copies_that_meet_every_write(n: usize, w: usize) -> usize {
    // Where there are fewer owners than that, all of them had to acknowledge.
    (n + 1).saturating_sub(w.min(n))
}

/// Which places of a preference list count for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// So many owners from the first on are read, and written.
    pub readers: u8,
    /// While the ring changes: the owners under the other stakes, which are written, too. They may be among the
    /// first.
    pub others: Places,
}

impl Sides {
    /// So many owners, of a ring that does not change.
    pub fn of(owners: u8) -> Self {
        Self {
            readers: owners,
            others: 0,
        }
    }

    /// The places of those that are read.
    fn readers(self) -> Places {
        bit(self.readers).wrapping_sub(1)
    }

    /// How many copies a write of this `w` needs at the most: on the side that has more owners.
    pub fn most_needed(self, w: u8) -> u8 {
        w.min(self.readers.max(count(self.others)))
    }
}

impl Side {
    /// `needed`, or all places where there are fewer.
    fn new(places: Places, needed: u8) -> Self {
        Self {
            places,
            needed: needed.min(count(places)),
        }
    }

    fn got(self, granted: Places) -> u8 {
        count(granted & self.places)
    }

    fn missing(self, granted: Places) -> u8 {
        self.needed.saturating_sub(self.got(granted))
    }
}

impl Quorum {
    /// Of a write: so many owners on each side must have it, or all where there are fewer.
    pub fn of_writers(needed: u8, sides: Sides) -> Self {
        Self::new([(sides.readers(), needed), (sides.others, needed)])
    }

    /// Of a read, or of what a write has to hear: so many of the owners that are read, or all where there are fewer.
    pub fn of_readers(needed: u8, sides: Sides) -> Self {
        Self::new([(sides.readers(), needed), (0, 0)])
    }

    fn new(sides: [(Places, u8); 2]) -> Self {
        Self {
            sides: sides.map(|(places, needed)| Side::new(places, needed)),
            asked: 0,
            granted: 0,
            failed: 0,
        }
    }

    /// The same, and at least so many of the owners that are read, though there may be fewer.
    #[must_use]
    pub fn with_readers(mut self, needed: u8) -> Self {
        let [readers, _] = &mut self.sides;
        readers.needed = readers.needed.max(needed);
        self
    }

    /// The side that lacks most.
    fn lagging(&self) -> Side {
        let [readers, others] = self.sides;
        match others.missing(self.granted) > readers.missing(self.granted) {
            true => others,
            false => readers,
        }
    }

    /// The bit of a place, if it counts for anything.
    fn counted(&self, place: Place) -> Places {
        let [readers, others] = self.sides;
        bit(place) & (readers.places | others.places)
    }

    /// How many must answer, where most are lacking.
    pub fn needed(&self) -> u8 {
        self.lagging().needed
    }

    /// How many have answered, where most are lacking.
    pub fn got(&self) -> u8 {
        self.lagging().got(self.granted)
    }

    /// Takes note that this owner was asked.
    pub fn ask(&mut self, place: Place) {
        self.asked |= self.counted(place);
    }

    /// Whether this owner was asked.
    pub fn was_asked(&self, place: Place) -> bool {
        self.asked & bit(place) != 0
    }

    /// Whether this owner was asked and has neither answered nor failed.
    pub fn awaits(&self, place: Place) -> bool {
        self.asked & !(self.granted | self.failed) & bit(place) != 0
    }

    /// Whether this owner counts, and was neither asked nor has answered or failed.
    pub fn is_untouched(&self, place: Place) -> bool {
        self.counted(place) & !(self.asked | self.granted | self.failed) != 0
    }

    /// How many were asked and have not answered.
    pub fn outstanding(&self) -> u8 {
        count(self.asked & !(self.granted | self.failed))
    }

    /// Counts an answer. An owner that failed before and answers late counts too.
    pub fn grant(&mut self, place: Place) {
        self.granted |= self.counted(place);
        self.failed &= !bit(place);
    }

    /// Counts a failure, unless the owner has answered already.
    pub fn fail(&mut self, place: Place) {
        self.failed |= self.counted(place) & !self.granted;
    }

    /// Somebody else is asked in the place of this owner, which failed or is silent.
    pub fn reopen(&mut self, place: Place) {
        self.asked |= self.counted(place);
        self.failed &= !bit(place);
    }

    /// Whether this owner has answered.
    pub fn has_granted(&self, place: Place) -> bool {
        self.granted & bit(place) != 0
    }

    /// Whether those at these places would do.
    pub fn is_met_by(&self, granted: Places) -> bool {
        self.sides.iter().all(|side| side.missing(granted) == 0)
    }

    /// What can be said by now.
    pub fn outcome(&self) -> Outcome {
        let is_lost = |side: &Side| count(side.places & !self.failed) < side.needed;
        if self.is_met_by(self.granted) {
            Outcome::Met
        } else if self.sides.iter().any(is_lost) {
            Outcome::Impossible
        } else {
            Outcome::Pending
        }
    }

    /// How many more must be asked so that those asked can still make the quorum.
    pub fn lacking(&self) -> u8 {
        let hoped_for = self.granted | self.asked & !self.failed;
        let [readers, others] = self.sides;
        readers.missing(hoped_for).max(others.missing(hoped_for))
    }
}

/// The bit of a place in a set of places.
pub(super) fn bit(place: Place) -> Places {
    1_u64.checked_shl(u32::from(place)).unwrap_or(0)
}

fn count(places: Places) -> u8 {
    // At most 64 bits are set.
    places.count_ones() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(needed: u8) -> Quorum {
        Quorum::of_writers(needed, Sides::of(3))
    }

    #[test]
    fn an_owner_counts_once() {
        let mut quorum = three(2);
        quorum.grant(0);
        quorum.grant(0);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        quorum.grant(2);
        assert_eq!(quorum.outcome(), Outcome::Met);
        assert_eq!(quorum.got(), 2);
    }

    #[test]
    fn it_is_impossible_once_too_many_failed() {
        let mut quorum = three(2);
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
        let mut quorum = three(2);
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
        let mut quorum = three(2);
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
                let mut quorum = three(needed);
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

    /// A, B and C are to become A, B and D: the list is A, B, C, D while the old ones are read.
    const ONE_FOR_ANOTHER: Sides = Sides {
        readers: 3,
        others: 0b1011,
    };

    #[test]
    fn a_write_meets_a_quorum_of_the_old_owners_and_one_of_the_new() {
        let mut quorum = Quorum::of_writers(2, ONE_FOR_ANOTHER);
        quorum.grant(0);
        quorum.grant(3);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        assert_eq!((quorum.needed(), quorum.got()), (2, 1), "of the old ones");
        quorum.grant(2);
        assert_eq!(quorum.outcome(), Outcome::Met);
        let mut quorum = Quorum::of_writers(2, ONE_FOR_ANOTHER);
        quorum.grant(0);
        quorum.grant(2);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        quorum.fail(1);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        assert_eq!(quorum.lacking(), 1, "one of the new ones");
        quorum.fail(3);
        assert_eq!(quorum.outcome(), Outcome::Impossible);
    }

    #[test]
    fn a_read_counts_none_but_the_owners_that_are_read() {
        let mut quorum = Quorum::of_readers(2, ONE_FOR_ANOTHER);
        quorum.ask(3);
        quorum.grant(3);
        assert_eq!((quorum.got(), quorum.outstanding()), (0, 0));
        assert!(!quorum.is_untouched(3) && quorum.is_untouched(2));
        quorum.grant(0);
        quorum.fail(1);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        quorum.fail(2);
        assert_eq!(quorum.outcome(), Outcome::Impossible);
    }

    /// One owner becomes three: of one the write can't ask two.
    #[test]
    fn a_side_with_fewer_owners_is_met_by_all_of_them() {
        let sides = Sides {
            readers: 1,
            others: 0b111,
        };
        assert_eq!(sides.most_needed(2), 2);
        let mut quorum = Quorum::of_writers(2, sides);
        quorum.grant(1);
        quorum.grant(2);
        assert_eq!(quorum.outcome(), Outcome::Pending);
        assert_eq!((quorum.needed(), quorum.got()), (1, 0));
        quorum.grant(0);
        assert_eq!(quorum.outcome(), Outcome::Met);
        let too_few = Quorum::of_writers(1, sides).with_readers(2);
        assert_eq!(too_few.outcome(), Outcome::Impossible);
    }

    /// The two largest lists that can meet: no owner is in both.
    #[test]
    fn thirty_two_owners_and_as_many_others_are_counted() {
        let sides = Sides {
            readers: 32,
            others: u64::MAX << 32,
        };
        let mut quorum = Quorum::of_writers(32, sides);
        for place in 0..64 {
            assert_eq!(quorum.outcome(), Outcome::Pending);
            quorum.grant(place);
        }
        assert_eq!(quorum.outcome(), Outcome::Met);
        quorum.grant(64);
        assert_eq!(Sides::of(32).readers(), u64::from(u32::MAX));
    }

    /// Held against the sentence it is made from: W of each side.
    #[test]
    fn every_combination_on_two_sides_agrees_with_plain_counting() {
        for (readers, others) in (1..=3_u8).flat_map(|r| (1..32_u64).map(move |o| (r, o))) {
            let sides = Sides { readers, others };
            let both = [bit(readers) - 1, others];
            let all = both[0] | both[1];
            for (needed, pattern) in (1..=3_u8).flat_map(|n| (0..243_u32).map(move |p| (n, p))) {
                let mut quorum = Quorum::of_writers(needed, sides);
                let (mut granted, mut failed) = (0_u64, 0_u64);
                for place in 0..5_u8 {
                    match pattern / 3_u32.pow(u32::from(place)) % 3 {
                        1 => {
                            quorum.grant(place);
                            granted |= bit(place) & all;
                        }
                        2 => {
                            quorum.fail(place);
                            failed |= bit(place) & all;
                        }
                        _ => {}
                    }
                }
                let need = |side: u64| u32::from(needed).min(side.count_ones());
                let is_met = |side: &u64| (granted & side).count_ones() >= need(*side);
                let is_lost = |side: &u64| (side & !failed).count_ones() < need(*side);
                let expected = match (both.iter().all(is_met), both.iter().any(is_lost)) {
                    (true, _) => Outcome::Met,
                    (_, true) => Outcome::Impossible,
                    (_, false) => Outcome::Pending,
                };
                assert_eq!(quorum.outcome(), expected, "{sides:?} {needed} {pattern}");
            }
        }
    }
}
