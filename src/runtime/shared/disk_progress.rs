//! How far those are that work with the disk, for whoever looks whether it hangs, and what was found.
//!
//! It is shared without a lock: who works counts, and never waits for who looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dynakv_storage::Store;

use crate::engine::hang::LANES;

// All orderings are relaxed: the numbers stand for nothing but themselves, and a look that comes a moment
// late finds the same.

/// Counts what one thread begins and ends: odd while something is under way.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Something begins.
    pub fn begin(&self) {
        let at = self.0.load(Ordering::Relaxed);
        self.0.store(at | 1, Ordering::Relaxed);
    }

    /// What was under way has ended, and the next thing begins at once.
    pub fn step(&self) {
        let at = self.0.load(Ordering::Relaxed);
        self.0.store(at.wrapping_add(2) | 1, Ordering::Relaxed);
    }

    /// Nothing is under way any more.
    pub fn end(&self) {
        let at = self.0.load(Ordering::Relaxed);
        self.0.store((at | 1).wrapping_add(1), Ordering::Relaxed);
    }

    fn look(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What all that works with the disk shares.
pub struct DiskProgress {
    /// The store's writer.
    pub writer: Progress,
    /// The store's reader.
    pub reader: Progress,
    /// The keeper of hints.
    pub hints: Progress,
    store: Arc<dyn Store>,
    hangs: AtomicBool,
}

impl std::fmt::Debug for DiskProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hangs = self.hangs();
        f.debug_struct("DiskProgress")
            .field("hangs", &hangs)
            .finish()
    }
}

impl DiskProgress {
    /// Nothing is under way yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            writer: Progress::default(),
            reader: Progress::default(),
            hints: Progress::default(),
            store,
            hangs: AtomicBool::new(false),
        }
    }

    /// How far each is, in the order of [`Lane`](crate::engine::hang::Lane).
    pub fn look(&self) -> [u64; LANES] {
        [
            self.writer.look(),
            self.reader.look(),
            self.hints.look(),
            self.store.sync_progress(),
        ]
    }

    /// What was found: for those that tell others.
    pub fn note(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Whether the disk hangs, as far as is known: the node is then not usable.
    pub fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }
}

/// What is said to people of a node whose disk hangs.
pub const HANGING: &str = "the disk hangs: a sync or a read has not come back for a second, so this node \
                           takes no writes; see `dmesg` and the disk's own state. It goes on as soon as \
                           the disk answers";
