//! A store on a disk that is full: it refuses to grow while there is a reserve, and where something else
//! takes that too it loses nothing, goes on reading, opens again, and works as before once there is room.
//!
//! The disks are 128 MiB, one in memory and one with ext4 in a file. Mounting them needs root; without it
//! the test says so and passes.

#[macro_use]
#[path = "../../tests/skipped/mod.rs"]
mod skipped;
mod small_disk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_protocol::causal::{Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{
    Change, Compaction, DiskOptions, DiskSpace, DiskStore, Footprint, Mutation, RewriteError,
    Store, StoreError, check_store, rewrite_directory,
};
use small_disk::{DISK_BYTES, SmallDisk};

/// A store and what it must hold.
struct Checked {
    store: Option<DiskStore>,
    directory: PathBuf,
    options: DiskOptions,
    /// What was synced.
    durable: BTreeMap<Bytes, Bytes>,
    /// What was applied since.
    applied: BTreeMap<Bytes, Bytes>,
    random: fastrand::Rng,
    counter: u64,
}

impl Checked {
    fn open(directory: &Path, options: DiskOptions) -> Self {
        Self {
            store: Some(DiskStore::open(directory, options).unwrap()),
            directory: directory.to_owned(),
            options,
            durable: BTreeMap::new(),
            applied: BTreeMap::new(),
            random: fastrand::Rng::with_seed(7),
            counter: 0,
        }
    }

    fn store(&self) -> &DiskStore {
        self.store.as_ref().unwrap()
    }

    fn value(&self, key: &Bytes) -> Option<&Bytes> {
        self.applied.get(key).or_else(|| self.durable.get(key))
    }

    /// Adds the next write of the key to what it has.
    fn add(&mut self, versions: &mut Versions, value: Value) {
        self.counter += 1;
        let dot = Dot {
            actor: Actor(1),
            counter: self.counter,
        };
        let incoming = Incoming {
            write_id: WriteId(u128::from(self.counter)),
            timestamp: self.counter,
            expires_at_ms: None,
            value,
        };
        let context = versions.clock().clone();
        versions.write(&context, dot, incoming);
    }

    fn put(&mut self, key: &Bytes, versions: &Versions) -> Result<(), StoreError> {
        let before = match self.value(key) {
            Some(stored) => Footprint::of(key, &Versions::from_bytes(stored).unwrap()),
            None => Footprint::default(),
        };
        let mutation = Mutation {
            key: key.clone(),
            after: Footprint::of(key, versions),
            versions: versions.to_bytes(),
            before,
        };
        self.store().apply(std::slice::from_ref(&mutation))?;
        self.applied.insert(key.clone(), mutation.versions);
        Ok(())
    }

    /// A write as the node makes it, if there is room for it.
    fn write(&mut self, ask: bool) -> Result<(), StoreError> {
        let key = Bytes::from(format!("key-{}", self.random.u32(..2000)));
        let length = if self.random.u32(..100) == 0 {
            self.random.usize(..300_000)
        } else {
            self.random.usize(1..20_000)
        };
        let value = Value::Bytes(Bytes::from(vec![self.random.u8(..); length]));
        let mut versions = Versions::new();
        self.add(&mut versions, value);
        if ask {
            self.store().admit(length, Change::Growth)?;
        }
        self.put(&key, &versions)
    }

    /// A delete as the node makes it, if there is room for it.
    fn delete(&mut self, key: &Bytes) -> Result<(), StoreError> {
        self.store().admit(100, Change::Removal)?;
        let mut versions = Versions::from_bytes(self.value(key).unwrap()).unwrap();
        self.add(&mut versions, Value::Tombstone);
        self.put(key, &versions)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.store().sync()?;
        self.durable.append(&mut self.applied);
        Ok(())
    }

    /// Writes in groups until the disk refuses, or at most so many.
    fn write_groups(&mut self, groups: u32, ask: bool) -> Result<(), StoreError> {
        for _ in 0..groups {
            for _ in 0..16 {
                self.write(ask)?;
            }
            self.sync()?;
        }
        Ok(())
    }

