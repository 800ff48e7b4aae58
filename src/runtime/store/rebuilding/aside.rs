//! Segments that are marked as to be rebuilt, and are no work while this node does not own them.
//!
//! Their marks stay on disk, and whoever looks sees them: a node that loses something, then the segment, and then owns it
//! again must not vote with what it had left. Until then nobody gives it anything for that segment, so it waits for
//! nothing: it does not report it as being rebuilt.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynakv_protocol::RingVersion;
use dynakv_protocol::hash::Segment;

use crate::engine::anti_entropy::rebuilding::SegmentSet;

/// Those of the marked segments that are set aside. It is not on disk: it is found out anew for each ring that
/// is followed, also after a start.
#[derive(Debug, Default)]
pub(super) struct Aside {
    set: Mutex<Set>,
    len: AtomicU32,
}

#[derive(Debug, Default)]
struct Set {
    /// Under which ring they are not owned.
    ring_version: RingVersion,
    segments: SegmentSet,
}

impl Aside {
    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn contains(&self, segment: Segment) -> bool {
        self.len() > 0 && self.set().segments.contains(segment)
    }

    /// Under this ring these are set aside, and no others.
    pub(super) fn follow(&self, ring_version: RingVersion, find: impl FnOnce() -> SegmentSet) {
        let mut set = self.set();
        set.ring_version = ring_version;
        set.segments = find();
        self.count(&set);
    }

    /// Sets these aside, unless another ring is followed by now.
    pub(super) fn add(&self, ring_version: RingVersion, segments: impl Iterator<Item = Segment>) {
        let mut set = self.set();
        if set.ring_version == ring_version {
            for segment in segments {
                set.segments.insert(segment);
            }
            self.count(&set);
        }
    }

    /// Takes one up again.
    pub(super) fn take_up(&self, segment: Segment) {
        if self.len() > 0 {
            self.take_up_all(&[segment], || ());
        }
    }

    /// Takes these up again, and does something that whoever finds out what is to be set aside sees with that.
    pub(super) fn take_up_all(&self, segments: &[Segment], and: impl FnOnce()) {
        let mut set = self.set();
        and();
        for &segment in segments {
            set.segments.remove(segment);
        }
        self.count(&set);
    }

    /// Takes up whatever there is.
    pub(super) fn clear(&self) {
        let mut set = self.set();
        set.segments = SegmentSet::default();
        self.count(&set);
    }

    fn count(&self, set: &Set) {
        self.len.store(set.segments.len(), Ordering::Release);
    }

    /// Never locked while the disk is waited for.
    fn set(&self) -> MutexGuard<'_, Set> {
        // It is whole between any two operations.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
