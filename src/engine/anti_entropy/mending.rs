//! Where two replicas differ.
//!
//! A page is 256 segments; its hash is the XOR of theirs, and a segment belongs to a comparison if both
//! nodes own it. See [`dynakv_protocol::mend`].

use std::cmp::Ordering;

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment, versions_hash};
use dynakv_protocol::mend::{Compared, Listed, ListedKey, PAGE_SEGMENTS};

use super::rebuilding::SegmentSet;
use crate::engine::placement::ring::{MemberIndex, Ring};

/// The hashes that a node answers: of all pages, or of one page's segments. `members` are this node and
/// who asks; `doubts` are the segments that this node rebuilds, and those whose hash is not sure.
pub fn compared(
    ring: &Ring,
    members: (MemberIndex, MemberIndex),
    page: Option<u8>,
    (rebuilding, unsure): (&SegmentSet, &SegmentSet),
    hash_of: impl Fn(Segment) -> u128,
) -> Compared {
    let mut compared = Compared {
        hashes: vec![0; PAGE_SEGMENTS],
        rebuilding: [0; PAGE_SEGMENTS / 8],
        not_shared: [u8::MAX; PAGE_SEGMENTS / 8],
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
        compared.not_shared[number / 8] &= !(1 << (number % 8));
        compared.hashes[number] ^= match unsure.contains(segment) {
            true => unlike_any(members.0, segment),
            false => hash_of(segment),
        };
        if rebuilding.contains(segment) {
            compared.rebuilding[number / 8] |= 1 << (number % 8);
        }
    }
    compared
}

/// What stands for a hash that is not sure: neither 0, which would say that nothing is here, nor the hash
/// of any content, nor what another member says in its place.
fn unlike_any(member: MemberIndex, segment: Segment) -> u128 {
    let place = [member.0.to_be_bytes(), segment.0.to_be_bytes()];
    versions_hash(&place.concat(), b"unsure")
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

/// What two replicas have to tell each other about a part of a segment's keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that the other one has, and has differently or alone.
    pub to_fetch: Vec<ListedKey>,
    /// Keys that only this one has.
    pub to_send: Vec<Bytes>,
    /// Behind which key both go on; `None` when the segment ends with this part.
    pub next: Option<Bytes>,
}

