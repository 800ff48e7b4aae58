//! Giving room back to the disk.
//!
//! sled uses the room of what was replaced or removed again, and never makes its file smaller. So what is live is copied
//! into a second tree beside the first one, a few segments at a time between checkpoints. What a checkpoint carries goes
//! into both as far as the copy is. When it is whole the two directories exchange their names, in one step of the file
//! system: whenever this is cut short, a whole tree lies in the tree's place, and what lies beside it is of no use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dynakv_protocol::hash::{SEGMENTS, Segment};

use super::layout::TREE_DIRECTORY;
use super::options::Compaction;
use super::shared::Shared;
use crate::directory::{OpenDirectory, exchange, list, sync_directory, sync_path};
use crate::error::StoreError;
use crate::table::Entry;
use crate::tree::{SEGMENT_BYTES, Scratch, Tree, wait_until_closed};

/// Where the second tree lies, and after the exchange what is left of the first one.
const BESIDE: &str = "sled.compacting";

/// It is worth it when the tree takes so many times what its copy would take.
const WORTH: u64 = 3;

/// And so many bytes more.
const WORTH_BYTES: u64 = 64 * 1024 * 1024;

/// The same on a disk that is nearly full, in bytes.
const WORTH_BYTES_SHORT: u64 = 4 * SEGMENT_BYTES as u64;

/// What a tree of sled's takes at least, in bytes.
const LEAST_BYTES: u64 = 2 * SEGMENT_BYTES as u64;

/// How many segments are looked at to tell how large the copy is.
const LOOKS: u16 = 256;

/// How much is copied at a time.
const STEP_BYTES: u64 = 512 * 1024;

/// How long it rests after that.
const STEP_REST: Duration = Duration::from_millis(4);

/// How often it is looked whether there is reason to begin.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// And at most, where one checkpoint follows the other.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// On a disk that is nearly full no more than this is left to be carried when a copy begins, in bytes.
const UNCARRIED_BYTES_MAX: u64 = 1024 * 1024;

/// How often it is looked at closely that is not worth it.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// How often what is in memory is carried for that.
const FREEZE_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait after one that came to nothing; doubles up to the other.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);

/// Removes what an earlier process left beside the tree.
///
/// # Errors
/// What the disk says.
pub(super) fn remove_leftovers(directory: &Path) -> Result<(), StoreError> {
    let beside = directory.join(BESIDE);
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", &beside)(error))
        }
        _ => Ok(()),
    }
}

/// The compaction of one store: under way, or yet to come. Only the thread of checkpoints has it.
pub(super) struct Compacting {
    current: Option<Copying>,
    look_at: Instant,
    retry: Duration,
    /// When what was in memory was last carried for it.
    froze_at: Option<Instant>,
    /// The file system cannot exchange two names.
    is_impossible: bool,
    /// What is of no use lies beside the tree.
    has_leftover: bool,
}

/// A copy that is being made.
struct Copying {
    tree: Tree,
    directory: PathBuf,
    /// That of the store, held open for the exchange.
    entries: OpenDirectory,
    /// How often a loss had been forgiven when it began.
    forgave: u64,
    /// How many segments it has.
    segments: u32,
    /// How many bytes they had.
    bytes: u64,
    /// How many bytes all have, by a look at some.
    bytes_expected: u64,
    began: Instant,
    /// The disk was nearly full when it began.
    is_short: bool,
    scratch: Scratch,
}

impl Default for Compacting {
    fn default() -> Self {
        Self {
            current: None,
            look_at: Instant::now(),
            retry: RETRY,
            froze_at: None,
            is_impossible: false,
            has_leftover: false,
        }
    }
}

impl Compacting {
    /// How long the thread may wait for something else to do.
    pub(super) fn rest(&self) -> Duration {
        match &self.current {
            Some(copying) if copying.is_short => Duration::ZERO,
            // Half of a core at most: a step takes about as long.
            Some(_) => STEP_REST,
            None => LOOK_INTERVAL,
        }
    }

