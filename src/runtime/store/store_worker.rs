//! The store's one writer, its reader, and its scanner.
//!
//! The writer takes all jobs that wait, applies them one after the other (minting included, so that
//! reading, minting and merging are one step per key), hands the minted versions back at once so that
//! replicas work while this disk does, syncs once for all of them, and only then reports them durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::limits::SIBLINGS_WARN;
use dynakv_protocol::{Actor, ErrorReply};
use dynakv_storage::{Footprint, Mutation, Store, StoreError};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use super::rebuilding::Rebuilding;
use crate::engine::write::beside::stands_beside;
use crate::engine::write::lateness;
use crate::engine::write::mint::Minter;
use crate::engine::write::outcome::JobOutcome;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::{Disk, Stall, StoreThreads, WallClock};
use crate::runtime::shared::ledger::Ledger;

mod applied;
mod jobs;
mod limits;
mod minting;
mod reader;
mod replacing;
mod room;
mod scanner;
mod trouble;
mod waiting;

use self::applied::{Applied, Outcome, ToMint, Written};
pub use self::jobs::{Part, ReadJob, Scanned, StoreEvent, Token, WriteJob, WriteWork};
use self::reader::{Reader, SharedLines};
use self::scanner::Scanner;
pub use self::scanner::{Recounter, ScanJob, ScanWork};
pub(crate) use self::trouble::refusal;
use self::trouble::{is_damaged_value, note_damage, received};
use self::waiting::{Waiting, next_waiting, take_back};

/// The most jobs that share one sync: bounds how long the first of them waits.
const JOBS_PER_SYNC_MAX: usize = 8192;

/// The most bytes of values that share one sync.
const BYTES_PER_SYNC_MAX: usize = 16 * 1024 * 1024;

/// Hands jobs to the store. Dropping it ends the writer once all jobs are done.
#[derive(Debug)]
pub struct StoreHandle {
    writes: mpsc::UnboundedSender<Vec<WriteJob>>,
    reads: mpsc::UnboundedSender<Vec<ReadJob>>,
    scans: mpsc::UnboundedSender<ScanJob>,
    actor: Arc<AtomicU64>,
    waiting_writes: Waiting<WriteJob>,
    waiting_reads: Waiting<ReadJob>,
    lines: SharedLines,
}

// The queues of jobs and events hold what the node's books bound: jobs are slices of requests in hand, and no
// more is read than was taken in (`ledger.rs`).

impl StoreHandle {
    /// Hands over writes, all that one turn of the coordinator made.
    pub fn write(&self, jobs: Vec<WriteJob>) {
        // A store that is gone has reported why.
        let _ = self.writes.send(jobs);
    }

    /// Hands over reads.
    pub fn read(&self, jobs: Vec<ReadJob>) {
        let _ = self.reads.send(jobs);
    }

    /// Hands over a scan.
    pub fn scan(&self, job: ScanJob) {
        let _ = self.scans.send(job);
    }

    /// Takes back the writes that the writer has not begun. It never will: nothing of them is or will be
    /// done.
    pub fn take_back_writes(&self) -> Vec<WriteJob> {
        take_back(&self.waiting_writes)
    }

    /// The same of reads.
    pub fn take_back_reads(&self) -> Vec<ReadJob> {
        let mut jobs = self.lines.take_back();
        jobs.append(&mut take_back(&self.waiting_reads));
        jobs
    }

    /// Under which actor the writer mints.
    pub fn actor(&self) -> Actor {
        // It only informs: nothing else hangs on when it is seen.
        Actor(self.actor.load(Ordering::Relaxed))
    }
}

/// What the running store gives back.
#[derive(Debug)]
pub struct Running {
    /// Takes jobs.
    pub handle: StoreHandle,
    /// Counts the store anew.
    pub recounter: Recounter,
    /// Gives what came of them, in lists.
    pub events: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
    /// Where the keeper of hints puts what came of its jobs.
    pub events_in: mpsc::UnboundedSender<Vec<StoreEvent>>,
    /// The minter, once the writer has done its last job and all is durable; nothing if it failed.
    pub finished: oneshot::Receiver<Minter>,
}

