//! Snapshots that operators ask for.

use std::sync::Arc;

use dynakv_protocol::message::Response;
use dynakv_protocol::snapshot::Snapshot;
use dynakv_protocol::{ErrorCode, ErrorReply};
use dynakv_storage::SnapshotError;

use super::Control;
use crate::engine::layout::copies::keeps_its_place;
use crate::runtime::store::restoring::SnapshotNote;

impl Control {
    /// Has a snapshot made, and tells how far it is.
    pub(super) fn snapshot(&self, snapshot: Snapshot) -> Response {
        let Snapshot::Start { name } = snapshot else {
            return Response::Snapshotting(self.snapshots.progress());
        };
        let Some(ring) = &self.ring else {
            return self.not_joined();
        };
        if self.draining.is_cancelled() {
            let message = "this node is shutting down: it begins no snapshot";
            return Response::Error(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        }
        let keeps_its_place = keeps_its_place(ring.document());
        let note = SnapshotNote {
            node_id: self.me.node_id.clone(),
            former: keeps_its_place.then_some((self.me.directory_id, self.me.generation)),
            // It is begun on a thread of its own, and says then when.
            begun_unix_ms: 0,
            is_taken: false,
        };
        let ring = keeps_its_place.then(|| Arc::new(ring.document().clone()));
        match self.snapshots.start(name, note, ring) {
            Ok(progress) => Response::Snapshotting(progress),
            Err(error) => Response::Error(refusal(&error)),
        }
    }
}

fn refusal(error: &SnapshotError) -> ErrorReply {
    let message = error.to_string();
    match error {
        SnapshotError::Name { .. } => ErrorReply::new(ErrorCode::BadRequest, message),
        SnapshotError::Busy { .. } => ErrorReply::new(ErrorCode::Overloaded, message).retryable(),
        _ => ErrorReply::new(ErrorCode::Storage, message),
    }
}
