//! The tree on disk, on sled 0.34: what the checkpoints carried there.
//!
//! *blocks* of records, in ring order, and the *chunks* of large values. sled is opened so that it survives a power
//! cut (`flush_override`, no item near the size of a segment), and it is not trusted: each value has a
//! checksum of ours, a `witness` notices when a checkpoint has vanished, and where sled panics on damage
//! the caller gets an error.

mod arrangements;
mod block;
mod content;
mod copying;
mod cursor;
mod cutting;
mod damages;
mod failure;
#[cfg(test)]
mod hooks;
mod loss;
mod opening;
mod scratch;
mod slack;
mod source;
mod writing;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};

use self::arrangements::Arrangements;
use self::content::{Content, Found};
pub(crate) use self::cursor::{Next, TreeCursor};
use self::damages::Damages;
use self::failure::{failure, guarded};
pub use self::loss::Loss;
use self::loss::Place;
use self::opening::open_sled;
pub(crate) use self::opening::{
    SEGMENT_BYTES, file_bytes, mend_parameters, snapshot_bytes, wait_until_closed,
};
pub(crate) use self::scratch::{BLOCK_BYTES_AIM, Scratch};
use self::slack::Slacks;
use crate::chunks::Chunks;
use crate::directory::{OpenDirectory, sync_directory, sync_path};
use crate::disk::create_directory;
use crate::error::{Damage, StoreError};
use crate::footprint::Sums;
use crate::format::{key_of_record, position_of_record, record_key};
use crate::hash_pages::{HashPages, Written};
use crate::items::Cut;
use crate::segments::HashSnapshot;
use crate::table::Entry;
use crate::witness::{Checkpoint, Witness, WitnessError};

