//! Keeps hints: one thread that writes them to their log, syncs once for all that wait, and tells what is
//! owed to whom.
//!
//! It mints too, for sloppy writes that no owner could be reached for. What it mints lies nowhere but in
//! its hint, so its actor is one of its own, new after every start and after any hint was given up: an
//! actor must never mint where an earlier write of it is missing (rule of the actors in DESIGN.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{ErrorCode, ErrorReply, NodeId};
use dynakv_storage::{AppendFile, Change, HintLog, Store, StoreError};
use tokio::sync::{mpsc, watch};

use super::environment::{Disk, StoreThreads, WallClock};
use super::metrics::Metrics;
use super::store_worker::{StoreEvent, Token, refusal};
use crate::engine::answer::sealed;
use crate::engine::handoff::{AtBound, Confirmed, Hint, HintBook, admit, confirm};
use crate::engine::mint::Minter;

mod jobs;

pub use self::jobs::{Confirmation, Due, HintJob, Owed};

/// The most jobs that share one sync.
const JOBS_PER_SYNC_MAX: usize = 4096;

/// How many reminders may wait for the worker; more are dropped, and anti-entropy takes over.
const REMINDERS_WAITING_MAX: usize = 65_536;

/// Every how many ticks all hints are looked over for their age.
const LOOKS_EVERY_TICKS: u32 = 10;

/// About what a hint takes besides its versions, in bytes: for the bound.
const HINT_OVERHEAD_BYTES: usize = 64;

/// What bounds hints.
#[derive(Debug, Clone, Copy)]
pub struct HintBounds {
    /// How many bytes of hints are kept.
    pub bytes_max: u64,
    /// How old a hint may become that counts for nothing.
    pub age_max: Duration,
}

/// Hands jobs to the worker. Dropping all of them ends it once all jobs are done.
#[derive(Debug, Clone)]
pub struct HintHandle {
    jobs: mpsc::UnboundedSender<Vec<HintJob>>,
    reminders_waiting: Arc<AtomicUsize>,
    kept: Arc<AtomicU64>,
    owed: watch::Receiver<Vec<Owed>>,
}

// The queue is unbounded because what waits in it is bounded: requests by the coordinator's bounds,
// reminders by their count, and the handoff task has a few questions under way.

impl HintHandle {
    /// Hands over jobs that somebody waits for.
    pub fn send(&self, jobs: Vec<HintJob>) {
        // A worker that is gone has reported why.
        let _ = self.jobs.send(jobs);
    }

    /// Hands over reminders. Gives back how many were dropped because too many wait.
    pub fn remind(&self, reminders: Vec<(Bytes, NodeId)>) -> usize {
        let waiting = self.reminders_waiting.load(Ordering::Relaxed);
        let room = REMINDERS_WAITING_MAX.saturating_sub(waiting);
        let dropped = reminders.len().saturating_sub(room);
        let taken: Vec<_> = reminders.into_iter().take(room).collect();
        if !taken.is_empty() {
            self.reminders_waiting
                .fetch_add(taken.len(), Ordering::Relaxed);
            let _ = self.jobs.send(vec![HintJob::Remind { reminders: taken }]);
        }
        dropped
    }

    /// How many keys are kept for others.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// To whom anything is owed, as of the last sync or so.
    pub fn owed(&self) -> Vec<Owed> {
        self.owed.borrow().clone()
    }
}

/// What the worker is given.
pub struct Parts {
    /// Where hints lie, and how its work is done.
    pub disk: Disk,
    /// Mints for writes that no owner could be reached for.
    pub minter: Minter,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub bounds: HintBounds,
    /// Where news for the coordinator goes.
    pub events: mpsc::UnboundedSender<Vec<StoreEvent>>,
}

