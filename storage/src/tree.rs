//! The tree on disk, on sled 0.34: what the checkpoints carried there.
//!
//! *records*, in ring order, and the *chunks* of large values. sled is opened so that it survives a power
//! cut (`flush_override`, no item near the size of a segment), and it is not trusted: each value has a
//! checksum of ours, a `witness` notices when a checkpoint has vanished, and where sled panics on damage
//! the caller gets an error.

mod failure;
mod opening;

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dynakv_protocol::hash::Position;
use sled::IVec;

use self::failure::{failure, guarded};
use self::opening::open_sled;
pub(crate) use self::opening::{
    SEGMENT_BYTES, file_bytes, mend_parameters, snapshot_bytes, wait_until_closed,
};
use crate::chunks::Chunks;
use crate::directory::{OpenDirectory, sync_directory, sync_path};
use crate::disk::create_directory;
use crate::error::{Damage, StoreError};
use crate::footprint::Sums;
use crate::format::{
    self, ChunkedValue, INLINE_BYTES_MAX, Record, encode_chunked, encode_inline, key_of_record,
    put_record_key, record_key,
};
use crate::hash_pages::{HashPages, Written};
use crate::items::Cut;
use crate::segments::HashSnapshot;
use crate::table::Entry;
use crate::witness::{Checkpoint, Witness, WitnessError};

/// How many damaged keys are told apart; beyond, they are counted no more.
const DAMAGED_KEYS_MAX: usize = 65_536;

/// Records and chunks. One thread writes, any thread reads. The directory is locked by the caller.
pub(crate) struct Tree {
    directory: PathBuf,
    records: sled::Tree,
    chunks: Chunks,
    witness: Witness,
    hash_pages: HashPages,
    /// sled's file and its directory, held open: a checkpoint must not lack a descriptor at its end.
    db_file: File,
    entries: OpenDirectory,
    db: sled::Db,
    /// The record keys of damaged values that were met and not written anew since.
    damaged: Mutex<BTreeSet<Vec<u8>>>,
    /// How many these are: looked at without the lock.
    damaged_keys: AtomicUsize,
    /// How often one was met.
    damaged_reads: AtomicU64,
    /// The size on disk when it was last learnt, in bytes.
    disk_bytes: AtomicU64,
}

/// Room for one record, used again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    record_key: Vec<u8>,
    record: Vec<u8>,
}

impl Tree {
    /// Opens the tree in this directory, and creates it if there is none. Gives the last checkpoint, if
    /// there was one.
    pub(crate) fn open(
        directory: &Path,
        cache_bytes: u64,
    ) -> Result<(Self, Option<Checkpoint>, Written), StoreError> {
        create_directory(directory)?;
        guarded(directory, || Self::open_unguarded(directory, cache_bytes))
    }

    fn open_unguarded(
        directory: &Path,
        cache_bytes: u64,
    ) -> Result<(Self, Option<Checkpoint>, Written), StoreError> {
        let failed = |error| failure(directory, "open", error);
        let db = open_sled(directory, cache_bytes)?;
        let open_tree = |name: &str| db.open_tree(name).map_err(failed);
        let records = open_tree("records")?;
        let chunks = open_tree("chunks")?;
        let retired = open_tree("retired")?;
        let opened = Witness::open(directory, open_tree("checkpoints")?);
        let (witness, last) = opened.map_err(|error| match error {
            WitnessError::Sled(error) => failed(error),
            WitnessError::Store(error) => error,
        })?;
        let root = last.map_or(0, |last| last.hash_root);
        let pages =
            HashPages::open(open_tree("hashes")?, witness.number(), root).map_err(failed)?;
        let (hash_pages, hashes) = pages.map_err(|reason| StoreError::CorruptStore {
            path: directory.to_owned(),
            reason: reason.to_owned(),
        })?;
        db.flush().map_err(failed)?;
        // New files must be found after a power cut; and what a process before this one wrote without
        // syncing must not be answered from the system's cache before it is on the disk.
        sync_path(&directory.join("conf"))?;
        sync_directory(&directory.join("blobs"))?;
        let next_set = last.map_or(0, |last| last.next_set);
        let db_path = directory.join("db");
        let tree = Self {
            db_file: File::open(&db_path).map_err(StoreError::io("open", &db_path))?,
            entries: OpenDirectory::open(directory)?,
            directory: directory.to_owned(),
            records,
            chunks: Chunks::open(chunks, retired, next_set).map_err(failed)?,
            witness,
            hash_pages,
            db,
            damaged: Mutex::default(),
            damaged_keys: AtomicUsize::new(0),
            damaged_reads: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
        };
        tree.sync_files()?;
        Ok((tree, last, hashes))
    }

