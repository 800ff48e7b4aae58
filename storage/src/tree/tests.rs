use std::collections::BTreeSet;

use super::block::BlockKey;
use std::sync::atomic::Ordering;

use super::*;
use crate::items::{Cut, PositionRange};
use crate::table::Pair;

mod blocks;
mod cuts;
mod losses;
mod model;

const CACHE_BYTES: u64 = 16 * 1024 * 1024;

fn open(directory: &tempfile::TempDir) -> Tree {
    Tree::open(directory.path(), CACHE_BYTES).unwrap().0
}

fn write(tree: &Tree, key: &str, versions: &[u8]) {
    let entry = Entry {
        position: Position::of_key(key.as_bytes()),
        pair: Pair::copy(&[key.as_bytes(), versions].concat(), key.len()),
    };
    tree.write(&[entry], &mut Scratch::default()).unwrap();
}

fn get(tree: &Tree, key: &str) -> Result<Option<Bytes>, StoreError> {
    tree.get(Position::of_key(key.as_bytes()), key.as_bytes())
}

fn walk(tree: &Tree) -> TreeCursor<'_> {
    tree.cursor(&Cut::beginning(PositionRange::ALL, None), None, true)
}

fn complete(tree: &Tree) {
    tree.complete(1, Sums::default(), &HashSnapshot::default())
        .unwrap();
}

fn record_key_of(key: &str) -> Vec<u8> {
    record_key(Position::of_key(key.as_bytes()), key.as_bytes())
}

fn chunk_sets(tree: &Tree) -> BTreeSet<Vec<u8>> {
    let chunks = tree.db.open_tree("chunks").unwrap();
    let keys = chunks.iter().keys();
    keys.map(|key| key.unwrap()[..8].to_vec()).collect()
}

#[test]
fn a_damaged_value_is_neither_served_nor_absent() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    for key in ["a", "b", "c"] {
        write(&tree, key, &[7; 100]);
    }
    let block = BlockKey::of(Position::of_key(b"b"), 0).to_bytes();
    let blocks = &tree.content.blocks;
    let mut stored = blocks.get(block).unwrap().unwrap().to_vec();
    stored[50] ^= 1;
    blocks.insert(block, stored).unwrap();

    for _ in 0..2 {
        let error = get(&tree, "b").unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { key, damage: Damage::Checksum { .. } } if key == "b"),
            "{error:?}"
        );
        assert!(error.is_corruption());
    }
    assert_eq!(tree.damaged_keys(), 1);
    assert!(get(&tree, "a").unwrap().is_some());

    // A walk meets it, says so, and goes on behind it.
    let mut cursor = walk(&tree);
    let mut seen = Vec::new();
    let mut damaged = 0;
    loop {
        match cursor.next() {
            Ok(Some((key, Some(_)))) => seen.push(key),
            Ok(Some((_, None))) => panic!("a record is gone"),
            Ok(None) => break,
            Err(StoreError::Corrupt { .. }) => damaged += 1,
            Err(error) => panic!("{error}"),
        }
    }
    seen.sort();
    assert_eq!(seen, ["a", "c"]);
    assert_eq!(damaged, 1);

    // Writing the key mends it.
    write(&tree, "b", b"new");
    assert_eq!(get(&tree, "b").unwrap().unwrap(), "new");
    assert_eq!(tree.damaged_keys(), 0);
}

#[test]
fn a_large_value_that_lost_a_chunk_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    write(&tree, "k", &[7; 100_000]);
    let damage = |tree: &Tree| match get(tree, "k") {
        Err(StoreError::Corrupt { damage, .. }) => damage,
        other => panic!("{other:?}"),
    };
    let chunks = tree.db.open_tree("chunks").unwrap();
    let (chunk, content) = chunks.iter().nth(3).unwrap().unwrap();
    let mut bad = content.to_vec();
    bad[9] ^= 4;
    chunks.insert(&chunk, bad).unwrap();
    assert!(matches!(damage(&tree), Damage::Checksum { .. }));
    chunks.remove(&chunk).unwrap();
    assert_eq!(damage(&tree), Damage::MissingChunk);
}

