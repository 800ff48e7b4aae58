//! How much a store holds, counted as it changes.
//!
//! The writer knows a key's state before and after each mutation, so the totals are sums of
//! differences: reading them costs a few loads, however many keys there are.

use std::sync::atomic::{AtomicU64, Ordering};

use dynakv_protocol::causal::{Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::{Segment, versions_hash};

use crate::segments::SegmentHashes;
use crate::store::Mutation;

/// What one key adds to the totals. All zero for a key that was never written or is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Siblings that are no tombstones. Expired ones count until they are purged.
    pub versions: u64,
    /// The bytes of their values, without keys and clocks.
    pub value_bytes: u64,
}

impl Tally {
    /// Counts the live siblings of one key.
    pub fn of(versions: &Versions) -> Self {
        let mut tally = Self::default();
        for sibling in versions.siblings() {
            match &sibling.value {
                Value::Tombstone => {}
                Value::Bytes(bytes) => {
                    tally.versions += 1;
                    tally.value_bytes += bytes.len() as u64;
                }
            }
        }
        tally
    }

    fn keys(self) -> u64 {
        u64::from(self.versions > 0)
    }

    fn conflict_keys(self) -> u64 {
        u64::from(self.versions > 1)
    }
}

/// What one key adds to all that is kept over many keys. All zero for a key that was never written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// To the totals.
    pub tally: Tally,
    /// To the hash of its segment.
    pub hash: u128,
}

impl Footprint {
    /// The footprint of a key in this state.
    pub fn of(key: &[u8], versions: &Versions) -> Self {
        if versions.clock().is_empty() {
            return Self::default();
        }
        Self::of_encoded(key, versions, &versions.to_bytes())
    }

    /// The same, for a state whose encoding is at hand: what is stored, or is to be.
    pub fn of_encoded(key: &[u8], versions: &Versions, encoded: &[u8]) -> Self {
        Self {
            tally: Tally::of(versions),
            hash: versions_hash(key, encoded),
        }
    }
}

/// What a store holds. Each number is exact once the writer rests; while it writes they may be a
/// mutation apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Keys with at least one value that is not deleted.
    pub keys: u64,
    /// Values that are not deleted, siblings counted one by one.
    pub versions: u64,
    /// Keys with more than one such value.
    pub conflict_keys: u64,
    /// The bytes of these values, without keys and clocks.
    pub live_bytes: u64,
    /// What the store occupies on disk, in bytes; the ratio to `live_bytes` is its amplification.
    pub disk_bytes: u64,
    /// Damaged values met since the store was opened and not written anew since. The numbers above
    /// still count what they held.
    pub corrupt_keys: u64,
}

/// Sums over all keys, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) keys: u64,
    pub(crate) versions: u64,
    pub(crate) conflict_keys: u64,
    pub(crate) live_bytes: u64,
}

/// The running sums behind [`Totals`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    keys: AtomicU64,
    versions: AtomicU64,
    conflict_keys: AtomicU64,
    live_bytes: AtomicU64,
    hashes: SegmentHashes,
}

impl Counters {
    /// Takes note of one key's change; `hash_change` is the XOR of its hash before and after. Relaxed:
    /// each number stands for itself.
    pub(crate) fn change(&self, segment: Segment, before: Tally, after: Tally, hash_change: u128) {
        self.hashes.change(segment, hash_change);
        // A difference below zero wraps, and so does the addition: together they subtract.
        let shift = |counter: &AtomicU64, from: u64, to: u64| {
            if from != to {
                counter.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
            }
        };
        shift(&self.keys, before.keys(), after.keys());
        shift(&self.versions, before.versions, after.versions);
        shift(
            &self.conflict_keys,
            before.conflict_keys(),
            after.conflict_keys(),
        );
        shift(&self.live_bytes, before.value_bytes, after.value_bytes);
    }

    /// The same for a mutation that is applied.
    pub(crate) fn note(&self, segment: Segment, mutation: &Mutation) {
        let (before, after) = (mutation.before, mutation.after);
        self.change(segment, before.tally, after.tally, before.hash ^ after.hash);
    }

    /// Goes on from sums and hashes that were written down.
    pub(crate) fn starting_at(sums: Sums, hashes: SegmentHashes) -> Self {
        Self {
            keys: AtomicU64::new(sums.keys),
            versions: AtomicU64::new(sums.versions),
            conflict_keys: AtomicU64::new(sums.conflict_keys),
            live_bytes: AtomicU64::new(sums.live_bytes),
            hashes,
        }
    }

    /// The hashes of the segments.
    pub(crate) fn hashes(&self) -> &SegmentHashes {
        &self.hashes
    }

    /// The sums as they stand.
    pub(crate) fn sums(&self) -> Sums {
        Sums {
            keys: self.keys.load(Ordering::Relaxed),
            versions: self.versions.load(Ordering::Relaxed),
            conflict_keys: self.conflict_keys.load(Ordering::Relaxed),
            live_bytes: self.live_bytes.load(Ordering::Relaxed),
        }
    }

    /// The sums as they stand, with what the caller knows besides.
    pub(crate) fn totals(&self, disk_bytes: u64, corrupt_keys: u64) -> Totals {
        let sums = self.sums();
        Totals {
            keys: sums.keys,
            versions: sums.versions,
            conflict_keys: sums.conflict_keys,
            live_bytes: sums.live_bytes,
            disk_bytes,
            corrupt_keys,
        }
    }
}
