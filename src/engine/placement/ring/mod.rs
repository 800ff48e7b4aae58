//! Who owns a segment: a ring document with its [`Placement`] worked out, and how even it is.

use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_protocol::ids::{NodeId, RingVersion};
pub use dynakv_protocol::placement::MemberIndex;
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::{Change, ChangePhase, Member, RingDocument};

use self::joint::Joint;
use crate::engine::quorum::Sides;

mod joint;
#[cfg(test)]
mod tests;

/// A ring document with the owners of every segment worked out. Immutable: share it in an `Arc`.
#[derive(Debug, Clone)]
pub struct Ring {
    document: RingDocument,
    /// Who is read.
    placement: Placement,
    /// Who is written besides, while the ring changes.
    joint: Option<Joint>,
    /// How many segments each member owns.
    shares: Vec<Share>,
}

/// How many segments one member owns.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    first: u32,
    any: u32,
}

impl Ring {
    /// Works out the owners of all segments.
    ///
    /// Takes the document as it is; its members are in the order of their ids, as every decoded or
    /// decided document has them. A few milliseconds for 20 members.
    pub fn new(document: RingDocument) -> Self {
        let placement = Placement::new(&document);
        let also = Placement::also_written(&document);
        let mut ring = Self {
            joint: also.map(|also| Joint::new(&placement, also)),
            document,
            placement,
            shares: Vec::new(),
        };
        ring.shares = ring.count_shares();
        ring
    }

    /// The document it was made from.
    pub fn document(&self) -> &RingDocument {
        &self.document
    }

    /// The document's version.
    pub fn version(&self) -> RingVersion {
        self.document.version
    }

    /// How many members the ring has.
    pub fn len(&self) -> usize {
        self.document.members.len()
    }

    /// True for a ring without members, which no decided document is.
    pub fn is_empty(&self) -> bool {
        self.document.members.is_empty()
    }

    /// Whoever a segment is written to, in the order of preference: N distinct members, or all when there
    /// are fewer. While the ring changes those that are read come first, and the owners under the other stakes follow.
    pub fn owners(&self, segment: Segment) -> &[MemberIndex] {
        match &self.joint {
            Some(joint) => joint.owners(segment),
            None => self.placement.owners(segment),
        }
    }

    /// Those of them that are read: the first ones.
    pub fn readers(&self, segment: Segment) -> &[MemberIndex] {
        self.placement.owners(segment)
    }

    /// Which places of a segment's owners count for what.
    pub fn sides(&self, segment: Segment) -> Sides {
        // N is at most 32.
        let readers = self.placement.copies() as u8;
        let others = self.joint.as_ref();
        let others = others.map_or(0, |joint| joint.others(segment));
        Sides { readers, others }
    }