/// Starts the writer and the reader.
///
/// # Errors
/// When the system gives no more threads.
pub fn start(
    disk: &Disk,
    minter: Minter,
    clock: Arc<dyn WallClock>,
    (metrics, ledger): (Arc<Metrics>, Arc<Ledger>),
    rebuilding: Arc<Rebuilding>,
    progress: Arc<DiskProgress>,
) -> std::io::Result<Running> {
    let (writes, write_jobs) = mpsc::unbounded_channel();
    let (reads, read_jobs) = mpsc::unbounded_channel();
    let (events_out, events) = mpsc::unbounded_channel();
    let (scans, scan_jobs) = mpsc::unbounded_channel();
    let (write_jobs, read_jobs) = (
        Arc::new(Mutex::new(write_jobs)),
        Arc::new(Mutex::new(read_jobs)),
    );
    let (waiting_writes, waiting_reads) = (write_jobs.clone(), read_jobs.clone());
    let lines = SharedLines::default();
    let (done, finished) = oneshot::channel();
    let actor = Arc::new(AtomicU64::new(minter.position().0.0));
    let scanner = Scanner::new(
        disk.store.clone(),
        rebuilding.clone(),
        events_out.clone(),
        ledger.clone(),
    );
    let writer = Writer {
        store: disk.store.clone(),
        actor: actor.clone(),
        minter,
        clock,
        metrics,
        rebuilding: rebuilding.clone(),
        events: events_out.clone(),
        written: Vec::new(),
        failed: None,
        progress: progress.clone(),
        warned_at: None,
    };
    let reader = Reader {
        store: disk.store.clone(),
        rebuilding,
        events: events_out.clone(),
        progress,
        ledger,
        lines: lines.clone(),
    };
    match &disk.threads {
        StoreThreads::Own => {
            let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
            name("store-writer").spawn(move || writer.run(write_jobs, done))?;
            name("store-reader").spawn(move || reader.run(read_jobs))?;
            name("store-scanner").spawn(move || scanner.run(scan_jobs))?;
        }
        StoreThreads::Simulated { sync_us, stall } => {
            let sync_takes = Duration::from_micros(*sync_us);
            tokio::spawn(writer.run_simulated(write_jobs, done, sync_takes, stall.clone()));
            tokio::spawn(reader.run_simulated(read_jobs));
            tokio::spawn(scanner.run_simulated(scan_jobs));
        }
    }
    Ok(Running {
        recounter: Recounter::new(&scans),
        handle: StoreHandle {
            writes,
            reads,
            scans,
            actor,
            waiting_writes,
            waiting_reads,
            lines,
        },
        events,
        events_in: events_out,
        finished,
    })
}

struct Writer {
    store: Arc<dyn Store>,
    minter: Minter,
    /// The minter's actor, for others to see.
    actor: Arc<AtomicU64>,
    clock: Arc<dyn WallClock>,
    metrics: Arc<Metrics>,
    rebuilding: Arc<Rebuilding>,
    events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    /// Who waits for the next sync, and whether the node has lost versions around that key.
    written: Vec<Written>,
    /// Why the disk takes nothing more.
    failed: Option<StoreError>,
    progress: Arc<DiskProgress>,
    /// When the log last warned of a long clock.
    warned_at: Option<std::time::Instant>,
}

impl Writer {
    fn run(mut self, jobs: Waiting<WriteJob>, done: oneshot::Sender<Minter>) {
        loop {
            let first = jobs.blocking_lock().blocking_recv();
            let Some(first) = first else {
                break;
            };
            self.progress.writer.begin();
            self.apply_waiting(first, &jobs);
            let is_good = self.sync();
            self.progress.writer.end();
            if !is_good {
                return;
            }
        }
        if let Err(error) = self.store.sync_at_end() {
            self.send(vec![StoreEvent::Failed(Arc::new(error))]);
            return;
        }
        // Nobody may be waiting any more; the minter is then of no use.
        let _ = done.send(self.minter);
    }

    async fn run_simulated(
        mut self,
        jobs: Waiting<WriteJob>,
        done: oneshot::Sender<Minter>,
        sync_takes: Duration,
        stall: Stall,
    ) {
        loop {
            let first = jobs.lock().await.recv().await;
            let Some(first) = first else {
                break;
            };
            self.progress.writer.begin();
            self.apply_waiting(first, &jobs);
            tokio::time::sleep(sync_takes).await;
            stall.passes().await;
            let is_good = self.sync();
            self.progress.writer.end();
            if !is_good {
                return;
            }
        }
        let _ = done.send(self.minter);
    }

