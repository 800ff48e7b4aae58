//! One node, asked about itself.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::change_ring::ChangeRing;
use dynakv_protocol::client::{HealthReply, RingReply, StatsReply, StatusReply};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::repair::{Repair, RepairProgress};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::snapshot::{Snapshot, SnapshotProgress};
use tokio::time::Instant;

use crate::error::Error;
use crate::execute::unexpected;
use crate::node::Node;

/// One node of the cluster: see [`Client::node`](crate::Client::node). No other node answers in its
/// place, and nothing is tried twice: whoever watches nodes wants to know.
#[derive(Debug, Clone)]
pub struct NodeClient {
    node: Arc<Node>,
    timeout: Duration,
}

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident -> $reply:ty = $request:ident / $response:ident;)*) => {
        impl NodeClient {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`Error`], when it cannot be reached or does not answer in time.
                pub async fn $name(&self) -> Result<$reply, Error> {
                    match self.ask(&Request::$request).await? {
                        Response::$response(reply) => Ok(reply),
                        _ => Err(self.unexpected()),
                    }
                }
            )*
        }
    };
}

questions! {
    /// Its statistics.
    stats -> StatsReply = Stats / Stats;
    /// Whether it is ready.
    health -> HealthReply = Health / Health;
    /// The cluster as it sees it.
    status -> StatusReply = Status / Status;
    /// The ring as it knows it.
    ring -> RingReply = Ring / Ring;
}

impl NodeClient {
    /// Has it compare its copies with those of all other members now, or tells how far it is. Answers at
    /// once: ask again with [`Repair::Look`] until it is done.
    ///
    /// # Errors
    /// [`Error`], when it cannot be reached or does not answer in time, or is in no cluster yet, or
    /// shuts down.
    pub async fn repair(&self, repair: Repair) -> Result<RepairProgress, Error> {
        match self.ask(&Request::Repair(repair)).await? {
            Response::Repairing(progress) => Ok(progress),
            _ => Err(self.unexpected()),
        }
    }

    /// Has it copy all that it holds into a directory on its machine, or tells how far that is. Answers at once: ask again
    /// with [`Snapshot::Look`] until it is done.
    ///
    /// # Errors
    /// [`Error`], when it cannot be reached or does not answer in time, is in no cluster yet, shuts down, makes another one
    /// at present, or does not take the name.
    pub async fn snapshot(&self, snapshot: Snapshot) -> Result<SnapshotProgress, Error> {
        match self.ask(&Request::Snapshot(snapshot)).await? {
            Response::Snapshotting(progress) => Ok(progress),
            _ => Err(self.unexpected()),
        }
    }

    /// Has it change the members of the ring, or say which ring that would be. The answer is that ring: once it is decided
    /// the change goes on by itself, as [`status`](Self::status) tells.
    ///
    /// # Errors
    /// [`Error`], when it cannot be reached or does not answer in time, or refuses the change; the text says what to do.
    pub async fn change_ring(&self, change: ChangeRing) -> Result<RingDocument, Error> {
        match self.ask(&Request::ChangeRing(change)).await? {
            Response::RingChanged(document) => Ok(document),
            _ => Err(self.unexpected()),
        }
    }

    pub(crate) fn new(node: Arc<Node>, timeout: Duration) -> Self {
        Self { node, timeout }
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        self.node.address()
    }

    pub(crate) async fn ask(&self, request: &Request) -> Result<Response, Error> {
        self.node.call(request, Instant::now() + self.timeout).await
    }

    /// The error for an answer to another kind of question.
    pub(crate) fn unexpected(&self) -> Error {
        unexpected(&self.node, false)
    }
}