/// Compares a part of one replica's keys with a part of the other's; both begin at the same key.
///
/// They are compared as far as both reach. A list that goes on reaches to its `next`, which it need not
/// contain: a replica passes over what it cannot read.
pub fn difference(ours: Listed, theirs: Listed) -> Difference {
    let next = match (ours.next, theirs.next) {
        (Some(our), Some(their)) => Some(match place(&our) <= place(&their) {
            true => our,
            false => their,
        }),
        (our, their) => our.or(their),
    };
    let reaches = |listed: &ListedKey| {
        let end = next.as_ref();
        end.is_none_or(|end| place(&listed.key) <= place(end))
    };
    let mut difference = Difference::default();
    let mut our_keys = ours.keys.into_iter().filter(reaches).peekable();
    let mut their_keys = theirs.keys.into_iter().filter(reaches).peekable();
    loop {
        let order = match (our_keys.peek(), their_keys.peek()) {
            (Some(our), Some(their)) => place(&our.key).cmp(&place(&their.key)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        match order {
            Ordering::Less => difference.to_send.extend(our_keys.next().map(|it| it.key)),
            Ordering::Greater => difference.to_fetch.extend(their_keys.next()),
            Ordering::Equal => {
                if let (Some(our), Some(their)) = (our_keys.next(), their_keys.next())
                    && our.hash != their.hash
                {
                    difference.to_fetch.push(their);
                }
            }
        }
    }
    difference.next = next;
    difference
}

/// Where a key stands among others, in the order of lists.
pub(super) fn place(key: &[u8]) -> (Position, &[u8]) {
    (Position::of_key(key), key)
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
            compared(&ring, members, None, (&none, &none), same),
            compared(&ring, (members.1, members.0), None, (&none, &none), changed),
        ];
        let page = (shared.0 >> 8) as u8;
        assert_eq!(differing(&ours, &theirs), [page]);
        let mut lost = SegmentSet::default();
        lost.insert(shared);
        let ours = compared(&ring, members, Some(page), (&none, &none), same);
        let theirs = compared(&ring, members, Some(page), (&lost, &none), changed);
        let number = shared.0 as u8;
        assert_eq!(differing(&ours, &theirs), [number]);
        assert!(theirs.is_rebuilding(usize::from(number)));
        assert!(!ours.is_rebuilding(usize::from(number)));
    }

    /// That nothing is there is said of what this node owns together with who asks, and of nothing else.
    #[test]
    fn nothing_there_is_told_from_not_owned() {
        let ring = ring(6);
        let members = (MemberIndex(0), MemberIndex(3));
        let none = SegmentSet::default();
        let of = |page| compared(&ring, members, page, (&none, &none), |_| 0);
        let pages = of(None);
        for page in 0..=u8::MAX {
            let segments = of(Some(page));
            let mut any = false;
            for segment in segments_of_page(page) {
                let number = usize::from(segment.0.to_be_bytes()[1]);
                let both = ring.owns(members.0, segment) && ring.owns(members.1, segment);
                assert_eq!(segments.is_shared(number), both, "{segment:?}");
                any |= both;
            }
            assert_eq!(pages.is_shared(usize::from(page)), any, "page {page}");
        }
    }

    /// What replaced a damaged value leaves the hash wrong: it may look like one that lacks the key.
    #[test]
    fn a_hash_that_is_not_sure_equals_nothing() {
        let ring = ring(3);
        let (segment, none) = (Segment(0x1234), SegmentSet::default());
        let mut unsure = SegmentSet::default();
        unsure.insert(segment);
        let [ours, theirs] = [(0, 1), (1, 0)].map(|(own, other)| {
            let members = (MemberIndex(own), MemberIndex(other));
            [None, Some(0x12)].map(|page| compared(&ring, members, page, (&none, &unsure), |_| 0))
        });
        let sure = [None, Some(0x12)].map(|page| {
            let members = (MemberIndex(1), MemberIndex(0));
            compared(&ring, members, page, (&none, &none), |_| 0)
        });
        for (level, place) in [(0, 0x12), (1, 0x34)] {
            assert_ne!(ours[level].hashes[usize::from(place)], 0);
            assert_eq!(differing(&ours[level], &theirs[level]), [place]);
            assert_eq!(differing(&ours[level], &sure[level]), [place]);
        }
    }

    fn listed(keys: &[(&'static str, u64)], next: Option<&'static str>) -> Listed {
        let listed = |&(key, hash): &(&'static str, u64)| ListedKey {
            key: Bytes::from_static(key.as_bytes()),
            hash,
            versions: Bytes::new(),
        };
        let mut keys: Vec<_> = keys.iter().map(listed).collect();
        keys.sort_by(|a, b| place(&a.key).cmp(&place(&b.key)));
        Listed {
            rebuilding: false,
            keys,
            next: next.map(|key| Bytes::from_static(key.as_bytes())),
        }
    }

    fn found(ours: Listed, theirs: Listed) -> (Vec<Bytes>, Vec<Bytes>, Option<Bytes>) {
        let found = difference(ours, theirs);
        let mut to_fetch: Vec<_> = found.to_fetch.into_iter().map(|it| it.key).collect();
        let mut to_send = found.to_send;
        to_fetch.sort();
        to_send.sort();
        (to_fetch, to_send, found.next)
    }

    #[test]
    fn keys_that_differ_are_fetched_and_those_of_one_side_sent() {
        let ours = listed(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)], None);
        let theirs = listed(&[("a", 1), ("b", 2), ("e", 1)], None);
        let (to_fetch, to_send, next) = found(ours.clone(), theirs);
        assert_eq!(to_fetch, ["b", "e"]);
        assert_eq!(to_send, ["c", "d"]);
        assert_eq!(next, None);
        assert_eq!(difference(ours.clone(), ours), Difference::default());
        let nothing = listed(&[], None);
        assert_eq!(difference(nothing.clone(), nothing), Difference::default());
    }

    /// Two replicas whose lists end in different places, and pass over different keys.
    #[test]
    fn parts_of_any_size_find_what_the_whole_finds() {
        const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let mut random = fastrand::Rng::with_seed(3);
        let mut names = NAMES.to_vec();
        names.sort_by_key(|name| (Position::of_key(name.as_bytes()), *name));
        for _ in 0..2000 {
            // None for a key that is not there; hash 0 for one that cannot be read.
            let mut copy = || -> Vec<(&'static str, u64)> {
                let keys = names.iter().filter_map(|name| match random.u64(0..5) {
                    4 => None,
                    hash => Some((*name, hash)),
                });
                keys.collect()
            };
            let (ours, theirs) = (copy(), copy());
            let mut part = |copy: &[(&'static str, u64)], after: Option<&Bytes>| -> Listed {
                let place_of = |name: &str| (Position::of_key(name.as_bytes()), name.to_owned());
                let rest = copy.iter().filter(|(name, _)| {
                    let text = after.map(|after| std::str::from_utf8(after).unwrap());
                    text.is_none_or(|after| place_of(name) > place_of(after))
                });
                let rest: Vec<_> = rest.copied().collect();
                match rest.first() {
                    // As a replica does it: a part ends before what cannot be read.
                    Some(&(damaged, 0)) => listed(&[], Some(damaged)),
                    None => listed(&[], None),
                    Some(_) => {
                        let whole = rest.iter().take_while(|it| it.1 > 0);
                        let some: Vec<_> = whole.take(random.usize(1..4)).copied().collect();
                        let is_all = some.len() == rest.len();
                        listed(&some, some.last().filter(|_| !is_all).map(|it| it.0))
                    }
                }
            };
            let (mut to_fetch, mut to_send, mut after) = (Vec::new(), Vec::new(), None);
            loop {
                let (fetch, send, next) =
                    found(part(&ours, after.as_ref()), part(&theirs, after.as_ref()));
                to_fetch.extend(fetch);
                to_send.extend(send);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            let readable = |copy: &[(&'static str, u64)]| -> Vec<(&'static str, u64)> {
                copy.iter().filter(|it| it.1 > 0).copied().collect()
            };
            let whole = found(
                listed(&readable(&ours), None),
                listed(&readable(&theirs), None),
            );
            to_fetch.sort();
            to_send.sort();
            assert_eq!(
                (to_fetch, to_send),
                (whole.0, whole.1),
                "{ours:?} {theirs:?}"
            );
        }
    }
}
