//! What a node has left of segments that it does not own any more, and when that may go.
//!
//! A node that a change of the ring took a segment from may be the only one that has a write: with W = 1 nobody else had
//! to have it. So a key goes only when W owners under the present ring have it as it is here. An owner has it if it said
//! so, or took it, under that very ring, durably, and in one run of its process. Whether it rebuilds the segment itself
//! does not matter: what it lost it lost before, it keeps what it is given, and a read that leaves it out meets another
//! one of the W. It counts as it counts for a write.
//!
//! What counts for one ring says nothing under the next: others may be owners, and this node again one of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dynakv_protocol::RingVersion;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::mend::Listed;
use dynakv_protocol::ring_document::{ChangePhase, Step};

use super::mending::place;
use super::rebuilding::SegmentSet;
use crate::engine::placement::ring::{MemberIndex, Ring};

/// What becomes of what a node holds and does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is handed on and removed.
    Drop,
    /// It is handed on: its node goes, and takes no other part in the ring any more. What it has is left as it is.
    Leave,
}

/// What becomes of left-overs under this ring. Nothing while it changes, because the change may be given up, but for the
/// node that goes once the new owners are read; and nothing in an open ring, which anybody may still join.
pub fn purpose(ring: &Ring, me: Option<MemberIndex>) -> Option<Purpose> {
    let document = ring.document();
    let goes = || me.is_some_and(|me| document.is_leaving(&ring.member(me).id));
    match &document.step {
        Step::Final => Some(Purpose::Drop),
        Step::Changing(change) if change.phase == ChangePhase::ReadNew && goes() => {
            Some(Purpose::Leave)
        }
        Step::Open | Step::Changing(_) => None,
    }
}

/// Which of the segments that a node holds keys of it has merely left: it owns no copy of them that counts, and is to own
/// none. `me` is nothing for a node that is no member any more.
pub fn left_over(ring: &Ring, me: Option<MemberIndex>, held: &SegmentSet) -> SegmentSet {
    let mut left = SegmentSet::default();
    if purpose(ring, me).is_none() {
        return left;
    }
    for segment in held.iter() {
        if me.is_none_or(|me| !ring.readers(segment).contains(&me)) {
            left.insert(segment);
        }
    }
    left
}

/// How many owners must have a key of this segment before it may go: W, or all where there are fewer. Never none, so that
/// where nobody owns the segment nothing goes.
pub fn copies_needed(ring: &Ring, segment: Segment) -> usize {
    let w = usize::from(ring.document().w);
    w.min(ring.readers(segment).len()).max(1)
}

/// Whether so many owners are there. Where they are not nothing can go yet, and handing it on to fewer would have to be
/// looked at again.
pub fn can_go(ring: &Ring, segment: Segment, is_there: impl Fn(MemberIndex) -> bool) -> bool {
    let owners = ring.readers(segment).iter();
    owners.filter(|&&owner| is_there(owner)).count() >= copies_needed(ring, segment)
}

/// Which segments are still to be gone through.
#[derive(Debug, Default)]
pub struct Leftovers {
    ring_version: RingVersion,
    to_do: SegmentSet,
}

impl Leftovers {
    /// Follows a ring; true when it is another one than before. What was to be done under that one is forgotten.
    pub fn follow(&mut self, ring_version: RingVersion) -> bool {
        let is_other = self.ring_version != ring_version;
        if is_other {
            self.ring_version = ring_version;
            self.to_do = SegmentSet::default();
        }
        is_other
    }

    /// Begins to go through all of these.
    pub fn begin(&mut self, left_over: SegmentSet) {
        self.to_do = left_over;
    }

    /// Whether all were gone through.
    pub fn is_over(&self) -> bool {
        self.to_do.is_empty()
    }

    /// How many are still to be gone through.
    pub fn left(&self) -> u32 {
        self.to_do.len()
    }

    /// Takes the next of them, so many at most. They come again with the next [`begin`](Self::begin) if anything of them
    /// is left then.
    pub fn take(&mut self, most: usize) -> Vec<Segment> {
        let taken: Vec<_> = self.to_do.iter().take(most).collect();
        for &segment in &taken {
            self.to_do.remove(segment);
        }
        taken
    }
}

/// Some keys of a segment that is left over, and which owners have them.
#[derive(Debug)]
pub struct Part {
    segment: Segment,
    needed: usize,
    keys: Vec<Key>,
    places: BTreeMap<Bytes, usize>,
}

#[derive(Debug)]
struct Key {
    key: Bytes,
    hash: u64,
    owners: Vec<MemberIndex>,
}

