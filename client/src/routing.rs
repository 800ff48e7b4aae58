//! Which nodes own a key, as the client works it out from the ring document.
//!
//! Every node computes the same owners from the same document: the owners of a key are those of its
//! segment's start, found by walking clockwise over the members' virtual nodes to N distinct members,
//! in distinct zones first. All keys whose segment starts before the same virtual node share one walk,
//! so the table has a row for each virtual node and a lookup is one binary search.

use dynakv_protocol::RingVersion;
use dynakv_protocol::hash::{Position, Segment};
use dynakv_protocol::ring_document::{Member, RingDocument};

/// The owners of every key under one version of the ring.
#[derive(Debug, Clone)]
pub struct Routing {
    version: RingVersion,
    /// Positions of all virtual nodes, ascending.
    positions: Vec<Position>,
    /// For each of them the owners of what lies before it, `copies` entries each.
    owners: Vec<u16>,
    copies: usize,
}

impl Routing {
    /// Works out the owners. Needs memory for N entries per virtual node: about 6 KiB per node of
    /// weight 1.
    pub fn new(document: &RingDocument) -> Self {
        let mut placed = Vec::new();
        for (index, member) in (0..=u16::MAX).zip(&document.members) {
            for virtual_node in 0..member.virtual_nodes() {
                let position = Position::of_virtual_node(&member.id, virtual_node);
                placed.push((position, index));
            }
        }
        // Members are in the order of their ids, so the index breaks ties as the id would.
        placed.sort_unstable();
        let copies = document.effective_n();
        let zones = zones(&document.members);
        let mut owners = Vec::with_capacity(placed.len() * copies);
        for first in 0..placed.len() {
            let (before, after) = placed.split_at(first);
            let walk = after.iter().chain(before).map(|(_, member)| *member);
            owners.extend(preference_list(walk, &zones, copies));
        }
        Self {
            version: document.version,
            positions: placed.into_iter().map(|(position, _)| position).collect(),
            owners,
            copies,
        }
    }

    /// The version of the document it was made from.
    pub fn version(&self) -> RingVersion {
        self.version
    }

    /// The owners of a key, the preferred one first, as indexes into the document's members.
    pub fn owners(&self, key: &[u8]) -> &[u16] {
        self.owners_of_segment(Segment::of_key(key))
    }

    /// The owners of all keys of a segment, the preferred one first.
    pub fn owners_of_segment(&self, segment: Segment) -> &[u16] {
        self.owners_at(segment.start())
    }

    fn owners_at(&self, start: Position) -> &[u16] {
        let first = self.positions.partition_point(|position| *position < start);
        let row = if first == self.positions.len() {
            0
        } else {
            first
        };
        self.owners
            .get(row * self.copies..(row + 1) * self.copies)
            .unwrap_or(&[])
    }
}

/// A number for the zone of each member; a member without a zone is a zone of its own.
fn zones(members: &[Member]) -> Vec<usize> {
    let zone_of = |index: usize, member: &Member| match member.zone.as_str() {
        "" => index,
        zone => members
            .iter()
            .position(|other| other.zone == zone)
            .unwrap_or(index),
    };
    let indexed = members.iter().enumerate();
    indexed
        .map(|(index, member)| zone_of(index, member))
        .collect()
}

/// The first `copies` members of a walk in distinct zones; when there are fewer zones, the members
/// passed over fill the list in the order of the walk.
fn preference_list(
    walk: impl Iterator<Item = u16>,
    zones: &[usize],
    copies: usize,
) -> impl Iterator<Item = u16> {
    let mut distinct_zones = zones.to_vec();
    distinct_zones.sort_unstable();
    distinct_zones.dedup();
    let zones_wanted = copies.min(distinct_zones.len());
    let mut chosen: Vec<u16> = Vec::with_capacity(copies);
    let mut passed_over: Vec<u16> = Vec::new();
    let zone = |member: u16| zones[usize::from(member)];
    for member in walk {
        if chosen.len() == zones_wanted && chosen.len() + passed_over.len() >= copies {
            break;
        }
        if chosen.contains(&member) || passed_over.contains(&member) {
            continue;
        }
        if chosen.len() < zones_wanted && chosen.iter().all(|other| zone(*other) != zone(member)) {
            chosen.push(member);
        } else {
            passed_over.push(member);
        }
    }
    chosen.into_iter().chain(passed_over).take(copies)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dynakv_protocol::ring_document::Step;
    use dynakv_protocol::{ClusterId, DirectoryId, NodeId};

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
    fn by_the_book(document: &RingDocument, key: &[u8]) -> Vec<u16> {
        let start = Segment::of_key(key).start();
        let mut nodes: Vec<(bool, Position, u16)> = Vec::new();
        for (index, member) in document.members.iter().enumerate() {
            for virtual_node in 0..member.virtual_nodes() {
                let position = Position::of_virtual_node(&member.id, virtual_node);
                nodes.push((position < start, position, index as u16));
            }
        }
        nodes.sort_unstable();
        let mut order: Vec<u16> = Vec::new();
        for (_, _, member) in nodes {
            if !order.contains(&member) {
                order.push(member);
            }
        }
        let mut seen = BTreeSet::new();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for member in order {
            let zone = &document.members[usize::from(member)].zone;
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
            let routing = Routing::new(&document);
            for key in 0..2_000_u32 {
                let key = format!("user:{key}");
                assert_eq!(
                    routing.owners(key.as_bytes()),
                    by_the_book(&document, key.as_bytes()),
                    "{key} with n = {n}, zones {zones:?}"
                );
            }
        }
    }

    #[test]
    fn the_walk_wraps_past_the_last_virtual_node() {
        let routing = Routing::new(&document(3, &[""; 5]));
        let last = Position(u64::MAX);
        assert!(routing.positions.iter().all(|position| *position < last));
        assert_eq!(routing.owners_at(last), routing.owners_at(Position(0)));
    }

    #[test]
    fn an_empty_ring_has_no_owners() {
        assert!(Routing::new(&document(3, &[])).owners(b"k").is_empty());
    }
}
