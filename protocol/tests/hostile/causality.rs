//! Clocks, states and contexts that would make a store lose a write.

use crate::body::{Body, invalid};
use bytes::Bytes;
use dynakv_protocol::causal::context::{self, ContextError};
use dynakv_protocol::causal::{Clock, Dot, Versions};
use dynakv_protocol::{Actor, ClusterId};

#[test]
fn counters_at_both_ends() {
    let clock = |counter| Body::new().varint(1).dot(1, counter).decode::<Clock>();
    assert_eq!(invalid(clock(0)), Some("dot"));
    let mut most = clock(u64::MAX).unwrap();
    most.see(Dot {
        actor: Actor(1),
        counter: 1,
    });
    most.join(&clock(u64::MAX).unwrap());
    assert_eq!(most.counter(Actor(1)), u64::MAX);
    // Whether such a counter may be believed is for the node to say, which knows its own.
    let sealed = context::seal(ClusterId(1), b"k", &most);
    assert_eq!(context::open(ClusterId(1), b"k", &sealed), Ok(most));
}

#[test]
fn clocks_out_of_order() {
    let clock = |first, second| {
        let body = Body::new().varint(2).dot(first, 1).dot(second, 2);
        body.decode::<Clock>()
    };
    assert!(clock(1, 2).is_ok());
    assert_eq!(invalid(clock(2, 1)), Some("clock order"));
    assert_eq!(invalid(clock(1, 1)), Some("clock order"));
}

#[test]
fn states_that_would_lose_a_write() {
    let start = |format: u8| Body::new().raw(&[format, 1]).dot(1, 5);
    let tombstone = |body: Body, actor, counter| body.dot(actor, counter).u128(0).u64(0).raw(&[1]);
    assert!(
        tombstone(start(1).raw(&[1]), 1, 5)
            .decode::<Versions>()
            .is_ok()
    );
    for (actor, counter) in [(1, 6), (1, u64::MAX), (2, 1)] {
        let beyond = tombstone(start(1).raw(&[1]), actor, counter).decode::<Versions>();
        assert_eq!(invalid(beyond), Some("dot beyond its clock"));
    }
    for (first, second) in [(4, 3), (4, 4)] {
        let body = tombstone(start(1).raw(&[2]), 1, first);
        let order = tombstone(body, 1, second).decode::<Versions>();
        assert_eq!(invalid(order), Some("sibling order"));
    }
    for format in [0, 2, 255] {
        let other = tombstone(start(format).raw(&[1]), 1, 5).decode::<Versions>();
        assert_eq!(invalid(other), Some("versions format"));
    }
    for flags in [4, 8, 0x80, 0xff] {
        let body = start(1).raw(&[1]).dot(1, 5).u128(0).u64(0).raw(&[flags]);
        assert_eq!(invalid(body.decode::<Versions>()), Some("sibling flags"));
    }
}

#[test]
fn contexts_that_are_none() {
    let open = |bytes: &[u8]| context::open(ClusterId(1), b"k", &Bytes::copy_from_slice(bytes));
    let malformed = |opened| matches!(opened, Err(ContextError::Malformed(_)));
    for bytes in [&b""[..], b"abc", b"none", &[0; 64], &[0xff; 64]] {
        assert!(malformed(open(bytes)), "{bytes:?}");
    }
    // A checksum anyone can make is no proof of anything: what it covers is checked all the same.
    let resealed = |body: Bytes| {
        let checksum = crc32fast::hash(&body);
        [&body[..], &checksum.to_be_bytes()].concat()
    };
    let good = context::seal(ClusterId(1), b"k", &Clock::new());
    assert!(open(&good).is_ok());
    let mut other_format = good[..good.len() - 4].to_vec();
    other_format[0] = 2;
    assert!(malformed(open(&resealed(other_format.into()))));
    let hostile_count = [&good[..9], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    assert!(malformed(open(&resealed(hostile_count.into()))));
    let trailing = [&good[..good.len() - 4], &[0]].concat();
    assert!(malformed(open(&resealed(trailing.into()))));
}
