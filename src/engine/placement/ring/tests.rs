use std::collections::BTreeSet;

use dynakv_protocol::hash::Position;
use dynakv_protocol::ids::{ClusterId, DirectoryId};
use dynakv_protocol::ring_document::{ChangePhase, Stake, Step};

use super::*;
use crate::engine::quorum::{Place, bit};

fn document(names: impl IntoIterator<Item = String>, n: u8) -> RingDocument {
    let mut members: Vec<Member> = names
        .into_iter()
        .map(|name| Member {
            id: NodeId::new(&name).unwrap(),
            directory_id: DirectoryId(1),
            address: String::new(),
            weight: 1,
            zone: String::new(),
        })
        .collect();
    members.sort_by(|a, b| a.id.cmp(&b.id));
    RingDocument {
        cluster_id: ClusterId(1),
        cluster_name: "test".to_owned(),
        version: RingVersion(7),
        step: Step::Final,
        n,
        w: 1,
        r: 1,
        members,
    }
}

fn nodes(count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(|number| format!("node-{number}"))
}

/// Gives every member a zone by its place in the document.
fn in_zones(mut document: RingDocument, zones: &[&str]) -> RingDocument {
    for (at, member) in document.members.iter_mut().enumerate() {
        member.zone = zones[at % zones.len()].to_owned();
    }
    document
}

fn owner_ids(ring: &Ring, segment: Segment) -> Vec<&str> {
    let owners = ring.owners(segment).iter();
    owners.map(|i| ring.member(*i).id.as_str()).collect()
}

fn segments() -> impl Iterator<Item = Segment> {
    (0..=u16::MAX).map(Segment)
}

/// The rules once more, written for obviousness: all virtual nodes sorted by their clockwise
/// distance from the segment's start, then members taken off the list.
fn owners_by_the_book(document: &RingDocument, segment: Segment) -> Vec<MemberIndex> {
    let start = u64::from(segment.0) << 48;
    let mut walk = Vec::new();
    for (at, member) in document.members.iter().enumerate() {
        for index in 0..150 * u32::from(member.weight) {
            let mut bytes = member.id.as_str().as_bytes().to_vec();
            bytes.push(0);
            bytes.extend(index.to_be_bytes());
            let position = xxhash_of(&bytes);
            walk.push((position.wrapping_sub(start), member.id.clone(), at));
        }
    }
    walk.sort();
    let mut distinct: Vec<usize> = Vec::new();
    for (_, _, at) in walk {
        if !distinct.contains(&at) {
            distinct.push(at);
        }
    }
    let zone = |at: usize| match document.members[at].zone.as_str() {
        "" => format!("only {at}"),
        zone => zone.to_owned(),
    };
    let mut zones = BTreeSet::new();
    let (mut list, others): (Vec<usize>, Vec<usize>) =
        distinct.into_iter().partition(|at| zones.insert(zone(*at)));
    list.extend(others);
    list.truncate(usize::from(document.n));
    list.into_iter().map(|at| MemberIndex(at as u16)).collect()
}

fn xxhash_of(bytes: &[u8]) -> u64 {
    Position::of_key(bytes).0
}

#[test]
fn owners_never_change() {
    let ring = Ring::new(document(nodes(3), 3));
    for (segment, owners) in [
        (0x0000, [2, 3, 1]),
        (0x0001, [2, 3, 1]),
        (0x1234, [3, 2, 1]),
        (0x7fff, [3, 1, 2]),
        (0x8000, [3, 1, 2]),
        (0xabcd, [3, 2, 1]),
        (0xe7fe, [2, 3, 1]),
        (0xffff, [2, 3, 1]),
    ] {
        let owners = owners.map(|number| format!("node-{number}"));
        assert_eq!(owner_ids(&ring, Segment(segment)), owners, "{segment:#06x}");
    }
}

