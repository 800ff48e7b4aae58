use dynakv_protocol::causal::{Clock, Incoming, Sibling, Value};
use dynakv_protocol::limits::{CLOCK_ENTRIES_MAX, CLOCK_ENTRIES_SOFT_MAX, SIBLINGS_AND_MARKS_MAX};
use dynakv_protocol::{Actor, WriteId};
use smallvec::smallvec;

use super::*;
use crate::engine::write::put::{Beside, Replaced};

const KEY: &[u8] = b"k";
const CLUSTER: ClusterId = ClusterId(9);
const NOW_UNIX_MS: u64 = 1_000;
const OWN: Actor = Actor(7);

fn minter() -> Minter {
    Minter::new(OWN, 0, fastrand::Rng::with_seed(1))
}

fn dot(actor: u64, counter: u64) -> Dot {
    Dot {
        actor: Actor(actor),
        counter,
    }
}

/// A write of another node: what it has stored after that.
fn written_over(mut versions: Versions, dot: Dot, value: &'static str) -> Versions {
    let incoming = Incoming {
        write_id: WriteId(u128::from(dot.actor.0) << 64 | u128::from(dot.counter)),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from_static(value.as_bytes())),
    };
    let context = versions.clock().clone();
    versions.write(&context, dot, incoming);
    versions
}

fn written(dot: Dot, value: &'static str) -> Versions {
    written_over(Versions::new(), dot, value)
}

fn merged(one: &Versions, other: &Versions) -> Versions {
    let mut merged = one.clone();
    merged.merge(other);
    merged
}

fn stored(versions: &Versions) -> Present {
    Present::decode(KEY, Some(versions.to_bytes())).unwrap()
}

fn state(versions: Versions) -> Option<State> {
    let encoded = versions.to_bytes();
    Some(State { versions, encoded })
}

fn intent(id: u128, value: &str) -> Intent {
    Intent {
        write_id: WriteId(id),
        again: false,
        value: Value::Bytes(Bytes::copy_from_slice(value.as_bytes())),
        context: None,
        ttl_ms: None,
        value_bytes_max: 1024,
        if_no_conflict: false,
    }
}

fn mint_of(intent: Intent, seen: Option<Seen>) -> Work {
    Work::Mint(ToMint {
        intent: Box::new(intent),
        seen: seen.map(Box::new),
        catches_up: true,
        cluster_id: CLUSTER,
    })
}

fn merge_of(versions: &Versions, tell_beside: bool) -> Work {
    Work::Merge {
        versions: versions.to_bytes(),
        tell_beside,
    }
}

/// What comes of a job for a node that has lost nothing.
fn applied(present: Present, work: Work) -> Applied {
    apply(KEY, present, work, &mut minter(), NOW_UNIX_MS, false)
}

fn told(outcome: JobOutcome) -> Applied {
    Applied {
        contradicted: None,
        locked: None,
        change: Change::told(outcome),
    }
}

fn changed(change: Change) -> Applied {
    Applied {
        contradicted: None,
        locked: None,
        change,
    }
}

fn durable(beside: Option<Bytes>) -> JobOutcome {
    JobOutcome::Durable {
        rebuilding: false,
        beside,
    }
}

/// What comes of a write that has its dot in these versions now.
fn minted(versions: &Versions, replaced: Replaced, rebuilding: bool) -> Applied {
    changed(Change {
        state: state(versions.clone()),
        at_once: Some(JobOutcome::Minted {
            versions: versions.to_bytes(),
            context: context::seal(CLUSTER, KEY, versions.clock()),
            rebuilding,
            replaced,
        }),
        once_durable: Some(JobOutcome::Durable {
            rebuilding,
            beside: None,
        }),
    })
}

/// What comes of a merge.
fn merged_to(versions: Versions, beside: Option<Bytes>) -> Applied {
    changed(Change {
        state: state(versions),
        at_once: None,
        once_durable: Some(durable(beside)),
    })
}

/// A clock that cannot be stored with one entry more, and one sibling that it covers.
fn longest() -> Versions {
    let entries = (1..=CLOCK_ENTRIES_MAX as u64).map(|actor| dot(actor, 1));
    let sibling = Sibling {
        dot: dot(1, 1),
        write_id: WriteId(1),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Tombstone,
    };
    Versions::from_parts(entries.collect(), [sibling]).unwrap()
}

