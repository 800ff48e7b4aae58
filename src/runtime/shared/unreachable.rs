//! Which nodes cannot be spoken to at the moment, as the links to them show: the coordinator notes it, `status` tells.
//!
//! Gossip takes seconds until it suspects a member, because its verdict is about the member, and is everybody's. This
//! is about the way from here to there, and true at once.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynakv_protocol::NodeId;

/// Who cannot be spoken to from here. At most as many as the rings of this process had members.
#[derive(Debug, Default)]
pub struct Unreachable(Mutex<BTreeSet<NodeId>>);

impl Unreachable {
    /// Notes whether a node cannot be spoken to.
    pub fn note(&self, node: &NodeId, is_unreachable: bool) {
        let mut nodes = self.nodes();
        if is_unreachable {
            nodes.insert(node.clone());
        } else {
            nodes.remove(node);
        }
    }

    /// Whether this one cannot.
    pub fn has(&self, node: &NodeId) -> bool {
        self.nodes().contains(node)
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        // Each change is a single step, which leaves a whole set.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
