//! What was written and is not in the tree yet: a map in memory, in ring order.
//!
//! The ring is cut into [`SHARDS`] equal arcs, each with a map and a lock of its own, so that a reader
//! waits for one insertion at most and never for a batch. A map is keyed by ring position; the few keys
//! that share one lie in a map of their own, so that keys made to collide cost a logarithm and no more.
//! Being ordered, it is walked without sorting: by a scan, and by the checkpoint that carries it into the
//! tree.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use dynakv_protocol::hash::Position;

use crate::items::PositionRange;

/// How many arcs; a power of two. With the default bound an arc has a dozen or two.
const SHARDS: usize = 16_384;

/// How far a position is shifted to give its arc.
const SHIFT: u32 = u64::BITS - SHARDS.trailing_zeros();

/// What an entry costs beyond its bytes: its part of a tree node, a shared buffer, the allocator.
const ENTRY_OVERHEAD_BYTES: usize = 112;

/// Versions up to this size are copied for a reader, larger ones shared with it.
const COPIED_BYTES_MAX: usize = 4096;

/// How many entries a cursor takes out at a time, under one lock.
const CURSOR_ENTRIES: usize = 128;

/// A key and its encoded versions, one behind the other in one piece of memory. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    bytes: Arc<[u8]>,
    key_length: usize,
}

impl Pair {
    /// Copies it: what comes from the network is a part of a larger buffer, which a long-lived entry
    /// must not keep in memory.
    pub(crate) fn copy(bytes: &[u8], key_length: usize) -> Self {
        Self {
            bytes: Arc::from(bytes),
            key_length,
        }
    }

    /// The key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_length]
    }

    /// The encoded versions.
    pub(crate) fn versions(&self) -> &[u8] {
        &self.bytes[self.key_length..]
    }

    /// The encoded versions, for others to keep.
    pub(crate) fn shared_versions(&self) -> Bytes {
        if self.versions().len() <= COPIED_BYTES_MAX {
            Bytes::copy_from_slice(self.versions())
        } else {
            Bytes::from_owner(VersionsOf(self.clone()))
        }
    }
}

/// The second half of a pair.
struct VersionsOf(Pair);

impl AsRef<[u8]> for VersionsOf {
    fn as_ref(&self) -> &[u8] {
        self.0.versions()
    }
}

/// What lies at one ring position.
#[derive(Debug)]
enum Slot {
    One(Pair),
    Many(BTreeMap<Box<[u8]>, Pair>),
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
        let shard = self.read(shard_of(position));
        let pair = match shard.get(&position.0)? {
            Slot::One(pair) => (pair.key() == key).then_some(pair)?,
            Slot::Many(pairs) => pairs.get(key)?,
        };
        Some(pair.shared_versions())
    }

    /// Puts a key's encoded versions in, in place of what was there.
    pub(crate) fn insert(&self, position: Position, pair: Pair) {
        let added = pair.bytes.len() + ENTRY_OVERHEAD_BYTES;
        // What it replaces is given back to the allocator after the lock is.
        match self.replace(position, pair) {
            Some(old) => {
                let removed = old.bytes.len() + ENTRY_OVERHEAD_BYTES;
                // Wraps below zero and back: one addition, so that nobody sees half of it.
                self.bytes
                    .fetch_add(added.wrapping_sub(removed), Ordering::Relaxed);
            }
            None => {
                self.entries.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(added, Ordering::Relaxed);
            }
        }
    }

    fn replace(&self, position: Position, pair: Pair) -> Option<Pair> {
        let mut shard = self.write(shard_of(position));
        match shard.entry(position.0) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Slot::One(pair));
                None
            }
            btree_map::Entry::Occupied(mut occupied) => match occupied.get_mut() {
                Slot::One(old) if old.key() == pair.key() => Some(std::mem::replace(old, pair)),
                Slot::One(other) => {
                    let named = |pair: Pair| (Box::from(pair.key()), pair);
                    let both = [named(other.clone()), named(pair)];
                    occupied.insert(Slot::Many(BTreeMap::from(both)));
                    None
                }
                Slot::Many(pairs) => pairs.insert(Box::from(pair.key()), pair),
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
    /// The key and its versions.
    pub(crate) pair: Pair,
}

