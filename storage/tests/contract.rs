//! What every store must do, held against a model, for the store on disk and the one in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::{Position, Segment};
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{
    Checked, Compaction, DiskOptions, DiskStore, Durability, Footprint, Item, MemoryDisk,
    MemoryStore, Mutation, PageLimit, PositionRange, Store, Totals, check_store,
};
use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof};
use proptest::test_runner::{Config, TestRunner};

/// Keys of the model, in ring order.
type Model = BTreeMap<(Position, Bytes), Versions>;

/// A random write: to which of a few keys, seeing what is there or not, of how many bytes (none: a
/// tombstone).
#[derive(Debug, Clone)]
struct Write {
    key: u8,
    blind: bool,
    length: Option<usize>,
    /// The key is removed instead.
    removes: bool,
    sync: bool,
    /// Whether all of it is carried into the tree, where the store has one.
    checkpoint: bool,
}

/// A store that may have a tree behind what it remembers.
trait Checkpoints: Store {
    fn checkpoint(&self) {}
}

impl Checkpoints for MemoryStore {}

impl Checkpoints for DiskStore {
    fn checkpoint(&self) {
        DiskStore::checkpoint(self).unwrap();
    }
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let length = prop_oneof![
        1 => proptest::strategy::Just(None),
        4 => (0..200_usize).prop_map(Some),
        1 => (4_000..20_000_usize).prop_map(Some),
    ];
    let checkpoint = proptest::bool::weighted(0.03);
    let removes = proptest::bool::weighted(0.2);
    let how = (any::<bool>(), removes, any::<bool>(), checkpoint);
    let write =
        (0..20_u8, length, how).prop_map(|(key, length, (blind, removes, sync, checkpoint))| {
            Write {
                key,
                blind,
                length,
                removes,
                sync,
                checkpoint,
            }
        });
    proptest::collection::vec(write, 1..120)
}

fn key_of(key: u8) -> Bytes {
    Bytes::from(format!("key-{key}"))
}

/// Carries one write out on the store and on the model.
fn carry_out(store: &dyn Checkpoints, model: &mut Model, counter: u64, write: &Write) {
    let key = key_of(write.key);
    match write.removes {
        true => remove(store, model, &key),
        false => put(store, model, counter, write, key),
    }
    if write.sync {
        store.sync().unwrap();
    }
    if write.checkpoint {
        store.checkpoint();
    }
}

/// Only what is there as expected is removed.
fn remove(store: &dyn Checkpoints, model: &mut Model, key: &Bytes) {
    let place = (Position::of_key(key), key.clone());
    let removed = model.remove(&place);
    let hash = removed.map_or(7, |versions| Footprint::of(key, &versions).hash);
    let was_there = hash != 7;
    assert!(!store.remove(key, hash ^ 1).unwrap());
    assert_eq!(store.remove(key, hash).unwrap(), was_there);
    assert!(!store.remove(key, hash).unwrap());
}

fn put(store: &dyn Checkpoints, model: &mut Model, counter: u64, write: &Write, key: Bytes) {
    let versions = model
        .entry((Position::of_key(&key), key.clone()))
        .or_default();
    let before = Footprint::of(&key, versions);
    let context = if write.blind {
        Clock::new()
    } else {
        versions.clock().clone()
    };
    let dot = Dot {
        actor: Actor(1),
        counter,
    };
    let incoming = Incoming {
        write_id: WriteId(u128::from(counter)),
        timestamp: counter,
        expires_at_ms: None,
        value: match write.length {
            Some(length) => Value::Bytes(Bytes::from(vec![counter as u8; length])),
            None => Value::Tombstone,
        },
    };
    versions.write(&context, dot, incoming);
    let mutation = Mutation {
        before,
        after: Footprint::of(&key, versions),
        key,
        versions: versions.to_bytes(),
    };
    store.apply(&[mutation]).unwrap();
}

/// Counts the model from nothing.
fn recount(model: &Model) -> Totals {
    let mut totals = Totals::default();
    for versions in model.values() {
        let live: Vec<&Value> = versions
            .siblings()
            .iter()
            .map(|sibling| &sibling.value)
            .filter(|value| **value != Value::Tombstone)
            .collect();
        totals.keys += u64::from(!live.is_empty());
        totals.conflict_keys += u64::from(live.len() > 1);
        totals.versions += live.len() as u64;
        totals.live_bytes += live.iter().map(|value| value.len() as u64).sum::<u64>();
    }
    totals
}

fn without_disk(totals: Totals) -> Totals {
    Totals {
        disk_bytes: 0,
        ..totals
    }
}

/// Walks a range page by page.
fn walk(store: &dyn Store, range: PositionRange, limit: PageLimit) -> Vec<Item> {
    let mut items = Vec::new();
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(range, after.as_deref(), limit).unwrap();
        assert!(page.items.len() <= limit.items_max.max(1));
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            return items;
        }
    }
}

/// The part of the model in a range.
fn part(model: &Model, range: PositionRange) -> Vec<Item> {
    let places = model
        .iter()
        .filter(|((position, _), _)| range.contains(*position));
    places
        .map(|((_, key), versions)| Item {
            key: key.clone(),
            versions: versions.to_bytes(),
        })
        .collect()
}

