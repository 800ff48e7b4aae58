//! Events in, whole lists of effects out, in the words of the coordinator.

use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{Frame, Header};
use dynakv_protocol::message::{Response, kind};
use dynakv_protocol::peer::{Digest, Merged, VersionsReply};
use dynakv_protocol::{Actor, ErrorCode, ErrorReply, RingVersion, WriteId};

use super::*;
use crate::engine::placement::preference::{NodeSlot, Preference, Reach, SELF};
use crate::engine::read::get::Plan;
use crate::engine::read::pace::Pace;
use crate::engine::write::forward;
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::put::{self, Promised, Replaced, Round};

const A: NodeSlot = NodeSlot(1);
const B: NodeSlot = NodeSlot(2);

const RING: RingVersion = RingVersion(7);

const ACTOR: Actor = Actor(9);

fn usable(_: NodeSlot) -> Reach {
    Reach::Usable
}

fn owners() -> Preference {
    Preference::new([SELF, A, B])
}

fn intent() -> Box<Intent> {
    Box::new(Intent {
        write_id: WriteId(1),
        value: Value::Bytes(Bytes::from_static(b"v")),
        context: None,
        ttl_ms: None,
        value_bytes_max: 1 << 20,
        again: false,
        if_no_conflict: false,
    })
}

/// Of a write with a context.
fn terms() -> put::Terms {
    put::Terms {
        own: 0,
        is_stand_in: false,
        is_blind: false,
        is_rebuilding: false,
        w: 2,
        promised: Promised { w: 2, r: 2 },
        stand_ins: None,
    }
}

fn begin(start: impl FnOnce(&mut Effects) -> Operation) -> (Operation, Vec<Effect>) {
    let mut effects = Effects::default();
    let operation = start(&mut effects);
    (operation, effects.drain().collect())
}

fn put_with(terms: put::Terms, reach: fn(NodeSlot) -> Reach) -> (Operation, Vec<Effect>) {
    begin(|effects| Operation::put(owners(), terms, intent(), reach, effects))
}

fn put() -> Operation {
    put_with(terms(), usable).0
}

fn get() -> Operation {
    let plan = Plan {
        r: 2,
        repair_first: false,
        in_full: false,
        turn: 1,
    };
    let mut pace = Pace::default();
    let pace = (&mut pace, std::time::Duration::from_secs(1));
    begin(|effects| Operation::get(owners(), 0, plan, usable, pace, effects)).0
}

fn import() -> Operation {
    begin(|effects| Operation::import(owners(), 2, bytes(), effects)).0
}

fn explain() -> Operation {
    begin(|effects| Operation::explain(&owners(), effects)).0
}

/// A write on its way to the first owner; this node is none.
fn forward(is_sloppy: bool) -> Operation {
    let terms = forward::Terms {
        needed: 2,
        is_write: true,
        is_sloppy,
        ..forward::Terms::default()
    };
    let owners = Preference::new([A, B]);
    let (mut operation, effects) =
        begin(|effects| Operation::forward(&owners, 0, terms, usable, effects));
    assert_eq!(effects, [hand_on(A, false, true)]);
    assert_eq!(step(&mut operation, Event::HandedOn(A)), []);
    operation
}

fn step(operation: &mut Operation, event: Event) -> Vec<Effect> {
    let mut effects = Effects::default();
    operation.step(event, &mut effects);
    effects.drain().collect()
}

fn bytes() -> Bytes {
    Bytes::from_static(b"versions")
}

fn hand_on(to: NodeSlot, again: bool, may_go_elsewhere: bool) -> Effect {
    Effect::HandOn {
        to,
        again,
        may_go_elsewhere,
    }
}

fn merge(to: NodeSlot) -> Effect {
    Effect::Merge {
        to,
        purpose: Purpose::Write,
        versions: bytes(),
        tell_beside: false,
    }
}

fn answered(from: NodeSlot, purpose: Purpose, response: Response) -> Event<'static> {
    Event::Answered {
        from,
        purpose,
        response,
    }
}

fn declined(from: NodeSlot, purpose: Purpose, code: ErrorCode) -> Event<'static> {
    let error = ErrorReply::new(code, "no").with_ring_version(RING);
    answered(from, purpose, Response::Error(error))
}

