//! Carrying out what the engine decided.

use dynakv_protocol::admin::{Explained, Imported};
use dynakv_protocol::client::{Fetched, Written};

use crate::runtime::data::dispatch::{Action, data_request};

use super::{
    Bytes, Coordinator, ErrorCode, ErrorReply, Frame, Header, MergeVersions, NodeSlot, Op,
    OperationId, Outcome, Purpose, ReadJob, ReadVersions, Request, Requester, Response, SELF,
    Token, Work, WriteJob, WriteWork, fetched, get, kind, put, reads::DIGEST_ABOVE_BYTES,
};

/// How a request of a client ends.
pub(super) enum Reply {
    /// A read's answer.
    Fetched(Fetched),
    /// A write's answer.
    Written(Written),
    /// How a key stands with its owners.
    Explained(Explained),
    /// An import's answer.
    Imported(Imported),
    /// The answer of the owner that coordinated it, as it came.
    Forwarded(Frame),
}

impl Coordinator {
    pub(super) fn step_put(&mut self, id: OperationId, event: put::Event) {
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        if let Work::Put { put, .. } = &mut operation.work {
            let mut effects = std::mem::take(&mut self.put_effects);
            put.step(event, &mut effects);
            self.carry_out_put(id, effects);
        }
    }

    pub(super) fn step_get(&mut self, id: OperationId, event: get::Event) {
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        if let Work::Get(get) = &mut operation.work {
            let mut effects = std::mem::take(&mut self.get_effects);
            get.step(event, &mut effects);
            self.carry_out_get(id, effects);
        }
    }

    pub(super) fn carry_out_put(&mut self, id: OperationId, mut effects: Vec<put::Effect>) {
        for effect in effects.drain(..) {
            match effect {
                put::Effect::Ping(to) => self.send(id, Purpose::Ping, to, &Request::Ping),
                put::Effect::Read(to) => self.send_read(id, to, None),
                put::Effect::Mint(seen) => self.mint(id, seen),
                put::Effect::Hint {
                    to,
                    round,
                    versions,
                } => self.send_hint(id, Purpose::hint(round), to, versions),
                put::Effect::Remind(owner) => self.remind(id, owner),
                put::Effect::Merge {
                    to,
                    round,
                    versions,
                    tell_beside,
                } => {
                    let what = (versions, tell_beside);
                    self.send_merge(id, Purpose::write(round), to, what);
                }
                put::Effect::Answer(result) => self.answer_put(id, result),
            }
        }
        self.put_effects = effects;
        self.forget_if_over(id);
    }

    pub(super) fn carry_out_get(&mut self, id: OperationId, mut effects: Vec<get::Effect>) {
        // Repairs come after the answer, when the operation is out of the table already.
        let mut key = Bytes::new();
        for effect in effects.drain(..) {
            match effect {
                get::Effect::Read(to) => self.send_read(id, to, Some(DIGEST_ABOVE_BYTES)),
                get::Effect::ReadFull(to) => self.send_read(id, to, None),
                get::Effect::ReadAgain(to) => {
                    self.metrics.reads.digest_misses.increment(1);
                    self.send_read(id, to, None);
                }
                get::Effect::ReadLocal => self.read_local(id),
                get::Effect::Repair { to, versions } => {
                    self.metrics.read_repairs.increment(1);
                    if let Some(operation) = self.operations.get_mut(id) {
                        key = operation.key.clone();
                    }
                    self.repair(id, to, key.clone(), versions);
                }
                get::Effect::Answer(result) => {
                    self.on_read_ends(id);
                    if let Some(operation) = self.operations.get_mut(id) {
                        key = operation.key.clone();
                    }
                    let reply = result.map(|found| {
                        let now_unix_ms = self.clock.unix_ms();
                        let cluster = self.view.cluster_id;
                        let (versions, r) = (&*found.versions, found.effective_r);
                        let fetched = fetched(cluster, &key, versions, r, now_unix_ms);
                        if fetched.siblings.len() > 1 {
                            self.metrics.conflicts.increment(1);
                        }
                        Reply::Fetched(fetched)
                    });
                    self.finish(id, reply);
                }
            }
        }
        self.get_effects = effects;
    }

