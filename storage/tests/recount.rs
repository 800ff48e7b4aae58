//! A recount puts right what replaced damage has left wrong, while the store is written.

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{
    DiskOptions, DiskStore, Footprint, MemoryDisk, Mutation, PageLimit, Store, StoreError,
    check_store,
};

const KEYS: u64 = 300;

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

fn state(counter: u64, length: usize) -> Versions {
    let mut versions = Versions::new();
    let dot = Dot {
        actor: Actor(7),
        counter,
    };
    let value = match length {
        0 => Value::Tombstone,
        _ => Value::Bytes(Bytes::from(vec![counter as u8; length])),
    };
    let incoming = Incoming {
        write_id: WriteId(u128::from(counter)),
        timestamp: counter,
        expires_at_ms: None,
        value,
    };
    versions.write(&Clock::new(), dot, incoming);
    versions
}

/// Writes as a node does: what cannot be read counts as nothing.
fn write(store: &dyn Store, number: u64, after: &Versions) {
    let key = key(number);
    let before = match store.get(&key) {
        Ok(Some(stored)) => Footprint::of(&key, &Versions::from_bytes(&stored).unwrap()),
        Ok(None) | Err(StoreError::Corrupt { .. }) => Footprint::default(),
        Err(error) => panic!("{error}"),
    };
    let mutation = Mutation {
        before,
        after: Footprint::of(&key, after),
        versions: after.to_bytes(),
        key,
    };
    store.apply(&[mutation]).unwrap();
}

/// The same, with nothing known of what is there: what a damaged value leaves behind.
fn write_over(store: &dyn Store, number: u64, after: &Versions) {
    let key = key(number);
    let mutation = Mutation {
        before: Footprint::default(),
        after: Footprint::of(&key, after),
        versions: after.to_bytes(),
        key,
    };
    store.apply(&[mutation]).unwrap();
}

fn is_clean(store: &dyn Store) -> bool {
    check_store(store, &mut |_, _, _| ()).unwrap().is_clean()
}

fn limit(items_max: usize) -> PageLimit {
    PageLimit {
        items_max,
        bytes_max: usize::MAX,
    }
}

/// Counts all of it, and does something between any two parts. How many segments were wrong, and which
/// keys were damaged.
fn recount(store: &dyn Store, items: usize, mut between: impl FnMut()) -> (u32, Vec<Bytes>) {
    let (mut after, mut corrected, mut damaged) = (None::<Bytes>, 0, Vec::new());
    loop {
        let part = store.recount(after.as_deref(), limit(items)).unwrap();
        corrected += part.corrected_segments;
        damaged.extend(part.damaged);
        after = part.next;
        if after.is_none() {
            return (corrected, damaged);
        }
        between();
    }
}

#[test]
fn damage_that_was_replaced_is_counted_out_and_writers_go_on() {
    let mut random = fastrand::Rng::with_seed(5);
    for items in [1, 7, 1000] {
        let disk = MemoryDisk::new();
        let store = disk.store();
        for number in 0..KEYS {
            write(&store, number, &state(number + 1, 10 + number as usize));
        }
        assert!(is_clean(&store));
        disk.damage_values();
        let mut counter = 1000;
        let mut write_one = |number: u64| {
            counter += 1;
            write(&store, number, &state(counter, (counter % 50) as usize));
        };
        (0..KEYS / 2).for_each(&mut write_one);
        let (corrected, damaged) = recount(&store, items, || {
            for _ in 0..random.usize(0..6) {
                write_one(random.u64(0..KEYS));
            }
        });
        assert!(corrected > 0 && !damaged.is_empty(), "{corrected}");
        // What was still damaged then is counted out as well: what takes its place leaves nothing wrong.
        (0..KEYS).for_each(&mut write_one);
        assert!(is_clean(&store), "parts of {items}");
        assert_eq!(recount(&store, items, || ()), (0, Vec::new()));
        store.sync().unwrap();
        disk.crash();
        assert!(is_clean(&disk.store()));
    }
}

#[test]
fn what_was_put_right_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let open = || DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
    let store = open();
    for number in 0..KEYS {
        write(&store, number, &state(number + 1, 20));
    }
    store.checkpoint().unwrap();
    for number in 0..KEYS / 3 {
        write_over(&store, number, &state(1000 + number, 30));
    }
    store.sync().unwrap();
    assert!(!is_clean(&store));
    let mut counter = 5000;
    let (corrected, damaged) = recount(&store, 10, || {
        counter += 1;
        write(&store, counter % KEYS, &state(counter, 40));
        if counter % 10 == 0 {
            store.checkpoint().unwrap();
        }
    });
    assert!(corrected > 0 && damaged.is_empty());
    assert!(is_clean(&store));
    drop(store);
    // Once from the log, once from a checkpoint.
    for _ in 0..2 {
        let store = open();
        assert!(is_clean(&store));
        assert_eq!(store.totals().keys, KEYS);
        write(&store, 1, &state(9000, 10));
        store.checkpoint().unwrap();
    }
}

#[test]
fn a_part_that_does_not_follow_the_one_before_is_refused() {
    let disk = MemoryDisk::new();
    let store = disk.store();
    for number in 0..KEYS {
        write(&store, number, &state(number + 1, 10));
    }
    let first = store.recount(None, limit(10)).unwrap().next.unwrap();
    let second = store.recount(Some(&first), limit(10)).unwrap();
    let refused = |after: &[u8]| {
        let error = store.recount(Some(after), limit(10)).unwrap_err();
        assert!(matches!(error, StoreError::NotRecounting), "{error:?}");
    };
    refused(&first);
    // From then on none is under way.
    refused(&second.next.unwrap());
    store.recount(None, limit(10)).unwrap();
    store.sync().unwrap();
    disk.crash();
    let error = disk.store().recount(Some(&first), limit(10)).unwrap_err();
    assert!(matches!(error, StoreError::NotRecounting), "{error:?}");
    assert!(is_clean(&disk.store()));
}