#[test]
fn replaced_chunks_go_once_a_checkpoint_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    write(&tree, "k", &[1; 1_000_000]);
    complete(&tree);
    let first = chunk_sets(&tree);
    assert_eq!(first.len(), 1);
    write(&tree, "k", &[2; 2_000_000]);
    assert!(chunk_sets(&tree).is_superset(&first), "a crash needs them");
    complete(&tree);
    assert_eq!(chunk_sets(&tree).len(), 1);
    assert!(chunk_sets(&tree).is_disjoint(&first));
    assert!(tree.db.open_tree("retired").unwrap().is_empty());
    drop(tree);
    let tree = open(&directory);
    assert_eq!(get(&tree, "k").unwrap().unwrap(), [2; 2_000_000][..]);
    let blobs = std::fs::read_dir(directory.path().join("blobs")).unwrap();
    assert_eq!(blobs.count(), 0, "a blob file would not be synced");
}

#[test]
fn chunks_of_an_unfinished_checkpoint_go_with_the_next_one_and_no_sooner() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    write(&tree, "kept", &[1; 50_000]);
    complete(&tree);
    // A checkpoint that is cut short: one set with its record, one without.
    write(&tree, "k", &[2; 50_000]);
    tree.content.chunks.put(&[3; 50_000]).unwrap();
    tree.db.flush().unwrap();
    drop(tree);

    let tree = open(&directory);
    assert_eq!(chunk_sets(&tree).len(), 3);
    assert_eq!(get(&tree, "k").unwrap().unwrap(), [2; 50_000][..]);
    // As the replayed log does it.
    write(&tree, "k", &[2; 50_000]);
    complete(&tree);
    assert_eq!(chunk_sets(&tree).len(), 2);
    assert_eq!(get(&tree, "k").unwrap().unwrap(), [2; 50_000][..]);
    assert_eq!(get(&tree, "kept").unwrap().unwrap(), [1; 50_000][..]);
}

#[test]
fn chunks_that_an_unfinished_checkpoint_replaced_go_with_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    write(&tree, "k", &[1; 50_000]);
    complete(&tree);
    // It is cut short three times.
    let mut tree = tree;
    for content in 2..5 {
        write(&tree, "k", &[content; 50_000]);
        tree.write_out().unwrap();
        drop(tree);
        tree = open(&directory);
        assert_eq!(get(&tree, "k").unwrap().unwrap(), [content; 50_000][..]);
    }
    write(&tree, "k", &[9; 50_000]);
    complete(&tree);
    assert_eq!(chunk_sets(&tree).len(), 1);
    assert_eq!(get(&tree, "k").unwrap().unwrap(), [9; 50_000][..]);
    assert!(tree.db.open_tree("retired").unwrap().is_empty());
}

#[test]
fn chunks_that_were_retired_before_a_crash_go_with_the_next_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    write(&tree, "k", &[1; 50_000]);
    complete(&tree);
    write(&tree, "k", &[2; 50_000]);
    // As `complete`, which dies before it removes them.
    tree.content.chunks.note_retired().unwrap();
    let checkpoint = Checkpoint {
        log_first: 2,
        sums: Sums::default(),
        next_set: tree.content.chunks.next_set(),
        hash_root: 0,
    };
    tree.witness.before_flush(&checkpoint).unwrap();
    tree.db.flush().unwrap();
    drop(tree);

    let (tree, last, _) = Tree::open(directory.path(), CACHE_BYTES).unwrap();
    assert_eq!(last, Some(checkpoint));
    assert_eq!(chunk_sets(&tree).len(), 2);
    complete(&tree);
    assert_eq!(chunk_sets(&tree).len(), 1);
    assert_eq!(get(&tree, "k").unwrap().unwrap(), [2; 50_000][..]);
}

#[test]
fn readers_never_meet_half_a_value() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    let states = [[1; 30_000], [2; 30_000]];
    let put = |turn: usize| {
        write(&tree, "k", &states[turn % 2]);
        complete(&tree);
    };
    put(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..100 {
                put(turn);
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let seen = get(&tree, "k").unwrap().unwrap();
            assert!(states.iter().any(|state| seen == state[..]));
            let (_, versions) = walk(&tree).next().unwrap().unwrap();
            assert!(
                states
                    .iter()
                    .any(|state| versions.as_deref() == Some(&state[..]))
            );
        }
    });
}

