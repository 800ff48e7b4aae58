//! How requests of clients end: their answers, as they go out and are counted.

use dynakv_protocol::admin::{Explained, ExplainedOwner, Imported};
use dynakv_protocol::client::{Fetched, Written};
use dynakv_protocol::gossip::MemberState;

use super::{
    Coordinator, ErrorCode, ErrorReply, Frame, NodeSlot, Op, Outcome, Requester, Response, SELF,
    kind,
};
use crate::engine::operation::Answer;
use crate::engine::read::answer::fetched;
use crate::engine::read::explain;

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
    /// What an operation came to, as its client is told.
    pub(super) fn reply(&mut self, key: &[u8], answer: Answer) -> Reply {
        match answer {
            Answer::Written(acknowledged) => {
                if acknowledged.is_sloppy {
                    self.metrics.hints.sloppy_writes.increment(1);
                }
                Reply::Written(Written {
                    context: acknowledged.context,
                    effective_w: acknowledged.effective_w,
                    sloppy: acknowledged.is_sloppy,
                    replaced: match acknowledged.replaced {
                        0 | 1 => 0,
                        values => values as u64,
                    },
                })
            }
            Answer::Found(found) => {
                let now_unix_ms = self.clock.unix_ms();
                let (versions, r) = (&*found.versions, found.effective_r);
                let fetched = fetched(self.view.cluster_id, key, versions, r, now_unix_ms);
                if fetched.siblings.len() > 1 {
                    self.metrics.conflicts.increment(1);
                }
                Reply::Fetched(fetched)
            }
            Answer::Explained(answers) => {
                let owners = answers.into_iter();
                let owners = owners.map(|(slot, answer)| self.explained_owner(slot, answer));
                Reply::Explained(Explained {
                    node_id: self.links.id(SELF).clone(),
                    ring_version: self.view.ring_version(),
                    now_unix_ms: self.clock.unix_ms(),
                    owners: owners.collect(),
                })
            }
            Answer::Imported(effective_w) => Reply::Imported(Imported { effective_w }),
            Answer::Forwarded(frame) => Reply::Forwarded(frame),
        }
    }

    fn explained_owner(&self, slot: NodeSlot, answer: explain::Answer) -> ExplainedOwner {
        let id = self.links.id(slot).clone();
        let member = self.view.members.iter().find(|member| member.id == id);
        ExplainedOwner {
            address: member.map_or_else(String::new, |member| member.address.clone()),
            state: member.map_or(MemberState::Alive, |member| member.state),
            answer,
            id,
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
        let response = match reply {
            Ok(Reply::Forwarded(Frame { header, body })) => {
                self.connections
                    .pass_on(connection, request_id, header.kind, &body);
                None
            }
            Ok(Reply::Fetched(fetched)) => Some(Response::Fetched(fetched)),
            Ok(Reply::Written(written)) => Some(match op {
                Op::Delete => Response::Deleted(written),
                _ => Response::Put(written),
            }),
            Ok(Reply::Explained(explained)) => Some(Response::Explained(explained)),
            Ok(Reply::Imported(imported)) => Some(Response::Imported(imported)),
            Err(error) => {
                let error = match requester.is_write() {
                    true => requester.attempts.in_doubt(error),
                    false => error,
                };
                self.connections.refuse(connection, request_id, error);
                None
            }
        };
        if let Some(response) = response {
            self.connections.respond(connection, request_id, &response);
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
