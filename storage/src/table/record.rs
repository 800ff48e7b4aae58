//! One key and what is stored under it, in memory.

use std::cmp::Ordering as Order;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use dynakv_protocol::hash::Position;

use crate::items::{Cut, HOT_BYTES_MAX};

/// What a record costs beyond its buffer: its place in a shard, two thirds full on the average, and what the
/// allocator needs for a shared buffer.
pub(super) const OVERHEAD_BYTES: usize = 72;

/// The most bytes that a buffer may have unused: what is shorter by more gets a buffer of its own.
const SLACK_BYTES_MAX: usize = u8::MAX as usize;

/// A small buffer has a multiple of so many bytes, header included: allocators give no less. A counter that becomes a
/// byte longer then costs no new buffer.
pub(super) const GRAIN_BYTES: usize = 16;

/// The largest buffer, in bytes, that is rounded up.
const ROUNDED_BYTES_MAX: usize = 512;

/// How hot a record can get: so often the sweep passes it by.
const HEAT_MAX: u8 = 3;

/// A key and its encoded versions, one behind the other in one piece of memory. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    bytes: Arc<[u8]>,
    key_length: usize,
    length: usize,
}

impl Pair {
    /// Copies it: what comes from the network is a part of a larger buffer, which a long-lived entry
    /// must not keep in memory.
    #[cfg(test)]
    pub(crate) fn copy(bytes: &[u8], key_length: usize) -> Self {
        Self {
            bytes: Arc::from(bytes),
            key_length,
            length: bytes.len(),
        }
    }

    /// The key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_length]
    }

    /// The encoded versions.
    pub(crate) fn versions(&self) -> &[u8] {
        &self.bytes[self.key_length..self.length]
    }

    /// The encoded versions, for others to keep.
    pub(crate) fn shared_versions(&self) -> Bytes {
        shared(&self.bytes, self.key_length..self.length)
    }
}

/// A part of a buffer, for others to keep: a copy of a small one.
fn shared(bytes: &Arc<[u8]>, part: Range<usize>) -> Bytes {
    if part.len() <= HOT_BYTES_MAX {
        Bytes::copy_from_slice(&bytes[part])
    } else {
        Bytes::from_owner(Part(bytes.clone(), part))
    }
}

/// A buffer with a copy of a pair, and how many bytes of it are unused.
fn buffer_of(pair: &[u8]) -> (Arc<[u8]>, u8) {
    let rounded = pair.len().next_multiple_of(GRAIN_BYTES);
    if rounded > ROUNDED_BYTES_MAX {
        return (Arc::from(pair), 0);
    }
    let mut buffer = [0; ROUNDED_BYTES_MAX];
    buffer[..pair.len()].copy_from_slice(pair);
    (Arc::from(&buffer[..rounded]), (rounded - pair.len()) as u8)
}

struct Part(Arc<[u8]>, Range<usize>);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1.clone()]
    }
}

/// One key of the table, copied out of it.
#[derive(Debug, Clone)]
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

/// A key and its encoded versions, which generation wrote them, and how much they are wanted. 32 bytes, and a
/// buffer that is written over in place while nobody else holds it.
#[derive(Debug)]
pub(super) struct Record {
    position: u64,
    bytes: Arc<[u8]>,
    /// The generation of its last write; 0 for what was only read.
    pub(super) generation: u32,
    key_length: u16,
    slack: u8,
    heat: AtomicU8,
}

const _: () = assert!(size_of::<Record>() == 32);

impl Record {
    /// A key, and its versions behind it.
    pub(super) fn new(position: u64, pair: &[u8], key_length: usize, generation: u32) -> Self {
        let (bytes, slack) = buffer_of(pair);
        Self {
            position,
            bytes,
            generation,
            // `check_lengths` has refused longer ones.
            key_length: key_length as u16,
            slack,
            heat: AtomicU8::new(0),
        }
    }

    /// Puts other versions of the same key in the place of these.
    pub(super) fn replace(&mut self, pair: &[u8], generation: u32) {
        self.generation = generation;
        let slack = self.bytes.len().checked_sub(pair.len());
        if let Some(slack) = slack.filter(|&slack| slack <= SLACK_BYTES_MAX)
            && let Some(bytes) = Arc::get_mut(&mut self.bytes)
        {
            let key_length = usize::from(self.key_length);
            bytes[key_length..pair.len()].copy_from_slice(&pair[key_length..]);
            self.slack = slack as u8;
        } else {
            (self.bytes, self.slack) = buffer_of(pair);
        }
    }