#[test]
fn a_ruined_file_is_an_error_and_neither_a_panic_nor_an_empty_tree() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    for at in 0..200 {
        write(&tree, &format!("k{at}"), &[7; 3000]);
    }
    complete(&tree);
    drop(tree);
    let path = directory.path().join("db");
    let good = std::fs::read(&path).unwrap();
    let open = || Tree::open(directory.path(), CACHE_BYTES).map(|_| ());
    for at in (0..600_000).step_by(60_000) {
        let mut bad = good.clone();
        bad[at..at + 4000].fill(0xa5);
        std::fs::write(&path, &bad).unwrap();
        // By itself sled would open here, with the first of the keys only.
        let error = open().unwrap_err();
        assert!(
            matches!(error, StoreError::CorruptStore { .. }),
            "{error:?}"
        );
    }
    std::fs::write(&path, b"").unwrap();
    let error = open().unwrap_err();
    assert!(error.is_corruption(), "{error:?}");
}

/// The snapshot that sled reads when it opens, as a file name and its content.
fn snapshot_of(directory: &Path) -> (String, Vec<u8>) {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut snapshots: Vec<_> = names.filter(|name| name.starts_with("snap.")).collect();
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    let name = snapshots.remove(0);
    let content = std::fs::read(directory.join(&name)).unwrap();
    (name, content)
}

/// A tree of some keys that was closed, and opened and closed again, so that sled has a snapshot.
fn closed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    for at in 0..200 {
        write(&tree, &format!("k{at}"), &[7; 3000]);
    }
    complete(&tree);
    drop(tree);
    drop(open(&directory));
    directory
}

fn is_whole(tree: &Tree) {
    for at in 0..200 {
        let found = get(tree, &format!("k{at}")).unwrap();
        assert_eq!(found.unwrap(), [7; 3000][..], "k{at}");
    }
}

/// What a process leaves that was killed, or met the end of the disk, while sled wrote down what it had found.
#[test]
fn an_unfinished_snapshot_is_no_damage_and_goes() {
    let directory = closed();
    let (name, content) = snapshot_of(directory.path());
    let half = content[..content.len() / 2].to_vec();
    // sled would write over the beginning of such a file, and keep its end.
    let longer = [&content[..], &[0xa5; 4096]].concat();
    for left in [Vec::new(), vec![1; 5], half, content.clone(), longer] {
        for name in [&*name, "snap.0FFFFFFFFFFFFFFF"] {
            let unfinished = directory.path().join(format!("{name}.generating"));
            std::fs::write(&unfinished, &left).unwrap();
            let tree = open(&directory);
            assert!(!unfinished.exists(), "{} bytes as {name}", left.len());
            is_whole(&tree);
            write(&tree, "k0", &[7; 3000]);
            complete(&tree);
        }
    }
}

#[test]
fn a_cache_of_any_size_is_no_damage() {
    let directory = closed();
    for cache_bytes in [0, 1, 255, 256, 100_000, u64::MAX] {
        let opened = Tree::open(directory.path(), cache_bytes);
        let (tree, ..) = opened.unwrap_or_else(|error| panic!("{cache_bytes}: {error}"));
        is_whole(&tree);
        write(&tree, "k1", &[7; 3000]);
        complete(&tree);
    }
}

/// Where sled unwraps an error of the system, or copies it from one thread to another, its number is left in
/// a text only.
#[test]
fn what_the_system_refused_is_no_damage_in_whatever_words() {
    use rustix::io::Errno;
    let directory = Path::new("/data/store/sled");
    let refused = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw_os_error());
    let copied = |errno| {
        let text = format!("{:?}", refused(errno));
        sled::Error::Io(std::io::Error::new(refused(errno).kind(), text))
    };
    let unwrapped = |errno| {
        guarded::<()>(directory, || {
            // As `expect` says it.
            panic!("failed to spawn: {:?}", refused(errno))
        })
    };
    for errno in [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::AGAIN,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::ACCESS,
        Errno::PERM,
        Errno::ROFS,
        Errno::IO,
    ] {
        for error in [
            failure(directory, "open", sled::Error::Io(refused(errno))),
            failure(directory, "open", copied(errno)),
            unwrapped(errno).unwrap_err(),
        ] {
            assert!(!error.is_corruption(), "{errno:?}: {error:?}");
            let shortage = matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM);
            let full = matches!(errno, Errno::NOSPC | Errno::DQUOT);
            assert_eq!(error.is_disk_full(), full, "{errno:?}: {error:?}");
            assert!(error.is_shortage() || !shortage, "{errno:?}: {error:?}");
        }
    }
    // What sled says of itself is no word about the bytes.
    let bug = sled::Error::ReportableBug("IO thread unexpectedly panicked".to_owned());
    assert!(!failure(directory, "open", bug).is_corruption());
    // A panic that speaks of no such error is sled's answer to damage.
    let gave_up = guarded::<()>(directory, || panic!("page 28 of segment 24 is not there"));
    assert!(gave_up.unwrap_err().is_corruption());
}