    /// Goes on, begins, or ends, while no checkpoint is under way. What fails costs the copy and nothing else.
    ///
    /// # Errors
    /// Only what ends the store: a sync that failed.
    pub(super) fn go_on(&mut self, shared: &Shared) -> Result<(), StoreError> {
        shared.note_uncarried();
        self.give_up_if_forgiven(shared);
        let result = match &mut self.current {
            None => self.begin_if_worth(shared),
            Some(copying) if !copying.is_whole() => copying.step(shared),
            Some(_) => self.finish(shared),
        };
        self.outcome(shared, result)
    }

    /// Copies on between two parts of a checkpoint.
    ///
    /// # Errors
    /// As [`go_on`](Self::go_on).
    pub(super) fn step(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let result = match &mut self.current {
            Some(copying) if !copying.is_whole() => copying.step(shared),
            _ => Ok(()),
        };
        self.outcome(shared, result)
    }

    /// The same entries that were written into the tree.
    ///
    /// # Errors
    /// As [`go_on`](Self::go_on).
    pub(super) fn write(&mut self, shared: &Shared, entries: &[Entry]) -> Result<(), StoreError> {
        self.give_up_if_forgiven(shared);
        let Some(copying) = &mut self.current else {
            return Ok(());
        };
        let segments = copying.segments;
        let copied = |entry: &Entry| u32::from(entry.position.segment().0) < segments;
        let here = &entries[..entries.partition_point(copied)];
        let result = match here.is_empty() {
            true => Ok(()),
            false => copying.tree.write(here, &mut copying.scratch),
        };
        self.outcome(shared, result)
    }

    /// A loss that was forgiven since stands in the copy as if it had not been.
    fn give_up_if_forgiven(&mut self, shared: &Shared) {
        let forgave = |copying: &Copying| {
            let now = shared.beside_tree(|tree| Ok(tree.forgave().0));
            now.is_ok_and(|now| now != copying.forgave)
        };
        if self.current.as_ref().is_some_and(forgave) {
            self.give_up(shared);
        }
    }

    /// Gives the copy up, and the room that it takes. Whether there was one, or something was left of one.
    pub(super) fn give_up(&mut self, shared: &Shared) -> bool {
        let Some(Copying {
            tree, directory, ..
        }) = self.current.take()
        else {
            return self.remove_leftover(shared);
        };
        self.look_at = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        drop(tree);
        self.has_leftover = !remove_closed(&directory);
        shared.room.note_uncopied(0);
        true
    }

    /// Removes what could not be removed before. Whether it has.
    fn remove_leftover(&mut self, shared: &Shared) -> bool {
        let removed = self.has_leftover && remove_leftovers(&shared.directory).is_ok();
        self.has_leftover &= !removed;
        removed
    }

