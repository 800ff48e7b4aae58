use super::*;
use crate::engine::layout::decide::simulation::{ballot, ring};
use crate::engine::layout::document::seal;
use crate::engine::layout::made_up::{id, member};
use dynakv_protocol::ids::ClusterId;
use dynakv_protocol::ring_document::Step;

fn prepare(slot: u64, round: u64, name: &str) -> Prepare {
    Prepare {
        slot: RingVersion(slot),
        ballot: ballot(round, name),
    }
}

fn accept(round: u64, name: &str, document: &RingDocument) -> Accept {
    Accept {
        ballot: ballot(round, name),
        document: document.clone(),
    }
}

/// The acceptor of member a, in the directory that [`ring`] lists.
fn new() -> Acceptor {
    Acceptor::new(id("a"), member("a").directory_id)
}

fn refused(slot: u64, promised: Ballot, decided: Option<RingDocument>) -> Answer {
    Answer {
        vote: Vote {
            slot: RingVersion(slot),
            granted: false,
            promised,
            accepted: None,
            decided: decided.map(Box::new),
        },
        save: false,
    }
}

fn granted(promised: Ballot, accepted: Option<(Ballot, RingDocument)>, save: bool) -> Answer {
    Answer {
        vote: Vote {
            slot: RingVersion(2),
            granted: true,
            promised,
            accepted,
            decided: None,
        },
        save,
    }
}

#[test]
fn a_promise_holds_against_older_ballots_and_is_given_once() {
    let (ring, mut acceptor) = (ring(3), new());
    let sealed = seal(&ring).unwrap();
    let second = ballot(2, "b");
    assert_eq!(
        acceptor.on_prepare(&ring, &prepare(2, 2, "b")),
        granted(second.clone(), None, true)
    );
    // Older, and the very same again: a restarted proposer might mean another document by it.
    for again in [prepare(2, 1, "c"), prepare(2, 2, "a"), prepare(2, 2, "b")] {
        let answer = acceptor.on_prepare(&ring, &again);
        assert_eq!(answer, refused(2, second.clone(), None), "{again:?}");
    }
    assert_eq!(
        acceptor.on_accept(&ring, &accept(1, "c", &sealed)),
        refused(2, second.clone(), None)
    );
    assert_eq!(
        acceptor.on_accept(&ring, &accept(2, "b", &sealed)),
        granted(second.clone(), None, true)
    );
    // A duplicate changes nothing, so nothing needs to be saved.
    assert_eq!(
        acceptor.on_accept(&ring, &accept(2, "b", &sealed)),
        granted(second.clone(), None, false)
    );
    let third = ballot(3, "a");
    assert_eq!(
        acceptor.on_prepare(&ring, &prepare(2, 3, "a")),
        granted(third.clone(), Some((second, sealed)), true)
    );
    assert_eq!(acceptor.next_round(&ring), 4);
}

/// One such promise would end all decisions about the slot.
#[test]
fn a_round_that_nobody_has_come_to_is_not_promised() {
    let (ring, mut acceptor) = (ring(3), new());
    let sealed = seal(&ring).unwrap();
    for round in [ROUND_MAX + 1, u64::MAX] {
        let before = acceptor.clone();
        let answer = acceptor.on_prepare(&ring, &prepare(2, round, "z"));
        assert_eq!(answer, refused(2, ballot(0, "z"), None));
        let answer = acceptor.on_accept(&ring, &accept(round, "z", &sealed));
        assert_eq!(answer, refused(2, ballot(0, "z"), None));
        assert_eq!(
            (acceptor.clone().promised, acceptor.accepted.clone()),
            (before.promised, None)
        );
    }
    // One that is only far ahead brings it nearer, so that whoever has really come so far is in reach in the end.
    let far = 3 * ROUND_JUMP_MAX;
    for nearer in 1..=2 {
        let answer = acceptor.on_prepare(&ring, &prepare(2, far + nearer, "z"));
        let mut expected = refused(2, ballot(nearer * ROUND_JUMP_MAX, "z"), None);
        expected.save = true;
        assert_eq!(answer, expected);
    }
    let answer = acceptor.on_prepare(&ring, &prepare(2, far, "b"));
    assert!(answer.vote.granted);
    assert_eq!(acceptor.next_round(&ring), far + 1);
}

#[test]
fn a_promise_that_cannot_be_is_forgotten_and_an_acceptance_is_not() {
    let (ring, mut acceptor) = (ring(3), new());
    let sealed = seal(&ring).unwrap();
    assert_eq!(acceptor.forget_impossible(), Ok(false));
    acceptor.on_accept(&ring, &accept(3, "b", &sealed));
    acceptor.promised = Some(ballot(u64::MAX, "z"));
    assert!(!acceptor.on_prepare(&ring, &prepare(2, 4, "a")).vote.granted);
    assert_eq!(acceptor.forget_impossible(), Ok(true));
    let answer = acceptor.on_prepare(&ring, &prepare(2, 4, "a"));
    assert_eq!(answer.vote.accepted, Some((ballot(3, "b"), sealed.clone())));
    // It may have been decided.
    acceptor.promised = Some(ballot(u64::MAX, "z"));
    acceptor.accepted = Some((ballot(u64::MAX, "z"), sealed));
    let round = u64::MAX;
    let told = acceptor.forget_impossible().unwrap_err();
    assert_eq!(told, ImpossibleBallot { round });
    assert!(told.to_string().contains("remove the file"), "{told}");
}

