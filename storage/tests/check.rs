//! The checker names what is damaged, changes nothing of what it looks at, and a rewrite keeps everything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{
    Checked, Compaction, DiskOptions, DiskStore, Footprint, Mutation, RewriteError, Store,
    StoreError, check_directory, check_store, rewrite_directory,
};

const OPTIONS: DiskOptions = DiskOptions {
    memory_bytes: 16 * 1024 * 1024,
    log_bytes_max: 32 * 1024 * 1024,
    durability: dynakv_storage::Durability::Sync,
    reserve_bytes: None,
    compaction: Compaction::WhenWorth,
};

fn state(counter: u64, value: Value) -> Versions {
    let mut versions = Versions::new();
    let dot = Dot {
        actor: Actor(7),
        counter,
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

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

fn write(store: &DiskStore, number: u64, before: Option<&Versions>, after: &Versions) {
    let key = key(number);
    let mutation = Mutation {
        before: before.map_or_else(Footprint::default, |before| Footprint::of(&key, before)),
        after: Footprint::of(&key, after),
        versions: after.to_bytes(),
        key,
    };
    store.apply(&[mutation]).unwrap();
}

/// Fills a store: some keys in the tree, some in the log, large ones, deleted ones, overwritten ones.
fn fill(directory: &Path) -> BTreeMap<Bytes, Bytes> {
    let store = DiskStore::open(directory, OPTIONS).unwrap();
    let mut states = BTreeMap::new();
    let value = |number: u64, length| Value::Bytes(Bytes::from(vec![number as u8; length]));
    for turn in 0..2 {
        for number in (0..400).filter(|number| number % (turn + 1) == 0) {
            let counter = turn * 1000 + number + 1;
            let after = match number % 40 {
                0 => state(counter, value(counter, 30_000)),
                1 => state(counter, Value::Tombstone),
                _ => state(counter, value(counter, 50)),
            };
            let before = states.insert(number, after.clone());
            write(&store, number, before.as_ref(), &after);
        }
        store.sync().unwrap();
        if turn == 0 {
            store.checkpoint().unwrap();
        }
    }
    let encoded = states.into_iter();
    encoded
        .map(|(number, it)| (key(number), it.to_bytes()))
        .collect()
}

fn quiet() -> impl FnMut(dynakv_storage::check::Step, u64, u64) {
    |_, _, _| ()
}

fn check(directory: &Path) -> Checked {
    check_directory(directory, &mut quiet()).unwrap()
}

/// Every file below a directory, with its content.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

fn flip(path: &Path, at: usize) {
    let mut content = fs::read(path).unwrap();
    content[at] ^= 0x40;
    fs::write(path, content).unwrap();
}

#[test]
fn a_sound_store_is_clean_and_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let states = fill(&directory);
    let before = contents(root.path());
    let checked = check(&directory);
    assert_eq!(checked.findings, []);
    assert_eq!(checked.keys, states.len() as u64);
    assert_eq!(
        contents(root.path()),
        before,
        "nothing may be changed or left"
    );
    let store = DiskStore::open(&directory, OPTIONS).unwrap();
    let error = check_directory(&directory, &mut quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    drop(store);
}

#[test]
fn a_damaged_log_is_named_place_by_place_and_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    fill(&directory);
    // Something behind the damage, so that it is no torn tail.
    drop(DiskStore::open(&directory, OPTIONS).unwrap());
    let logs = contents(&directory.join("log"));
    let (path, content) = logs
        .iter()
        .max_by_key(|(_, content)| content.len())
        .unwrap();
    flip(path, content.len() / 2);
    let before = contents(root.path());
    let checked = check(&directory);
    assert!(!checked.is_clean());
    let named = checked
        .findings
        .iter()
        .filter(|it| it.place.contains(".log"));
    assert!(named.count() >= 2, "the error, and each place: {checked:?}");
    assert!(checked.keys > 0, "what the tree has is read all the same");
    for finding in &checked.findings {
        let text = format!("{finding:?}");
        assert!(!text.contains(".checking"), "{text}");
    }
    assert_eq!(contents(root.path()), before);
    flip(path, content.len() / 2);
    assert_eq!(check(&directory).findings, []);
    flip(&directory.join("log/synced"), 3);
    assert_eq!(check(&directory).findings_total, 1);
}

#[test]
fn a_tree_that_does_not_open_is_named_once_and_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    fill(&directory);
    for at in [300, 500, 700] {
        flip(&directory.join("sled/db"), at);
    }
    let before = contents(root.path());
    let checked = check(&directory);
    assert_eq!(checked.findings_total, 1, "{checked:?}");
    let text = format!("{:?}", checked.findings);
    assert!(
        text.contains("sled") && !text.contains(".checking"),
        "{text}"
    );
    assert_eq!(contents(root.path()), before);
}