#[test]
fn the_table_is_what_the_rules_say() {
    let weighted = |mut document: RingDocument| {
        document.members[1].weight = 3;
        document
    };
    let half_zoned = |mut document: RingDocument| {
        document.members[0].zone = "a".to_owned();
        document.members[1].zone = "a".to_owned();
        document
    };
    let cases = [
        ("one member", document(nodes(1), 3)),
        ("two members", document(nodes(2), 3)),
        ("three members", document(nodes(3), 3)),
        ("ten members", document(nodes(10), 3)),
        ("one copy", document(nodes(10), 1)),
        ("a weight", weighted(document(nodes(5), 3))),
        (
            "as many zones as copies",
            in_zones(document(nodes(9), 3), &["a", "b", "c"]),
        ),
        (
            "more zones than copies",
            in_zones(document(nodes(9), 3), &["a", "b", "c", "d"]),
        ),
        (
            "fewer zones than copies",
            in_zones(document(nodes(9), 4), &["a", "b"]),
        ),
        ("one zone", in_zones(document(nodes(5), 3), &["a"])),
        ("some without a zone", half_zoned(document(nodes(5), 3))),
    ];
    for (case, document) in cases {
        let ring = Ring::new(document.clone());
        for segment in segments().step_by(509) {
            assert_eq!(
                ring.owners(segment),
                owners_by_the_book(&document, segment),
                "{case}, {segment:?}"
            );
        }
    }
}

#[test]
fn fewer_members_than_copies_all_own_everything() {
    for count in 1..=3 {
        let ring = Ring::new(document(nodes(count), 3));
        for segment in segments() {
            let distinct: BTreeSet<_> = ring.owners(segment).iter().collect();
            assert_eq!(distinct.len(), count);
            assert_eq!(ring.owners(segment).len(), count);
            assert!(ring.successors(segment).next().is_none());
        }
        assert_eq!(ring.owned_share_basis_points(MemberIndex(0)), 10_000);
    }
}

#[test]
fn a_document_that_no_decoder_accepts_does_no_harm() {
    let empty = Ring::new(document([], 3));
    assert!(empty.is_empty());
    assert!(empty.owners(Segment(9)).is_empty());
    assert!(empty.successors(Segment(9)).next().is_none());
    let mut weightless = document(nodes(3), 3);
    weightless.members[1].weight = 0;
    let ring = Ring::new(weightless);
    assert_eq!(
        ring.owners(Segment(9)).len(),
        2,
        "it has no place on the ring"
    );
    assert_eq!(ring.successors(Segment(9)).count(), 0);
}

#[test]
fn owners_and_successors_together_are_the_walk() {
    let document = document(nodes(12), 3);
    let ring = Ring::new(document.clone());
    let everyone = RingDocument { n: 12, ..document };
    for segment in segments().step_by(997) {
        let mut walk = ring.owners(segment).to_vec();
        walk.extend(ring.successors(segment));
        assert_eq!(walk, owners_by_the_book(&everyone, segment));
    }
    let zoned = Ring::new(in_zones(ring.document().clone(), &["a", "b"]));
    for segment in segments().step_by(997) {
        let mut all = zoned.owners(segment).to_vec();
        all.extend(zoned.successors(segment));
        all.sort_unstable();
        assert_eq!(all, (0..12).map(MemberIndex).collect::<Vec<_>>());
    }
}

#[test]
fn members_are_found_by_name() {
    let ring = Ring::new(document(nodes(20), 3));
    assert_eq!((ring.len(), ring.version()), (20, RingVersion(7)));
    for number in 0..20 {
        let id = &ring.member(MemberIndex(number)).id;
        assert_eq!(ring.index_of(id), Some(MemberIndex(number)));
    }
    assert_eq!(ring.index_of(&NodeId::new("node-21").unwrap()), None);
}

