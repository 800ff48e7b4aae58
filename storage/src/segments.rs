//! A hash of each segment of the ring: equal for two stores that hold the same there.
//!
//! A segment's hash is the XOR over its keys of [`versions_hash`](dynakv_protocol::hash::versions_hash),
//! so that it is kept up to date by what the writer knows of one key. It lies in memory, 1 MiB, is written
//! down with each checkpoint in *pages* of 256 segments, only those that changed, and is brought forward by
//! the log, as the totals are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Buf, BufMut};
use dynakv_protocol::hash::{SEGMENTS, Segment};

/// How many segments a page has.
pub(crate) const PAGE_SEGMENTS: usize = 256;
/// How many pages there are.
pub(crate) const PAGES: usize = SEGMENTS / PAGE_SEGMENTS;
const HASH_BYTES: usize = 16;
/// The size of a page.
pub(crate) const PAGE_BYTES: usize = PAGE_SEGMENTS * HASH_BYTES;

/// The hashes of all segments. One thread at a time changes them, any thread may read.
#[derive(Debug)]
pub(crate) struct SegmentHashes {
    /// The upper and the lower half of each.
    halves: Box<[[AtomicU64; 2]]>,
    /// Which pages changed since they were last written down.
    changed: Box<[AtomicBool]>,
}

/// What a checkpoint writes down.
#[derive(Debug, Default)]
pub(crate) struct HashSnapshot {
    /// The XOR of all segments' hashes, also of those that did not change: tells whether all pages are
    /// there, and of the right age.
    pub(crate) root: u128,
    /// The pages that changed since the last one: number and content.
    pub(crate) pages: Vec<(u8, Vec<u8>)>,
}

impl Default for SegmentHashes {
    fn default() -> Self {
        Self {
            halves: (0..SEGMENTS).map(|_| Default::default()).collect(),
            changed: (0..PAGES).map(|_| AtomicBool::new(false)).collect(),
        }
    }
}

impl SegmentHashes {
    /// Takes note that a key's hash changed: `difference` is the XOR of what it was and what it is.
    ///
    /// Loads and stores are enough, as only one thread writes at a time; a reader may see a hash half
    /// changed, which is not the one or the other and means nothing worse than a difference.
    pub(crate) fn change(&self, segment: Segment, difference: u128) {
        let [upper, lower] = &self.halves[usize::from(segment.0)];
        let shift = |half: &AtomicU64, by: u64| {
            half.store(half.load(Ordering::Relaxed) ^ by, Ordering::Relaxed);
        };
        shift(upper, (difference >> 64) as u64);
        shift(lower, difference as u64);
        self.changed[usize::from(segment.0) / PAGE_SEGMENTS].store(true, Ordering::Relaxed);
    }

    /// The hash of a segment; 0 for one without keys.
    pub(crate) fn get(&self, segment: Segment) -> u128 {
        let [upper, lower] = &self.halves[usize::from(segment.0)];
        let half = |half: &AtomicU64| u128::from(half.load(Ordering::Relaxed));
        half(upper) << 64 | half(lower)
    }

    /// The XOR of all.
    pub(crate) fn root(&self) -> u128 {
        (0..=u16::MAX).fold(0, |root, segment| root ^ self.get(Segment(segment)))
    }

    /// What is to be written down; from here on other pages count as changed.
    pub(crate) fn snapshot(&self) -> HashSnapshot {
        let mut pages = Vec::new();
        for (number, changed) in (0..=u8::MAX).zip(&self.changed) {
            if changed.swap(false, Ordering::Relaxed) {
                let mut content = Vec::with_capacity(PAGE_BYTES);
                for within in 0..=u8::MAX {
                    let segment = Segment(u16::from_be_bytes([number, within]));
                    content.put_u128(self.get(segment));
                }
                pages.push((number, content));
            }
        }
        HashSnapshot {
            root: self.root(),
            pages,
        }
    }

    /// Takes over a page that was written down, of [`PAGE_BYTES`].
    pub(crate) fn restore(&self, number: u8, mut content: &[u8]) {
        for within in 0..=u8::MAX {
            let [upper, lower] = &self.halves[usize::from(u16::from_be_bytes([number, within]))];
            upper.store(content.get_u64(), Ordering::Relaxed);
            lower.store(content.get_u64(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_written_down_and_read_back() {
        let hashes = SegmentHashes::default();
        let hash = |number: u16| u128::from(number) << 77 | 5;
        for number in [0, 255, 256, u16::MAX] {
            hashes.change(Segment(number), hash(number));
        }
        let snapshot = hashes.snapshot();
        let numbers: Vec<u8> = snapshot.pages.iter().map(|page| page.0).collect();
        assert_eq!(numbers, [0, 1, 255]);
        assert!(hashes.snapshot().pages.is_empty(), "nothing changed since");
        let read = SegmentHashes::default();
        for (number, content) in &snapshot.pages {
            assert_eq!(content.len(), PAGE_BYTES);
            read.restore(*number, content);
        }
        for number in [0, 255, 256, u16::MAX] {
            assert_eq!(read.get(Segment(number)), hash(number));
        }
        assert_eq!(read.get(Segment(1)), 0);
        assert_eq!(read.root(), snapshot.root);
        assert!(read.snapshot().pages.is_empty());
        // A change that is undone leaves what was there before.
        hashes.change(Segment(7), 99);
        hashes.change(Segment(7), 99);
        assert_eq!(hashes.root(), snapshot.root);
    }
}
