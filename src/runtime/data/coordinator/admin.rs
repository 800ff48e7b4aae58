//! What operators ask about data: explaining a key, importing one, exporting what this node holds.

use dynakv_protocol::admin::Exported;

use super::{
    Bytes, ConnectionId, Coordinator, ErrorCode, ErrorReply, Frame, Preference, Request, Requester,
    Response,
};
use crate::engine::operation::Operation;
use crate::runtime::store::store_worker::{ScanJob, ScanWork, Scanned};

/// How many parts of exports may be under way at once: each is read on one thread, and its bytes wait
/// in memory until they are sent.
pub(super) const SCANS_MAX: usize = 16;

/// How many comparisons and lists for mending may wait: some nodes at a time, each with a list of segments
/// of which it wants a small part.
pub(super) const MENDING_SCANS_MAX: usize = 256;

impl Coordinator {
    pub(super) fn explain(
        &mut self,
        requester: Requester,
        frame: Frame,
        key: Bytes,
        owners: &Preference,
    ) {
        let mut effects = std::mem::take(&mut self.effects);
        let operation = Operation::explain(owners, &mut effects);
        let never_slow = requester.deadline;
        self.take_in(requester, (frame, key), operation, never_slow, effects);
    }

    pub(super) fn import(
        &mut self,
        requester: Requester,
        frame: Frame,
        (key, versions): (Bytes, Bytes),
        owners: Preference,
        w: u8,
    ) {
        let mut effects = std::mem::take(&mut self.effects);
        let operation = Operation::import(owners, w, versions, &mut effects);
        let never_slow = requester.deadline;
        self.take_in(requester, (frame, key), operation, never_slow, effects);
    }

    /// Reads a part of what is stored here, whoever owns it.
    pub(super) fn on_export(&mut self, connection: ConnectionId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let refusal = match Request::decode(frame.header.kind, &frame.body) {
            Ok(Request::Export(_)) if self.view.ring.is_none() => {
                let message = "this node has not joined its cluster yet and holds nothing";
                ErrorReply::new(ErrorCode::NotReady, message).retryable()
            }
            Ok(Request::Export(_)) if self.is_draining => {
                let message = "this node is shutting down; ask another one";
                ErrorReply::new(ErrorCode::NotReady, message).retryable()
            }
            Ok(Request::Export(_)) if self.scans >= SCANS_MAX => {
                self.metrics.refused.increment(1);
                let message = "this node serves as many exports as it can; try again in a moment";
                ErrorReply::new(ErrorCode::Overloaded, message).retryable()
            }
            Ok(Request::Export(export)) => {
                self.scans += 1;
                return self.store.scan(ScanJob {
                    connection,
                    request_id,
                    work: ScanWork::Export(export),
                });
            }
            Ok(_) => ErrorReply::new(ErrorCode::BadRequest, "this is no request about data"),
            Err(error) => crate::runtime::net::undecodable::undecodable(&error),
        };
        self.connections.refuse(connection, request_id, refusal);
    }

    pub(super) fn on_scanned(
        &mut self,
        connection: ConnectionId,
        request_id: u64,
        is_mending: bool,
        result: Result<Scanned, ErrorReply>,
    ) {
        match is_mending {
            true => self.mending_scans -= 1,
            false => self.scans -= 1,
        }
        let response = match (result, &self.view.ring) {
            (Ok(Scanned::Answer(answer)), _) => *answer,
            (Ok(Scanned::Exported(scanned)), Some(ring)) => Response::Exported(Exported {
                node_id: self.links.id(super::SELF).clone(),
                cluster_name: ring.document().cluster_name.clone(),
                cluster_id: self.view.cluster_id,
                ring_version: ring.version(),
                items: scanned.items,
                damaged: scanned.damaged,
                locked: scanned.locked,
                next: scanned.next,
            }),
            (Err(error), _) => Response::Error(error),
            // It was there when the scan began, and rings are only ever replaced.
            (Ok(_), None) => Response::Error(ErrorReply::new(
                ErrorCode::NotReady,
                "this node is in no cluster",
            )),
        };
        self.connections.respond(connection, request_id, &response);
    }
}
