//! Answers: of other nodes, over links, and of this node's store.

use dynakv_protocol::peer::{Merged, VersionsReply};

use super::{
    ConnectionId, ControlEvent, Coordinator, ErrorCode, ErrorReply, Frame, NodeSlot, OperationId,
    ReplicaOp, Response, RingVersion, StoreEvent, Token, kind,
};
use crate::engine::counters::check_ring_version;
use crate::engine::operation::{Event, Lost, Purpose};
use crate::engine::write::outcome::JobOutcome;

impl Coordinator {
    /// An answer came over a link.
    pub(super) fn on_answer(&mut self, from: NodeSlot, frame: Frame) {
        let Some((id, purpose)) = OperationId::parse(frame.header.request_id) else {
            return;
        };
        let now = self.now;
        let in_hand = self.operations.get_mut(id);
        let is_in_hand = in_hand.is_some();
        let took = in_hand.and_then(|in_hand| {
            let mut sent = in_hand.sent(now);
            sent.find(|(node, _)| *node == from).map(|(_, ago)| ago)
        });
        if purpose == Purpose::Read {
            self.on_read_answer(from, took, frame.header.kind);
        }
        if !is_in_hand {
            // The ring is told once over each connection.
            if frame.header.kind == kind::ERROR
                && let Ok(Response::Error(mut error)) = Response::decode(kind::ERROR, &frame.body)
            {
                self.take_told_ring(&mut error);
            }
            return;
        }
        let replica_op = match purpose {
            Purpose::Ping => ReplicaOp::Ping,
            Purpose::Read => ReplicaOp::Read,
            Purpose::Write | Purpose::Rewrite => ReplicaOp::Write,
            Purpose::Repair => ReplicaOp::Repair,
            Purpose::Hint | Purpose::Rehint => ReplicaOp::Hint,
            // It goes on as it came.
            Purpose::Forward => {
                if let Some(version) = self.newer_ring_in(id, &frame) {
                    return self.begin_again(id, version);
                }
                return self.step(
                    id,
                    Event::Coordinated {
                        from,
                        answer: frame,
                    },
                );
            }
        };
        if let Some(took) = took {
            self.metrics.replica_answered(replica_op, took);
        }
        let response = match Response::decode(frame.header.kind, &frame.body) {
            Ok(Response::Error(mut error)) => {
                self.take_told_ring(&mut error);
                if !self.may_be_stale(id, &error) {
                    tracing::warn!(node = %self.links.id(from), %error, "a refusal that cannot be");
                    return self.on_failed(id, from);
                }
                Response::Error(error)
            }
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(node = %self.links.id(from), %error, "an answer that can't be read");
                return self.on_failed(id, from);
            }
        };
        match &response {
            Response::Error(error) if error.code != ErrorCode::StaleRing => {
                tracing::debug!(node = %self.links.id(from), %error, "a replica refused");
            }
            Response::Versions(reply) => {
                if !self.gather(id, reply.versions.len()) {
                    return;
                }
                if reply.digest.is_some() {
                    self.metrics.reads.digests.increment(1);
                }
            }
            _ => {}
        }
        self.step(
            id,
            Event::Answered {
                from,
                purpose,
                response,
            },
        );
    }

    /// Who follows a newer ring sends it along, whatever has become of what it was asked for.
    fn take_told_ring(&self, error: &mut ErrorReply) {
        if let Some(document) = error.ring_document.take() {
            // Its number alone has it fetched.
            let _ = self.control.try_send(ControlEvent::RingTold { document });
        }
    }

    /// Whether a refusal names a ring that is newer than that of what was asked, and can be. Otherwise what is asked
    /// again and again would be refused again and again.
    fn may_be_stale(&mut self, id: OperationId, error: &ErrorReply) -> bool {
        let version = match (error.code, error.ring_version) {
            (ErrorCode::StaleRing, Some(version)) => version,
            _ => return true,
        };
        let asked = self.operations.get_mut(id).map(|it| it.ring_version);
        asked.is_some_and(|asked| asked < version) && check_ring_version(version).is_ok()
    }

    /// The ring under which the owner that was handed a request is none, if that is newer than the one that it was handed
    /// on under: nothing was done there.
    fn newer_ring_in(&mut self, id: OperationId, frame: &Frame) -> Option<RingVersion> {
        if frame.header.kind != kind::ERROR {
            return None;
        }
        let Ok(Response::Error(error)) = Response::decode(frame.header.kind, &frame.body) else {
            return None;
        };
        let version = error
            .ring_version
            .filter(|_| error.code == ErrorCode::NotOwner)?;
        let in_hand = self.operations.get_mut(id)?;
        if version <= in_hand.ring_version {
            return None;
        }
        self.look_for_ring(version);
        Some(version)
    }

    /// What was asked of a node for this operation will not be answered.
    pub(super) fn on_failed(&mut self, id: OperationId, node: NodeSlot) {
        let reason = "it cannot be asked";
        self.step(id, Event::Failed { node, reason });
    }

    /// A link is gone, or in doubt: everything that waits for the node hears of it.
    pub(super) fn on_node_lost(&mut self, node: NodeSlot, reason: &str, how: Lost) {
        let lost = ControlEvent::LinkLost {
            node: self.links.id(node).clone(),
        };
        // Only a hint; the control task finds out by itself.
        let _ = self.control.try_send(lost);
        self.pace.lost(node);
        for id in self.operations.ids() {
            self.step(id, Event::Lost { node, how, reason });
        }
    }

    pub(super) fn on_stored(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Job { token, outcome } => match token {
                Token::Operation(message) => {
                    if let Some((id, purpose)) = OperationId::parse(message) {
                        self.on_own_outcome(id, purpose, outcome);
                    }
                }
                Token::Replica(connection, request_id)
                | Token::Explaining(connection, request_id)
                | Token::Replacing(connection, request_id)
                | Token::Hint(connection, request_id) => {
                    if let Some(answer) = self.answer_of(connection, token, outcome) {
                        self.answer_replica(connection, request_id, &answer);
                    }
                }
            },
            StoreEvent::Scanned {
                connection,
                request_id,
                is_mending,
                result,
            } => self.on_scanned(connection, request_id, is_mending, result),
            // It ends the loop before it gets here.
            StoreEvent::Failed(_) => {}
        }
    }

    /// This node's store has done its part of an operation.
    fn on_own_outcome(&mut self, id: OperationId, purpose: Purpose, outcome: JobOutcome) {
        match &outcome {
            JobOutcome::Minted { versions, .. } => self.operations.gather(id, versions.len()),
            JobOutcome::Read { versions, .. } => {
                if !self.gather(id, versions.len()) {
                    return;
                }
            }
            JobOutcome::Behind { .. } | JobOutcome::Durable { .. } | JobOutcome::Refused(_) => {}
        }
        let actor = self.store.actor();
        self.step(
            id,
            Event::Stored {
                purpose,
                outcome,
                actor,
            },
        );
    }

    /// What another node is told of a job of its own; nothing of what no node asks for.
    fn answer_of(
        &mut self,
        connection: ConnectionId,
        token: Token,
        outcome: JobOutcome,
    ) -> Option<Response> {
        let answer = match (outcome, token) {
            (JobOutcome::Refused(error), _) => Response::Error(self.with_ring(connection, error)),
            (JobOutcome::Durable { rebuilding, beside }, Token::Replica(..)) => {
                Response::Merged(Merged { rebuilding, beside })
            }
            (JobOutcome::Durable { .. }, Token::Hint(..)) => Response::HintKept,
            (JobOutcome::Durable { .. }, Token::Replacing(..)) => Response::Replaced,
            (
                JobOutcome::Read {
                    versions,
                    digest,
                    rebuilding,
                },
                Token::Replica(..) | Token::Explaining(..),
            ) => Response::Versions(VersionsReply {
                rebuilding,
                versions,
                actor: match token {
                    Token::Explaining(..) => Some(self.store.actor()),
                    _ => None,
                },
                digest,
            }),
            // Replicas mint nothing, and keep and replace without reading.
            (JobOutcome::Minted { .. } | JobOutcome::Behind { .. }, _)
            | (JobOutcome::Durable { .. }, Token::Operation(_) | Token::Explaining(..))
            | (
                JobOutcome::Read { .. },
                Token::Operation(_) | Token::Replacing(..) | Token::Hint(..),
            ) => {
                return None;
            }
        };
        Some(answer)
    }
}
