//! Who owns a segment: a ring document with its [`Placement`] worked out, and how even it is.

use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_protocol::ids::{NodeId, RingVersion};
pub use dynakv_protocol::placement::MemberIndex;
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::{Member, RingDocument};

#[cfg(test)]
mod tests;

/// A ring document with the owners of every segment worked out. Immutable: share it in an `Arc`.
#[derive(Debug, Clone)]
pub struct Ring {
    document: RingDocument,
    placement: Placement,
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
        let shares = count_shares(&placement, document.members.len());
        Self {
            document,
            placement,
            shares,
        }
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

    /// The owners of a segment in the order of preference: N distinct members, or all when there
    /// are fewer.
    pub fn owners(&self, segment: Segment) -> &[MemberIndex] {
        self.placement.owners(segment)
    }

    /// Whether this member owns the segment.
    pub fn owns(&self, member: MemberIndex, segment: Segment) -> bool {
        self.owners(segment).contains(&member)
    }

    /// Every member that does not own the segment, in the order of the clockwise walk from its
    /// start: who stands in for an owner that is down, nearest first.
    ///
    /// Walks the ring, as far as it is asked to.
    pub fn successors(&self, segment: Segment) -> impl Iterator<Item = MemberIndex> + '_ {
        self.placement.successors(segment)
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

    /// The share of all segments for which this member comes first, in basis points (1/100 %),
    /// rounded. All members together have 10,000, but for rounding; 0 for an index of another ring.
    pub fn primary_share_basis_points(&self, index: MemberIndex) -> u16 {
        self.shares
            .get(index.slot())
            .map_or(0, |share| basis_points(share.first))
    }

    /// The share of all segments of which this member holds a copy, in basis points (1/100 %),
    /// rounded. All members together have N × 10,000, but for rounding; 0 for an index of another
    /// ring.
    pub fn owned_share_basis_points(&self, index: MemberIndex) -> u16 {
        self.shares
            .get(index.slot())
            .map_or(0, |share| basis_points(share.any))
    }
}

fn count_shares(placement: &Placement, members: usize) -> Vec<Share> {
    let mut shares = vec![Share::default(); members];
    for segment in 0..=u16::MAX {
        let owners = placement.owners(Segment(segment));
        for owner in owners {
            shares[owner.slot()].any += 1;
        }
        if let Some(first) = owners.first() {
            shares[first.slot()].first += 1;
        }
    }
    shares
}

/// Segments as a share of the ring in basis points, rounded: at most 10,000.
fn basis_points(segments: u32) -> u16 {
    const ALL: u32 = SEGMENTS as u32;
    u16::try_from((segments * 10_000 + ALL / 2) / ALL).unwrap_or(10_000)
}
