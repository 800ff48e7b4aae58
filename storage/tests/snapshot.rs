//! A snapshot of a store that is written meanwhile holds all that was acknowledged before it began; what cannot be whole
//! is refused, and what is cut short leaves nothing under its name.

mod written;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_storage::{
    DiskOptions, DiskStore, MemoryDisk, PageLimit, PositionRange, SnapshotError, SnapshotMade,
    Store, check_directory, check_snapshot_name, check_store, make_snapshot, remove_unfinished,
};

/// Tells the test binary that it is the process to be killed, and where to work.
const DIRECTORY: &str = "DYNAKV_TEST_SNAPSHOT_DIRECTORY";

const KILLED: &str = "a_snapshot_that_is_killed_leaves_nothing_under_its_name";

const KEYS: u64 = 4_000;

/// Writes a key once more. The counter is its value, so that a newer one is told from an older one.
fn write(store: &dyn Store, number: u64, counter: u64) {
    let length = if number.is_multiple_of(50) {
        20_000
    } else {
        100
    };
    let mut value = counter.to_be_bytes().to_vec();
    value.resize(length, counter as u8);
    let key = Bytes::from(format!("key-{number}"));
    written::put(store, key, counter, value);
}

fn counter_of(versions: &Bytes) -> u64 {
    let versions = Versions::from_bytes(versions).unwrap();
    let sibling = versions.siblings().first().unwrap();
    sibling.dot.counter
}

fn filled(directory: &Path) -> Arc<dyn Store> {
    let store = DiskStore::open(directory, DiskOptions::default()).unwrap();
    for number in 0..KEYS {
        write(&store, number, number + 1);
    }
    store.sync().unwrap();
    Arc::new(store)
}

fn snapshot(
    store: &Arc<dyn Store>,
    directory: &Path,
    name: &str,
) -> Result<SnapshotMade, SnapshotError> {
    let go_on = &mut |_| ControlFlow::Continue(());
    make_snapshot(&Arc::downgrade(store), (directory, name), |_| Ok(()), go_on)
}

/// Everything in the store of a snapshot, which is sound, by its hashes too.
fn content(snapshot: &Path) -> BTreeMap<Bytes, Bytes> {
    let directory = snapshot.join("store");
    let checked = check_directory(&directory, &mut |_, _, _| ()).unwrap();
    assert_eq!(checked.findings, []);
    let store = DiskStore::open(&directory, DiskOptions::default()).unwrap();
    // Among other things the hash of each segment, computed from what is there.
    let checked = check_store(&store, &mut |_, _, _| ()).unwrap();
    assert_eq!(checked.findings, []);
    let all = PageLimit {
        items_max: usize::MAX,
        bytes_max: usize::MAX,
    };
    let page = store.scan(PositionRange::ALL, None, all).unwrap();
    let items = page.items.into_iter();
    items.map(|item| (item.key, item.versions)).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn what_was_acknowledged_before_its_begin_is_in_it() {
    let root = tempfile::tempdir().unwrap();
    let store = filled(&root.path().join("store"));
    let directory = root.path().join("snapshots");
    // What was acknowledged of each key, by its writer.
    let acknowledged: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    acknowledged
        .lock()
        .unwrap()
        .extend((0..KEYS).map(|number| (number, number + 1)));
    let (is_over, next) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(KEYS + 1));
    let writer = std::thread::spawn({
        let (store, acknowledged, is_over) = (store.clone(), acknowledged.clone(), is_over.clone());
        move || {
            let mut random = fastrand::Rng::with_seed(7);
            while !is_over.load(Ordering::Relaxed) {
                // New keys, too.
                let number = random.u64(..KEYS * 2);
                let counter = next.fetch_add(1, Ordering::Relaxed);
                write(&*store, number, counter);
                store.sync().unwrap();
                acknowledged.lock().unwrap().insert(number, counter);
            }
        }
    });
    let begin = || {
        let count = acknowledged
            .lock()
            .unwrap()
            .values()
            .max()
            .copied()
            .unwrap();
        while acknowledged
            .lock()
            .unwrap()
            .values()
            .max()
            .copied()
            .unwrap()
            < count + 100
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        acknowledged.lock().unwrap().clone()
    };
    for name in ["first", "second"] {
        let before = begin();
        let mut pages = 0;
        let mut watch = |page: dynakv_storage::SnapshotPage| {
            pages += 1;
            assert!(page.keys_done <= page.keys_total);
            // Much is written in between.
            std::thread::sleep(Duration::from_millis(30));
            ControlFlow::Continue(())
        };
        let source = Arc::downgrade(&store);
        let made = make_snapshot(&source, (&directory, name), |_| Ok(()), &mut watch).unwrap();
        assert_eq!(made.path, directory.join(name));
        assert!(pages > 3, "{pages}");
        let found = content(&made.path);
        assert_eq!(found.len() as u64, made.keys);
        for (number, counter) in before {
            let stored = found.get(format!("key-{number}").as_bytes());
            let stored = stored.unwrap_or_else(|| panic!("key-{number} is not in it"));
            assert!(counter_of(stored) >= counter, "key-{number} is older");
        }
    }
    is_over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(names(&directory), ["first", "second"]);
    // At rest it is the same in all its segments.
    let made = snapshot(&store, &directory, "third").unwrap();
    let copy = DiskStore::open(made.path.join("store"), DiskOptions::default()).unwrap();
    assert_eq!(
        copy.segment_hashes(0..=u16::MAX),
        store.segment_hashes(0..=u16::MAX)
    );
    let (of_copy, of_store) = (copy.totals(), store.totals());
    assert_eq!(
        (of_copy.keys, of_copy.versions, of_copy.live_bytes),
        (of_store.keys, of_store.versions, of_store.live_bytes)
    );
}

