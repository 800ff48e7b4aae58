//! The store on disk: a commit log and a memtable in front of the tree.
//!
//! ```text
//!   apply ──▶ log buffer ── sync: one write, one fdatasync ──▶ log/
//!     └─────▶ memtable, active ── full: frozen, and the log begins a new file, in one step
//!                                   └── checkpoint, in the background ──▶ sled/ ── durable ──▶ log removed
//!   get, scan: active, then frozen, then the tree
//! ```
//!
//! The log is the truth until a checkpoint is durable, so whatever a checkpoint leaves behind when it is
//! cut short is overwritten by the replay and the next one. What goes into the tree is durable in the log
//! before. The totals and the segments' hashes of a generation are written down with its checkpoint and
//! brought forward by the changes in the log, so that opening reads no records.

mod background;
mod counting;
mod lack;
mod layout;
mod options;
mod pace;
mod scan;
mod signals;
mod use_of_tree;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
    RwLockWriteGuard,
};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};

use self::lack::Lack;
pub(crate) use self::layout::mend_constants;
use self::layout::{RUN_DOCUMENT, check_format, check_lengths};
pub use self::options::{DiskOptions, Durability};
use self::signals::Signals;
use crate::disk::{DirectoryFiles, create_directory};
use crate::document::{load_document, save_document};
use crate::error::StoreError;
use crate::log::{self, LogWriter};
use crate::memtable::{Memtable, Pair};
use crate::recount::Recounted;
use crate::room::{Change, DiskSpace, Room};
use crate::run_note::LogPlace;
use crate::segments::HashSnapshot;
use crate::status::{CheckpointTimes, StoreStatus};
use crate::store::{Mutation, Page, PageLimit, PositionRange, Store};
use crate::totals::{Counters, Sums, Totals};
use crate::tree::Tree;

pub(crate) const LOG_DIRECTORY: &str = "log";
pub(crate) const TREE_DIRECTORY: &str = "sled";

/// A generation ends when its log has this many files, even small ones: each start begins one.
const GENERATION_FILES_MAX: u64 = 64;

/// A [`Store`] in a directory of its own.
///
/// Dropping it syncs the log and ends its threads; a checkpoint that is under way is left to the next
/// start.
pub struct DiskStore {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    counted_pages: Vec<u8>,
    found_end: LogPlace,
}

impl std::fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStore")
            .field("directory", &self.shared.directory)
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}

/// What the caller's threads and those of the store share.
///
/// Locks are taken in this order: `log`, `tree`, `tables`, `signals`. The last two are not held while
/// anyone waits for the disk.
struct Shared {
    directory: PathBuf,
    options: DiskOptions,
    log: Mutex<LogWriter>,
    tables: RwLock<Tables>,
    /// Nothing while it is opened again.
    tree: RwLock<Option<Tree>>,
    /// It has met the end of the disk since it was opened.
    tree_failed: AtomicBool,
    room: Room,
    counters: Counters,
    checkpoint_times: CheckpointTimes,
    /// The bytes of the active generation's log.
    generation_bytes: AtomicU64,
    /// Odd while a sync is under way that no caller waits for.
    sync_progress: AtomicU64,
    /// The first failure of a write.
    stopped: OnceLock<String>,
    signals: Mutex<Signals>,
    changed: Condvar,
    /// Holds the lock of the directory. The last field: given up when all else is closed.
    files: DirectoryFiles,
}

/// Where a key may be, newest first; the tree comes last.
struct Tables {
    active: Arc<Memtable>,
    frozen: Option<Arc<Frozen>>,
    /// The generation that the tree got last, while none is on its way: the same values, found faster.
    /// What was written lately is what is read and overwritten next, and the memory is there.
    carried: Option<Arc<Memtable>>,
}

impl Tables {
    fn get(&self, position: Position, key: &[u8]) -> Option<Bytes> {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.table);
        let older = frozen.or(self.carried.as_ref());
        self.active
            .get(position, key)
            .or_else(|| older?.get(position, key))
    }
}

/// A generation on its way into the tree.
struct Frozen {
    table: Arc<Memtable>,
    /// What the store held when it was frozen.
    sums: Sums,
    /// The segments' hashes that changed with it.
    hashes: HashSnapshot,
    /// The first log file of the next generation.
    log_next: u64,
    /// The bytes of this one's log.
    log_bytes: u64,
    /// The generation before it, which is of no use any more: freed by the checkpoint's thread, because
    /// that takes a while.
    previous: Mutex<Option<Arc<Memtable>>>,
}

impl Frozen {
    fn forget_previous(&self) -> Option<Arc<Memtable>> {
        let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
        previous.take()
    }
}

