//! Events in, whole lists of effects out.

use super::*;

const A: NodeSlot = NodeSlot(1);
const B: NodeSlot = NodeSlot(2);

fn write() -> Terms {
    Terms {
        needed: 2,
        is_write: true,
        ..Terms::default()
    }
}

fn start(owners: &[NodeSlot], reach: fn(NodeSlot) -> Reach) -> (Forward, Vec<Effect>) {
    let mut effects = Vec::new();
    let owners = Preference::new(owners.iter().copied());
    let forward = Forward::start(&owners, 0, write(), reach, &mut effects);
    (forward, effects)
}

fn step(forward: &mut Forward, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    forward.step(event, &mut effects);
    effects
}

/// Steps, and the owners that are to be sent it have been.
fn step_and_send(forward: &mut Forward, event: Event) -> Vec<Effect> {
    let effects = step(forward, event);
    for effect in &effects {
        if let Effect::Send(to) = effect {
            assert_eq!(step(forward, Event::Sent(*to)), []);
        }
    }
    effects
}

/// One that its first owner has been sent.
fn sent(owners: &[NodeSlot], terms: Terms) -> Forward {
    let mut effects = Vec::new();
    let owners = Preference::new(owners.iter().copied());
    let mut forward = Forward::start(&owners, 0, terms, |_| Reach::Usable, &mut effects);
    let [Effect::Send(first)] = effects[..] else {
        panic!("expected to send, got {effects:?}");
    };
    assert_eq!(step(&mut forward, Event::Sent(first)), []);
    forward
}

fn answer(response: &Response) -> Frame {
    let mut body = bytes::BytesMut::new();
    response.encode(&mut body);
    let header = dynakv_protocol::frame::Header::new(response.kind(), 1);
    Frame {
        header,
        body: body.freeze(),
    }
}

fn refused(code: ErrorCode) -> ErrorReply {
    ErrorReply::new(code, "no")
}

fn says(from: NodeSlot, error: ErrorReply) -> Event {
    Event::Answered(from, answer(&Response::Error(error)))
}

fn error_of(effects: &[Effect]) -> &ErrorReply {
    match effects {
        [Effect::Answer(error)] => error,
        other => panic!("expected an error, got {other:?}"),
    }
}

#[test]
fn the_next_owner_is_tried_and_only_once() {
    let mut forward = sent(&[A, B], write());
    assert_eq!(
        step_and_send(&mut forward, Event::Failed(A)),
        [Effect::Send(B)]
    );
    assert_eq!(step(&mut forward, Event::Failed(A)), []);
    let effects = step(&mut forward, Event::Failed(B));
    let error = error_of(&effects);
    assert_eq!(error.code, ErrorCode::QuorumUnavailable);
    assert!(error.maybe_applied);
}

#[test]
fn what_nobody_took_is_not_applied() {
    let mut forward = sent(&[A, B], write());
    assert_eq!(
        step_and_send(&mut forward, Event::NotTaken(A)),
        [Effect::Send(B)]
    );
    let effects = step(&mut forward, Event::NotTaken(B));
    let error = error_of(&effects);
    assert!(!error.maybe_applied, "{error}");
    assert!(error.message.contains("nothing was written"), "{error}");

    // One that was lost with the request counts, whoever comes after it.
    for lost in [Event::Failed(A), Event::Slow] {
        let mut forward = sent(&[A, B], write());
        assert_eq!(step_and_send(&mut forward, lost), [Effect::Send(B)]);
        assert!(error_of(&step(&mut forward, Event::NotTaken(B))).maybe_applied);
    }
    let mut forward = sent(&[A], write());
    assert!(error_of(&step(&mut forward, Event::Deadline)).maybe_applied);
    // Nor is what was given to others before this began.
    let mut attempts = Attempts::default();
    attempts.begin();
    let terms = Terms {
        attempts,
        ..write()
    };
    let mut forward = sent(&[A], terms);
    assert!(error_of(&step(&mut forward, Event::NotTaken(A))).maybe_applied);
}

#[test]
fn what_waits_for_a_link_was_not_sent() {
    let (mut forward, effects) = start(&[A, B], |_| Reach::Usable);
    assert_eq!(effects, [Effect::Send(A)]);
    assert_eq!(step(&mut forward, Event::Slow), [Effect::Send(B)]);
    // Who was given up is not sent it once there is a link.
    assert_eq!(step(&mut forward, Event::LinkUp(A)), []);
    assert_eq!(step(&mut forward, Event::LinkUp(B)), [Effect::Send(B)]);
    assert!(!error_of(&step(&mut forward, Event::Deadline)).maybe_applied);

    let (mut forward, _) = start(&[A], |_| Reach::Usable);
    assert_eq!(
        step_and_send(&mut forward, Event::LinkUp(A)),
        [Effect::Send(A)]
    );
    assert_eq!(step(&mut forward, Event::LinkUp(A)), []);
    assert!(error_of(&step(&mut forward, Event::Deadline)).maybe_applied);
}

