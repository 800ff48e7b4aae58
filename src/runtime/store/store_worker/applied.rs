//! What the writer remembers of a job that it applied, until the sync that it shares with others.

use bytes::Bytes;
use dynakv_protocol::{ClusterId, ErrorReply};

use super::jobs::{StoreEvent, Token};
use crate::engine::write::mint::Intent;
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::put::Seen;

/// A job that is applied and waits for the sync.
pub(super) struct Written {
    pub(super) token: Token,
    pub(super) rebuilding: bool,
    pub(super) beside: Option<Bytes>,
    pub(super) refused: Option<ErrorReply>,
}

impl Written {
    /// What is said of it once it is synced.
    pub(super) fn durable(self) -> StoreEvent {
        let token = self.token;
        match self.refused {
            Some(error) => StoreEvent::Job {
                token,
                outcome: JobOutcome::Refused(error),
            },
            None => StoreEvent::Job {
                token,
                outcome: JobOutcome::Durable {
                    rebuilding: self.rebuilding,
                    beside: self.beside,
                },
            },
        }
    }
}

/// What came of applying a job.
pub(super) struct Applied {
    pub(super) bytes: usize,
    /// Whether the node has lost versions around its key.
    pub(super) rebuilding: bool,
    /// What stood beside a merged write, where that was asked.
    pub(super) beside: Option<Bytes>,
    /// Why the write itself is refused, where only what others had beside it was merged.
    pub(super) refused: Option<ErrorReply>,
}

/// A client's write on its way to a dot.
pub(super) struct ToMint {
    pub(super) intent: Box<Intent>,
    pub(super) seen: Option<Box<Seen>>,
    pub(super) catches_up: bool,
    pub(super) cluster_id: ClusterId,
}

/// What came of it.
pub(super) enum Outcome {
    /// It has a dot, or needs none: to be told once the state is applied.
    Minted(StoreEvent),
    /// Nothing happened: to be told at once.
    Behind(StoreEvent),
    /// It is refused; what others had is merged all the same, and kept.
    Refused(ErrorReply),
}
