//! How much a store holds, counted as it changes.
//!
//! The writer knows a key's state before and after each mutation, so the totals are sums of
//! differences: reading them costs a few loads, however many keys there are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynakv_protocol::hash::{Position, Segment};

use crate::error::StoreError;
use crate::footprint::{Sums, Tally, Totals};
use crate::items::{Mutation, Page};
use crate::recount::{Correction, Recount, Recounted};
use crate::segments::SegmentHashes;

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
            lost_segments: Vec::new(),
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
