//! The store on disk: a commit log and a table of records in front of the tree.
//!
//! ```text
//!   apply ──▶ log buffer ── sync: one write, one fdatasync ──▶ log/
//!     └─────▶ table, active generation ── full: frozen, and the log begins a new file, in one step
//!                                   └── checkpoint, in the background ──▶ sled/ ── durable ──▶ log removed
//!   get:      table; what it lacks from the tree, and then it has that, too
//!   scan:     what is dirty in the table, then the tree, stretch by stretch
//! ```
//!
//! The log is the truth until a checkpoint is durable, so whatever a checkpoint leaves behind when it is
//! cut short is overwritten by the replay and the next one. What goes into the tree is durable in the log
//! before. The totals and the segments' hashes of a generation are written down with its checkpoint and
//! brought forward by the changes in the log, so that opening reads no records.

mod background;
mod compaction;
mod counting;
mod lack;
mod layout;
mod options;
mod pace;
mod scan;
mod shared;
mod signals;
mod use_of_tree;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};

pub(crate) use self::layout::mend_constants;
pub(crate) use self::layout::{LOG_DIRECTORY, TREE_DIRECTORY};
use self::layout::{RUN_DOCUMENT, check_format, check_lengths};
pub use self::options::{Compaction, DiskOptions, Durability};
use self::shared::Shared;
use crate::disk::{DirectoryFiles, create_directory};
use crate::disk_reserve::{Change, DiskSpace, Room};
use crate::document::{load_document, save_document};
use crate::error::StoreError;
use crate::footprint::{Footprint, Sums, Totals};
use crate::items::{Mutation, Page, PageLimit, PositionRange};
use crate::log::{self, LogWriter};
use crate::log_place::LogPlace;
use crate::recount::Recounted;
use crate::status::{CheckpointTimes, StoreStatus};
use crate::store::{Store, scan_past_losses};
use crate::table::{Look, Table, Volume};
use crate::totals::Counters;
use crate::tree::{Loss, Tree};

/// How many damaged values are looked at while writers wait.
const REMOVALS_AT_ONCE: usize = 64;

/// A [`Store`] in a directory of its own.
///
/// Dropping it syncs the log and ends its threads; a checkpoint that is under way is left to the next
/// start.
pub struct DiskStore {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    counted_pages: Vec<u8>,
    found_end: LogPlace,
    replay_time: Duration,
}

