//! Answers: of other nodes, over links, and of this node's store.

use dynakv_protocol::peer::{Merged, VersionsReply};

use super::{
    Bytes, ControlEvent, Coordinator, ErrorCode, Frame, NodeSlot, Operation, OperationId, Purpose,
    ReplicaOp, Response, RingVersion, SELF, StoreEvent, Token, Wait, Work, forward, get, put,
    replica,
};

impl Coordinator {
    /// An answer came over a link.
    pub(super) fn on_answer(&mut self, from: NodeSlot, frame: Frame) {
        let Some((id, purpose)) = OperationId::parse(frame.header.request_id) else {
            return;
        };
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        if let Work::Forward(_) = operation.work {
            return self.on_forwarded(id, from, frame);
        }
        let took = self.now - operation.requester.arrived;
        let replica_op = match purpose {
            Purpose::Ping => Some(ReplicaOp::Ping),
            Purpose::Read => Some(ReplicaOp::Read),
            Purpose::Write => Some(ReplicaOp::Write),
            Purpose::Repair => Some(ReplicaOp::Repair),
            Purpose::Forward => None,
        };
        if let Some(replica_op) = replica_op {
            self.metrics.replica_answered(replica_op, took);
        }
        let response = match Response::decode(frame.header.kind, &frame.body) {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(node = %self.links.id(from), %error, "an answer that can't be read");
                return self.on_replica_failed(id, from);
            }
        };
        match (purpose, response) {
            (Purpose::Ping, Response::Pong) => self.step_put(id, put::Event::Reached(from)),
            (Purpose::Read, Response::Versions(reply)) => {
                self.on_replica_read(id, from, reply.versions, reply.rebuilding);
            }
            (Purpose::Write, Response::Merged(_)) => self.step_put(id, put::Event::Merged(from)),
            (Purpose::Repair, Response::Merged(_)) => self.step_get(id, get::Event::Repaired(from)),
            (_, Response::Error(error)) => {
                if error.code == ErrorCode::StaleRing
                    && let Some(version) = error.ring_version
                {
                    return self.on_stale_ring(id, from, version);
                }
                tracing::debug!(node = %self.links.id(from), %error, "a replica refused");
                self.on_replica_failed(id, from);
            }
            (_, _) => self.on_replica_failed(id, from),
        }
    }

    /// A replica follows a newer ring. What has put nothing anywhere yet begins again under that ring.
    pub(super) fn on_stale_ring(&mut self, id: OperationId, from: NodeSlot, version: RingVersion) {
        let _ = self
            .control
            .try_send(ControlEvent::NewerRingSeen { version });
        let may_begin_again = match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Get(get)) => !get.is_answered(),
            Some(Work::Put { put, .. }) => !put.maybe_applied() && !put.is_answered(),
            Some(Work::Forward(_)) | None => false,
        };
        if !may_begin_again {
            return self.on_replica_failed(id, from);
        }
        if let Some(Operation {
            requester, frame, ..
        }) = self.operations.remove(id)
        {
            if self.view.ring_version() >= version {
                self.begin(requester, frame);
            } else {
                self.parking.park(requester, frame, Wait::ForRing(version));
            }
        }
    }

    pub(super) fn on_replica_read(
        &mut self,
        id: OperationId,
        from: NodeSlot,
        versions: Bytes,
        rebuilding: bool,
    ) {
        match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Get(_)) => {
                let event = get::Event::Read {
                    from,
                    versions,
                    rebuilding,
                };
                self.step_get(id, event);
            }
            Some(Work::Put { .. }) => {
                let event = match replica::decode_read(&versions, rebuilding) {
                    Ok(versions) => put::Event::Read(from, versions),
                    Err(_) => put::Event::Failed(from),
                };
                self.step_put(id, event);
            }
            Some(Work::Forward(_)) | None => {}
        }
    }

    /// What was asked of this node for this operation will not be answered.
    pub(super) fn on_replica_failed(&mut self, id: OperationId, node: NodeSlot) {
        match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Get(_)) => self.step_get(id, get::Event::Failed(node)),
            Some(Work::Put { .. }) => self.step_put(id, put::Event::Failed(node)),
            Some(Work::Forward(_)) => self.step_forward(id, forward::Event::Failed(node)),
            None => {}
        }
    }

    /// A link is gone: everything that waits for the node has failed.
    pub(super) fn on_node_lost(&mut self, node: NodeSlot) {
        let lost = ControlEvent::LinkLost {
            node: self.links.id(node).clone(),
        };
        // Only a hint; the control task finds out by itself.
        let _ = self.control.try_send(lost);
        for id in self.operations.ids() {
            self.on_replica_failed(id, node);
        }
    }

    pub(super) fn on_stored(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Minted {
                token: Token::Operation(message),
                versions,
                context,
            } => {
                if let Some((id, _)) = OperationId::parse(message) {
                    self.step_put(id, put::Event::Minted { versions, context });
                }
            }
            StoreEvent::Durable {
                token: Token::Operation(message),
            } => match OperationId::parse(message) {
                Some((id, Purpose::Repair)) => self.step_get(id, get::Event::Repaired(SELF)),
                Some((id, _)) => self.step_put(id, put::Event::Durable),
                None => {}
            },
            StoreEvent::Refused {
                token: Token::Operation(message),
                error,
            } => match OperationId::parse(message) {
                Some((id, Purpose::Write)) => self.step_put(id, put::Event::Refused(error)),
                Some((id, _)) => self.on_replica_failed(id, SELF),
                None => {}
            },
            StoreEvent::Read {
                token: Token::Operation(message),
                versions,
            } => {
                if let Some((id, _)) = OperationId::parse(message) {
                    self.on_replica_read(id, SELF, versions, false);
                }
            }
            StoreEvent::Durable {
                token: Token::Replica(connection, request_id),
            } => {
                let merged = Response::Merged(Merged { rebuilding: false });
                self.answer_replica(connection, request_id, &merged);
            }
            StoreEvent::Read {
                token: Token::Replica(connection, request_id),
                versions,
            } => {
                let reply = Response::Versions(VersionsReply {
                    rebuilding: false,
                    versions,
                });
                self.answer_replica(connection, request_id, &reply);
            }
            StoreEvent::Refused {
                token: Token::Replica(connection, request_id),
                error,
            } => self.answer_replica(connection, request_id, &Response::Error(error)),
            // Replicas mint nothing, and a failed disk ends the loop before it gets here.
            StoreEvent::Minted {
                token: Token::Replica(..),
                ..
            }
            | StoreEvent::Failed(_) => {}
        }
    }
}
