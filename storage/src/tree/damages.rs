//! What was found damaged since the tree was opened.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynakv_protocol::hash::Segment;

use super::block::BlockKey;
use crate::format::position_of_record;
use crate::items::PositionRange;

/// The number of the next damage. Of the process: a tree that is opened again gives none a second time.
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

/// How many damaged keys are told apart; beyond, they are counted no more.
const DAMAGED_KEYS_MAX: usize = 65_536;

/// Damaged values that were met, and blocks of which it no longer matters that something in them was lost.
#[derive(Debug, Default)]
pub(super) struct Damages {
    /// The record keys of damaged values that were met and not written anew since, each with the number of its damage.
    keys: Mutex<BTreeMap<Vec<u8>, u32>>,
    /// How many these are: looked at without the lock.
    count: AtomicUsize,
    /// How often one was met.
    reads: AtomicU64,
    /// Losses of blocks that nobody waits for any more. Until they are written anew they say otherwise.
    forgiven: Mutex<BTreeMap<BlockKey, u32>>,
    /// How many these are.
    forgiven_count: AtomicUsize,
    /// How often one was.
    forgave: AtomicU64,
}

impl Damages {
    /// A damaged value was met.
    pub(super) fn met(&self, record_key: Vec<u8>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut keys = self.keys();
        if keys.len() < DAMAGED_KEYS_MAX {
            // It stays the same damage however often it is met.
            let number = || NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
            keys.entry(record_key).or_insert_with(number);
            self.count.store(keys.len(), Ordering::Relaxed);
        }
    }

    /// A part was met in which values are lost.
    pub(super) fn met_loss(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether any value is known that is damaged.
    pub(super) fn any(&self) -> bool {
        self.keys_count() > 0
    }

    /// A key is written anew.
    pub(super) fn mended(&self, record_key: &[u8]) {
        let mut keys = self.keys();
        keys.remove(record_key);
        self.count.store(keys.len(), Ordering::Relaxed);
    }

    /// The record keys of a segment whose values were met damaged, and the numbers of these damages.
    pub(super) fn of_segment(&self, segment: Segment) -> Vec<(Vec<u8>, u32)> {
        if !self.any() {
            return Vec::new();
        }
        let from = segment.start().0.to_be_bytes().to_vec();
        let keys = self.keys();
        let keys = keys.range(from..);
        let keys = keys.take_while(|(key, _)| position_of_record(key).segment() == segment);
        keys.map(|(key, &number)| (key.clone(), number)).collect()
    }

    /// Whether a key is still as damaged as it was under this number.
    pub(super) fn is_damaged(&self, record_key: &[u8], number: u32) -> bool {
        self.keys().get(record_key) == Some(&number)
    }

    /// How many damaged values were met and not written anew since.
    pub(super) fn keys_count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How often one was met.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Nobody waits any more for what this block lost then.
    pub(super) fn forgive(&self, key: BlockKey, loss: u32) {
        let mut forgiven = self.forgiven();
        forgiven.insert(key, loss);
        self.forgave.fetch_add(1, Ordering::Release);
        self.forgiven_count.store(forgiven.len(), Ordering::Release);
    }

    /// Whether that is so.
    pub(super) fn is_forgiven(&self, key: BlockKey, loss: u32) -> bool {
        let any = self.forgiven_count.load(Ordering::Acquire) > 0;
        any && self.forgiven().get(&key) == Some(&loss)
    }

    /// How often a loss was forgiven, and whether one of them still stands in its block.
    pub(super) fn forgave(&self) -> (u64, bool) {
        let stands = self.forgiven_count.load(Ordering::Acquire) > 0;
        (self.forgave.load(Ordering::Acquire), stands)
    }

    /// All blocks of an arc were written anew: what they say of losses is true again.
    pub(super) fn settle(&self, arc: PositionRange) {
        if self.forgiven_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut forgiven = self.forgiven();
        forgiven.retain(|key, _| !arc.contains(key.arc().start));
        self.forgiven_count.store(forgiven.len(), Ordering::Release);
    }

    // Insertions and removals leave a whole set whatever happens.

    fn keys(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, u32>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forgiven(&self) -> MutexGuard<'_, BTreeMap<BlockKey, u32>> {
        self.forgiven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
