use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::layout::{FORMAT, FORMAT_DOCUMENT, KEY_BYTES_MAX, VERSIONS_BYTES_MAX};
use std::path::PathBuf;

use super::*;
use crate::footprint::{Footprint, Tally};
use dynakv_protocol::hash::versions_hash;

const OPTIONS: DiskOptions = DiskOptions {
    memory_bytes: 8 * 1024 * 1024,
    log_bytes_max: 32 * 1024 * 1024,
    durability: Durability::Sync,
    reserve_bytes: None,
    compaction: Compaction::WhenWorth,
};
const ALL: PageLimit = PageLimit {
    items_max: usize::MAX,
    bytes_max: usize::MAX,
};
/// How long something may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(directory: &Path) -> DiskStore {
    DiskStore::open(directory, OPTIONS).unwrap()
}

fn mutation(key: &str, versions: impl Into<Bytes>, is_new: bool) -> Mutation {
    let tally = |versions| Footprint {
        tally: Tally {
            versions,
            value_bytes: 10 * versions,
        },
        hash: 0,
    };
    Mutation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        versions: versions.into(),
        before: tally(u64::from(!is_new)),
        after: tally(1),
    }
}

fn log_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join(LOG_DIRECTORY)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|it| it == "log"))
        .collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_directory_has_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let error = DiskStore::open(directory.path(), OPTIONS).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    first.apply(&[mutation("k", "v", true)]).unwrap();
    drop(first);
    assert_eq!(open(directory.path()).totals().keys, 1);
}

#[test]
fn a_directory_of_another_version_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let unsupported = || {
        let error = DiskStore::open(directory.path(), OPTIONS).unwrap_err();
        assert!(matches!(error, StoreError::Unsupported { .. }), "{error:?}");
        assert!(!error.is_corruption());
    };
    let save = |content: &[u8]| {
        let files = DirectoryFiles::open(directory.path()).unwrap();
        save_document(&files, FORMAT_DOCUMENT, content).unwrap();
    };
    save(&(FORMAT + 1).to_be_bytes());
    unsupported();
    save(b"?");
    unsupported();
    save(&FORMAT.to_be_bytes());
    drop(open(directory.path()));
}

/// It is written before all else, so that it can only have been there.
#[test]
fn a_store_without_its_format_is_damaged_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    std::fs::remove_file(directory.path().join(FORMAT_DOCUMENT)).unwrap();
    for part in [None, Some(TREE_DIRECTORY), Some(LOG_DIRECTORY)] {
        if let Some(part) = part {
            let aside = directory.path().join("aside");
            std::fs::rename(directory.path().join(part), &aside).unwrap();
        }
        let error = DiskStore::open(directory.path(), OPTIONS).unwrap_err();
        assert!(error.is_corruption(), "{error:?}");
        assert!(error.to_string().contains("format"), "{error}");
        assert!(!directory.path().join(FORMAT_DOCUMENT).exists());
        if let Some(part) = part {
            let aside = directory.path().join("aside");
            std::fs::rename(aside, directory.path().join(part)).unwrap();
        }
    }
}

/// Bounds that nobody can mean cost speed, never a store.
#[test]
fn no_option_makes_a_sound_store_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let mut count = 0;
    for options in [
        DiskOptions {
            memory_bytes: 0,
            ..OPTIONS
        },
        DiskOptions {
            memory_bytes: u64::MAX,
            ..OPTIONS
        },
        DiskOptions {
            memory_bytes: u64::MAX,
            log_bytes_max: u64::MAX,
            ..OPTIONS
        },
        DiskOptions {
            log_bytes_max: 0,
            ..OPTIONS
        },
        DiskOptions {
            reserve_bytes: Some(u64::MAX),
            ..OPTIONS
        },
        DiskOptions {
            durability: Durability::Interval(Duration::ZERO),
            ..OPTIONS
        },
        DiskOptions {
            durability: Durability::Interval(Duration::MAX),
            ..OPTIONS
        },
    ] {
        let store = DiskStore::open(directory.path(), options);
        let store = store.unwrap_or_else(|error| panic!("{options:?}: {error}"));
        for _ in 0..20 {
            let new = mutation(&format!("k{count}"), "v", true);
            store
                .apply(&[new])
                .unwrap_or_else(|error| panic!("{options:?}: {error}"));
            store
                .sync()
                .unwrap_or_else(|error| panic!("{options:?}: {error}"));
            count += 1;
        }
        // What runs in the background has had its turn, too.
        std::thread::sleep(Duration::from_millis(20));
        store
            .sync()
            .unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_eq!(store.totals().keys, count);
    }
}

