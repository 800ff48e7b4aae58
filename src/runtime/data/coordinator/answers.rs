//! Answers: of other nodes, over links, and of this node's store.

use dynakv_protocol::peer::{Merged, VersionsReply};

use super::{
    ControlEvent, Coordinator, ErrorCode, ErrorReply, Frame, NodeSlot, Operation, OperationId,
    Purpose, ReplicaOp, Response, RingVersion, SELF, StoreEvent, Token, Wait, Work, explain,
    forward, get, import, put, replica,
};

use crate::engine::write::outcome::JobOutcome;
use crate::runtime::data::links::Lost;

impl Coordinator {
    /// An answer came over a link.
    pub(super) fn on_answer(&mut self, from: NodeSlot, frame: Frame) {
        let Some((id, purpose)) = OperationId::parse(frame.header.request_id) else {
            return;
        };
        let now = self.now;
        let operation = self.operations.get_mut(id);
        let took = operation.as_ref().and_then(|operation| {
            let mut sent = operation.sent(now);
            sent.find(|(node, _)| *node == from).map(|(_, ago)| ago)
        });
        let is_forwarded = operation.map(|operation| matches!(operation.work, Work::Forward(_)));
        if purpose == Purpose::Read {
            self.on_read_answer(from, took, frame.header.kind);
        }
        match is_forwarded {
            Some(true) => return self.on_forwarded(id, from, frame),
            Some(false) => {}
            None => return,
        }
        let replica_op = match purpose {
            Purpose::Ping => Some(ReplicaOp::Ping),
            Purpose::Read => Some(ReplicaOp::Read),
            Purpose::Write | Purpose::Rewrite => Some(ReplicaOp::Write),
            Purpose::Repair => Some(ReplicaOp::Repair),
            Purpose::Hint | Purpose::Rehint => Some(ReplicaOp::Hint),
            Purpose::Forward => None,
        };
        if let (Some(replica_op), Some(took)) = (replica_op, took) {
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
            (Purpose::Read, Response::Versions(reply)) => self.on_replica_read(id, from, reply),
            (Purpose::Write | Purpose::Rewrite, Response::Merged(merged)) => {
                let said = replica::said(&merged);
                self.on_copied(id, from, purpose.round(), said);
            }
            (Purpose::Hint | Purpose::Rehint, Response::HintKept) => {
                self.on_copied(id, from, purpose.round(), put::Said::Nothing);
            }
            (Purpose::Repair, Response::Merged(_)) => self.step_get(id, get::Event::Repaired(from)),
            (_, Response::Error(error)) => {
                if error.code == ErrorCode::StaleRing
                    && let Some(version) = error.ring_version
                {
                    return self.on_stale_ring(id, from, version);
                }
                tracing::debug!(node = %self.links.id(from), %error, "a replica refused");
                self.on_declined(id, from, purpose, &error);
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
            Some(Work::Explain(explain)) => !explain.is_answered(),
            // Merging twice is merging once.
            Some(Work::Import { import, .. }) => !import.is_answered(),
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
        reply: VersionsReply,
    ) {
        let VersionsReply {
            rebuilding,
            versions,
            actor,
            digest,
        } = reply;
        if !self.gather(id, versions.len()) {
            return;
        }
        match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Get(_)) => {
                let event = match digest {
                    Some(digest) => get::Event::Digest {
                        from,
                        digest,
                        rebuilding,
                    },
                    None => get::Event::Read {
                        from,
                        versions,
                        rebuilding,
                    },
                };
                if digest.is_some() {
                    self.metrics.reads.digests.increment(1);
                }
                self.step_get(id, event);
            }
            // Nobody else asked for one, and taken for versions it would mean "absent".
            Some(_) if digest.is_some() => self.on_replica_failed(id, from),
            Some(Work::Put { .. }) => {
                let event = match replica::decode_read(&versions, rebuilding) {
                    Ok(versions) => put::Event::Read(from, versions),
                    Err(_) => put::Event::Failed(from),
                };
                self.step_put(id, event);
            }
            Some(Work::Explain(_)) => {
                let event = explain::Event::Read {
                    from,
                    versions,
                    rebuilding,
                    actor,
                };
                self.step_explain(id, event);
            }
            Some(Work::Forward(_) | Work::Import { .. }) | None => {}
        }
    }

