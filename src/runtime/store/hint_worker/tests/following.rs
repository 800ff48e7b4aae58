//! Hints when another node takes the place of an owner.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;

/// A file that may find no room.
struct Crowded {
    file: Arc<dyn AppendFile>,
    is_full: AtomicBool,
}

impl AppendFile for Crowded {
    fn path(&self) -> PathBuf {
        self.file.path()
    }

    fn len(&self) -> Result<u64, StoreError> {
        self.file.len()
    }

    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError> {
        self.file.read(at, length)
    }

    fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(StoreError::DiskFull { path: self.path() }),
            false => self.file.append(bytes),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync()
    }

    fn truncate(&self, length: u64) -> Result<(), StoreError> {
        self.file.truncate(length)
    }

    fn replace(
        &self,
        pieces: &mut dyn FnMut() -> Result<Option<Bytes>, StoreError>,
    ) -> Result<(), StoreError> {
        self.file.replace(pieces)
    }
}

/// What lies on the disk, by key.
fn on_disk(memory: &MemoryDisk) -> Vec<(Bytes, Hint)> {
    let (log, _) = HintLog::open(memory.hints()).unwrap();
    let keys: Vec<_> = log.entries().map(|(key, _)| key.clone()).collect();
    let hint = |key: Bytes| {
        let document = log.get(&key).unwrap().unwrap();
        (key, Hint::from_bytes(&document).unwrap())
    };
    keys.into_iter().map(hint).collect()
}

/// Until all hints follow the ring.
async fn settle(kept: &Kept) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    // It is asked behind all that waits.
    next(kept, "a").await;
}

#[test]
fn hints_follow_the_owners_and_those_of_nobody_are_dropped() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        let versions = minted(&mut kept).await;
        let reminders = ["b", "c"].map(|owner| (Bytes::from(format!("r{owner}")), node(owner)));
        kept.handle.remind(reminders.into());
        let on_their_way = next(&kept, "a").await;
        assert_eq!(confirm_all(&kept, "c").await, 2);
        kept.handle
            .remind(vec![(Bytes::from_static(b"rc"), node("c"))]);
        kept.handle.follow(ring(2, ["a", "b", "d"]));
        settle(&kept).await;
        // The word of who owned it once, or under the ring before, is none.
        confirm(&kept, "a", &on_their_way);
        confirm_under(&kept, 2, "c", &on_their_way);
        assert!(next(&kept, "c").await.is_empty());
        let due = next(&kept, "d").await;
        assert_eq!((due.len(), &due[0].key[..]), (1, &b"k"[..]));
        assert_eq!(due[0].versions, Some(versions.to_bytes()));
        assert_eq!(next(&kept, "b").await.len(), 2);
        let owed = |hint: &Hint| hint.owed.iter().map(NodeId::to_string).collect::<String>();
        let disk = on_disk(&memory);
        let disk: Vec<_> = disk
            .iter()
            .map(|(key, hint)| (&key[..], owed(hint), hint.needed))
            .collect();
        let expected = [(&b"k"[..], "abd", 2), (b"rb", "b", 0)];
        let expected = expected.map(|(key, owed, needed)| (key, owed.to_owned(), needed));
        assert_eq!(disk, expected);
        // What is told for a former owner, and what was begun under the ring before.
        kept.handle
            .remind(vec![(Bytes::from_static(b"new"), node("c"))]);
        kept.handle.send(vec![mint(2, "late", "v")]);
        settle(&kept).await;
        assert!(next(&kept, "c").await.is_empty());
        assert_eq!(next(&kept, "d").await.len(), 2);
        for owner in ["a", "d", "a", "d", "b"] {
            let due = next(&kept, owner).await;
            confirm_under(&kept, 2, owner, &due);
        }
        settle(&kept).await;
        assert_eq!(kept.handle.kept(), 0);
    });
}

