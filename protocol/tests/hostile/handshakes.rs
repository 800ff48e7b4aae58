//! The first message of a connection.

use crate::body::{Body, invalid, truncated};
use dynakv_protocol::handshake::{Hello, MAGIC};
use dynakv_protocol::message::kind;

fn hello(magic: &[u8], versions: [u8; 2], role: u8) -> Body {
    Body::new()
        .raw(magic)
        .raw(&versions)
        .raw(&[role])
        .text("dynakv")
}

#[test]
fn a_wrong_magic() {
    for magic in [b"dynakv", b"DYNAKW", b"GET / ", &[0; 6]] {
        let refused = hello(magic, [1, 1], 1).request(kind::HELLO);
        assert_eq!(invalid(refused), Some("magic"));
    }
    assert!(truncated(&Body::new().raw(b"DYN").request(kind::HELLO)));
}

#[test]
fn a_role_that_does_not_fit() {
    for role in [0, 3, 255] {
        assert_eq!(
            invalid(hello(&MAGIC, [1, 1], role).request(kind::HELLO)),
            Some("role")
        );
    }
    // A peer that does not say who it is; a client that says it is a node.
    assert_eq!(
        invalid(hello(&MAGIC, [1, 1], 2).request(kind::HELLO)),
        Some("role")
    );
    let identity = Body::new()
        .text("node-1")
        .u64(1)
        .u128(1)
        .u64(1)
        .u64(1)
        .text("a:1")
        .raw(&[1])
        .done();
    assert!(
        hello(&MAGIC, [1, 1], 2)
            .tag(1, &identity)
            .request(kind::HELLO)
            .is_ok()
    );
    let client = hello(&MAGIC, [1, 1], 1).tag(1, &identity);
    assert_eq!(invalid(client.request(kind::HELLO)), Some("role"));
    let lane = [&identity[..identity.len() - 1], &[3]].concat();
    assert_eq!(
        invalid(hello(&MAGIC, [1, 1], 2).tag(1, &lane).request(kind::HELLO)),
        Some("lane")
    );
}

#[test]
fn versions_without_a_common_one() {
    let common = |min, max| match hello(&MAGIC, [min, max], 1).decode::<Hello>() {
        Ok(hello) => hello.common_version(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(common(1, 1), Some(1));
    assert_eq!(common(0, 255), Some(1));
    assert_eq!(common(0, 0), None);
    assert_eq!(common(2, 255), None);
    assert_eq!(common(2, 1), None, "a range that is none");
}
