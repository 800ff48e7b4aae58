//! Events in, whole lists of effects out.

use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value};
use dynakv_protocol::ids::WriteId;

use super::*;

const B: NodeSlot = NodeSlot(1);
const C: NodeSlot = NodeSlot(2);

fn owners() -> Preference {
    Preference::new([SELF, B, C])
}

fn usable(_: NodeSlot) -> Reach {
    Reach::Usable
}

fn doubtful(_: NodeSlot) -> Reach {
    Reach::Doubtful
}

fn start(w: u8, reach: fn(NodeSlot) -> Reach) -> (Put, Vec<Effect>) {
    let mut effects = Vec::new();
    let put = Put::start(owners(), 0, false, (w, 2), reach, &mut effects);
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

fn minted() -> Event {
    Event::Minted {
        versions: bytes(),
        context: Bytes::from_static(b"context"),
    }
}

fn merge(to: NodeSlot) -> Effect {
    let versions = bytes();
    Effect::Merge { to, versions }
}

fn acknowledged(effective_w: u8) -> Vec<Effect> {
    vec![Effect::Answer(Ok(Acknowledged {
        context: Bytes::from_static(b"context"),
        effective_w,
    }))]
}

fn error_of(effects: &[Effect]) -> &ErrorReply {
    match effects {
        [Effect::Answer(Err(error))] => error,
        other => panic!("expected one error, got {other:?}"),
    }
}

const MINT: Effect = Effect::Mint { merge_first: None };

#[test]
fn the_plain_path() {
    let (mut put, effects) = start(2, usable);
    assert_eq!(effects, [MINT]);
    assert_eq!(step(&mut put, minted()), [merge(B), merge(C)]);
    assert_eq!(step(&mut put, Event::Merged(C)), []);
    assert_eq!(step(&mut put, Event::Durable), acknowledged(2));
    // What comes later changes nothing.
    for late in [Event::Merged(B), Event::Failed(B), Event::Deadline] {
        assert_eq!(step(&mut put, late), []);
    }
}

#[test]
fn the_own_copy_counts_only_once_it_is_durable() {
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    assert_eq!(step(&mut put, Event::Merged(B)), []);
    assert_eq!(step(&mut put, Event::Merged(B)), []);
    assert_eq!(step(&mut put, Event::Merged(C)), acknowledged(2));
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
    step(&mut put, Event::Durable);
    assert_eq!(step(&mut put, Event::Merged(C)), acknowledged(2));
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
    step(&mut put, Event::Durable);
    assert_eq!(step(&mut put, Event::Failed(C)), [merge(B)]);
    assert_eq!(step(&mut put, Event::Merged(B)), acknowledged(2));
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
    assert_eq!(step(&mut put, Event::Durable), acknowledged(1));
}

#[test]
fn failures_after_minting_leave_the_outcome_open() {
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    step(&mut put, Event::Durable);
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
    let effects = step(&mut put, Event::Durable);
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
    step(&mut put, Event::Durable);
    let effects = step(&mut put, Event::Deadline);
    let error = error_of(&effects);
    assert_eq!((error.needed, error.got), (Some(3), Some(1)));
    assert!(error.maybe_applied);
}

#[test]
fn a_stand_in_reads_a_quorum_before_it_mints() {
    let mut effects = Vec::new();
    let stand_in = Preference::new([B, SELF, C]);
    let reach = |node| {
        if node == B {
            Reach::Doubtful
        } else {
            Reach::Usable
        }
    };
    let mut put = Put::start(stand_in, 1, true, (2, 2), reach, &mut effects);
    assert_eq!(effects, [Effect::ReadLocal, Effect::Read(C)]);
    let mut theirs = Versions::new();
    let dot = Dot {
        actor: Actor(9),
        counter: 4,
    };
    let incoming = Incoming {
        write_id: WriteId(1),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(bytes()),
    };
    theirs.write(&Clock::new(), dot, incoming);
    let read = Event::Read(C, Some(Box::new(theirs.clone())));
    assert_eq!(step(&mut put, read), []);
    let effects = step(&mut put, Event::Read(SELF, Some(Box::default())));
    let merge_first = Some(Box::new(theirs));
    assert_eq!(effects, [Effect::Mint { merge_first }]);
}

#[test]
fn a_stand_in_that_needs_no_other_copy_reads_no_other() {
    let mut effects = Vec::new();
    let stand_in = Preference::new([B, SELF, C]);
    let mut put = Put::start(stand_in, 1, true, (1, 2), doubtful, &mut effects);
    assert_eq!(effects, [Effect::ReadLocal]);
    let effects = step(&mut put, Event::Read(SELF, Some(Box::default())));
    assert!(matches!(effects[..], [Effect::Mint { .. }]));
}

#[test]
fn a_rebuilding_owner_has_no_say_in_that_reading() {
    let mut effects = Vec::new();
    let stand_in = Preference::new([B, SELF, C]);
    let mut put = Put::start(stand_in, 1, true, (2, 2), usable, &mut effects);
    step(&mut put, Event::Read(SELF, Some(Box::default())));
    assert_eq!(step(&mut put, Event::Read(C, None)), []);
    let effects = step(&mut put, Event::Read(B, Some(Box::default())));
    assert!(matches!(effects[..], [Effect::Mint { .. }]));
}

#[test]
fn a_lone_node_needs_nobody() {
    let mut effects = Vec::new();
    let mut put = Put::start(
        Preference::new([SELF]),
        0,
        false,
        (2, 2),
        doubtful,
        &mut effects,
    );
    assert_eq!(effects, [MINT]);
    step(&mut put, minted());
    assert_eq!(step(&mut put, Event::Durable), acknowledged(1));
}

#[test]
fn a_copy_that_this_node_cannot_keep_is_one_of_the_copies() {
    let full = || Event::Refused(ErrorReply::new(ErrorCode::DiskFull, "").maybe_applied(true));
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    assert_eq!(step(&mut put, full()), []);
    assert_eq!(step(&mut put, Event::Merged(C)), []);
    assert_eq!(step(&mut put, Event::Merged(B)), acknowledged(2));

    let (mut put, _) = start(3, usable);
    step(&mut put, minted());
    let effects = step(&mut put, full());
    assert!(
        matches!(&effects[..], [Effect::Answer(Err(_))]),
        "{effects:?}"
    );
}
