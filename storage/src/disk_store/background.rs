//! The threads of the store: one carries frozen generations into the tree, and with
//! [`Durability::Interval`] another one syncs the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::compaction::Compacting;
use super::lack::Lack;
use super::layout::{LOG_DIRECTORY, TREE_DIRECTORY};
use super::options::Durability;
use super::pace::{self, Progress};
use super::shared::{Frozen, Shared};
use crate::error::StoreError;
use crate::log::remove_below;
use crate::table::{Entry, FrozenCursor};
use crate::tree::{BLOCK_BYTES_AIM, Scratch, Tree};

/// After so many bytes the checkpoint looks up: it may have to pause, or to end. A batch has 128 records at most.
const BATCH_BYTES: usize = 256 * 1024;

/// So much is given to sled near the end of the disk before it is looked what is left of that.
const WRITE_OUT_BYTES: usize = 1024 * 1024;

/// The rest between two files of the log that are removed.
const FILE_REST: Duration = Duration::from_millis(500);

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
    if let Durability::Interval(interval) = shared.limits.durability {
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
    let mut compacting = Compacting::default();
    let result = carry_on(shared, &mut compacting);
    // Not left to the next start, which may be in this process and need the room before it is closed.
    compacting.give_up(shared);
    result
}

fn carry_on(shared: &Shared, compacting: &mut Compacting) -> Result<(), StoreError> {
    loop {
        let frozen = match next_work(shared, compacting.rest()) {
            Work::Generation(frozen) => frozen,
            Work::Rest => {
                compacting.go_on(shared)?;
                continue;
            }
            Work::OpenAgain => {
                compacting.give_up(shared);
                tracing::error!("a read met the end of the disk: the tree is opened again");
                match reopen_tree(shared, Lack::Room)? {
                    true => continue,
                    false => return Ok(()),
                }
            }
            Work::None => return Ok(()),
        };
        loop {
            match carry(shared, &frozen, compacting) {
                Ok(true) => break,
                Ok(false) => return Ok(()),
                // However full the disk is: what it was given and could not sync is lost.
                Err(error @ StoreError::SyncFailed { .. }) => return Err(error),
                // sled may have met the end of the disk in a thread of its own, and say something else.
                Err(error) if error.passes() || shared.room.is_exhausted() => {
                    tracing::error!(%error, "a checkpoint could not go on: the tree is opened again");
                    compacting.give_up(shared);
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
        // Where one generation follows the other there is no other time.
        compacting.go_on(shared)?;
    }
}

/// Removes the log of a generation that was carried. What cannot be removed for now goes with that of the next one: there
/// are file systems that need room to remove.
fn remove_log(shared: &Shared, frozen: &Frozen) -> Result<(), StoreError> {
    let directory = shared.directory.join(LOG_DIRECTORY);
    match remove_below(&directory, frozen.log_next, || rest_after_file(shared)) {
        Err(error) if error.passes() => tracing::warn!(%error, "old log files stay for now"),
        result => result?,
    }
    Ok(())
}

/// A file system that frees much at once lets the syncs of all others wait for it, the more where it tells the disk of
/// each block. It rests only while this thread has nothing else to do, and nobody waits for it.
fn rest_after_file(shared: &Shared) {
    let signals = shared.signals();
    let is_called = signals.closing || signals.waiting > 0 || signals.frozen > signals.completed;
    let is_urgent = shared.room.is_short() || shared.tree_failed.load(Ordering::Relaxed);
    if !is_called && !is_urgent && shared.stopped.get().is_none() {
        let woken = shared.changed.wait_timeout(signals, FILE_REST);
        drop(woken.unwrap_or_else(PoisonError::into_inner));
    }
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
            match Tree::open(&directory, shared.limits.cache_bytes) {
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

/// Waits until a checkpoint has room for so many bytes more; `unwritten` is what sled was given since it was last made to
/// write that. False when the store is being closed.
fn wait_for_room(
    shared: &Shared,
    bytes: usize,
    unwritten: &mut usize,
    compacting: &mut Compacting,
) -> Result<bool, StoreError> {
    let mut has_waited = false;
    // What is always kept free has room for a usual batch.
    let beyond = bytes.saturating_sub(BATCH_BYTES) as u64;
    *unwritten += bytes;
    if *unwritten >= WRITE_OUT_BYTES && shared.room.is_unwritten_much() {
        *unwritten = 0;
        shared.in_tree(Tree::write_out)?;
    }
    while !shared.room.is_enough_for_checkpoint(beyond) {
        // What it takes is for a checkpoint first.
        if compacting.give_up(shared) {
            continue;
        }
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
    /// Nothing for a while.
    Rest,
    /// Nothing: the store is closed or has failed.
    None,
}

/// Waits for something to do, for so long at most.
fn next_work(shared: &Shared, rest: Duration) -> Work {
    let began = Instant::now();
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
            return match shared.frozen().clone() {
                Some(frozen) => Work::Generation(frozen),
                None => {
                    shared.stop("a generation left memory before it was carried".to_owned());
                    Work::None
                }
            };
        }
        let left = rest.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Work::Rest;
        }
        let woken = shared.changed.wait_timeout(signals, left);
        signals = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Carries a generation into the tree. False when the store was closed meanwhile.
fn carry(
    shared: &Shared,
    frozen: &Frozen,
    compacting: &mut Compacting,
) -> Result<bool, StoreError> {
    let began = Instant::now();
    let mut cursor = FrozenCursor::new(&shared.table);
    let mut scratch = Scratch::default();
    let mut carried = 0;
    let mut unwritten = 0;
    // What was read back after a crash may be two generations, and should not soon be three.
    let is_oversized = frozen.log_bytes > shared.limits.log_bytes / 4 * 5
        || frozen.volume.bytes > shared.limits.window_bytes / 4 * 5;
    while let Some(entries) = cursor.next() {
        for batch in batches(&entries) {
            if !wait_for_room(shared, bytes_of(batch), &mut unwritten, compacting)? {
                return Ok(false);
            }
            shared.in_tree(|tree| tree.write(batch, &mut scratch))?;
            compacting.follow(shared, batch)?;
        }
        carried += entries.len();
        drop(entries);
        // Where the disk is nearly full its log is wanted back, too.
        let goes_on = match is_oversized || shared.room.was_nearly_short() {
            true => !shared.signals().closing,
            false => pause(shared, cursor.progress()),
        };
        if !goes_on {
            return Ok(false);
        }
    }
    if !wait_for_room(shared, 0, &mut unwritten, compacting)? {
        return Ok(false);
    }
    if shared.table.has_overwritten() {
        // The tree lacks these, and the log that has them as they were frozen is about to go.
        sync_log(shared)?;
    }
    let (sums, hashes) = (frozen.sums, &frozen.hashes);
    shared.in_tree(|tree| tree.complete(frozen.log_next, sums, hashes))?;
    // From here on its records are dropped when the room is wanted.
    shared.table.complete();
    *shared.frozen() = None;
    tracing::debug!(
        frozen = frozen.volume.entries,
        carried,
        log_bytes = frozen.log_bytes,
        took_ms = began.elapsed().as_millis() as u64,
        "checkpoint done"
    );
    shared
        .checkpoint_times
        .note(began.elapsed(), processor_time());
    shared.signals().completed += 1;
    shared.changed.notify_all();
    Ok(true)
}

/// How much processor time this thread has had.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Other systems have no such clock.
#[cfg(not(target_os = "linux"))]
fn processor_time() -> Duration {
    Duration::ZERO
}

/// About how many bytes the tree grows by with these: each may have its block written anew.
fn bytes_of(batch: &[Entry]) -> usize {
    let bytes: usize = batch.iter().map(|it| it.pair.versions().len()).sum();
    bytes + batch.len() * BLOCK_BYTES_AIM
}

/// Parts of these of about as many bytes as are written without looking up.
fn batches(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut bytes = 0;
    entries.chunk_by(move |before, _| {
        bytes += before.pair.versions().len();
        let is_full = bytes >= BATCH_BYTES;
        if is_full {
            bytes = 0;
        }
        !is_full
    })
}

/// Makes everything durable that was applied until now. Writers wait for the disk only if they need it, too.
fn sync_log(shared: &Shared) -> Result<(), StoreError> {
    let pending = {
        let mut log = shared.log();
        log.write_out()?;
        log.begin_sync()
    };
    if let Some(pending) = pending {
        pending.wait()?;
        shared.log().end_sync(&pending)?;
    }
    Ok(())
}

/// Gives way to the requests. False when the store is being closed.
fn pause(shared: &Shared, carried: f64) -> bool {
    let filled = shared.window_used();
    let signals = shared.signals();
    if signals.closing {
        return false;
    }
    if signals.waiting > 0 {
        return true;
    }
    let pause = pace::pause(Progress { carried, filled });
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