    fn sync_files(&self) -> Result<(), StoreError> {
        let path = self.directory.join("db");
        let synced = self.db_file.sync_all().and_then(|()| {
            // What is durable in a file that somebody removed is gone with the process.
            match self.db_file.metadata()?.nlink() {
                0 => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
                _ => Ok(()),
            }
        });
        synced.map_err(StoreError::sync_failed(&path))?;
        self.entries.sync()
    }

    fn failure(&self, doing: &'static str) -> impl Fn(sled::Error) -> StoreError + '_ {
        move |error| failure(&self.directory, doing, error)
    }

    /// Writes entries of the table. Durable with the next [`complete`](Self::complete).
    pub(crate) fn write(&self, entries: &[Entry], scratch: &mut Scratch) -> Result<(), StoreError> {
        guarded(&self.directory, || {
            entries
                .iter()
                .try_for_each(|entry| self.write_one(entry, scratch))
        })
    }

    fn write_one(&self, entry: &Entry, scratch: &mut Scratch) -> Result<(), StoreError> {
        let failed = self.failure("write");
        let Scratch { record_key, record } = scratch;
        let versions = entry.pair.versions();
        put_record_key(entry.position, entry.pair.key(), record_key);
        if versions.len() <= INLINE_BYTES_MAX {
            encode_inline(record_key, versions, record);
        } else {
            let value = ChunkedValue {
                set: self.chunks.put(versions).map_err(&failed)?,
                // The store refuses values of 4 GiB.
                length: versions.len() as u32,
                checksum: crc32fast::hash(versions),
            };
            encode_chunked(record_key, &value, record);
        }
        let previous = self.records.insert(&*record_key, record.as_slice());
        if let Some(previous) = previous.map_err(&failed)?
            && format::may_be_chunked(&previous)
            && let Ok(Record::Chunked(value)) = format::decode(record_key, &previous)
        {
            self.chunks.retire(value.set).map_err(&failed)?;
        }
        if self.damaged_keys.load(Ordering::Relaxed) > 0 {
            self.note_mended(record_key);
        }
        Ok(())
    }

    /// Has sled write what waits in its buffers. It does not complete anything.
    ///
    /// sled reads a page whose newest part still waits only after it has written that. So a checkpoint that stops for lack
    /// of room must leave nothing there, or reads fail once somebody else has taken the rest of the disk.
    pub(crate) fn write_out(&self) -> Result<(), StoreError> {
        guarded(&self.directory, || {
            self.db.flush().map(drop).map_err(self.failure("write"))
        })
    }

    /// Makes everything durable that was written, and with it what it stands for.
    pub(crate) fn complete(
        &self,
        log_first: u64,
        sums: Sums,
        hashes: &HashSnapshot,
    ) -> Result<(), StoreError> {
        guarded(&self.directory, || {
            let checkpoint = Checkpoint {
                log_first,
                sums,
                next_set: self.chunks.next_set(),
                hash_root: hashes.root,
            };
            let retired = self.chunks.note_retired().map_err(self.failure("write"))?;
            self.hash_pages
                .write(self.witness.number() + 1, hashes)
                .map_err(self.failure("write"))?;
            self.witness
                .before_flush(&checkpoint)
                .map_err(self.failure("write"))?;
            self.db.flush().map_err(self.failure("sync"))?;
            self.sync_files()?;
            self.hash_pages.complete(hashes);
            self.witness.after_flush()?;
            self.chunks
                .remove(&retired)
                .map_err(self.failure("write"))?;
            if !retired.is_empty() {
                // A page whose newest part still waits is written before it is read; see `write_out`.
                self.db.flush().map_err(self.failure("write"))?;
            }
            Ok(())
        })
    }

    /// What the last checkpoint had under a key, checked against its checksum.
    pub(crate) fn get(&self, position: Position, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let record_key = record_key(position, key);
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
            // A checkpoint may have replaced the record and removed its chunks meanwhile. Each turn of
            // the loop is one such replacement.
            match self.records.get(record_key).map_err(self.failure("read"))? {
                Some(now) if now != stored => stored = now,
                Some(_) => return Err(self.corrupt(record_key, damage)),
                None => return Ok(None),
            }
        }
    }