    pub(super) fn send(
        &mut self,
        id: OperationId,
        purpose: Purpose,
        to: NodeSlot,
        request: &Request,
    ) {
        let header = Header::new(request.kind(), id.message(purpose));
        if !self.links.send(to, header, |out| request.encode(out)) {
            // Counted as a failure at the end of the turn: the engine is in the middle of a step.
            self.unsent.push((id, to));
            return;
        }
        if purpose == Purpose::Read {
            let now = self.uptime();
            self.pace.asked(to, now);
        }
        if let Some(operation) = self.operations.get_mut(id) {
            operation.note_sent(to, self.now);
        }
    }

    fn send_read(&mut self, id: OperationId, to: NodeSlot, digest_above: Option<u32>) {
        let ring_version = self.view.ring_version();
        let now = self.now;
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        let request = Request::Read(ReadVersions {
            ring_version,
            timeout_ms: remaining_ms(&operation.requester, now),
            key: operation.key.clone(),
            tell_actor: false,
            digest_above,
        });
        self.send(id, Purpose::Read, to, &request);
    }

    pub(super) fn send_merge(
        &mut self,
        id: OperationId,
        purpose: Purpose,
        to: NodeSlot,
        (versions, tell_beside): (Bytes, bool),
    ) {
        let ring_version = self.view.ring_version();
        let now = self.now;
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        let request = Request::Merge(MergeVersions {
            ring_version,
            timeout_ms: remaining_ms(&operation.requester, now),
            key: operation.key.clone(),
            versions,
            tell_beside,
        });
        self.send(id, purpose, to, &request);
    }

    fn repair(&mut self, id: OperationId, to: NodeSlot, key: Bytes, versions: Bytes) {
        let message = id.message(Purpose::Repair);
        if to == SELF {
            self.writes.push(WriteJob {
                token: Token::Operation(message),
                key,
                work: WriteWork::Merge {
                    versions,
                    tell_beside: false,
                },
            });
            return;
        }
        let request = Request::Merge(MergeVersions {
            ring_version: self.view.ring_version(),
            timeout_ms: dynakv_protocol::limits::TIMEOUT_MS_DEFAULT,
            key,
            versions,
            tell_beside: false,
        });
        let header = Header::new(request.kind(), message);
        if !self.links.send(to, header, |out| request.encode(out)) {
            // Left to the next read or to anti-entropy; who waits for it need not.
            self.unsent.push((id, to));
        }
    }

    pub(super) fn read_local(&mut self, id: OperationId) {
        if let Some(operation) = self.operations.get_mut(id) {
            self.reads.push(ReadJob {
                token: Token::Operation(id.message(Purpose::Read)),
                connection: operation.requester.connection,
                key: operation.key.clone(),
                digest_above: None,
            });
        }
    }

    fn mint(&mut self, id: OperationId, seen: Option<Box<put::Seen>>) {
        let cluster_id = self.view.cluster_id;
        let ring = self.view.ring.clone();
        let limits = ring.map(|ring| self.limits(&ring));
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        let Work::Put { intent, put } = &mut operation.work else {
            return;
        };
        let is_again = matches!(seen.as_deref(), Some(put::Seen::Beside(_)));
        let catches_up = put.catches_up();
        let intent = match limits.filter(|_| seen.is_some()) {
            None => intent.take(),
            // So rare that the first round does not keep it.
            Some(limits) => match data_request(&operation.frame, limits).map(|it| it.action) {
                Ok(Action::Put { intent, .. }) => Some(intent),
                Ok(_) | Err(_) => None,
            },
        };
        // It was decoded when it came: there is one.
        let Some(intent) = intent else {
            return;
        };
        if put.is_stand_in() {
            return self.mint_as_stand_in(id, intent);
        }
        if is_again {
            self.metrics.minted_again.increment(1);
        }
        self.writes.push(WriteJob {
            token: Token::Operation(id.message(Purpose::write(match is_again {
                true => put::Round::Second,
                false => put::Round::First,
            }))),
            key: operation.key.clone(),
            work: WriteWork::Mint {
                intent,
                seen,
                catches_up,
                cluster_id,
                // What was begun in time is brought to its end.
                begin_by: operation.requester.begin_by.filter(|_| !is_again),
            },
        });
    }

