//! What several owners let in, each within the limits of client writes, fits together: it can be decoded, sent, and
//! read with a context.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::causal::{Clock, Dot, Sibling, Value, Versions, context};
use dynakv_protocol::client::{Fetched, FetchedSibling};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::frame::{FrameDecoder, Header, put_frame};
use dynakv_protocol::limits::{
    BATCH_BYTES_SOFT_MAX, CLOCK_ENTRIES_IMPORTED_MAX, CLOCK_ENTRIES_MAX, CLOCK_ENTRIES_SOFT_MAX,
    FRAME_BYTES_MAX, KEY_BYTES_MAX, SIBLINGS_DECODED_MAX, SIBLINGS_IMPORTED_MAX, SIBLINGS_MAX,
    VALUE_BYTES_DEFAULT, VALUE_BYTES_MAX, VERSIONS_ENCODED_BYTES_MAX, versions_bytes_soft_max,
};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::peer::{KeepHint, MergeVersions, VersionsReply};
use dynakv_protocol::ring_document::N_MAX;
use dynakv_protocol::{Actor, ClusterId, NodeId, RingVersion, WriteId};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config;
use proptest::{prop_assert, prop_assert_eq};

use crate::ten_thousand;

/// The bytes of a sibling beside its value, at most: dot, write id, timestamp, flags, expiry, length.
const SIBLING_BYTES: usize = 18 + 16 + 8 + 1 + 8 + 4;

/// A state at the edge of what clients may write at one owner, or anywhere below. Owners have most of their actors in
/// common, or none.
fn soft_state(owner: u64) -> impl Strategy<Value = Versions> {
    let entries = prop_oneof![Just(CLOCK_ENTRIES_SOFT_MAX), 1..=CLOCK_ENTRIES_SOFT_MAX];
    let siblings = prop_oneof![Just(SIBLINGS_MAX), 0..=SIBLINGS_MAX];
    (entries, siblings, any::<bool>(), 0..1024_usize).prop_map(
        move |(entries, siblings, shares_actors, value_bytes)| {
            let base = if shares_actors { 0 } else { owner << 32 };
            let dots: Vec<Dot> = (1..=entries as u64)
                .map(|actor| Dot {
                    actor: Actor(base + actor),
                    counter: u64::MAX - owner,
                })
                .collect();
            let siblings = dots.iter().take(siblings).map(|&dot| Sibling {
                dot,
                write_id: WriteId(dot.actor.0.into()),
                timestamp: u64::MAX,
                expires_at_ms: Some(1),
                value: Value::Bytes(Bytes::from(vec![b'v'; value_bytes])),
            });
            Versions::from_parts(dots.iter().copied().collect(), siblings).unwrap()
        },
    )
}

fn owners() -> impl Strategy<Value = Vec<Versions>> {
    let all: Vec<_> = (1..=u64::from(N_MAX)).map(soft_state).collect();
    (all, 2..=usize::from(N_MAX)).prop_map(|(mut all, owners)| {
        all.truncate(owners);
        all
    })
}

fn whole_frame(kind: u8, body: impl FnOnce(&mut BytesMut)) -> Option<Bytes> {
    let mut out = BytesMut::new();
    put_frame(&mut out, Header::new(kind, 1), body);
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX - BATCH_BYTES_SOFT_MAX);
    let frame = decoder.next(&mut out).ok().flatten();
    frame.map(|frame| frame.body)
}