fn stored(purpose: Purpose, outcome: JobOutcome) -> Event<'static> {
    Event::Stored {
        purpose,
        outcome,
        actor: ACTOR,
    }
}

fn minted() -> Event<'static> {
    let outcome = JobOutcome::Minted {
        versions: bytes(),
        context: Bytes::from_static(b"context"),
        rebuilding: false,
        replaced: Replaced::new(),
    };
    stored(Purpose::Write, outcome)
}

fn durable(purpose: Purpose) -> Event<'static> {
    let outcome = JobOutcome::Durable {
        rebuilding: false,
        beside: None,
    };
    stored(purpose, outcome)
}

fn merged(from: NodeSlot) -> Event<'static> {
    let merged = Merged {
        rebuilding: false,
        beside: None,
    };
    answered(from, Purpose::Write, Response::Merged(merged))
}

fn read(from: NodeSlot, digest: Option<Digest>) -> Event<'static> {
    let reply = VersionsReply {
        rebuilding: false,
        versions: Bytes::new(),
        actor: Some(ACTOR),
        digest,
    };
    answered(from, Purpose::Read, Response::Versions(reply))
}

fn error_of(effects: &[Effect]) -> &ErrorReply {
    match effects {
        [Effect::Answer(Err(error))] => error,
        other => panic!("expected an error, got {other:?}"),
    }
}

#[test]
fn a_write_is_minted_copied_and_answered_and_then_waits_for_the_last_owner() {
    let (mut put, effects) = put_with(terms(), usable);
    let [Effect::Mint(mint)] = &effects[..] else {
        panic!("expected to mint, got {effects:?}");
    };
    assert_eq!((&mint.intent, mint.round), (&Some(intent()), Round::First));
    assert!(mint.catches_up && mint.seen.is_none());
    assert_eq!(step(&mut put, minted()), [merge(A), merge(B)]);
    assert_eq!(step(&mut put, merged(A)), []);
    assert_eq!(put.rest(), Rest::InHand);
    let effects = step(&mut put, durable(Purpose::Write));
    assert!(matches!(
        &effects[..],
        [Effect::Answer(Ok(Answer::Written(_)))]
    ));
    assert_eq!(put.rest(), Rest::Tail);
    assert_eq!(step(&mut put, merged(B)), []);
    assert_eq!(put.rest(), Rest::Over);
}

#[test]
fn who_stands_in_mints_over_its_hint_for_all_owners() {
    let terms = put::Terms {
        is_stand_in: true,
        stand_ins: Some([NodeSlot(3)].into_iter().collect()),
        ..terms()
    };
    let reach = |_| Reach::Doubtful;
    let start = |effects: &mut Effects| {
        Operation::put(Preference::new([A, B]), terms, intent(), reach, effects)
    };
    let (_, effects) = begin(start);
    let owed = Owed {
        owners: [A, B].into_iter().collect(),
        needed: 2,
    };
    let intent = Some(intent());
    assert_eq!(effects, [Effect::MintHint { intent, owed }]);
}

#[test]
fn what_has_put_nothing_anywhere_begins_again_under_a_newer_ring() {
    let newer = || Effect::NewerRing(RING);
    let begins = || vec![newer(), Effect::BeginAgain(RING)];
    let stale = |purpose| declined(A, purpose, ErrorCode::StaleRing);
    assert_eq!(step(&mut get(), stale(Purpose::Read)), begins());
    assert_eq!(step(&mut explain(), stale(Purpose::Read)), begins());
    assert_eq!(step(&mut import(), stale(Purpose::Write)), begins());
    let (mut doubtful, effects) = put_with(terms(), |_| Reach::Doubtful);
    assert_eq!(effects, [Effect::Ping(A), Effect::Ping(B)]);
    assert_eq!(step(&mut doubtful, stale(Purpose::Ping)), begins());

    // What may be written somewhere goes on with the dot that it has.
    let mut put = put();
    step(&mut put, minted());
    let waits = vec![newer(), Effect::AwaitRing(RING)];
    assert_eq!(step(&mut put, stale(Purpose::Write)), waits);
    let event = Event::NewRing {
        owners: Preference::new([SELF, A, B]),
        usable: [A, B].into_iter().collect(),
        stand_ins: [].into_iter().collect(),
    };
    assert!(matches!(step(&mut put, event)[..], [Effect::Rebase { .. }]));
}

