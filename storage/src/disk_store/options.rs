//! How a store is opened.

use std::time::Duration;

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

/// The smallest memtable, and the smallest log of one, in bytes: below that each write begins a new generation.
const GENERATION_BYTES_MIN: usize = 4 * 1024;

/// The shortest and the longest interval between two syncs. One of nothing would keep a processor busy, and one
/// without end would never come.
const INTERVAL_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How to open a [`DiskStore`](super::DiskStore).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Memory that sled's page cache aims at, in bytes, 1 MiB at least. It goes beyond it, the more the larger values are;
    /// `make memory` measures by how much.
    pub cache_bytes: u64,
    /// How much a memtable holds before it is frozen, in bytes. There are two at most, the active and
    /// the frozen one; each may exceed this by one group of writes.
    pub memtable_bytes: usize,
    /// How much log a memtable may have before it is frozen, in bytes: bounds the time to open. There
    /// are two at most, as of memtables.
    pub log_bytes: u64,
    /// When a write counts as durable.
    pub durability: Durability,
    /// How much of the disk is left free, in bytes: below it no value is written. `None` for
    /// [`DiskSpace::default_reserve_bytes`](crate::DiskSpace::default_reserve_bytes).
    pub reserve_bytes: Option<u64>,
}

impl DiskOptions {
    /// The nearest that the store can work with. Whatever is asked for, a sound store stays one.
    pub(super) fn within_bounds(self) -> Self {
        Self {
            memtable_bytes: self.memtable_bytes.max(GENERATION_BYTES_MIN),
            log_bytes: self.log_bytes.max(GENERATION_BYTES_MIN as u64),
            durability: match self.durability {
                Durability::Interval(interval) => {
                    Durability::Interval(interval.clamp(INTERVAL_MIN, INTERVAL_MAX))
                }
                Durability::Sync => Durability::Sync,
            },
            ..self
        }
    }
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 512 * 1024 * 1024,
            memtable_bytes: 128 * 1024 * 1024,
            log_bytes: 256 * 1024 * 1024,
            durability: Durability::Sync,
            reserve_bytes: None,
        }
    }
}
