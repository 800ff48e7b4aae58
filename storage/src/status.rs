//! How a store is doing, for those who watch it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is under way in a store. All zero for one that has nothing of the kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StoreStatus {
    /// Memory of what was written and is not in the tree yet, in bytes.
    pub dirty_bytes: u64,
    /// The keys of these; one that was written again since it is on its way there counts twice.
    pub dirty_entries: u64,
    /// Memory of all records in the table, in bytes: these, and what was read or written lately.
    pub table_bytes: u64,
    /// How often a key was found there since the store was opened.
    pub table_hits: u64,
    /// How often it was looked for in the tree.
    pub table_misses: u64,
    /// How many records were dropped to make room for others.
    pub table_evictions: u64,
    /// Size of the commit log, in bytes.
    pub log_bytes: u64,
    /// How full the generation is that is being written, in the table or in the log, as a part of its bound: at 1 it
    /// goes into the tree, and writes wait if the one before is still on its way.
    pub window_used: f64,
    /// How long reading the log took when the store was opened.
    pub replay_time: Duration,
    /// Checkpoints done since the store was opened.
    pub checkpoints: u64,
    /// How long the last of them took, pauses included.
    pub last_checkpoint: Duration,
    /// How long all of them took together.
    pub checkpoints_time: Duration,
    /// How much processor time they took, without that of sled's own threads.
    pub checkpoints_cpu_time: Duration,
    /// How often room was given back to the disk since the store was opened.
    pub compactions: u64,
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
    cpu_us: AtomicU64,
}

impl CheckpointTimes {
    /// Takes note of one that is done, and of how much processor time its thread has had for all of them.
    pub(crate) fn note(&self, took: Duration, cpu: Duration) {
        self.cpu_us.store(cpu.as_micros() as u64, Ordering::Relaxed);
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
        status.checkpoints_cpu_time = time(&self.cpu_us);
    }
}