    /// The owners under the stakes that are not read; nobody unless the ring changes.
    pub fn others(&self, segment: Segment) -> impl Iterator<Item = MemberIndex> + Clone + '_ {
        let joint = self.joint.iter();
        joint.flat_map(move |joint| joint.also(segment).iter().copied())
    }

    /// Whether a segment is written to this member and not read from it: it gains it, and has not all of it yet, or
    /// loses it.
    pub fn is_only_written(&self, member: MemberIndex, segment: Segment) -> bool {
        let readers = self.placement.copies();
        self.owners(segment)[readers..].contains(&member)
    }

    /// The segments that this member gains by the change that is under way.
    pub fn gained_by(&self, member: MemberIndex) -> impl Iterator<Item = Segment> + '_ {
        let phase = self.document.change().map(|change| change.phase);
        let segments = (0..=u16::MAX).map(Segment);
        segments.filter(move |&segment| match phase {
            None => false,
            Some(ChangePhase::WriteBoth) => self.is_only_written(member, segment),
            Some(ChangePhase::ReadNew) => {
                let mut old = self.others(segment);
                self.readers(segment).contains(&member) && !old.any(|owner| owner == member)
            }
        })
    }

    /// The segments of which this member keeps a copy while the number of copies shrinks. It may be the only one of the
    /// W that is left, so it has to have what any of those acknowledged.
    pub fn topped_up_by(&self, member: MemberIndex) -> impl Iterator<Item = Segment> + '_ {
        // Without that nobody has to look at any segment.
        let looked_at = if self.shrinks() { SEGMENTS } else { 0 };
        let segments = (0..=u16::MAX).map(Segment).take(looked_at);
        segments.filter(move |&segment| {
            let mut others = self.others(segment);
            self.readers(segment).contains(&member) && others.any(|other| other == member)
        })
    }

    /// Whether a key has fewer copies after the change that is under way.
    fn shrinks(&self) -> bool {
        let phase = self.document.change().map(|change| change.phase);
        let copies = (
            self.placement.copies(),
            self.joint.as_ref().map_or(0, Joint::copies),
        );
        match (phase, copies) {
            (None, _) => false,
            (Some(ChangePhase::WriteBoth), (old, new))
            | (Some(ChangePhase::ReadNew), (new, old)) => new < old,
        }
    }

    /// Whether this member has to fetch anything before the new owners are read.
    pub fn must_fetch(&self, member: MemberIndex) -> bool {
        let phase = self.document.change().map(|change| change.phase);
        phase == Some(ChangePhase::WriteBoth)
            && (self.is_anywhere_only_written(member) || self.topped_up_by(member).next().is_some())
    }

    /// Whether this member brings the segment back from the others when it lacks some of it: an owner does, and who
    /// gains it; who loses it needs it no more.
    pub fn rebuilds(&self, member: MemberIndex, segment: Segment) -> bool {
        let phase = self.document.change().map(|change| change.phase);
        let is_read = self.readers(segment).contains(&member);
        is_read || phase == Some(ChangePhase::WriteBoth) && self.owns(member, segment)
    }

    /// Whether there is such a segment.
    pub fn is_anywhere_only_written(&self, member: MemberIndex) -> bool {
        let joint = self.joint.as_ref();
        joint.is_some_and(|joint| joint.is_anywhere_only_written(member))
    }

    /// Whether this member may stand in for owners: during a change one that is to stay and is there already. What is
    /// kept by a member whose joining is given up again would be one copy less.
    pub fn may_stand_in(&self, member: MemberIndex) -> bool {
        let has_stake = self.member(member).weight > 0;
        let is_to_have = |change: &Change| {
            let stake = change.target.get(member.slot());
            stake.is_some_and(|stake| stake.weight > 0)
        };
        has_stake && self.document.change().is_none_or(is_to_have)
    }

    /// Whether this member owns the segment.
    pub fn owns(&self, member: MemberIndex, segment: Segment) -> bool {
        self.owners(segment).contains(&member)
    }

    /// Every member that may stand in and does not own the segment, in the order of the clockwise walk from its
    /// start: who stands in for an owner that is down, nearest first.
    ///
    /// Walks the ring, as far as it is asked to.
    pub fn successors(&self, segment: Segment) -> impl Iterator<Item = MemberIndex> + '_ {
        let successors = self.placement.successors(segment);
        successors.filter(move |&member| {
            self.joint.is_none() || self.may_stand_in(member) && !self.owns(member, segment)
        })
    }

    /// Where the member of this name stands in the document.
    pub fn index_of(&self, id: &NodeId) -> Option<MemberIndex> {
        let members = &self.document.members;
        let at = members.binary_search_by(|member| member.id.cmp(id)).ok()?;
        u16::try_from(at).ok().map(MemberIndex)
    }

    /// The member at this index.
    ///
    /// # Panics
    /// Only for an index of another ring with more members.
    pub fn member(&self, index: MemberIndex) -> &Member {
        &self.document.members[index.slot()]
    }

    fn count_shares(&self) -> Vec<Share> {
        let mut shares = vec![Share::default(); self.len()];
        for segment in 0..=u16::MAX {
            let owners = self.owners(Segment(segment));
            for owner in owners {
                shares[owner.slot()].any += 1;
            }
            if let Some(first) = owners.first() {
                shares[first.slot()].first += 1;
            }
        }
        shares
    }

    /// The share of all segments for which this member comes first, in basis points (1/100 %),
    /// rounded. All members together have 10,000, but for rounding; 0 for an index of another ring.
    pub fn primary_share_basis_points(&self, index: MemberIndex) -> u16 {
        self.shares
            .get(index.slot())
            .map_or(0, |share| basis_points(share.first))
    }

    /// The share of all segments of which this member holds a copy, in basis points (1/100 %),
    /// rounded. All members together have N × 10,000, but for rounding, and more while the ring changes; 0 for
    /// an index of another ring.
    pub fn owned_share_basis_points(&self, index: MemberIndex) -> u16 {
        self.shares
            .get(index.slot())
            .map_or(0, |share| basis_points(share.any))
    }
}

/// Segments as a share of the ring in basis points, rounded: at most 10,000.
fn basis_points(segments: u32) -> u16 {
    const ALL: u32 = SEGMENTS as u32;
    u16::try_from((segments * 10_000 + ALL / 2) / ALL).unwrap_or(10_000)
}
