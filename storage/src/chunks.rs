//! Large values, cut into pieces that sled handles well.
//!
//! sled keeps whole tree nodes of up to 17 items as one message: with large items its memory grows far
//! beyond its cache, and a message of more than a segment's size goes to a file of its own that is
//! never synced. So no item here is larger than [`INLINE_BYTES_MAX`].
//!
//! The chunks of a value lie under a fresh number (its *set*) and are never overwritten: they are
//! written before the record that names them, and removed after a sync has made their record's
//! successor durable. Whatever a crash leaves, each record that survived finds its chunks; sets that no
//! record names are removed at the next opening.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::error::Damage;
use crate::format::{ChunkedValue, INLINE_BYTES_MAX, check_content};

/// The chunks of all large values, keyed by set (u64) and index (u32), big-endian.
pub(crate) struct Chunks {
    tree: sled::Tree,
    next_set: AtomicU64,
    /// Sets whose record was replaced since the last sync.
    retired: Mutex<Vec<u64>>,
}

impl Chunks {
    /// Takes over the tree; removes every set that is not in `named`. Costs one look-up per set.
    pub(crate) fn open(tree: sled::Tree, named: &BTreeSet<u64>) -> sled::Result<Self> {
        // A set that lost all its chunks may still have a record that names it.
        let mut next_set = named.last().map_or(0, |set| set.saturating_add(1));
        let mut from = Some(0);
        while let Some(start) = from {
            let Some((key, _)) = tree.range(set_start(start)..).next().transpose()? else {
                break;
            };
            let set = set_of(&key);
            if !named.contains(&set) {
                remove_set(&tree, set)?;
            }
            next_set = next_set.max(set.saturating_add(1));
            from = set.checked_add(1);
        }
        Ok(Self {
            tree,
            next_set: AtomicU64::new(next_set),
            retired: Mutex::default(),
        })
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

    /// Takes note that the record of a set was replaced.
    pub(crate) fn retire(&self, set: u64) {
        self.retired().push(set);
    }

    /// The sets retired until now: to be removed once a sync that began after this call is done.
    pub(crate) fn take_retired(&self) -> Vec<u64> {
        std::mem::take(&mut *self.retired())
    }

    /// Removes sets that nothing names any more.
    pub(crate) fn remove(&self, sets: &[u64]) -> sled::Result<()> {
        sets.iter().try_for_each(|&set| remove_set(&self.tree, set))
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
