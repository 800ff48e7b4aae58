//! Events in, whole lists of effects out.

use dynakv_protocol::causal::{Dot, Incoming, Value};
use dynakv_protocol::{Actor, ErrorCode, WriteId};

use super::*;

const B: NodeSlot = NodeSlot(1);
const C: NodeSlot = NodeSlot(2);

fn owners() -> Preference {
    Preference::new([SELF, B, C])
}

mod blind;
mod catching_up;
mod changing;
mod rebase;

fn usable(_: NodeSlot) -> Reach {
    Reach::Usable
}

fn doubtful(_: NodeSlot) -> Reach {
    Reach::Doubtful
}

/// Of a write with a context.
fn terms(own: Place, w: u8) -> Terms {
    Terms {
        own,
        is_stand_in: false,
        is_blind: false,
        is_rebuilding: false,
        w,
        promised: Promised { w: 2, r: 2 },
        stand_ins: None,
    }
}

fn start(w: u8, reach: fn(NodeSlot) -> Reach) -> (Put, Vec<Effect>) {
    let mut effects = Vec::new();
    let put = Put::start(owners(), terms(0, w), reach, &mut effects);
    (put, effects)
}

fn step(put: &mut Put, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    put.step(event, &mut effects);
    effects
}

fn bytes() -> Bytes {
    Bytes::from_static(b"versions")
}

/// One value of each of these actors, none of which has seen another.
fn versions_of(actors: &[u64]) -> Versions {
    let mut versions = Versions::new();
    for &actor in actors {
        let dot = Dot {
            actor: Actor(actor),
            counter: 1,
        };
        let incoming = Incoming {
            write_id: WriteId(u128::from(actor)),
            timestamp: 1,
            expires_at_ms: None,
            value: Value::Bytes(bytes()),
        };
        versions.write(&Clock::new(), dot, incoming);
    }
    versions
}

fn minted() -> Event {
    Event::Minted {
        round: Round::First,
        versions: bytes(),
        context: Bytes::from_static(b"context"),
        rebuilding: false,
        replaced: Replaced::new(),
    }
}

fn merge(to: NodeSlot) -> Effect {
    Effect::Merge {
        to,
        round: Round::First,
        versions: bytes(),
        tell_beside: false,
    }
}

fn merged(from: NodeSlot) -> Event {
    said(from, Said::Nothing)
}

fn said(from: NodeSlot, said: Said) -> Event {
    let round = Round::First;
    Event::Merged { from, round, said }
}

const DURABLE: Event = Event::Durable(Round::First);

fn answer(effective_w: u8, is_sloppy: bool) -> Effect {
    Effect::Answer(Ok(Acknowledged {
        context: Bytes::from_static(b"context"),
        effective_w,
        is_sloppy,
        replaced: 0,
    }))
}

fn acknowledged(effective_w: u8) -> Vec<Effect> {
    vec![answer(effective_w, false)]
}

/// Acknowledged, while these owners are not known to have it.
fn acknowledged_without(effective_w: u8, owed: &[NodeSlot]) -> Vec<Effect> {
    let mut effects = acknowledged(effective_w);
    effects.extend(owed.iter().map(|&node| Effect::Remind(node)));
    effects
}

fn error_of(effects: &[Effect]) -> &ErrorReply {
    match effects {
        [Effect::Answer(Err(error))] => error,
        other => panic!("expected one error, got {other:?}"),
    }
}

const MINT: Effect = Effect::Mint(None);

#[test]
fn the_plain_path() {
    let (mut put, effects) = start(2, usable);
    assert_eq!(effects, [MINT]);
    assert_eq!(step(&mut put, minted()), [merge(B), merge(C)]);
    assert_eq!(step(&mut put, merged(C)), []);
    assert_eq!(step(&mut put, DURABLE), acknowledged(2));
    assert!(put.is_answered() && !put.is_over());
    assert_eq!(step(&mut put, merged(B)), []);
    assert!(put.is_over());
    // What comes later changes nothing.
    for late in [merged(B), Event::Failed(B), Event::Deadline] {
        assert_eq!(step(&mut put, late), []);
    }
}

