//! Who owns a segment.
//!
//! Consistent hashing with virtual nodes (Karger et al. 1997), in the form of Dynamo (DeCandia et al.
//! 2007, section 4.2): every member puts 150 virtual nodes per unit of weight on a 64-bit ring. The
//! ring is cut into 65,536 equal segments (Dynamo's third strategy, section 6.2), and a key's owners
//! are those of its segment's *start*: the first virtual node at or after that position, then
//! clockwise, wrapping, until N distinct members are found. Where two virtual nodes share a position
//! the smaller node id comes first.
//!
//! # Zones
//! With zones, the walk passes over members whose zone already has a copy until it has seen min(N,
//! number of zones) zones; when there are fewer zones than N, the members passed over fill the list
//! in the order of the walk. A member without a zone counts as a zone of its own, so without any
//! zones this is the plain walk.
//!
//! # Why a table
//! Placement changes only with the document, so all walks are made once, and looking up a
//! preference list is an index into one flat array. Two nodes with the same document have the same
//! table: nothing here depends on anything else.

use dynakv_protocol::hash::{Position, SEGMENTS, Segment};
use dynakv_protocol::ids::{NodeId, RingVersion};
use dynakv_protocol::ring_document::{Member, RingDocument};
use rustc_hash::FxHashMap;

#[cfg(test)]
mod tests;

/// Which member of the ring's document: an index into [`RingDocument::members`].
///
/// It means something only together with the [`Ring`] it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIndex(pub u16);

impl MemberIndex {
    fn slot(self) -> usize {
        usize::from(self.0)
    }
}

/// A ring document with the owners of every segment worked out. Immutable: share it in an `Arc`.
#[derive(Debug, Clone)]
pub struct Ring {
    document: RingDocument,
    /// Owners per segment.
    copies: usize,
    /// The preference lists of all segments, `copies` entries each, one after the other.
    owners: Vec<MemberIndex>,
    /// All virtual nodes by position, ties by node id.
    virtual_nodes: Vec<(Position, MemberIndex)>,
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
        let virtual_nodes = place(&document.members);
        let placed = document
            .members
            .iter()
            .filter(|member| member.virtual_nodes() > 0)
            .count();
        let copies = document.effective_n().min(placed);
        let owners = preference_lists(&document.members, &virtual_nodes, copies);
        let shares = count_shares(&owners, copies, document.members.len());
        Self {
            document,
            copies,
            owners,
            virtual_nodes,
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
        let start = usize::from(segment.0) * self.copies;
        // In bounds: the table holds `copies` entries for each of the 65,536 segments.
        &self.owners[start..start + self.copies]
    }

    /// Whether this member owns the segment.
    pub fn owns(&self, member: MemberIndex, segment: Segment) -> bool {
        self.owners(segment).contains(&member)
    }

