//! The threads of the store: one carries frozen generations into the tree, and with
//! [`Durability::Interval`] another one syncs the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::lack::Lack;
use super::layout::{LOG_DIRECTORY, TREE_DIRECTORY};
use super::options::Durability;
use super::pace::{self, Progress};
use super::shared::{Frozen, Shared};
use crate::error::StoreError;
use crate::items::PositionRange;
use crate::log::remove_below;
use crate::memtable::{Cursor, Entry};
use crate::tree::{Scratch, Tree};

/// After so many records or bytes the checkpoint looks up: it may have to pause, or to end.
const BATCH_RECORDS: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// How often it is looked whether a full disk has room again.
const ROOM_INTERVAL: Duration = Duration::from_millis(200);

/// Starts the threads.
pub(super) fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, StoreError> {
    let failed = || StoreError::io("start a thread for", &shared.directory);
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let builder = Builder::new().name(name.to_owned());
        builder.spawn(run).map_err(failed())
    };
    let for_checkpoints = shared.clone();
    let mut threads = vec![spawn(
        "store-checkpoint",
        Box::new(move || run(&for_checkpoints, carry_generations)),
    )?];
    if let Durability::Interval(interval) = shared.options.durability {
        let for_syncs = shared.clone();
        let syncs = spawn(
            "store-sync",
            Box::new(move || run(&for_syncs, |shared| sync_each(shared, interval))),
        );
        match syncs {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                shared.stop(error.to_string());
                return Err(error);
            }
        }
    }
    Ok(threads)
}

/// Runs a thread's work; its failure, or panic, is the last write of the store.
fn run(shared: &Shared, work: impl FnOnce(&Shared) -> Result<(), StoreError>) {
    match catch_unwind(AssertUnwindSafe(|| work(shared))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the store stops writing");
            shared.stop(error.to_string());
        }
        Err(_) => shared.stop("a thread of the store has panicked; see the log".to_owned()),
    }
}

