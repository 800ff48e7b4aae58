//! The store's one writer, its reader, and its scanner.
//!
//! The writer takes all jobs that wait, applies them one after the other (minting included, so that
//! reading, minting and merging are one step per key), hands the minted versions back at once so that
//! replicas work while this disk does, syncs once for all of them, and only then reports them durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynakv_protocol::{Actor, RingVersion};
use dynakv_storage::{Store, StoreError};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::rebuilding::Rebuilding;
use crate::engine::anti_entropy::rebuilding::SegmentSet;
use crate::engine::write::mint::Minter;
use crate::engine::write::outcome::JobOutcome;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::{Disk, Stall, StoreThreads, WallClock};
use crate::runtime::shared::ledger::Ledger;

mod applying;
mod dropper;
mod dropping;
mod fence;
mod hot;
mod jobs;
mod limits;
mod reader;
mod room;
mod scanner;
mod trouble;
mod waiting;

pub use self::dropper::{Dropper, held};
pub use self::fence::{Fence, stale};
use self::hot::{HotReads, touch};
pub use self::jobs::{Dropped, Part, ReadJob, Scanned, StoreEvent, Token, WriteJob, WriteWork};
use self::jobs::{Queued, WaitingDrop};
use self::reader::{Reader, SharedLines};
use self::scanner::Scanner;
pub use self::scanner::{Recounter, ScanJob, ScanWork};
pub(crate) use self::trouble::refusal;
use self::waiting::{Waiting, next_waiting, take_back};

/// The most jobs that share one sync: bounds how long the first of them waits.
const JOBS_PER_SYNC_MAX: usize = 8192;

/// The most bytes of values that share one sync.
const BYTES_PER_SYNC_MAX: usize = 16 * 1024 * 1024;

/// Hands jobs to the store. Dropping it ends the writer once all jobs are done.
#[derive(Debug)]
pub struct StoreHandle {
    writes: mpsc::UnboundedSender<Queued>,
    reads: mpsc::UnboundedSender<Vec<ReadJob>>,
    scans: mpsc::UnboundedSender<ScanJob>,
    actor: Arc<AtomicU64>,
    waiting_writes: Waiting<Queued>,
    waiting_reads: Waiting<Vec<ReadJob>>,
    lines: SharedLines,
    hot: HotReads,
}

/// Moves the fence of a store; see [`Fence`].
#[derive(Debug, Clone)]
pub struct FenceMover {
    fence: Fence,
    /// The writer ends with whoever gives it work, and does not wait for this.
    writes: mpsc::WeakUnboundedSender<Queued>,
}

impl FenceMover {
    /// The store follows this ring, before anything is asked of it.
    pub fn begin_at(&self, version: RingVersion) {
        self.fence.raise(version);
    }

    /// Has the store follow this ring, and gives what tells when it does: once what was asked for before is done.
    pub fn move_to(&self, version: RingVersion) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        if let Some(writes) = self.writes.upgrade() {
            // A store that is gone has reported why.
            let _ = writes.send(Queued::Fence { version, done });
        }
        is_done
    }
}

// The queues of jobs and events hold what the node's books bound: jobs are slices of requests in hand, and no
// more is read than was taken in (`ledger.rs`).

impl StoreHandle {
    /// Hands over writes, all that one turn of the coordinator made.
    pub fn write(&self, jobs: Vec<WriteJob>) {
        // A store that is gone has reported why.
        let _ = self.writes.send(Queued::Work(jobs));
    }

    /// What comes of a read at once; gives the job back where it takes the reader.
    ///
    /// # Errors
    /// The job.
    pub fn read_hot(&self, job: ReadJob) -> Result<StoreEvent, ReadJob> {
        self.hot.read(job)
    }

