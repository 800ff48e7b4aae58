//! How much segments may grow until it is to be looked whether they have to be cut deeper.
//!
//! A block that is large while its segment is not (two large records that meet, keys that somebody made to lie close
//! together) is a reason to look with every write of it, and a look reads all blocks of the segment.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynakv_protocol::hash::Segment;

/// Of segments that have a large block and were not cut deeper for it. Only who writes looks.
#[derive(Debug, Default)]
pub(super) struct Slacks(Mutex<BTreeMap<u16, Slack>>);

#[derive(Debug, Clone, Copy)]
struct Slack {
    depth: u8,
    bytes: u64,
}

impl Slacks {
    /// A segment that is cut so deep may grow by so many bytes.
    pub(super) fn set(&self, segment: Segment, depth: u8, bytes: u64) {
        self.slacks().insert(segment.0, Slack { depth, bytes });
    }

    /// Whether it is known to bear so many more.
    pub(super) fn bears(&self, segment: Segment, depth: u8, growth: u64) -> bool {
        let slacks = self.slacks();
        let slack = slacks.get(&segment.0).filter(|slack| slack.depth == depth);
        slack.is_some_and(|slack| slack.bytes >= growth)
    }

    /// It has grown.
    pub(super) fn note_growth(&self, segment: Segment, growth: u64) {
        if let Some(slack) = self.slacks().get_mut(&segment.0) {
            slack.bytes = slack.bytes.saturating_sub(growth);
        }
    }

    /// It is cut deeper.
    pub(super) fn forget(&self, segment: Segment) {
        self.slacks().remove(&segment.0);
    }

    fn slacks(&self) -> MutexGuard<'_, BTreeMap<u16, Slack>> {
        // Whatever a panic leaves is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
