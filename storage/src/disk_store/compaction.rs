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
use crate::copying::sync_all;
use crate::directory::{OpenDirectory, exchange};
use crate::error::StoreError;
use crate::table::Entry;
use crate::tree::{SEGMENT_BYTES, Scratch, Tree, wait_until_closed};

/// Where the second tree lies, and after the exchange what is left of the first one.
const BESIDE: &str = "sled.compacting";

/// When a copy is worth it, and how often that is looked at.
struct Terms {
    /// The tree takes so many quarters of what its copy would take.
    quarters: u64,
    /// And so many bytes more.
    bytes: u64,
    /// How often it is looked at closely.
    look_interval: Duration,
    /// How long to wait at most after one that came to nothing, or to little.
    retry_max: Duration,
    /// Whether the copy may take what is kept in reserve.
    takes_reserve: bool,
}

/// Where there is room.
const ROOMY: Terms = Terms {
    quarters: 3 * 4,
    bytes: 64 * 1024 * 1024,
    look_interval: Duration::from_secs(30),
    retry_max: Duration::from_secs(60 * 60),
    takes_reserve: false,
};

/// Where no value is taken any more, or soon. The tree still has what was deleted and is in the log only, so a generation
/// that is not full is frozen now and then.
const SHORT: Terms = Terms {
    quarters: 5,
    bytes: 16 * 1024 * 1024,
    look_interval: Duration::from_secs(2),
    retry_max: Duration::from_secs(5 * 60),
    takes_reserve: true,
};

impl Terms {
    fn is_much(&self, tree_bytes: u64, copy_bytes: u64) -> bool {
        tree_bytes / self.quarters > copy_bytes / 4 && tree_bytes > copy_bytes + self.bytes
    }
}

/// How often a generation is frozen that is not full.
const CARRY_INTERVAL: Duration = Duration::from_secs(5);

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

/// How long to wait after one that came to nothing; doubles each time.
const RETRY: Duration = Duration::from_secs(1);

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
    /// Not before is it looked whether one is to begin.
    look_at: Instant,
    /// Not before is a generation frozen because the disk is nearly full.
    carry_at: Instant,
    retry: Duration,
    terms: &'static Terms,
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
    began: Instant,
    scratch: Scratch,
}

impl Default for Compacting {
    fn default() -> Self {
        Self {
            current: None,
            look_at: Instant::now(),
            carry_at: Instant::now(),
            retry: RETRY,
            terms: &ROOMY,
            is_impossible: false,
            has_leftover: false,
        }
    }
}