#[test]
fn an_owner_that_fails_after_the_answer_is_owed_the_key() {
    for late in [Event::Failed(B), Event::Deadline] {
        let (mut put, _) = start(2, usable);
        step(&mut put, minted());
        step(&mut put, merged(C));
        assert_eq!(step(&mut put, DURABLE), acknowledged(2));
        assert_eq!(step(&mut put, late), [Effect::Remind(B)]);
        assert!(put.is_over());
    }
}

#[test]
fn the_own_copy_counts_only_once_it_is_durable() {
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    assert_eq!(step(&mut put, merged(B)), []);
    assert_eq!(step(&mut put, merged(B)), []);
    assert_eq!(step(&mut put, merged(C)), acknowledged(2));
}

#[test]
fn one_owner_down_is_not_waited_for() {
    let reach = |node| {
        if node == B {
            Reach::Doubtful
        } else {
            Reach::Usable
        }
    };
    let (mut put, effects) = start(2, reach);
    assert_eq!(effects, [MINT]);
    assert_eq!(step(&mut put, minted()), [merge(C)]);
    step(&mut put, DURABLE);
    let effects = step(&mut put, merged(C));
    assert_eq!(effects, acknowledged_without(2, &[B]));
    assert!(put.is_over());
}

#[test]
fn a_doubtful_owner_is_tried_when_another_fails() {
    let reach = |node| {
        if node == B {
            Reach::Doubtful
        } else {
            Reach::Usable
        }
    };
    let (mut put, _) = start(2, reach);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, Event::Failed(C)), [merge(B)]);
    let effects = step(&mut put, merged(B));
    assert_eq!(effects, acknowledged_without(2, &[C]));
}

#[test]
fn two_owners_down_are_tried_at_once_and_nothing_is_written() {
    let (mut put, effects) = start(2, doubtful);
    assert_eq!(effects, [Effect::Ping(B), Effect::Ping(C)]);
    assert_eq!(step(&mut put, Event::Failed(B)), []);
    let effects = step(&mut put, Event::Failed(C));
    let error = error_of(&effects);
    assert_eq!(error.code, ErrorCode::QuorumUnavailable);
    assert_eq!((error.needed, error.got), (Some(2), Some(1)));
    assert!(!error.maybe_applied);
}

#[test]
fn an_owner_that_answers_the_ping_takes_part() {
    let (mut put, _) = start(2, doubtful);
    step(&mut put, Event::Failed(B));
    assert_eq!(step(&mut put, Event::Reached(C)), [MINT]);
    assert_eq!(step(&mut put, minted()), [merge(C)]);
}

#[test]
fn with_w_of_one_the_own_copy_is_enough() {
    let (mut put, effects) = start(1, doubtful);
    assert_eq!(effects, [MINT]);
    assert_eq!(step(&mut put, minted()), []);
    let effects = step(&mut put, DURABLE);
    assert_eq!(effects, acknowledged_without(1, &[B, C]));
}

#[test]
fn failures_after_minting_leave_the_outcome_open() {
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, Event::Failed(B)), []);
    let effects = step(&mut put, Event::Failed(C));
    let error = error_of(&effects);
    assert_eq!(error.code, ErrorCode::QuorumUnavailable);
    assert!(error.maybe_applied && error.retryable);
}

#[test]
fn an_owner_that_failed_while_minting_is_not_sent_to() {
    let (mut put, _) = start(2, usable);
    assert_eq!(step(&mut put, Event::Failed(B)), []);
    assert_eq!(step(&mut put, minted()), [merge(C)]);
    // And the failure of both shows at once, not at the deadline.
    let (mut put, _) = start(2, usable);
    step(&mut put, Event::Failed(B));
    step(&mut put, Event::Failed(C));
    assert_eq!(step(&mut put, minted()), []);
    let effects = step(&mut put, DURABLE);
    assert!(error_of(&effects).maybe_applied);
}

