//! One value put in the place of another, as a node puts it.

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{Footprint, Mutation, Store};

/// Writes a key, as write number `counter` of one actor. Not synced.
pub(crate) fn put(store: &dyn Store, key: Bytes, counter: u64, value: Vec<u8>) {
    let before = match store.get(&key).unwrap() {
        Some(stored) => Footprint::of(&key, &Versions::from_bytes(&stored).unwrap()),
        None => Footprint::default(),
    };
    let dot = Dot {
        actor: Actor(1),
        counter,
    };
    let incoming = Incoming {
        write_id: WriteId(u128::from(counter)),
        timestamp: counter,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from(value)),
    };
    let mut versions = Versions::new();
    versions.write(&Clock::new(), dot, incoming);
    let mutation = Mutation {
        before,
        after: Footprint::of(&key, &versions),
        key,
        versions: versions.to_bytes(),
    };
    store.apply(&[mutation]).unwrap();
}