/// Carries one generation after the other into the tree, until the store is closed.
fn carry_generations(shared: &Shared) -> Result<(), StoreError> {
    loop {
        let frozen = match next_work(shared) {
            Work::Generation(frozen) => frozen,
            Work::OpenAgain => {
                tracing::error!("a read met the end of the disk: the tree is opened again");
                match reopen_tree(shared, Lack::Room)? {
                    true => continue,
                    false => return Ok(()),
                }
            }
            Work::None => return Ok(()),
        };
        drop(frozen.forget_previous());
        loop {
            match carry(shared, &frozen) {
                Ok(true) => break,
                Ok(false) => return Ok(()),
                // However full the disk is: what it was given and could not sync is lost.
                Err(error @ StoreError::SyncFailed { .. }) => return Err(error),
                // sled may have met the end of the disk in a thread of its own, and say something else.
                Err(error) if error.passes() || shared.room.is_exhausted() => {
                    tracing::error!(%error, "a checkpoint could not go on: the tree is opened again");
                    if !reopen_tree(shared, lack_of(&error))? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // It is carried, whatever becomes of its log: a second time it would take the place of the next one.
        remove_log(shared, &frozen)?;
        shared.signals().tidied += 1;
        shared.changed.notify_all();
    }
}

/// Removes the log of a generation that was carried. What cannot be removed for now goes with that of the next one: there
/// are file systems that need room to remove.
fn remove_log(shared: &Shared, frozen: &Frozen) -> Result<(), StoreError> {
    match remove_below(&shared.directory.join(LOG_DIRECTORY), frozen.log_next) {
        Err(error) if error.passes() => tracing::warn!(%error, "old log files stay for now"),
        result => result?,
    }
    Ok(())
}

/// What a checkpoint that failed was short of.
fn lack_of(error: &StoreError) -> Lack {
    if error.is_shortage() {
        Lack::Descriptors
    } else {
        Lack::Room
    }
}

/// Opens the tree anew: after "no space left" sled does nothing more. What the checkpoint had done is as
/// after a crash; the generation is still in memory and in the log. False when the store was closed
/// meanwhile.
fn reopen_tree(shared: &Shared, mut lack: Lack) -> Result<bool, StoreError> {
    if lack == Lack::Room {
        shared.room.drop_ballast();
    }
    let directory = shared.directory.join(TREE_DIRECTORY);
    loop {
        // Until then the present one serves reads.
        if shared.room.is_enough_to_open() {
            // Its lock must be given up first. Opening takes long: who reads meanwhile is refused and does not wait.
            drop(tree_of(shared).take());
            match Tree::open(&directory, shared.options.cache_bytes) {
                Ok((opened, ..)) => {
                    *tree_of(shared) = Some(opened);
                    shared.tree_failed.store(false, Ordering::Relaxed);
                    shared.room.note_opened();
                    shared.signals().starved = None;
                    return Ok(true);
                }
                Err(error @ StoreError::SyncFailed { .. }) => return Err(error),
                Err(error) if error.passes() || shared.room.is_exhausted() => {
                    lack = lack_of(&error);
                    tracing::error!(%error, "the tree cannot be opened again yet");
                }
                // The directory is this process's own: sled still waits for the disk somewhere.
                Err(error @ StoreError::Locked { .. }) => {
                    tracing::error!(%error, "the tree cannot be opened again yet");
                }
                Err(error) => return Err(error),
            }
        }
        if !wait_starved(shared, lack) {
            return Ok(false);
        }
    }
}

fn tree_of(shared: &Shared) -> RwLockWriteGuard<'_, Option<Tree>> {
    shared.tree.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits a little for what is lacking; writers that need this checkpoint are refused meanwhile. False
/// when the store is being closed.
fn wait_starved(shared: &Shared, lack: Lack) -> bool {
    let mut signals = shared.signals();
    if signals.starved != Some(lack) {
        signals.starved = Some(lack);
        shared.changed.notify_all();
    }
    let began = Instant::now();
    while !signals.closing && began.elapsed() < ROOM_INTERVAL {
        let woken = shared.changed.wait_timeout(signals, ROOM_INTERVAL);
        signals = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
    !signals.closing
}

/// Waits until a checkpoint has room. False when the store is being closed.
fn wait_for_room(shared: &Shared) -> Result<bool, StoreError> {
    let mut has_waited = false;
    while !shared.room.is_enough_for_checkpoint() {
        if !std::mem::replace(&mut has_waited, true) {
            tracing::warn!("the disk is nearly full: a checkpoint waits for room");
        }
        // If sled has met the end of the disk after all, it is to be opened anew, not to be waited for.
        shared.in_tree(Tree::write_out)?;
        if shared.tree_failed.load(Ordering::Relaxed) {
            return Err(Lack::Room.error(shared.directory.join(TREE_DIRECTORY)));
        }
        if !wait_starved(shared, Lack::Room) {
            return Ok(false);
        }
    }
    if has_waited {
        shared.signals().starved = None;
    }
    Ok(true)
}

/// What there is to do.
enum Work {
    /// This is to be carried into the tree.
    Generation(Arc<Frozen>),
    /// sled does nothing more: a read of its has met the end of the disk.
    OpenAgain,
    /// Nothing: the store is closed or has failed.
    None,
}

/// Waits for something to do.
fn next_work(shared: &Shared) -> Work {
    let mut signals = shared.signals();
    loop {
        if signals.closing || shared.stopped.get().is_some() {
            return Work::None;
        }
        if shared.tree_failed.load(Ordering::Relaxed) {
            return Work::OpenAgain;
        }
        if signals.completed < signals.frozen {
            drop(signals);
            return match shared.tables().frozen.clone() {
                Some(frozen) => Work::Generation(frozen),
                None => {
                    shared.stop("a generation left memory before it was carried".to_owned());
                    Work::None
                }
            };
        }
        signals = shared
            .changed
            .wait(signals)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Carries a generation into the tree, then lets go of its memory. False when the store was
/// closed meanwhile.
fn carry(shared: &Shared, frozen: &Frozen) -> Result<bool, StoreError> {
    let began = Instant::now();
    let entries = frozen.table.entries();
    let mut cursor = Cursor::new(frozen.table.clone(), PositionRange::ALL, None);
    let mut scratch = Scratch::default();
    let mut carried = 0;
    loop {
        if !wait_for_room(shared)? {
            return Ok(false);
        }
        let batch = next_batch(&mut cursor);
        if batch.is_empty() {
            break;
        }
        shared.in_tree(|tree| tree.write(&batch, &mut scratch))?;
        carried += batch.len();
        drop(batch);
        if !pause(shared, carried as f64 / entries as f64) {
            return Ok(false);
        }
    }
    let (sums, hashes) = (frozen.sums, &frozen.hashes);
    shared.in_tree(|tree| tree.complete(frozen.log_next, sums, hashes))?;
    // The tree has it durably, and its log is of no use. In memory it stays until the next one.
    {
        let mut tables = shared.tables_mut();
        tables.frozen = None;
        tables.carried = Some(frozen.table.clone());
    }
    tracing::debug!(
        entries,
        log_bytes = frozen.log_bytes,
        took_ms = began.elapsed().as_millis() as u64,
        "checkpoint done"
    );
    shared.checkpoint_times.note(began.elapsed());
    shared.signals().completed += 1;
    shared.changed.notify_all();
    Ok(true)
}

fn next_batch(cursor: &mut Cursor) -> Vec<Entry> {
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    let mut bytes = 0;
    while batch.len() < BATCH_RECORDS
        && bytes < BATCH_BYTES
        && let Some(entry) = cursor.next()
    {
        bytes += entry.pair.versions().len();
        batch.push(entry);
    }
    batch
}

/// Gives way to the requests. False when the store is being closed.
fn pause(shared: &Shared, carried: f64) -> bool {
    let memory = shared.tables().active.bytes() as f64 / shared.options.memtable_bytes as f64;
    let log =
        shared.generation_bytes.load(Ordering::Relaxed) as f64 / shared.options.log_bytes as f64;
    let signals = shared.signals();
    if signals.closing {
        return false;
    }
    if signals.waiting > 0 {
        return true;
    }
    let pause = pace::pause(Progress {
        carried,
        filled: memory.max(log),
    });
    if pause.is_zero() {
        return true;
    }
    // Ends early when something changes: a caller waits, or the store is closed.
    let woken = shared.changed.wait_timeout(signals, pause);
    let (signals, _) = woken.unwrap_or_else(PoisonError::into_inner);
    !signals.closing
}

/// Syncs the log every so often, until the store is closed.
fn sync_each(shared: &Shared, interval: Duration) -> Result<(), StoreError> {
    let mut next = Instant::now() + interval;
    loop {
        {
            let mut signals = shared.signals();
            loop {
                if signals.closing || shared.stopped.get().is_some() {
                    return Ok(());
                }
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let woken = shared.changed.wait_timeout(signals, left);
                signals = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        next = Instant::now() + interval;
        let pending = shared.log().begin_sync();
        if let Some(pending) = pending {
            // Without the lock: writes go on meanwhile.
            shared.sync_progress.fetch_add(1, Ordering::Relaxed);
            let result = pending.wait();
            shared.sync_progress.fetch_add(1, Ordering::Relaxed);
            result?;
            shared.log().end_sync(&pending)?;
        }
    }
}