#[test]
fn one_ballot_carries_one_document() {
    let (ring, mut acceptor) = (ring(3), new());
    let one = seal(&ring).unwrap();
    let mut other = one.clone();
    other.step = Step::Open;
    other.members.push(member("z"));
    assert!(
        acceptor
            .on_accept(&ring, &accept(1, "a", &one))
            .vote
            .granted
    );
    let before = acceptor.clone();
    assert_eq!(
        acceptor.on_accept(&ring, &accept(1, "a", &other)),
        refused(2, ballot(1, "a"), None)
    );
    assert_eq!(acceptor, before);
}

#[test]
fn only_the_slot_after_ones_own_ring_is_open() {
    let first = ring(3);
    let second = seal(&first).unwrap();
    let mut acceptor = new();
    let nothing = ballot(0, "b");
    for decided in [1, 2] {
        assert_eq!(
            acceptor.on_prepare(&second, &prepare(decided, 9, "b")),
            refused(decided, nothing.clone(), Some(second.clone()))
        );
    }
    assert_eq!(
        acceptor.on_accept(&second, &accept(9, "b", &second)),
        refused(2, nothing.clone(), Some(second.clone()))
    );
    // Behind: it doesn't know the members that version 3 is decided by.
    assert_eq!(
        acceptor.on_prepare(&first, &prepare(3, 9, "b")),
        refused(3, nothing, None)
    );
    assert_eq!(acceptor, new());
}

#[test]
fn a_new_slot_starts_without_promises_and_the_old_one_never_reopens() {
    let first = ring(3);
    let mut second = first.clone();
    second.version = RingVersion(2);
    let mut acceptor = new();
    assert!(
        acceptor
            .on_prepare(&first, &prepare(2, 7, "b"))
            .vote
            .granted
    );
    assert_eq!(acceptor.next_round(&second), 1);
    assert!(
        acceptor
            .on_prepare(&second, &prepare(3, 1, "b"))
            .vote
            .granted
    );
    // Whatever brought an older ring back, the promise of slot 2 is gone: no vote there.
    assert_eq!(
        acceptor.on_prepare(&first, &prepare(2, 8, "b")),
        refused(2, ballot(0, "b"), None)
    );
}

#[test]
fn a_document_that_cannot_follow_is_refused() {
    let (ring, mut acceptor) = (ring(3), new());
    let mut foreign = seal(&ring).unwrap();
    foreign.cluster_id = ClusterId(99);
    let mut shrunk = seal(&ring).unwrap();
    shrunk.members.pop();
    for document in [foreign, shrunk] {
        let answer = acceptor.on_accept(&ring, &accept(1, "a", &document));
        assert_eq!(answer, refused(2, ballot(0, "a"), None));
    }
    assert_eq!(acceptor.accepted, None);
}

#[test]
fn a_lost_directory_is_silent_until_a_ring_lists_the_new_one() {
    let mut ring_3 = ring(3);
    let sealed = seal(&ring_3).unwrap();
    let mut acceptor = Acceptor::new(id("a"), DirectoryId(99));
    let silent = refused(2, ballot(0, "b"), None);
    assert_eq!(acceptor.on_prepare(&ring_3, &prepare(2, 5, "b")), silent);
    assert_eq!(
        acceptor.on_accept(&ring_3, &accept(5, "b", &sealed)),
        silent
    );
    ring_3.version = RingVersion(2);
    assert!(
        !acceptor
            .on_prepare(&ring_3, &prepare(3, 1, "b"))
            .vote
            .granted
    );
    ring_3.version = RingVersion(3);
    ring_3.members[0].directory_id = DirectoryId(99);
    assert!(
        acceptor
            .on_prepare(&ring_3, &prepare(4, 1, "b"))
            .vote
            .granted
    );

    let mut one_of_two = Acceptor::new(id("a"), DirectoryId(99));
    let answer = one_of_two.on_prepare(&ring(2), &prepare(2, 1, "b"));
    assert!(answer.vote.granted);
    let mut alone = Acceptor::new(id("a"), DirectoryId(99));
    assert_eq!(alone.on_prepare(&ring(1), &prepare(2, 5, "b")), silent);
}

#[test]
fn a_stranger_has_no_vote() {
    let mut joiner = Acceptor::new(id("z"), member("z").directory_id);
    for members in [1, 2, 3] {
        assert_eq!(
            joiner.on_prepare(&ring(members), &prepare(2, 5, "b")),
            refused(2, ballot(0, "b"), None)
        );
    }
}

#[test]
fn it_survives_the_disk_and_refuses_what_it_cannot_keep() {
    let ring = ring(3);
    let mut acceptor = new();
    let mut stages = vec![acceptor.clone()];
    acceptor.on_prepare(&ring, &prepare(2, 1, "b"));
    stages.push(acceptor.clone());
    acceptor.on_accept(&ring, &accept(1, "b", &seal(&ring).unwrap()));
    stages.push(acceptor.clone());
    acceptor.on_prepare(&ring, &prepare(2, 4, "c"));
    stages.push(acceptor.clone());
    for stage in stages {
        assert_eq!(Acceptor::from_bytes(&stage.to_bytes()), Ok(stage));
    }
    let whole = acceptor.to_bytes();
    for cut in 0..whole.len() {
        // A cut between two fields is a shorter acceptor; the file's own checksum guards that.
        if let Ok(shorter) = Acceptor::from_bytes(&whole.slice(..cut)) {
            assert_ne!(shorter, acceptor);
        }
    }
    let mut unknown = BytesMut::from(&whole[..]);
    put_tag_bytes(&mut unknown, 77, b"x");
    assert!(Acceptor::from_bytes(&unknown.freeze()).is_err());
    acceptor.promised = None;
    assert!(Acceptor::from_bytes(&acceptor.to_bytes()).is_err());
}
