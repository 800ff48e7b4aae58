//! The store on disk, on sled 0.34.
//!
//! Two trees: *records*, in ring order, and the *chunks* of large values. sled is opened so that it
//! survives a power cut (`flush_override`, no item near the size of a segment), and it is not trusted:
//! each value has a checksum of ours, a `witness` notices when synced writes are gone, and where sled
//! panics on damage the caller gets an error.

use std::any::Any;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use sled::IVec;

use crate::chunks::Chunks;
use crate::disk::{DirectoryLock, create_directory, sync_directory, sync_path};
use crate::error::{Damage, StoreError};
use crate::format::{
    self, ChunkedValue, INLINE_BYTES_MAX, Record, encode_chunked, encode_inline, key_of_record,
    record_key,
};
use crate::store::{Item, Mutation, Page, PageBuilder, PageLimit, PositionRange, Store};
use crate::totals::{Counters, Tally, Totals};
use crate::witness::{Witness, WitnessError};

/// The lock file beside sled's own files.
const LOCK_FILE: &str = "store.lock";

/// sled cannot change it later. With 4 MiB a tree node of 17 of our largest items (each at most 8 KiB
/// with its key) is far from needing a file of its own, which sled would not sync.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;

/// How long to wait for the threads of a store that this process has just closed.
const CLOSING_WAIT: Duration = Duration::from_secs(5);

/// How to open a [`SledStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SledOptions {
    /// Memory that sled's page cache aims at, in bytes. It goes beyond it: with 64 MiB expect up to
    /// 140 MiB for small values, and more for values near 4 KiB.
    pub cache_bytes: u64,
}

/// A [`Store`] in a directory of its own.
pub struct SledStore {
    directory: PathBuf,
    records: sled::Tree,
    chunks: Chunks,
    witness: Witness,
    db: sled::Db,
    counters: Counters,
    corrupt_keys: u64,
    /// The size on disk when it was last learnt, in bytes.
    disk_bytes: AtomicU64,
    /// The first failure of a write.
    stopped: OnceLock<String>,
    /// The last field: given up when sled is closed.
    _lock: DirectoryLock,
}

