//! What the caller's threads and those of the store share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::options::{GENERATION_FILES_MAX, Limits};
use super::signals::Signals;
use crate::disk::DirectoryFiles;
use crate::disk_reserve::Room;
use crate::error::StoreError;
use crate::footprint::Sums;
use crate::log::LogWriter;
use crate::segments::HashSnapshot;
use crate::status::CheckpointTimes;
use crate::table::{Table, Volume};
use crate::totals::Counters;
use crate::tree::Tree;

/// What the caller's threads and those of the store share.
///
/// Locks are taken in this order: `log`, `tree`, `frozen`, `signals`. The last two are not held while
/// anyone waits for the disk.
pub(super) struct Shared {
    pub(super) directory: PathBuf,
    pub(super) limits: Limits,
    pub(super) log: Mutex<LogWriter>,
    /// What is looked at before the tree.
    pub(super) table: Table,
    /// The generation that is on its way into the tree.
    pub(super) frozen: Mutex<Option<Arc<Frozen>>>,
    /// Nothing while it is opened again.
    pub(super) tree: RwLock<Option<Tree>>,
    /// It has met the end of the disk since it was opened.
    pub(super) tree_failed: AtomicBool,
    pub(super) room: Room,
    pub(super) counters: Counters,
    pub(super) checkpoint_times: CheckpointTimes,
    /// How often room was given back to the disk.
    pub(super) compactions: AtomicU64,
    /// The bytes of the active generation's log.
    pub(super) generation_bytes: AtomicU64,
    /// Odd while a sync is under way that no caller waits for.
    pub(super) sync_progress: AtomicU64,
    /// The first failure of a write.
    pub(super) stopped: OnceLock<String>,
    pub(super) signals: Mutex<Signals>,
    pub(super) changed: Condvar,
    /// Holds the lock of the directory. The last field: given up when all else is closed.
    pub(super) files: DirectoryFiles,
}

/// A generation on its way into the tree.
#[derive(Debug)]
pub(super) struct Frozen {
    /// How much it had when it was frozen.
    pub(super) volume: Volume,
    /// What the store held then.
    pub(super) sums: Sums,
    /// The segments' hashes that changed with it.
    pub(super) hashes: HashSnapshot,
    /// The first log file of the next generation.
    pub(super) log_next: u64,
    /// The bytes of this one's log.
    pub(super) log_bytes: u64,
}

