//! How a store is opened.

use std::time::Duration;

use crate::disk_reserve::DiskSpace;
use crate::log::FILE_BYTES;

/// When a write counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// [`Store::sync`](crate::Store::sync) returns when the disk has it: a power cut loses nothing that was acknowledged.
    Sync,
    /// [`Store::sync`](crate::Store::sync) returns when the operating system has it, and the disk gets it after this time at
    /// the latest. The death of the process loses nothing; a power cut or a crash of the system loses
    /// what was acknowledged in that time. A disk that fails is noticed by the next write only.
    Interval(Duration),
}

/// When room that sled's file has and does not need is given back to the disk; see `disk_store/compaction.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// Where there is much of it, and room for a copy: besides the reserve, unless that is taken from already.
    WhenWorth,
    /// One time after the other: for tests.
    Always,
    /// Not: where a store is written once.
    Never,
}

/// The smallest window, and the smallest log of one, in bytes: below that each write begins a new generation.
const GENERATION_BYTES_MIN: usize = 4 * 1024;

/// The smallest cache of sled's, in bytes: it panics without one.
const CACHE_BYTES_MIN: u64 = 1024 * 1024;

/// A generation ends when its log has this many files, even small ones: each start begins one.
pub(super) const GENERATION_FILES_MAX: u64 = 64;

/// The largest log of a generation, in bytes: it has so many files at most that the next bound is this one.
const GENERATION_LOG_BYTES_MAX: u64 = (GENERATION_FILES_MAX - 4) * FILE_BYTES;

/// How much of the table one generation may have that is not in the tree yet. There are two at most, and what they have
/// is what was written last. The larger it is, the more of the writes are written over before they are carried, and the
/// more of one block goes at once.
const WINDOW_OF_TABLE: f64 = 0.5;

/// The shortest and the longest interval between two syncs. One of nothing would keep a processor busy, and one
/// without end would never come.
const INTERVAL_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How to open a [`DiskStore`](super::DiskStore).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Memory that the store aims at, in bytes: half of it for the table of records, half for sled's page cache, which
    /// goes beyond that, the more the larger values are. `make memory` measures by how much.
    pub memory_bytes: u64,
    /// How much log there may be before it has to go into the tree, in bytes, 7.5 GiB at most: bounds the time to open.
    /// It may be exceeded by one group of writes, and by the log of a generation that is carried and about to be removed.
    pub log_bytes_max: u64,
    /// When a write counts as durable.
    pub durability: Durability,
    /// How much of the disk is left free, in bytes: below it no value is written. `None` for
    /// [`DiskSpace::default_reserve_bytes`](crate::DiskSpace::default_reserve_bytes).
    pub reserve_bytes: Option<u64>,
    /// When the tree is compacted.
    pub compaction: Compaction,
}

impl DiskOptions {
    /// For a store that is written once, with what another one holds. It is small in memory, because it lives beside that
    /// one; what is in its log is soon in its tree, because it takes room twice until then; and the room was asked for as
    /// a whole, so that it keeps no reserve of its own.
    pub(crate) fn of_copy() -> Self {
        Self {
            memory_bytes: 32 * 1024 * 1024,
            log_bytes_max: 64 * 1024 * 1024,
            reserve_bytes: Some(0),
            compaction: Compaction::Never,
            ..Self::default()
        }
    }

    /// What sled's page cache aims at.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.half_bytes().max(CACHE_BYTES_MIN)
    }

    fn half_bytes(&self) -> u64 {
        self.memory_bytes / 2
    }

    /// What follows of them on this file system. Whatever is asked for, a sound store stays one.
    pub(super) fn limits(&self, space: DiskSpace) -> Limits {
        let half = self.half_bytes();
        let window_bytes = (half as f64 * WINDOW_OF_TABLE) as u64;
        let generation = |bytes: u64| space.fitting(bytes).max(GENERATION_BYTES_MIN as u64);
        Limits {
            cache_bytes: self.cache_bytes(),
            table_bytes: usize::try_from(half).unwrap_or(usize::MAX),
            window_bytes: usize::try_from(generation(window_bytes)).unwrap_or(usize::MAX),
            log_bytes: generation((self.log_bytes_max / 2).min(GENERATION_LOG_BYTES_MAX)),
            durability: match self.durability {
                Durability::Interval(interval) => {
                    Durability::Interval(interval.clamp(INTERVAL_MIN, INTERVAL_MAX))
                }
                Durability::Sync => Durability::Sync,
            },
            compaction: self.compaction,
        }
    }
}

/// What a store keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// What sled's page cache aims at.
    pub(super) cache_bytes: u64,
    /// What the table of records aims at.
    pub(super) table_bytes: usize,
    /// How much of a generation is in the table before it is frozen.
    pub(super) window_bytes: usize,
    /// How much log a generation has before it is frozen.
    pub(super) log_bytes: u64,
    pub(super) durability: Durability,
    pub(super) compaction: Compaction,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 1024 * 1024 * 1024,
            log_bytes_max: 2 * 1024 * 1024 * 1024,
            durability: Durability::Sync,
            reserve_bytes: None,
            compaction: Compaction::WhenWorth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_full_by_its_bytes_before_it_is_by_its_files() {
        let space = DiskSpace {
            total_bytes: 1 << 50,
            free_bytes: 1 << 50,
        };
        for log_bytes_max in [0, 1 << 30, 1 << 40, u64::MAX] {
            let options = DiskOptions {
                log_bytes_max,
                ..DiskOptions::default()
            };
            // Else a checkpoint would think that it has time while writers wait for it.
            let log_bytes = options.limits(space).log_bytes;
            assert!(log_bytes < (GENERATION_FILES_MAX - 1) * FILE_BYTES);
            assert!(log_bytes >= GENERATION_BYTES_MIN as u64);
        }
    }
}
