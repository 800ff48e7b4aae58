//! One arc of the ring: a hash map by position.
//!
//! A position is a hash of its key already, so two keys of one store share one by design only, of whoever made them.
//! The first of them lies in the map, the others in an ordered map beside it, so that such keys cost a logarithm and
//! no more. Which bucket a position falls into depends on a number that nobody outside knows.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::{PoisonError, TryLockError};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use super::record::{Entry, Record};
use super::sync::atomic::{AtomicU32, Ordering};
use super::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::items::Cut;

/// Keys by position, then by key: those that came after another one of their position.
type Crowd = BTreeMap<u64, BTreeMap<Box<[u8]>, Record>>;

/// A shard and its lock, in one line of the processor's cache.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Locked(RwLock<Shard>);

#[cfg(not(dynakv_interleavings))]
const _: () = assert!(size_of::<Locked>() == 64);

// Nothing of ours panics under the lock but for want of memory, which ends the process.
impl Locked {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Shard> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing where it would have to wait.
    pub(super) fn try_read(&self) -> Option<RwLockReadGuard<'_, Shard>> {
        match self.0.try_read() {
            Ok(shard) => Some(shard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Shard> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records of an arc, in no order.
#[derive(Debug, Default)]
pub(super) struct Shard {
    records: HashTable<Record>,
    crowd: Option<Box<Crowd>>,
    /// How many records were dropped: who has looked for one in vain, and would now add it, sees by it that it may
    /// have been here meanwhile.
    pub(super) drops: u32,
    /// How often something was found. It wraps, as counters may.
    hits: AtomicU32,
}

/// Spreads positions over buckets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread(u64);

impl Spread {
    pub(super) fn by(seed: u64) -> Self {
        Self(seed)
    }

    /// Multiplies, and folds the two halves of the product: each bit counts everywhere.
    fn hash(self, position: u64) -> u64 {
        const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(position ^ self.0) * FACTOR;
        (product >> 64) as u64 ^ product as u64
    }
}

impl Shard {
    /// The record of a key.
    pub(super) fn find(&self, spread: Spread, position: u64, key: &[u8]) -> Option<&Record> {
        let hash = spread.hash(position);
        let first = self.records.find(hash, |it| it.position() == position);
        match first {
            Some(record) if record.key() == key => Some(record),
            _ => self.crowd.as_ref()?.get(&position)?.get(key),
        }
    }

    /// Looks at what is at a position, and at the memory behind it.
    pub(super) fn touch(&self, spread: Spread, position: u64) {
        let hash = spread.hash(position);
        if let Some(record) = self.records.find(hash, |it| it.position() == position) {
            black_box(record.key().first());
        }
    }

    /// Something was found.
    pub(super) fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// The record of a key, or where it is to be put.
    pub(super) fn place<T>(
        &mut self,
        spread: Spread,
        position: u64,
        key: &[u8],
        found: impl FnOnce(&mut Record) -> T,
        new: impl FnOnce() -> (Record, T),
    ) -> T {
        let rehash = |it: &Record| spread.hash(it.position());
        if let Some(record) = self.in_crowd(position, key) {
            return found(record);
        }
        let hash = spread.hash(position);
        let same_position = |it: &Record| it.position() == position;
        match self.records.entry(hash, same_position, rehash) {
            Place::Vacant(vacant) => {
                let (record, result) = new();
                vacant.insert(record);
                result
            }
            Place::Occupied(mut occupied) if occupied.get().key() == key => {
                found(occupied.get_mut())
            }
            Place::Occupied(_) => {
                let (record, result) = new();
                let crowd = self.crowd.get_or_insert_default();
                let others = crowd.entry(position).or_default();
                others.insert(Box::from(key), record);
                result
            }
        }
    }

    fn in_crowd(&mut self, position: u64, key: &[u8]) -> Option<&mut Record> {
        self.crowd.as_mut()?.get_mut(&position)?.get_mut(key)
    }

    /// Drops what is not to be kept.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut Record) -> bool) {
        let mut drops = self.drops;
        let mut keep = |record: &mut Record| {
            let is_kept = keep(record);
            drops = drops.wrapping_add(u32::from(!is_kept));
            is_kept
        };
        self.records.retain(&mut keep);
        if let Some(crowd) = &mut self.crowd {
            crowd.retain(|_, others| {
                others.retain(|_, record| keep(record));
                !others.is_empty()
            });
            if crowd.is_empty() {
                self.crowd = None;
            }
        }
        self.drops = drops;
    }

    /// Copies of the records that are wanted and lie behind a place: the first `most` of them in ring order, and
    /// whether that was all.
    pub(super) fn first_behind(
        &self,
        from: &Cut,
        most: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> (Vec<Entry>, bool) {
        let uncrowded = self
            .records
            .iter()
            .filter(|it| wanted(it) && it.is_behind(from));
        // These come in ring order.
        let crowded = self.crowded(from).filter(|it| wanted(it));
        let mut found: Vec<&Record> = uncrowded.chain(crowded.take(most + 1)).collect();
        let is_all = found.len() <= most;
        if !is_all {
            found.select_nth_unstable_by(most, |a, b| a.order(b));
            found.truncate(most);
        }
        found.sort_unstable_by(|a, b| a.order(b));
        (found.into_iter().map(Record::entry).collect(), is_all)
    }

    /// Those of the crowd behind a place.
    fn crowded(&self, from: &Cut) -> impl Iterator<Item = &Record> {
        let crowd = self.crowd.as_deref();
        let position = from.position.0;
        let lower = from
            .behind
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let here = crowd.and_then(|crowd| crowd.get(&position));
        let here = here
            .into_iter()
            .flat_map(move |it| it.range::<[u8], _>((lower, Bound::Unbounded)));
        let behind = (Bound::Excluded(position), Bound::Unbounded);
        let others = crowd.into_iter().flat_map(move |it| it.range(behind));
        here.chain(others.flat_map(|(_, others)| others.iter()))
            .map(|(_, record)| record)
    }

    /// How often something was found.
    pub(super) fn hits(&self) -> u64 {
        u64::from(self.hits.load(Ordering::Relaxed))
    }
}