impl std::fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStore")
            .field("directory", &self.shared.directory)
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the store in this directory, and creates it if there is none. Reads the log, which
    /// [`DiskOptions::log_bytes_max`] bounds, and no records.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::DiskFull`], [`StoreError::Shortage`] and [`StoreError::Io`]: nothing is lost, put it
    /// right and start again. [`StoreError::Unsupported`]: another version made it.
    /// [`StoreError::CorruptStore`] and [`StoreError::CorruptLog`]: what was acknowledged is damaged;
    /// move the directory aside and start empty, as a node that lost its data.
    pub fn open(directory: impl AsRef<Path>, options: DiskOptions) -> Result<Self, StoreError> {
        let began = Instant::now();
        let directory = directory.as_ref().to_owned();
        let files = DirectoryFiles::open(&directory)?;
        let tree_directory = directory.join(TREE_DIRECTORY);
        compaction::remove_leftovers(&directory)?;
        let room = Room::open(&directory, &tree_directory, options.reserve_bytes)?;
        let limits = options.limits(DiskSpace::of(&directory)?);
        if check_format(&directory, &files)? {
            tracing::info!(
                directory = %directory.display(),
                "the store is taken over from an earlier format: earlier versions cannot open it any more"
            );
        }
        let opened = Tree::open(&tree_directory, limits.cache_bytes).inspect_err(|error| {
            if error.is_disk_full() {
                // It took more than was to be expected. The next try has this.
                room.drop_ballast();
            }
        })?;
        let (tree, checkpoint, written) = opened;
        room.note_opened();
        let tree_opened_ms = began.elapsed().as_millis() as u64;

        let log_directory = directory.join(LOG_DIRECTORY);
        create_directory(&log_directory)?;
        let counters = Counters::starting_at(
            checkpoint.map_or(Sums::default(), |it| it.sums),
            written.hashes,
        );
        let table = Table::new(limits.table_bytes);
        let log_first = checkpoint.map(|it| it.log_first);
        let replay_began = Instant::now();
        let replayed = log::replay(&log_directory, log_first, |change| {
            if let Some(correction) = change.correction() {
                return counters.correct(&correction);
            }
            let position = Position::of_key(change.key());
            table.put(position, change.pair, change.key_length);
            let segment = position.segment();
            counters.change(segment, change.before, change.after, change.hash_change);
        })?;
        let replay_time = replay_began.elapsed();
        let changes = replayed.changes;
        let torn_bytes = replayed.torn_bytes;
        let found_end = replayed.found_end;
        let log = LogWriter::open(&log_directory, replayed)?;

        let shared = Arc::new(Shared {
            limits,
            table,
            frozen: Mutex::default(),
            tree: RwLock::new(Some(tree)),
            tree_failed: AtomicBool::new(false),
            room,
            counters,
            checkpoint_times: CheckpointTimes::default(),
            compactions: AtomicU64::new(0),
            generation_bytes: AtomicU64::new(log.generation_bytes()),
            sync_progress: AtomicU64::new(0),
            log: Mutex::new(log),
            stopped: OnceLock::new(),
            signals: Mutex::default(),
            changed: Condvar::new(),
            directory,
            files,
        });
        shared.count_pages(&written.damaged_pages, written.missing_root)?;
        // From here on dropping it ends the threads that were started.
        let mut store = Self {
            shared: shared.clone(),
            threads: Vec::new(),
            counted_pages: written.damaged_pages,
            found_end,
            replay_time,
        };
        store.threads = background::start(&shared)?;
        shared.write(|| shared.freeze_if_full_and_room(&mut shared.log()))?;
        tracing::info!(
            directory = %shared.directory.display(),
            keys = store.totals().keys,
            replayed_changes = changes,
            torn_bytes,
            tree_opened_ms,
            opened_ms = began.elapsed().as_millis() as u64,
            "store opened"
        );
        Ok(store)
    }

    /// Whether there is a store in this directory, whatever state it is in.
    ///
    /// # Errors
    /// [`StoreError::Io`] and its like where that cannot be told.
    pub fn exists(directory: &Path) -> Result<bool, StoreError> {
        layout::exists(directory)
    }

    /// The pages of segment hashes that were damaged when it was opened, and were counted anew.
    pub(crate) fn counted_pages(&self) -> &[u8] {
        &self.counted_pages
    }

    /// Where the log ended when the store was opened.
    pub fn found_end(&self) -> LogPlace {
        self.found_end
    }

    /// Removes values that are damaged, unless something took their place.
    fn remove_damaged(&self, keys: &[(&Loss, &[u8])]) -> Result<(), StoreError> {
        let shared = &self.shared;
        for keys in keys.chunks(REMOVALS_AT_ONCE) {
            shared.write(|| {
                // Whoever holds the log keeps writers out.
                let mut log = shared.log_with_room()?;
                for &(loss, key) in keys {
                    let position = Position::of_key(key);
                    // First what may have taken its place, because that goes into the tree before it leaves the table.
                    let is_replaced = matches!(shared.table.get(position, key), Look::Hit(_));
                    let is_damaged = || shared.in_tree(|tree| tree.is_damaged(loss));
                    // Where the disk says something else it is left to the next time.
                    if is_replaced || !is_damaged().unwrap_or(false) {
                        continue;
                    }
                    // What it counted for nobody knows.
                    let key_bytes = Bytes::copy_from_slice(key);
                    let removal = Mutation::removal(key_bytes, Footprint::default());
                    let pair = log.append(&removal)?;
                    shared.table.put(position, pair, key.len());
                    shared.counters.note(position, &removal);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Carries everything that was applied into the tree now, and waits until that is durable and the
    /// log is empty again. Never needed: it goes on in the background by itself.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.write(|| {
            shared.freeze_all()?;
            shared.wait_until_tidy()
        })
    }

    /// About how many bytes a new store with all that this one holds takes at most.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn copy_bytes(&self) -> Result<u64, StoreError> {
        let status = self.status();
        // What waits is not in the tree yet, or is there as it was before; and it may be carried meanwhile.
        let waiting_bytes = status.dirty_bytes.min(status.log_bytes).saturating_mul(2);
        let copy_bytes = compaction::copy_bytes(&self.shared)?;
        Ok((copy_bytes / 4 * 5).saturating_add(waiting_bytes))
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.shared.signals().closing = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // Its panic was reported as the failure of a write.
            let _ = thread.join();
        }
        if let Err(error) = self.shared.write(|| self.shared.log().sync()) {
            tracing::error!(%error, "closing the store: what was not synced before may be lost");
        }
    }
}

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let position = Position::of_key(key);
        let missed = match self.shared.table.get(position, key) {
            Look::Hit(versions) => return Ok(Some(versions).filter(|it| !it.is_empty())),
            Look::Miss(missed) => missed,
        };
        let found = self.shared.in_tree(|tree| tree.get(position, key))?;
        if let Some(versions) = &found {
            self.shared.table.fill(position, key, versions, missed);
        }
        Ok(found)
    }

    fn get_hot(&self, key: &[u8]) -> Option<Bytes> {
        let hot = self.shared.table.get_hot(Position::of_key(key), key);
        hot.filter(|versions| !versions.is_empty())
    }

    fn touch(&self, key: &[u8]) {
        self.shared.table.touch(Position::of_key(key));
    }

    fn admit(&self, bytes: usize, change: Change) -> Result<(), StoreError> {
        self.shared.room.admit(bytes, change)
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        check_lengths(mutations)?;
        let shared = &self.shared;
        shared.write(|| {
            let mut log = shared.log_with_room()?;
            for mutation in mutations {
                let position = Position::of_key(&mutation.key);
                let pair = log.append(mutation)?;
                shared.table.put(position, pair, mutation.key.len());
                shared.counters.note(position, mutation);
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.write(|| {
            let mut log = shared.log();
            match shared.limits.durability {
                Durability::Sync => log.sync()?,
                Durability::Interval(_) => log.write_out()?,
            }
            shared.note_log_size(&log);
            shared.room.look_now_and_then();
            shared.freeze_if_full_and_room(&mut log)
        })
    }

    fn sync_at_end(&self) -> Result<(), StoreError> {
        self.shared.write(|| self.shared.log().sync())
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.shared.scan(range, after_key, limit)
    }

    fn losses(&self, segments: &[Segment]) -> Result<Vec<Loss>, StoreError> {
        self.shared.in_tree(|tree| tree.losses(segments))
    }

    fn forgive(&self, losses: &[Loss]) -> Result<(), StoreError> {
        self.shared.in_tree(|tree| {
            tree.forgive(losses);
            Ok(())
        })?;
        let keys = losses.iter().filter_map(|loss| Some((loss, loss.key()?)));
        let keys: Vec<_> = keys.collect();
        match keys.is_empty() {
            true => Ok(()),
            false => self.remove_damaged(&keys),
        }
    }

    fn recount(&self, after_key: Option<&[u8]>, limit: PageLimit) -> Result<Recounted, StoreError> {
        let shared = &self.shared;
        shared.check_running()?;
        // Whoever holds the log keeps writers out.
        let mut log = shared.log();
        let mut lost = Vec::new();
        let scan = || scan_past_losses(self, PositionRange::ALL, after_key, limit, &mut lost);
        let (mut recounted, corrections) = shared.counters.recount(after_key, scan)?;
        recounted.lost_segments = lost.iter().map(|part| part.start.segment()).collect();
        shared.write(|| {
            for correction in &corrections {
                log.append_correction(correction)?;
                shared.counters.correct(correction);
            }
            match recounted.next {
                Some(_) => Ok(()),
                None => log.sync(),
            }
        })?;
        Ok(recounted)
    }

    fn sync_progress(&self) -> u64 {
        self.shared.sync_progress.load(Ordering::Relaxed)
    }

    fn totals(&self) -> Totals {
        let shared = &self.shared;
        let frozen = shared.frozen().clone();
        let log_bytes = shared.generation_bytes.load(Ordering::Relaxed)
            + frozen.map_or(0, |frozen| frozen.log_bytes);
        let of_tree = shared.in_tree(|tree| Ok((tree.disk_bytes(), tree.damaged_keys())));
        let (tree_bytes, damaged_keys) = of_tree.unwrap_or_default();
        let disk_bytes = tree_bytes + log_bytes;
        shared.counters.totals(disk_bytes, damaged_keys)
    }

    fn status(&self) -> StoreStatus {
        let shared = &self.shared;
        let frozen = shared.frozen().clone();
        let frozen_log_bytes = frozen.as_ref().map_or(0, |frozen| frozen.log_bytes);
        let frozen = frozen.map_or_else(Volume::default, |frozen| frozen.volume);
        let active = shared.table.active();
        let damaged_reads = shared.in_tree(|tree| Ok(tree.damaged_reads()));
        let (disk_free_bytes, disk_reserve_bytes, refuses_writes) = shared.room.state();
        let mut status = StoreStatus {
            log_bytes: shared.generation_bytes.load(Ordering::Relaxed) + frozen_log_bytes,
            damaged_reads: damaged_reads.unwrap_or_default(),
            window_used: shared.window_used(),
            replay_time: self.replay_time,
            disk_free_bytes,
            disk_reserve_bytes,
            refuses_writes,
            ..StoreStatus::default()
        };
        status.dirty_bytes = (active.bytes + frozen.bytes) as u64;
        status.dirty_entries = (active.entries + frozen.entries) as u64;
        shared.table.fill_status(&mut status);
        shared.checkpoint_times.fill(&mut status);
        status.compactions = shared.compactions.load(Ordering::Relaxed);
        status
    }

    fn run_note(&self) -> Result<Option<Bytes>, StoreError> {
        load_document(&self.shared.files, RUN_DOCUMENT)
    }

    fn note_run(&self, note: &[u8]) -> Result<(), StoreError> {
        save_document(&self.shared.files, RUN_DOCUMENT, note)
    }

    fn log_end(&self) -> LogPlace {
        self.shared.log().end()
    }

    fn segment_hash(&self, segment: Segment) -> u128 {
        self.shared.counters.hashes().get(segment)
    }
}

#[cfg(test)]
mod tests;
