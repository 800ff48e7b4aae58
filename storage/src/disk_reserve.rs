//! Room on the disk: how much is kept in reserve, and the ballast for when something else has taken it.
//!
//! A store that meets "no space left" in the middle of a checkpoint is a store in trouble, so it refuses
//! to grow long before. What is left over goes to those who need it more:
//!
//! | free, as a part of the reserve | |
//! |---|---|
//! | all of it and more | everything goes |
//! | half to all | deletes go: they make room later |
//! | a quarter to half, and never less than a start and a copy take | checkpoints go on: they make room in the log, and put it into the tree |
//! | less | nothing is written until there is room |
//!
//! Another program may still fill the disk. Then a file of ours, the [`Ballast`], is removed, which leaves
//! room to open the store again and for the node's small files. What is missing of that of a large store is kept
//! free like the reserve.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ballast::Ballast;
use crate::error::StoreError;
use crate::tree;

/// The reserve of a large disk, in bytes.
const RESERVE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The least reserve of a disk that is not tiny, in bytes: a checkpoint needs some of sled's segments of 4 MiB before it
/// can free old ones, and so do a stop and a start in the middle of it, and the copy that makes room.
const RESERVE_BYTES_MIN: u64 = 40 * 1024 * 1024;

/// One of sled's segments, in bytes: its file grows by these.
const SEGMENT_BYTES: u64 = tree::SEGMENT_BYTES as u64;

/// What opening the tree may write besides its snapshot, in bytes.
const OPENING_BYTES: u64 = 2 * SEGMENT_BYTES;

/// What closing the tree may write, in bytes: what waits in sled's buffers.
const CLOSING_BYTES: u64 = SEGMENT_BYTES;

/// What a copy leaves of the reserve: one byte in so many, and one of sled's segments at least. It looks after each part
/// of the ring, and these are the larger the larger the store is.
const BESIDE_COPY_PARTS: u64 = 16;

/// How much sled may have taken and not written yet, in bytes: seen on a slow disk.
const UNWRITTEN_BYTES: u64 = 6 * SEGMENT_BYTES;

/// How much sled writes for a generation before it uses any room again: at most so many times as much.
const WRITTEN_FOR_GENERATION: u64 = 3;

/// However little room there is, a generation may have as much, in bytes: smaller ones cost more than they carry.
const SMALL_GENERATION_BYTES: u64 = 1024 * 1024;

/// When no more than this is free, in bytes, the ballast goes.
const EXHAUSTED_BYTES: u64 = 1024 * 1024;

/// How often the file system is asked while nobody writes much.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How much may be written between two looks, in bytes, however much is free: checkpoints write too.
const BETWEEN_LOOKS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a change does to the disk in the long run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It adds a value.
    Growth,
    /// It only removes values.
    Removal,
}

/// The size of a file system, and what is left of it, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it.
    pub total_bytes: u64,
    /// What we may still take.
    pub free_bytes: u64,
}

