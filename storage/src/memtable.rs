//! What was written and is not in the tree yet: a map in memory, in ring order.
//!
//! The ring is cut into [`SHARDS`] equal arcs, each with a map and a lock of its own, so that a reader
//! waits for one insertion at most and never for a batch. A map is keyed by ring position; the few keys
//! that share one lie in a map of their own, so that keys made to collide cost a logarithm and no more.
//! Being ordered, it is walked without sorting: by a scan, and by the checkpoint that carries it into the
//! tree.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use dynakv_protocol::hash::Position;

use crate::store::PositionRange;

/// How many arcs; a power of two. With the default bound an arc has some dozens of entries.
const SHARDS: usize = 4096;

/// How far a position is shifted to give its arc.
const SHIFT: u32 = u64::BITS - SHARDS.trailing_zeros();

/// What an entry costs beyond its bytes: its part of a tree node, two shared buffers, the allocator.
const ENTRY_OVERHEAD_BYTES: usize = 176;

/// How many entries a cursor takes out at a time, under one lock.
const CURSOR_ENTRIES: usize = 128;

/// What lies at one ring position.
#[derive(Debug)]
enum Slot {
    One { key: Bytes, versions: Bytes },
    Many(BTreeMap<Bytes, Bytes>),
}

type Shard = BTreeMap<u64, Slot>;

/// Keys and their encoded versions, in ring order. One thread inserts, any thread reads.
#[derive(Debug)]
pub(crate) struct Memtable {
    shards: Box<[RwLock<Shard>]>,
    bytes: AtomicUsize,
    entries: AtomicUsize,
}

