//! How far a node is with what a change of the ring has it move.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dynakv_protocol::RingVersion;

/// Not kept over a restart: it is found out anew, as it is under each ring.
#[derive(Debug, Default)]
pub struct Settling {
    handed_on_under: AtomicU64,
    segments_to_hand_on: AtomicU32,
    bytes_moved: AtomicU64,
}

impl Settling {
    /// Under which ring this node has handed on what it holds, as one that goes; 0 for none.
    pub fn has_handed_on_under(&self) -> RingVersion {
        RingVersion(self.handed_on_under.load(Ordering::Acquire))
    }

    /// All that it holds is with its owners under this ring.
    pub fn note_handed_on(&self, under: RingVersion) {
        self.handed_on_under.fetch_max(under.0, Ordering::AcqRel);
        self.note_to_hand_on(0);
    }

    /// How many segments this node has still to go through, as one that goes.
    pub fn to_hand_on(&self) -> u32 {
        self.segments_to_hand_on.load(Ordering::Relaxed)
    }

    /// So many are left.
    pub fn note_to_hand_on(&self, segments: u32) {
        self.segments_to_hand_on.store(segments, Ordering::Relaxed);
    }

    /// How many bytes came to this node from others, or went to them, to make copies equal; since it was started.
    pub fn bytes_moved(&self) -> u64 {
        self.bytes_moved.load(Ordering::Relaxed)
    }

    /// So many more have.
    pub fn note_moved(&self, bytes: usize) {
        self.bytes_moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
