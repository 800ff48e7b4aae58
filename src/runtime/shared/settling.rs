//! How far a node that goes has handed on what it holds.

use std::sync::atomic::{AtomicU64, Ordering};

use dynakv_protocol::RingVersion;

/// Under which ring this node has handed on what it holds, as one that goes. Not kept over a restart: it is found out anew,
/// as it is under each ring.
#[derive(Debug, Default)]
pub struct Settling(AtomicU64);

impl Settling {
    /// That ring; 0 for none.
    pub fn has_handed_on_under(&self) -> RingVersion {
        RingVersion(self.0.load(Ordering::Acquire))
    }

    /// All that it holds is with its owners under this ring.
    pub fn note_handed_on(&self, under: RingVersion) {
        self.0.fetch_max(under.0, Ordering::AcqRel);
    }
}
