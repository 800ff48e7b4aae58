//! What is in memory of a store: what was written and is not in the tree yet, and what was read or written lately.
//!
//! The ring is cut into [`SHARDS`] equal arcs, each a hash map with a lock of its own, so that a reader waits for one
//! insertion at most and never for a batch. A record carries the *generation* of its last write. The one that is being
//! written is *active*; an earlier one that is on its way into the tree is *frozen*; once the tree has it durably it is
//! *completed*, and so are all before it. What is not completed is *dirty*: nothing else has it but the log. The rest
//! is a cache. As both are one, what was carried into the tree is found in memory as before. A key that was removed is
//! there with empty versions, dirty as any write, and then as what is known not to be in the tree.
//!
//! | Rule | Why |
//! |---|---|
//! | only what is completed is dropped | what was carried is lost when the tree has to be opened again before its checkpoint is complete |
//! | what was read from the tree is added only where nothing was put or dropped since the look | it may be older than what was there meanwhile; merged with that, it would undo a write |
//! | a checkpoint carries exactly the frozen generation | what was written since may not be durable yet |
//! | what was written over before it was carried is in the log, durably, before the checkpoint is complete | the log that has the state before goes with it |
//!
//! What is cold goes first: CLOCK (Corbató, 1968), a shard at a time.

mod cursor;
mod record;
mod shard;
mod sync;
mod volume;

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use dynakv_protocol::hash::Position;

pub(crate) use self::cursor::{DirtyStretch, FrozenCursor};
pub(crate) use self::record::Entry;
#[cfg(test)]
pub(crate) use self::record::Pair;
use self::record::{OVERHEAD_BYTES, Record};
use self::shard::{Locked, Shard, Spread};
use self::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use self::sync::{RwLockReadGuard, RwLockWriteGuard};
pub(crate) use self::volume::Volume;
use self::volume::VolumeCounter;
use crate::status::StoreStatus;

/// How many arcs; a power of two. With a million keys an arc has 61. Tests have fewer, so that they are soon full.
const SHARDS: usize = match (cfg!(test), cfg!(dynakv_interleavings)) {
    (_, true) => 2,
    (true, false) => 64,
    (false, false) => 16_384,
};

/// How far a position is shifted to give its arc.
const SHIFT: u32 = u64::BITS - SHARDS.trailing_zeros();

/// What is larger, in bytes of key and versions, is not kept for having been read: one of these would take the room of
/// hundreds.
const FILL_BYTES_MAX: usize = 64 * 1024;

/// How many arcs are swept at most for one record that needs room.
const SWEEPS_MAX: usize = 16;

/// Keys and their encoded versions. One thread at a time puts and freezes, any thread reads.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Box<[Locked]>,
    spread: Spread,
    /// How much memory it aims at. Dirty records go beyond it, where they must.
    bytes_max: usize,
    bytes: AtomicUsize,
    /// The generation that is being written.
    active: AtomicU32,
    /// The newest generation that the tree has durably.
    completed: AtomicU32,
    volume: VolumeCounter,
    /// About how many bytes the frozen generation has, 0 while there is none.
    frozen_bytes: AtomicUsize,
    /// How many records of the frozen generation were written over since it was frozen.
    overwritten: AtomicUsize,
    /// The shard that is swept next.
    hand: AtomicUsize,
    misses: AtomicU64,
    dropped: AtomicU64,
}

/// What a look into the table finds.
#[derive(Debug)]
pub(crate) enum Look {
    /// These versions are the key's.
    Hit(Bytes),
    /// The tree has it, or nobody. What it says is added with this.
    Miss(Missed),
}

/// Says of a look that found nothing when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missed {
    drops: u32,
}

