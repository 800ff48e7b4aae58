use super::*;
use crate::memtable::Pair;

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
    let record_key = record_key_of("b");
    let mut stored = tree.records.get(&record_key).unwrap().unwrap().to_vec();
    stored[50] ^= 1;
    tree.records.insert(&record_key, stored).unwrap();

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
    let mut cursor = tree.cursor(PositionRange::ALL, None);
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
    tree.chunks.put(&[3; 50_000]).unwrap();
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
fn chunks_that_were_retired_before_a_crash_go_with_the_next_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&directory);
    write(&tree, "k", &[1; 50_000]);
    complete(&tree);
    write(&tree, "k", &[2; 50_000]);
    // As `complete`, which dies before it removes them.
    tree.chunks.note_retired().unwrap();
    let checkpoint = Checkpoint {
        log_first: 2,
        sums: Sums::default(),
        next_set: tree.chunks.next_set(),
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
            let (_, versions) = tree
                .cursor(PositionRange::ALL, None)
                .next()
                .unwrap()
                .unwrap();
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