/// sled writes it first of all and syncs it never; we do, before the first checkpoint.
#[test]
fn a_file_of_parameters_that_was_torn_before_the_first_checkpoint_is_no_damage() {
    let whole = {
        let directory = tempfile::tempdir().unwrap();
        drop(open(&directory));
        std::fs::read(directory.path().join("conf")).unwrap()
    };
    let torn = (0..whole.len()).map(|length| whole[..length].to_vec());
    for content in torn.chain([vec![0; whole.len()]]) {
        let directory = tempfile::tempdir().unwrap();
        drop(open(&directory));
        let conf = directory.path().join("conf");
        std::fs::write(&conf, &content).unwrap();
        let opened = Tree::open(directory.path(), CACHE_BYTES);
        let (tree, ..) = opened.unwrap_or_else(|error| panic!("{} bytes: {error}", content.len()));
        assert_eq!(std::fs::read(&conf).unwrap(), whole);
        write(&tree, "k", b"v");
        complete(&tree);
    }
}

#[test]
fn a_file_of_parameters_that_is_lost_or_anothers_is_damage_and_named() {
    let directory = closed();
    let conf = directory.path().join("conf");
    let good = std::fs::read(&conf).unwrap();
    let another = {
        let directory = tempfile::tempdir().unwrap();
        let config = sled::Config::new().path(directory.path());
        drop(config.segment_size(512 * 1024).open().unwrap());
        std::fs::read(directory.path().join("conf")).unwrap()
    };
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let refused = |what: &str| {
        let error = Tree::open(directory.path(), CACHE_BYTES)
            .map(|_| ())
            .unwrap_err();
        assert!(
            matches!(error, StoreError::CorruptStore { .. }),
            "{what}: {error:?}"
        );
        assert!(error.to_string().contains("conf"), "{what}: {error}");
    };
    for (what, content) in [
        ("of another tree", another),
        ("no text", vec![0xff; 40]),
        ("some text", b"this is no configuration".to_vec()),
        ("one bit", flipped),
        ("cut", good[..good.len() - 1].to_vec()),
        ("empty", Vec::new()),
    ] {
        std::fs::write(&conf, &content).unwrap();
        refused(what);
        assert_eq!(std::fs::read(&conf).unwrap(), content, "{what}: touched");
    }
    std::fs::remove_file(&conf).unwrap();
    refused("gone");
    std::fs::write(&conf, &good).unwrap();
    is_whole(&open(&directory));
}

/// What a start takes is known before it: small values, written in many checkpoints, have the largest part of
/// their file in a snapshot.
#[test]
fn a_snapshot_is_no_larger_than_expected() {
    let directory = tempfile::tempdir().unwrap();
    let (keys, rounds) = (20_000, 6);
    let mut order: Vec<_> = (0..keys).map(|at| format!("k{at}")).collect();
    order.sort_by_key(|key| record_key_of(key));
    let mut last = 0;
    for round in 0..rounds {
        let tree = open(&directory);
        for (at, key) in order.iter().enumerate() {
            if at % rounds == round || at % 10 == round {
                write(&tree, key, &[7; 20]);
            }
        }
        complete(&tree);
        drop(tree);
        let file = file_bytes(directory.path()).unwrap();
        drop(open(&directory));
        let snapshot = snapshot_bytes(directory.path()).unwrap();
        let expected = crate::ballast::snapshot_bytes_max(file, last);
        assert!(
            snapshot <= expected,
            "{round}: {snapshot}, {expected} of {file}"
        );
        last = snapshot;
    }
    assert!(last > 50_000, "{last} bytes: nothing to speak of");
}