impl Part {
    /// The keys that this node has listed, which no owner has yet as far as is known.
    pub fn new(ring: &Ring, segment: Segment, ours: Listed) -> Self {
        let places = ours.keys.iter().enumerate();
        Self {
            segment,
            needed: copies_needed(ring, segment),
            places: places.map(|(at, it)| (it.key.clone(), at)).collect(),
            keys: ours
                .keys
                .into_iter()
                .map(|listed| Key {
                    key: listed.key,
                    hash: listed.hash,
                    owners: Vec::new(),
                })
                .collect(),
        }
    }

    /// The segment.
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// A key, and the hash of what is stored of it here.
    pub fn key(&self, at: usize) -> (&Bytes, u64) {
        let Key { key, hash, .. } = &self.keys[at];
        (key, *hash)
    }

    /// Whether more owners must have something of it.
    pub fn is_wanting(&self) -> bool {
        (0..self.keys.len()).any(|at| self.lacks_owners(at))
    }

    /// Whether a list of the segment's keys that ends, or goes on behind this key, has all that it has of these.
    pub fn is_within(&self, next: Option<&Bytes>) -> bool {
        match (next, self.keys.last()) {
            (Some(next), Some(last)) => place(next) >= place(&last.key),
            (None, _) | (_, None) => true,
        }
    }

    /// Which keys, of those that more owners must have, are there as they are here.
    pub fn same(&self, theirs: &Listed) -> BTreeSet<usize> {
        let theirs = theirs.keys.iter();
        let same = theirs.filter_map(|listed| {
            let at = *self.places.get(&listed.key)?;
            (self.keys[at].hash == listed.hash && self.lacks_owners(at)).then_some(at)
        });
        same.collect()
    }

    /// Which keys are to be sent to an owner that has these.
    pub fn to_send(&self, same: &BTreeSet<usize>) -> Vec<usize> {
        let keys = 0..self.keys.len();
        keys.filter(|at| self.lacks_owners(*at) && !same.contains(at))
            .collect()
    }

    /// An owner has a key as it is here, durably.
    pub fn has(&mut self, at: usize, owner: MemberIndex) {
        let owners = &mut self.keys[at].owners;
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }

    /// The keys that enough owners have, with the hash of what they have.
    pub fn to_drop(&self) -> Vec<(Bytes, u64)> {
        let keys = 0..self.keys.len();
        keys.filter(|&at| !self.lacks_owners(at))
            .map(|at| (self.keys[at].key.clone(), self.keys[at].hash))
            .collect()
    }

