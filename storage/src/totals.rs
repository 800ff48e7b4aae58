//! How much a store holds, counted as it changes.
//!
//! The writer knows a key's state before and after each mutation, so the totals are sums of
//! differences: reading them costs a few loads, however many keys there are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynakv_protocol::causal::{Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::{Position, Segment, versions_hash};

use crate::error::StoreError;
use crate::recount::{Correction, Recount, Recounted};
use crate::segments::SegmentHashes;
use crate::store::{Mutation, Page};

/// What one key adds to the totals. All zero for a key that was never written or is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Siblings that are no tombstones and no second copies of what was replaced. Expired ones count until
    /// they are purged.
    pub versions: u64,
    /// The bytes of their values, without keys and clocks.
    pub value_bytes: u64,
}

impl Tally {
    /// Counts the live siblings of one key, as a reader would be shown them.
    pub fn of(versions: &Versions) -> Self {
        let mut tally = Self::default();
        for sibling in versions.standing() {
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

impl Sums {
    /// What a key's change adds; below zero it wraps.
    pub(crate) fn between(before: Tally, after: Tally) -> Self {
        let change = |from: u64, to: u64| to.wrapping_sub(from);
        Self {
            keys: change(before.keys(), after.keys()),
            versions: change(before.versions, after.versions),
            conflict_keys: change(before.conflict_keys(), after.conflict_keys()),
            live_bytes: change(before.value_bytes, after.value_bytes),
        }
    }

    pub(crate) fn plus(self, more: Self) -> Self {
        Self {
            keys: self.keys.wrapping_add(more.keys),
            versions: self.versions.wrapping_add(more.versions),
            conflict_keys: self.conflict_keys.wrapping_add(more.conflict_keys),
            live_bytes: self.live_bytes.wrapping_add(more.live_bytes),
        }
    }

    pub(crate) fn minus(self, less: Self) -> Self {
        Self {
            keys: self.keys.wrapping_sub(less.keys),
            versions: self.versions.wrapping_sub(less.versions),
            conflict_keys: self.conflict_keys.wrapping_sub(less.conflict_keys),
            live_bytes: self.live_bytes.wrapping_sub(less.live_bytes),
        }
    }
}

/// The running sums behind [`Totals`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    keys: AtomicU64,
    versions: AtomicU64,
    conflict_keys: AtomicU64,
    live_bytes: AtomicU64,
    hashes: SegmentHashes,
    /// A recount under way, and whether there is one: looked at without the lock.
    recount: Mutex<Option<Recount>>,
    is_recounting: AtomicBool,
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
    pub(crate) fn note(&self, position: Position, mutation: &Mutation) {
        let (before, after) = (mutation.before, mutation.after);
        let (segment, hash_change) = (position.segment(), before.hash ^ after.hash);
        self.change(segment, before.tally, after.tally, hash_change);
        // Whoever recounts keeps writers out meanwhile, so this is never old.
        if self.is_recounting.load(Ordering::Relaxed)
            && let Some(recount) = &mut *self.under_way()
        {
            recount.note(position, mutation);
        }
    }

    /// Counts one part anew; `scan` gives it. Nobody writes meanwhile. By what is kept wrongly.
    ///
    /// # Errors
    /// What `scan` says.
    pub(crate) fn recount(
        &self,
        after_key: Option<&[u8]>,
        scan: impl FnOnce() -> Result<Page, StoreError>,
    ) -> Result<(Recounted, Vec<Correction>), StoreError> {
        let mut under_way = self.under_way();
        self.is_recounting.store(false, Ordering::Relaxed);
        let mut recount = match (after_key, under_way.take()) {
            (Some(after), Some(recount)) if recount.is_at(after) => recount,
            (None, _) => Recount::begin(),
            // It was begun before the store was opened, or another one was begun since.
            (Some(_), _) => return Err(StoreError::NotRecounting),
        };
        let (page, damaged) = match scan() {
            Ok(page) => (page, None),
            Err(StoreError::Corrupt { key, .. }) => {
                let page = Page {
                    items: Vec::new(),
                    next: Some(key.clone()),
                };
                (page, Some(key))
            }
            Err(error) => return Err(error),
        };
        let mut corrections = Vec::new();
        let up_to = page.next.as_ref();
        recount.count(&page.items, up_to, &self.hashes, &mut corrections);
        let corrected_segments = corrections.len() as u32;
        if page.next.is_some() {
            *under_way = Some(recount);
            self.is_recounting.store(true, Ordering::Relaxed);
        } else {
            let correction = recount.correct(self.sums());
            if correction.sums != Sums::default() {
                corrections.push(correction);
            }
        }
        let recounted = Recounted {
            next: page.next,
            damaged,
            corrected_segments,
        };
        Ok((recounted, corrections))
    }

    /// A recount under way ends without having come to its end.
    pub(crate) fn forget_recount(&self) {
        *self.under_way() = None;
        self.is_recounting.store(false, Ordering::Relaxed);
    }

    /// Puts right what was kept wrongly.
    pub(crate) fn correct(&self, correction: &Correction) {
        self.hashes.change(correction.segment, correction.hash);
        let sums = correction.sums;
        for (counter, by) in [
            (&self.keys, sums.keys),
            (&self.versions, sums.versions),
            (&self.conflict_keys, sums.conflict_keys),
            (&self.live_bytes, sums.live_bytes),
        ] {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, Option<Recount>> {
        self.recount.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from sums and hashes that were written down.
    pub(crate) fn starting_at(sums: Sums, hashes: SegmentHashes) -> Self {
        Self {
            keys: AtomicU64::new(sums.keys),
            versions: AtomicU64::new(sums.versions),
            conflict_keys: AtomicU64::new(sums.conflict_keys),
            live_bytes: AtomicU64::new(sums.live_bytes),
            hashes,
            ..Self::default()
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