#[test]
fn an_answer_is_passed_on_as_it_came_and_of_a_write_only_the_last_owners() {
    let done = answer(&Response::HintKept);
    let mut forward = sent(&[A, B], write());
    assert_eq!(step_and_send(&mut forward, Event::Slow), [Effect::Send(B)]);
    assert_eq!(step(&mut forward, Event::Answered(A, done.clone())), []);
    let effects = step(&mut forward, Event::Answered(B, done.clone()));
    assert_eq!(effects, [Effect::PassOn(done.clone())]);

    let read = Terms {
        is_write: false,
        ..write()
    };
    let mut forward = sent(&[A, B], read);
    step_and_send(&mut forward, Event::Slow);
    let effects = step(&mut forward, Event::Answered(A, done.clone()));
    assert_eq!(effects, [Effect::PassOn(done)]);
}

#[test]
fn refusals_of_an_owner_go_to_the_next_and_those_of_the_request_to_the_client() {
    for code in [
        ErrorCode::NotOwner,
        ErrorCode::StaleRing,
        ErrorCode::NotReady,
        ErrorCode::Overloaded,
        ErrorCode::Timeout,
        ErrorCode::DiskFull,
    ] {
        let mut forward = sent(&[A, B], write());
        let effects = step_and_send(&mut forward, says(A, refused(code)));
        assert_eq!(effects, [Effect::Send(B)], "{code:?}");
        // It has certainly not acted on it.
        assert!(!forward.attempts().any_earlier(), "{code:?}");
    }
    for code in [ErrorCode::BadRequest, ErrorCode::Conflict] {
        let mut forward = sent(&[A, B], write());
        let said = answer(&Response::Error(refused(code)));
        let effects = step(&mut forward, Event::Answered(A, said.clone()));
        assert_eq!(effects, [Effect::PassOn(said)], "{code:?}");
    }
    // A late refusal of a read is the client's: no time is left for another owner.
    let read = Terms {
        is_write: false,
        ..write()
    };
    let mut forward = sent(&[A, B], read);
    let said = answer(&Response::Error(refused(ErrorCode::Timeout)));
    let effects = step(&mut forward, Event::Answered(A, said.clone()));
    assert_eq!(effects, [Effect::PassOn(said)]);
}

#[test]
fn a_refusal_in_doubt_leaves_its_attempt_behind() {
    let mut forward = sent(&[A, B], write());
    let doubt = refused(ErrorCode::NotReady).maybe_applied(true);
    assert_eq!(
        step_and_send(&mut forward, says(A, doubt)),
        [Effect::Send(B)]
    );
    // So what the next one refuses may have been written all the same.
    let effects = step(&mut forward, says(B, refused(ErrorCode::Conflict)));
    let error = error_of(&effects);
    assert!(error.code == ErrorCode::Conflict && error.maybe_applied);
}

#[test]
fn owners_without_room_are_passed_by_and_named_in_the_end() {
    let full = |from| says(from, refused(ErrorCode::DiskFull));
    let mut forward = sent(&[A, B], write());
    assert_eq!(step(&mut forward, full(B)), []);
    assert_eq!(step_and_send(&mut forward, full(A)), [Effect::Send(B)]);
    let effects = step(&mut forward, full(B));
    let error = error_of(&effects);
    assert!(error.code == ErrorCode::DiskFull && !error.maybe_applied);
}

#[test]
fn a_node_without_room_or_whose_disk_hangs_does_not_take_over() {
    let full = Terms {
        is_full: true,
        ..write()
    };
    let hanging = Terms {
        is_hanging: true,
        ..write()
    };
    for (terms, code) in [
        (full, ErrorCode::DiskFull),
        (hanging, ErrorCode::QuorumUnavailable),
    ] {
        let mut effects = Vec::new();
        let owners = Preference::new([SELF, A]);
        let mut forward = Forward::start(&owners, 1, terms, |_| Reach::Usable, &mut effects);
        assert_eq!(effects, [Effect::Send(A)]);
        let effects = step(&mut forward, Event::Failed(A));
        assert!(
            matches!(&effects[..], [Effect::Answer(error)] if error.code == code),
            "{effects:?}"
        );
    }
}

#[test]
fn a_slow_owner_is_passed_by_while_there_is_another() {
    let (mut forward, _) = start(&[A, SELF], |_| Reach::Usable);
    assert_eq!(step(&mut forward, Event::Slow), [Effect::TakeOver]);
    let (mut forward, _) = start(&[A], |_| Reach::Usable);
    assert_eq!(step(&mut forward, Event::Slow), []);
}

#[test]
fn a_sloppy_write_is_stood_in_for_when_no_owner_in_reach_takes_it() {
    let reach = |node| {
        if node == A {
            Reach::Usable
        } else {
            Reach::Doubtful
        }
    };
    let terms = Terms {
        may_stand_in: true,
        ..write()
    };
    let full = says(A, refused(ErrorCode::DiskFull));
    for end in [Event::Failed(A), Event::Slow, full] {
        let mut effects = Vec::new();
        let owners = Preference::new([A, B]);
        let mut forward = Forward::start(&owners, 0, terms, reach, &mut effects);
        assert_eq!(effects, [Effect::Send(A)]);
        // B is not waited for.
        assert_eq!(step(&mut forward, end), [Effect::StandIn]);
    }
}

#[test]
fn doubtful_owners_come_last() {
    let reach = |node| {
        if node == A {
            Reach::Usable
        } else {
            Reach::Doubtful
        }
    };
    let (mut forward, _) = start(&[A, B, SELF], reach);
    assert_eq!(step(&mut forward, Event::Failed(A)), [Effect::TakeOver]);
}