    /// A copy is on another node's disk.
    fn on_copied(&mut self, id: OperationId, from: NodeSlot, round: put::Round, said: put::Said) {
        match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Import { .. }) => self.step_import(id, import::Event::Merged(from)),
            Some(Work::Put { .. }) => {
                self.step_put(id, put::Event::Merged { from, round, said });
            }
            Some(Work::Get(_) | Work::Forward(_) | Work::Explain(_)) | None => {}
        }
    }

    /// The own copy is on disk.
    fn on_durable(&mut self, id: OperationId, round: put::Round) {
        match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Import { .. }) => self.step_import(id, import::Event::Merged(SELF)),
            Some(Work::Put { .. }) => self.step_put(id, put::Event::Durable(round)),
            Some(Work::Get(_) | Work::Forward(_) | Work::Explain(_)) | None => {}
        }
    }

    /// A node refused what it was asked for this operation.
    fn on_declined(
        &mut self,
        id: OperationId,
        from: NodeSlot,
        purpose: Purpose,
        error: &ErrorReply,
    ) {
        let round = purpose.round();
        match (
            self.operations.get_mut(id).map(|operation| &operation.work),
            purpose,
        ) {
            // What it has, beside the write or of what its context names, stays unknown.
            (Some(Work::Put { .. }), Purpose::Read) => {
                self.step_put(id, put::Event::Read(from, None));
            }
            (
                Some(Work::Put { .. }),
                Purpose::Write | Purpose::Rewrite | Purpose::Hint | Purpose::Rehint,
            ) => self.step_put(id, put::Event::Declined { from, round }),
            (_, _) => self.on_replica_refused(id, from, error),
        }
    }

    /// What was asked of this node for this operation will not be answered.
    pub(super) fn on_replica_failed(&mut self, id: OperationId, node: NodeSlot) {
        self.on_replica_failed_with(id, node, "it cannot be asked");
    }

    /// The same, with the reason for people.
    fn on_replica_failed_with(&mut self, id: OperationId, node: NodeSlot, reason: &str) {
        match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Get(_)) => self.step_get(id, get::Event::Failed(node)),
            Some(Work::Put { .. }) => self.step_put(id, put::Event::Failed(node)),
            Some(Work::Forward(_)) => self.step_forward(id, forward::Event::Failed(node)),
            Some(Work::Explain(_)) => {
                self.step_explain(id, explain::Event::Failed(node, reason.to_owned()));
            }
            Some(Work::Import { .. }) => self.step_import(id, import::Event::Failed(node)),
            None => {}
        }
    }

    /// The same, with what it said.
    fn on_replica_refused(&mut self, id: OperationId, node: NodeSlot, error: &ErrorReply) {
        let work = self.operations.get_mut(id).map(|operation| &operation.work);
        if error.code == ErrorCode::DiskFull && matches!(work, Some(Work::Import { .. })) {
            return self.step_import(id, import::Event::Full(node));
        }
        self.on_replica_failed_with(id, node, &error.to_string());
    }

    /// A link is gone: everything that waits for the node has failed.
    pub(super) fn on_node_lost(&mut self, node: NodeSlot, reason: &str, how: Lost) {
        let lost = ControlEvent::LinkLost {
            node: self.links.id(node).clone(),
        };
        // Only a hint; the control task finds out by itself.
        let _ = self.control.try_send(lost);
        self.pace.lost(node);
        for id in self.operations.ids() {
            let operation = self.operations.get_mut(id);
            let forward = operation.and_then(|it| match &it.work {
                Work::Forward(forward) => Some(forward),
                _ => None,
            });
            match (how, forward) {
                (Lost::BeforeAny, Some(_)) => self.on_not_taken(id, node),
                (Lost::InDoubt, Some(forward)) if forward.outlasts_silence() => {}
                (Lost::BeforeAny | Lost::InDoubt | Lost::WithRequests, _) => {
                    self.on_replica_failed_with(id, node, reason);
                }
            }
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
                    if let Some(answer) = self.answer_of(token, outcome) {
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
        match outcome {
            JobOutcome::Minted {
                versions,
                context,
                rebuilding,
                replaced,
            } => {
                self.operations.gather(id, versions.len());
                let minted = put::Event::Minted {
                    round: purpose.round(),
                    versions,
                    context,
                    rebuilding,
                    replaced,
                };
                self.step_put(id, minted);
            }
            JobOutcome::Behind { lacks, rebuilding } => {
                self.step_put(id, put::Event::Behind { lacks, rebuilding });
            }
            JobOutcome::Durable { .. } if purpose == Purpose::Repair => {
                self.step_get(id, get::Event::Repaired(SELF));
            }
            JobOutcome::Durable { .. } => self.on_durable(id, purpose.round()),
            JobOutcome::Refused(error) => self.on_refused(id, purpose, error),
            JobOutcome::Read {
                versions,
                digest,
                rebuilding,
            } => {
                let reply = VersionsReply {
                    rebuilding,
                    versions,
                    actor: self.own_actor(),
                    digest,
                };
                self.on_replica_read(id, SELF, reply);
            }
        }
    }

    /// What another node is told of a job of its own; nothing of what no node asks for.
    fn answer_of(&self, token: Token, outcome: JobOutcome) -> Option<Response> {
        let answer = match (outcome, token) {
            (JobOutcome::Refused(error), _) => Response::Error(error),
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
                    Token::Explaining(..) => self.own_actor(),
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

    /// This node's store refused its part of an operation.
    fn on_refused(&mut self, id: OperationId, purpose: Purpose, error: ErrorReply) {
        match self.operations.get_mut(id).map(|operation| &operation.work) {
            Some(Work::Put { put, .. })
                if purpose == Purpose::Write
                    && !put.is_stand_in()
                    && matches!(error.code, ErrorCode::DiskFull | ErrorCode::Overloaded)
                    && !error.maybe_applied =>
            {
                self.hand_over(id, error);
            }
            Some(Work::Put { .. }) if matches!(purpose, Purpose::Write | Purpose::Rewrite) => {
                let round = purpose.round();
                self.step_put(id, put::Event::Refused { round, error });
            }
            Some(_) => self.on_replica_refused(id, SELF, &error),
            None => {}
        }
    }
}