#[test]
fn shares_add_up_and_follow_the_weight() {
    let mut document = document(nodes(10), 3);
    document.members[4].weight = 4;
    let ring = Ring::new(document);
    let indices = || (0..10).map(MemberIndex);
    let first: u32 = indices()
        .map(|i| u32::from(ring.primary_share_basis_points(i)))
        .sum();
    let any: u32 = indices()
        .map(|i| u32::from(ring.owned_share_basis_points(i)))
        .sum();
    assert!((9_995..=10_005).contains(&first), "{first}");
    assert!((29_995..=30_005).contains(&any), "{any}");
    // 4 of 13 parts, give or take three standard deviations of 600 virtual nodes.
    let heavy = ring.primary_share_basis_points(MemberIndex(4));
    assert!((2_750..=3_400).contains(&heavy), "{heavy}");
    for index in indices() {
        let counted = segments().filter(|s| ring.owns(index, *s)).count() as f64;
        let share = f64::from(ring.owned_share_basis_points(index));
        assert!((share - counted / 6.5536).abs() <= 0.5, "{share} {counted}");
    }
    assert_eq!(ring.primary_share_basis_points(MemberIndex(10)), 0);
}

/// The relative standard deviation of primary load, and the fullest member's copies over the
/// mean, both averaged over so many rings with other node names.
fn balance(members: usize, rings: usize) -> (f64, f64) {
    let (mut deviations, mut fullest) = (0.0, 0.0);
    for seed in 0..rings {
        let names = (0..members).map(|number| format!("seed-{seed}-node-{number}"));
        let ring = Ring::new(document(names, 3));
        let mean = SEGMENTS as f64 / members as f64;
        let relative = |segments: u32| f64::from(segments) / mean - 1.0;
        let variance: f64 = ring.shares.iter().map(|s| relative(s.first).powi(2)).sum();
        deviations += (variance / members as f64).sqrt();
        let most = ring.shares.iter().map(|share| share.any).max().unwrap();
        fullest += f64::from(most) / (mean * 3.0);
    }
    (deviations / rings as f64, fullest / rings as f64)
}

#[test]
fn load_is_balanced_as_150_virtual_nodes_promise() {
    // Theory: the load of a member with v virtual nodes among n deviates by sqrt((n - 1) / (n v)),
    // a little less when few members are averaged. The bounds lie about three standard errors out.
    for (members, rings, deviation, slack, fullest_max) in [
        (3, 1000, 0.059, 0.005, 1.001),
        (10, 200, 0.074, 0.004, 1.09),
        (30, 50, 0.080, 0.004, 1.11),
        (100, 12, 0.082, 0.004, 1.14),
    ] {
        let (measured, fullest) = balance(members, rings);
        assert!(
            (measured - deviation).abs() < slack,
            "{members}: {measured}"
        );
        assert!(fullest <= fullest_max, "{members}: {fullest}");
    }
}

#[test]
fn a_joining_node_takes_its_part_and_nothing_else_moves() {
    for members in [3, 4, 10, 30] {
        let before = Ring::new(document(nodes(members), 3));
        let after = Ring::new(document(nodes(members + 1), 3));
        let joiner = format!("node-{}", members + 1);
        let mut taken = 0;
        for segment in segments() {
            let old = owner_ids(&before, segment);
            let new = owner_ids(&after, segment);
            let stayed: Vec<_> = new.iter().filter(|id| **id != joiner).copied().collect();
            // Those who stay keep their order; the joiner pushes out the last one or nobody.
            assert_eq!(stayed, old[..stayed.len()], "{segment:?}");
            taken += new.len() - stayed.len();
        }
        let part = taken as f64 / (3 * SEGMENTS) as f64 * (members + 1) as f64;
        assert!((0.85..1.15).contains(&part), "{members}: {part}");
    }
}

#[test]
fn copies_lie_in_distinct_zones_while_there_are_enough() {
    let zones = ["a", "b", "c", "d"];
    for zone_count in 1..=4 {
        let ring = Ring::new(in_zones(document(nodes(12), 3), &zones[..zone_count]));
        for segment in segments() {
            let owners = ring.owners(segment);
            let members: BTreeSet<_> = owners.iter().collect();
            let in_zones: BTreeSet<_> = owners.iter().map(|i| &ring.member(*i).zone).collect();
            assert_eq!(members.len(), 3);
            assert_eq!(in_zones.len(), zone_count.min(3));
        }
    }
}