    /// All that was applied is read as it was applied.
    fn check(&self) {
        for (key, versions) in self.durable.iter().chain(&self.applied) {
            let expected = self.value(key).unwrap_or(versions);
            let found = self.read(key);
            assert_eq!(found.as_ref(), Some(expected), "{key:?}");
        }
    }

    /// Waits for a checkpoint that is under way: a real program does not take all the room while it writes a batch.
    /// It may have to wait for room itself.
    fn settle(&self) {
        if let Err(error) = self.store().checkpoint() {
            assert!(error.is_disk_full(), "{error}");
        }
    }

    /// The same, where somebody takes the room in which the tree was to be opened again: until there is some, a read
    /// may be refused. What is answered is right.
    fn check_what_is_answered(&self) {
        for key in self.durable.keys().chain(self.applied.keys()) {
            match self.store().get(key) {
                Ok(found) => assert_eq!(found.as_ref(), self.value(key), "{key:?}"),
                Err(error) => assert!(error.is_disk_full(), "reading {key:?}: {error}"),
            }
        }
    }

    /// A read may fail for the short time in which the tree is opened again.
    fn read(&self, key: &Bytes) -> Option<Bytes> {
        let began = Instant::now();
        loop {
            match self.store().get(key) {
                Ok(found) => return found,
                Err(error) if error.is_disk_full() && began.elapsed().as_secs() < 30 => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("reading {key:?}: {error}"),
            }
        }
    }

