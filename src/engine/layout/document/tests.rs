use super::*;
use crate::engine::layout::made_up::{id, join, member};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::ids::{DirectoryId, NAME_BYTES_MAX};
use dynakv_protocol::ring_document::WEIGHT_MAX;

fn open() -> RingDocument {
    found(ClusterId(7), "shop", member("node-2"), 3, 2, 2)
}

fn names(document: &RingDocument) -> Vec<&str> {
    document.members.iter().map(|m| m.id.as_str()).collect()
}

#[test]
fn a_ring_grows_in_the_order_of_ids_and_every_node_can_read_it() {
    let mut ring = open();
    assert_eq!((ring.version, &ring.step), (RingVersion(1), &Step::Open));
    for name in ["node-3", "node-1"] {
        let next = admit(&ring, &join(name)).unwrap();
        assert_eq!(check_next(&ring, &next), Ok(()));
        assert_eq!(next.version.0, ring.version.0 + 1);
        assert_eq!(RingDocument::from_bytes(&next.to_bytes()), Ok(next.clone()));
        ring = next;
    }
    assert_eq!(names(&ring), ["node-1", "node-2", "node-3"]);
}

#[test]
fn a_sealed_ring_has_the_same_members_and_takes_nobody() {
    let ring = admit(&open(), &join("node-1")).unwrap();
    let sealed = seal(&ring).unwrap();
    assert_eq!(check_next(&ring, &sealed), Ok(()));
    assert_eq!(
        (sealed.version, &sealed.step),
        (RingVersion(3), &Step::Final)
    );
    assert_eq!(sealed.members, ring.members);
    assert_eq!(seal(&sealed), None);

    let refusal = admit(&sealed, &join("node-9")).unwrap_err();
    assert_eq!(refusal, JoinRefusal::HoldsData);
    // Its own member is told so, wherever it lives now.
    let mut moved = join("node-1");
    moved.member.address = "elsewhere:1".to_owned();
    for asker in [join("node-1"), moved] {
        assert!(matches!(
            admit(&sealed, &asker),
            Err(JoinRefusal::AlreadyMember { .. })
        ));
    }
    let next = RingDocument {
        version: RingVersion(4),
        ..sealed.clone()
    };
    assert_eq!(check_next(&sealed, &next), Err(InvalidStep::NoStep));
}

#[test]
fn the_same_id_renews_its_entry_while_the_ring_is_open() {
    let ring = open();
    assert_eq!(
        admit(&ring, &join("node-2")),
        Err(JoinRefusal::AlreadyMember {
            id: id("node-2"),
            version: RingVersion(1)
        })
    );
    let mut moved = join("node-2");
    moved.member.address = "10.0.0.9:9000".to_owned();
    moved.member.weight = 4;
    moved.member.directory_id = DirectoryId(2);
    moved.member.zone = "b".to_owned();
    let next = admit(&ring, &moved).unwrap();
    assert_eq!(check_next(&ring, &next), Ok(()));
    assert_eq!(next.members, [moved.member]);
    assert_eq!(next.version, RingVersion(2));
}

#[test]
fn an_address_belongs_to_one_member() {
    let mut thief = join("node-3");
    thief.member.address = "node-2:8080".to_owned();
    let refusal = admit(&open(), &thief).unwrap_err();
    assert_eq!(
        refusal,
        JoinRefusal::AddressTaken {
            address: "node-2:8080".to_owned(),
            holder: id("node-2")
        }
    );
    assert!(refusal.to_string().contains("--advertise"));
}

#[test]
fn quorums_may_be_stricter_but_not_laxer() {
    let ask = |n, w, r| {
        let asker = Join {
            n,
            w,
            r,
            ..join("node-1")
        };
        admit(&open(), &asker).map(|_| ())
    };
    assert_eq!(ask(Some(3), Some(2), Some(2)), Ok(()));
    assert_eq!(ask(None, Some(3), Some(3)), Ok(()));
    assert_eq!(
        ask(Some(5), None, None),
        Err(JoinRefusal::DifferentN { ring: 3, asked: 5 })
    );
    assert_eq!(
        ask(None, Some(1), None),
        Err(JoinRefusal::QuorumBelowPromise {
            name: 'w',
            promised: 2,
            asked: 1
        })
    );
    assert_eq!(
        ask(None, None, Some(1)),
        Err(JoinRefusal::QuorumBelowPromise {
            name: 'r',
            promised: 2,
            asked: 1
        })
    );
    assert_eq!(
        ask(None, Some(4), None),
        Err(JoinRefusal::QuorumBeyondN {
            name: 'w',
            promised: 2,
            n: 3,
            asked: 4
        })
    );
}