    fn outcome(
        &mut self,
        shared: &Shared,
        result: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match result {
            Err(error @ StoreError::SyncFailed { .. }) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the tree could not be compacted; it is tried again later");
                if !self.give_up(shared) {
                    self.look_at = Instant::now() + self.retry;
                }
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn begin_if_worth(&mut self, shared: &Shared) -> Result<(), StoreError> {
        match shared.limits.compaction {
            Compaction::Never => return Ok(()),
            Compaction::Always => {
                let copying = Copying::begin(shared, 0, false);
                self.has_leftover = copying.is_err();
                self.current = copying?;
                return Ok(());
            }
            Compaction::WhenWorth | Compaction::AlsoWhenShort => {}
        }
        if Instant::now() < self.look_at || self.is_impossible {
            return Ok(());
        }
        self.look_at = Instant::now() + LOOK_INTERVAL_MIN;
        self.remove_leftover(shared);
        let tree_bytes = shared.in_tree(|tree| Ok(tree.disk_bytes()))?;
        let live_bytes = shared.counters.sums().live_bytes;
        let may_use_reserve = shared.limits.compaction == Compaction::AlsoWhenShort;
        let is_short = may_use_reserve && shared.room.is_short(live_bytes);
        let is_worth = |copy_bytes: u64| match is_short {
            true => tree_bytes > copy_bytes + WORTH_BYTES_SHORT.max(copy_bytes / 4),
            false => tree_bytes / WORTH > copy_bytes && tree_bytes > copy_bytes + WORTH_BYTES,
        };
        let may_be_worth = is_worth(live_bytes);
        // What is in memory makes room in the tree, and its log is room.
        let is_refused = may_use_reserve && shared.room.refuses_growth();
        if (is_refused || (is_short && may_be_worth)) && self.carry(shared)? {
            return Ok(());
        }
        if !may_be_worth {
            return Ok(());
        }
        let (_, has_forgiven) = shared.beside_tree(|tree| Ok(tree.forgave()))?;
        if has_forgiven {
            // The copy would tell of these losses again.
            self.look_at = Instant::now() + LOOK_INTERVAL_MAX;
            return Ok(());
        }
        let looked_at = shared.in_tree(|tree| tree.live_bytes(LOOKS))?;
        let copy_bytes = looked_at.max(live_bytes);
        let copy_bytes = copy_bytes + copy_bytes / 8 + LEAST_BYTES;
        if !is_worth(copy_bytes) || !shared.room.is_enough_for_copy(copy_bytes, is_short) {
            // A look costs something.
            self.look_at = Instant::now()
                + if is_short {
                    LOOK_INTERVAL
                } else {
                    LOOK_INTERVAL_MAX
                };
            return Ok(());
        }
        if is_short && !shared.room.is_enough_for_both(copy_bytes) {
            // A checkpoint would have the copy given up again.
            self.carry(shared)?;
            if shared.room.uncarried_bytes() > UNCARRIED_BYTES_MAX {
                return Ok(());
            }
        }
        tracing::info!(
            tree_bytes,
            copy_bytes,
            "the tree is compacted: room goes back to the disk"
        );
        let copying = Copying::begin(shared, copy_bytes, is_short);
        self.has_leftover = copying.is_err();
        self.current = copying?;
        self.is_impossible = self.current.is_none();
        Ok(())
    }

    /// Has what is in memory carried into the tree, every now and then. Whether that is begun.
    fn carry(&mut self, shared: &Shared) -> Result<bool, StoreError> {
        let is_carried = |at: Instant| at.elapsed() < FREEZE_INTERVAL;
        if self.froze_at.is_some_and(is_carried) || shared.table.active().entries == 0 {
            return Ok(false);
        }
        self.froze_at = Some(Instant::now());
        shared.write(|| {
            let mut log = shared.log();
            // Not while its lock is held.
            let is_free = shared.frozen().is_none();
            if is_free {
                shared.freeze(&mut log)?;
            }
            Ok(is_free)
        })
    }

    /// Puts the copy in the place of the tree.
    fn finish(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let Some(mut copying) = self.current.take() else {
            return Ok(());
        };
        let directory = shared.directory.join(TREE_DIRECTORY);
        let beside = copying.directory.clone();
        let bytes_before = shared.in_tree(|tree| Ok(tree.disk_bytes())).unwrap_or(0);
        let completed = shared.beside_tree(|tree| {
            copying.tree.complete_copy_of(tree, &directory)?;
            sync_files(&beside)?;
            exchange(&beside, &directory)
        });
        if let Err(error) = completed {
            self.current = Some(copying);
            return Err(error);
        }
        let bytes_after = copying.tree.disk_bytes();
        let old = {
            let mut tree = shared.tree.write().unwrap_or_else(PoisonError::into_inner);
            tree.replace(copying.tree)
        };
        // Whatever becomes of this: the names are those of the trees in use.
        let synced = copying.entries.sync();
        synced.map_err(|error| not_durable(&shared.directory, &error))?;
        drop(old);
        self.has_leftover = !remove_closed(&beside);
        shared.room.note_opened();
        shared.room.note_uncopied(0);
        shared.compactions.fetch_add(1, Ordering::Relaxed);

        self.retry = RETRY;
        tracing::info!(
            bytes_before,
            bytes_after,
            took_ms = copying.began.elapsed().as_millis() as u64,
            "the tree is compacted"
        );
        Ok(())
    }
}

impl Copying {
    fn begin(
        shared: &Shared,
        bytes_expected: u64,
        is_short: bool,
    ) -> Result<Option<Self>, StoreError> {
        let directory = shared.directory.join(BESIDE);
        remove_leftovers(&shared.directory)?;
        if !can_exchange(&directory)? {
            tracing::warn!(
                "room of the tree cannot be given back: two names cannot be exchanged here"
            );
            return Ok(None);
        }
        let (forgave, _) = shared.beside_tree(|tree| Ok(tree.forgave()))?;
        let (mut tree, ..) = Tree::open(&directory, shared.limits.cache_bytes)?;
        shared.beside_tree(|of| tree.begin_copy_of(of))?;
        Ok(Some(Self {
            tree,
            entries: OpenDirectory::open(&shared.directory)?,
            forgave,
            directory,
            segments: 0,
            bytes: 0,
            bytes_expected,
            began: Instant::now(),
            is_short,
            scratch: Scratch::default(),
        }))
    }

    fn is_whole(&self) -> bool {
        self.segments == SEGMENTS as u32
    }

    fn step(&mut self, shared: &Shared) -> Result<(), StoreError> {
        if !shared.room.is_enough_to_copy_on(self.is_short) {
            return Err(StoreError::DiskFull {
                path: self.directory.clone(),
            });
        }
        let up_to = self.bytes + STEP_BYTES;
        while self.bytes < up_to
            && let Ok(number) = u16::try_from(self.segments)
        {
            let next = shared.beside_tree(|of| of.next_segment(Segment(number)))?;
            let Some(segment) = next else {
                self.segments = SEGMENTS as u32;
                break;
            };
            self.bytes += shared.beside_tree(|of| of.copy_segment(segment, &self.tree))?;
            self.segments = u32::from(segment.0) + 1;
        }
        if self.is_short {
            let uncopied = self.bytes_expected.saturating_sub(self.bytes);
            shared.room.note_uncopied(uncopied);
        }
        Ok(())
    }
}

/// Makes all files of a directory durable, and their names.
fn sync_files(directory: &Path) -> Result<(), StoreError> {
    let mut files = Vec::new();
    list(directory, &mut files)?;
    for (path, _) in &files {
        sync_path(path)?;
    }
    sync_directory(directory)
}

/// Removes a tree that was closed a moment ago. Whether it is gone.
fn remove_closed(directory: &Path) -> bool {
    let removed = wait_until_closed(directory)
        .and_then(|()| fs::remove_dir_all(directory).map_err(StoreError::io("remove", directory)));
    if let Err(error) = &removed {
        tracing::warn!(%error, "what a compaction left stays for now");
    }
    removed.is_ok()
}

/// Whether two names can be exchanged here, before anything is copied for it. Leaves an empty directory.
fn can_exchange(directory: &Path) -> Result<bool, StoreError> {
    let (one, other) = (directory.join("one"), directory.join("other"));
    for path in [&one, &other] {
        fs::create_dir_all(path).map_err(StoreError::io("create", path))?;
    }
    let exchanged = exchange(&one, &other);
    for path in [&one, &other] {
        fs::remove_dir(path).map_err(StoreError::io("remove", path))?;
    }
    match exchanged {
        Err(error) if error.passes() => Err(error),
        exchanged => Ok(exchanged.is_ok()),
    }
}

/// After a power cut either tree may lie under the name. That ends the store.
fn not_durable(directory: &Path, error: &StoreError) -> StoreError {
    StoreError::sync_failed(directory)(io::Error::other(error.to_string()))
}
