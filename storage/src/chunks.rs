//! Large values, cut into pieces that sled handles well.
//!
//! sled keeps whole tree nodes of up to 17 items as one message: with large items its memory grows far
//! beyond its cache, and a message of more than a segment's size goes to a file of its own that is
//! never synced. So no item here is larger than [`INLINE_BYTES_MAX`].
//!
//! The chunks of a value lie under a fresh number (its *set*) and are never overwritten: they are
//! written before the record that names them, and removed after the checkpoint that has made their
//! record's successor durable. Whatever a crash leaves, each record that survived finds its chunks.
//!
//! Sets that no record names are found without reading the records. Those whose record was replaced
//! (*retired*) are written down in a tree of their own, right behind what replaced it, and crossed out when
//! they are removed. sled keeps a beginning of what was written: where the note is, the record is replaced,
//! also where its checkpoint was cut short. Those that an unfinished checkpoint made lie at or above the number
//! that the last finished one wrote down; the commit log still has their keys, and what it has is written
//! anew before it is read here, so nothing reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::error::Damage;
use crate::format::{ChunkedValue, INLINE_BYTES_MAX, check_content};

/// The chunks of all large values, keyed by set (u64) and index (u32), big-endian.
pub(crate) struct Chunks {
    tree: sled::Tree,
    /// The sets that are to be removed, durably: the keys are set numbers, there are no values.
    notes: sled::Tree,
    next_set: AtomicU64,
    /// Sets that nothing names once the next checkpoint is durable.
    retired: Mutex<Vec<u64>>,
}

impl Chunks {
    /// Takes over the trees; `next_set` is what the last finished checkpoint wrote down. Costs a
    /// look-up for each set that is to be removed.
    pub(crate) fn open(tree: sled::Tree, notes: sled::Tree, next_set: u64) -> sled::Result<Self> {
        let mut retired = Vec::new();
        for note in notes.iter().keys() {
            retired.push(set_of(&note?));
        }
        let mut from = Some(next_set);
        let mut next_set = next_set;
        while let Some(start) = from {
            let Some((key, _)) = tree.range(set_start(start)..).next().transpose()? else {
                break;
            };
            let set = set_of(&key);
            retired.push(set);
            next_set = next_set.max(set.saturating_add(1));
            from = set.checked_add(1);
        }
        Ok(Self {
            tree,
            notes,
            next_set: AtomicU64::new(next_set),
            retired: Mutex::new(retired),
        })
    }

    /// The number of the next set.
    pub(crate) fn next_set(&self) -> u64 {
        self.next_set.load(Ordering::Relaxed)
    }

    /// Stores a value under a fresh set number, and returns that.
    pub(crate) fn put(&self, content: &[u8]) -> sled::Result<u64> {
        let set = self.next_set.fetch_add(1, Ordering::Relaxed);
        for (index, chunk) in (0..).zip(content.chunks(INLINE_BYTES_MAX)) {
            self.tree.insert(chunk_key(set, index), chunk)?;
        }
        Ok(set)
    }

    /// Reads a value; the inner error says what is wrong with it.
    pub(crate) fn get(&self, value: &ChunkedValue) -> sled::Result<Result<Bytes, Damage>> {
        let mut content = Vec::new();
        for index in 0..value.length.div_ceil(INLINE_BYTES_MAX as u32) {
            let Some(chunk) = self.tree.get(chunk_key(value.set, index))? else {
                return Ok(Err(Damage::MissingChunk));
            };
            content.extend_from_slice(&chunk);
        }
        Ok(check_content(value, content))
    }

    /// Takes note that the record of a set was replaced, and writes that down.
    pub(crate) fn retire(&self, set: u64) -> sled::Result<()> {
        self.retired().push(set);
        self.notes.insert(set.to_be_bytes(), &[])?;
        Ok(())
    }

    /// The sets retired until now, all of them written down: to be removed once this is durable.
    pub(crate) fn note_retired(&self) -> sled::Result<Vec<u64>> {
        let retired = std::mem::take(&mut *self.retired());
        for set in &retired {
            // Those of an unfinished checkpoint are not yet.
            self.notes.insert(set.to_be_bytes(), &[])?;
        }
        Ok(retired)
    }

    /// The sets that are cut from now on have this number, or a higher one.
    pub(crate) fn begin_at(&self, next_set: u64) {
        self.next_set.fetch_max(next_set, Ordering::Relaxed);
    }

    /// Copies a set.
    pub(crate) fn copy(&self, set: u64, into: &Self) -> sled::Result<()> {
        for chunk in self.tree.scan_prefix(set_start(set)) {
            let (key, content) = chunk?;
            into.tree.insert(key, content)?;
        }
        Ok(())
    }

    /// Removes sets that nothing names any more, and crosses them out.
    pub(crate) fn remove(&self, sets: &[u64]) -> sled::Result<()> {
        for &set in sets {
            remove_set(&self.tree, set)?;
            self.notes.remove(set.to_be_bytes())?;
        }
        Ok(())
    }

    fn retired(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        // A push or take that panicked half-way leaves a whole Vec.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_start(set: u64) -> [u8; 8] {
    set.to_be_bytes()
}

fn chunk_key(set: u64, index: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&set.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The set of a chunk key. The last possible set for a key that damage cut short: it ends the walk.
fn set_of(chunk_key: &[u8]) -> u64 {
    chunk_key
        .first_chunk()
        .map_or(u64::MAX, |&set| u64::from_be_bytes(set))
}

fn remove_set(tree: &sled::Tree, set: u64) -> sled::Result<()> {
    for key in tree.scan_prefix(set_start(set)).keys() {
        tree.remove(key?)?;
    }
    Ok(())
}
