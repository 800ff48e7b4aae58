//! What goes into the state machine and what comes out.

use dynakv_protocol::gossip::{Gossip, MemberState};
use dynakv_protocol::ids::{DirectoryId, Generation, NodeId, RingVersion};
use dynakv_protocol::moving::Moving;

/// A member, as the ring has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingMember {
    /// Its name.
    pub id: NodeId,
    /// The directory that its data is in: news of another one is not of this member.
    pub directory_id: DirectoryId,
    /// Where it was reached when it joined.
    pub address: String,
}

/// What happens to the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. Send it several times per gossip interval; what is due is derived from the
    /// time, so the cadence does not matter otherwise.
    Tick,
    /// The ring's members. Others are forgotten.
    RingMembers(Vec<RingMember>),
    /// The version of this node's ring.
    RingVersion(RingVersion),
    /// News came in.
    GossipReceived {
        /// Who sent it, as its handshake said.
        from: NodeId,
        /// What it said.
        gossip: Gossip,
        /// Whether it answers gossip of this node's.
        is_reply: bool,
    },
    /// Another node asks to probe one.
    ProbeRequested {
        /// Returned in [`Effect::AnswerProbe`]; the caller's to choose.
        token: u64,
        /// Whom to try.
        target: NodeId,
        /// Who asks.
        from: NodeId,
    },
    /// A ping or a probe came to its end.
    ProbeAnswered {
        /// Whom it was about.
        target: NodeId,
        /// Who tried it; none for a ping of this node's.
        via: Option<NodeId>,
        /// Whether the target answered. False also when `via` did not answer.
        alive: bool,
    },
    /// A connection to this member broke or could not be made: a hint to probe it, not more.
    ConnectionLost {
        /// Who was at the other end.
        node: NodeId,
    },
    /// What this node's own store holds, to be told to others.
    LocalLoad {
        /// Live keys.
        keys: u64,
        /// Bytes on disk.
        disk_bytes: u64,
        /// Segments that are being rebuilt.
        rebuilding_segments: u32,
        /// Keys that are kept for other nodes.
        hints_waiting: u64,
        /// Whether there is no room beside the reserve of its disk.
        disk_full: bool,
        /// It has all that it gained by the change of the ring that began with this version.
        complete_since: RingVersion,
        /// By this ring it is to go, and it has nothing left to hand on.
        settled_at: RingVersion,
        /// Keys that are kept for other nodes and that an acknowledged write counts on.
        hints_counted: u64,
        /// What a change of the ring still has it move.
        moving: Option<Moving>,
    },
    /// Whether this node's own disk hangs, to be told to others at once.
    LocalDisk {
        /// Whether it does.
        hangs: bool,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send news.
    SendGossip {
        /// The member that it goes to.
        to: NodeId,
        /// Where it is reached; empty in a reply to a node that is no member and did not say.
        address: String,
        /// What to say.
        gossip: Gossip,
        /// Whether it answers the gossip of the event in hand.
        is_reply: bool,
    },
    /// Ping a member, and report with [`Event::ProbeAnswered`] without `via`.
    SendPing {
        /// Whom to ping.
        target: NodeId,
        /// Where it is reached.
        address: String,
    },
    /// Ask a member to probe another, and report with [`Event::ProbeAnswered`].
    SendProbe {
        /// Whom to ask.
        via: NodeId,
        /// Where that one is reached.
        address: String,
        /// Whom it should try.
        target: NodeId,
    },
    /// Answer a probe that another node asked for.
    AnswerProbe {
        /// That of the request.
        token: u64,
        /// Who asked.
        to: NodeId,
        /// Whom it was about.
        target: NodeId,
        /// Whether the target answered.
        alive: bool,
    },
    /// This node's judgement of a member has changed.
    StateChanged {
        /// Of whom.
        id: NodeId,
        /// From this.
        from: MemberState,
        /// To this.
        to: MemberState,
    },
    /// Others know a newer run of this node's own directory: this one is a run of an old copy.
    Outdated {
        /// Who said so.
        from: NodeId,
        /// Of the newer run.
        generation: Generation,
    },
    /// A node has a newer ring: fetch it there.
    FetchRing {
        /// Who has it.
        from: NodeId,
        /// Where it is reached; empty for a node that is no member and did not say.
        address: String,
    },
}
