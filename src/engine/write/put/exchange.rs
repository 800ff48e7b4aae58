//! What goes into the coordination of a write, and what comes out.

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::peer::Merged;
use dynakv_protocol::{ErrorReply, RingVersion};
use smallvec::SmallVec;

use crate::engine::placement::preference::NodeSlot;
use crate::engine::quorum::Place;

/// A blind write that other owners have older or concurrent versions beside is minted twice. What is said
/// of the first dot says nothing of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Over what this node has.
    First,
    /// Over that and what the answers brought, under a new dot.
    Second,
}

/// What other owners have and a write is minted over, besides what this node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// What they had beside the first dot of a blind write, which is minted once more.
    Beside(Beside),
    /// What they have of a key of which this node lacked what a context names.
    Read(Versions),
}

impl Seen {
    /// Their versions.
    pub fn versions(&self) -> &Versions {
        match self {
            Self::Beside(Beside { beside, .. }) => beside,
            Self::Read(read) => read,
        }
    }
}

/// What a second round mints over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// What other owners have beside the first dot.
    pub beside: Versions,
    /// Under which dots the first round put the write.
    pub first: SmallVec<[Dot; 1]>,
    /// The values that the first round replaced.
    pub replaced: Replaced,
}

/// The values that a blind write replaced: one dot for each that a reader would have seen.
pub type Replaced = SmallVec<[Dot; 1]>;

/// What the coordinator is to do. Places are those of the preference list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find out at once whether this owner can be reached.
    Ping(NodeSlot),
    /// Read this owner's versions: it has merged the write, and cannot say what it has beside it; or nothing is
    /// written yet, and this node lacks what the context names.
    Read(NodeSlot),
    /// Mint the dot over the own versions, and over what was seen elsewhere, and make the result durable.
    Mint(Option<Box<Seen>>),
    /// Wait until this node follows that ring, and [`rebase`](super::Put::rebase) the write then.
    AwaitRing(RingVersion),
    /// Look what this node's store has of the write that was sent, and make that durable.
    Rebase {
        /// The round that the write is in.
        round: Round,
        /// What was sent, encoded.
        versions: Bytes,
    },
    /// Have this owner merge the result.
    Merge {
        /// The owner that merges.
        to: NodeSlot,
        /// The round that the versions are of.
        round: Round,
        /// The encoded versions.
        versions: Bytes,
        /// Whether it is to say what it has beside them.
        tell_beside: bool,
    },
    /// Have this node keep the result for the owners: it stands in for one of them.
    Hint {
        /// The node that stands in.
        to: NodeSlot,
        /// The round that the versions are of.
        round: Round,
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
    /// How many values a blind write replaced, as a reader would have counted them.
    pub replaced: usize,
}

/// How a write is to be coordinated.
#[derive(Debug, Clone)]
pub struct Terms {
    /// This node's place in the preference list: its own, or that of the owner it stands in for.
    pub own: Place,
    /// Whether this node is no owner and stands in for one: it mints over the hint it has.
    pub is_stand_in: bool,
    /// Whether it has no context: then it replaces what its owners have, and they are asked what that is.
    pub is_blind: bool,
    /// Whether this node has lost versions around the key: what it has not is no proof.
    pub is_rebuilding: bool,
    /// How many owners must have it; capped at the number of owners.
    pub w: u8,
    /// What the ring promises.
    pub promised: Promised,
    /// Who may stand in for owners, the nearest first: nodes in reach that own no copy of the key. `None`
    /// for a strict quorum.
    pub stand_ins: Option<SmallVec<[NodeSlot; 4]>>,
}

/// The quorums of the ring document, which every node keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promised {
    /// The smallest write quorum of a write that a later one relies on.
    pub w: u8,
    /// The smallest read quorum.
    pub r: u8,
}

/// What an owner that has merged a write says of what it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Nothing: it was not asked, or runs a version that does not know the question.
    Nothing,
    /// It has lost versions around the key.
    Rebuilding,
    /// Beside the write it has these versions, or none.
    Beside(Option<Box<Versions>>),
}

impl Said {
    /// What the answer to a merge says.
    pub fn of(merged: &Merged) -> Self {
        match &merged.beside {
            // Before all else: what it has is not all that it had.
            _ if merged.rebuilding => Self::Rebuilding,
            None => Self::Nothing,
            Some(beside) if beside.is_empty() => Self::Beside(None),
            Some(beside) => match Versions::from_bytes(beside) {
                Ok(beside) => Self::Beside(Some(Box::new(beside))),
                // It has something, and nobody can tell what.
                Err(_) => Self::Rebuilding,
            },
        }
    }
}

impl Event {
    /// What an owner has: encoded, empty for nothing.
    pub fn read(from: NodeSlot, versions: &Bytes, rebuilding: bool) -> Self {
        if rebuilding {
            return Self::Read(from, None);
        }
        let versions = match versions.is_empty() {
            true => Ok(Versions::new()),
            false => Versions::from_bytes(versions),
        };
        match versions {
            Ok(versions) => Self::Read(from, Some(Box::new(versions))),
            Err(_) => Self::Failed(from),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An owner answered a ping.
    Reached(NodeSlot),
    /// An owner's versions; `None` means that it is rebuilding, or refuses, and has no say.
    Read(NodeSlot, Option<Box<Versions>>),
    /// Nothing is minted: the context names writes that this node has not seen.
    Behind {
        /// The newest of them, of each actor.
        lacks: Clock,
        /// Whether this node has lost versions around the key.
        rebuilding: bool,
    },
    /// The dot is minted.
    Minted {
        /// The round that the dot is of.
        round: Round,
        /// The merged versions, encoded: what is replicated.
        versions: Bytes,
        /// The context that stands for having seen them.
        context: Bytes,
        /// Whether this node has lost versions around the key.
        rebuilding: bool,
        /// What it replaced.
        replaced: Replaced,
    },
    /// The own versions are on disk.
    Durable(Round),
    /// An owner has merged and synced, or a stand-in has kept the hint and synced.
    Merged {
        /// The owner, or who stands in for one.
        from: NodeSlot,
        /// The round of what it has merged.
        round: Round,
        /// What it had.
        said: Said,
    },
    /// An owner refused what it was sent.
    Declined {
        /// The owner that refused.
        from: NodeSlot,
        /// The round of what it refused.
        round: Round,
    },
    /// A node, perhaps this one's own store, follows a newer ring than the write.
    Stale {
        /// The round of what it refused.
        round: Round,
        /// Its ring.
        version: RingVersion,
    },
    /// A node could not be reached, or is lost.
    Failed(NodeSlot),
    /// This node's store refused or failed.
    Refused {
        /// The round of what was refused.
        round: Round,
        /// What the store says.
        error: ErrorReply,
    },
    /// It takes longer than it should.
    Slow,
    /// Time is up.
    Deadline,
}