impl Table {
    /// An empty one, whose first generation is active.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Locked::default()).collect(),
            spread: Spread::by(RandomState::new().hash_one(0)),
            bytes_max,
            bytes: AtomicUsize::new(0),
            active: AtomicU32::new(1),
            completed: AtomicU32::new(0),
            volume: VolumeCounter::default(),
            frozen_bytes: AtomicUsize::new(0),
            overwritten: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            misses: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// What is in memory of a key, whose position the caller knows.
    pub(crate) fn get(&self, position: Position, key: &[u8]) -> Look {
        let shard = self.read(shard_of(position));
        match shard.find(self.spread, position.0, key) {
            Some(record) => {
                shard.count_hit();
                record.warm();
                Look::Hit(record.versions())
            }
            None => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                let drops = shard.drops;
                Look::Miss(Missed { drops })
            }
        }
    }

    /// The same, of small versions, and only where nobody has to be waited for. It counts as a look only where it finds
    /// something.
    pub(crate) fn get_hot(&self, position: Position, key: &[u8]) -> Option<Bytes> {
        let shard = self.shards[shard_of(position)].try_read()?;
        let record = shard.find(self.spread, position.0, key)?;
        record.is_small().then(|| {
            shard.count_hit();
            record.warm();
            record.versions()
        })
    }

    /// Brings what is in memory of a key near the processor, where nobody has to be waited for. Nothing depends on it: so
    /// that the processor waits for the memory of many keys at once, and not for one after the other.
    pub(crate) fn touch(&self, position: Position) {
        if let Some(shard) = self.shards[shard_of(position)].try_read() {
            shard.touch(self.spread, position.0);
        }
    }

    /// Puts a key and its encoded versions, one behind the other in `pair`, in place of what was there, as a part of
    /// the active generation.
    pub(crate) fn put(&self, position: Position, pair: &[u8], key_length: usize) {
        let generation = self.active.load(Ordering::Relaxed);
        let key = &pair[..key_length];
        let (before, after) = {
            let mut shard = self.write(shard_of(position));
            let replaced = |record: &mut Record| {
                let before = (record.generation, record.memory_bytes());
                record.replace(pair, generation);
                record.warm();
                (Some(before), record.memory_bytes())
            };
            let new = || {
                let record = Record::new(position.0, pair, key_length, generation);
                let bytes = record.memory_bytes();
                (record, (None, bytes))
            };
            let change = shard.place(self.spread, position.0, key, replaced, new);
            // Under the lock: who finds it of another generation knows that this is counted.
            if change
                .0
                .is_some_and(|(of, _)| self.is_dirty(of) && of < generation)
            {
                self.overwritten.fetch_add(1, Ordering::Relaxed);
            }
            change
        };
        match before {
            Some((of, before)) if of == generation => self.volume.resize(before, after),
            _ => self.volume.add(after),
        }
        let before = before.map_or(0, |(_, bytes)| bytes);
        // Wraps below zero and back: one addition, so that nobody sees half of it.
        self.bytes
            .fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        self.make_room(0);
    }

    /// Adds what the tree has of a key that was looked for in vain, unless that may be old by now.
    pub(crate) fn fill(&self, position: Position, key: &[u8], versions: &[u8], missed: Missed) {
        let bytes = key.len() + versions.len();
        if bytes > FILL_BYTES_MAX || !self.make_room(bytes + OVERHEAD_BYTES) {
            return;
        }
        let pair = [key, versions].concat();
        let mut shard = self.write(shard_of(position));
        if shard.drops != missed.drops {
            return;
        }
        let new = || {
            let record = Record::new(position.0, &pair, key.len(), 0);
            let bytes = record.memory_bytes();
            (record, bytes)
        };
        let added = shard.place(self.spread, position.0, key, |_| 0, new);
        self.bytes.fetch_add(added, Ordering::Relaxed);
    }

    /// How much the active generation has.
    pub(crate) fn active(&self) -> Volume {
        self.volume.get()
    }

    /// Freezes the active generation, and begins the next. The one before must be completed, and whoever puts must
    /// not be doing so. What was frozen.
    pub(crate) fn freeze(&self) -> Volume {
        self.overwritten.store(0, Ordering::Relaxed);
        let frozen = self.volume.take();
        self.frozen_bytes.store(frozen.bytes, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Release);
        frozen
    }

    /// Whether a record of the frozen generation was written over since.
    pub(crate) fn has_overwritten(&self) -> bool {
        self.overwritten.load(Ordering::Relaxed) > 0
    }

    /// The tree has the frozen generation durably.
    pub(crate) fn complete(&self) {
        let frozen = self.active.load(Ordering::Acquire) - 1;
        self.completed.store(frozen, Ordering::Release);
        self.frozen_bytes.store(0, Ordering::Relaxed);
    }

    /// About how much memory it has for what is dirty, in bytes. A record that was frozen and written over counts twice.
    fn dirty_bytes(&self) -> usize {
        self.active().bytes + self.frozen_bytes.load(Ordering::Relaxed)
    }

    /// Puts how it is doing into a status. Visits every shard.
    pub(crate) fn fill_status(&self, status: &mut StoreStatus) {
        status.table_bytes = self.bytes.load(Ordering::Relaxed) as u64;
        status.table_hits = (0..SHARDS).map(|shard| self.read(shard).hits()).sum();
        status.table_misses = self.misses.load(Ordering::Relaxed);
        status.table_evictions = self.dropped.load(Ordering::Relaxed);
    }

    fn is_dirty(&self, generation: u32) -> bool {
        generation > self.completed.load(Ordering::Acquire)
    }

    /// Makes room for so many bytes more. Whether there is: dirty records stay.
    fn make_room(&self, bytes: usize) -> bool {
        let held = || self.bytes.load(Ordering::Relaxed);
        let is_enough = || held().saturating_add(bytes) <= self.bytes_max;
        for _ in 0..SWEEPS_MAX {
            if is_enough() {
                return true;
            }
            if held() <= self.dirty_bytes() {
                // It would be in vain.
                return false;
            }
            self.sweep(self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        is_enough()
    }

    /// Drops what is cold and clean of a shard, and lets the rest of it cool down.
    fn sweep(&self, shard: usize) {
        let (mut dropped, mut bytes) = (0, 0);
        self.write(shard).retain(|record| {
            let is_kept = self.is_dirty(record.generation) || !record.cool();
            if !is_kept {
                dropped += 1;
                bytes += record.memory_bytes();
            }
            is_kept
        });
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Drops all that is clean.
    #[cfg(test)]
    pub(crate) fn forget_clean(&self) {
        // The hottest has cooled down by then.
        for _ in 0..8 {
            (0..SHARDS).for_each(|shard| self.sweep(shard));
        }
    }

    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Shard> {
        self.shards[shard].read()
    }

    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[shard].write()
    }
}

fn shard_of(position: Position) -> usize {
    (position.0 >> SHIFT) as usize
}

#[cfg(all(test, dynakv_interleavings))]
mod interleavings;
#[cfg(test)]
mod tests;