/// Reads the hints that are there and starts the worker.
///
/// # Errors
/// What the disk says, or that the system gives no more threads. Damage is no error: what can be read is
/// kept, the rest is counted.
pub fn start(parts: Parts) -> Result<HintHandle, StoreError> {
    let Parts {
        disk,
        minter,
        clock,
        metrics,
        bounds,
        events,
    } = parts;
    let (log, book) = open(disk.hints.clone(), &metrics)?;
    let (jobs, waiting) = mpsc::unbounded_channel();
    let (owed_out, owed) = watch::channel(Vec::new());
    let reminders_waiting = Arc::new(AtomicUsize::new(0));
    let kept = Arc::new(AtomicU64::new(0));
    let mut worker = Worker {
        log,
        book,
        store: disk.store.clone(),
        minter,
        gave_up_any: false,
        clock,
        metrics,
        bounds,
        events,
        written: Vec::new(),
        failed: None,
        ticks: 0,
        reminders_waiting: reminders_waiting.clone(),
        kept: kept.clone(),
        owed: owed_out,
    };
    worker.publish();
    match disk.threads {
        StoreThreads::Own => {
            let thread = std::thread::Builder::new().name("hint-writer".to_owned());
            let thread = thread.spawn(move || worker.run(waiting));
            thread.map_err(|source| StoreError::Io {
                doing: "starting the thread that keeps hints",
                path: disk.hints.path(),
                source,
            })?;
        }
        StoreThreads::Simulated { sync_us } => {
            tokio::spawn(worker.run_simulated(waiting, Duration::from_micros(sync_us)));
        }
    }
    Ok(HintHandle {
        jobs,
        reminders_waiting,
        kept,
        owed,
    })
}

/// Reads the hints that are there.
fn open(file: Arc<dyn AppendFile>, metrics: &Metrics) -> Result<(HintLog, HintBook), StoreError> {
    let (mut log, opened) = HintLog::open(file)?;
    if opened.damaged > 0 {
        tracing::error!(
            places = opened.damaged,
            "hints are damaged: what they held for other nodes is lost here; anti-entropy brings the rest"
        );
        metrics.hints.damaged.increment(opened.damaged);
        log.forget_damage()?;
    }
    let book = read_book(&mut log)?;
    if !book.is_empty() {
        tracing::info!(
            keys = book.len(),
            counted = book.counted(),
            "hints for other nodes are kept here"
        );
    }
    Ok((log, book))
}

/// What the log holds, as a book.
fn read_book(log: &mut HintLog) -> Result<HintBook, StoreError> {
    let mut book = HintBook::default();
    let mut unreadable = Vec::new();
    log.for_each(|key, document| {
        let hint = document
            .map_err(|error| error.to_string())
            .and_then(|document| Hint::from_bytes(&document).map_err(|error| error.to_string()));
        match hint {
            Ok(hint) => {
                book.put(key.clone(), &hint);
            }
            Err(error) => unreadable.push((key.clone(), error)),
        }
        Ok(())
    })?;
    for (key, error) in unreadable {
        tracing::error!(key = %key.escape_ascii(), error, "a hint that can't be read is given up");
        log.remove(&key)?;
    }
    Ok(book)
}

struct Worker {
    log: HintLog,
    book: HintBook,
    /// Knows how much room the disk has.
    store: Arc<dyn Store>,
    minter: Minter,
    /// Whether a hint was given up since the actor last minted.
    gave_up_any: bool,
    clock: Arc<dyn WallClock>,
    metrics: Arc<Metrics>,
    bounds: HintBounds,
    events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    /// Who waits for the next sync.
    written: Vec<Token>,
    /// Why the disk takes nothing more.
    failed: Option<StoreError>,
    ticks: u32,
    reminders_waiting: Arc<AtomicUsize>,
    kept: Arc<AtomicU64>,
    owed: watch::Sender<Vec<Owed>>,
}

