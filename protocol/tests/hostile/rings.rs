//! Ring documents that no cluster can have.

use crate::body::{Body, invalid};
use dynakv_protocol::DecodeError;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::message::kind;
use dynakv_protocol::ring_document::{N_MAX, RingDocument, WEIGHT_MAX};

struct Document {
    cluster_id: u128,
    version: u64,
    step: u8,
    quorums: [u8; 3],
    /// The weights that the members are to have, of a ring that changes.
    target: Vec<u16>,
    members: Vec<(&'static str, u16)>,
}

fn decode(change: impl FnOnce(&mut Document)) -> Result<RingDocument, DecodeError> {
    let mut document = Document {
        cluster_id: 1,
        version: 1,
        step: 1,
        quorums: [3, 2, 2],
        target: Vec::new(),
        members: vec![("a", 1), ("b", WEIGHT_MAX)],
    };
    change(&mut document);
    let mut body = Body::new()
        .u128(document.cluster_id)
        .text("c")
        .u64(document.version)
        .raw(&[document.step]);
    if matches!(document.step, 2 | 3) {
        body = body.u64(1).varint(document.target.len() as u64);
        for weight in document.target {
            body = body.u16(weight).text("");
        }
    }
    body = body
        .raw(&document.quorums)
        .varint(document.members.len() as u64);
    for (id, weight) in document.members {
        body = body.text(id).u64(1).text("host:1").u16(weight).text("");
    }
    body.decode()
}

#[test]
fn documents_that_no_cluster_can_have() {
    assert!(decode(|_| {}).is_ok());
    // Clusters were founded with such quorums once; they are capped at n.
    for quorums in [[3, 4, 2], [3, 2, 4]] {
        assert!(decode(|d| d.quorums = quorums).is_ok(), "{quorums:?}");
    }
    assert_eq!(invalid(decode(|d| d.cluster_id = 0)), Some("ring document"));
    assert_eq!(invalid(decode(|d| d.version = 0)), Some("ring document"));
    assert_eq!(
        invalid(decode(|d| d.members.clear())),
        Some("ring document")
    );
    assert_eq!(invalid(decode(|d| d.step = 9)), Some("ring step"));
    for quorums in [
        [0, 0, 0],
        [3, 0, 2],
        [3, 2, 0],
        [N_MAX + 1, 2, 2],
        [255, 1, 1],
    ] {
        assert_eq!(
            invalid(decode(|d| d.quorums = quorums)),
            Some("n, w, r"),
            "{quorums:?}"
        );
    }
    for members in [vec![("b", 1), ("a", 1)], vec![("a", 1), ("a", 1)]] {
        assert_eq!(
            invalid(decode(|d| d.members = members)),
            Some("member order")
        );
    }
    for weight in [0, WEIGHT_MAX + 1, u16::MAX] {
        assert_eq!(invalid(decode(|d| d.members[0].1 = weight)), Some("weight"));
    }
}

#[test]
fn changes_that_no_cluster_can_make() {
    let changing = |members: &[(&'static str, u16)], target: &[u16]| {
        let decoded = [2, 3].map(|step| {
            decode(|document| {
                document.step = step;
                document.members = members.to_vec();
                document.target = target.to_vec();
            })
        });
        let [write_both, read_new] = decoded.map(|decoded| decoded.map(|_| ()));
        assert_eq!(write_both, read_new);
        write_both
    };
    assert!(changing(&[("a", 1), ("b", 0)], &[0, WEIGHT_MAX]).is_ok());
    for (members, target) in [
        // As many stakes as members, of weights that can be.
        (&[("a", 1), ("b", 1)][..], &[1][..]),
        (&[("a", 1), ("b", 1)], &[1, 1, 1]),
        (&[("a", 1), ("b", 1)], &[1, WEIGHT_MAX + 1]),
        (&[("a", 1), ("b", u16::MAX)], &[1, 1]),
        // Who has no stake and is to have none is no member.
        (&[("a", 1), ("b", 0)], &[1, 0]),
        // Somebody owns something on either side.
        (&[("a", 0), ("b", 0)], &[1, 1]),
        (&[("a", 1), ("b", 1)], &[0, 0]),
    ] {
        let refused = changing(members, target);
        assert_eq!(invalid(refused), Some("weight"), "{members:?} {target:?}");
    }
}

#[test]
fn addresses_that_do_not_match_the_members() {
    let document = decode(|_| {}).unwrap().to_bytes();
    for (count, good) in [(0_u64, false), (1, false), (2, true), (3, false)] {
        let mut body = Body::new().bytes(&document).varint(count);
        for _ in 0..count {
            body = body.text("host:1");
        }
        assert_eq!(
            body.response(kind::RING | kind::ANSWER).is_ok(),
            good,
            "{count}"
        );
    }
}