impl Shared {
    pub(super) fn check_running(&self) -> Result<(), StoreError> {
        match self.stopped.get() {
            Some(reason) => Err(StoreError::Stopped {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Runs a write, unless one has failed before; its failure is the last one, except on a full disk
    /// or in a shortage: then nothing has changed that the next write would not make good.
    pub(super) fn write<T>(
        &self,
        f: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
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

    pub(super) fn stop(&self, reason: String) {
        if self.stopped.set(reason).is_ok() {
            // Under the lock, so that nobody misses it between a look and a wait.
            let _signals = self.signals();
            self.changed.notify_all();
        }
    }

    /// How much a generation may have in the table, and in the log, in bytes.
    fn generation_bytes_max(&self) -> (usize, u64) {
        let fitting = self.room.generation_bytes_max();
        let window = usize::try_from(fitting).unwrap_or(usize::MAX);
        let Limits {
            window_bytes,
            log_bytes,
            ..
        } = self.limits;
        (window_bytes.min(window), log_bytes.min(fitting))
    }

    /// How full the active generation is, as a part of its bounds.
    pub(super) fn window_used(&self) -> f64 {
        let (window_bytes, log_bytes_max) = self.generation_bytes_max();
        let memory = self.table.active().bytes as f64 / window_bytes as f64;
        let log_bytes = self.generation_bytes.load(Ordering::Relaxed);
        memory.max(log_bytes as f64 / log_bytes_max as f64)
    }

    /// Whether the active generation has reached its bounds.
    pub(super) fn is_full(&self, log: &LogWriter) -> bool {
        let active = self.table.active();
        let (window_bytes, log_bytes) = self.generation_bytes_max();
        let is_over = active.bytes >= window_bytes
            || log.generation_bytes() >= log_bytes
            || log.generation_files() >= GENERATION_FILES_MAX;
        is_over && active.entries > 0
    }

    /// Freezes the active generation if it is full, unless another one is still on its way.
    pub(super) fn freeze_if_full(&self, log: &mut LogWriter) -> Result<(), StoreError> {
        if self.is_full(log) && self.frozen().is_none() {
            return self.freeze(log);
        }
        log.begin_file_if_large()?;
        self.note_log_size(log);
        Ok(())
    }

    /// The same, after what counts is done: if the disk is full, or something is short, it waits.
    pub(super) fn freeze_if_full_and_room(&self, log: &mut LogWriter) -> Result<(), StoreError> {
        match self.freeze_if_full(log) {
            Err(error) if error.passes() => {
                tracing::warn!(%error, "the log cannot begin a new file yet");
                Ok(())
            }
            result => result,
        }
    }

    /// The log, for a change that the active generation has room for. Waits for that; meanwhile nobody holds the log,
    /// because a checkpoint needs it at its end.
    pub(super) fn log_with_room(&self) -> Result<MutexGuard<'_, LogWriter>, StoreError> {
        loop {
            let mut log = self.log();
            if !self.is_full(&log) {
                return Ok(log);
            }
            if self.frozen().is_none() {
                self.freeze(&mut log)?;
                return Ok(log);
            }
            drop(log);
            self.wait_until_thawed()?;
        }
    }

    /// Freezes the active generation, unless it is empty. Waits until no other one is on its way.
    pub(super) fn freeze_all(&self) -> Result<(), StoreError> {
        loop {
            let mut log = self.log();
            if self.table.active().entries == 0 {
                return Ok(());
            }
            if self.frozen().is_none() {
                return self.freeze(&mut log);
            }
            drop(log);
            self.wait_until_thawed()?;
        }
    }

    /// Freezes the active generation, which is then durable, and begins the next, in the table and in
    /// the log: one step, as whoever appends holds the log. No other one may be on its way.
    pub(super) fn freeze(&self, log: &mut LogWriter) -> Result<(), StoreError> {
        log.sync()?;
        let log_bytes = log.generation_bytes();
        let log_next = log.begin_generation()?;
        *self.frozen() = Some(Arc::new(Frozen {
            sums: self.counters.sums(),
            hashes: self.counters.hashes().snapshot(),
            volume: self.table.freeze(),
            log_next,
            log_bytes,
        }));
        self.note_log_size(log);
        self.signals().frozen += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until no generation is on its way into the tree. Does not wait for room on the disk.
    pub(super) fn wait_until_thawed(&self) -> Result<(), StoreError> {
        self.wait_until(|signals| signals.completed >= signals.frozen)
    }

    /// The same, and until the logs of all of them were removed.
    pub(super) fn wait_until_tidy(&self) -> Result<(), StoreError> {
        self.wait_until(|signals| signals.tidied >= signals.frozen)
    }

    fn wait_until(&self, is_so: impl Fn(&Signals) -> bool) -> Result<(), StoreError> {
        let mut signals = self.signals();
        if !is_so(&signals) {
            // Whatever makes somebody wait, the checkpoint rests no more.
            signals.waiting += 1;
            self.changed.notify_all();
            signals = self.wait_with(signals, &is_so);
            signals.waiting -= 1;
        }
        self.check_running()?;
        if is_so(&signals) {
            return Ok(());
        }
        Err(match signals.starved {
            Some(lack) if !signals.closing => lack.error(self.directory.clone()),
            _ => StoreError::Stopped {
                reason: "the store is being closed".to_owned(),
            },
        })
    }

    /// Waits until it is so, or never will be.
    fn wait_with<'a>(
        &self,
        mut signals: MutexGuard<'a, Signals>,
        is_so: impl Fn(&Signals) -> bool,
    ) -> MutexGuard<'a, Signals> {
        let is_vain = |signals: &Signals| {
            signals.closing || signals.starved.is_some() || self.stopped.get().is_some()
        };
        while !is_so(&signals) && !is_vain(&signals) {
            let woken = self.changed.wait(signals);
            signals = woken.unwrap_or_else(PoisonError::into_inner);
        }
        signals
    }

    pub(super) fn note_log_size(&self, log: &LogWriter) {
        self.generation_bytes
            .store(log.generation_bytes(), Ordering::Relaxed);
    }

    // A thread that panicked under one of these locks was the writer; nothing is written after it,
    // because the checkpoint reports its own panic and the caller's writer is gone.

    pub(super) fn log(&self) -> MutexGuard<'_, LogWriter> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn frozen(&self) -> MutexGuard<'_, Option<Arc<Frozen>>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
