//! The same for what operators ask: explaining, exporting, importing.

use crate::body::{Body, invalid, too_long, truncated};
use allocation_counter::measure;
use bytes::Bytes;
use dynakv_protocol::DecodeError;
use dynakv_protocol::admin::{EXPORT_ITEMS_MAX, PREVIEW_BYTES_MAX};
use dynakv_protocol::limits::KEY_BYTES_MAX;
use dynakv_protocol::message::{Response, kind};
use dynakv_protocol::ring_document::N_MAX;

const EXPLAINED: u8 = kind::EXPLAIN | kind::ANSWER;
const EXPORTED: u8 = kind::EXPORT | kind::ANSWER;

/// All of an explanation before its owners.
fn explained() -> Body {
    Body::new().text("n").u64(1).u64(1)
}

/// An owner that has answered, up to its siblings.
fn owner() -> Body {
    Body::new().text("n").text("").raw(&[1, 1, 0]).u64(9)
}

/// All of an exported part before its items.
fn exported() -> Body {
    Body::new().text("n").text("c").u128(1).u64(1)
}

#[test]
fn counts_that_lie_cost_nothing() {
    for count in [u64::from(u32::MAX), u64::MAX] {
        let within = |owner: Body| {
            let owner = owner.varint(count).raw(&[0; 8]).done();
            explained().varint(1).bytes(&owner)
        };
        let answers: Vec<(&str, Body, u8)> = vec![
            ("owners", explained().varint(count), EXPLAINED),
            ("owner", explained().varint(1).varint(count), EXPLAINED),
            ("clock", within(owner()), EXPLAINED),
            ("siblings", within(owner().raw(&[0])), EXPLAINED),
            (
                "preview",
                within(
                    owner()
                        .raw(&[0, 1])
                        .dot(1, 1)
                        .u128(0)
                        .u64(0)
                        .raw(&[0, 5])
                        .u64(0),
                ),
                EXPLAINED,
            ),
            ("items", exported().varint(count), EXPORTED),
            ("key", exported().varint(1).varint(count), EXPORTED),
            (
                "versions",
                exported().varint(1).text("k").varint(count),
                EXPORTED,
            ),
            ("damaged keys", exported().varint(0).varint(count), EXPORTED),
        ];
        for (name, body, kind) in answers {
            let input = body.raw(&[0; 8]).done();
            let mut error = None;
            let memory = measure(|| error = Response::decode(kind, &input).err());
            assert!(
                matches!(
                    error,
                    Some(DecodeError::TooLong { .. } | DecodeError::Truncated { .. })
                ),
                "{name}, {count}: {error:?}"
            );
            assert!(memory.bytes_max < 1024, "{name}, {count}: {memory:?}");
        }
        let key = Body::new().u32(0).varint(count);
        assert!(too_long(&key.request(kind::EXPLAIN)));
        let versions = Body::new().u32(0).text("k").varint(count);
        assert!(truncated(&versions.request(kind::IMPORT)));
    }
}

#[test]
fn one_more_than_is_taken() {
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let after = |key: &[u8]| Body::new().u32(1).tag(1, key).request(kind::EXPORT);
    assert!(after(&long[1..]).is_ok());
    assert!(too_long(&after(&long)));
    let next = |key: &[u8]| exported().raw(&[0, 0]).tag(1, key).response(EXPORTED);
    assert!(next(&long[1..]).is_ok());
    assert!(too_long(&next(&long)));

    let items = |count: usize| {
        let mut body = exported().varint(count as u64);
        for _ in 0..count {
            body = body.text("k").text("v");
        }
        body.varint(0).response(EXPORTED)
    };
    assert!(items(EXPORT_ITEMS_MAX).is_ok());
    assert!(too_long(&items(EXPORT_ITEMS_MAX + 1)));

    let owners = |count: u8| {
        let silent = Body::new().text("n").text("").raw(&[1, 0]).text("gone");
        let silent = silent.done();
        let mut body = explained().varint(u64::from(count));
        for _ in 0..count {
            body = body.bytes(&silent);
        }
        body.response(EXPLAINED)
    };
    assert!(owners(N_MAX).is_ok());
    assert!(too_long(&owners(N_MAX + 1)));

    let preview = |bytes: usize| {
        let owner = owner().raw(&[0, 1]).dot(1, 1).u128(0).u64(0);
        let owner = owner.raw(&[0, 5]).u64(0).bytes(&vec![0; bytes]).done();
        explained().varint(1).bytes(&owner).response(EXPLAINED)
    };
    assert!(preview(PREVIEW_BYTES_MAX).is_ok());
    assert!(too_long(&preview(PREVIEW_BYTES_MAX + 1)));
}