#[test]
fn the_deadline_says_whether_anything_may_have_happened() {
    let (mut put, _) = start(2, doubtful);
    let effects = step(&mut put, Event::Deadline);
    assert_eq!(error_of(&effects).code, ErrorCode::Timeout);
    assert!(!error_of(&effects).maybe_applied);

    let (mut put, _) = start(3, usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    let effects = step(&mut put, Event::Deadline);
    let error = error_of(&effects);
    assert_eq!((error.needed, error.got), (Some(3), Some(1)));
    assert!(error.maybe_applied);
}

#[test]
fn a_lone_node_needs_nobody() {
    let mut effects = Vec::new();
    let mut put = Put::start(Preference::new([SELF]), terms(0, 2), doubtful, &mut effects);
    assert_eq!(effects, [MINT]);
    step(&mut put, minted());
    assert_eq!(step(&mut put, DURABLE), acknowledged(1));
}

#[test]
fn a_copy_that_this_node_cannot_keep_is_one_of_the_copies() {
    let full = || Event::Refused {
        round: Round::First,
        error: ErrorReply::new(ErrorCode::DiskFull, "").maybe_applied(true),
    };
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    assert_eq!(step(&mut put, full()), []);
    assert_eq!(step(&mut put, merged(C)), []);
    assert_eq!(step(&mut put, merged(B)), acknowledged(2));

    let (mut put, _) = start(3, usable);
    step(&mut put, minted());
    let effects = step(&mut put, full());
    assert!(
        matches!(&effects[..], [Effect::Answer(Err(_))]),
        "{effects:?}"
    );
}

const D: NodeSlot = NodeSlot(3);
const E: NodeSlot = NodeSlot(4);
const F: NodeSlot = NodeSlot(5);

/// A sloppy write that this node coordinates, with two nodes that may stand in.
fn start_sloppy(terms: Terms, reach: fn(NodeSlot) -> Reach) -> (Put, Vec<Effect>) {
    let mut effects = Vec::new();
    let terms = Terms {
        stand_ins: Some([D, E].into_iter().collect()),
        ..terms
    };
    let put = Put::start(owners(), terms, reach, &mut effects);
    (put, effects)
}

fn hint(to: NodeSlot) -> Effect {
    Effect::Hint {
        to,
        round: Round::First,
        versions: bytes(),
    }
}

#[test]
fn a_stand_in_counts_in_the_place_of_an_owner_and_the_answer_says_so() {
    let (mut put, effects) = start_sloppy(terms(0, 2), doubtful);
    assert_eq!(effects, [MINT]);
    assert_eq!(step(&mut put, minted()), [hint(D)]);
    assert_eq!(step(&mut put, DURABLE), []);
    assert_eq!(step(&mut put, merged(D)), [answer(2, true)]);
    assert!(put.is_over());
}

#[test]
fn with_owners_enough_nobody_stands_in() {
    let reach = |node| {
        if node == B {
            Reach::Doubtful
        } else {
            Reach::Usable
        }
    };
    let (mut put, _) = start_sloppy(terms(0, 2), reach);
    assert_eq!(step(&mut put, minted()), [merge(C)]);
    step(&mut put, DURABLE);
    let effects = step(&mut put, merged(C));
    assert_eq!(effects, acknowledged_without(2, &[B]));
}

#[test]
fn whoever_fails_is_stood_in_for_and_a_place_counts_once() {
    let (mut put, _) = start_sloppy(terms(0, 3), usable);
    assert_eq!(step(&mut put, minted()), [merge(B), merge(C)]);
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, Event::Failed(B)), [hint(D)]);
    // A stand-in that fails is replaced as well.
    assert_eq!(step(&mut put, Event::Failed(D)), [hint(E)]);
    assert_eq!(step(&mut put, merged(E)), []);
    // The owner answers after all: that is the same place.
    assert_eq!(step(&mut put, merged(B)), []);
    assert_eq!(step(&mut put, merged(C)), [answer(3, true)]);
}

