//! Where a checkpoint writes down the segments' hashes.
//!
//! ```text
//! key     page (u8)  slot (u8)
//! value   checkpoint (u64)  hashes (256 × u128)  crc32 of the key and these (u32)
//! ```
//! Each page has two slots that take turns, and is read from the newest slot that belongs to a finished
//! checkpoint. So a checkpoint that a crash cut short spoils nothing; the log still has its changes, and
//! the next one writes the same pages again under the same number. A page that is damaged is counted anew from
//! the records, by whoever opens the store.

use std::sync::{Mutex, PoisonError};

use bytes::{Buf, BufMut};

use crate::segments::{HashSnapshot, PAGE_BYTES, PAGES, SegmentHashes};

const RECORD_BYTES: usize = 8 + PAGE_BYTES + 4;

/// The hashes as they were written down.
#[derive(Debug)]
pub(crate) struct Written {
    /// Without those of the damaged pages, which are 0.
    pub(crate) hashes: SegmentHashes,
    /// Pages of which a record is damaged.
    pub(crate) damaged_pages: Vec<u8>,
    /// The XOR that the hashes of the damaged pages must come to.
    pub(crate) missing_root: u128,
}

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
    ) -> sled::Result<Result<(Self, Written), &'static str>> {
        let hashes = SegmentHashes::default();
        let mut slots = [0; PAGES];
        let mut newest = [0; PAGES];
        let mut damaged_pages = Vec::new();
        for stored in &tree {
            let (key, record) = stored?;
            let &[page, slot @ (0 | 1)] = &key[..] else {
                return Ok(Err("the hashes of its segments are damaged"));
            };
            let Some((of_checkpoint, content)) = decode(&key, &record) else {
                // Which of the two slots counts is then not known. The next one to be written is this.
                slots[usize::from(page)] = 1 - slot;
                if damaged_pages.last() != Some(&page) {
                    damaged_pages.push(page);
                }
                continue;
            };
            if damaged_pages.last() == Some(&page) {
                continue;
            }
            let at = usize::from(page);
            if of_checkpoint <= number && of_checkpoint > newest[at] {
                newest[at] = of_checkpoint;
                slots[at] = slot;
                hashes.restore(page, content);
            }
        }
        for &page in &damaged_pages {
            hashes.restore(page, &[0; PAGE_BYTES]);
        }
        let missing_root = hashes.root() ^ root;
        if damaged_pages.is_empty() && missing_root != 0 {
            return Ok(Err(
                "the hashes of its segments are not those of its last checkpoint",
            ));
        }
        let slots = Mutex::new(slots);
        let written = Written {
            hashes,
            damaged_pages,
            missing_root,
        };
        Ok(Ok((Self { tree, slots }, written)))
    }

    /// Copies all pages.
    pub(crate) fn copy(&self, into: &Self) -> sled::Result<()> {
        for stored in &self.tree {
            let (key, record) = stored?;
            into.tree.insert(key, record)?;
        }
        Ok(())
    }

    /// Reads what was copied into it, and holds it against the root of its checkpoint.
    pub(crate) fn open_again(
        &self,
        number: u64,
        root: u128,
    ) -> sled::Result<Result<Self, &'static str>> {
        let opened = Self::open(self.tree.clone(), number, root)?;
        Ok(match opened {
            Ok((pages, written)) if written.damaged_pages.is_empty() => Ok(pages),
            Ok(_) => Err("a page of the hashes of its segments is damaged"),
            Err(reason) => Err(reason),
        })
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

/// Number of the checkpoint, hashes.
fn decode<'a>(key: &[u8], record: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (covered, sum) = record.split_last_chunk::<4>()?;
    if record.len() != RECORD_BYTES || *sum != checksum(key, covered).to_be_bytes() {
        return None;
    }
    let (mut number, content) = covered.split_at(8);
    Some((number.get_u64(), content))
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
        let tree = db.open_tree("hashes").unwrap();
        let (pages, written) = HashPages::open(tree, number, root).unwrap()?;
        assert!(written.damaged_pages.is_empty() && written.missing_root == 0);
        Ok((pages, written.hashes))
    }

    #[test]
    fn a_damaged_page_is_named_and_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let db = sled::open(directory.path()).unwrap();
        let (pages, hashes) = open(&db, 0, 0).unwrap();
        let mut root = 0;
        for number in 1..=2 {
            hashes.change(Segment(300), number);
            hashes.change(Segment(5), number << 9);
            let snapshot = hashes.snapshot();
            pages.write(number as u64, &snapshot).unwrap();
            pages.complete(&snapshot);
            root = snapshot.root;
        }
        let tree = db.open_tree("hashes").unwrap();
        for slot in [0, 1] {
            let good = tree.get([1, slot]).unwrap().unwrap();
            let mut bad = good.to_vec();
            bad[100] ^= 1;
            tree.insert([1, slot], bad).unwrap();
            let (pages, written) = HashPages::open(tree.clone(), 2, root).unwrap().unwrap();
            assert_eq!(written.damaged_pages, [1]);
            assert_eq!(written.hashes.get(Segment(300)), 0);
            assert_eq!(written.hashes.get(Segment(5)), 3 << 9);
            assert_eq!(written.missing_root, 3);
            // Counted anew, it takes the place of the damaged one.
            written.hashes.change(Segment(300), 3);
            let snapshot = written.hashes.snapshot();
            pages.write(3, &snapshot).unwrap();
            assert_eq!(open(&db, 3, root).unwrap().1.get(Segment(300)), 3);
            tree.insert([1, slot], good).unwrap();
        }
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
        assert_eq!(decode(&[3, 1], &good), Some((7, &[9; PAGE_BYTES][..])));
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert_eq!(decode(&[3, 1], &bad), None, "byte {byte}");
        }
        assert_eq!(decode(&[3, 0], &good), None, "another slot");
        assert_eq!(decode(&[3, 1], &good[..good.len() - 1]), None);
    }
}