/// Blocks and chunks. One thread writes, any thread reads. The directory is locked by the caller.
pub(crate) struct Tree {
    directory: PathBuf,
    content: Content,
    witness: Witness,
    hash_pages: HashPages,
    /// sled's file and its directory, held open: a checkpoint must not lack a descriptor at its end.
    db_file: File,
    entries: OpenDirectory,
    db: sled::Db,
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
        let opened = Witness::open(directory, open_tree("checkpoints")?);
        let (witness, last) = opened.map_err(|error| match error {
            WitnessError::Sled(error) => failed(error),
            WitnessError::Store(error) => error,
        })?;
        let root = last.map_or(0, |last| last.hash_root);
        let pages =
            HashPages::open(open_tree("hashes")?, witness.number(), root).map_err(failed)?;
        let damaged = |reason: &str| StoreError::CorruptStore {
            path: directory.to_owned(),
            reason: reason.to_owned(),
        };
        let (hash_pages, hashes) = pages.map_err(damaged)?;
        let next_set = last.map_or(0, |last| last.next_set);
        let (chunks, retired) = (open_tree("chunks")?, open_tree("retired")?);
        let arrangements = Arrangements::open(open_tree("arrangements")?).map_err(failed)?;
        let (blocks, records) = (open_tree("blocks")?, open_tree("records")?);
        let content = Content {
            was_empty: blocks.is_empty() && records.is_empty(),
            blocks,
            records,
            arrangements: arrangements.map_err(damaged)?,
            chunks: Chunks::open(chunks, retired, next_set).map_err(failed)?,
            damages: Arc::new(Damages::default()),
            slacks: Slacks::default(),
            #[cfg(test)]
            hooks: hooks::Hooks::default(),
        };
        db.flush().map_err(failed)?;
        // New files must be found after a power cut; and what a process before this one wrote without
        // syncing must not be answered from the system's cache before it is on the disk.
        sync_path(&directory.join("conf"))?;
        sync_directory(&directory.join("blobs"))?;
        let db_path = directory.join("db");
        let tree = Self {
            db_file: File::open(&db_path).map_err(StoreError::io("open", &db_path))?,
            entries: OpenDirectory::open(directory)?,
            directory: directory.to_owned(),
            content,
            witness,
            hash_pages,
            db,
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

    /// Writes entries of the table, in ring order. Durable with the next [`complete`](Self::complete).
    pub(crate) fn write(&self, entries: &[Entry], scratch: &mut Scratch) -> Result<(), StoreError> {
        guarded(&self.directory, || {
            let written = self.content.write(entries, scratch);
            written.map_err(self.failure("write"))
        })
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
                next_set: self.content.chunks.next_set(),
                hash_root: hashes.root,
            };
            let chunks = &self.content.chunks;
            let retired = chunks.note_retired().map_err(self.failure("write"))?;
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
            chunks.remove(&retired).map_err(self.failure("write"))?;
            if !retired.is_empty() {
                // A page whose newest part still waits is written before it is read; see `write_out`.
                self.db.flush().map_err(self.failure("write"))?;
            }
            Ok(())
        })
    }

    /// What the last checkpoint had under a key, checked against its checksum.
    pub(crate) fn get(&self, position: Position, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        guarded(&self.directory, || {
            let found = self.content.get(position, key);
            match found.map_err(self.failure("read"))? {
                Found::Versions(versions) => {
                    // It was not the disk that was wrong when it was met.
                    if self.content.damages.any() {
                        self.content.damages.mended(&record_key(position, key));
                    }
                    Ok(Some(versions))
                }
                Found::Nothing => Ok(None),
                Found::Damaged(damage) => Err(self.corrupt(position, key, damage)),
                Found::Lost(damage) => {
                    self.content.damages.met_loss();
                    Err(StoreError::Corrupt {
                        key: Bytes::copy_from_slice(key),
                        damage,
                    })
                }
            }
        })
    }

    /// Walks from one place to another, or to the end of the ring; see [`TreeCursor`] for `is_whole`.
    pub(crate) fn cursor(&self, from: &Cut, up_to: Option<&Cut>, is_whole: bool) -> TreeCursor<'_> {
        TreeCursor::new(self, from, up_to, is_whole)
    }

    /// The parts of these segments in which keys may be lost.
    pub(crate) fn losses(&self, segments: &[Segment]) -> Result<Vec<Loss>, StoreError> {
        guarded(&self.directory, || {
            let mut found = Vec::new();
            for &segment in segments {
                let losses = self.content.losses(segment, &mut found);
                losses.map_err(self.failure("read"))?;
            }
            Ok(found)
        })
    }

    /// Nobody waits any more for what blocks lost. Of damaged values it takes no note: these are to be removed.
    pub(crate) fn forgive(&self, losses: &[Loss]) {
        for loss in losses {
            if let Place::Block(key) = loss.place() {
                self.content.damages.forgive(*key, loss.number());
            }
        }
    }

    /// Whether the value that was lost is still as damaged as it was then.
    pub(crate) fn is_damaged(&self, loss: &Loss) -> Result<bool, StoreError> {
        let Place::Record(record_key) = loss.place() else {
            return Ok(false);
        };
        if !self.content.damages.is_damaged(record_key, loss.number()) {
            return Ok(false);
        }
        let (position, key) = (position_of_record(record_key), key_of_record(record_key));
        match self.get(position, key) {
            Err(StoreError::Corrupt { .. }) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How many damaged values were met and not written anew since.
    pub(crate) fn damaged_keys(&self) -> u64 {
        self.content.damages.keys_count() as u64
    }

    /// How often a damaged value was met.
    pub(crate) fn damaged_reads(&self) -> u64 {
        self.content.damages.reads()
    }

    /// The size on disk in bytes; 0 when the system does not say. sled would look for it where it was opened.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.db_file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// A value is taken for damaged.
    #[cfg(test)]
    pub(crate) fn note_damaged(&self, position: Position, key: &[u8]) {
        self.content.damages.met(record_key(position, key));
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
        self.content.lose_record(Position::of_key(key), key);
        self.db.flush().unwrap();
    }

    /// Damages every large value.
    #[cfg(test)]
    pub(crate) fn lose_chunks(&self) {
        self.db.open_tree("chunks").unwrap().clear().unwrap();
    }

    fn corrupt(&self, position: Position, key: &[u8], damage: Damage) -> StoreError {
        self.content.damages.met(record_key(position, key));
        StoreError::Corrupt {
            key: Bytes::copy_from_slice(key),
            damage,
        }
    }
}

#[cfg(test)]
mod tests;
