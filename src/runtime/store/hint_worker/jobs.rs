//! What the keeper of hints is asked to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::{ClusterId, NodeId, RingVersion};
use tokio::sync::oneshot;

use crate::engine::anti_entropy::handoff::{Hint, Revision, Word};
use crate::engine::placement::ring::Ring;
use crate::engine::write::mint::Intent;
use crate::runtime::store::store_worker::Token;

/// One job.
#[derive(Debug)]
pub enum HintJob {
    /// Keep this, durably, and say so.
    Keep {
        /// Who waits.
        token: Token,
        /// The ring under which it is asked for.
        ring_version: RingVersion,
        /// The key.
        key: Bytes,
        /// The versions, and for whom they are kept.
        hint: Box<Hint>,
    },
    /// A sloppy write that no owner could be reached for: mint it over the hint of its key, and keep that
    /// durably.
    Mint {
        /// Who waits.
        token: Token,
        /// The ring under which it is asked for.
        ring_version: RingVersion,
        /// The key.
        key: Bytes,
        /// What to write.
        intent: Box<Intent>,
        /// The owners.
        owed: BTreeSet<NodeId>,
        /// How many of them must have it before the hint may be dropped.
        needed: u8,
        /// For the context of the answer.
        cluster_id: ClusterId,
    },
    /// These owners may lack what this node's own store has of these keys. Nobody waits.
    Remind {
        /// Keys and owners.
        reminders: Vec<(Bytes, NodeId)>,
    },
    /// What is owed to a node next?
    Next {
        /// The node that they are handed to.
        node: NodeId,
        /// Behind this key.
        after: Option<Bytes>,
        /// At most so many.
        keys_max: usize,
        /// No more once they have so many bytes.
        bytes_max: usize,
        /// The answer.
        reply: oneshot::Sender<Batch>,
    },
    /// An owner has said something of these.
    Confirm {
        /// The owner that said it.
        by: NodeId,
        /// The ring under which it was asked.
        ring_version: RingVersion,
        /// What it said, hint by hint.
        confirmations: Vec<Confirmation>,
    },
    /// From here on this ring is followed, and nothing is kept that was asked for under another one.
    Fence {
        /// Which ring.
        version: RingVersion,
        /// Told when that is so.
        done: oneshot::Sender<()>,
    },
    /// From now on this is the ring: what is owed follows the owners.
    Follow {
        /// The ring.
        ring: Arc<Ring>,
    },
    /// Go on with the hints that are owed as under an earlier ring. The worker asks itself.
    FollowOn,
    /// Some time has passed: look after ages and metrics.
    Tick,
}

impl HintJob {
    /// Who waits for it to be done.
    pub fn token(&self) -> Option<Token> {
        match self {
            Self::Keep { token, .. } | Self::Mint { token, .. } => Some(*token),
            Self::Remind { .. }
            | Self::Next { .. }
            | Self::Confirm { .. }
            | Self::Fence { .. }
            | Self::Follow { .. }
            | Self::FollowOn
            | Self::Tick => None,
        }
    }
}

/// What is handed over to a node next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The ring under which it is owed: the node is asked to take it under that one.
    pub ring_version: RingVersion,
    /// The hints, in the order of their keys.
    pub hints: Vec<Due>,
}

/// A hint that is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The key.
    pub key: Bytes,
    /// What the hint was when it was looked at.
    pub revision: Revision,
    /// Encoded versions; `None` for those of this node's own store.
    pub versions: Option<Bytes>,
    /// The owner has said that it has them; whether it still does is asked.
    pub is_said: bool,
}

/// What an owner has said of a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The key.
    pub key: Bytes,
    /// What the hint was when it was sent.
    pub revision: Revision,
    /// What it said.
    pub word: Word,
}

/// How much is owed to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The node that is owed them.
    pub node: NodeId,
    /// How many keys.
    pub keys: u64,
}
