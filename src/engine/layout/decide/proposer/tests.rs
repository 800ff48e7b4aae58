use super::*;
use crate::engine::counters::ROUND_MAX;
use crate::engine::layout::decide::simulation::{ballot, ring};
use crate::engine::layout::document::{admit, seal};
use crate::engine::layout::made_up::{id, join};
use dynakv_protocol::ids::ClusterId;

/// Members are named a, b, c, …; the proposer is a, in round 5.
fn proposer(members: usize) -> (Proposer, RingDocument) {
    let current = ring(members);
    let wanted = seal(&current).unwrap();
    let proposer = Proposer::new(id("a"), current, wanted.clone(), 5).unwrap();
    (proposer, wanted)
}

fn started(members: usize) -> (Proposer, RingDocument) {
    let (mut proposer, wanted) = proposer(members);
    proposer.start(&mut Vec::new());
    (proposer, wanted)
}

fn vote(granted: bool, promised: Ballot) -> Vote {
    Vote {
        slot: RingVersion(2),
        granted,
        promised,
        accepted: None,
        decided: None,
    }
}

fn yes() -> Vote {
    vote(true, ballot(5, "a"))
}

fn no() -> Vote {
    vote(false, ballot(0, "a"))
}

fn outvoted(round: u64) -> Vote {
    vote(false, ballot(round, "c"))
}

/// Feeds votes in order and returns all effects.
fn feed(proposer: &mut Proposer, phase: Phase, votes: &[(&str, Vote)]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (from, vote) in votes {
        proposer.on_vote(&id(from), phase, vote.clone(), &mut effects);
    }
    effects
}

fn accepts(to: &[&str], document: &RingDocument) -> Vec<Effect> {
    let accept = Accept {
        ballot: ballot(5, "a"),
        document: document.clone(),
    };
    to.iter()
        .map(|to| Effect::SendAccept {
            to: id(to),
            accept: accept.clone(),
        })
        .collect()
}

#[test]
fn two_phases_of_a_majority_decide() {
    let (mut proposer, wanted) = proposer(3);
    let mut effects = Vec::new();
    proposer.start(&mut effects);
    proposer.start(&mut effects);
    let prepare = Prepare {
        slot: RingVersion(2),
        ballot: ballot(5, "a"),
    };
    let prepares: Vec<_> = ["a", "b", "c"]
        .map(|to| Effect::SendPrepare {
            to: id(to),
            prepare: prepare.clone(),
        })
        .into();
    assert_eq!(effects, prepares);

    assert_eq!(feed(&mut proposer, Phase::Prepare, &[("a", yes())]), []);
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &[("c", yes())]),
        accepts(&["a", "b", "c"], &wanted)
    );
    assert_eq!(feed(&mut proposer, Phase::Accept, &[("b", yes())]), []);
    assert_eq!(
        feed(&mut proposer, Phase::Accept, &[("c", yes())]),
        [Effect::Decided(wanted)]
    );
    // Said once.
    assert_eq!(feed(&mut proposer, Phase::Accept, &[("a", yes())]), []);
    let mut effects = Vec::new();
    proposer.on_timeout(&mut effects);
    assert_eq!(effects, []);
    assert!(proposer.is_done());
}

#[test]
fn a_lone_founder_decides_by_itself() {
    let (mut proposer, wanted) = started(1);
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &[("a", yes())]),
        accepts(&["a"], &wanted)
    );
    assert_eq!(
        feed(&mut proposer, Phase::Accept, &[("a", yes())]),
        [Effect::Decided(wanted)]
    );
}

#[test]
fn only_distinct_members_of_this_ballot_and_phase_count() {
    let (mut proposer, _) = started(5);
    let other_ballot = vote(true, ballot(4, "a"));
    let other_slot = Vote {
        slot: RingVersion(3),
        ..yes()
    };
    let votes = [
        ("b", yes()),
        ("b", yes()),
        ("b", no()),
        ("stranger", yes()),
        ("another", yes()),
        ("c", other_ballot),
        ("d", other_slot),
        ("e", yes()),
    ];
    assert_eq!(feed(&mut proposer, Phase::Prepare, &votes), []);
    assert_eq!(feed(&mut proposer, Phase::Accept, &[("d", yes())]), []);
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &[("d", yes())]).len(),
        5
    );
    // Promises are no acceptances.
    let late = [("a", yes()), ("c", yes())];
    assert_eq!(feed(&mut proposer, Phase::Prepare, &late), []);
    assert!(!proposer.is_done());
}