    fn lacks_owners(&self, at: usize) -> bool {
        self.keys[at].owners.len() < self.needed
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ids::{ClusterId, DirectoryId, NodeId};
    use dynakv_protocol::mend::ListedKey;
    use dynakv_protocol::ring_document::{Change, Member, RingDocument, Stake};

    use super::*;

    fn document(members: usize, w: u8) -> RingDocument {
        RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "c".to_owned(),
            version: RingVersion(1),
            step: Step::Final,
            n: 3,
            w,
            r: 2,
            members: (0..members)
                .map(|number| Member {
                    id: NodeId::new(&format!("n-{number}")).unwrap(),
                    directory_id: DirectoryId(number as u64),
                    address: format!("127.0.0.1:{}", 1000 + number),
                    weight: 1,
                    zone: String::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn only_what_is_not_owned_is_left_over_and_only_by_who_goes_while_the_ring_changes() {
        let me = MemberIndex(3);
        let all = SegmentSet::all();
        let ring = Ring::new(document(4, 2));
        let left = left_over(&ring, Some(me), &all);
        assert!(!left.is_empty());
        for segment in all.iter() {
            assert_ne!(left.contains(segment), ring.owns(me, segment));
        }
        // Nothing is left of what is not held.
        assert!(left_over(&ring, Some(me), &SegmentSet::default()).is_empty());
        // Who is no member owns nothing.
        assert_eq!(left_over(&ring, None, &all).len(), all.len());
        // Who owns everything has nothing left over.
        let small = Ring::new(document(3, 2));
        assert!(left_over(&small, Some(MemberIndex(2)), &all).is_empty());

        let stake = |weight| Stake {
            weight,
            zone: String::new(),
        };
        for phase in [ChangePhase::WriteBoth, ChangePhase::ReadNew] {
            let mut changing = document(4, 2);
            changing.step = Step::Changing(Change {
                phase,
                begun_at: RingVersion(1),
                target: [1, 1, 1, 0].map(stake).to_vec(),
                stopped: Vec::new(),
            });
            let changing = Ring::new(changing);
            // Who stays waits for the end, and so does who goes until the others are read.
            assert!(left_over(&changing, Some(MemberIndex(0)), &all).is_empty());
            assert!(left_over(&changing, None, &all).is_empty());
            let hands_on = phase == ChangePhase::ReadNew;
            let expected = hands_on.then_some(Purpose::Leave);
            assert_eq!(purpose(&changing, Some(me)), expected);
            let left = left_over(&changing, Some(me), &all);
            assert_eq!(left.len(), if hands_on { all.len() } else { 0 });
            for segment in left.iter().step_by(97) {
                assert!(!changing.readers(segment).contains(&me));
                assert_eq!(copies_needed(&changing, segment), 2);
            }
        }
        let mut open = document(4, 2);
        open.step = Step::Open;
        assert!(left_over(&Ring::new(open), Some(me), &all).is_empty());
    }

    #[test]
    fn w_owners_are_needed_and_all_where_there_are_fewer_and_never_none() {
        let needed = |members, w| copies_needed(&Ring::new(document(members, w)), Segment(7));
        assert_eq!(needed(4, 1), 1);
        assert_eq!(needed(4, 2), 2);
        assert_eq!(needed(4, 3), 3);
        assert_eq!(needed(2, 3), 2);
        assert_eq!(needed(0, 2), 1);
    }

    #[test]
    fn nothing_is_handed_on_while_too_few_owners_are_there() {
        let ring = Ring::new(document(4, 2));
        let owners = ring.owners(Segment(7)).to_vec();
        let can_go = |there: &[MemberIndex]| can_go(&ring, Segment(7), |it| there.contains(&it));
        assert!(can_go(&owners) && can_go(&owners[1..]));
        assert!(!can_go(&owners[..1]));
        let nobody = Ring::new(document(0, 2));
        assert!(!super::can_go(&nobody, Segment(7), |_| true));
    }

    #[test]
    fn what_is_to_be_done_is_that_of_one_ring() {
        let mut leftovers = Leftovers::default();
        assert!(leftovers.follow(RingVersion(1)) && leftovers.is_over());
        let mut left = SegmentSet::default();
        for number in [3, 1, 2] {
            left.insert(Segment(number));
        }
        leftovers.begin(left);
        assert_eq!(leftovers.take(2), [Segment(1), Segment(2)]);
        assert!(!leftovers.follow(RingVersion(1)) && !leftovers.is_over());
        assert!(leftovers.follow(RingVersion(2)) && leftovers.is_over());
        assert_eq!(leftovers.take(2), []);
    }

    fn listed(keys: &[(&'static str, u64)]) -> Listed {
        let key = |&(key, hash): &(&'static str, u64)| ListedKey {
            key: Bytes::from_static(key.as_bytes()),
            hash,
            versions: Bytes::new(),
        };
        Listed {
            rebuilding: false,
            keys: keys.iter().map(key).collect(),
            next: None,
        }
    }

    fn part(w: u8) -> Part {
        let ring = Ring::new(document(4, w));
        Part::new(&ring, Segment(7), listed(&[("a", 1), ("b", 2), ("c", 3)]))
    }

    /// What an owner has differently it may lack a write of, and is sent as if it had nothing.
    #[test]
    fn a_key_goes_only_when_enough_different_owners_have_it_as_it_is_here() {
        let mut part = part(2);
        let (one, other) = (MemberIndex(0), MemberIndex(1));
        assert!(part.is_wanting() && part.to_drop().is_empty());
        let same = part.same(&listed(&[("a", 1), ("b", 9), ("d", 4)]));
        assert_eq!(same, BTreeSet::from([0]));
        assert_eq!(part.to_send(&same), [1, 2]);
        for at in [0, 1] {
            part.has(at, one);
            part.has(at, one);
        }
        assert!(part.to_drop().is_empty(), "one owner is one copy");
        part.has(0, other);
        assert_eq!(part.to_drop(), [(Bytes::from_static(b"a"), 1)]);
        // The others still have to be somewhere else, and this one need not.
        assert!(part.is_wanting());
        let same = part.same(&listed(&[("a", 1), ("b", 2)]));
        assert_eq!(same, BTreeSet::from([1]));
        assert_eq!(part.to_send(&same), [2]);
        part.has(1, other);
        for owner in [one, other] {
            part.has(2, owner);
        }
        assert_eq!(part.to_drop().len(), 3);
        assert!(!part.is_wanting());
    }

    #[test]
    fn with_w_of_one_an_owner_is_still_needed() {
        let mut part = part(1);
        assert!(part.to_drop().is_empty());
        part.has(1, MemberIndex(2));
        assert_eq!(part.to_drop(), [(Bytes::from_static(b"b"), 2)]);
    }

    #[test]
    fn a_list_has_all_of_a_part_when_it_reaches_as_far() {
        let names = ["a", "b", "c"];
        let mut ordered = names.map(|name| (name, 1));
        ordered.sort_by_key(|(name, _)| place(name.as_bytes()));
        let ring = Ring::new(document(4, 2));
        let part = Part::new(&ring, Segment(7), listed(&ordered[..2]));
        let within =
            |name: &'static str| part.is_within(Some(&Bytes::from_static(name.as_bytes())));
        assert!(!within(ordered[0].0));
        assert!(within(ordered[1].0) && within(ordered[2].0));
        assert!(part.is_within(None));
    }
}
