//! From whom a segment that was lost has come back, and when that is enough.
//!
//! What an owner gave stays given: it was at a moment after the loss, and what was acknowledged since has
//! come to this node as to any owner, or lacks here as at any owner that missed a write. So it does not
//! matter whether that owner is still there, or has lost everything meanwhile; the others may come one
//! after the other. Only a loss at this node takes away what was given.

use std::collections::BTreeMap;

use dynakv_protocol::RingVersion;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::mend::Compared;

use crate::engine::placement::ring::{MemberIndex, Ring};
use crate::engine::quorum::copies_that_meet_every_write;

/// What a member that fetches a segment has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// What it is given: it is none of the owners that are read.
    Nothing,
    /// It is one of them, and has lost something.
    Lost,
    /// It is one of them, and has what it ever acknowledged.
    Whole,
}

/// From how many other owners a segment must be fetched, of the `n` that are read, until every write acknowledged by the
/// smallest quorum promised, `w` of them, is at one of those or here.
///
/// Whoever is one of the n itself fetches from the others. If its own lost copy was one of the w that is as many: it
/// lacks one fewer. But with w = 1 no number is enough, and then all others are asked.
fn sources_needed(n: usize, w: usize, own: Own) -> usize {
    let needed = copies_that_meet_every_write(n, w);
    match own {
        Own::Nothing => needed,
        Own::Lost => needed.min(n.saturating_sub(1)),
        Own::Whole => needed.saturating_sub(1),
    }
}

/// From how many of the owners that are read a member must fetch a segment, that it lost or gains, or of which there are
/// to be fewer copies. `None` for who lost something and is the only one of them: there is nobody to bring it back from.
///
/// Who is gone for good gives nothing to who gains it: an operator has accepted that. What was lost, too, comes back
/// without it by a word of its own.
pub fn needed(ring: &Ring, member: MemberIndex, segment: Segment, has_lost: bool) -> Option<usize> {
    let readers = ring.readers(segment);
    let own = match (readers.contains(&member), has_lost) {
        (false, _) => Own::Nothing,
        (true, true) => Own::Lost,
        (true, false) => Own::Whole,
    };
    let w = usize::from(ring.document().w);
    let needed = sources_needed(readers.len(), w, own);
    match own {
        Own::Lost => Some(needed).filter(|_| readers.len() > 1),
        Own::Nothing | Own::Whole => {
            let is_there = |&&other: &&MemberIndex| {
                other != member && !ring.document().is_stopped(&ring.member(other).id)
            };
            Some(needed.min(readers.iter().filter(is_there).count()))
        }
    }
}

/// What is to be fetched of a segment from an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing, and with that it has given all it has.
    HasNone,
    /// All it has; then it has given that.
    All,
    /// What it still has, which may not be all it had: it counts for nothing.
    Rest,
    /// Nothing for now: it is no source.
    Nothing,
    /// Nothing: it does not own the segment, as it says, and what it does not have says nothing.
    NotOwned,
}

impl Wanted {
    /// Of the segment with this number in its page, from an owner that has answered so: it may have nothing there, or
    /// have lost versions there itself. Before this node gives up what it lost it takes what is left of that anywhere.
    pub fn of(theirs: &Compared, number: usize, accept_loss: bool) -> Self {
        if !theirs.is_shared(number) {
            return Self::NotOwned;
        }
        let is_empty = theirs.hashes.get(number) == Some(&0);
        match (theirs.is_rebuilding(number), is_empty) {
            (false, true) => Self::HasNone,
            (false, false) => Self::All,
            (true, false) if accept_loss => Self::Rest,
            (true, _) => Self::Nothing,
        }
    }
}

/// Which members have given all they have of which segments.
#[derive(Debug, Default)]
pub struct Sources {
    ring_version: RingVersion,
    given: BTreeMap<Segment, Vec<MemberIndex>>,
}

impl Sources {
    /// Follows a ring. With another one other members may be owners.
    pub fn follow(&mut self, ring_version: RingVersion) {
        if self.ring_version != ring_version {
            self.ring_version = ring_version;
            self.given.clear();
        }
    }

    /// Takes note that a member has given all it has; false when it had before.
    pub fn give(&mut self, segment: Segment, member: MemberIndex) -> bool {
        let given = self.given.entry(segment).or_default();
        let is_news = !given.contains(&member);
        if is_news {
            given.push(member);
        }
        is_news
    }

