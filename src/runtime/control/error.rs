//! Why a node can't go on.

use dynakv_protocol::{DecodeError, ErrorReply, NodeId, RingVersion};
use dynakv_storage::StoreError;

use crate::engine::layout::ImpossibleBallot;

/// Why a node can't go on, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The cluster does not want this node.
    #[error("the cluster refused this node: {0}")]
    Refused(ErrorReply),
    /// The ring has this node with another directory.
    #[error(
        "the ring says that {id} lives in another data directory: it was started with an empty one while \
         this one was away. Start it with that one, or give this node another --id and an empty \
         --data-dir"
    )]
    Replaced {
        /// This node.
        id: NodeId,
    },
    /// The ring does without this node.
    #[error(
        "{id} was taken out of the cluster by ring {by}: it owns nothing any more, and its data directory is not used \
         again. To bring it in as a new node move that directory away and start it with --seed HOST:PORT of a member"
    )]
    Removed {
        /// This node.
        id: NodeId,
        /// The ring without it.
        by: RingVersion,
    },
    /// The directory belongs to a cluster of another name.
    #[error(
        "this data directory belongs to the cluster {found:?}, not to {asked:?}: start with --cluster \
         {found}, or with another --data-dir"
    )]
    OtherCluster {
        /// Whose it is.
        found: String,
        /// Which was asked for.
        asked: String,
    },
    /// The node was started with another N than its cluster has, or with smaller quorums than its
    /// cluster promises.
    #[error(
        "the cluster has {name} = {ring}, this node was started with -{name} {asked}: leave the \
             option out, or give it {ring}{or_more}"
    )]
    OtherQuorum {
        /// n, w or r.
        name: char,
        /// The cluster's.
        ring: u8,
        /// The node's.
        asked: u8,
        /// " or more" for w and r.
        or_more: &'static str,
    },
    /// The directory holds data but no ring.
    #[error(
        "this data directory holds data, but does not say of which cluster: give --seed HOST:PORT of a \
         node of that cluster, or an empty --data-dir"
    )]
    LostRing,
    /// It has accepted a ring in a round that cannot be.
    #[error(transparent)]
    Vote(#[from] ImpossibleBallot),
    /// A control document is damaged, or the disk failed.
    #[error(transparent)]
    Disk(#[from] StoreError),
    /// A control document can't be decoded although its checksum is right.
    #[error("the document {name:?} in the data directory is not of this version: {error}")]
    Document {
        /// The file that holds it.
        name: &'static str,
        /// What is wrong with it.
        error: DecodeError,
    },
}
