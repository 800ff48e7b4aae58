//! Room is given back while the store is used, and nothing changes but that.

use std::collections::BTreeMap;

use super::*;
use crate::check::check_store;

const EAGER: DiskOptions = DiskOptions {
    memory_bytes: 2 * 1024 * 1024,
    log_bytes_max: 4 * 1024 * 1024,
    compaction: Compaction::Always,
    ..OPTIONS
};

/// What the store must hold.
#[derive(Default)]
struct Model {
    values: BTreeMap<String, Bytes>,
    written: u64,
}

impl Model {
    /// One write, replacement or removal, as the node makes it.
    fn write(&mut self, store: &DiskStore, random: &mut fastrand::Rng) {
        let key = format!("k{}", random.u32(..3000));
        let before = self.footprint(&key);
        let mutation = match random.u32(..10) {
            0 => {
                self.values.remove(&key);
                Mutation::removal(Bytes::from(key), before)
            }
            kind => {
                let length = match kind {
                    1 => random.usize(4097..30_000),
                    2 => random.usize(1000..5000),
                    _ => random.usize(1..300),
                };
                self.written += 1;
                let versions = Bytes::from(self.written.to_be_bytes().repeat(length / 8 + 1));
                self.values.insert(key.clone(), versions.clone());
                Mutation {
                    after: self.footprint(&key),
                    key: Bytes::from(key),
                    versions,
                    before,
                }
            }
        };
        store.apply(&[mutation]).unwrap();
    }

    fn footprint(&self, key: &str) -> Footprint {
        let Some(versions) = self.values.get(key) else {
            return Footprint::default();
        };
        Footprint {
            tally: Tally {
                versions: 1,
                value_bytes: versions.len() as u64,
            },
            hash: versions_hash(key.as_bytes(), versions),
        }
    }

    fn check(&self, store: &DiskStore) {
        let mut after: Option<Bytes> = None;
        let mut found = BTreeMap::new();
        loop {
            let limit = PageLimit {
                items_max: 100,
                bytes_max: 100_000,
            };
            let page = store.scan(PositionRange::ALL, after.as_deref(), limit);
            let page = page.unwrap();
            for item in page.items {
                let key = String::from_utf8(item.key.to_vec()).unwrap();
                assert!(found.insert(key, item.versions).is_none(), "twice");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(found == self.values, "other values");
        assert_eq!(store.totals().keys, self.values.len() as u64);
        for key in 0..3000 {
            let key = format!("k{key}");
            let got = store.get(key.as_bytes()).unwrap();
            assert_eq!(got.as_ref(), self.values.get(&key), "{key}");
        }
    }

    /// The hashes that were kept are those of what is read from the tree, and nothing is wrong with that.
    fn check_hashes(&self, store: &DiskStore) {
        let mut hashes: BTreeMap<Segment, u128> = BTreeMap::new();
        for (key, versions) in &self.values {
            let segment = Segment::of_key(key.as_bytes());
            *hashes.entry(segment).or_default() ^= versions_hash(key.as_bytes(), versions);
        }
        for (segment, hash) in hashes {
            assert_eq!(store.segment_hash(segment), hash);
        }
    }
}

fn compactions(store: &DiskStore) -> u64 {
    store.status().compactions
}

#[test]
fn what_is_written_while_room_is_given_back_is_all_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut model = Model::default();
    for round in 0..3 {
        let store = DiskStore::open(directory.path(), EAGER).unwrap();
        model.check(&store);
        let began = Instant::now();
        while compactions(&store) < 3 {
            assert!(began.elapsed() < PATIENCE, "round {round}: none is done");
            for _ in 0..50 {
                model.write(&store, &mut random);
            }
            store.sync().unwrap();
        }
        model.check(&store);
        store.checkpoint().unwrap();
        model.check(&store);
        model.check_hashes(&store);
        // It goes on also while nothing is written.
        let done = compactions(&store);
        wait_until("another one", || compactions(&store) > done);
    }
    let store = open(directory.path());
    assert!(!directory.path().join("sled.compacting").exists());
    model.check(&store);
    model.check_hashes(&store);
    store.shared.table.forget_clean();
    model.check(&store);
}

/// Readers go on, and meet nothing that is older than what they know.
#[test]
fn readers_notice_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = DiskStore::open(directory.path(), EAGER).unwrap();
    let keys = 500_u64;
    let key = |number: u64| format!("k{number}");
    for number in 0..keys {
        store
            .apply(&[mutation(&key(number), vec![1; 6000], true)])
            .unwrap();
    }
    store.checkpoint().unwrap();
    let before = compactions(&store);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let store = &store;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(reader);
                while compactions(store) < before + 4 {
                    let read = store.get(key(random.u64(..keys)).as_bytes());
                    assert_eq!(read.unwrap().unwrap().len(), 6000);
                    store.shared.table.forget_clean();
                }
            });
        }
    });
}

#[test]
fn the_file_becomes_small_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let keys = 0..3000;
    for round in 0..3_u8 {
        for number in keys.clone() {
            let key = format!("k{number}");
            let value = vec![round; 20_000];
            store.apply(&[mutation(&key, value, round == 0)]).unwrap();
        }
        store.checkpoint().unwrap();
    }
    let full = store.totals().disk_bytes;
    for number in keys {
        let before = mutation(&format!("k{number}"), "", false).before;
        let key = Bytes::from(format!("k{number}"));
        store.apply(&[Mutation::removal(key, before)]).unwrap();
    }
    store.checkpoint().unwrap();
    let is_small = || store.totals().disk_bytes < full / 3;
    wait_until("room is given back", || {
        compactions(&store) > 0 && is_small()
    });
    assert!(full > 100_000_000, "{full}");
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.get(b"k1").unwrap(), None);
    assert_eq!(store.totals().live_bytes, 0);
    let checked = check_store(&store, &mut |_, _, _| ()).unwrap();
    assert_eq!(checked.findings.len(), 0, "{:?}", checked.findings);
}

/// Whatever an earlier process left beside the tree is of no use.
#[test]
fn what_a_process_left_that_died_meanwhile_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.apply(&[mutation("k", "v", true)]).unwrap();
    drop(store);
    let beside = directory.path().join("sled.compacting");
    std::fs::create_dir(&beside).unwrap();
    std::fs::write(beside.join("db"), "half of a tree").unwrap();
    let store = open(directory.path());
    assert!(!beside.exists());
    assert_eq!(store.get(b"k").unwrap().unwrap(), "v");
}

/// A copy has what is damaged, as damaged as it was.
#[test]
fn damage_is_copied_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for key in ["a", "b"] {
        store.apply(&[mutation(key, vec![7; 9000], true)]).unwrap();
    }
    store.apply(&[mutation("c", vec![7; 100], true)]).unwrap();
    store.checkpoint().unwrap();
    let damaged = store.shared.in_tree(|tree| {
        tree.lose_chunks();
        Ok(())
    });
    damaged.unwrap();
    drop(store);
    let store = DiskStore::open(directory.path(), EAGER).unwrap();
    wait_until("it is compacted", || compactions(&store) > 1);
    for key in ["a", "b"] {
        assert!(store.get(key.as_bytes()).unwrap_err().is_corruption());
    }
    assert_eq!(store.get(b"c").unwrap().unwrap().len(), 100);
    let segments = ["a", "b"].map(|key| Segment::of_key(key.as_bytes()));
    let losses = store.losses(&segments).unwrap();
    assert_eq!(losses.len(), 2);
    store.forgive(&losses).unwrap();
    assert_eq!(store.get(b"a").unwrap(), None);
}
