//! What the node believes at the moment, published as one immutable snapshot.
//!
//! Only the control task makes views; everyone else looks at the newest one.

use std::sync::Arc;

use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::{ClusterId, NodeId, RingVersion};

use crate::engine::ring::Ring;

/// One member as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its name.
    pub id: NodeId,
    /// Where it is reached now.
    pub address: String,
    /// Whether there is news of it.
    pub state: MemberState,
    /// Whether its disk hangs, so that it takes no writes.
    pub disk_hangs: bool,
}

/// What the node believes: its cluster, its ring, who is alive.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The cluster; none while the node has not joined.
    pub cluster_id: ClusterId,
    /// The ring the node follows.
    pub ring: Option<Arc<Ring>>,
    /// The ring's members, in the order of the ring document.
    pub members: Vec<MemberView>,
    /// This node's default write quorum.
    pub w: u8,
    /// This node's default read quorum.
    pub r: u8,
}

impl View {
    /// Where a member is reached now.
    pub fn address_of(&self, id: &NodeId) -> Option<String> {
        let member = self.members.iter().find(|member| member.id == *id);
        member.map(|member| member.address.clone())
    }

    /// The version of the ring, 0 for none.
    pub fn ring_version(&self) -> RingVersion {
        self.ring
            .as_ref()
            .map_or(RingVersion(0), |ring| ring.version())
    }
}
