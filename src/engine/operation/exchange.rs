//! What goes into an operation, and what comes out.

use bytes::Bytes;
use dynakv_protocol::frame::Frame;
use dynakv_protocol::message::Response;
use dynakv_protocol::{Actor, ErrorReply, RingVersion};
use smallvec::SmallVec;

use super::purpose::Purpose;
use crate::engine::placement::preference::{NodeSlot, Preference};
use crate::engine::read::explain;
use crate::engine::read::get::Found;
use crate::engine::write::mint::Intent;
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::put::{Acknowledged, Round, Seen};

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A node has answered what it was sent.
    Answered {
        /// The node that answers.
        from: NodeSlot,
        /// What it was sent for.
        purpose: Purpose,
        /// What it says.
        response: Response,
    },
    /// This node follows the ring that [`Effect::AwaitRing`] waits for.
    NewRing {
        /// Who owns the key under it.
        owners: Preference,
        /// Who else of them can be reached.
        usable: SmallVec<[NodeSlot; 4]>,
        /// Who may stand in for them, the nearest first.
        stand_ins: SmallVec<[NodeSlot; 4]>,
    },
    /// The owner that was handed the request has answered it.
    Coordinated {
        /// The owner that answers.
        from: NodeSlot,
        /// What it says, as it came.
        answer: Frame,
    },
    /// This node's store has done its part.
    Stored {
        /// What it was asked for.
        purpose: Purpose,
        /// What came of it.
        outcome: JobOutcome,
        /// Under which actor this node mints.
        actor: Actor,
    },
    /// The request has been sent to this owner, as [`Effect::HandOn`] asked.
    HandedOn(NodeSlot),
    /// The owner has certainly not acted on the request: it could not be sent.
    NotTaken(NodeSlot),
    /// There is a link to this node.
    LinkUp(NodeSlot),
    /// What a node was asked for will not be answered.
    Failed {
        /// The node that will not answer.
        node: NodeSlot,
        /// Why, for people.
        reason: &'a str,
    },
    /// The link to a node is gone, or in doubt.
    Lost {
        /// The node at the other end.
        node: NodeSlot,
        /// What it took along.
        how: Lost,
        /// Why, for people.
        reason: &'a str,
    },
    /// This node's disk hangs: what it was given may be done at any time, or never.
    OwnDiskHangs {
        /// Whether reads of it hang as well.
        in_reads: bool,
    },
    /// Another node says that its disk hangs. An answer that comes all the same still counts.
    DiskHangs(NodeSlot),
    /// It takes longer than it should.
    Slow,
    /// Time is up.
    Deadline,
}

/// What a link that is down has taken with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Requests that the node may have seen.
    WithRequests,
    /// Requests that the node may have seen, and may yet see: it is silent.
    InDoubt,
    /// None: it never stood, so nothing that waited for it was sent.
    BeforeAny,
}

/// What the coordinator is to do. This node itself is [`SELF`](crate::engine::placement::preference::SELF).
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out at once whether this owner can be reached.
    Ping(NodeSlot),
    /// Read an owner's versions.
    Read {
        /// The owner, perhaps this node itself.
        from: NodeSlot,
        /// How much of them is wanted.
        how: Reading,
    },
    /// Mint the dot here, over what is stored, and make the result durable.
    Mint(Mint),
    /// Mint it over the hint that this node has of the key, and keep the result for the owners.
    MintHint {
        /// What to write, unless an earlier effect had it.
        intent: Option<Box<Intent>>,
        /// The owners that it is kept for.
        owed: Owed,
    },
    /// Have this node merge versions, and make them durable.
    Merge {
        /// The node that merges, perhaps this one itself.
        to: NodeSlot,
        /// What the answer will be taken for.
        purpose: Purpose,
        /// Encoded.
        versions: Bytes,
        /// Whether it is to say what it has beside them.
        tell_beside: bool,
    },
    /// Have this node keep versions for the owners: it stands in for one of them.
    Hint {
        /// The node that stands in.
        to: NodeSlot,
        /// In which round of the write.
        round: Round,
        /// Encoded.
        versions: Bytes,
        /// The owners that they are kept for.
        owed: Owed,
    },
    /// This owner does not have an acknowledged write, as far as is known: remember to give it the key.
    Remind(NodeSlot),
    /// Send the request to this owner, and say [`Event::HandedOn`] or [`Event::NotTaken`]; neither while there
    /// is no link to it yet.
    HandOn {
        /// The owner that is to coordinate it.
        to: NodeSlot,
        /// Whether somebody was given it before and may have acted on it.
        again: bool,
        /// Whether somebody else is given it when this owner is slow.
        may_go_elsewhere: bool,
    },
    /// Coordinate the request here after all.
    TakeOver,
    /// Stand in for an owner.
    StandIn,
    /// This node's disk does not take the write that it coordinates: another owner may, or its client is told.
    HandOver(ErrorReply),
    /// There is a newer ring than this node's.
    NewerRing(RingVersion),
    /// Begin anew under that ring: nothing has been put anywhere.
    BeginAgain(RingVersion),
    /// Say [`Event::NewRing`] once this node follows that ring; what was asked for before counts no more.
    AwaitRing(RingVersion),
    /// Look what this node's store has of a write that was sent, and make that durable.
    Rebase {
        /// The round that the write is in.
        round: Round,
        /// What was sent, encoded.
        versions: Bytes,
    },
    /// The client's answer. What follows it is mending: repairs of a read, reminders of a write.
    Answer(Result<Answer, ErrorReply>),
}

/// How an owner's versions are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The digest of large ones will do.
    OrDigest,
    /// In full, however large they are.
    InFull,
    /// The same, because its digest was of nothing that is here.
    Again,
    /// In full, and with its actor.
    WithActor,
}

/// A write that gets its dot here.
#[derive(Debug, PartialEq, Eq)]
pub struct Mint {
    /// What to write; `None` where an earlier effect had it. The request still says it.
    pub intent: Option<Box<Intent>>,
    /// What other owners have and it is minted over as well.
    pub seen: Option<Box<Seen>>,
    /// The round that the dot is of.
    pub round: Round,
    /// Whether nothing is minted while its context names what was not seen here.
    pub catches_up: bool,
}

/// For whom a hint is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The owners of the key.
    pub owners: SmallVec<[NodeSlot; 4]>,
    /// How many of them must have it.
    pub needed: u8,
}

/// How an operation ends well.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A write that has met its quorum.
    Written(Acknowledged),
    /// What a quorum of owners has.
    Found(Found),
    /// What each owner has, or why it did not say, in the order of preference.
    Explained(Vec<(NodeSlot, explain::Answer)>),
    /// So many owners were needed to take an import, and have.
    Imported(u8),
    /// What the owner said that coordinated it, as it came.
    Forwarded(Frame),
}

/// What is to be done, in order. One is lent to step after step, so that in the usual course none allocates.
#[derive(Debug, Default)]
pub struct Effects {
    pub(super) list: Vec<Effect>,
    pub(super) of_put: Vec<crate::engine::write::put::Effect>,
    pub(super) of_get: Vec<crate::engine::read::get::Effect>,
    pub(super) of_forward: Vec<crate::engine::write::forward::Effect>,
}

impl Effects {
    /// Takes them out.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> {
        self.list.drain(..)
    }

    /// Looks at them.
    pub fn iter(&self) -> impl Iterator<Item = &Effect> {
        self.list.iter()
    }
}