    /// Whether a member has given all it has.
    pub fn has_given(&self, segment: Segment, member: MemberIndex) -> bool {
        let given = self.given.get(&segment);
        given.is_some_and(|given| given.contains(&member))
    }

    /// Forgets what was given for a segment: it is whole, or more of it was lost.
    pub fn forget(&mut self, segment: Segment) {
        self.given.remove(&segment);
    }

    /// Whether enough was given for a segment, of which so many have to: see [`needed`].
    pub fn is_whole(&self, segment: Segment, needed: Option<usize>) -> bool {
        let given = self.given.get(&segment).map_or(0, Vec::len);
        // Alone, there is nobody to bring it back: that takes an operator's word.
        needed.is_some_and(|needed| given >= needed)
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::mend::PAGE_SEGMENTS;

    use super::*;

    #[test]
    fn enough_sources_are_asked_to_meet_every_write_quorum() {
        for (n, w, lost, nothing, whole) in [
            (3, 2, 2, 2, 1),
            (3, 3, 1, 1, 0),
            // Who is none of the owners can ask all of them, the one that has the write among them.
            (3, 1, 2, 3, 2),
            (5, 3, 3, 3, 2),
            (2, 2, 1, 1, 0),
            // A ring of two members that was promised three copies.
            (2, 3, 1, 1, 0),
            (1, 1, 0, 1, 0),
        ] {
            assert_eq!(sources_needed(n, w, Own::Lost), lost, "{n} {w}");
            assert_eq!(sources_needed(n, w, Own::Nothing), nothing, "{n} {w}");
            assert_eq!(sources_needed(n, w, Own::Whole), whole, "{n} {w}");
        }
    }

    /// An answer of a page in whose segment 9 there is something, or nothing.
    fn answer(is_empty: bool, is_rebuilding: bool) -> Compared {
        let mut compared = Compared {
            hashes: vec![0; PAGE_SEGMENTS],
            rebuilding: [0; PAGE_SEGMENTS / 8],
            not_shared: [0; PAGE_SEGMENTS / 8],
        };
        compared.hashes[9] = u128::from(!is_empty);
        compared.rebuilding[1] = u8::from(is_rebuilding) << 1;
        compared
    }

    #[test]
    fn what_one_has_that_lost_some_itself_is_taken_only_before_it_is_given_up() {
        let of = |is_empty, is_rebuilding, accept_loss| {
            Wanted::of(&answer(is_empty, is_rebuilding), 9, accept_loss)
        };
        for accept_loss in [false, true] {
            assert_eq!(of(true, false, accept_loss), Wanted::HasNone);
            assert_eq!(of(false, false, accept_loss), Wanted::All);
            assert_eq!(of(true, true, accept_loss), Wanted::Nothing);
        }
        assert_eq!(of(false, true, false), Wanted::Nothing);
        assert_eq!(of(false, true, true), Wanted::Rest);
    }

    #[test]
    fn who_does_not_own_a_segment_is_no_empty_source_of_it() {
        for is_empty in [true, false] {
            let mut theirs = answer(is_empty, false);
            theirs.not_shared[1] = 1 << 1;
            assert_eq!(Wanted::of(&theirs, 9, true), Wanted::NotOwned);
            assert_eq!(Wanted::of(&theirs, 8, true), Wanted::HasNone);
        }
    }

    #[test]
    fn sources_may_give_one_after_the_other_and_count_once() {
        let mut sources = Sources::default();
        let (segment, other) = (Segment(7), Segment(8));
        sources.follow(RingVersion(1));
        assert!(sources.give(segment, MemberIndex(1)));
        assert!(!sources.give(segment, MemberIndex(1)));
        assert!(!sources.is_whole(segment, Some(2)));
        sources.follow(RingVersion(1));
        assert!(sources.has_given(segment, MemberIndex(1)));
        sources.give(segment, MemberIndex(2));
        assert!(sources.is_whole(segment, Some(2)) && !sources.is_whole(other, Some(2)));
        sources.forget(segment);
        assert!(!sources.is_whole(segment, Some(2)));
        assert!(!sources.is_whole(segment, None), "there is nobody");
        sources.give(other, MemberIndex(1));
        sources.follow(RingVersion(2));
        assert!(!sources.has_given(other, MemberIndex(1)));
    }
}