fn fits_everywhere(merged: &Versions) -> Result<(), String> {
    let key = Bytes::from(vec![b'k'; KEY_BYTES_MAX]);
    let encoded = merged.to_bytes();
    if Versions::from_bytes(&encoded).as_ref() != Ok(merged) {
        return Err("it cannot be decoded".to_owned());
    }
    let sealed = context::seal(ClusterId(1), &key, merged.clock());
    if context::open(ClusterId(1), &key, &sealed).as_ref() != Ok(merged.clock()) {
        return Err("its context does not open".to_owned());
    }
    let siblings = merged.siblings().iter().map(|sibling| FetchedSibling {
        dot: sibling.dot,
        timestamp_ms: 1,
        value: match &sibling.value {
            Value::Bytes(value) => value.clone(),
            Value::Tombstone => Bytes::new(),
        },
    });
    let responses = [
        Response::Fetched(Fetched {
            siblings: siblings.collect(),
            context: sealed,
            effective_r: 1,
        }),
        Response::Versions(VersionsReply {
            rebuilding: false,
            versions: encoded.clone(),
            actor: None,
            digest: None,
        }),
    ];
    for response in responses {
        let body = whole_frame(response.kind(), |out| response.encode(out));
        let body = body.ok_or("an answer is no frame")?;
        if Response::decode(response.kind(), &body).as_ref() != Ok(&response) {
            return Err("an answer cannot be decoded".to_owned());
        }
    }
    let merge = MergeVersions {
        ring_version: RingVersion(1),
        timeout_ms: 1,
        key: key.clone(),
        versions: encoded.clone(),
        tell_beside: false,
    };
    let hint = KeepHint {
        ring_version: RingVersion(1),
        timeout_ms: 1,
        key,
        versions: encoded,
        owed: vec![NodeId::new(&"n".repeat(64)).unwrap(); N_MAX.into()],
        needed: N_MAX,
    };
    for request in [Request::Merge(merge), Request::Hint(hint)] {
        let body = whole_frame(request.kind(), |out| request.encode(out));
        let body = body.ok_or("a request is no frame")?;
        if Request::decode(request.kind(), &body).as_ref() != Ok(&request) {
            return Err("a request cannot be decoded".to_owned());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 100, ..ten_thousand() })]

    #[test]
    fn what_owners_let_in_fits_together(states in owners()) {
        let mut merged = Versions::new();
        for state in &states {
            merged.merge(state);
        }
        prop_assert!(merged.clock().len() <= CLOCK_ENTRIES_IMPORTED_MAX);
        prop_assert!(merged.siblings().len() <= SIBLINGS_IMPORTED_MAX);
        let fits = fits_everywhere(&merged);
        prop_assert!(fits.is_ok(), "{fits:?}");
    }
}

proptest! {
    #![proptest_config(Config { cases: 1000, ..ten_thousand() })]

    /// However long the clocks are, and in whichever way they are joined.
    #[test]
    fn long_clocks_join_like_short_ones(
        ours in vec((0..80_u64, 1..9_u64), 0..60),
        theirs in vec((0..80_u64, 1..9_u64), 0..60),
        actor in 0..90_u64,
    ) {
        let clock = |dots: &[(u64, u64)]| -> Clock {
            dots.iter().map(|&(actor, counter)| Dot { actor: Actor(actor), counter }).collect()
        };
        let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
        for &(actor, counter) in ours.iter().chain(&theirs) {
            let known = expected.entry(actor).or_default();
            *known = counter.max(*known);
        }
        let mut joined = clock(&ours);
        joined.join(&clock(&theirs));
        let found: BTreeMap<u64, u64> = joined.iter().map(|dot| (dot.actor.0, dot.counter)).collect();
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(Clock::from_bytes(&joined.to_bytes()), Ok(joined));
        let with_actor = expected.len() + usize::from(!expected.contains_key(&actor));
        prop_assert_eq!(clock(&ours).len_with(&clock(&theirs), Actor(actor)), with_actor);
    }
}

/// The longest clock that a decoder takes, not only the longest that is legal.
#[test]
fn the_longest_clock_fits_everywhere() {
    let dot = |actor| Dot {
        actor: Actor(actor),
        counter: u64::MAX,
    };
    let clock: Clock = (1..=CLOCK_ENTRIES_MAX as u64).map(dot).collect();
    assert_eq!(clock.len(), CLOCK_ENTRIES_MAX);
    let longest = Versions::from_parts(clock, []).unwrap();
    fits_everywhere(&longest).unwrap();
}

/// Values are counted and not made: four owners with the largest values, and many with usual ones.
#[test]
fn the_bytes_that_owners_let_in_fit_together() {
    for (value_bytes_max, owners) in [
        (VALUE_BYTES_MAX, 4),
        (VALUE_BYTES_MAX / 4, 4),
        (VALUE_BYTES_DEFAULT, 19),
        (VALUE_BYTES_DEFAULT / 2, usize::from(N_MAX)),
    ] {
        let values = versions_bytes_soft_max(value_bytes_max);
        assert!(values >= value_bytes_max, "a value alone is always taken");
        let beside = 18 * CLOCK_ENTRIES_SOFT_MAX + SIBLINGS_MAX * SIBLING_BYTES + 16;
        let all = owners * (values + beside);
        assert!(
            all <= VERSIONS_ENCODED_BYTES_MAX,
            "{value_bytes_max}: {all}"
        );
    }
    let entries = usize::from(N_MAX) * CLOCK_ENTRIES_SOFT_MAX;
    assert!(3 * CLOCK_ENTRIES_IMPORTED_MAX + entries <= CLOCK_ENTRIES_MAX);
    assert!(usize::from(N_MAX) * SIBLINGS_MAX <= SIBLINGS_DECODED_MAX / 2);
}
