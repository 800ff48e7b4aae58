//! A write that is in hand while the ring changes.

use dynakv_protocol::causal::Dot;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, RingVersion};

use super::*;

const D: NodeSlot = NodeSlot(3);
const NEWER: RingVersion = RingVersion(8);

fn stale(round: Round) -> Event {
    Event::Stale {
        round,
        version: NEWER,
    }
}

fn state(actors: &[u64]) -> Bytes {
    versions_of(actors).to_bytes()
}

fn has(round: Round, versions: Bytes) -> Event {
    Event::Minted {
        round,
        versions,
        context: Bytes::new(),
        rebuilding: false,
        replaced: Replaced::new(),
    }
}

fn given(to: NodeSlot, round: Round, versions: Bytes, tell_beside: bool) -> Effect {
    Effect::Merge {
        to,
        round,
        versions,
        tell_beside,
    }
}

fn rebase(put: &mut Put, owners: &[NodeSlot]) -> Vec<Effect> {
    let mut effects = Vec::new();
    let owners = Preference::new(owners.iter().copied());
    let others = owners.iter().filter(|&node| node != SELF).collect();
    put.rebase(owners, (others, [D].into_iter().collect()), &mut effects);
    effects
}

#[test]
fn it_keeps_its_dot_and_is_counted_anew_among_the_new_owners() {
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    // One copy under the ring before, which counts no more.
    assert_eq!(step(&mut put, DURABLE), []);
    let waits = [Effect::AwaitRing(NEWER)];
    assert_eq!(step(&mut put, stale(Round::First)), waits);
    assert_eq!(step(&mut put, merged(C)), []);
    let looks = Effect::Rebase {
        round: Round::First,
        versions: bytes(),
    };
    assert_eq!(rebase(&mut put, &[SELF, C, D]), [looks]);
    // What has come of it here meanwhile is what they are given.
    let now = Bytes::from_static(b"as it is by now");
    let effects = step(&mut put, has(Round::First, now.clone()));
    let ask = |to| given(to, Round::First, now.clone(), false);
    assert_eq!(effects, [ask(C), ask(D)]);
    // The former owner is none.
    assert_eq!(step(&mut put, merged(B)), []);
    assert_eq!(step(&mut put, merged(D)), []);
    // Its client hears of the write that it made.
    assert_eq!(step(&mut put, DURABLE), acknowledged(2));
}

#[test]
fn one_ring_after_the_other_may_come() {
    let (mut put, _) = start(3, usable);
    step(&mut put, minted());
    for _ in 0..3 {
        assert_eq!(step(&mut put, stale(Round::First)).len(), 1);
        assert_eq!(rebase(&mut put, &[SELF, B, C]).len(), 1);
        // Its own store is ahead already.
        assert_eq!(step(&mut put, stale(Round::First)).len(), 1);
        assert_eq!(rebase(&mut put, &[SELF, B, C]).len(), 1);
        let effects = step(&mut put, has(Round::First, bytes()));
        assert_eq!(effects, [merge(B), merge(C)]);
        assert_eq!(step(&mut put, DURABLE), []);
        assert_eq!(step(&mut put, merged(B)), []);
    }
    assert_eq!(step(&mut put, merged(C)), acknowledged(3));
}

#[test]
fn what_may_be_somewhere_is_never_said_not_to_be() {
    let waiting = || {
        let (mut put, _) = start(2, usable);
        step(&mut put, minted());
        step(&mut put, stale(Round::First));
        put
    };
    let mut put = waiting();
    let effects = step(&mut put, Event::Deadline);
    assert!(error_of(&effects).maybe_applied);
    // This node owns the key no more.
    let mut put = waiting();
    let effects = rebase(&mut put, &[B, C, D]);
    let error = error_of(&effects);
    assert!(error.maybe_applied && error.code == ErrorCode::QuorumUnavailable);
    // Its store has lost the write meanwhile.
    let mut put = waiting();
    rebase(&mut put, &[SELF, B, C]);
    let lost = Event::Refused {
        round: Round::First,
        error: ErrorReply::new(ErrorCode::QuorumUnavailable, "gone"),
    };
    let effects = step(&mut put, lost);
    assert!(error_of(&effects).maybe_applied);
    assert!(put.is_over());
}