/// Random writes; then everything must be as in the model, also after `reopen`.
fn behaves_like_the_model<S: Checkpoints>(
    cases: u32,
    open: impl Fn() -> S,
    reopen: impl Fn(S) -> S,
) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let limits = (1..7_usize, 1..30_000_usize);
    let outcome = runner.run(
        &(writes(), limits, any::<u64>(), any::<u64>()),
        |(writes, (items_max, bytes_max), a, b)| {
            let mut store = open();
            let mut model = Model::new();
            for (counter, write) in (1..).zip(&writes) {
                carry_out(&store, &mut model, counter, write);
            }
            store.sync().unwrap();
            let limit = PageLimit {
                items_max,
                bytes_max,
            };
            let arc = PositionRange {
                start: Position(a.min(b)),
                end: Some(Position(a.max(b))),
            };
            let first_key_only = PositionRange::of_segment(Segment::of_key(&key_of(0)));
            for _ in 0..2 {
                for key in 0..20 {
                    let key = key_of(key);
                    let expected = model.get(&(Position::of_key(&key), key.clone()));
                    let found = store.get(&key).unwrap();
                    let hot = store.get_hot(&key);
                    proptest::prop_assert!(
                        hot.is_none() || hot == found,
                        "{:?} is hot, {:?} is there",
                        hot,
                        found
                    );
                    prop_assert_eq!(found, expected.map(Wire::to_bytes));
                }
                for range in [PositionRange::ALL, arc, first_key_only] {
                    prop_assert_eq!(walk(&store, range, limit), part(&model, range));
                }
                prop_assert_eq!(without_disk(store.totals()), recount(&model));
                let checked = check_store(&store, &mut |_, _, _| ()).unwrap();
                let expected = Checked {
                    keys: model.len() as u64,
                    bytes: checked.bytes,
                    ..Checked::default()
                };
                prop_assert_eq!(checked, expected);
                store = reopen(store);
            }
            Ok(())
        },
    );
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn the_store_in_memory_behaves_like_the_model() {
    let disk = std::cell::RefCell::new(MemoryDisk::new());
    behaves_like_the_model(
        200,
        || {
            *disk.borrow_mut() = MemoryDisk::new();
            disk.borrow().store()
        },
        |store| {
            drop(store);
            disk.borrow().crash();
            disk.borrow().store()
        },
    );
}

fn the_store_on_disk_behaves_like_the_model(cases: u32, options: DiskOptions) {
    let directory = std::cell::RefCell::new(tempfile::tempdir().unwrap());
    let open = || DiskStore::open(directory.borrow().path(), options).unwrap();
    behaves_like_the_model(
        cases,
        || {
            *directory.borrow_mut() = tempfile::tempdir().unwrap();
            open()
        },
        |store| {
            drop(store);
            open()
        },
    );
}

const OPTIONS: DiskOptions = DiskOptions {
    memory_bytes: 64 * 1024 * 1024,
    log_bytes_max: 512 * 1024 * 1024,
    durability: Durability::Sync,
    reserve_bytes: None,
    compaction: Compaction::WhenWorth,
};

#[test]
fn the_store_on_disk_behaves_like_the_model_when_all_fits_in_memory() {
    the_store_on_disk_behaves_like_the_model(8, OPTIONS);
}

#[test]
fn the_store_on_disk_behaves_like_the_model_when_checkpoints_never_end() {
    let options = DiskOptions {
        memory_bytes: 0,
        ..OPTIONS
    };
    the_store_on_disk_behaves_like_the_model(8, options);
}

#[test]
fn the_store_on_disk_behaves_like_the_model_when_its_log_is_short_and_synced_by_time() {
    let options = DiskOptions {
        log_bytes_max: 6_000,
        durability: Durability::Interval(std::time::Duration::from_millis(1)),
        ..OPTIONS
    };
    the_store_on_disk_behaves_like_the_model(8, options);
}

#[test]
fn a_page_has_at_least_one_item_and_a_cursor_before_the_range_is_no_harm() {
    let store = MemoryDisk::new().store();
    let mut model = Model::new();
    for (counter, key) in (1..).zip(0..10) {
        let write = Write {
            key,
            blind: true,
            length: Some(100),
            removes: false,
            sync: false,
            checkpoint: false,
        };
        carry_out(&store, &mut model, counter, &write);
    }
    let nothing = PageLimit {
        items_max: 0,
        bytes_max: 0,
    };
    assert_eq!(walk(&store, PositionRange::ALL, nothing).len(), 10);

    let (first, last) = (
        model.first_key_value().unwrap().0,
        model.last_key_value().unwrap().0,
    );
    let range = PositionRange {
        start: last.0,
        end: None,
    };
    let page = store.scan(range, Some(&first.1), nothing).unwrap();
    assert_eq!(page.items[0].key, last.1);
    let end = PositionRange {
        start: Position(5),
        end: Some(Position(5)),
    };
    assert!(store.scan(end, None, nothing).unwrap().items.is_empty());
}