#[test]
fn what_is_stored_is_decoded_and_what_is_beyond_a_limit_locks_the_key() {
    assert_eq!(Present::decode(KEY, None), Ok(Present::default()));
    let versions = written(dot(1, 1), "a");
    let encoded = Some(versions.to_bytes());
    let present = Present { versions, encoded };
    assert_eq!(
        Present::decode(KEY, present.encoded.clone()).as_ref(),
        Ok(&present)
    );

    let beyond = merged(&longest(), &written(dot(1 << 40, 1), "a"));
    let encoded = beyond.to_bytes();
    let refused = Present::decode(KEY, Some(encoded.clone())).unwrap_err();
    let why = refused.locked.unwrap();
    assert_eq!(refused.error, limits::locked(KEY, &why));
    let of_any_size = Present::decode_of_any_size(KEY, Some(encoded)).unwrap();
    assert_eq!(of_any_size.versions, beyond);

    let damaged = Some(Bytes::from_static(b"\xff"));
    for refused in [
        Present::decode(KEY, damaged.clone()).unwrap_err(),
        Present::decode_of_any_size(KEY, damaged).unwrap_err(),
    ] {
        assert_eq!(refused.locked, None);
        assert_eq!(refused.error.code, ErrorCode::Storage);
        assert!(refused.error.retryable);
    }
}

#[test]
fn a_write_is_minted_over_what_is_stored_and_told_before_it_is_durable() {
    let old = written(dot(1, 1), "old");
    for rebuilding in [false, true] {
        let mut expected = old.clone();
        let new = minter().mint(&mut expected, intent(1, "new"), NOW_UNIX_MS);
        let replaced = new.unwrap().replaced();
        assert_eq!(replaced, Replaced::from_slice(&[dot(1, 1)]));
        let work = mint_of(intent(1, "new"), None);
        let mut minter = minter();
        let applied = apply(
            KEY,
            stored(&old),
            work,
            &mut minter,
            NOW_UNIX_MS,
            rebuilding,
        );
        assert_eq!(applied, minted(&expected, replaced, rebuilding));
        assert_eq!(minter.position(), (OWN, 1));
    }
}

#[test]
fn a_retry_is_told_again_and_stores_nothing() {
    let mut versions = Versions::new();
    let mut minter = minter();
    let first = minter.mint(&mut versions, intent(1, "a"), NOW_UNIX_MS);
    assert!(matches!(first, Ok(Minted::New { .. })));
    let work = mint_of(intent(1, "a"), None);
    let applied = apply(
        KEY,
        stored(&versions),
        work,
        &mut minter,
        NOW_UNIX_MS,
        false,
    );
    let mut expected = minted(&versions, Replaced::new(), false);
    expected.change.state = None;
    assert_eq!(applied, expected);
}

#[test]
fn who_lacks_what_a_context_names_says_so_and_changes_nothing() {
    let context: Clock = [dot(1, 1), dot(2, 5)].into_iter().collect();
    let known = written(dot(1, 1), "a");
    let write = || Intent {
        context: Some(context.clone()),
        ..intent(1, "b")
    };
    let mut minter = minter();
    let work = mint_of(write(), None);
    let applied = apply(KEY, stored(&known), work, &mut minter, NOW_UNIX_MS, true);
    let behind = JobOutcome::Behind {
        lacks: [dot(2, 5)].into_iter().collect(),
        rebuilding: true,
    };
    assert_eq!(applied, told(behind));
    assert_eq!(minter.position(), (OWN, 0));

    // Who stands in mints whatever it lacks.
    let Work::Mint(mut standing_in) = mint_of(write(), None) else {
        unreachable!()
    };
    standing_in.catches_up = false;
    let applied = self::applied(stored(&known), Work::Mint(standing_in));
    let mut expected = known;
    let mut twin = self::minter();
    let minted_there = twin.mint(&mut expected, write(), NOW_UNIX_MS);
    assert!(matches!(minted_there, Ok(Minted::New { .. })));
    assert_eq!(applied, minted(&expected, Replaced::new(), false));
}

#[test]
fn what_other_owners_were_read_to_have_is_minted_over() {
    let (here, there) = (written(dot(1, 1), "here"), written(dot(2, 1), "there"));
    let write = || Intent {
        context: Some(there.clock().clone()),
        ..intent(1, "new")
    };
    let work = mint_of(write(), Some(Seen::Read(there.clone())));
    let mut expected = merged(&here, &there);
    let new = minter().mint(&mut expected, write(), NOW_UNIX_MS);
    assert!(matches!(new, Ok(Minted::New { .. })));
    // What the context names is replaced, and what it does not name stands beside.
    assert_eq!(expected.siblings().len(), 2);
    let applied = applied(stored(&here), work);
    assert_eq!(applied, minted(&expected, Replaced::new(), false));
}

