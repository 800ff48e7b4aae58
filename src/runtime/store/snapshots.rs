//! Snapshots of the store while the node serves: one at a time, on a thread of its own, told of as it goes.
//!
//! The thread holds the store only while it reads a page, and rests twice as long as each page took. It ends by itself
//! when the node stops, and nobody waits for it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dynakv_protocol::NodeId;
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::snapshot::SnapshotProgress;
use dynakv_storage::{
    DirectoryFiles, SnapshotError, SnapshotMade, SnapshotPage, Store, StoreError,
    check_snapshot_name, make_snapshot,
};
use tokio_util::sync::CancellationToken;

use super::rebuilding::Rebuilding;
use super::restoring::SnapshotNote;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::data_directory::SNAPSHOTS_DIRECTORY;
use crate::runtime::shared::environment::{StoreThreads, WallClock};

/// How long it rests for each second of work. The new store's own threads go on meanwhile, so that half of a core is
/// the most that a snapshot takes.
const REST_PER_BUSY: u32 = 2;

/// The longest rest after a page: where the disk hung, that was no work.
const REST_MAX: Duration = Duration::from_secs(5);

/// How often it is looked during a rest whether the node stops.
const STOP_LOOK: Duration = Duration::from_millis(20);

/// What snapshots are made with.
pub struct Parts {
    /// The node whose data they have.
    pub node_id: NodeId,
    /// The directory that holds them; none in a simulated world.
    pub directory: Option<PathBuf>,
    /// What is copied. Not held: the store is closed when the node ends.
    pub store: Weak<dyn Store>,
    /// What the node lacks. Not held, for it holds the directory.
    pub rebuilding: Weak<Rebuilding>,
    /// When they were made.
    pub clock: Arc<dyn WallClock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The node stops.
    pub draining: CancellationToken,
}

/// The snapshots of a node.
pub struct Snapshots {
    parts: Parts,
    state: Mutex<State>,
}

struct State {
    progress: SnapshotProgress,
    started: Option<Instant>,
    finished: Option<Instant>,
}