impl DiskSpace {
    /// Asks the file system that holds this directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(directory: &Path) -> Result<Self, StoreError> {
        let stat = rustix::fs::statvfs(directory)
            .map_err(|error| StoreError::io("measure the disk of", directory)(error.into()))?;
        Ok(Self {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// The reserve where none is set: 5 % of the file system, at most 1 GiB and at least 40 MiB, and never
    /// more than three eighths of it.
    pub fn default_reserve_bytes(self) -> u64 {
        let wanted = (self.total_bytes / 20).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
        wanted.min(self.total_bytes / 8 * 3)
    }

    /// A bound for one generation in memory or in the log: on a small file system less than the settings say, so
    /// that what waits in the log never crowds out the tree that it is to go into.
    pub fn fitting(self, bytes: u64) -> u64 {
        bytes.min((self.total_bytes / 16).max(SMALL_GENERATION_BYTES))
    }
}

/// Watches the room on the disk of a store.
#[derive(Debug)]
pub(crate) struct Room {
    directory: PathBuf,
    reserve_bytes: u64,
    ballast: Ballast,
    /// What is missing of the ballast beyond what any store needs: kept free besides the reserve.
    missing_bytes: AtomicU64,
    /// What may be written before the next look; not positive when the file system must be asked.
    until_look: AtomicI64,
    free_bytes: AtomicU64,
    /// Whether the last look found too little.
    is_short: AtomicBool,
    /// When that was; opening the store does not count.
    looked: Mutex<Option<Instant>>,
}

impl Room {
    /// Looks at the disk. When it is full, what was kept as ballast is given up, so that the store can be
    /// opened.
    pub(crate) fn open(
        directory: &Path,
        tree: &Path,
        reserve_bytes: Option<u64>,
    ) -> Result<Self, StoreError> {
        let space = DiskSpace::of(directory)?;
        let room = Self {
            directory: directory.to_owned(),
            reserve_bytes: reserve_bytes.unwrap_or_else(|| space.default_reserve_bytes()),
            ballast: Ballast::of(directory, tree, space.total_bytes)?,
            missing_bytes: AtomicU64::new(0),
            until_look: AtomicI64::new(0),
            free_bytes: AtomicU64::new(space.free_bytes),
            is_short: AtomicBool::new(false),
            looked: Mutex::default(),
        };
        // Given up when it need not be, it is not there when it must be.
        if !room.is_enough_to_open() {
            room.ballast.give_up();
        }
        room.look();
        *room.looked() = None;
        Ok(room)
    }

    /// Whether a change of so many bytes may be made.
    ///
    /// # Errors
    /// [`StoreError::DiskReserve`] when only the reserve is left.
    pub(crate) fn admit(&self, bytes: usize, change: Change) -> Result<(), StoreError> {
        if self.until_look.fetch_sub(bytes as i64, Ordering::Relaxed) > bytes as i64 {
            return Ok(());
        }
        // What was found a moment ago still holds for those who were refused then.
        if !self.is_short.load(Ordering::Relaxed) || self.is_look_due() {
            self.look();
        }
        let needed = match change {
            Change::Growth => self.reserve_bytes,
            Change::Removal => self.reserve_bytes / 2,
        };
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        let needed = needed.saturating_add(self.missing_bytes.load(Ordering::Relaxed));
        if free_bytes >= needed.saturating_add(bytes as u64) {
            return Ok(());
        }
        Err(StoreError::DiskReserve {
            path: self.directory.clone(),
            free_bytes,
            reserve_bytes: self.reserve_bytes,
        })
    }

    /// Looks at the disk if that is due, and takes the ballast if there is room. Called with each group of
    /// writes, and not when the store is opened: who only looks at it changes nothing.
    pub(crate) fn look_now_and_then(&self) {
        if self.is_look_due() {
            self.ballast.fill(self.look());
        }
    }

    /// The most that a generation may have, in bytes.
    ///
    /// When growth begins to be refused one generation is on its way into the tree and the next one may be full. All
    /// that must end well within the reserve, with a stop and a start in the middle of it. Where there is more than the
    /// reserve they may be larger: what the log of the one takes then makes the other one smaller.
    pub(crate) fn generation_bytes_max(&self) -> u64 {
        let free = self.free_bytes.load(Ordering::Relaxed);
        let beyond = free.saturating_sub(self.kept_bytes());
        let within_reserve = generation_bytes(self.reserve_bytes, self.ballast.base_bytes());
        within_reserve.max(beyond / (WRITTEN_FOR_GENERATION + 1))
    }

    /// Whether so much more can go through a checkpoint.
    pub(crate) fn is_enough_for_generation(&self, bytes: u64) -> bool {
        let written = bytes.saturating_mul(WRITTEN_FOR_GENERATION);
        self.free_bytes_now() >= self.needed_for_checkpoint().saturating_add(written)
    }

    /// Whether a checkpoint may go on, with so many bytes more than what is kept free for it anyway.
    pub(crate) fn is_enough_for_checkpoint(&self, beyond: u64) -> bool {
        self.look();
        let needed = self.needed_for_checkpoint().saturating_add(beyond);
        self.free_bytes.load(Ordering::Relaxed) >= needed
    }

    /// Whether little is left besides the reserve: growth is refused, or soon will be.
    pub(crate) fn is_nearly_short(&self) -> bool {
        self.is_little(self.free_bytes_now())
    }

    /// The same at the last look.
    pub(crate) fn was_nearly_short(&self) -> bool {
        self.is_little(self.free_bytes.load(Ordering::Relaxed))
    }

    fn is_little(&self, free_bytes: u64) -> bool {
        let kept = self.kept_bytes();
        free_bytes < kept.saturating_add(kept / 4)
    }

    /// What is kept free of growth.
    fn kept_bytes(&self) -> u64 {
        let missing = self.missing_bytes.load(Ordering::Relaxed);
        self.reserve_bytes.saturating_add(missing)
    }

    /// Whether what sled has taken and not written yet may be more than a checkpoint may take.
    pub(crate) fn is_unwritten_much(&self) -> bool {
        let needed = self.needed_for_checkpoint();
        self.free_bytes.load(Ordering::Relaxed) < needed.saturating_add(UNWRITTEN_BYTES)
    }

    /// What is free. It only looks, and gives nothing up.
    fn free_bytes_now(&self) -> u64 {
        DiskSpace::of(&self.directory).map_or_else(
            |_| self.free_bytes.load(Ordering::Relaxed),
            |space| space.free_bytes,
        )
    }

    fn needed_for_checkpoint(&self) -> u64 {
        let (wanted, has) = (self.ballast.wanted_bytes(), self.ballast.bytes());
        let missing = wanted.saturating_sub(has);
        checkpoint_bytes(self.reserve_bytes, self.ballast.base_bytes(), missing)
    }

    /// Whether there is room for a copy of so many bytes. It leaves the reserve, and what is written meanwhile, unless it
    /// may take these: it is given up when a checkpoint lacks room, and removed before the store is opened.
    pub(crate) fn is_enough_for_copy(&self, bytes: u64, takes_reserve: bool) -> bool {
        let kept = match takes_reserve {
            true => self.kept_beside_copy(),
            false => self.reserve_bytes.saturating_add(bytes / 4),
        };
        self.free_bytes_now() >= bytes.saturating_add(kept)
    }

    /// Whether a copy may go on. It only looks: what has filled the disk must not get the ballast because of a copy, which
    /// can be given up.
    pub(crate) fn is_enough_to_copy_on(&self) -> bool {
        self.free_bytes_now() >= self.kept_beside_copy()
    }

    fn kept_beside_copy(&self) -> u64 {
        (self.reserve_bytes / BESIDE_COPY_PARTS).max(SEGMENT_BYTES)
    }

    /// Whether the tree can be opened again.
    pub(crate) fn is_enough_to_open(&self) -> bool {
        let base = self.ballast.base_bytes().min(OPENING_BYTES);
        let needed = base + self.ballast.snapshot_bytes_max();
        DiskSpace::of(&self.directory).is_ok_and(|space| space.free_bytes >= needed)
    }

    /// The tree was opened, and with it another snapshot written.
    pub(crate) fn note_opened(&self) {
        if let Err(error) = self.ballast.learn() {
            tracing::warn!(%error, "cannot tell how much room the next start takes");
        }
    }

    /// Whether the last look found too little.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether there is nothing left, so that whatever fails may fail because of it.
    pub(crate) fn is_exhausted(&self) -> bool {
        DiskSpace::of(&self.directory).is_ok_and(|space| space.free_bytes < EXHAUSTED_BYTES)
    }

    /// Gives up the ballast: something has met the end of the disk.
    pub(crate) fn drop_ballast(&self) {
        self.ballast.give_up();
    }

    /// What is free and what is kept of it, in bytes, and whether growth is refused.
    pub(crate) fn state(&self) -> (u64, u64, bool) {
        let free = self.free_bytes_now();
        (free, self.reserve_bytes, free < self.kept_bytes())
    }

    fn is_look_due(&self) -> bool {
        let looked = *self.looked();
        looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL)
    }

    fn looked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the disk, and returns how many bytes there are besides the reserve.
    fn look(&self) -> u64 {
        *self.looked() = Some(Instant::now());
        let Ok(space) = DiskSpace::of(&self.directory) else {
            // The next write says what is wrong with it.
            return 0;
        };
        self.free_bytes.store(space.free_bytes, Ordering::Relaxed);
        let ballast = self.ballast.bytes().max(self.ballast.base_bytes());
        let missing = self.ballast.wanted_bytes().saturating_sub(ballast);
        self.missing_bytes.store(missing, Ordering::Relaxed);
        let kept = self.reserve_bytes.saturating_add(missing);
        let spare = space.free_bytes.saturating_sub(kept);
        // Half of what is there, because a checkpoint takes from it at the same time.
        let until_look = (spare / 2).min(BETWEEN_LOOKS_BYTES_MAX);
        self.until_look.store(until_look as i64, Ordering::Relaxed);
        let is_short = spare == 0 && self.reserve_bytes > 0;
        if self.is_short.swap(is_short, Ordering::Relaxed) != is_short {
            let (free_bytes, reserve_bytes) = (space.free_bytes, self.reserve_bytes);
            let directory = self.directory.display();
            if is_short {
                tracing::error!(%directory, free_bytes, reserve_bytes, "the disk is nearly full: writes are refused until there is room");
            } else {
                tracing::info!(%directory, free_bytes, "there is room on the disk again: writes are taken");
            }
        }
        if space.free_bytes < EXHAUSTED_BYTES {
            self.drop_ballast();
        }
        spare
    }
}

/// What has to be free for a checkpoint to go on, in bytes, where so much of the ballast is missing.
///
/// Also without a reserve it keeps away from the end of the disk, which sled does not bear: by what opening takes of
/// any store, and what a start in the middle of a checkpoint takes for good. Where the ballast does not hold the room for
/// opening, that room is in what is free, and not to be kept twice: with the whole reserve left, the log of a small disk
/// would never get into the tree.
fn checkpoint_bytes(reserve: u64, base: u64, missing: u64) -> u64 {
    let beside_opening = match missing {
        0 => 0,
        missing => missing.saturating_add(SEGMENT_BYTES),
    };
    let opened = base.saturating_add(OPENING_BYTES.min(base));
    (reserve / 4).max(opened).max(beside_opening)
}

/// The most that a generation may have where only the reserve is left, in bytes. Its log is in what is free no more, and
/// what sled writes for it is.
fn generation_bytes(reserve: u64, base: u64) -> u64 {
    let kept = checkpoint_bytes(reserve, base, 0).saturating_add(CLOSING_BYTES);
    (reserve.saturating_sub(kept) / (WRITTEN_FOR_GENERATION + 1)).max(SMALL_GENERATION_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn disk(total_bytes: u64) -> DiskSpace {
        DiskSpace {
            total_bytes,
            free_bytes: total_bytes,
        }
    }

    #[test]
    fn the_reserve_fits_the_disk() {
        for (total, reserve) in [
            (64 * MIB, 24 * MIB),
            (128 * MIB, 40 * MIB),
            (32 * MIB, 12 * MIB),
            (1000 * MIB, 50 * MIB),
            (20_480 * MIB, 1024 * MIB),
            (1 << 50, 1024 * MIB),
        ] {
            assert_eq!(disk(total).default_reserve_bytes(), reserve, "{total}");
        }
        assert_eq!(disk(64 * MIB).fitting(256 * MIB), 4 * MIB);
        assert_eq!(disk(1 << 40).fitting(256 * MIB), 256 * MIB);
    }

    #[test]
    fn growth_is_refused_before_removal() {
        let directory = tempfile::tempdir().unwrap();
        let free = DiskSpace::of(directory.path()).unwrap().free_bytes;
        let room = |reserve| Room::open(directory.path(), directory.path(), Some(reserve)).unwrap();
        let admitted = |room: &Room, change| room.admit(100, change).is_ok();
        let plenty = room(0);
        assert!(admitted(&plenty, Change::Growth) && admitted(&plenty, Change::Removal));
        // Others use this disk too, so the bounds are far apart.
        let short = room(free / 2 * 3);
        assert!(!admitted(&short, Change::Growth) && admitted(&short, Change::Removal));
        assert!(short.is_enough_for_checkpoint(0) && !short.is_enough_for_checkpoint(free));
        let error = short.admit(1, Change::Growth).unwrap_err();
        assert!(error.is_disk_full() && !error.is_corruption(), "{error}");
        let none = room(free * 5);
        assert!(!admitted(&none, Change::Removal) && !none.is_enough_for_checkpoint(0));
    }

    #[test]
    fn a_checkpoint_goes_on_within_the_reserve_also_where_the_ballast_was_given_up() {
        for total in [32, 57, 64, 128, 300, 480, 1024, 10_240, 1 << 20] {
            let directory = tempfile::tempdir().unwrap();
            let total = total * MIB;
            let ballast = Ballast::of(directory.path(), directory.path(), total).unwrap();
            let reserve = disk(total).default_reserve_bytes();
            let (base, wanted) = (ballast.base_bytes(), ballast.wanted_bytes());
            let needed = checkpoint_bytes(reserve, base, wanted);
            // Something of the reserve is left for what a checkpoint writes.
            assert!(needed + SEGMENT_BYTES <= reserve, "{total}: {needed}");
            // And then the store can still be opened.
            assert!(needed >= base + SEGMENT_BYTES);
            // What waits when growth begins to be refused ends within the reserve, with a stop in the middle.
            if total >= 128 * MIB {
                let written = WRITTEN_FOR_GENERATION * generation_bytes(reserve, base);
                assert!(needed + CLOSING_BYTES + written <= reserve, "{total}");
            }
            assert!(checkpoint_bytes(0, base, 0) >= base);
        }
    }

    #[test]
    fn a_write_larger_than_what_is_left_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::open(directory.path(), directory.path(), Some(0)).unwrap();
        let free = DiskSpace::of(directory.path()).unwrap().free_bytes;
        assert!(room.admit(2 * free as usize, Change::Growth).is_err());
        room.admit(1, Change::Growth).unwrap();
    }

    #[test]
    fn the_ballast_comes_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::open(directory.path(), directory.path(), Some(0)).unwrap();
        let ballast = directory.path().join("ballast");
        let look = || {
            std::thread::sleep(LOOK_INTERVAL);
            room.look_now_and_then();
        };
        assert!(!ballast.exists(), "opening takes no room");
        look();
        assert_eq!(
            std::fs::metadata(&ballast).unwrap().len(),
            room.ballast.wanted_bytes()
        );
        room.drop_ballast();
        room.drop_ballast();
        assert!(!ballast.exists());
        look();
        assert!(ballast.exists());
    }
}