#[test]
fn the_ring_is_bounded_but_a_member_may_still_be_renewed() {
    let mut full = open();
    full.members = (0..MEMBERS_MAX)
        .map(|i| member(&format!("node-{i:04}")))
        .collect();
    assert_eq!(
        admit(&full, &join("one-more")),
        Err(JoinRefusal::TooManyMembers)
    );
    let mut moved = join("node-0005");
    moved.member.weight = 2;
    let renewed = admit(&full, &moved).unwrap();
    assert_eq!(renewed.members.len(), MEMBERS_MAX);
    assert_eq!(check_next(&full, &renewed), Ok(()));
}

#[test]
fn entries_out_of_bounds_are_refused() {
    let cases: [fn(&mut Member); 5] = [
        |m| m.weight = 0,
        |m| m.weight = WEIGHT_MAX + 1,
        |m| m.address.clear(),
        |m| m.address = "x".repeat(NAME_BYTES_MAX + 1),
        |m| m.zone = "x".repeat(NAME_BYTES_MAX + 1),
    ];
    for spoil in cases {
        let mut asker = join("node-1");
        spoil(&mut asker.member);
        let refusal = admit(&open(), &asker).unwrap_err();
        assert!(
            matches!(refusal, JoinRefusal::InvalidMember { .. }),
            "{refusal}"
        );
        let mut forced = admit(&open(), &join("node-1")).unwrap();
        forced.members[0] = asker.member;
        assert_eq!(
            check_next(&open(), &forced),
            Err(InvalidStep::InvalidMembers)
        );
    }
}

#[test]
fn versions_do_not_wrap() {
    let last = RingDocument {
        version: RingVersion(u64::MAX),
        ..open()
    };
    assert_eq!(
        admit(&last, &join("node-1")),
        Err(JoinRefusal::VersionsExhausted)
    );
    assert_eq!(seal(&last), None);
    assert!(check_next(&last, &last).is_err());
}

#[test]
fn a_step_off_the_table_is_refused() {
    let ring = admit(&open(), &join("node-1")).unwrap();
    let good = admit(&ring, &join("node-3")).unwrap();
    assert_eq!(check_next(&ring, &good), Ok(()));
    let spoiled = |spoil: fn(&mut RingDocument)| {
        let mut next = good.clone();
        spoil(&mut next);
        check_next(&ring, &next).unwrap_err()
    };
    assert_eq!(
        spoiled(|d| d.cluster_id = ClusterId(8)),
        InvalidStep::OtherCluster
    );
    assert_eq!(
        spoiled(|d| d.cluster_name.push('x')),
        InvalidStep::OtherCluster
    );
    assert_eq!(
        spoiled(|d| d.version.0 += 1),
        InvalidStep::WrongVersion {
            expected: RingVersion(3),
            got: RingVersion(4)
        }
    );
    assert_eq!(spoiled(|d| d.n = 5), InvalidStep::QuorumChanged);
    assert_eq!(spoiled(|d| d.w = 1), InvalidStep::QuorumChanged);
    assert_eq!(spoiled(|d| d.step = Step::Final), InvalidStep::SealedOthers);
    assert_eq!(
        spoiled(|d| drop(d.members.remove(0))),
        InvalidStep::NotOneMember
    );
    assert_eq!(
        spoiled(|d| drop(d.members.pop())),
        InvalidStep::NotOneMember
    );
    assert_eq!(
        spoiled(|d| d.members[0].weight = 9),
        InvalidStep::NotOneMember
    );
    assert_eq!(
        spoiled(|d| d.members.reverse()),
        InvalidStep::InvalidMembers
    );
    assert_eq!(
        spoiled(|d| d.members[2].address = d.members[0].address.clone()),
        InvalidStep::InvalidMembers
    );
}
