//! What the tasks of a node tell each other.

use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::frame::Frame;
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::{NodeId, RingVersion};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::outbox::Outbox;
use crate::engine::placement::preference::NodeSlot;

/// How many events may wait for the coordinator; connections wait before they read more.
pub const COORDINATOR_EVENTS_MAX: usize = 1024;

/// How many events may wait for the control task.
pub const CONTROL_EVENTS_MAX: usize = 1024;

/// A connection that came in: a number, never used again while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The connection of the program that the node runs in; those that come in count from 1.
    pub const LOCAL: Self = Self(0);

    /// The connection over which the node mends its own copies.
    pub const ANTI_ENTROPY: Self = Self(u64::MAX);
}

/// How often a link to a node has been dialled: tells late news of an old connection from news.
pub type Epoch = u64;

/// What the coordinator is told.
#[derive(Debug)]
pub enum CoordinatorEvent {
    /// A connection came in and shook hands.
    Opened {
        /// Its number.
        connection: ConnectionId,
        /// Where its answers go.
        outbox: Arc<Outbox>,
        /// Whether a node is at the other end.
        is_peer: bool,
        /// Which, if it came from elsewhere.
        caller: Option<NodeId>,
        /// When it was welcomed.
        since: Instant,
    },
    /// All requests about data that one read brought.
    Requests {
        /// The connection that they came over.
        connection: ConnectionId,
        /// In the order in which they came.
        frames: Vec<Frame>,
    },
    /// A connection that came in has ended.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
    /// A link that was dialled stands.
    LinkUp {
        /// The node at the other end.
        node: NodeSlot,
        /// The attempt that made it.
        epoch: Epoch,
        /// Where requests go.
        outbox: Arc<Outbox>,
        /// When the welcome came.
        since: Instant,
    },
    /// All answers that one read of a link brought.
    LinkFrames {
        /// The node that answers.
        node: NodeSlot,
        /// The attempt that made the link.
        epoch: Epoch,
        /// In the order in which they came.
        frames: Vec<Frame>,
    },
    /// A link could not be dialled, or has ended.
    LinkDown {
        /// The node at the other end.
        node: NodeSlot,
        /// The attempt that made it, or failed.
        epoch: Epoch,
        /// For people.
        reason: String,
    },
}

/// Where the answer to a control request goes.
#[derive(Debug, Clone)]
pub struct Responder {
    /// The connection's outbox.
    pub outbox: Arc<Outbox>,
    /// The id that the answer carries.
    pub request_id: u64,
}

impl Responder {
    /// Sends the answer.
    pub fn respond(&self, response: &Response) {
        self.outbox.respond(self.request_id, response);
    }
}

/// What the control task is told.
#[derive(Debug)]
pub enum ControlEvent {
    /// A request about nodes rather than data.
    Request {
        /// What is asked.
        request: Box<Request>,
        /// What it came as: it stays in the books until it is dealt with.
        body: Bytes,
        /// Who asks, when it is a node.
        peer: Option<Arc<PeerIdentity>>,
        /// Where the answer goes.
        responder: Responder,
    },
    /// A write waits for the ring to become final.
    SealWanted,
    /// Someone follows a newer ring.
    NewerRingSeen {
        /// The version of that ring.
        version: RingVersion,
    },
    /// A node that was asked for something follows this ring, and says so.
    RingTold {
        /// The ring.
        document: Box<RingDocument>,
    },
    /// A data link to a node broke or could not be made.
    LinkLost {
        /// The node at the other end.
        node: NodeId,
    },
}

/// How events reach the coordinator.
pub type CoordinatorSender = mpsc::Sender<CoordinatorEvent>;

/// How events reach the control task.
pub type ControlSender = mpsc::Sender<ControlEvent>;