#[test]
fn a_checkpoint_empties_the_log_and_a_start_goes_on_from_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for number in 0..100 {
        let new = mutation(&format!("k{number}"), vec![1; 1000], true);
        store.apply(&[new]).unwrap();
    }
    store.sync().unwrap();
    let log_bytes = |path: &Path| -> u64 {
        let files = log_files(path);
        files.iter().map(|it| it.metadata().unwrap().len()).sum()
    };
    assert!(log_bytes(directory.path()) > 100_000);
    let status = store.status();
    assert_eq!(status.dirty_entries, 100);
    assert!(status.dirty_bytes > 100_000 && status.log_bytes > 100_000);
    assert_eq!(status.checkpoints, 0);
    assert!(store.totals().disk_bytes > 100_000);
    store.checkpoint().unwrap();
    assert!(log_bytes(directory.path()) < 1000);
    let status = store.status();
    assert_eq!((status.checkpoints, status.dirty_entries), (1, 0));
    assert!(status.log_bytes < 1000 && status.dirty_bytes == 0);
    assert_eq!(status.checkpoints_time, status.last_checkpoint);
    assert!(store.shared.frozen().is_none());
    assert_eq!(store.shared.table.active().entries, 0);
    // Behind the checkpoint, and never in the tree before the start.
    store
        .apply(&[mutation("k0", "later", false), mutation("new", "new", true)])
        .unwrap();
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.shared.table.active().entries, 2);
    assert_eq!(store.get(b"k0").unwrap().unwrap(), "later");
    assert_eq!(store.get(b"new").unwrap().unwrap(), "new");
    assert_eq!(store.get(b"k99").unwrap().unwrap(), vec![1; 1000]);
    assert_eq!(store.totals().keys, 101);
    assert_eq!(store.totals().live_bytes, 1010);
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    assert_eq!(store.totals().keys, 101);
}

/// A key that was once seen is seen ever after, whichever way a generation goes on.
#[test]
fn readers_and_walks_never_meet_a_gap_while_generations_go_by() {
    let directory = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        memory_bytes: 200_000,
        ..OPTIONS
    };
    let store = DiskStore::open(directory.path(), options).unwrap();
    let written = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let keys = 4_000_u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..keys {
                let new = mutation(&format!("k{number}"), vec![number as u8; 60], true);
                store.apply(&[new]).unwrap();
                written.store(number + 1, Ordering::Release);
                if number % 10 == 9 {
                    store.sync().unwrap();
                }
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            let mut turn = 0_u64;
            while !done.load(Ordering::Acquire) {
                let count = written.load(Ordering::Acquire);
                if count == 0 {
                    continue;
                }
                turn = turn
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let number = (turn >> 33) % count;
                let key = format!("k{number}");
                let found = store.get(key.as_bytes()).unwrap();
                assert_eq!(found.unwrap(), vec![number as u8; 60], "{key}");
            }
        });
        scope.spawn(|| {
            let limit = PageLimit {
                items_max: 50,
                bytes_max: usize::MAX,
            };
            while !done.load(Ordering::Acquire) {
                let count = written.load(Ordering::Acquire);
                let mut seen = BTreeSet::new();
                let mut after: Option<Bytes> = None;
                loop {
                    let page = store
                        .scan(PositionRange::ALL, after.as_deref(), limit)
                        .unwrap();
                    for item in page.items {
                        assert!(seen.insert(item.key), "seen twice");
                    }
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                for number in 0..count {
                    let key = format!("k{number}");
                    assert!(seen.contains(key.as_bytes()), "{key} is missing");
                }
            }
        });
    });
    assert!(
        store.shared.signals().completed >= 3,
        "generations must have gone by"
    );
    assert_eq!(store.totals().keys, keys);
    let all = store.scan(PositionRange::ALL, None, ALL).unwrap();
    assert_eq!(all.items.len() as u64, keys);
}

