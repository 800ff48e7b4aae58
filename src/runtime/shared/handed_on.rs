//! How far a node that goes has handed on what it holds.

use std::sync::atomic::{AtomicU64, Ordering};

use dynakv_protocol::RingVersion;

/// By which change of the ring this node has handed on what it holds, as one that goes. Not kept over a restart: it is
/// found out anew.
#[derive(Debug, Default)]
pub struct HandedOn(AtomicU64);

impl HandedOn {
    /// The version that began that change; 0 for none.
    pub fn since(&self) -> RingVersion {
        RingVersion(self.0.load(Ordering::Acquire))
    }

    /// All that it holds is with its owners under the change that began with this version.
    pub fn note(&self, begun_at: RingVersion) {
        self.0.fetch_max(begun_at.0, Ordering::AcqRel);
    }
}