    /// Answers a client and forgets its request.
    pub(super) fn finish(&mut self, id: OperationId, reply: Result<Reply, ErrorReply>) {
        if let Some(operation) = self.operations.remove(id) {
            self.end(operation.requester, reply);
        }
    }

    /// Answers a client.
    pub(super) fn end(&mut self, requester: Requester, reply: Result<Reply, ErrorReply>) {
        let Requester {
            connection,
            request_id,
            op,
            ..
        } = requester;
        let outcome = match &reply {
            Ok(Reply::Forwarded(frame)) => outcome_of_forwarded(frame),
            Ok(_) => Outcome::Ok,
            Err(error) => outcome_of(error),
        };
        // One that was handed on has been counted where it was coordinated.
        if outcome == Outcome::Quorum && reply.is_err() {
            self.metrics.quorum_failures.increment(1);
        }
        self.metrics
            .ended(op, outcome, self.now - requester.arrived);
        let is_found = reply.is_ok();
        match reply {
            Ok(Reply::Forwarded(Frame { header, body })) => {
                self.connections
                    .pass_on(connection, request_id, header.kind, &body);
            }
            Ok(Reply::Fetched(fetched)) => {
                self.connections
                    .respond(connection, request_id, &Response::Fetched(fetched));
            }
            Ok(Reply::Written(written)) => {
                let response = match op {
                    Op::Delete => Response::Deleted(written),
                    _ => Response::Put(written),
                };
                self.connections.respond(connection, request_id, &response);
            }
            Ok(Reply::Explained(explained)) => {
                let response = Response::Explained(explained);
                self.connections.respond(connection, request_id, &response);
            }
            Ok(Reply::Imported(imported)) => {
                let response = Response::Imported(imported);
                self.connections.respond(connection, request_id, &response);
            }
            Err(mut error) => {
                if requester.is_write() && requester.handed_on > 0 && !error.maybe_applied {
                    error.maybe_applied = true;
                    error.message += "; but another owner was asked before, did not answer in time, \
                                      and may have written it";
                }
                self.connections.refuse(connection, request_id, error);
            }
        }
        if op == Op::Get {
            self.connections.end_read(connection, is_found);
        }
    }
}

fn outcome_of_forwarded(frame: &Frame) -> Outcome {
    if frame.header.kind != kind::ERROR {
        return Outcome::Ok;
    }
    match Response::decode(frame.header.kind, &frame.body) {
        Ok(Response::Error(error)) => outcome_of(&error),
        Ok(_) | Err(_) => Outcome::Error,
    }
}

fn outcome_of(error: &ErrorReply) -> Outcome {
    match error.code {
        ErrorCode::QuorumUnavailable => Outcome::Quorum,
        ErrorCode::Timeout => Outcome::Timeout,
        ErrorCode::BadRequest
        | ErrorCode::TooLarge
        | ErrorCode::TooManySiblings
        | ErrorCode::Conflict
        | ErrorCode::Overloaded
        | ErrorCode::NotReady
        | ErrorCode::DiskFull
        | ErrorCode::NotOwner => Outcome::Refused,
        _ => Outcome::Error,
    }
}

pub(super) fn remaining_ms(requester: &Requester, now: tokio::time::Instant) -> u32 {
    let remaining = requester.deadline.saturating_duration_since(now);
    // Deadlines are at most a minute away.
    remaining.as_millis() as u32
}
