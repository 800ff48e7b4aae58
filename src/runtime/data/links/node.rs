//! A node that is linked to, and how its link stands.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::NodeId;
use dynakv_protocol::frame::BatchWriter;
use dynakv_protocol::gossip::MemberState;
use tokio::time::Instant;

use crate::runtime::shared::events::Epoch;
use crate::runtime::shared::ledger::Charge;
use crate::runtime::shared::outbox::Outbox;
use crate::runtime::shared::unreachable::Unreachable;

/// A link that is silent for this long although it was asked is in doubt: what waits for it fails, and
/// nothing more is sent until something comes. A node that is merely busy answers within 750 ms; one that
/// does not is asked last until it does, which costs nothing.
pub(super) const SILENT_DOUBT: Duration = Duration::from_millis(1250);

/// Requests wait for this long for a dial to a node that could not be reached before. The dial goes on.
pub(super) const DOUBTFUL_DIAL_MAX: Duration = Duration::from_millis(400);

/// A node that this process has known, alive or not.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: String,
    pub(super) state: MemberState,
    /// It says that its disk hangs, and refuses writes.
    pub(super) disk_hangs: bool,
    /// As it was noted last.
    pub(super) is_unreachable: bool,
    pub(super) link: State,
    pub(super) epoch: Epoch,
    /// Encoded requests of this turn, or of the time since a dial began.
    pub(super) staged: BytesMut,
    pub(super) batch: BatchWriter,
    pub(super) is_dirty: bool,
    /// What waits for a dial.
    pub(super) charge: Charge,
}

pub(super) enum State {
    Down {
        retry_at: Instant,
        backoff: Duration,
    },
    Dialing {
        /// What the next back-off is if this dial fails.
        backoff: Duration,
        /// Whether any dial to this address has failed before.
        is_doubtful: bool,
        /// For how long it has been under way.
        lasts: Duration,
    },
    Up {
        outbox: Arc<Outbox>,
        /// Since it was welcomed.
        since: Instant,
        silent_for: Duration,
        pinged: bool,
    },
}

impl Node {
    pub(super) fn note_reach(&mut self, unreachable: &Unreachable, is_unreachable: bool) {
        if self.is_unreachable != is_unreachable {
            self.is_unreachable = is_unreachable;
            unreachable.note(&self.id, is_unreachable);
        }
    }
}

impl State {
    /// Whether it is of no use to send anything, although nothing has ended.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Self::Up { silent_for, .. } => *silent_for >= SILENT_DOUBT,
            Self::Dialing {
                is_doubtful, lasts, ..
            } => *is_doubtful && *lasts >= DOUBTFUL_DIAL_MAX,
            Self::Down { .. } => false,
        }
    }
}