#[test]
fn writers_wait_rather_than_fill_the_memory() {
    let directory = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        memory_bytes: 700_000,
        ..OPTIONS
    };
    let store = DiskStore::open(directory.path(), options).unwrap();
    let window_bytes = store.shared.limits.window_bytes;
    assert!((100_000..300_000).contains(&window_bytes), "{window_bytes}");
    for number in 0..2_000 {
        let new = mutation(&format!("k{number}"), vec![1; 1000], true);
        store.apply(&[new]).unwrap();
        let frozen = store.shared.frozen();
        let frozen = frozen.as_ref().map_or(0, |it| it.volume.bytes);
        // The bound, and one mutation beyond it.
        for bytes in [store.shared.table.active().bytes, frozen] {
            assert!(
                bytes < window_bytes + 2_000,
                "{bytes} bytes at mutation {number}"
            );
        }
    }
    store.sync().unwrap();
    drop(store);
    assert_eq!(open(directory.path()).totals().keys, 2_000);
}

#[test]
fn a_failed_write_is_the_last_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.apply(&[mutation("k", "v", true)]).unwrap();
    store.sync().unwrap();
    // The next generation finds no place for its log.
    std::fs::remove_dir_all(directory.path().join(LOG_DIRECTORY)).unwrap();
    let error = store.checkpoint().unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    for result in [
        store.apply(&[mutation("k", "w", false)]),
        store.sync(),
        store.checkpoint(),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
    }
    assert_eq!(store.get(b"k").unwrap().unwrap(), "v");
}

#[test]
fn a_checkpoint_that_fails_in_the_background_stops_the_writers() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.apply(&[mutation("k", "v", true)]).unwrap();
    store.sync().unwrap();
    // The tree is made durable there.
    std::fs::remove_file(directory.path().join(TREE_DIRECTORY).join("db")).unwrap();
    let error = store.checkpoint().unwrap_err();
    assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
    let error = store.apply(&[mutation("k", "w", false)]).unwrap_err();
    assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
    assert_eq!(store.get(b"k").unwrap().unwrap(), "v");
    assert!(!log_files(directory.path()).is_empty(), "the log is kept");
}

#[test]
fn what_the_formats_cannot_hold_is_refused_and_harms_nothing() {
    let mutations = [mutation("k", vec![0; VERSIONS_BYTES_MAX + 1], true)];
    let error = check_lengths(&mutations).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.apply(&mutations).unwrap_err();
    store.apply(&[mutation("k", "v", true)]).unwrap();
    store.sync().unwrap();
}

#[test]
fn with_an_interval_the_disk_gets_it_without_further_calls() {
    let directory = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        durability: Durability::Interval(Duration::from_millis(10)),
        ..OPTIONS
    };
    let store = DiskStore::open(directory.path(), options).unwrap();
    let mark = directory.path().join(LOG_DIRECTORY).join("synced");
    for turn in 0..3 {
        let before = std::fs::read(&mark).unwrap();
        store.apply(&[mutation("k", "v", turn == 0)]).unwrap();
        store.sync().unwrap();
        // The process may die now: the system has it.
        let files = log_files(directory.path());
        assert!(files[0].metadata().unwrap().len() > 60);
        wait_until("the log to be synced", || {
            std::fs::read(&mark).unwrap() != before
        });
    }
}

#[test]
fn a_log_that_is_damaged_or_gone_does_not_open() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.apply(&[mutation("tree", "v", true)]).unwrap();
    store.checkpoint().unwrap();
    store.apply(&[mutation("log", "v", true)]).unwrap();
    drop(store);
    let files = log_files(directory.path());
    let good = std::fs::read(&files[0]).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&files[0], &bad).unwrap();
    let refused = || {
        let error = DiskStore::open(directory.path(), OPTIONS).unwrap_err();
        assert!(matches!(error, StoreError::CorruptLog { .. }), "{error:?}");
        assert!(error.is_corruption());
    };
    refused();
    std::fs::remove_file(&files[0]).unwrap();
    refused();
    // Without the tree the log says that it does not begin at the beginning.
    std::fs::write(&files[0], &good).unwrap();
    drop(open(directory.path()));
    std::fs::remove_dir_all(directory.path().join(TREE_DIRECTORY)).unwrap();
    refused();
}