#[test]
fn silent_owners_are_passed_by() {
    let (mut put, _) = start_sloppy(terms(0, 2), usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, Event::Slow), [hint(D), hint(E)]);
    assert_eq!(step(&mut put, Event::Slow), []);
    // The silent one fails while its stand-in may still answer.
    assert_eq!(step(&mut put, Event::Failed(B)), []);
    assert_eq!(step(&mut put, merged(D)), [answer(2, true)]);
    // A strict write waits.
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    assert_eq!(step(&mut put, Event::Slow), []);
}

#[test]
fn a_silent_stand_in_is_passed_by_like_an_owner() {
    let mut effects = Vec::new();
    let terms = Terms {
        stand_ins: Some([D, E, F].into_iter().collect()),
        ..terms(0, 2)
    };
    let mut put = Put::start(owners(), terms, usable, &mut effects);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    assert!(put.passes_by());
    assert_eq!(step(&mut put, Event::Slow), [hint(D), hint(E)]);
    assert_eq!(step(&mut put, Event::Slow), [hint(F)]);
    // Both that fill one place: any of them counts for it, and no more than once.
    assert_eq!(step(&mut put, Event::Failed(D)), []);
    assert_eq!(step(&mut put, merged(F)), [answer(2, true)]);
    assert!(!put.passes_by());
}

#[test]
fn an_owner_is_owed_the_key_unless_a_stand_in_owes_it_already() {
    let with_stand_ins_asked = || {
        let (mut put, _) = start_sloppy(terms(0, 2), usable);
        step(&mut put, minted());
        step(&mut put, DURABLE);
        assert_eq!(step(&mut put, Event::Slow), [hint(D), hint(E)]);
        assert_eq!(step(&mut put, merged(B)), acknowledged(2));
        put
    };
    // Whoever of the two fails last leaves the owner without it.
    for [first, last] in [[C, E], [E, C]] {
        let mut put = with_stand_ins_asked();
        assert_eq!(step(&mut put, Event::Failed(first)), []);
        assert_eq!(step(&mut put, Event::Failed(last)), [Effect::Remind(C)]);
        assert!(put.is_over());
    }
    let mut put = with_stand_ins_asked();
    assert_eq!(step(&mut put, merged(E)), []);
    assert!(put.is_over());
    let mut put = with_stand_ins_asked();
    assert_eq!(step(&mut put, Event::Deadline), [Effect::Remind(C)]);
}

#[test]
fn without_stand_ins_enough_a_sloppy_write_is_refused_before_anything_is_written() {
    let mut effects = Vec::new();
    let terms = Terms {
        stand_ins: Some(SmallVec::new()),
        ..terms(0, 2)
    };
    let mut put = Put::start(owners(), terms, doubtful, &mut effects);
    assert_eq!(effects, [Effect::Ping(B), Effect::Ping(C)]);
    step(&mut put, Event::Failed(B));
    let effects = step(&mut put, Event::Failed(C));
    assert!(!error_of(&effects).maybe_applied);
}

#[test]
fn a_node_that_owns_nothing_stands_in_itself() {
    let mut effects = Vec::new();
    let strangers = Preference::new([B, C, D]);
    let terms = Terms {
        is_stand_in: true,
        stand_ins: Some([E].into_iter().collect()),
        ..terms(0, 2)
    };
    let mut put = Put::start(strangers, terms, doubtful, &mut effects);
    assert_eq!(effects, [MINT]);
    assert_eq!(step(&mut put, minted()), [hint(E)]);
    // The end of the owner in whose place it stands is no news.
    assert_eq!(step(&mut put, Event::Failed(B)), []);
    assert_eq!(step(&mut put, DURABLE), []);
    assert_eq!(step(&mut put, merged(E)), [answer(2, true)]);
}