#[test]
fn what_its_own_store_refuses_as_stale_begins_again_unless_it_was_sent() {
    let stale = |purpose| {
        let error = ErrorReply::new(ErrorCode::StaleRing, "newer").with_ring_version(RING);
        stored(purpose, JobOutcome::Refused(error))
    };
    let begins = || vec![Effect::BeginAgain(RING)];
    assert_eq!(step(&mut get(), stale(Purpose::Read)), begins());
    assert_eq!(step(&mut import(), stale(Purpose::Write)), begins());
    let mut put = put();
    assert_eq!(step(&mut put, stale(Purpose::Write)), begins());
    step(&mut put, minted());
    let waits = vec![Effect::AwaitRing(RING)];
    assert_eq!(step(&mut put, stale(Purpose::Write)), waits);
}

#[test]
fn a_digest_is_an_answer_to_a_get_and_to_nobody_else() {
    let digest = Digest::of(b"what it has");
    // The get compares it with the own copy, which has not come.
    assert_eq!(step(&mut get(), read(A, Some(digest))), []);
    let mut explain = explain();
    assert_eq!(step(&mut explain, read(A, Some(digest))), []);
    assert_eq!(step(&mut explain, read(B, None)), []);
    let own = JobOutcome::Read {
        versions: Bytes::new(),
        digest: None,
        rebuilding: false,
    };
    let effects = step(&mut explain, stored(Purpose::Read, own));
    let [Effect::Answer(Ok(Answer::Explained(answers)))] = &effects[..] else {
        panic!("expected an answer, got {effects:?}");
    };
    let is_known = |node| {
        answers
            .iter()
            .any(|(it, answer)| *it == node && answer.is_ok())
    };
    assert!(is_known(SELF) && !is_known(A) && is_known(B), "{answers:?}");
}

#[test]
fn a_write_that_the_own_disk_does_not_take_goes_to_another_owner_unless_it_may_be_there() {
    let refused = |purpose, error| stored(purpose, JobOutcome::Refused(error));
    for code in [ErrorCode::DiskFull, ErrorCode::Overloaded] {
        let error = ErrorReply::new(code, "no room");
        let effects = step(&mut put(), refused(Purpose::Write, error.clone()));
        assert_eq!(effects, [Effect::HandOver(error.clone())]);
        let doubt = error.maybe_applied(true);
        let effects = step(&mut put(), refused(Purpose::Write, doubt.clone()));
        assert_eq!(error_of(&effects), &doubt);
    }
    // What no owner would take is the client's.
    let error = ErrorReply::new(ErrorCode::TooManySiblings, "too many");
    let effects = step(&mut put(), refused(Purpose::Write, error.clone()));
    assert_eq!(error_of(&effects), &error);
}

#[test]
fn an_import_names_a_full_disk() {
    let mut import = import();
    let full = || declined(A, Purpose::Write, ErrorCode::DiskFull);
    assert_eq!(step(&mut import, full()), []);
    let own = ErrorReply::new(ErrorCode::DiskFull, "no room");
    let effects = step(
        &mut import,
        stored(Purpose::Write, JobOutcome::Refused(own)),
    );
    assert_eq!(error_of(&effects).code, ErrorCode::DiskFull);
}

#[test]
fn a_sloppy_write_outlasts_the_silence_of_its_owner_and_a_strict_one_does_not() {
    let lost = |how| Event::Lost {
        node: A,
        how,
        reason: "it is silent",
    };
    assert_eq!(step(&mut forward(true), lost(Lost::InDoubt)), []);
    let elsewhere = |again| [hand_on(B, again, false)];
    assert_eq!(
        step(&mut forward(false), lost(Lost::InDoubt)),
        elsewhere(true)
    );
    assert_eq!(
        step(&mut forward(true), lost(Lost::WithRequests)),
        elsewhere(true)
    );
    // Nothing was sent over a link that never stood.
    assert_eq!(
        step(&mut forward(true), lost(Lost::BeforeAny)),
        elsewhere(false)
    );
    // Who waits for a copy or a vote does without.
    let mut get = get();
    step(&mut get, lost(Lost::InDoubt));
    let effects = step(
        &mut get,
        Event::Failed {
            node: B,
            reason: "gone",
        },
    );
    assert_eq!(effects, []);
    let own = JobOutcome::Read {
        versions: Bytes::new(),
        digest: None,
        rebuilding: false,
    };
    let effects = step(&mut get, stored(Purpose::Read, own));
    assert_eq!(error_of(&effects).code, ErrorCode::QuorumUnavailable);
}

