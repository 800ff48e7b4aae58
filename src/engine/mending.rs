//! Where two replicas differ, and when one that lost data has it back.
//!
//! A page is 256 segments; its hash is the XOR of theirs, and a segment belongs to a comparison if both
//! nodes own it. See [`dynakv_protocol::mend`].

use std::cmp::Ordering;

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};
use dynakv_protocol::mend::{Compared, ListedKey, PAGE_SEGMENTS};

use super::rebuilding::SegmentSet;
use super::ring::{MemberIndex, Ring};

/// The hashes that a node answers: of all pages, or of one page's segments.
pub fn compared(
    ring: &Ring,
    members: (MemberIndex, MemberIndex),
    page: Option<u8>,
    rebuilding: &SegmentSet,
    hash_of: impl Fn(Segment) -> u128,
) -> Compared {
    let mut compared = Compared {
        hashes: vec![0; PAGE_SEGMENTS],
        rebuilding: [0; PAGE_SEGMENTS / 8],
    };
    let pages = page.map_or(0..=u8::MAX, |page| page..=page);
    for segment in pages.flat_map(segments_of_page) {
        if !(ring.owns(members.0, segment) && ring.owns(members.1, segment)) {
            continue;
        }
        let number = usize::from(match page {
            Some(_) => segment.0 % PAGE_SEGMENTS as u16,
            None => segment.0 / PAGE_SEGMENTS as u16,
        });
        compared.hashes[number] ^= hash_of(segment);
        if rebuilding.contains(segment) {
            compared.rebuilding[number / 8] |= 1 << (number % 8);
        }
    }
    compared
}

/// The segments of a page.
pub fn segments_of_page(page: u8) -> impl Iterator<Item = Segment> {
    let first = u16::from(page) * PAGE_SEGMENTS as u16;
    (first..=first + (PAGE_SEGMENTS as u16 - 1)).map(Segment)
}

/// The places at which two lists of hashes differ.
pub fn differing(ours: &Compared, theirs: &Compared) -> Vec<u8> {
    (0..=u8::MAX)
        .filter(|&place| {
            let place = usize::from(place);
            ours.hashes.get(place) != theirs.hashes.get(place)
        })
        .collect()
}

/// What two replicas have to tell each other about the keys of a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that the other one has, and has differently or alone.
    pub to_fetch: Vec<Bytes>,
    /// Keys that only this one has.
    pub to_send: Vec<Bytes>,
}

/// Compares two lists of keys in ring order.
///
/// A list may end before the segment does: what lies behind the end of a list that goes on is left to the
/// next part of it. `true` for a list that is complete.
pub fn difference(ours: (&[ListedKey], bool), theirs: (&[ListedKey], bool)) -> Difference {
    let mut difference = Difference::default();
    let (mut our_keys, mut their_keys) = (ours.0.iter().peekable(), theirs.0.iter().peekable());
    loop {
        let order = match (our_keys.peek(), their_keys.peek()) {
            (Some(our), Some(their)) => place(&our.key).cmp(&place(&their.key)),
            (Some(_), None) if theirs.1 => Ordering::Less,
            (None, Some(_)) if ours.1 => Ordering::Greater,
            _ => return difference,
        };
        match order {
            Ordering::Less => difference
                .to_send
                .extend(our_keys.next().map(|it| it.key.clone())),
            Ordering::Greater => difference
                .to_fetch
                .extend(their_keys.next().map(|it| it.key.clone())),
            Ordering::Equal => {
                if let (Some(our), Some(their)) = (our_keys.next(), their_keys.next())
                    && our.hash != their.hash
                {
                    difference.to_fetch.push(their.key.clone());
                }
            }
        }
    }
}

fn place(key: &[u8]) -> (Position, &[u8]) {
    (Position::of_key(key), key)
}