/// A change from the first five nodes to these, with what both rings would be alone.
fn changing(
    target: impl Iterator<Item = usize>,
    zones: &[&str],
) -> (RingDocument, RingDocument, RingDocument) {
    let zoned = |numbers: Vec<usize>| {
        let names = numbers.iter().map(|number| format!("node-{number}"));
        let mut document = document(names, 3);
        for member in &mut document.members {
            let number = member.id.as_str().as_bytes()[5] - b'0';
            member.zone = zones[usize::from(number) % zones.len()].to_owned();
            member.address = member.id.as_str().to_owned();
        }
        document
    };
    let (old, new) = (zoned((1..=5).collect()), zoned(target.collect()));
    let mut begun = old.clone();
    for member in new.members.iter().filter(|it| old.member(&it.id).is_none()) {
        let weight = 0;
        begun.members.push(Member {
            weight,
            ..member.clone()
        });
    }
    begun.members.sort_by(|a, b| a.id.cmp(&b.id));
    let stake = |member: &Member| Stake {
        weight: new.member(&member.id).map_or(0, |entry| entry.weight),
        zone: member.zone.clone(),
    };
    begun.step = Step::Changing(Change {
        phase: ChangePhase::WriteBoth,
        begun_at: begun.version,
        target: begun.members.iter().map(stake).collect(),
        stopped: Vec::new(),
    });
    (old, new, begun)
}

/// The same, with the new owners read.
fn read_new(mut begun: RingDocument) -> RingDocument {
    if let Step::Changing(change) = &mut begun.step {
        change.phase = ChangePhase::ReadNew;
    }
    begun
}

#[test]
fn while_it_changes_a_segment_belongs_to_the_owners_of_both_rings() {
    let cases: [(&[usize], &[&str]); 6] = [
        (&[1, 2, 3, 4, 5, 6], &[""]),
        (&[1, 2, 3, 4], &[""]),
        (&[1, 2, 6, 7, 8], &[""]),
        (&[6, 7], &[""]),
        (&[4], &[""]),
        // What node 6 and 7 bring is a third zone, in which no old copy can lie.
        (&[1, 2, 3, 4, 5, 6, 7], &["c", "a", "a", "b", "b", "a"]),
    ];
    for (target, zones) in cases {
        let (old, new, begun) = changing(target.iter().copied(), zones);
        let (old, new) = (Ring::new(old), Ring::new(new));
        let read = Ring::new(read_new(begun.clone()));
        let begun = Ring::new(begun);
        for (ring, now, other) in [(&begun, &old, &new), (&read, &new, &old)] {
            for segment in segments().step_by(97) {
                let (now, other) = (owner_ids(now, segment), owner_ids(other, segment));
                let all = owner_ids(ring, segment);
                assert_eq!(all[..now.len()], now);
                let further = other.iter().filter(|id| !now.contains(id));
                assert_eq!(all[now.len()..], further.copied().collect::<Vec<_>>());
                assert_eq!(ring.readers(segment).len(), now.len());
                let sides = ring.sides(segment);
                assert_eq!(usize::from(sides.readers), now.len());
                for (place, id) in (0 as Place..).zip(&all) {
                    assert_eq!(sides.others & bit(place) != 0, other.contains(id), "{id}");
                }
                assert_eq!(sides.others.count_ones() as usize, other.len());
                for stand_in in ring.successors(segment) {
                    let id = ring.member(stand_in).id.as_str();
                    assert!(!all.contains(&id) && ring.may_stand_in(stand_in));
                }
            }
        }
        assert_eq!(begun.document().effective_n(), 3);
        assert_eq!(read.document().effective_n(), target.len().min(3));
    }
}

#[test]
fn only_members_of_both_lists_stand_in() {
    let (.., begun) = changing([1, 2, 3, 4, 6].into_iter(), &[""]);
    for document in [begun.clone(), read_new(begun.clone())] {
        let ring = Ring::new(document);
        let may: Vec<&str> = (0..6)
            .map(MemberIndex)
            .filter(|&member| ring.may_stand_in(member))
            .map(|member| ring.member(member).id.as_str())
            .collect();
        assert_eq!(may, ["node-1", "node-2", "node-3", "node-4"]);
    }
    let settled = Ring::new(document(nodes(4), 3));
    assert!((0..4).all(|member| settled.may_stand_in(MemberIndex(member))));
}