#[test]
fn an_answered_write_and_one_that_is_not_minted_are_left_alone() {
    let (mut put, _) = start(2, usable);
    assert!(!put.may_begin_again(false) && put.may_begin_again(true));
    assert_eq!(step(&mut put, stale(Round::First)), []);
    step(&mut put, minted());
    assert!(!put.may_begin_again(true));
    step(&mut put, merged(B));
    assert_eq!(step(&mut put, DURABLE), acknowledged(2));
    assert_eq!(step(&mut put, stale(Round::First)), []);
}

/// A blind write that has its dot when an owner refuses it.
fn blind_and_refused() -> Put {
    let blind = Terms {
        is_blind: true,
        ..terms(0, 2)
    };
    let mut put = Put::start(owners(), blind, usable, &mut Vec::new());
    step(&mut put, has(Round::First, state(&[1])));
    step(&mut put, stale(Round::First));
    put
}

#[test]
fn a_blind_write_asks_the_new_owners_what_they_have_beside_it() {
    let mut put = blind_and_refused();
    rebase(&mut put, &[SELF, C, D]);
    let effects = step(&mut put, has(Round::First, state(&[1])));
    let ask = |to| given(to, Round::First, state(&[1]), true);
    assert_eq!(effects, [ask(C), ask(D)]);
    let beside = || Versions::from_bytes(&state(&[9])).unwrap();
    let something = |from| said(from, Said::Beside(Some(Box::new(beside()))));
    assert_eq!(step(&mut put, something(C)), [again(beside())]);
    // The ring changes before the second dot is minted: then the first one is all there is.
    let waits = [Effect::AwaitRing(NEWER)];
    assert_eq!(step(&mut put, stale(Round::Second)), waits);
    let looks = Effect::Rebase {
        round: Round::First,
        versions: state(&[1]),
    };
    assert_eq!(rebase(&mut put, &[SELF, C, D]), [looks]);
    let effects = step(&mut put, has(Round::First, state(&[1])));
    assert_eq!(effects, [ask(C), ask(D)]);
    // And what stands beside it is asked for again.
    assert_eq!(step(&mut put, something(D)), [again(beside())]);
}

fn again(beside: Versions) -> Effect {
    let own = Dot {
        actor: Actor(1),
        counter: 1,
    };
    Effect::Mint(Some(Box::new(Seen::Beside(Beside {
        beside,
        first: [own].into_iter().collect(),
        replaced: Replaced::new(),
    }))))
}

#[test]
fn what_has_come_to_the_own_store_meanwhile_stands_beside_a_blind_write() {
    let mut put = blind_and_refused();
    rebase(&mut put, &[SELF, B, C]);
    // An older write, mended meanwhile: the others are sent it along, and so say of nothing beside it.
    let now = state(&[1, 2]);
    assert_eq!(step(&mut put, has(Round::First, now.clone())).len(), 2);
    let nothing = said(B, Said::Beside(None));
    let now = Versions::from_bytes(&now).unwrap();
    assert_eq!(step(&mut put, nothing), [again(now)]);
}

#[test]
fn a_sloppy_write_has_stand_ins_under_the_next_ring_as_well() {
    let sloppy = Terms {
        stand_ins: Some([D].into_iter().collect()),
        ..terms(0, 2)
    };
    let none = |node| match node {
        B | C => Reach::Doubtful,
        _ => Reach::Usable,
    };
    let mut effects = Vec::new();
    let mut put = Put::start(owners(), sloppy, none, &mut effects);
    let effects = step(&mut put, minted());
    assert!(matches!(effects[..], [Effect::Hint { to: D, .. }]));
    assert_eq!(step(&mut put, DURABLE), []);
    step(&mut put, stale(Round::First));
    let mut effects = Vec::new();
    let owners = Preference::new([SELF, B, C]);
    let (none, stand_ins) = (SmallVec::new(), [D].into_iter().collect());
    put.rebase(owners, (none, stand_ins), &mut effects);
    let effects = step(&mut put, has(Round::First, bytes()));
    assert!(matches!(effects[..], [Effect::Hint { to: D, .. }]));
    assert_eq!(step(&mut put, DURABLE), []);
    let kept = Event::Merged {
        from: D,
        round: Round::First,
        said: Said::Nothing,
    };
    assert_eq!(step(&mut put, kept)[0], answer(2, true));
}