#[test]
fn the_accepted_document_of_the_highest_ballot_is_proposed_again() {
    let (mut proposer, wanted) = started(5);
    let current = ring(5);
    let low = admit(&current, &join("x")).unwrap();
    let high = admit(&current, &join("y")).unwrap();
    let with = |round, name, document: &RingDocument| Vote {
        accepted: Some((ballot(round, name), document.clone())),
        ..yes()
    };
    let votes = [
        ("b", with(3, "b", &low)),
        ("c", with(3, "c", &high)),
        ("d", with(1, "e", &low)),
    ];
    let effects = feed(&mut proposer, Phase::Prepare, &votes);
    assert_eq!(effects, accepts(&["a", "b", "c", "d", "e"], &high));
    assert_ne!(high, wanted);
    let votes = [("b", yes()), ("c", yes()), ("d", yes())];
    assert_eq!(
        feed(&mut proposer, Phase::Accept, &votes),
        [Effect::Decided(high)]
    );
}

#[test]
fn what_was_decided_meanwhile_ends_the_attempt_in_either_phase() {
    let mut later = seal(&ring(3)).unwrap();
    later.version = RingVersion(4);
    let told = Vote {
        decided: Some(Box::new(later.clone())),
        ..no()
    };
    let mut foreign = told.clone();
    foreign.decided.as_mut().unwrap().cluster_id = ClusterId(9);
    for phase in [Phase::Prepare, Phase::Accept] {
        let (mut proposer, _) = started(3);
        if phase == Phase::Accept {
            feed(&mut proposer, Phase::Prepare, &[("a", yes()), ("b", yes())]);
        }
        assert_eq!(feed(&mut proposer, phase, &[("b", foreign.clone())]), []);
        assert_eq!(
            feed(&mut proposer, phase, &[("stranger", told.clone())]),
            []
        );
        assert_eq!(
            feed(&mut proposer, phase, &[("c", told.clone())]),
            [Effect::Decided(later.clone())]
        );
    }
}

#[test]
fn it_gives_up_as_soon_as_no_majority_can_grant() {
    let (mut proposer, _) = started(3);
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &[("b", outvoted(9))]),
        []
    );
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &[("c", outvoted(7))]),
        [Effect::Retry { next_round: 10 }]
    );

    // One is outvoted, two grant: that is enough.
    let (mut proposer, wanted) = started(3);
    let votes = [("b", outvoted(9)), ("a", yes()), ("c", yes())];
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &votes),
        accepts(&["a", "b", "c"], &wanted)
    );

    // Voters that are behind are no rivals.
    let (mut proposer, _) = started(3);
    let votes = [("a", yes()), ("b", no()), ("c", no())];
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &votes),
        [Effect::NoMajority {
            needed: 2,
            got: 1,
            next_round: 6
        }]
    );
}

#[test]
fn its_own_ballot_used_in_a_former_life_is_beaten_by_the_next() {
    let (mut proposer, _) = started(1);
    let used = vote(false, ballot(5, "a"));
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &[("a", used)]),
        [Effect::Retry { next_round: 6 }]
    );
}

#[test]
fn a_timeout_says_how_many_were_missing() {
    let (mut proposer, _) = started(5);
    feed(&mut proposer, Phase::Prepare, &[("a", yes()), ("b", yes())]);
    let mut effects = Vec::new();
    proposer.on_timeout(&mut effects);
    proposer.on_timeout(&mut effects);
    assert_eq!(
        effects,
        [Effect::NoMajority {
            needed: 3,
            got: 2,
            next_round: 6
        }]
    );

    let (mut proposer, _) = started(3);
    feed(&mut proposer, Phase::Prepare, &[("a", yes()), ("b", yes())]);
    feed(
        &mut proposer,
        Phase::Accept,
        &[("a", yes()), ("c", outvoted(ROUND_MAX))],
    );
    let mut effects = Vec::new();
    proposer.on_timeout(&mut effects);
    assert_eq!(
        effects,
        [Effect::Retry {
            next_round: ROUND_MAX + 1
        }]
    );
}

/// A voter that was lied to by somebody is no rival: it just does not vote, and the round stays low.
#[test]
fn a_round_that_cannot_be_is_not_to_be_beaten() {
    let (mut proposer, _) = started(3);
    let votes = [("b", outvoted(u64::MAX)), ("c", outvoted(ROUND_MAX + 1))];
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &votes),
        [Effect::NoMajority {
            needed: 2,
            got: 0,
            next_round: 6
        }]
    );
    let (mut proposer, wanted) = started(3);
    let votes = [("b", outvoted(u64::MAX)), ("a", yes()), ("c", yes())];
    assert_eq!(
        feed(&mut proposer, Phase::Prepare, &votes),
        accepts(&["a", "b", "c"], &wanted)
    );
}

#[test]
fn a_document_that_cannot_follow_is_not_proposed() {
    let current = ring(3);
    let same = current.clone();
    assert!(matches!(
        Proposer::new(id("a"), current, same, 1),
        Err(InvalidStep::WrongVersion { .. })
    ));
}