impl Entry {
    /// Its place in ring order.
    pub(crate) fn place(&self) -> (Position, &[u8]) {
        (self.position, self.pair.key())
    }
}

/// Walks a range of a memtable in ring order, a few entries per lock.
#[derive(Debug)]
pub(crate) struct Cursor {
    table: Arc<Memtable>,
    end: Option<Position>,
    /// Where the next look begins.
    position: Position,
    /// Only keys behind this one, at `position`.
    after: Option<Box<[u8]>>,
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
            Some((position, key)) if position >= range.start => (position, Some(Box::from(key))),
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
                let (one, many) = match slot {
                    Slot::One(pair) => {
                        let is_behind = after.is_none_or(|after| pair.key() > after);
                        (is_behind.then_some(pair), None)
                    }
                    Slot::Many(pairs) => {
                        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
                        let behind = pairs.range::<[u8], _>((lower, Bound::Unbounded));
                        (None, Some(behind.map(|(_, pair)| pair)))
                    }
                };
                for pair in one.into_iter().chain(many.into_iter().flatten()) {
                    if self.taken.len() == CURSOR_ENTRIES {
                        break 'shard;
                    }
                    let pair = pair.clone();
                    self.taken.push_back(Entry { position, pair });
                }
            }
        }
        if self.taken.len() == CURSOR_ENTRIES
            && let Some(last) = self.taken.back()
        {
            self.position = last.position;
            self.after = Some(Box::from(last.pair.key()));
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

    fn pair(key: &[u8], versions: &[u8]) -> Pair {
        Pair::copy(&[key, versions].concat(), key.len())
    }

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
            table.insert(position, pair(key.as_bytes(), &versions));
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
        let places = model.keys().map(|(position, key)| (*position, &key[..]));
        assert!(all.iter().map(Entry::place).eq(places));
        for at in [0, 1, 7_777, 14_998] {
            let range = PositionRange {
                start: all[at / 2].position,
                end: Some(all[14_999].position),
            };
            let rest = walk(&table, range, Some(all[at].pair.key()));
            assert_eq!(rest, all[at + 1..14_999]);
        }
    }

    #[test]
    fn keys_made_to_share_a_position_are_kept_apart() {
        let table = Arc::new(Memtable::new());
        let place = Position(u64::MAX);
        for number in 0..1000_u32 {
            table.insert(place, pair(&number.to_be_bytes(), b"old"));
            table.insert(place, pair(&number.to_be_bytes(), b"new!"));
        }
        assert_eq!(table.entries(), 1000);
        assert_eq!(table.bytes(), 1000 * (4 + 4 + ENTRY_OVERHEAD_BYTES));
        for number in 0..1000_u32 {
            assert_eq!(table.get(place, &number.to_be_bytes()).unwrap(), "new!");
        }
        assert_eq!(table.get(place, b"other"), None);
        let keys: Vec<_> = walk(&table, PositionRange::ALL, None)
            .into_iter()
            .map(|entry| entry.pair.key().to_vec())
            .collect();
        let expected: Vec<_> = (0..1000_u32)
            .map(|number| number.to_be_bytes().to_vec())
            .collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn large_versions_are_shared_and_outlive_the_table() {
        let table = Memtable::new();
        let place = Position(1);
        let large = vec![7; COPIED_BYTES_MAX + 1];
        table.insert(place, pair(b"k", &large));
        let first = table.get(place, b"k").unwrap();
        let second = table.get(place, b"k").unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        table.insert(place, pair(b"k", b"small"));
        assert_eq!(table.get(place, b"k").unwrap(), "small");
        drop(table);
        assert_eq!(first, large);
    }
}