    /// Applies the first list and those that wait behind it, up to the bounds of one sync.
    fn apply_waiting(&mut self, first: Vec<WriteJob>, jobs: &Waiting<WriteJob>) {
        let now_unix_ms = self.clock.unix_ms();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(list) = next {
            let mut events = Vec::new();
            for job in list {
                bytes += self.apply(job, now_unix_ms, &mut events);
                self.progress.writer.step();
            }
            self.actor
                .store(self.minter.position().0.0, Ordering::Relaxed);
            self.send(events);
            let full = self.failed.is_some()
                || self.written.len() >= JOBS_PER_SYNC_MAX
                || bytes >= BYTES_PER_SYNC_MAX;
            next = if full { None } else { next_waiting(jobs) };
        }
    }

    /// Applies one job and returns how many bytes it wrote.
    fn apply(&mut self, job: WriteJob, now_unix_ms: u64, events: &mut Vec<StoreEvent>) -> usize {
        let token = job.token;
        let applied = match job.work {
            WriteWork::Replace { expected, versions } => {
                self.replace(&job.key, expected, versions).map(Some)
            }
            WriteWork::Mint { .. } | WriteWork::Merge { .. } => {
                self.try_apply(job, now_unix_ms, events)
            }
        };
        match applied {
            // It is told already, and there is nothing to wait for.
            Ok(None) => 0,
            Ok(Some(applied)) => {
                // Also when nothing changed: what is there may still wait for its sync.
                self.written.push(Written {
                    token,
                    rebuilding: applied.rebuilding,
                    beside: applied.beside,
                    refused: applied.refused,
                });
                applied.bytes
            }
            Err(error) => {
                events.push(StoreEvent::Job {
                    token,
                    outcome: JobOutcome::Refused(error),
                });
                0
            }
        }
    }

    /// Applies one job. None when nothing came of it that must become durable.
    fn try_apply(
        &mut self,
        job: WriteJob,
        now_unix_ms: u64,
        events: &mut Vec<StoreEvent>,
    ) -> Result<Option<Applied>, ErrorReply> {
        let WriteJob { token, key, work } = job;
        self.admit(&key, &work)?;
        let was_rebuilding = self.rebuilding.covers(&key);
        let stored = match self.store.get(&key) {
            Ok(stored) => stored,
            Err(error) => self.without_damaged(&key, &error)?,
        };
        let rebuilding = was_rebuilding || self.rebuilding.covers(&key);
        let mut versions = match &stored {
            Some(stored) => {
                Versions::from_bytes(stored).map_err(|error| self.undecodable(&key, &error))?
            }
            None => Versions::new(),
        };
        let before = match &stored {
            Some(stored) => Footprint::of_encoded(&key, &versions, stored),
            None => Footprint::default(),
        };
        let entries_before = versions.clock().len();
        let (mut minted, mut beside, mut refused) = (None, None, None);
        let encoded = match work {
            WriteWork::Mint {
                intent,
                seen,
                catches_up,
                cluster_id,
                begin_by,
            } => {
                // It may have waited for the disk.
                if begin_by.is_some_and(|by| by <= Instant::now()) {
                    return Err(lateness::refusal());
                }
                let write = ToMint {
                    intent,
                    seen,
                    catches_up,
                    cluster_id,
                };
                let (job, at) = ((token, &key), (now_unix_ms, rebuilding));
                match self.mint(job, &mut versions, write, at)? {
                    Outcome::Minted(event) => minted = Some(event),
                    Outcome::Behind(event) => {
                        events.push(event);
                        return Ok(None);
                    }
                    Outcome::Refused(error) => refused = Some(error),
                }
                versions.to_bytes()
            }
            WriteWork::Merge {
                versions: theirs,
                tell_beside,
            } => {
                let received = received(&key, &theirs)?;
                self.minter.heed(received.clock());
                // The usual case is a newer version of the same history: then the bytes are good as
                // they came.
                if replaces(&received, &versions) {
                    beside = tell_beside.then(Bytes::new);
                    versions = received;
                    theirs
                } else {
                    self.look_for_contradiction(&key, &versions, &received);
                    versions.merge(&received);
                    if tell_beside {
                        let is_news = stands_beside(&received, &versions);
                        beside = Some(stored.clone().filter(|_| is_news).unwrap_or_default());
                    }
                    versions.to_bytes()
                }
            }
            // Not a change of what is there, and so not from here.
            WriteWork::Replace { expected, versions } => {
                return self.replace(&key, expected, versions).map(Some);
            }
        };
        let mut applied = Applied {
            bytes: 0,
            rebuilding,
            beside,
            refused,
        };
        if stored.as_ref() == Some(&encoded) {
            events.extend(minted);
            return Ok(Some(applied));
        }
        self.check_limits(&key, &versions, &encoded)?;
        let after = Footprint::of_encoded(&key, &versions, &encoded);
        self.metrics
            .siblings
            .record(versions.standing().count() as f64);
        let (live_before, live) = (before.tally.versions, after.tally.versions);
        if live == SIBLINGS_WARN as u64 && live_before < live {
            tracing::warn!(
                key = %key.escape_ascii(),
                siblings = live,
                "many concurrent values: does some client write with old contexts?"
            );
        }
        applied.bytes = encoded.len();
        let mutation = Mutation {
            key: key.clone(),
            versions: encoded,
            before,
            after,
        };
        if let Err(error) = self.store.apply(std::slice::from_ref(&mutation)) {
            // On a full disk, or in a shortage, it was not applied, and nobody has seen its dot.
            let passes = error.passes();
            let refusal = refusal(&error).maybe_applied(!passes);
            self.failed = (!passes).then_some(error);
            return Err(refusal);
        }
        self.note_stored(&key, entries_before, &versions, applied.bytes);
        events.extend(minted);
        Ok(Some(applied))
    }

