//! Which members own which segment: the one rule that every node and every client must share.
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

use std::collections::BTreeMap;

use crate::hash::{Position, SEGMENTS, Segment};
use crate::ids::RingVersion;
use crate::ring_document::{ChangePhase, Member, RingDocument};

/// Which member of a ring document: an index into [`RingDocument::members`].
///
/// It means something only together with the document it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIndex(pub u16);

impl MemberIndex {
    /// The index, to look into [`RingDocument::members`] with.
    pub fn slot(self) -> usize {
        usize::from(self.0)
    }
}

/// The preference lists of all segments under one ring document.
///
/// All walks are made once, so looking up a list is an index into one flat array of 65,536 × N
/// entries of two bytes. Two places with the same document have the same table: nothing here depends
/// on anything else.
#[derive(Debug, Clone)]
pub struct Placement {
    version: RingVersion,
    /// Owners per segment.
    copies: usize,
    /// How many members there are, and how many of them have a stake.
    members: usize,
    placed: usize,
    /// The preference lists of all segments, `copies` entries each, one after the other.
    owners: Vec<MemberIndex>,
    /// All virtual nodes by position, ties by node id.
    virtual_nodes: Vec<(Position, MemberIndex)>,
}

impl Placement {
    /// Works out the owners of all segments: those that are read, while the ring changes.
    ///
    /// Takes the document as it is; its members are in the order of their ids, as every decoded or
    /// decided document has them. A few milliseconds for 20 members.
    pub fn new(document: &RingDocument) -> Self {
        Self::of(document, &document.read_members())
    }

    /// Works out the owners that are written as well, though not read. `None` unless the ring changes.
    pub fn also_written(document: &RingDocument) -> Option<Self> {
        let members = document.also_written_members()?;
        Some(Self::of(document, &members))
    }

    /// The owners before the change that is under way, and after it. `None` unless the ring changes.
    pub fn before_and_after(document: &RingDocument) -> Option<(Self, Self)> {
        let phase = document.change()?.phase;
        let (read, also) = (Self::new(document), Self::also_written(document)?);
        Some(match phase {
            ChangePhase::WriteBoth => (read, also),
            ChangePhase::ReadNew => (also, read),
        })
    }

    /// The placement of the document's members with these stakes.
    fn of(document: &RingDocument, members: &[Member]) -> Self {
        let virtual_nodes = place(members);
        let placed = members.iter().filter(|member| member.weight > 0).count();
        let copies = usize::from(document.n).min(placed);
        let owners = preference_lists(members, &virtual_nodes, copies);
        Self {
            version: document.version,
            copies,
            members: members.len(),
            placed,
            owners,
            virtual_nodes,
        }
    }

    /// The version of the document it was made from.
    pub fn version(&self) -> RingVersion {
        self.version
    }

    /// Owners per segment: N, or the number of members when there are fewer.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// The owners of a segment in the order of preference.
    pub fn owners(&self, segment: Segment) -> &[MemberIndex] {
        let start = usize::from(segment.0) * self.copies;
        // In bounds: the table holds `copies` entries for each of the 65,536 segments.
        &self.owners[start..start + self.copies]
    }

    /// The owners of a key in the order of preference.
    pub fn owners_of_key(&self, key: &[u8]) -> &[MemberIndex] {
        self.owners(Segment::of_key(key))
    }