impl std::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStore")
            .field("directory", &self.directory)
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens the store in this directory, and creates it if there is none. Reads every record once, to
    /// count the totals.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::DiskFull`] and [`StoreError::Io`]: nothing is lost, put it
    /// right and start again. [`StoreError::CorruptStore`]: sled cannot read its files; move the
    /// directory aside and start empty, as a node that lost its data.
    pub fn open(directory: impl AsRef<Path>, options: SledOptions) -> Result<Self, StoreError> {
        let directory = directory.as_ref().to_owned();
        create_directory(&directory)?;
        let lock = DirectoryLock::take(&directory, LOCK_FILE)?;
        guarded(&directory, || Self::open_locked(&directory, options, lock))
    }

    fn open_locked(
        directory: &Path,
        options: SledOptions,
        lock: DirectoryLock,
    ) -> Result<Self, StoreError> {
        let began = Instant::now();
        let failed = |error| failure(directory, "open", error);
        let db = open_sled(directory, options)?;
        let records = db.open_tree("records").map_err(failed)?;
        let chunks = db.open_tree("chunks").map_err(failed)?;
        let syncs = db.open_tree("syncs").map_err(failed)?;
        let witness = Witness::open(directory, syncs).map_err(|error| match error {
            WitnessError::Sled(error) => failed(error),
            WitnessError::Store(error) => error,
        })?;
        db.flush().map_err(failed)?;
        // New files must be found after a power cut; and what a process before this one wrote without
        // syncing must not be answered from the system's cache before it is on the disk.
        for file in ["conf", "db"] {
            sync_path(&directory.join(file))?;
        }
        sync_directory(&directory.join("blobs"))?;
        sync_directory(directory)?;
        let opened_ms = began.elapsed().as_millis() as u64;

        let census = Census::take(directory, &records)?;
        let chunks = Chunks::open(chunks, &census.sets).map_err(failed)?;
        let store = Self {
            directory: directory.to_owned(),
            records,
            chunks,
            witness,
            db,
            counters: census.counters,
            corrupt_keys: census.corrupt_keys,
            disk_bytes: AtomicU64::new(0),
            stopped: OnceLock::new(),
            _lock: lock,
        };
        tracing::info!(
            directory = %directory.display(),
            keys = store.totals().keys,
            corrupt_keys = store.corrupt_keys,
            opened_ms,
            counted_ms = (began.elapsed().as_millis() as u64).saturating_sub(opened_ms),
            "store opened"
        );
        Ok(store)
    }

    fn failure(&self, doing: &'static str) -> impl Fn(sled::Error) -> StoreError + '_ {
        move |error| failure(&self.directory, doing, error)
    }

    /// Runs a write, unless one has failed before; its failure is the last one.
    fn write(&self, f: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        if let Some(reason) = self.stopped.get() {
            return Err(StoreError::Stopped {
                reason: reason.clone(),
            });
        }
        guarded(&self.directory, f).inspect_err(|error| {
            self.stopped.get_or_init(|| error.to_string());
        })
    }

    fn apply_one(&self, mutation: &Mutation, encoded: &mut Vec<u8>) -> Result<(), StoreError> {
        let failed = self.failure("write");
        let record_key = record_key(&mutation.key);
        if mutation.versions.len() <= INLINE_BYTES_MAX {
            encode_inline(&record_key, &mutation.versions, encoded);
        } else {
            let value = ChunkedValue {
                set: self.chunks.put(&mutation.versions).map_err(&failed)?,
                // A frame, and so a value, is far below 4 GiB; a longer one would be found damaged.
                length: mutation.versions.len() as u32,
                checksum: crc32fast::hash(&mutation.versions),
                tally: mutation.after,
            };
            encode_chunked(&record_key, &value, encoded);
        }
        let previous = self.records.insert(&record_key, encoded.as_slice());
        if let Some(previous) = previous.map_err(&failed)?
            && let Ok(Record::Chunked(value)) = format::decode(&record_key, &previous)
        {
            self.chunks.retire(value.set);
        }
        self.counters.change(mutation.before, mutation.after);
        Ok(())
    }

    /// The versions in a record that was just read.
    fn versions(&self, record_key: &[u8], mut stored: IVec) -> Result<Option<Bytes>, StoreError> {
        loop {
            let damage = match format::decode(record_key, &stored) {
                Ok(Record::Inline(versions)) => return Ok(Some(Bytes::copy_from_slice(versions))),
                Ok(Record::Chunked(value)) => {
                    match self.chunks.get(&value).map_err(self.failure("read"))? {
                        Ok(versions) => return Ok(Some(versions)),
                        Err(damage) => damage,
                    }
                }
                Err(damage) => damage,
            };
            // The writer may have replaced the record and removed its chunks meanwhile. Each turn of the
            // loop is one such replacement.
            match self.records.get(record_key).map_err(self.failure("read"))? {
                Some(now) if now != stored => stored = now,
                Some(_) => return Err(corrupt(record_key, damage)),
                None => return Ok(None),
            }
        }
    }

    fn scan_records(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        let start = range.start.0.to_be_bytes().to_vec();
        let from = match after_key.map(record_key) {
            Some(after) if after >= start => Bound::Excluded(after),
            Some(_) | None => Bound::Included(start),
        };
        let end = match range.end {
            Some(end) => Bound::Excluded(end.0.to_be_bytes().to_vec()),
            None => Bound::Unbounded,
        };
        // sled panics on bounds in the wrong order.
        if let (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(end)) = (&from, &end)
            && from >= end
        {
            return Ok(Page::default());
        }
        let mut page = PageBuilder::new(limit);
        for record in self.records.range((from, end)) {
            let (record_key, stored) = record.map_err(self.failure("read"))?;
            let versions = match self.versions(&record_key, stored) {
                Ok(Some(versions)) => versions,
                Ok(None) => continue,
                // The page ends before the damaged value; the next one begins with it and says so.
                Err(StoreError::Corrupt { .. }) if !page.is_empty() => return Ok(page.with_more()),
                Err(error) => return Err(error),
            };
            let item = Item {
                key: Bytes::copy_from_slice(key_of_record(&record_key)),
                versions,
            };
            if page.push(item).is_err() {
                return Ok(page.with_more());
            }
        }
        Ok(page.last())
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let record_key = record_key(key);
        guarded(&self.directory, || {
            match self
                .records
                .get(&record_key)
                .map_err(self.failure("read"))?
            {
                Some(stored) => self.versions(&record_key, stored),
                None => Ok(None),
            }
        })
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        self.write(|| {
            let mut encoded = Vec::new();
            mutations
                .iter()
                .try_for_each(|mutation| self.apply_one(mutation, &mut encoded))
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.write(|| {
            let retired = self.chunks.take_retired();
            self.witness.before_flush().map_err(self.failure("write"))?;
            self.db.flush().map_err(self.failure("sync"))?;
            self.witness.after_flush()?;
            self.chunks.remove(&retired).map_err(self.failure("write"))
        })
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        guarded(&self.directory, || {
            self.scan_records(range, after_key, limit)
        })
    }

    fn totals(&self) -> Totals {
        if let Ok(bytes) = self.db.size_on_disk() {
            self.disk_bytes.store(bytes, Ordering::Relaxed);
        }
        let disk_bytes = self.disk_bytes.load(Ordering::Relaxed);
        self.counters.totals(disk_bytes, self.corrupt_keys)
    }
}

/// What one walk over all records finds.
#[derive(Default)]
struct Census {
    counters: Counters,
    corrupt_keys: u64,
    /// The chunk sets that records name.
    sets: BTreeSet<u64>,
}

impl Census {
    fn take(directory: &Path, records: &sled::Tree) -> Result<Self, StoreError> {
        let mut census = Self::default();
        for record in records {
            let (record_key, stored) = record.map_err(|error| failure(directory, "read", error))?;
            match census.count(&record_key, &stored) {
                Ok(tally) => census.counters.change(Tally::default(), tally),
                Err(damage) => {
                    census.corrupt_keys += 1;
                    tracing::error!(error = %corrupt(&record_key, damage), "found when opening");
                }
            }
        }
        Ok(census)
    }

    fn count(&mut self, record_key: &[u8], stored: &[u8]) -> Result<Tally, Damage> {
        match format::decode(record_key, stored)? {
            Record::Inline(versions) => {
                let versions = Versions::from_bytes(&Bytes::copy_from_slice(versions))?;
                Ok(Tally::of(&versions))
            }
            Record::Chunked(value) => {
                self.sets.insert(value.set);
                Ok(value.tally)
            }
        }
    }
}

/// Opens sled. We hold our own lock, so that another holder of sled's can only be what is left of a
/// store that this process has closed: its threads end a moment later.
fn open_sled(directory: &Path, options: SledOptions) -> Result<sled::Db, StoreError> {
    let began = Instant::now();
    loop {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(options.cache_bytes)
            .segment_size(SEGMENT_BYTES)
            // Durability is asked for, by `sync`; a timer would only add writes.
            .flush_every_ms(None);
        match config.open() {
            Ok(db) => return Ok(db),
            Err(error) if is_lock(&error) => {
                if began.elapsed() > CLOSING_WAIT {
                    let path = directory.to_owned();
                    return Err(StoreError::Locked { path });
                }
                sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(failure(directory, "open", error)),
        }
    }
}

/// sled has no kind of its own for it.
fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn corrupt(record_key: &[u8], damage: Damage) -> StoreError {
    StoreError::Corrupt {
        key: Bytes::copy_from_slice(key_of_record(record_key)),
        damage,
    }
}

/// Says what an error of sled means for an operator.
fn failure(directory: &Path, doing: &'static str, error: sled::Error) -> StoreError {
    let path = directory.to_owned();
    match error {
        // A file that ends too early or holds the wrong thing is no fault of the disk's.
        sled::Error::Io(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData
            ) =>
        {
            StoreError::CorruptStore {
                path,
                reason: error.to_string(),
            }
        }
        sled::Error::Io(error) => StoreError::io(doing, directory)(error),
        sled::Error::Unsupported(reason) => StoreError::Unsupported { path, reason },
        sled::Error::Corruption { .. }
        | sled::Error::CollectionNotFound(_)
        | sled::Error::ReportableBug(_) => StoreError::CorruptStore {
            path,
            reason: error.to_string(),
        },
    }
}

/// Turns a panic of sled, its answer to much of what damage can do, into an error.
///
/// Unwind-safe in spirit: after an error a reader holds nothing of sled's, and a writer never writes
/// again.
fn guarded<T>(
    directory: &Path,
    f: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        Err(StoreError::CorruptStore {
            path: directory.to_owned(),
            reason: format!("sled gave up: {}", text_of(&*panic)),
        })
    })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no reason given"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynakv_protocol::causal::{Clock, Dot, Incoming, Value};
    use dynakv_protocol::{Actor, WriteId};

    const OPTIONS: SledOptions = SledOptions {
        cache_bytes: 16 * 1024 * 1024,
    };
    const ALL: PageLimit = PageLimit {
        items_max: usize::MAX,
        bytes_max: usize::MAX,
    };

    fn value_of(counter: u64, length: usize) -> Versions {
        let dot = Dot {
            actor: Actor(1),
            counter,
        };
        let incoming = Incoming {
            write_id: WriteId(u128::from(counter)),
            timestamp: 0,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from(vec![counter as u8; length])),
        };
        let mut versions = Versions::new();
        versions.write(&Clock::new(), dot, incoming);
        versions
    }

    fn put(store: &SledStore, key: &str, before: Tally, versions: &Versions) {
        let mutation = Mutation {
            key: Bytes::copy_from_slice(key.as_bytes()),
            versions: versions.to_bytes(),
            before,
            after: Tally::of(versions),
        };
        store.apply(&[mutation]).unwrap();
    }

    fn open(directory: &tempfile::TempDir) -> SledStore {
        SledStore::open(directory.path(), OPTIONS).unwrap()
    }

    fn chunk_sets(store: &SledStore) -> BTreeSet<Vec<u8>> {
        let tree = store.db.open_tree("chunks").unwrap();
        let keys = tree.iter().keys();
        keys.map(|key| key.unwrap()[..8].to_vec()).collect()
    }

    #[test]
    fn a_directory_has_one_store() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(&directory);
        let error = SledStore::open(directory.path(), OPTIONS).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
        put(&first, "k", Tally::default(), &value_of(1, 10));
        drop(first);
        assert_eq!(open(&directory).totals().keys, 1);
    }

    #[test]
    fn a_damaged_value_is_neither_served_nor_absent() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        for key in ["a", "b", "c"] {
            put(&store, key, Tally::default(), &value_of(1, 100));
        }
        let record_key = record_key(b"b");
        let mut stored = store.records.get(&record_key).unwrap().unwrap().to_vec();
        stored[50] ^= 1;
        store.records.insert(&record_key, stored).unwrap();

        let is_damage_of_b = |error: &StoreError| matches!(error, StoreError::Corrupt { key, damage: Damage::Checksum { .. } } if key == "b");
        let error = store.get(b"b").unwrap_err();
        assert!(is_damage_of_b(&error), "{error:?}");
        assert!(error.is_corruption());
        assert!(store.get(b"a").unwrap().is_some());

        // A scan meets it, says so, and can go on behind it.
        let mut seen = Vec::new();
        let mut damaged = 0;
        let mut after: Option<Bytes> = None;
        loop {
            match store.scan(PositionRange::ALL, after.as_deref(), ALL) {
                Ok(page) => {
                    seen.extend(page.items.into_iter().map(|item| item.key));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                Err(error) => {
                    assert!(is_damage_of_b(&error), "{error:?}");
                    damaged += 1;
                    after = Some(Bytes::from_static(b"b"));
                }
            }
        }
        seen.sort();
        assert_eq!(seen, ["a", "c"]);
        assert_eq!(damaged, 1);

        drop(store);
        let store = open(&directory);
        assert_eq!((store.totals().keys, store.totals().corrupt_keys), (2, 1));
        // Writing the key mends it.
        put(&store, "b", Tally::default(), &value_of(2, 100));
        assert_eq!(store.get(b"b").unwrap(), Some(value_of(2, 100).to_bytes()));
        assert_eq!(store.totals().keys, 3);
    }

    #[test]
    fn a_large_value_that_lost_a_chunk_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        put(&store, "k", Tally::default(), &value_of(1, 100_000));
        let tree = store.db.open_tree("chunks").unwrap();
        let (chunk, content) = tree.iter().nth(3).unwrap().unwrap();
        let mut bad = content.to_vec();
        bad[9] ^= 4;
        tree.insert(&chunk, bad).unwrap();
        let error = store.get(b"k").unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Corrupt {
                    damage: Damage::Checksum { .. },
                    ..
                }
            ),
            "{error:?}"
        );
        tree.remove(&chunk).unwrap();
        let error = store.get(b"k").unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Corrupt {
                    damage: Damage::MissingChunk,
                    ..
                }
            ),
            "{error:?}"
        );
    }

    #[test]
    fn replaced_chunks_go_after_the_sync_and_forgotten_ones_at_the_next_opening() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        let large = value_of(1, 1_000_000);
        put(&store, "k", Tally::default(), &large);
        store.sync().unwrap();
        let first = chunk_sets(&store);
        assert_eq!(first.len(), 1);
        let larger = value_of(2, 2_000_000);
        put(&store, "k", Tally::of(&large), &larger);
        assert!(chunk_sets(&store).is_superset(&first), "a crash needs them");
        store.sync().unwrap();
        assert_eq!(chunk_sets(&store).len(), 1);
        assert!(chunk_sets(&store).is_disjoint(&first));

        // As after a crash between the chunks and their record.
        store.chunks.put(&[1; 50_000]).unwrap();
        assert_eq!(chunk_sets(&store).len(), 2);
        drop(store);
        let store = open(&directory);
        assert_eq!(chunk_sets(&store).len(), 1);
        assert_eq!(store.get(b"k").unwrap(), Some(larger.to_bytes()));
        assert_eq!(store.totals().live_bytes, 2_000_000);
        put(&store, "l", Tally::default(), &large);
        assert_eq!(store.get(b"k").unwrap(), Some(larger.to_bytes()));
        let blobs = std::fs::read_dir(directory.path().join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0, "a blob file would not be synced");
    }

    #[test]
    fn readers_never_meet_half_a_value() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        let states: Vec<Bytes> = (1..=2)
            .map(|counter| value_of(counter, 30_000).to_bytes())
            .collect();
        let write = |versions: &Bytes| {
            let mutation = Mutation {
                key: Bytes::from_static(b"k"),
                versions: versions.clone(),
                before: Tally::default(),
                after: Tally::default(),
            };
            store.apply(&[mutation]).unwrap();
            store.sync().unwrap();
        };
        write(&states[0]);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..200 {
                    write(&states[turn % 2]);
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let seen = store.get(b"k").unwrap().unwrap();
                assert!(states.contains(&seen));
                let page = store.scan(PositionRange::ALL, None, ALL).unwrap();
                assert!(states.contains(&page.items[0].versions));
            }
        });
    }

    #[test]
    fn a_ruined_file_is_an_error_and_neither_a_panic_nor_an_empty_store() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        for at in 0..200 {
            put(
                &store,
                &format!("k{at}"),
                Tally::default(),
                &value_of(1, 3000),
            );
        }
        store.sync().unwrap();
        drop(store);
        let path = directory.path().join("db");
        let good = std::fs::read(&path).unwrap();
        for at in (0..600_000).step_by(60_000) {
            let mut bad = good.clone();
            bad[at..at + 4000].fill(0xa5);
            std::fs::write(&path, &bad).unwrap();
            // By itself sled would open here, with the first of the keys only.
            let error = SledStore::open(directory.path(), OPTIONS).unwrap_err();
            assert!(
                matches!(error, StoreError::CorruptStore { .. }),
                "{error:?}"
            );
        }
        std::fs::write(&path, b"").unwrap();
        let error = SledStore::open(directory.path(), OPTIONS).unwrap_err();
        assert!(error.is_corruption(), "{error:?}");
    }
}