impl DiskStore {
    /// Opens the store in this directory, and creates it if there is none. Reads the log, which
    /// [`DiskOptions::log_bytes`] bounds, and no records.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::DiskFull`], [`StoreError::Shortage`] and [`StoreError::Io`]: nothing is lost, put it
    /// right and start again. [`StoreError::Unsupported`]: another version made it.
    /// [`StoreError::CorruptStore`] and [`StoreError::CorruptLog`]: what was acknowledged is damaged;
    /// move the directory aside and start empty, as a node that lost its data.
    pub fn open(directory: impl AsRef<Path>, options: DiskOptions) -> Result<Self, StoreError> {
        let began = Instant::now();
        let options = options.within_bounds();
        let directory = directory.as_ref().to_owned();
        let files = DirectoryFiles::open(&directory)?;
        let tree_directory = directory.join(TREE_DIRECTORY);
        let room = Room::open(&directory, &tree_directory, options.reserve_bytes)?;
        let space = DiskSpace::of(&directory)?;
        let options = DiskOptions {
            memtable_bytes: space.fitting(options.memtable_bytes as u64) as usize,
            log_bytes: space.fitting(options.log_bytes),
            ..options
        };
        check_format(&directory, &files)?;
        let opened = Tree::open(&tree_directory, options.cache_bytes)?;
        let (tree, checkpoint, written) = opened;
        room.note_opened();
        let tree_opened_ms = began.elapsed().as_millis() as u64;

        let log_directory = directory.join(LOG_DIRECTORY);
        create_directory(&log_directory)?;
        let counters = Counters::starting_at(
            checkpoint.map_or(Sums::default(), |it| it.sums),
            written.hashes,
        );
        let active = Memtable::new();
        let log_first = checkpoint.map(|it| it.log_first);
        let replayed = log::replay(&log_directory, log_first, |change| {
            if let Some(correction) = change.correction() {
                return counters.correct(&correction);
            }
            let position = Position::of_key(change.key());
            active.insert(position, Pair::copy(change.pair, change.key_length));
            let segment = position.segment();
            counters.change(segment, change.before, change.after, change.hash_change);
        })?;
        let changes = replayed.changes;
        let torn_bytes = replayed.torn_bytes;
        let found_end = replayed.found_end;
        let log = LogWriter::open(&log_directory, replayed)?;

        let shared = Arc::new(Shared {
            options,
            tables: RwLock::new(Tables {
                active: Arc::new(active),
                frozen: None,
                carried: None,
            }),
            tree: RwLock::new(Some(tree)),
            tree_failed: AtomicBool::new(false),
            room,
            counters,
            checkpoint_times: CheckpointTimes::default(),
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

    /// Carries everything that was applied into the tree now, and waits until that is durable and the
    /// log is empty again. Never needed: it goes on in the background by itself.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.signals().waiting += 1;
        let result = shared.write(|| {
            let mut log = shared.log();
            shared.wait_until_thawed()?;
            if shared.active().entries() > 0 {
                shared.freeze(&mut log)?;
            }
            drop(log);
            shared.wait_until_thawed()
        });
        shared.signals().waiting -= 1;
        result
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
        {
            // Both under one lock: between two looks a checkpoint could take the key from the one to
            // the tree.
            let found = self.shared.tables().get(position, key);
            if found.is_some() {
                return Ok(found);
            }
        }
        self.shared.in_tree(|tree| tree.get(position, key))
    }

    fn admit(&self, bytes: usize, change: Change) -> Result<(), StoreError> {
        self.shared.room.admit(bytes, change)
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        check_lengths(mutations)?;
        let shared = &self.shared;
        shared.write(|| {
            let mut log = shared.log();
            // Only the holder of the log puts another one in its place.
            let mut active = shared.active();
            if shared.is_full(&active, &log) {
                shared.wait_until_thawed()?;
                shared.freeze(&mut log)?;
                active = shared.active();
            }
            for mutation in mutations {
                let pair = Pair::copy(log.append(mutation)?, mutation.key.len());
                let position = Position::of_key(&mutation.key);
                active.insert(position, pair);
                shared.counters.note(position, mutation);
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.write(|| {
            let mut log = shared.log();
            match shared.options.durability {
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

    fn recount(&self, after_key: Option<&[u8]>, limit: PageLimit) -> Result<Recounted, StoreError> {
        let shared = &self.shared;
        shared.check_running()?;
        // Whoever holds the log keeps writers out.
        let mut log = shared.log();
        let scan = || shared.scan(PositionRange::ALL, after_key, limit);
        let (recounted, corrections) = shared.counters.recount(after_key, scan)?;
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
        let frozen = shared.tables().frozen.clone();
        let log_bytes = shared.generation_bytes.load(Ordering::Relaxed)
            + frozen.map_or(0, |frozen| frozen.log_bytes);
        let of_tree = shared.in_tree(|tree| Ok((tree.disk_bytes(), tree.damaged_keys())));
        let (tree_bytes, damaged_keys) = of_tree.unwrap_or_default();
        let disk_bytes = tree_bytes + log_bytes;
        shared.counters.totals(disk_bytes, damaged_keys)
    }

    fn status(&self) -> StoreStatus {
        let shared = &self.shared;
        let (active, frozen) = {
            let tables = shared.tables();
            (tables.active.clone(), tables.frozen.clone())
        };
        let frozen = frozen.as_ref();
        let frozen_log_bytes = frozen.map_or(0, |frozen| frozen.log_bytes);
        let tables = [Some(&active), frozen.map(|frozen| &frozen.table)];
        let damaged_reads = shared.in_tree(|tree| Ok(tree.damaged_reads()));
        let (disk_free_bytes, disk_reserve_bytes, refuses_writes) = shared.room.state();
        let mut status = StoreStatus {
            log_bytes: shared.generation_bytes.load(Ordering::Relaxed) + frozen_log_bytes,
            damaged_reads: damaged_reads.unwrap_or_default(),
            disk_free_bytes,
            disk_reserve_bytes,
            refuses_writes,
            ..StoreStatus::default()
        };
        for table in tables.into_iter().flatten() {
            status.memtable_bytes += table.bytes() as u64;
            status.memtable_entries += table.entries() as u64;
        }
        shared.checkpoint_times.fill(&mut status);
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

impl Shared {
    fn check_running(&self) -> Result<(), StoreError> {
        match self.stopped.get() {
            Some(reason) => Err(StoreError::Stopped {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Runs a write, unless one has failed before; its failure is the last one, except on a full disk
    /// or in a shortage: then nothing has changed that the next write would not make good.
    fn write<T>(&self, f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check_running()?;
        f().inspect_err(|error| {
            if error.is_disk_full() {
                // Who is only refused because a checkpoint waits for room has not met the end of the disk. Given up for
                // that, the ballast would be somebody else's when it is needed.
                if self.signals().starved.is_none() {
                    self.room.drop_ballast();
                }
            } else if !error.passes() {
                self.stop(error.to_string());
            }
        })
    }

    fn stop(&self, reason: String) {
        if self.stopped.set(reason).is_ok() {
            // Under the lock, so that nobody misses it between a look and a wait.
            let _signals = self.signals();
            self.changed.notify_all();
        }
    }

    /// Whether the active generation has reached its bounds.
    fn is_full(&self, active: &Memtable, log: &LogWriter) -> bool {
        let is_over = active.bytes() >= self.options.memtable_bytes
            || log.generation_bytes() >= self.options.log_bytes
            || log.generation_files() >= GENERATION_FILES_MAX;
        is_over && active.entries() > 0
    }

    /// Freezes the active generation if it is full, unless another one is still on its way.
    fn freeze_if_full(&self, log: &mut LogWriter) -> Result<(), StoreError> {
        let active = self.active();
        if self.is_full(&active, log) && self.tables().frozen.is_none() {
            return self.freeze(log);
        }
        log.begin_file_if_large()?;
        self.note_log_size(log);
        Ok(())
    }

    /// The same, after what counts is done: if the disk is full, or something is short, it waits.
    fn freeze_if_full_and_room(&self, log: &mut LogWriter) -> Result<(), StoreError> {
        match self.freeze_if_full(log) {
            Err(error) if error.passes() => {
                tracing::warn!(%error, "the log cannot begin a new file yet");
                Ok(())
            }
            result => result,
        }
    }

    /// Freezes the active generation, which is then durable, and begins the next, in the memtable and in
    /// the log: one step, as whoever appends holds the log. No other one may be on its way.
    fn freeze(&self, log: &mut LogWriter) -> Result<(), StoreError> {
        log.sync()?;
        let log_bytes = log.generation_bytes();
        let log_next = log.begin_generation()?;
        let sums = self.counters.sums();
        let hashes = self.counters.hashes().snapshot();
        {
            let mut tables = self.tables_mut();
            let table = std::mem::replace(&mut tables.active, Arc::new(Memtable::new()));
            let previous = Mutex::new(tables.carried.take());
            tables.frozen = Some(Arc::new(Frozen {
                table,
                sums,
                hashes,
                log_next,
                log_bytes,
                previous,
            }));
        }
        self.note_log_size(log);
        self.signals().frozen += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until no generation is on its way into the tree. Does not wait for room on the disk.
    fn wait_until_thawed(&self) -> Result<(), StoreError> {
        let mut signals = self.signals();
        while signals.completed < signals.frozen {
            self.check_running()?;
            if signals.closing {
                return Err(StoreError::Stopped {
                    reason: "the store is being closed".to_owned(),
                });
            }
            if let Some(lack) = signals.starved {
                return Err(lack.error(self.directory.clone()));
            }
            signals = self
                .changed
                .wait(signals)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.check_running()
    }

    fn note_log_size(&self, log: &LogWriter) {
        self.generation_bytes
            .store(log.generation_bytes(), Ordering::Relaxed);
    }

    // A thread that panicked under one of these locks was the writer; nothing is written after it,
    // because the checkpoint reports its own panic and the caller's writer is gone.

    fn log(&self) -> MutexGuard<'_, LogWriter> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self) -> Arc<Memtable> {
        self.tables().active.clone()
    }

    fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
