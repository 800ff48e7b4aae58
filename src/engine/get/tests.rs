//! Events in, whole lists of effects out.

use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value};
use dynakv_protocol::ids::WriteId;

use super::super::preference::SELF;
use super::*;

const B: NodeSlot = NodeSlot(1);
const C: NodeSlot = NodeSlot(2);

fn usable(_: NodeSlot) -> Reach {
    Reach::Usable
}

fn start(r: u8, repair_first: bool, reach: impl Fn(NodeSlot) -> Reach) -> (Get, Vec<Effect>) {
    let mut effects = Vec::new();
    let owners = Preference::new([SELF, B, C]);
    let get = Get::start(owners, 0, r, repair_first, 1, reach, &mut effects);
    (get, effects)
}

fn step(get: &mut Get, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    get.step(event, &mut effects);
    effects
}

fn read(from: NodeSlot, versions: &Versions) -> Event {
    let versions = if versions.is_empty() {
        Bytes::new()
    } else {
        versions.to_bytes()
    };
    Event::Read {
        from,
        versions,
        rebuilding: false,
    }
}

fn written(counters: &[u64]) -> Versions {
    let mut versions = Versions::new();
    for &counter in counters {
        let dot = Dot {
            actor: Actor(1),
            counter,
        };
        let incoming = Incoming {
            write_id: WriteId(u128::from(counter)),
            timestamp: counter,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from(counter.to_string())),
        };
        let seen: Clock = versions.clock().clone();
        versions.write(&seen, dot, incoming);
    }
    versions
}

fn answer(versions: &Versions, effective_r: u8) -> Effect {
    Effect::Answer(Ok(Found {
        versions: Box::new(versions.clone()),
        effective_r,
    }))
}

fn repair(to: NodeSlot, versions: &Versions) -> Effect {
    Effect::Repair {
        to,
        versions: versions.to_bytes(),
    }
}

#[test]
fn r_owners_are_asked_and_no_more() {
    let (mut get, effects) = start(2, false, usable);
    assert_eq!(effects, [Effect::ReadLocal, Effect::Read(B)]);
    let same = written(&[1]);
    assert_eq!(step(&mut get, read(SELF, &same)), []);
    assert_eq!(step(&mut get, read(B, &same)), [answer(&same, 2)]);
    assert!(get.is_answered());
    assert_eq!(step(&mut get, Event::Deadline), []);
}

#[test]
fn an_absent_key_is_an_answer() {
    let (mut get, _) = start(2, false, usable);
    let nothing = Versions::new();
    step(&mut get, read(SELF, &nothing));
    assert_eq!(step(&mut get, read(B, &nothing)), [answer(&nothing, 2)]);
}

#[test]
fn a_stale_owner_is_mended_after_the_answer() {
    let (old, new) = (written(&[1]), written(&[1, 2]));
    let (mut get, _) = start(2, false, usable);
    step(&mut get, read(SELF, &old));
    let effects = step(&mut get, read(B, &new));
    assert_eq!(effects, [answer(&new, 2), repair(SELF, &new)]);

    let (mut get, _) = start(2, false, usable);
    step(&mut get, read(SELF, &new));
    let effects = step(&mut get, read(B, &Versions::new()));
    assert_eq!(effects, [answer(&new, 2), repair(B, &new)]);
}

#[test]
fn repair_before_the_answer_waits_for_all_of_it() {
    let (mut mine, mut theirs) = (written(&[1]), written(&[1]));
    let sibling = |actor| {
        let dot = Dot {
            actor: Actor(actor),
            counter: 1,
        };
        let incoming = Incoming {
            write_id: WriteId(u128::from(actor)),
            timestamp: 1,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::new()),
        };
        (dot, incoming)
    };
    let (dot, incoming) = sibling(8);
    mine.write(&Clock::new(), dot, incoming);
    let (dot, incoming) = sibling(9);
    theirs.write(&Clock::new(), dot, incoming);
    let mut both = mine.clone();
    both.merge(&theirs);

    let (mut get, _) = start(2, true, usable);
    step(&mut get, read(SELF, &mine));
    let effects = step(&mut get, read(B, &theirs));
    assert_eq!(effects, [repair(SELF, &both), repair(B, &both)]);
    assert_eq!(step(&mut get, Event::Repaired(SELF)), []);
    assert_eq!(step(&mut get, Event::Failed(B)), [answer(&both, 2)]);

    let (mut get, _) = start(2, true, usable);
    step(&mut get, read(SELF, &mine));
    step(&mut get, read(B, &theirs));
    assert_eq!(step(&mut get, Event::Deadline), [answer(&both, 2)]);
}

#[test]
fn a_spare_is_asked_when_one_fails_or_is_slow() {
    let (mut get, _) = start(2, false, usable);
    assert_eq!(step(&mut get, Event::Failed(B)), [Effect::Read(C)]);
    let (mut get, _) = start(2, false, usable);
    assert_eq!(step(&mut get, Event::Slow), [Effect::Read(C)]);
    assert_eq!(step(&mut get, Event::Slow), []);
    step(&mut get, read(C, &written(&[1])));
    let effects = step(&mut get, read(SELF, &written(&[1])));
    assert_eq!(effects, [answer(&written(&[1]), 2)]);
}

#[test]
fn doubtful_owners_are_asked_last_but_asked() {
    let reach = |node| {
        if node == B {
            Reach::Doubtful
        } else {
            Reach::Usable
        }
    };
    let (mut get, effects) = start(2, false, reach);
    assert_eq!(effects, [Effect::ReadLocal, Effect::Read(C)]);
    assert_eq!(step(&mut get, Event::Failed(C)), [Effect::Read(B)]);
    assert_eq!(step(&mut get, Event::Failed(B)), []);
    let effects = step(&mut get, read(SELF, &written(&[1])));
    let [Effect::Answer(Err(error))] = &effects[..] else {
        panic!("expected an error, got {effects:?}");
    };
    assert_eq!(error.code, ErrorCode::QuorumUnavailable);
    assert_eq!((error.needed, error.got), (Some(2), Some(1)));
}

#[test]
fn a_rebuilding_owner_gives_data_but_no_vote() {
    let (old, new) = (written(&[1]), written(&[1, 2]));
    let (mut get, _) = start(2, false, usable);
    step(&mut get, read(SELF, &old));
    let effects = step(
        &mut get,
        Event::Read {
            from: B,
            versions: new.to_bytes(),
            rebuilding: true,
        },
    );
    assert_eq!(effects, [Effect::Read(C)]);
    let effects = step(&mut get, read(C, &old));
    assert_eq!(
        effects,
        [answer(&new, 2), repair(SELF, &new), repair(C, &new)]
    );
}

#[test]
fn bytes_that_are_no_versions_are_no_answer() {
    let (mut get, _) = start(2, false, usable);
    let garbage = Event::Read {
        from: B,
        versions: Bytes::from_static(b"garbage"),
        rebuilding: false,
    };
    assert_eq!(step(&mut get, garbage), [Effect::Read(C)]);
}

#[test]
fn an_owner_votes_once() {
    let (mut get, _) = start(2, false, usable);
    step(&mut get, read(B, &written(&[1])));
    assert_eq!(step(&mut get, read(B, &written(&[1]))), []);
    assert!(!get.is_answered());
}