#[test]
fn a_damaged_value_in_the_tree_is_hidden_by_a_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for key in ["a", "b", "c"] {
        store.apply(&[mutation(key, vec![7; 9000], true)]).unwrap();
    }
    store.checkpoint().unwrap();
    for key in ["a", "b", "c"] {
        // It is still in memory.
        assert_eq!(store.get(key.as_bytes()).unwrap().unwrap().len(), 9000);
    }
    drop(store);
    let store = open(directory.path());
    store
        .shared
        .in_tree(|tree| {
            tree.lose_chunks();
            Ok(())
        })
        .unwrap();
    let damaged = |result: Result<Page, StoreError>| match result {
        Err(StoreError::Corrupt { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    let first = damaged(store.scan(PositionRange::ALL, None, ALL));
    assert!(store.get(&first).unwrap_err().is_corruption());
    // Going on behind it, each damaged value is named once.
    let second = damaged(store.scan(PositionRange::ALL, Some(&first), ALL));
    assert_ne!(first, second);
    assert_eq!(store.totals().corrupt_keys, 2);
    let name = |key: &Bytes| String::from_utf8(key.to_vec()).unwrap();
    store
        .apply(&[mutation(&name(&first), "mended", false)])
        .unwrap();
    assert_eq!(store.get(&first).unwrap().unwrap(), "mended");
    let page = store.scan(PositionRange::ALL, None, ALL).unwrap();
    assert_eq!((page.items.len(), page.next.as_ref()), (1, Some(&first)));
    store.checkpoint().unwrap();
    assert_eq!(store.get(&first).unwrap().unwrap(), "mended");
    assert_eq!(store.totals().corrupt_keys, 1);
}

/// What was asked for is removed, and nothing that took its place, however damaged that is by now.
#[test]
fn a_damaged_value_that_nobody_waits_for_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let segments = ["a", "b", "c", "d"].map(|key| Segment::of_key(key.as_bytes()));
    let damage = |store: &DiskStore| {
        let shared = &store.shared;
        let damaged = shared.in_tree(|tree| {
            tree.lose_chunks();
            Ok(())
        });
        damaged.unwrap();
    };
    let carry = |store: DiskStore| {
        store.checkpoint().unwrap();
        drop(store);
        open(directory.path())
    };
    for key in ["a", "b", "c"] {
        store.apply(&[mutation(key, vec![7; 9000], true)]).unwrap();
    }
    store.apply(&[mutation("d", vec![7; 100], true)]).unwrap();
    let store = carry(store);
    damage(&store);
    assert_eq!(store.losses(&segments).unwrap(), [], "none was met");
    for key in ["a", "b", "c"] {
        store.get(key.as_bytes()).unwrap_err();
    }
    let losses = store.losses(&segments).unwrap();
    let keys: BTreeSet<_> = losses.iter().map(|loss| loss.key().unwrap()).collect();
    assert_eq!(keys, BTreeSet::from([&b"a"[..], b"b", b"c"]));
    // Something takes the place of two of them, and one of these is damaged once more.
    store.apply(&[mutation("b", vec![8; 9000], false)]).unwrap();
    let store = {
        store.checkpoint().unwrap();
        // Out of the table.
        store.shared.table.forget_clean();
        damage(&store);
        store.get(b"b").unwrap_err();
        store.apply(&[mutation("c", "mended", false)]).unwrap();
        store
    };
    store.forgive(&losses).unwrap();
    assert_eq!(store.get(b"a").unwrap(), None);
    assert!(
        store.get(b"b").unwrap_err().is_corruption(),
        "it is another one"
    );
    assert_eq!(store.get(b"c").unwrap().unwrap(), "mended");
    assert_eq!(store.get(b"d").unwrap().unwrap().len(), 100);
    // Again has no effect, on what was written since either.
    store.apply(&[mutation("a", "new", true)]).unwrap();
    store.forgive(&losses).unwrap();
    assert_eq!(store.get(b"a").unwrap().unwrap(), "new");
    let losses = store.losses(&segments).unwrap();
    store.forgive(&losses).unwrap();
    assert_eq!(store.get(b"b").unwrap(), None);
    let store = carry(store);
    assert_eq!(store.get(b"b").unwrap(), None);
    assert_eq!(store.losses(&segments).unwrap(), []);
    let items = store.scan(PositionRange::ALL, None, ALL).unwrap().items;
    assert_eq!(items.len(), 3);
    assert_eq!(store.totals().corrupt_keys, 0);
}

/// What the disk gave wrong once, and right the next time, is no damage.
#[test]
fn what_can_be_read_after_all_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.apply(&[mutation("a", vec![7; 100], true)]).unwrap();
    store.checkpoint().unwrap();
    store.shared.table.forget_clean();
    let met = store.shared.in_tree(|tree| {
        tree.note_damaged(Position::of_key(b"a"), b"a");
        Ok(())
    });
    met.unwrap();
    let losses = store.losses(&[Segment::of_key(b"a")]).unwrap();
    assert_eq!(losses.len(), 1);
    store.forgive(&losses).unwrap();
    assert_eq!(store.get(b"a").unwrap().unwrap().len(), 100);
    assert_eq!(store.totals().corrupt_keys, 0);
}