#[test]
fn what_means_nothing_is_refused() {
    let answer = |owner: Body| {
        let owner = owner.done();
        explained().varint(1).bytes(&owner).response(EXPLAINED)
    };
    assert!(answer(owner().raw(&[0, 0])).is_ok());
    // What a newer node adds to an owner's end is passed over.
    assert!(answer(owner().raw(&[0, 0, 7, 7])).is_ok());
    let outcome = Body::new().text("n").text("").raw(&[1, 2]);
    assert_eq!(invalid(answer(outcome)), Some("outcome"));
    let rebuilding = Body::new().text("n").text("").raw(&[1, 1, 2]);
    assert_eq!(invalid(answer(rebuilding)), Some("rebuilding"));
    let flags = owner().raw(&[0, 1]).dot(1, 1).u128(0).u64(0).raw(&[4]);
    assert_eq!(invalid(answer(flags)), Some("sibling flags"));
    let dot = owner().raw(&[0, 1]).dot(1, 0);
    assert_eq!(invalid(answer(dot)), Some("dot"));

    let import = |tail: &[u8]| {
        let body = Body::new().u32(0).text("k").text("versions");
        body.raw(tail).request(kind::IMPORT)
    };
    assert!(import(&[]).is_ok());
    assert!(truncated(&import(&[1, 0])));
    assert!(truncated(&import(&[1, 2, 3])));
    assert!(Body::new().raw(&[2]).request(kind::REPAIR).is_ok());
    let action = Body::new().raw(&[3]).request(kind::REPAIR);
    assert_eq!(invalid(action), Some("action"));
    let repairing = |tag: u8, field: &[u8]| {
        let counts = Body::new().text("n").varint(1).raw(&[1]);
        let counts = counts.u64(0).u64(0).raw(&[0, 0, 0]).u64(0);
        counts.tag(tag, field).response(kind::REPAIR | kind::ANSWER)
    };
    assert!(repairing(1, &[0; 8]).is_ok());
    assert!(repairing(99, &[7]).is_ok());
    assert!(truncated(&repairing(1, &[0; 7])));
    assert_eq!(invalid(repairing(3, &[1, b' '])), Some("node id"));
    let long = Body::new().text(&"e".repeat(1025)).done();
    assert!(too_long(&repairing(4, &long)));
    let nothing = Response::decode(kind::IMPORT | kind::ANSWER, &Bytes::new());
    assert!(truncated(&nothing));
    let read = Body::new().u64(1).u32(0).text("k").tag(1, &[2]);
    assert_eq!(invalid(read.request(kind::READ)), Some("tell actor"));
}

#[test]
fn a_snapshot_s_texts_are_bounded_before_they_are_taken() {
    const SNAPSHOT: u8 = kind::SNAPSHOT;
    const SNAPSHOTTING: u8 = kind::SNAPSHOT | kind::ANSWER;
    let start = || Body::new().raw(&[1]);
    assert!(start().text(&"a".repeat(64)).request(SNAPSHOT).is_ok());
    for length in [65, u64::from(u32::MAX), u64::MAX] {
        let body = start().varint(length).raw(&[b'a'; 65]);
        assert!(too_long(&body.request(SNAPSHOT)), "{length}");
    }
    assert_eq!(
        invalid(Body::new().raw(&[2]).request(SNAPSHOT)),
        Some("action")
    );
    assert!(truncated(&Body::new().request(SNAPSHOT)));
    let progress = || Body::new().text("n").raw(&[0, 0]).text("").raw(&[0, 0, 0]);
    assert!(progress().response(SNAPSHOTTING).is_ok());
    for tag in [3, 4] {
        let text = Body::new().varint(u64::MAX).done();
        let body = progress().tag(tag, &text);
        let mut is_refused = false;
        let allocated = measure(|| is_refused = too_long(&body.response(SNAPSHOTTING)));
        assert!(is_refused && allocated.bytes_max < 1024, "{allocated:?}");
    }
}
