//! How the records of each segment lie in sled: each in an item of its own, or together in blocks, and in how many.
//!
//! ```text
//! key     page (u8)
//! value   256 segments (u8 each: 0 for records, else the depth + 1)  crc32 of the key and these (u32)
//! ```
//! A segment changes its arrangement in three steps: the new one is written beside the old one, the page says so,
//! and the old one is removed. sled keeps a beginning of what was written, so whenever this is cut short, what the
//! page says is there as a whole. What is left of another one is never looked at, and is cleared away by the next cut of
//! the segment before it writes anything.

use std::sync::atomic::{AtomicU8, Ordering};

use dynakv_protocol::hash::{SEGMENTS, Segment};

use super::block::DEPTH_MAX;

/// How many segments a page has.
const PAGE_SEGMENTS: usize = 256;

/// How the records of a segment lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrangement {
    /// Each in an item of its own, as all did in format 1.
    Records,
    /// In 2^depth blocks.
    Blocks(u8),
}

/// Those of all segments. One thread changes them, any thread looks.
pub(super) struct Arrangements {
    tree: sled::Tree,
    of_segments: Box<[AtomicU8]>,
}

impl Arrangements {
    /// Reads the pages. The inner error says what is wrong with them.
    pub(super) fn open(tree: sled::Tree) -> sled::Result<Result<Self, &'static str>> {
        const DAMAGED: &str = "what it says of how its records lie is damaged";
        let of_segments: Box<[_]> = (0..SEGMENTS).map(|_| AtomicU8::new(0)).collect();
        for stored in &tree {
            let (key, value) = stored?;
            let (&[page], Some((states, sum))) = (&key[..], value.split_last_chunk::<4>()) else {
                return Ok(Err(DAMAGED));
            };
            let is_sound = states.len() == PAGE_SEGMENTS
                && *sum == checksum(page, states).to_be_bytes()
                && states.iter().all(|&state| state <= DEPTH_MAX + 1);
            if !is_sound {
                return Ok(Err(DAMAGED));
            }
            let first = usize::from(page) * PAGE_SEGMENTS;
            for (of_segment, &state) in of_segments[first..].iter().zip(states) {
                of_segment.store(state, Ordering::Relaxed);
            }
        }
        Ok(Ok(Self { tree, of_segments }))
    }

    /// How the records of a segment lie. Who reads by that has to look again afterwards: what it has read counts
    /// only if this is the same then.
    pub(super) fn of(&self, segment: Segment) -> Arrangement {
        let state = self.of_segments[usize::from(segment.0)].load(Ordering::Acquire);
        match state.checked_sub(1) {
            None => Arrangement::Records,
            Some(depth) => Arrangement::Blocks(depth),
        }
    }

    /// The records of a segment lie in so many blocks from now on; all of these were written before.
    pub(super) fn set(&self, segment: Segment, depth: u8) -> sled::Result<()> {
        self.change(segment, |number, state| {
            if number == segment {
                *state = depth + 1;
            }
        })
    }

    /// This segment has one block from now on, and so have those of its page of which nothing was written yet. There
    /// are no items of an earlier arrangement.
    pub(super) fn set_untouched(&self, segment: Segment) -> sled::Result<()> {
        self.change(segment, |_, state| *state = (*state).max(1))
    }

    /// Copies those of all segments into another one.
    pub(super) fn copy(&self, into: &Self) -> sled::Result<()> {
        for stored in &self.tree {
            let (page, states) = stored?;
            into.tree.insert(page, states)?;
        }
        for (of_segment, into) in self.of_segments.iter().zip(&into.of_segments) {
            into.store(of_segment.load(Ordering::Acquire), Ordering::Release);
        }
        Ok(())
    }

    /// Changes the page of a segment: first on disk, then for readers.
    fn change(
        &self,
        segment: Segment,
        mut change: impl FnMut(Segment, &mut u8),
    ) -> sled::Result<()> {
        let [page, _] = segment.0.to_be_bytes();
        let first = usize::from(page) * PAGE_SEGMENTS;
        let of_segments = &self.of_segments[first..first + PAGE_SEGMENTS];
        let mut value = Vec::with_capacity(PAGE_SEGMENTS + 4);
        for (within, state) in (0..=u8::MAX).zip(of_segments) {
            let mut state = state.load(Ordering::Relaxed);
            let number = Segment(u16::from_be_bytes([page, within]));
            change(number, &mut state);
            value.push(state);
        }
        let sum = checksum(page, &value);
        value.extend_from_slice(&sum.to_be_bytes());
        self.tree.insert([page], value.as_slice())?;
        for (of_segment, state) in of_segments.iter().zip(value) {
            of_segment.store(state, Ordering::Release);
        }
        Ok(())
    }
}

fn checksum(page: u8, states: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[page]);
    hasher.update(states);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_there_after_opening_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let db = sled::open(directory.path()).unwrap();
        let tree = db.open_tree("arrangements").unwrap();
        let open = || Arrangements::open(tree.clone()).unwrap();
        let first = open().unwrap();
        for (segment, depth) in [(0, 0), (5, 3), (255, 1), (256, DEPTH_MAX), (5, 4)] {
            first.set(Segment(segment), depth).unwrap();
        }
        first.set_untouched(Segment(0x300)).unwrap();
        first.set(Segment(0x3ff), 2).unwrap();
        first.set_untouched(Segment(0x3ff)).unwrap();
        let again = open().unwrap();
        for arrangements in [first, again] {
            let of = |segment| arrangements.of(Segment(segment));
            assert_eq!(of(0), Arrangement::Blocks(0));
            assert_eq!(of(5), Arrangement::Blocks(4));
            assert_eq!(of(256), Arrangement::Blocks(DEPTH_MAX));
            assert_eq!(of(1), Arrangement::Records);
            assert_eq!(of(0x312), Arrangement::Blocks(0));
            assert_eq!(of(0x3ff), Arrangement::Blocks(2));
            assert_eq!(of(u16::MAX), Arrangement::Records);
        }
        let good = tree.get([0]).unwrap().unwrap();
        for byte in 0..good.len() {
            let mut bad = good.to_vec();
            bad[byte] ^= 1;
            tree.insert([0], bad).unwrap();
            assert!(open().is_err(), "byte {byte}");
        }
        tree.insert([0], &good).unwrap();
        tree.insert([7], &good).unwrap();
        assert!(open().is_err(), "another page");
    }
}
