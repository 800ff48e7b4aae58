//! Where a checkpoint writes down the segments' hashes.
//!
//! ```text
//! key     page (u8)  slot (u8)
//! value   checkpoint (u64)  hashes (256 × u128)  crc32 of the key and these (u32)
//! ```
//! Each page has two slots that take turns, and is read from the newest slot that belongs to a finished
//! checkpoint. So a checkpoint that a crash cut short spoils nothing; the log still has its changes, and
//! the next one writes the same pages again under the same number.

use std::sync::{Mutex, PoisonError};

use bytes::{Buf, BufMut};

use crate::segments::{HashSnapshot, PAGE_BYTES, PAGES, SegmentHashes};

const RECORD_BYTES: usize = 8 + PAGE_BYTES + 4;

/// The pages, in a tree of their own.
pub(crate) struct HashPages {
    tree: sled::Tree,
    /// The slot of each page that is valid.
    slots: Mutex<[u8; PAGES]>,
}

impl HashPages {
    /// Reads the hashes as they were at the finished checkpoint of this number. The inner error says what
    /// is wrong with them.
    pub(crate) fn open(
        tree: sled::Tree,
        number: u64,
        root: u128,
    ) -> sled::Result<Result<(Self, SegmentHashes), &'static str>> {
        let hashes = SegmentHashes::default();
        let mut slots = [0; PAGES];
        let mut newest = [0; PAGES];
        for stored in &tree {
            let (key, record) = stored?;
            let Some((page, slot, of_checkpoint, content)) = decode(&key, &record) else {
                return Ok(Err("the hashes of its segments are damaged"));
            };
            let at = usize::from(page);
            if of_checkpoint <= number && of_checkpoint > newest[at] {
                newest[at] = of_checkpoint;
                slots[at] = slot;
                hashes.restore(page, content);
            }
        }
        if hashes.root() != root {
            return Ok(Err(
                "the hashes of its segments are not those of its last checkpoint",
            ));
        }
        let slots = Mutex::new(slots);
        Ok(Ok((Self { tree, slots }, hashes)))
    }

    /// Writes down the pages that changed; they count once the checkpoint of this number is durable.
    pub(crate) fn write(&self, number: u64, snapshot: &HashSnapshot) -> sled::Result<()> {
        let slots = *self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (page, content) in &snapshot.pages {
            let key = [*page, 1 - slots[usize::from(*page)]];
            self.tree.insert(key, encode(key, number, content))?;
        }
        Ok(())
    }

    /// Takes note that the checkpoint is durable.
    pub(crate) fn complete(&self, snapshot: &HashSnapshot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (page, _) in &snapshot.pages {
            let slot = &mut slots[usize::from(*page)];
            *slot = 1 - *slot;
        }
    }
}

fn encode(key: [u8; 2], number: u64, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES);
    record.put_u64(number);
    record.extend_from_slice(content);
    let sum = checksum(&key, &record);
    record.put_u32(sum);
    record
}

/// Page, slot, number of the checkpoint, hashes.
fn decode<'a>(key: &[u8], record: &'a [u8]) -> Option<(u8, u8, u64, &'a [u8])> {
    let &[page, slot @ (0 | 1)] = key else {
        return None;
    };
    let (covered, sum) = record.split_last_chunk::<4>()?;
    if record.len() != RECORD_BYTES || *sum != checksum(key, covered).to_be_bytes() {
        return None;
    }
    let (mut number, content) = covered.split_at(8);
    Some((page, slot, number.get_u64(), content))
}

fn checksum(key: &[u8], covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(covered);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::hash::Segment;

    use super::*;

    fn open(
        db: &sled::Db,
        number: u64,
        root: u128,
    ) -> Result<(HashPages, SegmentHashes), &'static str> {
        HashPages::open(db.open_tree("hashes").unwrap(), number, root).unwrap()
    }

    #[test]
    fn an_unfinished_checkpoint_spoils_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let db = sled::open(directory.path()).unwrap();
        let (pages, hashes) = open(&db, 0, 0).unwrap();
        let mut roots = vec![0];
        for number in 1..=3 {
            hashes.change(Segment(300), number);
            let snapshot = hashes.snapshot();
            pages.write(number as u64, &snapshot).unwrap();
            roots.push(snapshot.root);
            // The third one is never finished.
            if number < 3 {
                pages.complete(&snapshot);
            }
        }
        let (again, found) = open(&db, 2, roots[2]).unwrap();
        assert_eq!(found.get(Segment(300)), 1 ^ 2);
        // What the log brings forward is written under the same number.
        found.change(Segment(300), 3);
        let snapshot = found.snapshot();
        again.write(3, &snapshot).unwrap();
        assert_eq!(
            open(&db, 3, snapshot.root).unwrap().1.get(Segment(300)),
            1 ^ 2 ^ 3
        );
        assert!(open(&db, 3, roots[1]).is_err(), "another root");
    }

    #[test]
    fn every_flipped_bit_of_a_page_is_noticed() {
        let good = encode([3, 1], 7, &[9; PAGE_BYTES]);
        assert_eq!(
            decode(&[3, 1], &good),
            Some((3, 1, 7, &[9; PAGE_BYTES][..]))
        );
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert_eq!(decode(&[3, 1], &bad), None, "byte {byte}");
        }
        assert_eq!(decode(&[3, 0], &good), None, "another slot");
        assert_eq!(decode(&[3, 1], &good[..good.len() - 1]), None);
    }
}
