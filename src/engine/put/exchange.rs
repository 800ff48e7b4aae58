//! What goes into the coordination of a write, and what comes out.

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::causal::Versions;
use smallvec::SmallVec;

use crate::engine::preference::NodeSlot;
use crate::engine::quorum::Place;

/// What the coordinator is to do. Places are those of the preference list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find out at once whether this owner can be reached.
    Ping(NodeSlot),
    /// Read this owner's versions.
    Read(NodeSlot),
    /// Read the own versions.
    ReadLocal,
    /// Merge these into the own versions, mint the dot, and make the result durable.
    Mint {
        /// What other owners had, when this node stands in.
        merge_first: Option<Box<Versions>>,
    },
    /// Have this owner merge the result.
    Merge {
        /// Who.
        to: NodeSlot,
        /// The encoded versions.
        versions: Bytes,
    },
    /// Have this node keep the result for the owners: it stands in for one of them.
    Hint {
        /// Who.
        to: NodeSlot,
        /// The encoded versions.
        versions: Bytes,
    },
    /// The client's answer. The operation goes on while [`Put::is_over`](super::Put::is_over) does not hold.
    Answer(Result<Acknowledged, ErrorReply>),
    /// This owner does not have an acknowledged write, as far as is known: remember to give it the key.
    Remind(NodeSlot),
}

/// A write that has met its quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The key's context with the write in it.
    pub context: Bytes,
    /// How many owners were needed.
    pub effective_w: u8,
    /// Whether it took stand-ins to make that number.
    pub is_sloppy: bool,
}

/// How a write is to be coordinated.
#[derive(Debug, Clone)]
pub struct Terms {
    /// This node's place in the preference list: its own, or that of the owner it stands in for.
    pub own: Place,
    /// Whether this node is no owner and stands in for one: it mints over the hint it has.
    pub is_stand_in: bool,
    /// Whether a quorum must be read before minting: a blind write that does not come through the first
    /// owner.
    pub reads_first: bool,
    /// How many owners must have it; capped at the number of owners.
    pub w: u8,
    /// How many owners are read first, if any are; capped likewise.
    pub r: u8,
    /// Who may stand in for owners, the nearest first: nodes in reach that own no copy of the key. `None`
    /// for a strict quorum.
    pub stand_ins: Option<SmallVec<[NodeSlot; 4]>>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An owner answered a ping.
    Reached(NodeSlot),
    /// An owner's versions; `None` means that it is rebuilding and has no say.
    Read(NodeSlot, Option<Box<Versions>>),
    /// The dot is minted.
    Minted {
        /// The merged versions, encoded: what is replicated.
        versions: Bytes,
        /// The context that stands for having seen them.
        context: Bytes,
    },
    /// The own versions are on disk.
    Durable,
    /// An owner has merged and synced, or a stand-in has kept the hint and synced.
    Merged(NodeSlot),
    /// An owner could not be reached, or refused.
    Failed(NodeSlot),
    /// This node's store refused or failed.
    Refused(ErrorReply),
    /// It takes longer than it should.
    Slow,
    /// Time is up.
    Deadline,
}