#[test]
fn what_is_damaged_or_lost_is_not_left_out_without_a_word() {
    let root = tempfile::tempdir().unwrap();
    for damage in [MemoryDisk::damage_values, MemoryDisk::lose_segments] {
        let disk = MemoryDisk::new();
        let store: Arc<dyn Store> = Arc::new(disk.store());
        for number in 0..100 {
            write(&*store, number, number + 1);
        }
        store.sync().unwrap();
        damage(&disk);
        let store: Arc<dyn Store> = Arc::new(disk.store());
        let error = snapshot(&store, root.path(), "a").unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged(_)), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("key-") || text.contains("positions"),
            "{text}"
        );
        assert!(text.contains("dynakv status"), "{text}");
        assert_eq!(names(root.path()), [""; 0]);
    }
}

#[test]
fn without_room_nothing_is_begun() {
    let root = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        reserve_bytes: Some(u64::MAX / 4),
        ..DiskOptions::default()
    };
    let store = DiskStore::open(root.path().join("store"), options).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let directory = root.path().join("snapshots");
    let error = snapshot(&store, &directory, "a").unwrap_err();
    assert!(matches!(error, SnapshotError::NoRoom { .. }), "{error:?}");
    assert!(error.to_string().contains("df -h"), "{error}");
    assert_eq!(names(&directory), [""; 0]);
}

#[test]
fn one_that_is_ended_or_loses_its_store_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("snapshots");
    for is_closed in [false, true] {
        let mut store = Some(filled(&root.path().join(format!("store-{is_closed}"))));
        let source = Arc::downgrade(store.as_ref().unwrap());
        let mut watch = |_| match is_closed {
            true => {
                // Nobody waits for the snapshot.
                store = None;
                ControlFlow::Continue(())
            }
            false => ControlFlow::Break(()),
        };
        let made = make_snapshot(&source, (&directory, "a"), |_| Ok(()), &mut watch);
        let error = made.unwrap_err();
        assert!(matches!(error, SnapshotError::Stopped), "{error:?}");
        assert_eq!(names(&directory), [""; 0]);
    }
}

#[test]
fn a_name_is_used_once_and_leaves_no_directory() {
    let root = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryDisk::new().store());
    let long = "a".repeat(65);
    for bad in [
        "",
        ".",
        "..",
        ".a",
        "a/b",
        "../a",
        "a b",
        "ä",
        "a.unfinished",
        &long,
    ] {
        let error = snapshot(&store, root.path(), bad).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Name { .. }),
            "{bad:?} {error:?}"
        );
        assert!(error.to_string().contains("dynakv snapshot"), "{error}");
    }
    for good in ["a", "2026-11-30_before.upgrade", &long[1..]] {
        check_snapshot_name(good).unwrap();
    }
    snapshot(&store, root.path(), "a").unwrap();
    let error = snapshot(&store, root.path(), "a").unwrap_err();
    assert!(matches!(error, SnapshotError::Exists { .. }), "{error:?}");
    assert_eq!(names(root.path()), ["a"]);
}

#[test]
fn a_snapshot_that_is_killed_leaves_nothing_under_its_name() {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        let directory = PathBuf::from(directory);
        let store = DiskStore::open(directory.join("store"), DiskOptions::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        println!("\nbegins");
        snapshot(&store, &directory.join("snapshots"), "a").unwrap();
        println!("\nended");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("snapshots");
    let store = filled(&root.path().join("store"));
    let began = std::time::Instant::now();
    let whole = snapshot(&store, &directory, "whole").unwrap();
    let took = began.elapsed();
    let expected = content(&whole.path);
    drop(store);
    let mut ended = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", KILLED, "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "begins"));
        let part = (f64::from(round) + 0.5) / 8.0;
        std::thread::sleep(took.mul_f64(part * 1.5));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let has_ended = lines.any(|line| line.unwrap() == "ended");
        ended += u32::from(has_ended);
        // Whatever has the name is whole.
        let path = directory.join("a");
        assert!(path.exists() || !has_ended);
        if path.exists() {
            assert_eq!(content(&path), expected, "round {round}");
            fs::remove_dir_all(&path).unwrap();
        }
    }
    println!("{ended} of 8 ended before they were killed");
    assert!(ended < 8, "none was killed in time");
    fs::create_dir(directory.join("b.unfinished")).unwrap();
    remove_unfinished(&directory).unwrap();
    assert_eq!(names(&directory), ["whole"]);
    remove_unfinished(&root.path().join("nowhere")).unwrap();
}