    /// Walks from one place to another, or to the end of the ring.
    pub(crate) fn cursor(&self, from: &Cut, up_to: Option<&Cut>) -> TreeCursor<'_> {
        let start_of = |cut: &Cut| cut.position.0.to_be_bytes().to_vec();
        let from = match &from.behind {
            Some(key) => Bound::Excluded(record_key(from.position, key)),
            None => Bound::Included(start_of(from)),
        };
        let end = match up_to.map(|cut| (cut, &cut.behind)) {
            Some((cut, Some(key))) => Bound::Included(record_key(cut.position, key)),
            Some((cut, None)) => Bound::Excluded(start_of(cut)),
            None => Bound::Unbounded,
        };
        // sled panics on bounds in the wrong order.
        let is_empty = match (&from, &end) {
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(end)) => from >= end,
            (Bound::Included(from), Bound::Included(end)) => from > end,
            (Bound::Excluded(from), Bound::Included(end)) => from >= end,
            _ => false,
        };
        TreeCursor {
            tree: self,
            records: (!is_empty).then(|| self.records.range((from, end))),
            taken: None,
        }
    }

    /// How many damaged values were met and not written anew since.
    pub(crate) fn damaged_keys(&self) -> u64 {
        self.damaged_keys.load(Ordering::Relaxed) as u64
    }

    /// How often a damaged value was met.
    pub(crate) fn damaged_reads(&self) -> u64 {
        self.damaged_reads.load(Ordering::Relaxed)
    }

    /// The size on disk in bytes; what it last was, when the system does not say.
    pub(crate) fn disk_bytes(&self) -> u64 {
        if let Ok(bytes) = self.db.size_on_disk() {
            self.disk_bytes.store(bytes, Ordering::Relaxed);
        }
        self.disk_bytes.load(Ordering::Relaxed)
    }

    /// Damages what is written down of a page of segment hashes.
    #[cfg(test)]
    pub(crate) fn damage_hash_page(&self, page: u8) {
        let pages = self.db.open_tree("hashes").unwrap();
        for slot in [0, 1] {
            if let Some(record) = pages.get([page, slot]).unwrap() {
                let mut bad = record.to_vec();
                // Doing it again does not undo it.
                bad.pop();
                pages.insert([page, slot], bad).unwrap();
            }
        }
        self.db.flush().unwrap();
    }

    /// Makes a record vanish, as if it had never been written.
    #[cfg(test)]
    pub(crate) fn lose_record(&self, key: &[u8]) {
        let record_key = record_key(Position::of_key(key), key);
        self.records.remove(record_key).unwrap().unwrap();
        self.db.flush().unwrap();
    }

    /// Damages every large value.
    #[cfg(test)]
    pub(crate) fn lose_chunks(&self) {
        self.db.open_tree("chunks").unwrap().clear().unwrap();
    }

    fn corrupt(&self, record_key: &[u8], damage: Damage) -> StoreError {
        self.damaged_reads.fetch_add(1, Ordering::Relaxed);
        let mut damaged = self.damaged();
        if damaged.len() < DAMAGED_KEYS_MAX {
            damaged.insert(record_key.to_owned());
            self.damaged_keys.store(damaged.len(), Ordering::Relaxed);
        }
        StoreError::Corrupt {
            key: Bytes::copy_from_slice(key_of_record(record_key)),
            damage,
        }
    }

    fn note_mended(&self, record_key: &[u8]) {
        let mut damaged = self.damaged();
        damaged.remove(record_key);
        self.damaged_keys.store(damaged.len(), Ordering::Relaxed);
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<Vec<u8>>> {
        // Insertions and removals leave a whole set whatever happens.
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Walks the records of a range, in ring order. Sees those that were there when it began.
pub(crate) struct TreeCursor<'a> {
    tree: &'a Tree,
    records: Option<sled::Iter>,
    taken: Option<(IVec, IVec)>,
}

impl TreeCursor<'_> {
    /// The record key of the next record, which stays there.
    pub(crate) fn peek(&mut self) -> Result<Option<&[u8]>, StoreError> {
        if self.taken.is_none()
            && let Some(records) = &mut self.records
        {
            let next = guarded(&self.tree.directory, || {
                records
                    .next()
                    .transpose()
                    .map_err(self.tree.failure("read"))
            });
            self.taken = next?;
            if self.taken.is_none() {
                // sled's own would go on with what was inserted meanwhile, behind what the caller has
                // seen elsewhere.
                self.records = None;
            }
        }
        Ok(self.taken.as_ref().map(|(record_key, _)| &record_key[..]))
    }

    /// Leaves the next record out.
    pub(crate) fn skip(&mut self) {
        self.taken = None;
    }

    /// Takes the next record: its key and, checked against their checksum, its versions. `None` at the
    /// end; the inner one for a record that is gone.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Option<Bytes>)>, StoreError> {
        self.peek()?;
        let Some((record_key, stored)) = self.taken.take() else {
            return Ok(None);
        };
        let tree = self.tree;
        let versions = guarded(&tree.directory, || tree.versions(&record_key, stored))?;
        let key = Bytes::copy_from_slice(key_of_record(&record_key));
        Ok(Some((key, versions)))
    }
}

#[cfg(test)]
mod tests;
