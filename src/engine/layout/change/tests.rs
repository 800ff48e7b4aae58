use dynakv_protocol::codec::Wire;
use dynakv_protocol::ids::{ClusterId, DirectoryId};

use super::*;
use crate::engine::layout::document::{
    InvalidStep, JoinRefusal, admit, check_later, check_next, found, seal,
};
use crate::engine::layout::made_up::{id, join, member, members};

/// A final ring of version 9 with these members.
fn ring(names: &str) -> RingDocument {
    let mut ring = seal(&found(ClusterId(7), "shop", member("a"), 3, 2, 2)).unwrap();
    (ring.version, ring.members) = (RingVersion(9), members(names));
    ring
}

fn to(current: &RingDocument, names: &str) -> RingDocument {
    begin(current, &members(names), &[], |_| Reads::Changes).unwrap()
}

/// The document that every node can read, and every acceptor takes.
fn is_sound(current: &RingDocument, next: &RingDocument) {
    assert_eq!(check_next(current, next), Ok(()));
    assert_eq!(check_later(current, next), Ok(()));
    assert_eq!(next.version.0, current.version.0 + 1);
    assert_eq!(
        RingDocument::from_bytes(&next.to_bytes()).as_ref(),
        Ok(next)
    );
}

fn weights(members: &[Member]) -> String {
    let weight = |it: &Member| format!("{}{}", it.id.as_str(), it.weight);
    members.iter().map(weight).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_change_leads_from_one_list_to_the_other_in_three_steps() {
    let ring = ring("abc");
    let begun = to(&ring, "bcd");
    is_sound(&ring, &begun);
    assert_eq!(weights(&begun.members), "a1 b1 c1 d0");
    assert_eq!(weights(&begun.read_members()), "a1 b1 c1 d0");
    assert_eq!(
        weights(&begun.also_written_members().unwrap()),
        "a0 b1 c1 d1"
    );
    assert_eq!(begun.change().unwrap().begun_at, begun.version);
    assert_eq!(finish(&begun), None, "nobody has what it gained");

    let read = read_new(&begun).unwrap();
    is_sound(&begun, &read);
    assert_eq!(weights(&read.read_members()), "a0 b1 c1 d1");
    assert_eq!(
        weights(&read.also_written_members().unwrap()),
        "a1 b1 c1 d0"
    );
    assert_eq!(read.change().unwrap().begun_at, begun.version);
    assert_eq!((read_new(&read), give_up(&read)), (None, None));

    let done = finish(&read).unwrap();
    is_sound(&read, &done);
    assert_eq!((&done.step, done.members), (&Step::Final, members("bcd")));
}

#[test]
fn until_the_new_owners_are_read_a_change_can_be_given_up() {
    let ring = ring("abc");
    let begun = to(&ring, "abcdef");
    let back = give_up(&begun).unwrap();
    is_sound(&begun, &back);
    assert_eq!((&back.step, &back.members), (&Step::Final, &ring.members));
    let read = read_new(&begun).unwrap();
    let back = RingDocument {
        version: RingVersion(read.version.0 + 1),
        ..back
    };
    assert_eq!(check_next(&read, &back), Err(InvalidStep::NoStep));
}

/// A joiner that dies would otherwise end all changes: of two voters none is a majority.
#[test]
fn only_members_of_the_last_final_ring_vote() {
    let begun = to(&ring("a"), "ab");
    let voters = |ring: &RingDocument| -> Vec<String> {
        ring.voters().map(|it| it.id.as_str().to_owned()).collect()
    };
    let read = read_new(&begun).unwrap();
    for changing in [&begun, &read] {
        assert_eq!(
            (voters(changing), changing.majority()),
            (vec!["a".to_owned()], 1)
        );
        assert!(changing.is_voter(&id("a")) && !changing.is_voter(&id("b")));
    }
    let done = finish(&read).unwrap();
    assert_eq!((voters(&done).len(), done.majority()), (2, 2));
}

#[test]
fn weights_and_zones_change_as_members_do() {
    let ring = ring("abc");
    let mut target = members("abc");
    (target[1].weight, target[2].zone) = (2, "east".to_owned());
    let begun = begin(&ring, &target, &[], |_| Reads::Changes).unwrap();
    is_sound(&ring, &begun);
    assert_eq!(weights(&begun.read_members()), "a1 b1 c1");
    let done = finish(&read_new(&begun).unwrap()).unwrap();
    assert_eq!(done.members, target);
}

#[test]
fn what_cannot_be_a_ring_is_refused_with_what_to_do() {
    let ring = ring("abc");
    let refusal = |target: &[Member]| begin(&ring, target, &[], |_| Reads::Changes).unwrap_err();
    assert_eq!(refusal(&members("abc")), ChangeRefusal::NothingChanges);
    assert_eq!(refusal(&members("cba")), ChangeRefusal::NothingChanges);
    assert_eq!(refusal(&[]), ChangeRefusal::NobodyLeft);
    assert_eq!(
        refusal(&members("abb")),
        ChangeRefusal::NamedTwice { id: id("b") }
    );
    let mut other = members("abcd");
    other[3].address = "a:8080".to_owned();
    assert!(matches!(
        refusal(&other),
        ChangeRefusal::AddressTaken { holder, .. } if holder == id("a")
    ));
    let mut twins = members("abcde");
    twins[4].address = "d:8080".to_owned();
    assert!(matches!(
        refusal(&twins),
        ChangeRefusal::AddressTaken { .. }
    ));
    for change in [
        |it: &mut Member| it.directory_id = DirectoryId(2),
        |it: &mut Member| it.address = "elsewhere:1".to_owned(),
    ] {
        let mut moved = members("ab");
        change(&mut moved[0]);
        assert_eq!(refusal(&moved), ChangeRefusal::OtherNode { id: id("a") });
    }
    let mut weightless = members("abd");
    weightless[2].weight = 0;
    let said = refusal(&weightless).to_string();
    assert!(said.starts_with("d: the weight is 0"), "{said}");
    // An address may go from one that leaves to the one that replaces it only once it has left.
    let mut crowd: Vec<Member> = (0..MEMBERS_MAX)
        .map(|at| member(&format!("n{at}")))
        .collect();
    crowd.sort_by(|a, b| a.id.cmp(&b.id));
    assert!(matches!(
        refusal(&crowd),
        ChangeRefusal::TooManyMembers { .. }
    ));
}

#[test]
fn one_change_at_a_time_and_none_before_the_first_write() {
    let ring = ring("abc");
    let begun = to(&ring, "abcd");
    let again = begin(&begun, &members("ab"), &[], |_| Reads::Changes).unwrap_err();
    assert_eq!(
        again,
        ChangeRefusal::Running {
            begun_at: begun.version
        }
    );
    assert!(again.to_string().contains("dynakv status"));
    let open = found(ClusterId(7), "shop", member("a"), 3, 2, 2);
    let refusal = begin(&open, &members("ab"), &[], |_| Reads::Changes).unwrap_err();
    assert_eq!(refusal, ChangeRefusal::StillOpen);
    assert_eq!(seal(&begun), None, "it holds data");
}

#[test]
fn who_is_too_old_is_named() {
    let ring = ring("abc");
    let said = |old: &[&str]| {
        let is_old = |id: &NodeId| match old.contains(&id.as_str()) {
            true => Reads::TooOld,
            false => Reads::Changes,
        };
        begin(&ring, &members("abcd"), &[], is_old)
            .unwrap_err()
            .to_string()
    };
    assert!(said(&["d"]).starts_with("d runs a version of dynakv that is too old"));
    assert!(said(&["a", "d"]).starts_with("a, d run versions of dynakv that are too old"));
}

#[test]
fn a_directory_is_renewed_in_every_step() {
    let ring = ring("abc");
    let begun = to(&ring, "abd");
    let read = read_new(&begun).unwrap();
    let lost = |name: &str| {
        let mut lost = join(name);
        (lost.member.directory_id, lost.is_rebuilding) = (DirectoryId(5), true);
        lost
    };
    for (ring, name) in [(&ring, "c"), (&begun, "c"), (&read, "c"), (&read, "d")] {
        let renewed = admit(ring, &lost(name)).unwrap();
        is_sound(ring, &renewed);
        assert_eq!(renewed.step, ring.step);
        let entry = renewed.member(&id(name)).unwrap();
        assert_eq!(entry.directory_id, DirectoryId(5));
        assert_eq!(entry.weight, ring.member(&id(name)).unwrap().weight);
    }
    // Who is coming in has nothing that could be lost: it comes in anew.
    let refusal = admit(&begun, &lost("d")).unwrap_err();
    assert_eq!(refusal, JoinRefusal::ComingIn { id: id("d") });
    let mut forged = RingDocument {
        version: RingVersion(begun.version.0 + 1),
        ..begun.clone()
    };
    forged.members[3].directory_id = DirectoryId(5);
    assert_eq!(check_next(&begun, &forged), Err(InvalidStep::NoStep));
    // And asked again, it is told the ring that it is in.
    let mut asks = lost("d");
    asks.member.directory_id = DirectoryId(1);
    let known = admit(&begun, &asks).unwrap_err();
    assert!(matches!(known, JoinRefusal::AlreadyMember { .. }));
}

/// Every document that differs from the one made here in one field is refused.
#[test]
fn no_acceptor_takes_a_step_that_is_none() {
    let ring = ring("abc");
    let begun = to(&ring, "abd");
    let read = read_new(&begun).unwrap();
    type Forgery = fn(&mut RingDocument);
    fn change(ring: &mut RingDocument) -> &mut Change {
        match &mut ring.step {
            Step::Changing(change) => change,
            Step::Open | Step::Final => panic!("no change"),
        }
    }
    let forgeries: [Forgery; 9] = [
        |it| change(it).begun_at = RingVersion(2),
        |it| change(it).phase = ChangePhase::ReadNew,
        |it| change(it).target[3].weight = 0,
        |it| change(it).target[3].weight = 1000,
        |it| change(it).target[2].weight = 1,
        |it| change(it).target.truncate(3),
        |it| it.members[0].weight = 2,
        |it| it.members[3].weight = 1,
        |it| change(it).stopped = vec![id("a")],
    ];
    for (number, forge) in forgeries.into_iter().enumerate() {
        let mut forged = begun.clone();
        forge(&mut forged);
        if number == 4 {
            // c stays: that is another change, and a sound one.
            assert_eq!(check_next(&ring, &forged), Ok(()));
            continue;
        }
        assert_eq!(
            check_next(&ring, &forged),
            Err(InvalidStep::NoStep),
            "{number}"
        );
    }
    for forge in forgeries {
        let mut forged = read.clone();
        forge(&mut forged);
        if forged != read {
            assert_eq!(check_next(&begun, &forged), Err(InvalidStep::NoStep));
        }
    }
    let skipped = RingDocument {
        version: RingVersion(ring.version.0 + 1),
        ..finish(&read).unwrap()
    };
    assert_eq!(check_next(&ring, &skipped), Err(InvalidStep::NoStep));
    let unreadable = RingDocument {
        members: begun.members[..3].to_vec(),
        ..begun.clone()
    };
    assert!(check_later(&ring, &unreadable).is_err());
    assert!(RingDocument::from_bytes(&unreadable.to_bytes()).is_err());
}

/// Nobody waits for who is gone, and only who goes can be.
#[test]
fn members_that_go_may_be_gone_already_or_be_found_gone_later() {
    let ring = ring("abcd");
    let going = [id("d"), id("c")];
    let unheard = |id: &NodeId| match going.contains(id) {
        true => Reads::Unheard,
        false => Reads::Changes,
    };
    let refusal = begin(&ring, &members("ab"), &[], unheard).unwrap_err();
    assert!(matches!(refusal, ChangeRefusal::Unheard { .. }));
    let begun = begin(&ring, &members("ab"), &going, unheard).unwrap();
    is_sound(&ring, &begun);
    assert_eq!(begun.change().unwrap().stopped, [id("c"), id("d")]);
    assert!(begun.is_stopped(&id("c")) && begun.is_leaving(&id("c")));
    for stays in ["a", "e"] {
        let refusal = begin(&ring, &members("ab"), &[id(stays)], unheard).unwrap_err();
        assert_eq!(refusal, ChangeRefusal::NotGoing { id: id(stays) });
    }

    let begun = to(&ring, "ab");
    for ring in [&begun, &read_new(&begun).unwrap()] {
        let one = stop_waiting_for(ring, &id("d")).unwrap();
        is_sound(ring, &one);
        assert_eq!(stop_waiting_for(&one, &id("d")), None, "it is no news");
        let both = stop_waiting_for(&one, &id("c")).unwrap();
        is_sound(&one, &both);
        assert_eq!(both.change().unwrap().stopped, [id("c"), id("d")]);
        assert_eq!(stop_waiting_for(ring, &id("a")), None, "it stays");
        // Nobody is waited for again.
        let back = RingDocument {
            version: RingVersion(both.version.0 + 1),
            ..one.clone()
        };
        assert_eq!(check_next(&both, &back), Err(InvalidStep::NoStep));
    }
    let mut forged = to(&ring, "abc");
    if let Step::Changing(change) = &mut forged.step {
        change.stopped = vec![id("a")];
    }
    assert!(RingDocument::from_bytes(&forged.to_bytes()).is_err());
    assert!(check_later(&ring, &forged).is_err());
}

#[test]
fn there_may_be_fewer_copies_afterwards() {
    let ring = ring("abc");
    let begun = to(&ring, "a");
    is_sound(&ring, &begun);
    let done = finish(&read_new(&begun).unwrap()).unwrap();
    assert_eq!((begun.effective_n(), done.effective_n()), (3, 1));
}

/// It could never be changed again.
#[test]
fn nobody_goes_back_to_a_ring_without_a_majority() {
    let ring = ring("abcde");
    let gone = [id("d"), id("e")];
    let begun = begin(&ring, &members("abc"), &gone, |_| Reads::Changes).unwrap();
    assert_eq!(begun.majority(), 2);
    let back = give_up(&begun).unwrap();
    assert_eq!(back.members, ring.members);
    let gone = [id("c"), id("d"), id("e")];
    let begun = begin(&ring, &members("ab"), &gone, |_| Reads::Changes).unwrap();
    assert_eq!(give_up(&begun), None);
    let back = taken_back(&begun).unwrap();
    assert_eq!(check_next(&begun, &back), Err(InvalidStep::NoStep));
    // And somebody has to decide.
    let target = members("abcdef").split_off(5);
    let all: Vec<NodeId> = members("abcde").into_iter().map(|it| it.id).collect();
    let refusal = begin(&ring, &target, &all, |_| Reads::Changes);
    assert_eq!(refusal, Err(ChangeRefusal::NobodyLeft));
}
