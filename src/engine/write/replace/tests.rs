use dynakv_protocol::Actor;
use dynakv_protocol::WriteId;
use dynakv_protocol::causal::{Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;

use super::*;

const KEY: &[u8] = b"k";
const OWN: Actor = Actor(7);

fn minter() -> Minter {
    Minter::new(OWN, 0, fastrand::Rng::with_seed(1))
}

/// A key with one value, written once by this actor.
fn written(actor: Actor) -> Versions {
    let mut versions = Versions::new();
    let incoming = Incoming {
        write_id: WriteId(1),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from_static(b"v")),
    };
    let context = versions.clock().clone();
    versions.write(&context, Dot { actor, counter: 1 }, incoming);
    versions
}

fn present(versions: Versions) -> Present {
    let encoded = Some(versions.to_bytes());
    Present { versions, encoded }
}

fn replacement(before: Present, after: Option<Versions>, rebuilding: bool) -> Replacement {
    let state = after.map(|versions| State {
        encoded: versions.to_bytes(),
        versions,
    });
    let once_durable = Some(JobOutcome::Durable {
        rebuilding,
        beside: None,
    });
    let change = Change {
        state,
        at_once: None,
        once_durable,
    };
    Replacement { before, change }
}

#[test]
fn what_is_as_expected_is_replaced_and_nothing_of_it_is_merged() {
    let (old, new) = (written(Actor(1)), written(Actor(2)));
    let (stored, given) = (old.to_bytes(), new.to_bytes());
    for (present, expected) in [
        (present(old), Some(Digest::of(&stored))),
        (Present::default(), None),
    ] {
        for rebuilding in [false, true] {
            let replacing = (expected, given.clone());
            let stored = present.encoded.clone();
            let replaced = replace(KEY, stored, replacing, &mut minter(), rebuilding);
            let expected = replacement(present.clone(), Some(new.clone()), rebuilding);
            assert_eq!(replaced, Ok(expected));
        }
    }
}

#[test]
fn what_is_there_already_is_not_stored_again() {
    let old = present(written(Actor(1)));
    let stored = old.encoded.clone().unwrap();
    let replacing = (Some(Digest::of(&stored)), stored.clone());
    let replaced = replace(KEY, Some(stored), replacing, &mut minter(), false);
    assert_eq!(replaced, Ok(replacement(old, None, false)));
}

#[test]
fn what_has_changed_meanwhile_is_not_replaced() {
    let (old, new) = (written(Actor(1)).to_bytes(), written(OWN).to_bytes());
    let digest = Digest::of(&old);
    for (stored, expected) in [
        (Some(old.clone()), None),
        (None, Some(digest)),
        (Some(new.clone()), Some(digest)),
    ] {
        let mut minter = minter();
        let replaced = replace(KEY, stored, (expected, new.clone()), &mut minter, false);
        let refused = replaced.unwrap_err();
        assert_eq!(refused.error.code, ErrorCode::NotReady);
        assert_eq!((refused.error.retryable, refused.locked), (true, None));
        assert_eq!(minter.position(), (OWN, 0));
    }
}

#[test]
fn what_cannot_be_decoded_is_neither_stored_nor_replaced() {
    let (damaged, good) = (Bytes::from_static(b"\xff"), written(Actor(1)).to_bytes());
    let replaced = replace(KEY, None, (None, damaged.clone()), &mut minter(), false);
    assert_eq!(replaced.unwrap_err().error.code, ErrorCode::BadRequest);
    let replacing = (Some(Digest::of(&damaged)), good);
    let replaced = replace(KEY, Some(damaged), replacing, &mut minter(), false);
    assert_eq!(replaced.unwrap_err().error.code, ErrorCode::Storage);
}

#[test]
fn versions_that_know_more_of_this_actor_than_itself_cost_the_actor() {
    let mut minter = minter();
    let given = written(OWN).to_bytes();
    replace(KEY, None, (None, given), &mut minter, false).unwrap();
    assert_ne!(minter.position().0, OWN);
}