/// The ring is on disk, and the node ends before its hints have followed: with the next start they do.
#[test]
fn hints_that_did_not_follow_before_a_crash_do_afterwards() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        minted(&mut kept).await;
        kept.events.recv().await.unwrap();
        memory.crash_keeping(0);
        let kept = start_without_ring(&memory, 1 << 20, Duration::from_secs(3600));
        // It knows no ring yet.
        for owner in ["a", "c", "d"] {
            assert!(next(&kept, owner).await.is_empty());
        }
        kept.handle.follow(ring(2, ["a", "b", "d"]));
        settle(&kept).await;
        assert_eq!(next(&kept, "d").await.len(), 1);
        assert!(next(&kept, "c").await.is_empty());
        // Two rings later nothing of the first one is left.
        kept.handle.follow(ring(4, ["d", "e", "f"]));
        settle(&kept).await;
        assert!(next(&kept, "a").await.is_empty());
        for owner in ["d", "e", "f"] {
            assert_eq!(next(&kept, owner).await.len(), 1, "{owner}");
        }
    });
}

/// More than are looked at in one step, with others that wait meanwhile.
#[test]
fn many_hints_follow_in_steps_and_hold_nobody_up() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = start_on(&memory, 1 << 30, Duration::from_secs(3600));
        let keys = 1000;
        for number in 0..keys {
            let key = format!("key-{number:04}").leak();
            kept.handle.send(vec![mint(number, key, "v")]);
        }
        let mut durable = 0;
        while durable < keys {
            for event in kept.events.recv().await.unwrap() {
                let StoreEvent::Job { outcome, .. } = event else {
                    panic!("{event:?}");
                };
                durable += u64::from(matches!(outcome, JobOutcome::Durable { .. }));
            }
        }
        kept.handle.follow(ring(2, ["a", "b", "d"]));
        kept.handle.send(vec![mint(keys, "late", "v")]);
        minted(&mut kept).await;
        // It waits for one step and not for all.
        kept.events.recv().await.unwrap();
        let followed = |memory: &MemoryDisk| {
            let hints = on_disk(memory);
            hints
                .iter()
                .filter(|(_, hint)| hint.owed.contains(&node("d")))
                .count()
        };
        let first = followed(&memory);
        assert!(first > 0 && first < keys as usize, "{first}");
        settle(&kept).await;
        assert_eq!(followed(&memory), keys as usize + 1);
    });
}

/// A full disk holds up no handing over, which is what makes room.
#[test]
fn hints_follow_in_memory_where_the_disk_takes_nothing() {
    run(async {
        let memory = MemoryDisk::new();
        let file = Arc::new(Crowded {
            file: memory.hints(),
            is_full: AtomicBool::new(false),
        });
        let mut kept = start_with(file.clone(), &memory, 1 << 20, Duration::from_secs(3600));
        kept.handle.follow(ring(1, ["a", "b", "c"]));
        kept.handle.send(vec![mint(1, "k", "v")]);
        minted(&mut kept).await;
        kept.events.recv().await.unwrap();
        file.is_full.store(true, Ordering::Relaxed);
        kept.handle.follow(ring(2, ["a", "b", "d"]));
        settle(&kept).await;
        // Not handed to anybody before it was looked at once more.
        assert!(next(&kept, "a").await.is_empty());
        kept.handle.send(vec![HintJob::Tick]);
        settle(&kept).await;
        for (owner, hints) in [("a", 1), ("b", 1), ("c", 0), ("d", 1)] {
            assert_eq!(next(&kept, owner).await.len(), hints, "{owner}");
        }
        assert!(on_disk(&memory)[0].1.owed.contains(&node("c")));
        // With room again the next ring is written.
        file.is_full.store(false, Ordering::Relaxed);
        kept.handle.follow(ring(3, ["a", "d", "e"]));
        settle(&kept).await;
        let hint = on_disk(&memory).remove(0).1;
        assert!(hint.owed.contains(&node("e")) && !hint.owed.contains(&node("c")));
    });
}