#[test]
fn a_write_that_vanished_is_found_by_the_hash_of_its_segment() {
    let root = tempfile::tempdir().unwrap();
    let store = DiskStore::open(root.path(), OPTIONS).unwrap();
    let (old, new) = (
        state(1, Value::Bytes(Bytes::from_static(b"one"))),
        state(2, Value::Bytes(Bytes::from_static(b"two"))),
    );
    write(&store, 1, None, &old);
    // As if what is stored were an older state than what the hash was told of: sums cannot tell.
    let mutation = Mutation {
        key: key(1),
        versions: old.to_bytes(),
        before: Footprint::of(&key(1), &old),
        after: Footprint::of(&key(1), &new),
    };
    store.apply(&[mutation]).unwrap();
    let checked = check_store(&store, &mut quiet()).unwrap();
    assert_eq!(checked.findings_total, 1, "{checked:?}");
    let segment = Segment::of_key(&key(1)).0;
    assert_eq!(checked.findings[0].place, format!("segment {segment:04x}"));
    drop(store);
    // The same after a start, from the log, and from a checkpoint.
    assert_eq!(check(root.path()).findings, checked.findings);
    DiskStore::open(root.path(), OPTIONS)
        .unwrap()
        .checkpoint()
        .unwrap();
    assert_eq!(check(root.path()).findings, checked.findings);
    let error = rewrite_directory(root.path(), &mut quiet()).unwrap_err();
    assert!(
        matches!(error, RewriteError::NotTheSame { .. }),
        "{error:?}"
    );
}

#[test]
fn a_rewrite_keeps_everything_and_makes_it_small() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let states = fill(&directory);
    let hashes = {
        let store = DiskStore::open(&directory, OPTIONS).unwrap();
        store.checkpoint().unwrap();
        store.segment_hashes(0..=u16::MAX)
    };
    // What a rewrite that was cut short leaves is no harm.
    fs::create_dir(root.path().join("store.rewriting")).unwrap();
    fs::write(root.path().join("store.rewriting/half"), b"half").unwrap();
    let rewritten = rewrite_directory(&directory, &mut quiet()).unwrap();
    assert_eq!(rewritten.keys, states.len() as u64);
    assert!(
        rewritten.bytes_after <= rewritten.bytes_before,
        "{rewritten:?}"
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    assert_eq!(check(&directory).findings, []);
    let store = DiskStore::open(&directory, OPTIONS).unwrap();
    assert_eq!(store.segment_hashes(0..=u16::MAX), hashes);
    for (key, versions) in &states {
        assert_eq!(store.get(key).unwrap().as_ref(), Some(versions));
    }
    let error = rewrite_directory(&directory, &mut quiet()).unwrap_err();
    assert!(
        matches!(error, RewriteError::Store(StoreError::Locked { .. })),
        "{error:?}"
    );
}

#[test]
fn a_damaged_store_is_not_rewritten() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    fill(&directory);
    let logs = contents(&directory.join("log"));
    let (path, content) = logs
        .iter()
        .max_by_key(|(_, content)| content.len())
        .unwrap();
    flip(path, content.len() / 2);
    let before = contents(&directory.join("log"));
    let error = rewrite_directory(&directory, &mut quiet()).unwrap_err();
    assert!(
        matches!(&error, RewriteError::Store(error) if error.is_corruption()),
        "{error:?}"
    );
    assert_eq!(contents(&directory.join("log")), before);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}