    /// These are read next, by [`read_hot`](Self::read_hot). How many of them, in their order, are ready for that: there
    /// is one at least where there is any.
    pub fn touch(&self, jobs: &[ReadJob]) -> usize {
        self.hot.touch(jobs)
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
    /// done. The fence stays, for when the disk answers again.
    pub fn take_back_writes(&self) -> Vec<WriteJob> {
        let (mut jobs, mut fences) = (Vec::new(), Vec::new());
        for queued in take_back(&self.waiting_writes) {
            match queued {
                Queued::Work(mut list) => jobs.append(&mut list),
                fence @ Queued::Fence { .. } => fences.push(fence),
                // Who waits for it hears that it was not done, and asks again.
                Queued::Drop(_) => {}
            }
        }
        for fence in fences {
            let _ = self.writes.send(fence);
        }
        jobs
    }

    /// The same of reads.
    pub fn take_back_reads(&self) -> Vec<ReadJob> {
        let mut jobs = self.lines.take_back();
        jobs.extend(take_back(&self.waiting_reads).flatten());
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
    /// Removes what was owned once.
    pub dropper: Dropper,
    /// Gives what came of them, in lists.
    pub events: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
    /// Where the keeper of hints puts what came of its jobs.
    pub events_in: mpsc::UnboundedSender<Vec<StoreEvent>>,
    /// Has the store follow another ring.
    pub fences: FenceMover,
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
    let fence = Fence::default();
    let scanner = Scanner::new(
        disk.store.clone(),
        rebuilding.clone(),
        events_out.clone(),
        ledger.clone(),
        fence.clone(),
    );
    let writer = Writer {
        store: disk.store.clone(),
        actor: actor.clone(),
        fence: fence.clone(),
        minted_in: minted_before(&minter),
        minter,
        clock,
        metrics,
        given_up: rebuilding.given_up(),
        rebuilding: rebuilding.clone(),
        events: events_out.clone(),
        written: Vec::new(),
        dropped: Vec::new(),
        failed: None,
        progress: progress.clone(),
        warned_at: None,
    };
    let hot = HotReads {
        store: disk.store.clone(),
        rebuilding: rebuilding.clone(),
        fence: fence.clone(),
    };
    let reader = Reader {
        store: disk.store.clone(),
        rebuilding,
        events: events_out.clone(),
        progress,
        ledger,
        lines: lines.clone(),
        fence: fence.clone(),
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
        dropper: Dropper::new(disk.store.clone(), &writes),
        fences: FenceMover {
            fence,
            writes: writes.downgrade(),
        },
        handle: StoreHandle {
            writes,
            reads,
            scans,
            actor,
            waiting_writes,
            waiting_reads,
            lines,
            hot,
        },
        events,
        events_in: events_out,
        finished,
    })
}

/// Where the actor of a minter that begins may have dots.
fn minted_before(minter: &Minter) -> SegmentSet {
    match minter.position().1 {
        0 => SegmentSet::default(),
        // Those of an earlier run, anywhere.
        _ => SegmentSet::all(),
    }
}

/// A job that is applied and waits for the sync that it shares with others.
struct Written {
    token: Token,
    /// What is told of it then.
    outcome: JobOutcome,
}

struct Writer {
    store: Arc<dyn Store>,
    fence: Fence,
    minter: Minter,
    /// Where there are dots of the minter's actor, and perhaps where there are none.
    minted_in: SegmentSet,
    /// The minter's actor, for others to see.
    actor: Arc<AtomicU64>,
    clock: Arc<dyn WallClock>,
    metrics: Arc<Metrics>,
    rebuilding: Arc<Rebuilding>,
    /// How often something lost had been given up when the minter's actor was sure of its past.
    given_up: u64,
    events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    /// Who waits for the next sync.
    written: Vec<Written>,
    /// The same, of those who have something removed.
    dropped: Vec<WaitingDrop>,
    /// Why the disk takes nothing more.
    failed: Option<StoreError>,
    progress: Arc<DiskProgress>,
    /// When the log last warned of a long clock.
    warned_at: Option<std::time::Instant>,
}

impl Writer {
    fn run(mut self, jobs: Waiting<Queued>, done: oneshot::Sender<Minter>) {
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
        jobs: Waiting<Queued>,
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

    /// Does the first of what waits and what waits behind it, up to the bounds of one sync.
    fn apply_waiting(&mut self, first: Queued, jobs: &Waiting<Queued>) {
        let now_unix_ms = self.clock.unix_ms();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(queued) = next {
            match queued {
                Queued::Work(list) => bytes += self.apply_list(list, now_unix_ms),
                Queued::Fence { version, done } => {
                    self.fence.raise(version);
                    self.progress.writer.step();
                    // Who does not wait any more looks at the fence.
                    let _ = done.send(());
                }
                Queued::Drop(job) => {
                    bytes += self.drop_keys(job);
                    self.progress.writer.step();
                }
            }
            let full = self.failed.is_some()
                || self.written.len() >= JOBS_PER_SYNC_MAX
                || bytes >= BYTES_PER_SYNC_MAX;
            next = if full { None } else { next_waiting(jobs) };
        }
    }

    /// Applies jobs, one after the other. How many bytes they wrote.
    fn apply_list(&mut self, list: Vec<WriteJob>, now_unix_ms: u64) -> usize {
        let (mut bytes, mut events) = (0, Vec::new());
        let mut list = list.into_iter();
        loop {
            let touched = touch(&*self.store, list.as_slice().iter().map(|job| &job.key));
            if touched == 0 {
                break;
            }
            for job in list.by_ref().take(touched) {
                bytes += self.apply(job, now_unix_ms, &mut events);
                self.progress.writer.step();
            }
        }
        self.show_actor();
        self.send(events);
        bytes
    }

    fn show_actor(&self) {
        let actor = self.minter.position().0.0;
        self.actor.store(actor, Ordering::Relaxed);
    }

    /// Makes everything applied durable and says so. False when the disk failed.
    fn sync(&mut self) -> bool {
        if let Some(error) = self.failed.take() {
            self.send(vec![StoreEvent::Failed(Arc::new(error))]);
            return false;
        }
        if self.written.is_empty() && self.dropped.is_empty() {
            return true;
        }
        if !self.written.is_empty() {
            let writes = self.written.len() as f64;
            self.metrics.writes_per_sync.record(writes);
        }
        let begun = std::time::Instant::now();
        let result = self.store.sync();
        self.metrics
            .fsync_seconds
            .record(begun.elapsed().as_secs_f64());
        match result {
            Ok(()) => {
                let durable = |written: Written| StoreEvent::Job {
                    token: written.token,
                    outcome: written.outcome,
                };
                let events = self.written.drain(..).map(durable).collect();
                self.send(events);
                self.dropped.drain(..).for_each(|it| it.tell(Ok(())));
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
                let dropped = self.dropped.drain(..);
                dropped.for_each(|it| it.tell(Err(error.clone())));
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

#[cfg(test)]
mod tests;