impl Snapshots {
    /// None was asked for yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let state = Mutex::new(State {
            progress: SnapshotProgress::none(parts.node_id.clone()),
            started: None,
            finished: None,
        });
        Arc::new(Self { parts, state })
    }

    /// How far the last one is.
    pub fn progress(&self) -> SnapshotProgress {
        told(&self.state())
    }

    /// Begins one, unless one of this name is under way: then that one is told of. `ring` goes into it, where it is to
    /// keep its place. Waits for nothing.
    ///
    /// # Errors
    /// [`SnapshotError::Name`], [`SnapshotError::Busy`]; [`SnapshotError::Store`] when the system gives no thread. What
    /// comes later is told with the progress.
    pub fn start(
        self: &Arc<Self>,
        name: String,
        note: SnapshotNote,
        ring: Option<Arc<RingDocument>>,
    ) -> Result<SnapshotProgress, SnapshotError> {
        check_snapshot_name(&name)?;
        let directory = self.parts.directory.clone();
        let directory = directory.ok_or(SnapshotError::Stopped)?;
        let mut state = self.state();
        let progress = &state.progress;
        if progress.running {
            return match progress.name == name {
                true => Ok(told(&state)),
                false => Err(SnapshotError::Busy {
                    name: progress.name.clone(),
                }),
            };
        }
        let work = {
            let (me, name, directory) = (self.clone(), name.clone(), directory.clone());
            move || {
                let _ended = Ended(&me);
                me.run(&directory, &name, &note, ring.as_ref());
            }
        };
        let thread = std::thread::Builder::new().name("store-snapshot".to_owned());
        thread.spawn(work).map_err(|source| StoreError::Shortage {
            doing: "start a thread for a snapshot in",
            path: directory,
            source,
        })?;
        state.progress = SnapshotProgress {
            run: state.progress.run + 1,
            running: true,
            name,
            ..SnapshotProgress::none(self.parts.node_id.clone())
        };
        state.started = Some(Instant::now());
        state.finished = None;
        Ok(told(&state))
    }

    fn run(
        &self,
        directory: &Path,
        name: &str,
        note: &SnapshotNote,
        ring: Option<&Arc<RingDocument>>,
    ) {
        // Whoever began it still holds this, until its progress is there to be changed.
        drop(self.state());
        let metrics = &self.parts.metrics.snapshots;
        metrics.keys_copied.set(0.0);
        let note = SnapshotNote {
            begun_unix_ms: self.parts.clock.unix_ms(),
            ..note.clone()
        };
        let seal = |files: &DirectoryFiles| {
            // What was lost meanwhile may be missing in what was copied since.
            self.check_whole()?;
            Ok(note.save(files, ring)?)
        };
        let made = self.check_whole().and_then(|()| {
            let watch = &mut |page| self.on_page(page);
            make_snapshot(&self.parts.store, (directory, name), seal, watch)
        });
        match &made {
            Ok(made) => {
                metrics.made.increment(1);
                let seconds = self.parts.clock.unix_ms() / 1000;
                metrics.last_unix_seconds.set(seconds as f64);
                let path = made.path.display();
                tracing::info!(%path, keys = made.keys, bytes = made.bytes, "a snapshot is made");
            }
            Err(error) => {
                metrics.failed.increment(1);
                tracing::warn!(name, %error, "no snapshot is made");
            }
        }
        self.end(made);
    }

    fn end(&self, made: Result<SnapshotMade, SnapshotError>) {
        let mut state = self.state();
        match made {
            Ok(made) => {
                state.progress.path = made.path.display().to_string();
                state.progress.bytes = made.bytes;
                state.progress.keys_done = made.keys;
                state.progress.keys_total = made.keys;
            }
            Err(error) => state.progress.error = error.to_string(),
        }
        state.progress.running = false;
        state.finished = Some(Instant::now());
    }

    /// A node that lacks data would make a snapshot that lacks them.
    fn check_whole(&self) -> Result<(), SnapshotError> {
        let rebuilding = self.parts.rebuilding.upgrade();
        let rebuilding = rebuilding.ok_or(SnapshotError::Stopped)?;
        match rebuilding.left() {
            0 => Ok(()),
            segments => Err(SnapshotError::Rebuilding { segments }),
        }
    }

    /// Tells of a page, and rests.
    fn on_page(&self, page: SnapshotPage) -> ControlFlow<()> {
        self.parts
            .metrics
            .snapshots
            .keys_copied
            .set(page.keys_done as f64);
        let mut state = self.state();
        state.progress.keys_done = page.keys_done;
        state.progress.keys_total = page.keys_total;
        drop(state);
        let until = Instant::now() + (page.busy * REST_PER_BUSY).min(REST_MAX);
        loop {
            if self.parts.draining.is_cancelled() {
                return ControlFlow::Break(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return ControlFlow::Continue(());
            }
            sleep(left.min(STOP_LOOK));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole between any two operations.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where snapshots are made: nowhere in a world that has no disk. From the root on, because operators are told of it
/// elsewhere than where the node runs.
pub fn directory_of(data_dir: &Path, threads: &StoreThreads) -> Option<PathBuf> {
    match threads {
        StoreThreads::Own => {
            let directory = data_dir.join(SNAPSHOTS_DIRECTORY);
            Some(absolute(&directory).unwrap_or(directory))
        }
        StoreThreads::Simulated { .. } => None,
    }
}

/// Sees to it that the next one can begin, whatever becomes of the thread.
struct Ended<'a>(&'a Snapshots);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if state.progress.running {
            state.progress.running = false;
            state.progress.error =
                "it ended without a word, which is a defect: see the log of the node".to_owned();
            state.finished = Some(Instant::now());
        }
    }
}

fn told(state: &State) -> SnapshotProgress {
    let age_ms = |since: Instant| since.elapsed().as_millis() as u64;
    SnapshotProgress {
        started_age_ms: state.started.map(age_ms),
        finished_age_ms: state.finished.map(age_ms),
        ..state.progress.clone()
    }
}

#[cfg(test)]
mod tests;