#[test]
fn a_blind_write_is_minted_again_over_what_stood_beside_it() {
    let mut minter = minter();
    let mut first = Versions::new();
    minter
        .mint(&mut first, intent(1, "new"), NOW_UNIX_MS)
        .unwrap();
    let beside = Beside {
        beside: written(dot(1, 1), "old"),
        first: smallvec![dot(OWN.0, 1)],
        replaced: Replaced::new(),
    };
    let mut twin = Minter::new(OWN, 1, fastrand::Rng::with_seed(1));
    let mut expected = first.clone();
    let again = twin.mint_again(&mut expected, intent(1, "new"), &beside, NOW_UNIX_MS);
    let replaced = again.unwrap().replaced();
    assert_eq!(replaced, Replaced::from_slice(&[dot(1, 1)]));
    assert_eq!(expected.siblings().len(), 1);

    let work = mint_of(intent(1, "new"), Some(Seen::Beside(beside)));
    let mut minter = Minter::new(OWN, 1, fastrand::Rng::with_seed(1));
    let applied = apply(KEY, stored(&first), work, &mut minter, NOW_UNIX_MS, false);
    assert_eq!(applied, minted(&expected, replaced, false));
}

#[test]
fn a_refused_write_changes_nothing_and_is_told_at_once() {
    let conflict = merged(&written(dot(1, 1), "a"), &written(dot(2, 1), "b"));
    let write = Intent {
        if_no_conflict: true,
        ..intent(1, "new")
    };
    let mut unchanged = conflict.clone();
    let error = minter()
        .mint(&mut unchanged, write.clone(), NOW_UNIX_MS)
        .unwrap_err();
    let applied = applied(stored(&conflict), mint_of(write, None));
    assert_eq!(applied, told(JobOutcome::Refused(error)));
}

#[test]
fn a_write_that_is_refused_for_the_limits_of_its_key_shows_that_the_key_is_locked() {
    let entries = (1..=CLOCK_ENTRIES_SOFT_MAX as u64).map(|actor| dot(actor + 100, 1));
    let long = Versions::from_parts(entries.collect(), []).unwrap();
    let mut unchanged = long.clone();
    let error = minter()
        .mint(&mut unchanged, intent(1, "new"), NOW_UNIX_MS)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::TooLarge);
    let expected = Applied {
        locked: Some(error.message.clone()),
        ..told(JobOutcome::Refused(error))
    };
    let work = mint_of(intent(1, "new"), None);
    assert_eq!(applied(stored(&long), work), expected);

    // The same refusal for values that are too large says nothing of the key.
    let write = Intent {
        context: Some(Clock::new()),
        value_bytes_max: 1,
        ..intent(1, "longer than all values may be")
    };
    let applied = applied(stored(&written(dot(1, 1), "a")), mint_of(write, None));
    let Some(JobOutcome::Refused(error)) = &applied.change.at_once else {
        panic!("{applied:?}");
    };
    assert_eq!((error.code, &applied.locked), (ErrorCode::TooLarge, &None));
}

#[test]
fn what_others_had_is_kept_although_the_write_itself_is_refused() {
    let (here, there) = (written(dot(1, 1), "a"), written(dot(2, 1), "b"));
    let write = Intent {
        if_no_conflict: true,
        ..intent(1, "new")
    };
    let both = merged(&here, &there);
    let error = minter()
        .mint(&mut both.clone(), write.clone(), NOW_UNIX_MS)
        .unwrap_err();
    let applied = applied(stored(&here), mint_of(write, Some(Seen::Read(there))));
    let expected = changed(Change {
        state: state(both),
        at_once: None,
        once_durable: Some(JobOutcome::Refused(error)),
    });
    assert_eq!(applied, expected);
}

#[test]
fn the_bytes_of_a_newer_version_are_stored_as_they_came() {
    let old = written(dot(1, 1), "old");
    let new = written_over(old.clone(), dot(2, 1), "new");
    let came = new.to_bytes();
    for (tell_beside, beside) in [(true, Some(Bytes::new())), (false, None)] {
        let work = Work::Merge {
            versions: came.clone(),
            tell_beside,
        };
        let applied = applied(stored(&old), work);
        assert_eq!(applied, merged_to(new.clone(), beside));
        assert_eq!(
            applied.change.state.unwrap().encoded.as_ptr(),
            came.as_ptr()
        );
    }
}

#[test]
fn what_stands_beside_a_merged_write_is_told_as_it_was_before() {
    let (here, there) = (written(dot(1, 1), "here"), written(dot(2, 1), "there"));
    let both = merged(&here, &there);
    let beside = Some(here.to_bytes());
    let applied_asked = applied(stored(&here), merge_of(&there, true));
    assert_eq!(applied_asked, merged_to(both.clone(), beside));
    let applied_unasked = applied(stored(&here), merge_of(&there, false));
    assert_eq!(applied_unasked, merged_to(both, None));
}