/// From how many other owners a segment must be fetched until its reads count again: so many that every
/// write acknowledged by the smallest quorum promised, `w` of `n`, is at one of them even if this node's
/// copy was one of the w. With w = 1 no number is enough; then all others are asked.
pub fn sources_needed(n: usize, w: usize) -> usize {
    let others = n.saturating_sub(1);
    (n + 1).saturating_sub(w).min(others)
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ids::{ClusterId, DirectoryId, NodeId, RingVersion};
    use dynakv_protocol::ring_document::{Member, RingDocument, Step};

    use super::*;

    fn ring(members: usize) -> Ring {
        Ring::new(RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "c".to_owned(),
            version: RingVersion(1),
            step: Step::Final,
            n: 3,
            w: 2,
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
        })
    }

    #[test]
    fn only_what_both_own_is_compared_and_a_change_is_found() {
        let ring = ring(6);
        let members = (MemberIndex(0), MemberIndex(3));
        let is_shared = |segment| ring.owns(members.0, segment) && ring.owns(members.1, segment);
        let shared = (0..=u16::MAX)
            .map(Segment)
            .find(|&it| is_shared(it))
            .unwrap();
        let other = (0..=u16::MAX)
            .map(Segment)
            .find(|&it| !is_shared(it))
            .unwrap();
        let same = |segment: Segment| u128::from(segment.0) + 1;
        let changed = |segment: Segment| match segment {
            it if it == shared || it == other => 0,
            it => same(it),
        };
        let none = SegmentSet::default();
        let [ours, theirs] = [
            compared(&ring, members, None, &none, same),
            compared(&ring, (members.1, members.0), None, &none, changed),
        ];
        let page = (shared.0 >> 8) as u8;
        assert_eq!(differing(&ours, &theirs), [page]);
        let mut lost = SegmentSet::default();
        lost.insert(shared);
        let ours = compared(&ring, members, Some(page), &none, same);
        let theirs = compared(&ring, members, Some(page), &lost, changed);
        let number = shared.0 as u8;
        assert_eq!(differing(&ours, &theirs), [number]);
        assert!(theirs.is_rebuilding(usize::from(number)));
        assert!(!ours.is_rebuilding(usize::from(number)));
    }

    fn listed(keys: &[(&'static str, u64)]) -> Vec<ListedKey> {
        let listed = |&(key, hash): &(&'static str, u64)| ListedKey {
            key: Bytes::from_static(key.as_bytes()),
            hash,
            versions: Bytes::new(),
        };
        let mut keys: Vec<_> = keys.iter().map(listed).collect();
        keys.sort_by(|a, b| place(&a.key).cmp(&place(&b.key)));
        keys
    }

    #[test]
    fn keys_that_differ_are_fetched_and_those_of_one_side_sent() {
        let ours = listed(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let theirs = listed(&[("a", 1), ("b", 2), ("e", 1)]);
        let mut found = difference((&ours, true), (&theirs, true));
        found.to_fetch.sort();
        found.to_send.sort();
        assert_eq!(found.to_fetch, ["b", "e"]);
        assert_eq!(found.to_send, ["c", "d"]);
        assert_eq!(
            difference((&ours, true), (&ours, true)),
            Difference::default()
        );
        let nothing = difference((&[], true), (&[], true));
        assert_eq!(nothing, Difference::default());
    }

    #[test]
    fn what_lies_behind_an_unfinished_list_is_left_to_its_next_part() {
        let all = listed(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let (first, rest) = all.split_at(2);
        let part = difference((&all, true), (first, false));
        assert_eq!(part, Difference::default());
        let part = difference((rest, true), (rest, true));
        assert_eq!(part, Difference::default());
        assert_eq!(difference((first, true), (&all, true)).to_fetch.len(), 2);
    }

    #[test]
    fn enough_sources_are_asked_to_meet_every_write_quorum() {
        assert_eq!(sources_needed(3, 2), 2);
        assert_eq!(sources_needed(3, 3), 1);
        assert_eq!(sources_needed(3, 1), 2);
        assert_eq!(sources_needed(5, 3), 3);
        assert_eq!(sources_needed(2, 2), 1);
        assert_eq!(sources_needed(1, 1), 0);
    }
}