impl Worker {
    fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Vec<HintJob>>) {
        while let Some(first) = jobs.blocking_recv() {
            let must_sync = self.apply_waiting(first, &mut jobs);
            if !self.settle(must_sync) {
                return;
            }
        }
        self.settle(true);
    }

    async fn run_simulated(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Vec<HintJob>>,
        sync_takes: Duration,
    ) {
        while let Some(first) = jobs.recv().await {
            let must_sync = self.apply_waiting(first, &mut jobs);
            if must_sync && self.log.needs_sync() {
                tokio::time::sleep(sync_takes).await;
            }
            if !self.settle(must_sync) {
                return;
            }
        }
        self.settle(true);
    }

    /// Applies the first list and those that wait behind it. Whether somebody waits for a sync.
    fn apply_waiting(
        &mut self,
        first: Vec<HintJob>,
        jobs: &mut mpsc::UnboundedReceiver<Vec<HintJob>>,
    ) -> bool {
        let now_unix_ms = self.clock.unix_ms();
        let mut must_sync = false;
        let mut next = Some(first);
        while let Some(list) = next {
            for job in list {
                must_sync |= self.apply(job, now_unix_ms);
            }
            let full = self.failed.is_some() || self.written.len() >= JOBS_PER_SYNC_MAX;
            next = if full { None } else { jobs.try_recv().ok() };
        }
        must_sync
    }

    /// Applies one job. Whether a sync is due for it.
    fn apply(&mut self, job: HintJob, now_unix_ms: u64) -> bool {
        match job {
            HintJob::Keep { token, key, hint } => {
                let result = self.keep(&key, *hint).map(|_| ());
                self.answer_later(token, result)
            }
            HintJob::Mint {
                token,
                key,
                intent,
                owed,
                needed,
                cluster_id,
            } => {
                let hint = Hint {
                    versions: None,
                    owed,
                    needed,
                    kept_at_ms: now_unix_ms,
                };
                let minted = self.mint(&key, *intent, hint, now_unix_ms);
                let result = minted.map(|versions| {
                    self.send(vec![StoreEvent::Minted {
                        token,
                        versions: versions.to_bytes(),
                        context: sealed(cluster_id, &key, &versions),
                    }]);
                });
                self.answer_later(token, result)
            }
            HintJob::Remind { reminders } => {
                self.reminders_waiting
                    .fetch_sub(reminders.len(), Ordering::Relaxed);
                for (key, owner) in reminders {
                    let hint = Hint::reminder([owner], now_unix_ms);
                    if self.keep(&key, hint).is_err() {
                        self.metrics.hints.dropped_at_bound.increment(1);
                    }
                }
                // They may be lost: nobody counts on them.
                false
            }
            HintJob::Next {
                node,
                after,
                keys_max,
                reply,
            } => {
                let due = self.next(&node, after.as_ref(), keys_max);
                let _ = reply.send(due);
                false
            }
            HintJob::Confirm { by, confirmations } => {
                for confirmation in confirmations {
                    self.confirm(&by, &confirmation);
                }
                // A hint that comes back after a crash is handed over twice, which does no harm.
                false
            }
            HintJob::Tick => {
                // Looks at all hints, so not each time.
                if self.ticks.is_multiple_of(LOOKS_EVERY_TICKS) {
                    self.look_over(now_unix_ms);
                }
                self.ticks = self.ticks.wrapping_add(1);
                self.report();
                true
            }
        }
    }

    fn answer_later(&mut self, token: Token, result: Result<(), ErrorReply>) -> bool {
        match result {
            Ok(()) => {
                self.written.push(token);
                true
            }
            Err(error) => {
                self.send(vec![StoreEvent::Refused { token, error }]);
                false
            }
        }
    }

    /// Adds to what is kept of a key; gives what is kept now.
    fn keep(&mut self, key: &Bytes, hint: Hint) -> Result<Hint, ErrorReply> {
        let counts = hint.counts();
        let kept = match self.stored(key)? {
            Some(mut kept) => {
                let before = kept.clone();
                kept.absorb(hint);
                if kept.versions == before.versions
                    && kept.owed == before.owed
                    && kept.needed == before.needed
                {
                    return Ok(before);
                }
                kept
            }
            None => hint,
        };
        let document = kept.to_bytes();
        // One of its own: a slice would hold on to the buffer that its request came in.
        let key = &Bytes::copy_from_slice(key);
        let bytes = (key.len() + document.len() + HINT_OVERHEAD_BYTES) as u64;
        match admit(counts, bytes, self.log.live_bytes(), self.bounds.bytes_max) {
            Ok(()) => {}
            Err(AtBound::Dropped | AtBound::Refused) => {
                let message = "this node keeps as many hints for other nodes as it may \
                               (hints_bytes_max); try another node, or write without --sloppy";
                return Err(ErrorReply::new(ErrorCode::Overloaded, message).retryable());
            }
        }
        if let Err(error) = self.store.admit(document.len(), Change::Growth) {
            self.metrics.refused_for_disk.increment(1);
            return Err(refusal(&error));
        }
        self.write(key, &document)?;
        self.book.put(key.clone(), &kept);
        match counts {
            true => self.metrics.hints.kept_counted.increment(1),
            false => self.metrics.hints.kept_reminders.increment(1),
        }
        Ok(kept)
    }

    fn write(&mut self, key: &Bytes, document: &[u8]) -> Result<(), ErrorReply> {
        match self.log.put(key.clone(), document) {
            Ok(()) => Ok(()),
            Err(error) => {
                let refusal = refusal(&error).maybe_applied(!error.is_disk_full());
                self.on_failed(error);
                Err(refusal)
            }
        }
    }

    /// The disk took nothing. Where it is full, what waited is not kept, and whoever waited is told so;
    /// anything else is the end.
    fn on_failed(&mut self, error: StoreError) {
        if !error.is_disk_full() {
            self.failed = Some(error);
            return;
        }
        let refusal = refusal(&error).maybe_applied(true);
        let waiting = std::mem::take(&mut self.written).into_iter();
        let refused = waiting.map(|token| StoreEvent::Refused {
            token,
            error: refusal.clone(),
        });
        self.send(refused.collect());
        // A dot may be gone that others have seen.
        self.gave_up_any = true;
        match read_book(&mut self.log) {
            Ok(book) => self.book = book,
            Err(error) => self.failed = Some(error),
        }
    }

    /// What is kept of a key. Damage is worth as much as nothing: the hint is given up.
    fn stored(&mut self, key: &Bytes) -> Result<Option<Hint>, ErrorReply> {
        let document = match self.log.get(key) {
            Ok(document) => document,
            Err(error) if error.is_corruption() => {
                self.give_up_damaged(key, &error.to_string())?;
                None
            }
            Err(error) => return Err(refusal(&error)),
        };
        match document.map(|document| Hint::from_bytes(&document)) {
            None => Ok(None),
            Some(Ok(hint)) => Ok(Some(hint)),
            Some(Err(error)) => {
                self.give_up_damaged(key, &error.to_string())?;
                Ok(None)
            }
        }
    }

    fn give_up_damaged(&mut self, key: &Bytes, error: &str) -> Result<(), ErrorReply> {
        tracing::error!(key = %key.escape_ascii(), error, "a damaged hint is given up");
        self.metrics.hints.damaged.increment(1);
        self.remove(key)
    }

    fn remove(&mut self, key: &Bytes) -> Result<(), ErrorReply> {
        self.gave_up_any = true;
        self.book.remove(key);
        match self.log.remove(key) {
            Ok(_) => Ok(()),
            Err(error) => {
                let refusal = refusal(&error);
                self.on_failed(error);
                Err(refusal)
            }
        }
    }

    /// A write that no owner could be reached for: it gets its dot here, over what is kept of the key.
    fn mint(
        &mut self,
        key: &Bytes,
        intent: crate::engine::mint::Intent,
        mut hint: Hint,
        now_unix_ms: u64,
    ) -> Result<Versions, ErrorReply> {
        let kept = self.stored(key)?;
        let mut versions = kept.and_then(|hint| hint.versions).unwrap_or_default();
        if std::mem::take(&mut self.gave_up_any) {
            self.minter.renew();
        }
        self.minter.mint(&mut versions, intent, now_unix_ms)?;
        hint.versions = Some(versions);
        let kept = self.keep(key, hint).inspect_err(|_| {
            // The dot is in no hint.
            self.gave_up_any = true;
        })?;
        Ok(kept.versions.unwrap_or_default())
    }

    fn next(&mut self, node: &NodeId, after: Option<&Bytes>, keys_max: usize) -> Vec<Due> {
        let next = self.book.next(node, after, keys_max);
        let mut due = Vec::with_capacity(next.len());
        for (key, revision) in next {
            // One that cannot be read has been given up by this, or is asked for again.
            if let Ok(Some(hint)) = self.stored(&key) {
                due.push(Due {
                    key,
                    revision,
                    versions: hint.versions.map(|versions| versions.to_bytes()),
                });
            }
        }
        due
    }

    fn confirm(&mut self, by: &NodeId, confirmation: &Confirmation) {
        let Confirmation { key, revision } = confirmation;
        if !self.book.is_current(key, *revision) {
            return;
        }
        let Ok(Some(hint)) = self.stored(key) else {
            return;
        };
        match confirm(hint, by) {
            Confirmed::Stale => {}
            Confirmed::Done => {
                self.metrics.hints.handed_over.increment(1);
                // Where the disk is full it is handed over again.
                let _ = self.remove(key);
            }
            Confirmed::Keep(hint) => {
                self.metrics.hints.handed_over.increment(1);
                if self.write(key, &hint.to_bytes()).is_ok() {
                    self.book.put(key.clone(), &hint);
                }
            }
        }
    }

    /// Drops what counts for nothing and is too old: anti-entropy has taken over long ago.
    fn look_over(&mut self, now_unix_ms: u64) {
        let age_max_ms = self.bounds.age_max.as_millis() as u64;
        for key in self
            .book
            .kept_before(now_unix_ms.saturating_sub(age_max_ms))
        {
            self.metrics.hints.dropped_for_age.increment(1);
            if self.remove(&key).is_err() {
                return;
            }
        }
        let oldest = self.book.oldest_kept_at_ms();
        let age_ms = oldest.map_or(0, |kept_at| now_unix_ms.saturating_sub(kept_at));
        self.metrics.hints.oldest_age.set(age_ms as f64 / 1000.0);
    }

    /// Makes everything durable if that is due, and says so. False when the disk failed.
    fn settle(&mut self, must_sync: bool) -> bool {
        if self.failed.is_none()
            && must_sync
            && self.log.needs_sync()
            && let Err(error) = self.log.sync()
        {
            self.on_failed(error);
        }
        if let Some(error) = self.failed.take() {
            self.send(vec![StoreEvent::Failed(Arc::new(error))]);
            return false;
        }
        if must_sync {
            let written = std::mem::take(&mut self.written).into_iter();
            let durable = written.map(|token| StoreEvent::Durable {
                token,
                rebuilding: false,
            });
            self.send(durable.collect());
        }
        self.publish();
        true
    }

    fn publish(&mut self) {
        self.kept.store(self.book.len() as u64, Ordering::Relaxed);
        let owed: Vec<_> = self.book.owed().collect();
        let owed = owed.into_iter().map(|(node, keys)| Owed {
            node: node.clone(),
            keys: keys as u64,
        });
        let owed: Vec<_> = owed.collect();
        self.owed.send_if_modified(|known| {
            let is_news = *known != owed;
            *known = owed;
            is_news
        });
    }

    fn report(&self) {
        let hints = &self.metrics.hints;
        hints.waiting.set(self.book.len() as f64);
        hints.waiting_counted.set(self.book.counted() as f64);
        hints.bytes.set(self.log.live_bytes() as f64);
        hints.bytes_max.set(self.bounds.bytes_max as f64);
        hints.file_bytes.set(self.log.file_bytes() as f64);
    }

    fn send(&self, events: Vec<StoreEvent>) {
        if !events.is_empty() {
            // A coordinator that is gone has no use for them.
            let _ = self.events.send(events);
        }
    }
}

#[cfg(test)]
mod tests;