#[test]
fn what_is_stored_already_is_not_stored_again_but_waits_for_its_sync() {
    let new = written_over(written(dot(1, 1), "old"), dot(2, 1), "new");
    for received in [&new, &written(dot(1, 1), "old")] {
        let applied = applied(stored(&new), merge_of(received, false));
        let expected = Change {
            state: None,
            at_once: None,
            once_durable: Some(durable(None)),
        };
        assert_eq!(applied, changed(expected));
    }
}

#[test]
fn one_write_with_two_values_is_found_where_it_is_merged_or_minted_over() {
    let (here, there) = (written(dot(1, 1), "a"), written(dot(1, 1), "b"));
    let both = merged(&here, &there);
    let contradicted = Some(dot(1, 1));
    let merge = applied(stored(&here), merge_of(&there, false));
    let expected = merged_to(both.clone(), None);
    assert_eq!(
        merge,
        Applied {
            contradicted,
            ..expected
        }
    );

    let seen = Some(Seen::Read(there));
    let mint = applied(stored(&here), mint_of(intent(1, "new"), seen));
    let mut versions = both;
    let new = minter().mint(&mut versions, intent(1, "new"), NOW_UNIX_MS);
    let expected = minted(&versions, new.unwrap().replaced(), false);
    assert_eq!(
        mint,
        Applied {
            contradicted,
            ..expected
        }
    );
}

#[test]
fn what_no_node_could_read_is_not_stored_whoever_brings_it() {
    let one_more = written(dot(1 << 40, 1), "a");
    let state = State {
        encoded: merged(&longest(), &one_more).to_bytes(),
        versions: merged(&longest(), &one_more),
    };
    let refused = check_limits(KEY, &state).unwrap_err();
    let expected = || Applied {
        locked: refused.locked.clone(),
        ..told(JobOutcome::Refused(refused.error.clone()))
    };
    assert_eq!(
        refused.locked.as_deref(),
        Some(refused.error.message.as_str())
    );
    let merge = applied(stored(&longest()), merge_of(&one_more, true));
    assert_eq!(merge, expected());

    // With a write that is refused as well, what is told is that nothing could be kept.
    let write = Intent {
        if_no_conflict: true,
        ..intent(1, "new")
    };
    let mint = applied(
        stored(&longest()),
        mint_of(write, Some(Seen::Read(one_more))),
    );
    assert_eq!(mint.change, expected().change);
    assert!(mint.locked.is_some());
}

#[test]
fn what_another_node_sends_and_cannot_be_decoded_is_refused() {
    for (versions, code) in [
        (Bytes::from_static(b"\xff"), ErrorCode::BadRequest),
        (
            merged(&longest(), &written(dot(1 << 40, 1), "a")).to_bytes(),
            ErrorCode::TooLarge,
        ),
    ] {
        let refused = received(KEY, &versions).unwrap_err();
        assert_eq!((refused.error.code, &refused.locked), (code, &None));
        let work = Work::Merge {
            versions,
            tell_beside: true,
        };
        let expected = told(JobOutcome::Refused(refused.error));
        assert_eq!(applied(Present::default(), work), expected);
    }
}

#[test]
fn whoever_knows_more_of_this_actor_than_itself_costs_the_actor() {
    let of_own_actor = written(dot(OWN.0, 5), "forgotten");
    let read = Seen::Read(of_own_actor.clone());
    for work in [
        merge_of(&of_own_actor, false),
        mint_of(intent(1, "new"), Some(read)),
    ] {
        let mut minter = minter();
        apply(
            KEY,
            Present::default(),
            work,
            &mut minter,
            NOW_UNIX_MS,
            false,
        );
        assert_ne!(minter.position().0, OWN);
    }
}

#[test]
fn siblings_beyond_what_a_client_may_add_are_refused_before_anything_changes() {
    let mut crowded = Versions::new();
    for actor in 1..=SIBLINGS_AND_MARKS_MAX as u64 {
        crowded.merge(&written(dot(actor + 100, 1), "v"));
    }
    let write = Intent {
        context: Some(Clock::new()),
        ..intent(1, "new")
    };
    let error = minter()
        .mint(&mut crowded.clone(), write.clone(), NOW_UNIX_MS)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::TooManySiblings);
    let applied = applied(stored(&crowded), mint_of(write, None));
    assert_eq!(applied, told(JobOutcome::Refused(error)));
}
