//! What one key adds to all that is kept over many keys, and sums of that.

use dynakv_protocol::causal::{Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::versions_hash;

/// What one key adds to the totals. All zero for a key that was never written or is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Siblings that are no tombstones and no second copies of what was replaced. Expired ones count until
    /// they are purged.
    pub versions: u64,
    /// The bytes of their values, without keys and clocks.
    pub value_bytes: u64,
}

impl Tally {
    /// Counts the live siblings of one key, as a reader would be shown them.
    pub fn of(versions: &Versions) -> Self {
        let mut tally = Self::default();
        for sibling in versions.standing() {
            match &sibling.value {
                Value::Tombstone => {}
                Value::Bytes(bytes) => {
                    tally.versions += 1;
                    tally.value_bytes += bytes.len() as u64;
                }
            }
        }
        tally
    }

    pub(crate) fn keys(self) -> u64 {
        u64::from(self.versions > 0)
    }

    pub(crate) fn conflict_keys(self) -> u64 {
        u64::from(self.versions > 1)
    }
}

/// What one key adds to all that is kept over many keys. All zero for a key that was never written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// To the totals.
    pub tally: Tally,
    /// To the hash of its segment.
    pub hash: u128,
}

impl Footprint {
    /// The footprint of a key in this state.
    pub fn of(key: &[u8], versions: &Versions) -> Self {
        if versions.clock().is_empty() {
            return Self::default();
        }
        Self::of_encoded(key, versions, &versions.to_bytes())
    }

    /// The same, for a state whose encoding is at hand: what is stored, or is to be.
    pub fn of_encoded(key: &[u8], versions: &Versions, encoded: &[u8]) -> Self {
        Self {
            tally: Tally::of(versions),
            hash: versions_hash(key, encoded),
        }
    }
}

/// What a store holds. Each number is exact once the writer rests; while it writes they may be a
/// mutation apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Keys with at least one value that is not deleted.
    pub keys: u64,
    /// Values that are not deleted, siblings counted one by one.
    pub versions: u64,
    /// Keys with more than one such value.
    pub conflict_keys: u64,
    /// The bytes of these values, without keys and clocks.
    pub live_bytes: u64,
    /// What the store occupies on disk, in bytes; the ratio to `live_bytes` is its amplification.
    pub disk_bytes: u64,
    /// Damaged values met since the store was opened and not written anew since. The numbers above
    /// still count what they held.
    pub corrupt_keys: u64,
}

/// Sums over all keys, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) keys: u64,
    pub(crate) versions: u64,
    pub(crate) conflict_keys: u64,
    pub(crate) live_bytes: u64,
}

impl Sums {
    /// What a key's change adds; below zero it wraps.
    pub(crate) fn between(before: Tally, after: Tally) -> Self {
        let change = |from: u64, to: u64| to.wrapping_sub(from);
        Self {
            keys: change(before.keys(), after.keys()),
            versions: change(before.versions, after.versions),
            conflict_keys: change(before.conflict_keys(), after.conflict_keys()),
            live_bytes: change(before.value_bytes, after.value_bytes),
        }
    }

    pub(crate) fn plus(self, more: Self) -> Self {
        Self {
            keys: self.keys.wrapping_add(more.keys),
            versions: self.versions.wrapping_add(more.versions),
            conflict_keys: self.conflict_keys.wrapping_add(more.conflict_keys),
            live_bytes: self.live_bytes.wrapping_add(more.live_bytes),
        }
    }

    pub(crate) fn minus(self, less: Self) -> Self {
        Self {
            keys: self.keys.wrapping_sub(less.keys),
            versions: self.versions.wrapping_sub(less.versions),
            conflict_keys: self.conflict_keys.wrapping_sub(less.conflict_keys),
            live_bytes: self.live_bytes.wrapping_sub(less.live_bytes),
        }
    }
}