    /// Every member with a stake that does not own the segment, in the order of the clockwise walk from its
    /// start: who stands in for an owner that is down, nearest first.
    ///
    /// Walks the ring, as far as it is asked to: the last of many members are far away.
    pub fn successors(&self, segment: Segment) -> impl Iterator<Item = MemberIndex> + '_ {
        let wanted = self.placed.saturating_sub(self.copies);
        let mut seen = vec![false; self.members];
        for owner in self.owners(segment) {
            seen[owner.slot()] = true;
        }
        let first = first_at(&self.virtual_nodes, segment.start());
        clockwise(&self.virtual_nodes, first)
            .filter(move |member| !std::mem::replace(&mut seen[member.slot()], true))
            // Without an end to it the walk would go around to look for more.
            .take(wanted)
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
        let mut numbers = BTreeMap::new();
        let mut next = || {
            zones += 1;
            zones - 1
        };
        let zone_of = members
            .iter()
            .map(|member| match (member.weight, member.zone.as_str()) {
                // No walk meets it, and its zone is no place for a copy.
                (0, _) => 0,
                (_, "") => next(),
                (_, zone) => *numbers.entry(zone).or_insert_with(&mut next),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::ring_document::Step;
    use crate::{ClusterId, DirectoryId, NodeId};

    use super::*;

    fn document(n: u8, zones: &[&str]) -> RingDocument {
        let mut members: Vec<Member> = zones
            .iter()
            .enumerate()
            .map(|(index, zone)| Member {
                id: NodeId::new(&format!("node-{}", index + 1)).unwrap(),
                address: format!("127.0.0.1:{}", 8080 + index),
                directory_id: DirectoryId(0),
                weight: 1,
                zone: (*zone).to_owned(),
            })
            .collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "dynakv".to_owned(),
            version: RingVersion(4),
            step: Step::Final,
            n,
            w: 1,
            r: 1,
            members,
        }
    }

    /// The rule read off its text: no table, no early end of the walk.
    fn by_the_book(document: &RingDocument, key: &[u8]) -> Vec<MemberIndex> {
        let start = Segment::of_key(key).start();
        let mut nodes: Vec<(bool, Position, MemberIndex)> = Vec::new();
        for (index, member) in document.members.iter().enumerate() {
            for virtual_node in 0..member.virtual_nodes() {
                let position = Position::of_virtual_node(&member.id, virtual_node);
                nodes.push((position < start, position, MemberIndex(index as u16)));
            }
        }
        nodes.sort_unstable();
        let mut order: Vec<MemberIndex> = Vec::new();
        for (_, _, member) in nodes {
            if !order.contains(&member) {
                order.push(member);
            }
        }
        let mut seen = BTreeSet::new();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for member in order {
            let zone = &document.members[member.slot()].zone;
            if zone.is_empty() || seen.insert(zone.clone()) {
                first.push(member);
            } else {
                rest.push(member);
            }
        }
        first.extend(rest);
        first.truncate(document.effective_n());
        first
    }

    #[test]
    fn owners_are_those_of_the_rule() {
        let cases: [(u8, &[&str]); 6] = [
            (3, &[""]),
            (3, &["", "", ""]),
            (3, &[""; 12]),
            (3, &["a", "a", "b", "b", "c", "c"]),
            (3, &["a", "a", "a", "b", "b"]),
            (4, &["a", "", "a", "b", "", "a"]),
        ];
        for (n, zones) in cases {
            let document = document(n, zones);
            let placement = Placement::new(&document);
            for key in 0..2_000_u32 {
                let key = format!("user:{key}");
                assert_eq!(
                    placement.owners_of_key(key.as_bytes()),
                    by_the_book(&document, key.as_bytes()),
                    "{key} with n = {n}, zones {zones:?}"
                );
            }
        }
    }

    #[test]
    fn an_empty_ring_has_no_owners() {
        assert!(
            Placement::new(&document(3, &[]))
                .owners_of_key(b"k")
                .is_empty()
        );
    }

    #[test]
    fn a_virtual_node_on_the_start_of_a_segment_owns_it_and_ties_go_to_the_smaller_index() {
        let (a, b) = (MemberIndex(0), MemberIndex(1));
        let start = Segment(5).start();
        let virtual_nodes = [
            (Position(3), b),
            (start, a),
            (start, b),
            (Position(u64::MAX), b),
        ];
        let walk = |position| clockwise(&virtual_nodes, first_at(&virtual_nodes, position));
        assert_eq!(walk(start).next(), Some(a), "at the position counts");
        assert_eq!(
            walk(Position(start.0 + 1)).next(),
            Some(b),
            "behind it does not"
        );
        assert_eq!(
            walk(Position(4)).collect::<Vec<_>>(),
            [a, b, b, b],
            "one turn, wrapping"
        );
    }
}
