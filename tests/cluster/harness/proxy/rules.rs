//! What can happen to the bytes from one node to another, and what happens to which.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happens to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Rule {
    /// Nothing.
    #[default]
    Pass,
    /// Connections that carry it are reset, those that there are and new ones: who dials, knows at once.
    Cut,
    /// Bytes wait, as behind a cable that is unplugged for a while, and arrive when the rule changes.
    Hold,
    /// Bytes are taken and thrown away, and so is the news that a connection has ended: half-open. When
    /// the rule changes, connections that have lost something are reset.
    Swallow,
    /// Bytes arrive later, in their order.
    Delay {
        /// By at least this.
        least: Duration,
        /// And at most so much more.
        jitter: Duration,
    },
    /// Each connection gets no more than this.
    Throttle {
        /// In each direction that has the rule.
        bytes_per_second: u32,
    },
    /// One bit of some frames is another one.
    Corrupt {
        /// Of so many frames one, by chance.
        one_in: u32,
    },
}

impl Rule {
    /// Whether the receiver hears nothing at all, not even of the sender's end.
    pub(super) fn hides(self) -> bool {
        matches!(self, Self::Hold | Self::Swallow)
    }
}

/// Who sends to whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    from: String,
    to: String,
}

impl Flow {
    pub(super) fn new(from: &str, to: &str) -> Self {
        let (from, to) = (from.to_owned(), to.to_owned());
        Self { from, to }
    }
}

/// All rules that are not [`Rule::Pass`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules(BTreeMap<Flow, Rule>);

impl Rules {
    pub(super) fn set(&mut self, from: &str, to: &str, rule: Rule) {
        self.0.insert(Flow::new(from, to), rule);
    }

    pub(super) fn of(&self, flow: &Flow) -> Rule {
        self.0.get(flow).copied().unwrap_or_default()
    }
}

/// What has become of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    /// Connections that its sender has made.
    pub(crate) connections: u64,
    /// Bytes that have arrived.
    pub(crate) delivered_bytes: u64,
    /// Bytes that were thrown away.
    pub(crate) swallowed_bytes: u64,
    /// Frames with a flipped bit.
    pub(crate) corrupted_frames: u64,
}

/// The counts of all flows.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic(Arc<Mutex<BTreeMap<Flow, Count>>>);

impl Traffic {
    pub(super) fn add(&self, flow: &Flow, add: impl FnOnce(&mut Count)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(flow) {
            Some(count) => add(count),
            None => add(counts.entry(flow.clone()).or_default()),
        }
    }

    pub(super) fn count(&self, flow: &Flow) -> Count {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(flow).copied().unwrap_or_default()
    }
}
