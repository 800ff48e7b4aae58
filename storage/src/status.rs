//! How a store is doing, for those who watch it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is under way in a store. All zero for one that has nothing of the kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Memory of the memtables, active and frozen, in bytes.
    pub memtable_bytes: u64,
    /// Keys in them; one that is in both counts twice.
    pub memtable_entries: u64,
    /// Size of the commit log, in bytes.
    pub log_bytes: u64,
    /// Checkpoints done since the store was opened.
    pub checkpoints: u64,
    /// How long the last of them took, pauses included.
    pub last_checkpoint: Duration,
    /// How long all of them took together.
    pub checkpoints_time: Duration,
    /// How often a read met a damaged value since the store was opened; one value can count many times.
    pub damaged_reads: u64,
    /// What is free on the disk, in bytes.
    pub disk_free_bytes: u64,
    /// What is kept free of it, in bytes.
    pub disk_reserve_bytes: u64,
    /// Whether writes are refused because only the reserve is left.
    pub refuses_writes: bool,
}

/// Counts checkpoints.
#[derive(Debug, Default)]
pub(crate) struct CheckpointTimes {
    count: AtomicU64,
    last_us: AtomicU64,
    total_us: AtomicU64,
}

impl CheckpointTimes {
    /// Takes note of one that is done.
    pub(crate) fn note(&self, took: Duration) {
        let took_us = took.as_micros() as u64;
        self.last_us.store(took_us, Ordering::Relaxed);
        self.total_us.fetch_add(took_us, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts what was counted into a status.
    pub(crate) fn fill(&self, status: &mut StoreStatus) {
        let time = |it: &AtomicU64| Duration::from_micros(it.load(Ordering::Relaxed));
        status.checkpoints = self.count.load(Ordering::Relaxed);
        status.last_checkpoint = time(&self.last_us);
        status.checkpoints_time = time(&self.total_us);
    }
}
