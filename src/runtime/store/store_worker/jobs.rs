//! What the store is asked to do, and what comes of it.

use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::admin::ExportedItem;
use dynakv_protocol::message::Response;
use dynakv_protocol::peer::Digest;
use dynakv_protocol::{ClusterId, ErrorReply, RingVersion};
use dynakv_storage::StoreError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::engine::write::mint::Intent;
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::put::Seen;
use crate::runtime::shared::events::ConnectionId;

/// Who waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// An operation that this node coordinates.
    Operation(u64),
    /// Another node, by its connection and its request.
    Replica(ConnectionId, u64),
    /// The same, and it wants to know this node's actor with the answer.
    Explaining(ConnectionId, u64),
    /// Another node that puts versions in the place of others here.
    Replacing(ConnectionId, u64),
    /// Another node that has a hint kept here.
    Hint(ConnectionId, u64),
}

/// What waits for the writer. It is looked at once for a whole list of jobs, and not with each of them.
#[derive(Debug)]
pub(super) enum Queued {
    /// Keys are to change.
    Work(Vec<WriteJob>),
    /// From here on this ring is followed, and nothing is done that was asked for under another one.
    Fence {
        /// Which ring.
        version: RingVersion,
        /// Told when that is so.
        done: oneshot::Sender<()>,
    },
    /// Keys are to go. Many have one sync, and nobody waits for them by a token.
    Drop(DropJob),
}

/// What the writer is to do.
#[derive(Debug)]
pub struct WriteJob {
    /// Who waits.
    pub token: Token,
    /// The ring under which it is asked for.
    pub ring_version: RingVersion,
    /// The key.
    pub key: Bytes,
    /// What is done to it.
    pub work: WriteWork,
}

/// How a key changes.
#[derive(Debug)]
pub enum WriteWork {
    /// A client's write, coordinated here: it gets its dot now.
    Mint {
        /// What to write.
        intent: Box<Intent>,
        /// What other owners have and it is minted over as well.
        seen: Option<Box<Seen>>,
        /// Whether nothing is minted while its context names what was not seen here.
        catches_up: bool,
        /// For the context of the answer.
        cluster_id: ClusterId,
        /// After this it is not minted any more.
        begin_by: Option<Instant>,
    },
    /// Another replica's versions.
    Merge {
        /// Encoded.
        versions: Bytes,
        /// Whether it is to be told what stands here beside them.
        tell_beside: bool,
    },
    /// A write that was minted and sent under an earlier ring: it is to be sent again as it stands here by now.
    Rebase {
        /// What was sent, encoded.
        sent: Bytes,
        /// After this it is not sent again: somebody else was given the write by then.
        begin_by: Option<Instant>,
    },
    /// Versions that take the place of what is there, if that is as expected.
    Replace {
        /// Of what is to be there; `None` for nothing.
        expected: Option<Digest>,
        /// Encoded.
        versions: Bytes,
    },
}

/// Keys to be removed, each with the [`checksum`](dynakv_protocol::hash::checksum) of what is to be stored under it.
#[derive(Debug)]
pub(super) struct DropJob {
    /// The ring under which it is asked for.
    pub(super) ring_version: RingVersion,
    /// Which ones.
    pub(super) keys: Vec<(Bytes, u64)>,
    /// Told once it is durable.
    pub(super) done: oneshot::Sender<Result<Dropped, ErrorReply>>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Keys that were removed.
    pub removed: u64,
    /// Keys that were kept, because their versions are others or cannot be read.
    pub kept: u64,
}

/// A job that is done and waits for the sync that it shares with others.
pub(super) struct WaitingDrop {
    pub(super) done: oneshot::Sender<Result<Dropped, ErrorReply>>,
    pub(super) result: Result<Dropped, ErrorReply>,
}

impl WaitingDrop {
    /// It is as durable as it will be, or that failed.
    pub(super) fn tell(self, synced: Result<(), ErrorReply>) {
        // Who does not wait any more has no use for it.
        let _ = self.done.send(synced.and(self.result));
    }
}

/// What the reader is to do.
#[derive(Debug)]
pub struct ReadJob {
    /// Who waits.
    pub token: Token,
    /// From where it was asked for: those that ask for much take turns with the others.
    pub connection: ConnectionId,
    /// The ring under which it is asked for.
    pub ring_version: RingVersion,
    /// The key.
    pub key: Bytes,
    /// Of versions of more bytes than this the digest is wanted in their place.
    pub digest_above: Option<u32>,
}

/// What the store has to tell.
#[derive(Debug)]
pub enum StoreEvent {
    /// A job came to something.
    Job {
        /// Who waits.
        token: Token,
        /// What it came to.
        outcome: JobOutcome,
    },
    /// What came of a scan.
    Scanned {
        /// From where it was asked for.
        connection: ConnectionId,
        /// Under which id.
        request_id: u64,
        /// Whether another node wanted it, or this one, to mend its copies.
        is_mending: bool,
        /// A part of what is stored, or why there is none.
        result: Result<Scanned, ErrorReply>,
    },
    /// The disk failed: what was written can't be made durable. The node must stop.
    Failed(Arc<StoreError>),
}

impl StoreEvent {
    /// Bytes of what was read.
    pub fn bytes_read(&self) -> usize {
        match self {
            Self::Job { outcome, .. } => match outcome {
                JobOutcome::Read { versions, .. } => versions.len(),
                JobOutcome::Minted { .. }
                | JobOutcome::Behind { .. }
                | JobOutcome::Durable { .. }
                | JobOutcome::Refused(_) => 0,
            },
            Self::Scanned { result, .. } => result.as_ref().map_or(0, Scanned::bytes),
            Self::Failed(_) => 0,
        }
    }
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned {
    /// A part of an export.
    Exported(Part),
    /// The answer, as it goes out.
    Answer(Box<Response>),
}

impl Scanned {
    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Exported(part) => {
                let items = part.items.iter();
                items.map(|item| item.key.len() + item.versions.len()).sum()
            }
            Self::Answer(answer) => match &**answer {
                Response::Listed(listed) => {
                    let keys = listed.keys.iter();
                    keys.map(|key| key.key.len() + key.versions.len()).sum()
                }
                // Hashes, and no values.
                _ => 0,
            },
        }
    }
}

/// One part of an export.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// Keys and their versions, in ring order.
    pub items: Vec<ExportedItem>,
    /// Keys whose value is damaged or locked.
    pub damaged: Vec<Bytes>,
    /// Those of them that are locked.
    pub locked: Vec<Bytes>,
    /// Where to go on; `None` at the end.
    pub next: Option<Bytes>,
}