/// A new key, with the hash that its state has.
fn hashed(key: &str, versions: &str) -> Mutation {
    let mut mutation = mutation(key, versions.to_owned(), true);
    mutation.after.hash = versions_hash(key.as_bytes(), versions.as_bytes());
    mutation
}

#[test]
fn a_damaged_page_of_hashes_is_counted_anew() {
    let directory = tempfile::tempdir().unwrap();
    let page_of = |key: &str| Position::of_key(key.as_bytes()).segment().0.to_be_bytes()[0];
    let store = open(directory.path());
    for number in 0..500 {
        let key = format!("k{number}");
        store.apply(&[hashed(&key, &key)]).unwrap();
        if number == 400 {
            store.checkpoint().unwrap();
        }
    }
    store.sync().unwrap();
    let expected = store.segment_hashes(0..=u16::MAX);
    let damage = |store: &DiskStore, lost: Option<&str>| {
        let shared = &store.shared;
        let damaged = shared.in_tree(|tree| {
            tree.damage_hash_page(page_of("k7"));
            lost.into_iter()
                .for_each(|key| tree.lose_record(key.as_bytes()));
            Ok(())
        });
        damaged.unwrap();
    };
    damage(&store, None);
    drop(store);
    // Once with a part of it in the log, then with all in the tree.
    for turn in 0..2 {
        let store = open(directory.path());
        assert_eq!(store.counted_pages(), [page_of("k7")]);
        assert_eq!(store.segment_hashes(0..=u16::MAX), expected);
        if turn == 1 {
            damage(&store, Some("k7"));
        } else {
            store.checkpoint().unwrap();
            // It was written anew, so there is damage only now.
            damage(&store, None);
        }
        drop(store);
    }
    // A record that is gone besides is noticed.
    let error = DiskStore::open(directory.path(), OPTIONS).unwrap_err();
    assert!(
        matches!(error, StoreError::CorruptStore { .. }),
        "{error:?}"
    );
}

#[test]
fn what_is_written_over_before_it_is_carried_survives_the_end_of_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut keys: Vec<_> = (0..5_000).map(|number| format!("k{number}")).collect();
    keys.sort_by_key(|key| Position::of_key(key.as_bytes()));
    for key in &keys {
        store.apply(&[mutation(key, "acknowledged", true)]).unwrap();
    }
    store.sync().unwrap();
    // The last one on the ring is carried last, and the checkpoint takes its time.
    store.shared.freeze_all().unwrap();
    let last = keys.last().unwrap();
    store
        .apply(&[mutation(last, "newer, not synced", false)])
        .unwrap();
    assert!(store.shared.table.has_overwritten());
    store.shared.wait_until_tidy().unwrap();
    // As after the death of the process: what was not written to a file is gone.
    let copy = tempfile::tempdir().unwrap();
    copy_all(directory.path(), copy.path());
    let copied = open(copy.path());
    let found = copied.get(last.as_bytes()).unwrap();
    assert!(found.is_some(), "what was acknowledged is lost");
    assert_eq!(found, store.get(last.as_bytes()).unwrap());
    assert_eq!(
        copied.totals(),
        Totals {
            disk_bytes: copied.totals().disk_bytes,
            ..store.totals()
        }
    );
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[test]
fn a_key_that_no_record_can_hold_is_refused_and_the_longest_one_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let longest = "k".repeat(KEY_BYTES_MAX);
    let too_long = format!("{longest}k");
    let both = [mutation("first", "1", true), mutation(&too_long, "2", true)];
    let error = store.apply(&both).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    assert_eq!(
        store.get(b"first").unwrap(),
        None,
        "nothing of it was applied"
    );
    store.apply(&[mutation(&longest, "3", true)]).unwrap();
    assert_eq!(store.get(longest.as_bytes()).unwrap().unwrap(), "3");
}

mod compaction;