    /// Every member that does not own the segment, in the order of the clockwise walk from its
    /// start: who stands in for an owner that is down, nearest first.
    ///
    /// Walks the ring: work in proportion to the distance, meant for the failure path.
    pub fn successors(&self, segment: Segment) -> Vec<MemberIndex> {
        let wanted = self.len().saturating_sub(self.copies);
        let mut seen = vec![false; self.len()];
        for owner in self.owners(segment) {
            seen[owner.slot()] = true;
        }
        let mut found = Vec::with_capacity(wanted);
        for member in clockwise(
            &self.virtual_nodes,
            first_at(&self.virtual_nodes, segment.start()),
        ) {
            if found.len() == wanted {
                break;
            }
            if !std::mem::replace(&mut seen[member.slot()], true) {
                found.push(member);
            }
        }
        found
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

/// Puts the virtual nodes of all members on the ring.
fn place(members: &[Member]) -> Vec<(Position, MemberIndex)> {
    let mut virtual_nodes = Vec::new();
    for (index, member) in (0..=u16::MAX).zip(members) {
        for virtual_node in 0..member.virtual_nodes() {
            let position = Position::of_virtual_node(&member.id, virtual_node);
            virtual_nodes.push((position, MemberIndex(index)));
        }
    }
    // Members are in the order of their ids, so the index breaks ties as the id would.
    virtual_nodes.sort_unstable();
    virtual_nodes
}

/// The index of the first virtual node at or after a position; the length when the walk wraps.
fn first_at(virtual_nodes: &[(Position, MemberIndex)], start: Position) -> usize {
    virtual_nodes.partition_point(|(position, _)| *position < start)
}

/// The members met on one whole turn, beginning with the virtual node of this index.
fn clockwise(
    virtual_nodes: &[(Position, MemberIndex)],
    first: usize,
) -> impl Iterator<Item = MemberIndex> {
    let (before, after) = virtual_nodes.split_at(first);
    after.iter().chain(before).map(|(_, member)| *member)
}

/// The preference lists of all segments, one after the other.
fn preference_lists(
    members: &[Member],
    virtual_nodes: &[(Position, MemberIndex)],
    copies: usize,
) -> Vec<MemberIndex> {
    let mut owners = Vec::with_capacity(SEGMENTS * copies);
    let mut walk = Walk::new(members, copies);
    let mut first_before = None;
    for segment in 0..=u16::MAX {
        let first = first_at(virtual_nodes, Segment(segment).start());
        // Segments without a virtual node between their starts share one walk; with fewer than
        // 65,536 virtual nodes that is most of them.
        if first_before != Some(first) {
            walk.run(clockwise(virtual_nodes, first));
            first_before = Some(first);
        }
        owners.extend_from_slice(&walk.chosen);
    }
    owners
}

/// The choice of owners along one clockwise walk, with its scratch space kept between walks.
struct Walk {
    copies: usize,
    /// The zone of each member, as a number; members without a zone have one each.
    zone_of: Vec<usize>,
    /// How many distinct zones a list must have before a zone is used twice.
    zones_wanted: usize,
    /// Which walk last met the member or the zone: cheaper than clearing flags.
    member_met: Vec<u32>,
    zone_met: Vec<u32>,
    number: u32,
    chosen: Vec<MemberIndex>,
    passed_over: Vec<MemberIndex>,
}

impl Walk {
    fn new(members: &[Member], copies: usize) -> Self {
        let mut zones = 0;
        let mut numbers = FxHashMap::default();
        let mut next = || {
            zones += 1;
            zones - 1
        };
        let zone_of = members
            .iter()
            .map(|member| match member.zone.as_str() {
                "" => next(),
                zone => *numbers.entry(zone).or_insert_with(&mut next),
            })
            .collect();
        Self {
            copies,
            zone_of,
            zones_wanted: copies.min(zones),
            member_met: vec![0; members.len()],
            zone_met: vec![0; zones],
            number: 0,
            chosen: Vec::with_capacity(copies),
            passed_over: Vec::new(),
        }
    }

    /// Chooses the owners from the members in the order the walk meets them.
    fn run(&mut self, members: impl Iterator<Item = MemberIndex>) {
        // At most 65,536 walks: no overflow, and 0 stands for "never met".
        self.number += 1;
        self.chosen.clear();
        self.passed_over.clear();
        let mut zones_met = 0;
        for member in members {
            let enough = zones_met == self.zones_wanted
                && self.chosen.len() + self.passed_over.len() >= self.copies;
            if enough {
                break;
            }
            if std::mem::replace(&mut self.member_met[member.slot()], self.number) == self.number {
                continue;
            }
            let zone = self.zone_of[member.slot()];
            if std::mem::replace(&mut self.zone_met[zone], self.number) == self.number {
                self.passed_over.push(member);
            } else if self.chosen.len() < self.copies {
                zones_met += 1;
                self.chosen.push(member);
            }
        }
        let missing = self.copies - self.chosen.len();
        self.chosen.extend(self.passed_over.iter().take(missing));
    }
}

fn count_shares(owners: &[MemberIndex], copies: usize, members: usize) -> Vec<Share> {
    let mut shares = vec![Share::default(); members];
    for list in owners.chunks_exact(copies.max(1)) {
        for owner in list {
            shares[owner.slot()].any += 1;
        }
        if let Some(first) = list.first() {
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