    /// Ends the store as a crash would leave it at best, and opens it again.
    fn restart(&mut self, disk: &SmallDisk) {
        self.store = None;
        // What was applied but not synced may be there or not.
        let unsure = std::mem::take(&mut self.applied);
        let store = match DiskStore::open(&self.directory, self.options) {
            // Somebody who wants no reserve may have to make room first.
            Err(error) if error.is_disk_full() && self.options.reserve_bytes == Some(0) => {
                disk.clear();
                let store = DiskStore::open(&self.directory, self.options).unwrap();
                disk.fill();
                store
            }
            result => result.unwrap(),
        };
        self.store = Some(store);
        for (key, versions) in unsure {
            let found = self.read(&key);
            if found.as_ref() == Some(&versions) {
                self.durable.insert(key, versions);
            } else {
                assert_eq!(found.as_ref(), self.durable.get(&key), "{key:?}");
            }
        }
        self.check();
    }
}

fn refused(result: Result<(), StoreError>) -> StoreError {
    let error = result.expect_err("the disk never became full");
    assert!(error.is_disk_full(), "{error}");
    error
}

/// One store through all of it. Without a reserve its checkpoints, too, meet the end of the disk.
fn a_full_disk_costs_nothing(kind: &str, reserve_bytes: Option<u64>) -> Result<(), String> {
    let disk = SmallDisk::mount(kind)?;
    let options = DiskOptions {
        memory_bytes: 64 * 1024 * 1024,
        reserve_bytes,
        ..DiskOptions::default()
    };
    let mut checked = Checked::open(&disk.store(), options);
    let has_reserve = reserve_bytes.is_none();

    // When that goes there is room again for whatever was begun meanwhile.
    disk.take(DISK_BYTES / if has_reserve { 4 } else { 2 });
    checked.write_groups(20, true).unwrap();
    checked.store().checkpoint().unwrap();
    let error = refused(checked.write_groups(10_000, true));
    let is_reserve = matches!(error, StoreError::DiskReserve { .. });
    assert!(is_reserve || !has_reserve, "{error}");
    checked.check();
    if has_reserve {
        // The reserve is there for what makes room.
        checked.store().admit(100, Change::Removal).unwrap();
        // What was applied before the refusal is durable all the same.
        checked.sync().unwrap();
    }
    checked.restart(&disk);

    // Another program takes the rest. Nodes ask before they write.
    checked.settle();
    disk.fill();
    assert!(checked.store().status().refuses_writes || !has_reserve);
    refused(checked.write_groups(10_000, true));
    checked.check();
    checked.restart(&disk);
    // And takes what the ballast had left. sled sometimes writes when it reads, and there is nothing left for that.
    checked.settle();
    disk.fill();
    refused(checked.write_groups(10_000, true));
    checked.check_what_is_answered();
    // Who writes all the same meets the very end, with each byte that a checkpoint or an opening frees.
    for _ in 0..3 {
        refused(checked.write_groups(10_000, false));
        checked.check_what_is_answered();
        refused(checked.store().checkpoint());
        checked.check_what_is_answered();
        disk.fill();
    }

    // There is room again: no restart is needed.
    disk.clear();
    let began = Instant::now();
    while let Err(error) = checked.sync().and_then(|()| checked.store().checkpoint()) {
        assert!(error.is_disk_full(), "{error}");
        assert!(
            began.elapsed().as_secs() < 60,
            "{kind}, reserve {reserve_bytes:?}: it does not recover: {error} {:?} {:?}",
            checked.store().status(),
            checked.store().totals()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    checked.check();
    checked.restart(&disk);
    let report = check_store(checked.store(), &mut |_, _, _| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.keys, checked.durable.len() as u64);
    Ok(())
}

/// How much room is there again each time, in bytes.
const ROOM_BYTES: usize = 8 * 1024 * 1024;

/// How long room may take to come back.
const PATIENCE: Duration = Duration::from_secs(150);

/// One value in so many is never deleted.
const KEPT: usize = 10;

/// A disk is filled and most of it deleted, again and again: each time there is room again.
fn what_is_deleted_makes_room(kind: &str) -> Result<(), String> {
    let disk = SmallDisk::mount(kind)?;
    let options = DiskOptions {
        memory_bytes: 64 * 1024 * 1024,
        ..DiskOptions::default()
    };
    let mut checked = Checked::open(&disk.store(), options);
    let mut compactions = 0;
    for round in 0..4 {
        refused(checked.write_groups(10_000, true));
        checked.sync().unwrap();
        if round == 1 {
            checked.restart(&disk);
        }
        let began = Instant::now();
        let keys: Vec<_> = checked.durable.keys().cloned().collect();
        let keys = keys.into_iter().enumerate();
        for (_, key) in keys.filter(|(number, _)| number % KEPT != 0) {
            while let Err(error) = checked.delete(&key).and_then(|()| checked.sync()) {
                assert!(error.is_disk_full(), "{error}");
                let status = checked.store().status();
                assert!(
                    began.elapsed() < PATIENCE,
                    "{kind}, {round}: no room to delete: {error}, {status:?}"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if round == 2 {
            checked.restart(&disk);
        }
        while let Err(error) = checked.store().admit(ROOM_BYTES, Change::Growth) {
            let (status, totals) = (checked.store().status(), checked.store().totals());
            assert!(
                began.elapsed() < PATIENCE,
                "{kind}, {round}: no room after all is deleted: {error}, {status:?}, {totals:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        compactions += checked.store().status().compactions;
        println!("{kind}, {round}: room after {:?}", began.elapsed());
        checked.check();
    }
    assert!(compactions > 0, "{kind}: there was room all the time");
    checked.restart(&disk);
    let report = check_store(checked.store(), &mut |_, _, _| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    Ok(())
}

#[test]
fn deletes_make_room() {
    let _alone = alone();
    for kind in ["tmpfs", "ext4"] {
        if let Err(reason) = what_is_deleted_makes_room(kind) {
            skipped!("on {kind}: no disk of its own here ({reason}); run it as root");
        }
    }
}

/// What something else takes of a disk, in bytes.
const ELSEWHERE_BYTES: u64 = DISK_BYTES / 2;

/// A disk is filled with values, and nearly all are removed again.
fn a_store_of_little_is_rewritten(kind: &str) -> Result<(), String> {
    let disk = SmallDisk::mount_of(kind, 2 * DISK_BYTES)?;
    let options = DiskOptions {
        compaction: Compaction::Never,
        ..DiskOptions::default()
    };
    let mut checked = Checked::open(&disk.store(), options);
    disk.take(ELSEWHERE_BYTES);
    let error = checked.write_groups(u32::MAX, true).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    checked.sync().unwrap();
    let kept: Vec<_> = checked.durable.keys().take(50).cloned().collect();
    let all = std::mem::take(&mut checked.durable);
    for (key, versions) in all {
        if kept.contains(&key) {
            checked.durable.insert(key, versions);
            continue;
        }
        let before = Footprint::of(&key, &Versions::from_bytes(&versions).unwrap());
        let removal = Mutation {
            key,
            versions: Bytes::new(),
            before,
            after: Footprint::default(),
        };
        checked.store().apply(&[removal]).unwrap();
    }
    checked.sync().unwrap();
    checked.settle();
    checked.store = None;
    let error = rewrite_directory(&disk.store(), &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(error, RewriteError::NoRoom { .. }), "{error:?}");
    // An operator moves something away: less than a second store of this size takes.
    disk.clear();
    let free_bytes = DiskSpace::of(&disk.mounted_at).unwrap().free_bytes;
    let rewritten = rewrite_directory(&disk.store(), &mut |_, _, _| {}).unwrap();
    assert!(
        rewritten.bytes_before + ELSEWHERE_BYTES > free_bytes,
        "{rewritten:?}"
    );
    assert_eq!(rewritten.keys, kept.len() as u64);
    assert!(
        rewritten.bytes_after < rewritten.bytes_before / 3,
        "{rewritten:?}"
    );
    checked.store = Some(DiskStore::open(&checked.directory, options).unwrap());
    checked.check();
    let admitted = checked
        .store()
        .admit(DISK_BYTES as usize / 2, Change::Growth);
    admitted.unwrap();
    Ok(())
}

/// One test at a time: a child process has the locks of the other test's store, too, until it has begun its program.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_full_disk_costs_nothing_that_was_acknowledged() {
    let _alone = alone();
    for kind in ["tmpfs", "ext4"] {
        let begun = Instant::now();
        if let Err(reason) = a_full_disk_costs_nothing(kind, None) {
            skipped!("on {kind}: no disk of its own here ({reason}); run it as root");
        } else {
            println!("{kind}: {:?}", begun.elapsed());
        }
    }
}

/// The end of the disk comes while sled writes down what it has found: a little further each time. However often
/// that is tried, nothing is lost.
fn a_full_disk_is_survived_by_opening(kind: &str, step_bytes: u64) -> Result<(), String> {
    let disk = SmallDisk::mount(kind)?;
    let options = DiskOptions {
        memory_bytes: 64 * 1024 * 1024,
        reserve_bytes: Some(0),
        ..DiskOptions::default()
    };
    let mut checked = Checked::open(&disk.store(), options);
    checked.write_groups(40, true).unwrap();
    checked.store().checkpoint().unwrap();
    checked.store = None;
    let mut refused = 0;
    let opened = loop {
        // It may never have been taken.
        let _ = std::fs::remove_file(disk.store().join("ballast"));
        disk.fill();
        // What a try has left behind may be as much as it had been given.
        disk.give_back(step_bytes * (refused + 1));
        match DiskStore::open(disk.store(), options) {
            Ok(opened) => break opened,
            Err(error) => assert!(error.is_disk_full(), "{kind}, {refused}: {error:?}"),
        }
        refused += 1;
        assert!(refused * step_bytes < DISK_BYTES, "it never opens");
    };
    drop(opened);
    println!("{kind}: {refused} times without room");
    assert!(refused > 0, "there was room");
    disk.clear();
    checked.restart(&disk);
    let report = check_store(checked.store(), &mut |_, _, _| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    Ok(())
}

#[test]
fn a_disk_that_is_full_while_a_store_opens_costs_nothing() {
    let _alone = alone();
    // Each try syncs, which takes a while on a real file system.
    for (kind, step_bytes) in [("tmpfs", 4096), ("ext4", 256 * 1024)] {
        if let Err(reason) = a_full_disk_is_survived_by_opening(kind, step_bytes) {
            skipped!("on {kind}: no disk of its own here ({reason}); run it as root");
        }
    }
}

#[test]
fn a_store_of_little_is_rewritten_in_little_room() {
    let _alone = alone();
    for kind in ["tmpfs", "ext4"] {
        if let Err(reason) = a_store_of_little_is_rewritten(kind) {
            skipped!("on {kind}: no disk of its own here ({reason}); run it as root");
        }
    }
}
