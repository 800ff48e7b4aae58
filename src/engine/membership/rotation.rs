//! Which news goes into a message of bounded size.
//!
//! Recent changes of state go first, each in a number of messages that grows with the logarithm of
//! the cluster (as in SWIM, section 4.1), then everybody in turn. In a cluster with fewer members
//! than a message has room for, every message tells of everybody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use dynakv_protocol::gossip::MemberEntry;
use dynakv_protocol::ids::NodeId;

use super::member::Peer;

/// Whose turn it is to be told of.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// Members with a recent change, the longest unsent first.
    changes: VecDeque<NodeId>,
    /// Whom the last message ended with.
    last: Option<NodeId>,
}

impl Rotation {
    /// Begins somewhere else than at the first name, so that not all nodes tell of the same members.
    pub(super) fn begin_after(&mut self, id: NodeId) {
        self.last.get_or_insert(id);
    }

    /// Lets a member's change go first in so many messages.
    pub(super) fn announce(&mut self, peer: &mut Peer, sends: usize) {
        if peer.sends_left == 0 {
            self.changes.push_back(peer.entry.id.clone());
        }
        peer.sends_left = sends;
    }

    /// Chooses up to `room` entries, without those that `skip` names.
    pub(super) fn choose(
        &mut self,
        peers: &mut BTreeMap<NodeId, Peer>,
        room: usize,
        skip: impl Fn(&Peer) -> bool,
    ) -> Vec<MemberEntry> {
        let mut chosen = Vec::new();
        let mut changed = BTreeSet::new();
        // Half of the room at most, so that a storm of changes can't stop all heartbeats.
        for _ in 0..self.changes.len().min(room.div_ceil(2)) {
            let Some(id) = self.changes.pop_front() else {
                break;
            };
            // Forgotten since.
            let Some(peer) = peers.get_mut(&id) else {
                continue;
            };
            peer.sends_left = peer.sends_left.saturating_sub(1);
            if peer.has_news && !skip(peer) {
                chosen.push(peer.entry.clone());
                changed.insert(id.clone());
            }
            if peer.sends_left > 0 {
                self.changes.push_back(id);
            }
        }
        let (after, before) = match &self.last {
            Some(last) => (Bound::Excluded(last), Bound::Included(last)),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let turn = peers.range::<NodeId, _>((after, Bound::Unbounded));
        let rest = peers.range::<NodeId, _>((Bound::Unbounded, before));
        let mut last = None;
        for (id, peer) in turn.chain(rest).take(peers.len()) {
            if chosen.len() >= room {
                break;
            }
            last = Some(id.clone());
            if peer.has_news && !skip(peer) && !changed.contains(id) {
                chosen.push(peer.entry.clone());
            }
        }
        if last.is_some() {
            self.last = last;
        }
        chosen
    }
}
