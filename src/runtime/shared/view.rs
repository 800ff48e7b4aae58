//! What the node believes at the moment, published as one immutable snapshot.
//!
//! Only the control task makes views; everyone else looks at the newest one.

use std::sync::Arc;

use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::{ClusterId, ErrorCode, ErrorReply, NodeId, RingVersion};

use crate::engine::placement::ring::Ring;

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
    /// Whether the run of it that is known was heard of lately: by its heartbeat, or because it answered.
    pub is_heard: bool,
}

/// What the node believes: its cluster, its ring, who is alive.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The cluster; none while the node has not joined.
    pub cluster_id: ClusterId,
    /// The ring the node follows.
    pub ring: Option<Arc<Ring>>,
    /// What this node has accepted for the version after its ring: it may have been decided.
    pub next: Option<Arc<RingDocument>>,
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
        self.member(id).map(|member| member.address.clone())
    }

    /// A member, as seen from here.
    pub fn member(&self, id: &NodeId) -> Option<&MemberView> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// Whether a node that says who it is is a member: its name and its directory are in the ring, or in the
    /// one that this node has accepted to follow it. A majority has accepted what was decided, so who was let in
    /// is known to one even if whoever let it in dies before it can tell.
    pub fn has_member(&self, peer: &PeerIdentity) -> bool {
        let own = self.ring.as_ref().map(|ring| ring.document());
        let rings = own.into_iter().chain(self.next.as_deref());
        let mut entries = rings.filter_map(|ring| ring.member(&peer.node_id));
        entries.any(|member| member.directory_id == peer.directory_id)
    }

    /// What is answered to a node that is none.
    pub fn no_member(&self, peer: &PeerIdentity) -> ErrorReply {
        let message = match &self.ring {
            None => "this node has not joined a cluster yet".to_owned(),
            Some(ring) => format!(
                "the ring of this node, version {}, does not have {} with the data directory {:016x}: whoever is \
                 no member may ask to join (start it with --seed) and nothing else",
                ring.version().0,
                peer.node_id,
                peer.directory_id.0
            ),
        };
        // The ring may be on its way.
        ErrorReply::new(ErrorCode::NotReady, message).retryable()
    }

    /// The version of the ring, 0 for none.
    pub fn ring_version(&self) -> RingVersion {
        self.ring
            .as_ref()
            .map_or(RingVersion(0), |ring| ring.version())
    }
}