    /// Where it lies on the ring.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The key.
    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..usize::from(self.key_length)]
    }

    /// The encoded versions, for others to keep.
    pub(super) fn versions(&self) -> Bytes {
        shared(&self.bytes, usize::from(self.key_length)..self.length())
    }

    /// Whether its versions are copied for a reader, and not shared with it.
    pub(super) fn is_small(&self) -> bool {
        self.length() - usize::from(self.key_length) <= HOT_BYTES_MAX
    }

    /// What a walk takes out of the table. While that is held, a write gets a buffer of its own.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            position: Position(self.position),
            pair: Pair {
                bytes: self.bytes.clone(),
                key_length: usize::from(self.key_length),
                length: self.length(),
            },
        }
    }

    /// About how much memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }

    /// It was wanted. Often it is as hot as can be, and nothing is written.
    pub(super) fn warm(&self) {
        let heat = self.heat.load(Ordering::Relaxed);
        if heat < HEAT_MAX {
            self.heat.store(heat + 1, Ordering::Relaxed);
        }
    }

    /// The sweep comes by. Whether it was cold already.
    pub(super) fn cool(&mut self) -> bool {
        let heat = self.heat.get_mut();
        match heat.checked_sub(1) {
            Some(less) => {
                *heat = less;
                false
            }
            None => true,
        }
    }

    /// Ring order.
    pub(super) fn order(&self, other: &Self) -> Order {
        (self.position, self.key()).cmp(&(other.position, other.key()))
    }

    /// Whether it lies behind a place.
    pub(super) fn is_behind(&self, cut: &Cut) -> bool {
        match (self.position.cmp(&cut.position.0), &cut.behind) {
            (Order::Less, _) => false,
            (Order::Equal, Some(key)) => self.key() > &**key,
            (Order::Equal, None) | (Order::Greater, _) => true,
        }
    }

    fn length(&self) -> usize {
        self.bytes.len() - usize::from(self.slack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions_of(record: &Record) -> Vec<u8> {
        record.versions().to_vec()
    }

    #[test]
    fn a_record_is_written_over_in_place_unless_somebody_holds_it() {
        let mut record = Record::new(7, b"keyversions", 3, 1);
        let place = record.bytes.as_ptr();
        record.replace(b"keyshort", 2);
        assert_eq!(
            (record.key(), &versions_of(&record)[..]),
            (&b"key"[..], &b"short"[..])
        );
        assert_eq!(record.entry().pair.versions(), b"short");
        record.replace(b"keya little more", 3);
        assert_eq!(versions_of(&record), b"a little more");
        assert_eq!(record.bytes.as_ptr(), place, "so much room a buffer has");
        record.replace(b"keymuch more than before", 3);
        assert_eq!(versions_of(&record), b"much more than before");
        assert_ne!(record.bytes.as_ptr(), place, "it has outgrown its buffer");
        record.replace(b"keyas before", 3);
        let place = record.bytes.as_ptr();
        let held = record.entry();
        record.replace(b"keynew", 4);
        assert_eq!(held.pair.versions(), b"as before");
        assert_eq!(versions_of(&record), b"new");
        assert_ne!(record.bytes.as_ptr(), place);
        record.replace(b"key", 5);
        assert_eq!(
            (record.key(), &versions_of(&record)[..]),
            (&b"key"[..], &b""[..])
        );
    }

    #[test]
    fn what_is_much_shorter_takes_less_memory() {
        let mut record = Record::new(7, &[1; 5000], 3, 1);
        let large = record.memory_bytes();
        record.replace(&[1; 4900], 1);
        assert_eq!(record.memory_bytes(), large);
        record.replace(&[1; 100], 1);
        assert_eq!(record.memory_bytes(), 112 + OVERHEAD_BYTES);
        assert_eq!(versions_of(&record), [1; 97]);
    }

    #[test]
    fn large_versions_are_shared_and_outlive_their_record() {
        let large = vec![7; HOT_BYTES_MAX + 2];
        let mut record = Record::new(1, &large, 1, 1);
        let (first, second) = (record.versions(), record.versions());
        assert_eq!(first.as_ptr(), second.as_ptr());
        record.replace(b"\x07small", 2);
        assert_eq!(versions_of(&record), b"small");
        drop(record);
        assert_eq!(first, large[1..]);
    }

    #[test]
    fn what_is_wanted_stays_a_while() {
        let mut record = Record::new(1, b"k", 1, 1);
        assert!(record.cool(), "it comes cold");
        for _ in 0..9 {
            record.warm();
        }
        let passes = (0..).take_while(|_| !record.cool()).count();
        assert_eq!(passes, usize::from(HEAT_MAX));
    }
}