impl Memtable {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            bytes: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
        }
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many keys it has.
    pub(crate) fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// The encoded versions under a key, whose position the caller knows.
    pub(crate) fn get(&self, position: Position, key: &[u8]) -> Option<Bytes> {
        match self.read(shard_of(position)).get(&position.0)? {
            Slot::One { key: it, versions } => (it == key).then(|| versions.clone()),
            Slot::Many(keys) => keys.get(key).cloned(),
        }
    }

    /// Puts in the encoded versions of a key, in place of what was there.
    ///
    /// Both are copied: what comes from the network is a piece of a larger buffer, which a long-lived
    /// entry must not keep in memory.
    pub(crate) fn insert(&self, position: Position, key: &[u8], versions: &[u8]) {
        let versions = Bytes::copy_from_slice(versions);
        let added = versions.len();
        // What it replaces is given back to the allocator after the lock is.
        let replaced = self.replace(position, key, versions);
        match replaced {
            Some(old) => {
                self.bytes.fetch_add(added, Ordering::Relaxed);
                self.bytes.fetch_sub(old.len(), Ordering::Relaxed);
            }
            None => {
                self.entries.fetch_add(1, Ordering::Relaxed);
                let bytes = added + key.len() + ENTRY_OVERHEAD_BYTES;
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    fn replace(&self, position: Position, key: &[u8], versions: Bytes) -> Option<Bytes> {
        let mut shard = self.write(shard_of(position));
        let Some(slot) = shard.get_mut(&position.0) else {
            let key = Bytes::copy_from_slice(key);
            shard.insert(position.0, Slot::One { key, versions });
            return None;
        };
        match slot {
            Slot::One {
                key: it,
                versions: old,
            } => {
                if it == key {
                    return Some(std::mem::replace(old, versions));
                }
                let both = [
                    (it.clone(), old.clone()),
                    (Bytes::copy_from_slice(key), versions),
                ];
                *slot = Slot::Many(BTreeMap::from(both));
                None
            }
            Slot::Many(keys) => match keys.get_mut(key) {
                Some(old) => Some(std::mem::replace(old, versions)),
                None => keys.insert(Bytes::copy_from_slice(key), versions),
            },
        }
    }

    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Shard> {
        // Nothing of ours panics under the lock but for want of memory, which ends the process.
        let shard = &self.shards[shard];
        shard.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Shard> {
        let shard = &self.shards[shard];
        shard.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shard_of(position: Position) -> usize {
    (position.0 >> SHIFT) as usize
}

/// One key of a memtable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it lies on the ring.
    pub(crate) position: Position,
    /// The key.
    pub(crate) key: Bytes,
    /// Encoded versions.
    pub(crate) versions: Bytes,
}

/// Walks a range of a memtable in ring order, a few entries per lock.
#[derive(Debug)]
pub(crate) struct Cursor {
    table: Arc<Memtable>,
    end: Option<Position>,
    /// Where the next look begins.
    position: Position,
    /// Only keys behind this one, at `position`.
    after: Option<Bytes>,
    finished: bool,
    taken: VecDeque<Entry>,
}

impl Cursor {
    /// At the beginning of the range, or behind a key if that lies further on.
    pub(crate) fn new(
        table: Arc<Memtable>,
        range: PositionRange,
        after_key: Option<&[u8]>,
    ) -> Self {
        let after = after_key.map(|key| (Position::of_key(key), key));
        let (position, after) = match after {
            Some((position, key)) if position >= range.start => {
                (position, Some(Bytes::copy_from_slice(key)))
            }
            Some(_) | None => (range.start, None),
        };
        Self {
            table,
            end: range.end,
            position,
            after,
            finished: false,
            taken: VecDeque::new(),
        }
    }

    /// The next entry, which stays there.
    pub(crate) fn peek(&mut self) -> Option<&Entry> {
        while self.taken.is_empty() && !self.finished {
            self.take_more();
        }
        self.taken.front()
    }

    /// Takes the next entry.
    pub(crate) fn next(&mut self) -> Option<Entry> {
        self.peek()?;
        self.taken.pop_front()
    }

    /// Takes entries out of the arc in which `position` lies, and goes on to the next arc if that was all.
    fn take_more(&mut self) {
        let is_behind_end = |position| self.end.is_some_and(|end| position >= end);
        if is_behind_end(self.position) {
            self.finished = true;
            return;
        }
        let index = shard_of(self.position);
        {
            let shard = self.table.read(index);
            'shard: for (&position, slot) in shard.range(self.position.0..) {
                let position = Position(position);
                if is_behind_end(position) {
                    break;
                }
                let after = if position == self.position {
                    self.after.as_deref()
                } else {
                    None
                };
                let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
                let (one, many) = match slot {
                    Slot::One { key, versions } => {
                        let wanted = after.is_none_or(|after| &key[..] > after);
                        (wanted.then_some((key, versions)), None)
                    }
                    Slot::Many(keys) => {
                        let range = (lower, Bound::Unbounded);
                        (None, Some(keys.range::<[u8], _>(range)))
                    }
                };
                for (key, versions) in one.into_iter().chain(many.into_iter().flatten()) {
                    if self.taken.len() == CURSOR_ENTRIES {
                        break 'shard;
                    }
                    self.taken.push_back(Entry {
                        position,
                        key: key.clone(),
                        versions: versions.clone(),
                    });
                }
            }
        }
        if self.taken.len() == CURSOR_ENTRIES
            && let Some(last) = self.taken.back()
        {
            self.position = last.position;
            self.after = Some(last.key.clone());
            return;
        }
        self.after = None;
        match index + 1 {
            SHARDS => self.finished = true,
            next => self.position = Position((next as u64) << SHIFT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(table: &Arc<Memtable>, range: PositionRange, after: Option<&[u8]>) -> Vec<Entry> {
        let mut cursor = Cursor::new(table.clone(), range, after);
        std::iter::from_fn(|| cursor.next()).collect()
    }

    #[test]
    fn keys_are_found_replaced_counted_and_walked_in_ring_order() {
        let table = Arc::new(Memtable::new());
        let mut model = BTreeMap::new();
        for number in 0..20_000_u32 {
            let key = format!("key-{}", number % 15_000);
            let position = Position::of_key(key.as_bytes());
            let versions = number.to_be_bytes();
            table.insert(position, key.as_bytes(), &versions);
            model.insert((position, Bytes::from(key)), versions);
        }
        assert_eq!(table.entries(), 15_000);
        let exact: usize = model.keys().map(|(_, key)| key.len() + 4).sum();
        assert_eq!(table.bytes(), exact + 15_000 * ENTRY_OVERHEAD_BYTES);
        for ((position, key), versions) in &model {
            assert_eq!(table.get(*position, key).unwrap(), versions[..]);
        }
        assert_eq!(table.get(Position::of_key(b"other"), b"other"), None);
        let all = walk(&table, PositionRange::ALL, None);
        assert!(
            all.iter()
                .map(|e| (e.position, &e.key))
                .eq(model.keys().map(|(p, k)| (*p, k)))
        );
        for at in [0, 1, 7_777, 14_998] {
            let range = PositionRange {
                start: all[at / 2].position,
                end: Some(all[14_999].position),
            };
            let rest = walk(&table, range, Some(&all[at].key));
            assert_eq!(rest, all[at + 1..14_999]);
        }
    }

    #[test]
    fn keys_made_to_share_a_position_are_kept_apart() {
        let table = Arc::new(Memtable::new());
        let place = Position(u64::MAX);
        for number in 0..1000_u32 {
            table.insert(place, &number.to_be_bytes(), b"old");
            table.insert(place, &number.to_be_bytes(), b"new!");
        }
        assert_eq!(table.entries(), 1000);
        assert_eq!(table.bytes(), 1000 * (4 + 4 + ENTRY_OVERHEAD_BYTES));
        for number in 0..1000_u32 {
            assert_eq!(table.get(place, &number.to_be_bytes()).unwrap(), "new!");
        }
        assert_eq!(table.get(place, b"other"), None);
        let keys: Vec<_> = walk(&table, PositionRange::ALL, None)
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        let expected: Vec<_> = (0..1000_u32)
            .map(|number| Bytes::copy_from_slice(&number.to_be_bytes()))
            .collect();
        assert_eq!(keys, expected);
    }
}