    /// One write with two values takes damage that no checksum noticed, or two nodes under one name.
    fn look_for_contradiction(&self, key: &[u8], stored: &Versions, received: &Versions) {
        if let Some(dot) = stored.contradiction(received) {
            self.metrics.store.contradicted_dots.increment(1);
            tracing::error!(
                key = %key.escape_ascii(), actor = %dot.actor, counter = dot.counter,
                "one write has two values: the larger is kept. Damage that no checksum noticed, or \
                 two nodes that write under one name"
            );
        }
    }

    /// What stands for a value that cannot be read: nothing. What is written takes its place; until the
    /// segment is rebuilt, no read counts on it, and a blind write over it has no vote of this node.
    fn without_damaged(
        &mut self,
        key: &[u8],
        error: &StoreError,
    ) -> Result<Option<Bytes>, ErrorReply> {
        if !is_damaged_value(error) {
            return Err(refusal(error));
        }
        note_damage(&self.rebuilding, key, error)?;
        // A dot of the present actor may be among what was lost: the next one under it would cover it.
        self.minter.renew();
        self.rebuilding
            .note_replaced(key)
            .map_err(|error| refusal(&error))?;
        Ok(None)
    }

    /// Makes everything applied durable and says so. False when the disk failed.
    fn sync(&mut self) -> bool {
        if let Some(error) = self.failed.take() {
            self.send(vec![StoreEvent::Failed(Arc::new(error))]);
            return false;
        }
        if self.written.is_empty() {
            return true;
        }
        self.metrics
            .writes_per_sync
            .record(self.written.len() as f64);
        let begun = std::time::Instant::now();
        let result = self.store.sync();
        self.metrics
            .fsync_seconds
            .record(begun.elapsed().as_secs_f64());
        match result {
            Ok(()) => {
                let events = self.written.drain(..).map(Written::durable).collect();
                self.send(events);
                true
            }
            // It is all still there, and durable once there is room and something more is written.
            Err(error) if error.passes() => {
                let error = refusal(&error).maybe_applied(true);
                let refused = |written: Written| StoreEvent::Job {
                    token: written.token,
                    outcome: JobOutcome::Refused(error.clone()),
                };
                let events = self.written.drain(..).map(refused).collect();
                self.send(events);
                true
            }
            Err(error) => {
                self.send(vec![StoreEvent::Failed(Arc::new(error))]);
                false
            }
        }
    }

    fn send(&self, events: Vec<StoreEvent>) {
        if !events.is_empty() {
            // A coordinator that is gone has no use for them.
            let _ = self.events.send(events);
        }
    }
}

/// Whether merging gives just what was received: it has seen all that is here, and each of its values
/// is news.
fn replaces(received: &Versions, stored: &Versions) -> bool {
    let is_news = |dot| !stored.clock().covers(dot);
    received.clock().dominates(stored.clock())
        && received
            .siblings()
            .iter()
            .all(|sibling| is_news(sibling.dot))
}

#[cfg(test)]
mod tests;
