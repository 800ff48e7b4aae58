//! What is answered to nodes that are no members.

use dynakv_protocol::gossip::Gossip;
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::RingDocument;

use super::Control;

impl Control {
    /// Whether only a member may ask this. Who is none yet may ask to join.
    pub(super) fn is_of_members(request: &Request) -> bool {
        matches!(
            request,
            Request::Gossip(_)
                | Request::Probe(_)
                | Request::FetchRing
                | Request::Prepare(_)
                | Request::Accept(_)
        )
    }

    /// What is answered to a node that is no member: who asks for what only members may ask. Nothing of what it
    /// says is taken in. Who is of this cluster is told of the ring: it may be the process on the directory that a member
    /// had before, which ends then; or one that was being taken in when that was given up, which asks anew.
    pub(super) fn answer_to_stranger(
        &self,
        request: &Request,
        stranger: &PeerIdentity,
    ) -> Response {
        let own = self.ring.as_ref().map(|ring| ring.document());
        let is_of_cluster = |ring: &&RingDocument| {
            ring.member(&stranger.node_id).is_some() || ring.cluster_id == stranger.cluster_id
        };
        let former = own.filter(is_of_cluster);
        match (request, former) {
            (Request::Gossip(_), Some(ring)) => Response::Gossip(Gossip {
                ring_version: ring.version,
                entries: Vec::new(),
            }),
            (Request::FetchRing, Some(ring)) => Response::RingDocument(ring.clone()),
            _ => Response::Error(self.view.borrow().no_member(stranger)),
        }
    }
}