#[test]
fn an_owners_answer_goes_to_the_client_as_it_came() {
    let frame = Frame {
        header: Header::new(kind::PUT | kind::ANSWER, 1),
        body: bytes(),
    };
    let coordinated = Event::Coordinated {
        from: A,
        answer: frame.clone(),
    };
    let effects = step(&mut forward(false), coordinated);
    assert_eq!(effects, [Effect::Answer(Ok(Answer::Forwarded(frame)))]);
}

#[test]
fn a_disk_that_hangs_is_not_waited_for_by_those_that_wait_for_its_copy() {
    let own = |in_reads| Event::OwnDiskHangs { in_reads };
    let mut put = put();
    step(&mut put, minted());
    assert_eq!(step(&mut put, own(false)), []);
    assert_eq!(step(&mut put, merged(A)), []);
    let effects = step(&mut put, merged(B));
    assert!(
        matches!(&effects[..], [Effect::Answer(Ok(_)), ..]),
        "{effects:?}"
    );
    // Reads hang only where the reader does.
    let mut reading = get();
    assert_eq!(step(&mut reading, own(false)), []);
    let asks_next = Effect::Read {
        from: B,
        how: Reading::OrDigest,
    };
    assert_eq!(step(&mut reading, own(true)), [asks_next]);
    // Another node's disk is of no concern to what has given it nothing.
    let (mut doubtful, _) = put_with(terms(), |_| Reach::Doubtful);
    assert_eq!(step(&mut doubtful, Event::DiskHangs(A)), []);
    assert_eq!(step(&mut forward(false), Event::DiskHangs(A)), []);
    let mut import = import();
    assert_eq!(step(&mut import, Event::DiskHangs(A)), []);
    step(&mut import, Event::DiskHangs(B));
    let effects = step(&mut import, durable(Purpose::Write));
    assert_eq!(error_of(&effects).code, ErrorCode::QuorumUnavailable);
}

/// A read whose quorum is met waits for its mending only: an owner that follows a newer ring does not begin it anew.
#[test]
fn a_newer_ring_does_not_take_back_what_was_read() {
    let plan = Plan {
        r: 2,
        repair_first: true,
        in_full: false,
        turn: 1,
    };
    let mut pace = Pace::default();
    let pace = (&mut pace, std::time::Duration::from_secs(1));
    let mut get = begin(|effects| Operation::get(owners(), 0, plan, usable, pace, effects)).0;
    let mut versions = Versions::new();
    let dot = Dot {
        actor: Actor(1),
        counter: 1,
    };
    let incoming = Incoming {
        write_id: WriteId(1),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(bytes()),
    };
    versions.write(&Clock::new(), dot, incoming);
    let theirs = Response::Versions(VersionsReply {
        versions: versions.to_bytes(),
        rebuilding: false,
        digest: None,
        actor: None,
    });
    step(&mut get, answered(A, Purpose::Read, theirs));
    let nothing = JobOutcome::Read {
        versions: Bytes::new(),
        digest: None,
        rebuilding: false,
    };
    let mends = step(&mut get, stored(Purpose::Read, nothing));
    let is_mending = |effect: &Effect| matches!(effect, Effect::Merge { purpose, .. } if *purpose == Purpose::Repair);
    assert!(mends.iter().any(is_mending), "{mends:?}");
    let stale = declined(SELF, Purpose::Repair, ErrorCode::StaleRing);
    let effects = step(&mut get, stale);
    let is_anew = |effect: &Effect| matches!(effect, Effect::BeginAgain(_));
    assert!(!effects.iter().any(is_anew), "{effects:?}");
}
