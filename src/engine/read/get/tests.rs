//! Events in, whole lists of effects out.

use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value};
use dynakv_protocol::ids::WriteId;

use super::*;
use crate::engine::placement::preference::SELF;
use crate::engine::quorum::Sides;

const B: NodeSlot = NodeSlot(1);
const C: NodeSlot = NodeSlot(2);

const NOW: Duration = Duration::from_secs(1);

fn usable(_: NodeSlot) -> Reach {
    Reach::Usable
}

fn start(r: u8, repair_first: bool, reach: impl Fn(NodeSlot) -> Reach) -> (Get, Vec<Effect>) {
    let plan = Plan {
        repair_first,
        ..plan(r)
    };
    start_at(plan, reach, &mut Pace::default())
}

/// How a read of `r` owners goes without further wishes: B's turn comes first.
fn plan(r: u8) -> Plan {
    Plan {
        r,
        repair_first: false,
        in_full: false,
        turn: 1,
    }
}

fn start_at(plan: Plan, reach: impl Fn(NodeSlot) -> Reach, pace: &mut Pace) -> (Get, Vec<Effect>) {
    let mut effects = Vec::new();
    let owners = Preference::new([SELF, B, C]);
    let get = Get::start(owners, 0, plan, reach, (pace, NOW), &mut effects);
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
    // Neither one that was asked besides and fails, nor the same one again, is the one that is waited for.
    assert_eq!(step(&mut get, Event::Failed(C)), []);
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

/// What an owner that was asked for a digest says of large versions.
fn digest(from: NodeSlot, versions: &Versions) -> Event {
    Event::Digest {
        from,
        digest: Digest::of(&versions.to_bytes()),
        rebuilding: false,
    }
}

#[test]
fn a_digest_of_what_is_here_is_a_vote() {
    let same = written(&[1, 2]);
    let (mut get, _) = start(2, false, usable);
    assert_eq!(step(&mut get, read(SELF, &same)), []);
    assert_eq!(step(&mut get, digest(B, &same)), [answer(&same, 2)]);
    // It may be faster than the own disk.
    let (mut get, _) = start(3, false, usable);
    assert_eq!(step(&mut get, digest(B, &same)), []);
    assert_eq!(step(&mut get, digest(C, &same)), []);
    assert_eq!(step(&mut get, digest(C, &same)), []);
    assert_eq!(step(&mut get, read(SELF, &same)), [answer(&same, 3)]);
}

#[test]
fn a_digest_of_something_else_is_asked_for_in_full_and_mended_like_any() {
    let (old, new) = (written(&[1]), written(&[1, 2]));
    let (mut get, _) = start(2, false, usable);
    step(&mut get, read(SELF, &old));
    assert_eq!(step(&mut get, digest(B, &new)), [Effect::ReadAgain(B)]);
    let effects = step(&mut get, read(B, &new));
    assert_eq!(effects, [answer(&new, 2), repair(SELF, &new)]);

    // The stale one is the other, and C is as the own copy.
    let (mut get, _) = start(3, false, usable);
    step(&mut get, digest(B, &old));
    step(&mut get, digest(C, &new));
    let effects = step(&mut get, read(SELF, &new));
    assert_eq!(effects, [Effect::ReadAgain(B)]);
    let effects = step(&mut get, read(B, &old));
    assert_eq!(effects, [answer(&new, 3), repair(B, &new)]);
}

#[test]
fn a_digest_may_be_of_what_a_third_owner_sent() {
    let (old, new) = (written(&[1]), written(&[1, 2]));
    let (mut get, _) = start(3, false, usable);
    step(&mut get, read(SELF, &old));
    assert_eq!(step(&mut get, digest(B, &new)), [Effect::ReadAgain(B)]);
    assert_eq!(step(&mut get, read(B, &new)), []);
    let effects = step(&mut get, digest(C, &new));
    assert_eq!(effects, [answer(&new, 3), repair(SELF, &new)]);
}

#[test]
fn without_an_own_copy_digests_are_asked_for_in_full() {
    let versions = written(&[1]);
    for own in [read(SELF, &Versions::new()), Event::Failed(SELF)] {
        let (mut get, _) = start(2, false, usable);
        assert_eq!(step(&mut get, digest(B, &versions)), []);
        let effects = step(&mut get, own);
        assert_eq!(effects[0], Effect::ReadAgain(B));
    }
    let in_full = Plan {
        in_full: true,
        ..plan(2)
    };
    let (mut get, effects) = start_at(in_full, usable, &mut Pace::default());
    assert_eq!(effects, [Effect::ReadLocal, Effect::ReadFull(B)]);
    step(&mut get, read(SELF, &versions));
    // A digest in place of what was asked for is no answer, whatever it is of.
    assert_eq!(step(&mut get, digest(B, &versions)), [Effect::ReadFull(C)]);
}

#[test]
fn a_digest_of_a_rebuilding_owner_is_no_vote() {
    let versions = written(&[1]);
    let rebuilding = Event::Digest {
        from: B,
        digest: Digest::of(&versions.to_bytes()),
        rebuilding: true,
    };
    let (mut get, _) = start(2, false, usable);
    step(&mut get, read(SELF, &versions));
    assert_eq!(step(&mut get, rebuilding.clone()), [Effect::Read(C)]);
    assert_eq!(step(&mut get, digest(C, &versions)), [answer(&versions, 2)]);

    // The own copy is no vote either, and may lack something: what it equals counts for what it is.
    let (mut get, _) = start(2, false, usable);
    let own = Event::Read {
        from: SELF,
        versions: versions.to_bytes(),
        rebuilding: true,
    };
    assert_eq!(step(&mut get, own), [Effect::Read(C)]);
    assert_eq!(step(&mut get, digest(B, &versions)), []);
    assert_eq!(step(&mut get, digest(C, &versions)), [answer(&versions, 2)]);
}

#[test]
fn a_digest_whose_owner_is_gone_is_not_asked_for() {
    let (old, new) = (written(&[1]), written(&[1, 2]));
    let (mut get, _) = start(2, false, usable);
    step(&mut get, digest(B, &new));
    assert_eq!(step(&mut get, Event::Failed(B)), [Effect::Read(C)]);
    assert_eq!(step(&mut get, read(SELF, &old)), []);
    assert_eq!(step(&mut get, digest(C, &old)), [answer(&old, 2)]);
}

#[test]
fn the_faster_owner_is_asked_and_now_and_then_the_slower_one_too() {
    let mut pace = Pace::default();
    for _ in 0..20 {
        pace.asked(B, NOW);
        pace.answered(B, Some(Duration::from_millis(20)), NOW);
        pace.asked(C, NOW);
        pace.answered(C, Some(Duration::from_millis(1)), NOW);
    }
    let (get, effects) = start_at(plan(2), usable, &mut pace);
    assert_eq!(effects, [Effect::ReadLocal, Effect::Read(C)]);
    assert_eq!(get.next_spare(), Some(B));
    // A node in doubt is no better for having been fast.
    let doubtful = |node| match node {
        C => Reach::Doubtful,
        _ => Reach::Usable,
    };
    let (_, effects) = start_at(plan(2), doubtful, &mut pace);
    assert_eq!(effects, [Effect::ReadLocal, Effect::Read(B)]);

    // It was not asked for a second.
    let mut effects = Vec::new();
    let owners = Preference::new([SELF, B, C]);
    let now = NOW + Duration::from_secs(1);
    Get::start(owners, 0, plan(2), usable, (&mut pace, now), &mut effects);
    assert_eq!(
        effects,
        [Effect::ReadLocal, Effect::Read(B), Effect::Read(C)]
    );
    let (_, effects) = start_at(plan(1), usable, &mut pace);
    assert_eq!(effects, [Effect::ReadLocal]);
}

#[test]
fn a_hedge_is_won_by_whom_it_asked() {
    let same = written(&[1]);
    let (mut get, _) = start(2, false, usable);
    assert_eq!(get.hedge(), Hedge::None);
    step(&mut get, read(SELF, &same));
    assert_eq!(get.next_spare(), Some(C));
    assert_eq!(step(&mut get, Event::Slow), [Effect::Read(C)]);
    assert_eq!(get.next_spare(), None);
    step(&mut get, read(C, &same));
    assert_eq!(get.hedge(), Hedge::Won);

    let (mut get, _) = start(2, false, usable);
    step(&mut get, Event::Slow);
    step(&mut get, read(SELF, &same));
    step(&mut get, read(B, &same));
    assert_eq!(get.hedge(), Hedge::Lost);
    assert!(get.is_answered());
    assert_eq!(get.next_spare(), None);
}

fn long_clock(from: u64, entries: usize) -> Versions {
    let dot = |actor| Dot {
        actor: Actor(actor),
        counter: 1,
    };
    let clock = (from..from + entries as u64).map(dot).collect();
    Versions::from_parts(clock, []).unwrap()
}

/// What no decoder takes is told by name, and nobody is asked to merge it.
#[test]
fn copies_that_do_not_fit_together_are_told_and_not_sent() {
    let most = dynakv_protocol::limits::CLOCK_ENTRIES_MAX;
    let (mut get, _) = start(2, false, usable);
    assert!(step(&mut get, read(SELF, &long_clock(1, most))).is_empty());
    let effects = step(&mut get, read(B, &long_clock(1 << 40, most)));
    let [Effect::Answer(Err(error))] = &effects[..] else {
        panic!("{} effects", effects.len());
    };
    assert_eq!((error.code, error.retryable), (ErrorCode::TooLarge, false));
    assert!(error.message.contains("dynakv repair --key"), "{error}");
    assert!(get.is_answered());
}

#[test]
fn a_copy_beyond_a_limit_is_no_vote_and_is_named_when_votes_are_missing() {
    let most = dynakv_protocol::limits::CLOCK_ENTRIES_MAX;
    let (mut get, _) = start(2, false, usable);
    let beyond = long_clock(1, most + 1);
    // The spare takes its place.
    let effects = step(&mut get, read(B, &beyond));
    assert_eq!(effects, [Effect::Read(C)]);
    assert!(step(&mut get, read(SELF, &written(&[1]))).is_empty());
    let effects = step(&mut get, read(C, &beyond));
    assert!(
        matches!(&effects[..], [Effect::Answer(Err(error))] if error.code == ErrorCode::TooLarge),
        "{} effects",
        effects.len()
    );
}

/// A, B and C hold the key, A, B and D are to.
#[test]
fn while_the_ring_changes_one_side_is_read() {
    const D: NodeSlot = NodeSlot(3);
    let sides = Sides {
        readers: 3,
        others: 0b1011,
    };
    let owners = Preference::joint([SELF, B, C, D], sides);
    let mut effects = Vec::new();
    let now = (&mut Pace::default(), NOW);
    let mut get = Get::start(owners, 0, plan(2), usable, now, &mut effects);
    assert_eq!(effects, [Effect::ReadLocal, Effect::Read(B)]);
    assert_eq!(step(&mut get, Event::Failed(B)), [Effect::Read(C)]);
    assert_eq!(get.next_spare(), None, "D has not all of it");
    assert_eq!(step(&mut get, read(D, &written(&[1]))), []);
    assert_eq!(step(&mut get, read(SELF, &written(&[]))), []);
    let effects = step(&mut get, Event::Failed(C));
    let unavailable = |effect: &Effect| matches!(effect, Effect::Answer(Err(_)));
    assert!(effects.iter().any(unavailable), "{effects:?}");
}