impl Compacting {
    /// How long the thread may wait for something else to do.
    pub(super) fn rest(&self) -> Duration {
        match self.current {
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
        let result = match &mut self.current {
            None => self.begin_if_worth(shared),
            Some(copying) if !copying.is_whole() => copying.step(shared),
            Some(_) => self.finish(shared),
        };
        self.outcome(result)
    }

    /// Follows a checkpoint, which has written these entries into the tree, and copies on: where one checkpoint follows the
    /// other there is no other time.
    ///
    /// # Errors
    /// As [`go_on`](Self::go_on).
    pub(super) fn follow(&mut self, shared: &Shared, entries: &[Entry]) -> Result<(), StoreError> {
        let result = match &mut self.current {
            None => Ok(()),
            // The tree may have written a block without a loss that was forgiven since, and the copy still has it.
            Some(copying) if copying.tree.forgave().0 != copying.forgave => {
                self.drop_copy();
                Ok(())
            }
            Some(copying) => copying.write(entries).and_then(|()| copying.step(shared)),
        };
        self.outcome(result)
    }

    /// Gives the copy up, and the room that it takes. Whether there was one, or something was left of one.
    pub(super) fn give_up(&mut self, shared: &Shared) -> bool {
        self.drop_copy() || self.remove_leftover(shared)
    }

    /// Drops the copy, and does not begin another one too soon. Whether there was one.
    fn drop_copy(&mut self) -> bool {
        let Some(Copying {
            tree, directory, ..
        }) = self.current.take()
        else {
            return false;
        };
        drop(tree);
        self.has_leftover = !remove_closed(&directory);
        self.wait_longer();
        true
    }

    fn wait_longer(&mut self) {
        self.retry = self.retry.min(self.terms.retry_max);
        self.look_at = Instant::now() + self.retry;
        self.retry *= 2;
    }

    /// Removes what could not be removed before. Whether it has.
    fn remove_leftover(&mut self, shared: &Shared) -> bool {
        let removed = self.has_leftover && remove_leftovers(&shared.directory).is_ok();
        self.has_leftover &= !removed;
        removed
    }

    fn outcome(&mut self, result: Result<(), StoreError>) -> Result<(), StoreError> {
        match result {
            Err(error) if !matches!(error, StoreError::SyncFailed { .. }) => {
                tracing::warn!(%error, "the tree could not be compacted; it is tried again later");
                if !self.drop_copy() {
                    self.wait_longer();
                }
                Ok(())
            }
            result => result,
        }
    }

    fn begin_if_worth(&mut self, shared: &Shared) -> Result<(), StoreError> {
        if self.is_impossible {
            return Ok(());
        }
        let terms = match shared.room.is_nearly_short() {
            true => &SHORT,
            false => &ROOMY,
        };
        let now = Instant::now();
        if terms.takes_reserve && !self.terms.takes_reserve {
            // What did not pay before may pay now.
            self.look_at = now;
        }
        self.terms = terms;
        if now < self.look_at {
            return Ok(());
        }
        self.remove_leftover(shared);
        let is_wanted = match shared.limits.compaction {
            Compaction::Never => false,
            Compaction::Always => true,
            Compaction::WhenWorth => self.is_worth(shared)?,
        };
        if is_wanted {
            // Until it is a copy what lies there is of no use.
            self.has_leftover = true;
            self.current = Copying::begin(shared)?;
            self.is_impossible = self.current.is_none();
            self.has_leftover = self.is_impossible;
        }
        Ok(())
    }

    /// Whether much is to be gained, and there is room for a copy.
    fn is_worth(&mut self, shared: &Shared) -> Result<bool, StoreError> {
        self.look_at = Instant::now() + LOOK_INTERVAL;
        let terms = self.terms;
        let fits = |bytes| shared.room.is_enough_for_copy(bytes, terms.takes_reserve);
        let tree_bytes = shared.in_tree(|tree| Ok(tree.disk_bytes()))?;
        let value_bytes = shared.counters.sums().live_bytes;
        if !terms.is_much(tree_bytes, value_bytes) || !fits(value_bytes) {
            return Ok(false);
        }
        if terms.takes_reserve && self.carry_now_and_then(shared)? {
            return Ok(false);
        }
        // What tombstones and clocks take only a look at the tree tells, and that costs something.
        self.look_at = Instant::now() + terms.look_interval;
        // The copy would tell again of losses that were forgiven.
        if shared.in_tree(|tree| Ok(tree.forgave().1))? {
            return Ok(false);
        }
        let copy_bytes = copy_bytes(shared)?;
        let is_worth = terms.is_much(tree_bytes, copy_bytes) && fits(copy_bytes);
        if is_worth {
            tracing::info!(
                tree_bytes,
                copy_bytes,
                "the tree is compacted: room goes back to the disk"
            );
        }
        Ok(is_worth)
    }

    /// Freezes what is in the log only, unless the checkpoint might lack room: it would be the last thing that is done, and
    /// the copy that makes room would wait for it. Whether it has.
    fn carry_now_and_then(&mut self, shared: &Shared) -> Result<bool, StoreError> {
        let active = shared.table.active();
        let is_due = active.entries > 0 && Instant::now() >= self.carry_at;
        if !is_due || !shared.room.is_enough_for_generation(active.bytes as u64) {
            return Ok(false);
        }
        self.carry_at = Instant::now() + CARRY_INTERVAL;
        shared.write(|| {
            let mut log = shared.log();
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
        let completed = shared.beside_tree(|tree| {
            copying.tree.complete_copy_of(tree, &directory)?;
            sync_all(&copying.directory)?;
            exchange(&copying.directory, &directory)?;
            Ok(tree.disk_bytes())
        });
        let bytes_before = match completed {
            Ok(bytes) => bytes,
            Err(error) => {
                self.current = Some(copying);
                return Err(error);
            }
        };
        let bytes_after = copying.tree.disk_bytes();
        let old = {
            let mut tree = shared.tree.write().unwrap_or_else(PoisonError::into_inner);
            tree.replace(copying.tree)
        };
        // After a power cut either tree may lie under the name: that ends the store.
        let synced = copying.entries.sync();
        synced.map_err(|error| {
            let error = io::Error::other(error.to_string());
            StoreError::sync_failed(&shared.directory)(error)
        })?;
        drop(old);
        self.has_leftover = !remove_closed(&copying.directory);
        shared.room.note_opened();
        shared.compactions.fetch_add(1, Ordering::Relaxed);
        match bytes_before.saturating_sub(bytes_after) < self.terms.bytes {
            // It was expected to be smaller, and would be the next time.
            true => self.wait_longer(),
            false => self.retry = RETRY,
        }
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
    /// An empty one; none where two names cannot be exchanged.
    fn begin(shared: &Shared) -> Result<Option<Self>, StoreError> {
        let directory = shared.directory.join(BESIDE);
        remove_leftovers(&shared.directory)?;
        if !can_exchange(&directory)? {
            tracing::warn!(
                "room of the tree cannot be given back: two names cannot be exchanged here"
            );
            return Ok(None);
        }
        let (mut tree, ..) = Tree::open(&directory, shared.limits.cache_bytes)?;
        shared.beside_tree(|of| tree.begin_copy_of(of))?;
        Ok(Some(Self {
            forgave: tree.forgave().0,
            tree,
            entries: OpenDirectory::open(&shared.directory)?,
            directory,
            segments: 0,
            began: Instant::now(),
            scratch: Scratch::default(),
        }))
    }

    fn is_whole(&self) -> bool {
        self.segments == SEGMENTS as u32
    }

    /// What a checkpoint has written into the tree, as far as the copy is.
    fn write(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let copied = |entry: &Entry| u32::from(entry.position.segment().0) < self.segments;
        let here = &entries[..entries.partition_point(copied)];
        match here.is_empty() {
            true => Ok(()),
            false => self.tree.write(here, &mut self.scratch),
        }
    }

    fn step(&mut self, shared: &Shared) -> Result<(), StoreError> {
        if shared.room.is_nearly_short() {
            // On a slow disk sled has more in its buffers than is left.
            self.tree.write_out()?;
        }
        if !shared.room.is_enough_to_copy_on() {
            let path = self.directory.clone();
            return Err(StoreError::DiskFull { path });
        }
        let mut bytes = 0;
        while bytes < STEP_BYTES
            && let Ok(number) = u16::try_from(self.segments)
        {
            let copied = shared.beside_tree(|of| of.copy_next(Segment(number), &self.tree))?;
            let Some((segment, more)) = copied else {
                self.segments = SEGMENTS as u32;
                break;
            };
            bytes += more;
            self.segments = u32::from(segment.0) + 1;
        }
        Ok(())
    }
}

/// About how many bytes a copy of the tree takes, by a look at a part of it.
///
/// # Errors
/// What the disk says.
pub(super) fn copy_bytes(shared: &Shared) -> Result<u64, StoreError> {
    let found_bytes = shared.in_tree(|tree| tree.live_bytes(LOOKS))?;
    let bytes = found_bytes.max(shared.counters.sums().live_bytes);
    Ok(bytes + bytes / 8 + LEAST_BYTES)
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
