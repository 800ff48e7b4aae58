//! From what the replicas have to what a client sees.

use bytes::Bytes;
use dynakv_protocol::ClusterId;
use dynakv_protocol::causal::{Sibling, Value, Versions, context};
use dynakv_protocol::client::{Fetched, FetchedSibling};

/// The answer to a read: deleted and expired siblings are hidden, and second copies of what was replaced
/// (see [`Versions::standing`]); equal values stand once (under the
/// newest of their dates), and the context covers all of them.
pub fn fetched(
    cluster: ClusterId,
    key: &[u8],
    versions: &Versions,
    effective_r: u8,
    now_unix_ms: u64,
) -> Fetched {
    let mut siblings: Vec<FetchedSibling> = Vec::new();
    let live = |sibling: &&Sibling| sibling.is_live(now_unix_ms);
    for sibling in versions.standing().filter(live) {
        let Value::Bytes(value) = &sibling.value else {
            continue;
        };
        let timestamp_ms = sibling.timestamp_ms();
        match siblings.iter_mut().find(|shown| shown.value == *value) {
            Some(shown) => shown.timestamp_ms = shown.timestamp_ms.max(timestamp_ms),
            None => siblings.push(FetchedSibling {
                dot: sibling.dot,
                timestamp_ms,
                value: value.clone(),
            }),
        }
    }
    Fetched {
        siblings,
        context: sealed(cluster, key, versions),
        effective_r,
    }
}

/// The context that stands for having seen these versions.
pub fn sealed(cluster: ClusterId, key: &[u8], versions: &Versions) -> Bytes {
    context::seal(cluster, key, versions.clock())
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::Actor;
    use dynakv_protocol::causal::{Clock, Dot, Incoming};
    use dynakv_protocol::ids::WriteId;

    use super::*;

    fn versions(siblings: &[(Value, Option<u64>)]) -> Versions {
        let mut versions = Versions::new();
        for (i, (value, expires_at_ms)) in siblings.iter().enumerate() {
            let counter = i as u64 + 1;
            let dot = Dot {
                actor: Actor(1),
                counter,
            };
            let incoming = Incoming {
                write_id: WriteId(u128::from(counter)),
                timestamp: counter << 16,
                expires_at_ms: *expires_at_ms,
                value: value.clone(),
            };
            versions.write(&Clock::new(), dot, incoming);
        }
        versions
    }

    fn bytes(text: &'static str) -> Value {
        Value::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn tombstones_and_expired_values_are_hidden_and_equal_ones_shown_once() {
        let versions = versions(&[
            (bytes("same"), None),
            (Value::Tombstone, None),
            (bytes("gone"), Some(100)),
            (bytes("same"), None),
            (bytes("other"), Some(101)),
        ]);
        let answer = fetched(ClusterId(1), b"k", &versions, 2, 100);
        let shown: Vec<_> = answer
            .siblings
            .iter()
            .map(|s| (&s.value[..], s.timestamp_ms))
            .collect();
        assert_eq!(shown, [(&b"same"[..], 4), (&b"other"[..], 5)]);
        let clock = context::open(ClusterId(1), b"k", &answer.context).unwrap();
        assert_eq!(&clock, versions.clock());
    }
}
