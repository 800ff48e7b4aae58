//! The keys that this node knows to be locked: their versions are beyond a limit, so that they cannot be read, merged,
//! or written by new actors. Told by `dynakv status`, a metric and the log until they are mended.
//!
//! Kept in memory: whoever meets such a key notes it again after a restart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::engine::limits;

/// How many are told apart; there is no more to say of further ones.
const KEYS_MAX: usize = 1024;

/// Whether this node's copy of a locked key is all that it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copy {
    /// It is.
    Whole,
    /// What another owner has could not be taken over while rebuilding: its reads do not count.
    Incomplete,
}

/// The keys.
#[derive(Debug, Default)]
pub struct LockedKeys {
    keys: Mutex<BTreeMap<Bytes, Copy>>,
    /// How many these are, and how many are incomplete: nearly always none, which is all that is looked at then.
    count: AtomicUsize,
    incomplete: AtomicUsize,
}

impl LockedKeys {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Some of them.
    pub fn first(&self, most: usize) -> Vec<Bytes> {
        self.keys().keys().take(most).cloned().collect()
    }

    /// Whether this node's copy of the key is not all that it should be.
    pub fn is_incomplete(&self, key: &[u8]) -> bool {
        self.incomplete.load(Ordering::Relaxed) > 0
            && self.keys().get(key) == Some(&Copy::Incomplete)
    }

    /// Takes note of one, and names it in the log when it is news.
    pub fn note(&self, key: &[u8], why: &str, copy: Copy) {
        let mut keys = self.keys();
        if let Some(known) = keys.get_mut(key) {
            *known = copy.max(*known);
        } else if keys.len() < KEYS_MAX {
            // A copy: a slice would hold on to the buffer that its request came in.
            keys.insert(Bytes::copy_from_slice(key), copy);
            tracing::error!(
                key = %key.escape_ascii(),
                why,
                next = limits::command(key),
                "a key is locked: its versions are beyond a limit"
            );
        }
        self.show(&keys);
    }

    /// The key's versions are within all limits again.
    pub fn forget(&self, key: &[u8]) {
        if self.count() == 0 {
            return;
        }
        let mut keys = self.keys();
        if keys.remove(key).is_some() {
            tracing::info!(key = %key.escape_ascii(), "a key is not locked any more");
        }
        self.show(&keys);
    }

    fn show(&self, keys: &BTreeMap<Bytes, Copy>) {
        let incomplete = keys.values().filter(|&&copy| copy == Copy::Incomplete);
        self.incomplete.store(incomplete.count(), Ordering::Relaxed);
        self.count.store(keys.len(), Ordering::Relaxed);
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<Bytes, Copy>> {
        // The map is whole between any two operations.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_locked_is_known_until_it_is_mended() {
        let locked = LockedKeys::default();
        locked.forget(b"a");
        locked.note(b"a", "long", Copy::Whole);
        locked.note(b"b", "long", Copy::Incomplete);
        locked.note(b"b", "long", Copy::Whole);
        assert_eq!(locked.count(), 2);
        assert_eq!(locked.first(1), ["a"]);
        assert!(locked.is_incomplete(b"b") && !locked.is_incomplete(b"a"));
        locked.forget(b"b");
        assert!(!locked.is_incomplete(b"b"));
        assert_eq!(locked.first(9), ["a"]);
        for number in 0..2 * KEYS_MAX {
            locked.note(number.to_string().as_bytes(), "long", Copy::Whole);
        }
        assert_eq!(locked.count(), KEYS_MAX);
    }
}
