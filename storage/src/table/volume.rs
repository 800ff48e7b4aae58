//! How much a generation has.

use super::sync::atomic::{AtomicUsize, Ordering};

/// How much a generation has that is being written, or was frozen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    /// How many keys.
    pub(crate) entries: usize,
    /// About how much memory these take, in bytes.
    pub(crate) bytes: usize,
}

/// Counts the active one. One thread at a time changes it, any thread may read.
#[derive(Debug, Default)]
pub(super) struct VolumeCounter {
    entries: AtomicUsize,
    bytes: AtomicUsize,
}

impl VolumeCounter {
    /// One more key, of this size.
    pub(super) fn add(&self, bytes: usize) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One of the keys has another size now. Wraps below zero and back, so that nobody sees half of it.
    pub(super) fn resize(&self, before: usize, after: usize) {
        let change = after.wrapping_sub(before);
        self.bytes.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Volume {
        Volume {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Begins at nothing.
    pub(super) fn take(&self) -> Volume {
        Volume {
            entries: self.entries.swap(0, Ordering::Relaxed),
            bytes: self.bytes.swap(0, Ordering::Relaxed),
        }
    }
}
