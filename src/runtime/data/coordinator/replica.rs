//! The replica's side: other nodes ask this one to merge and to read.

use dynakv_protocol::mend::Compare;

use crate::runtime::net::undecodable::undecodable;

use super::{
    ConnectionId, ControlEvent, Coordinator, ErrorCode, ErrorReply, Frame, Kind, ReadJob, Request,
    Response, RingVersion, SELF, Token, WriteJob, WriteWork, admin::MENDING_SCANS_MAX,
};
use crate::runtime::store::store_worker::{ScanJob, ScanWork};

impl Coordinator {
    pub(super) fn on_replica_request(&mut self, connection: ConnectionId, frame: Frame) {
        let request_id = frame.header.request_id;
        let token = Token::Replica(connection, request_id);
        // Twice the clients' bound: what another node has begun should rather be finished than what
        // a client might begin, or the cluster would work for nothing under overload.
        if self.operations.len() + self.replica_jobs >= 2 * self.bounds.requests_max
            || self.is_over(Kind::PeerRequests, &frame)
        {
            self.metrics.refused.increment(1);
            let message = "this replica has as much in hand as it takes";
            let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
            return self.connections.refuse(connection, request_id, error);
        }
        if self.is_draining {
            let message = "this replica is shutting down";
            let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
            return self.connections.refuse(connection, request_id, error);
        }
        let refusal = match Request::decode(frame.header.kind, &frame.body) {
            // The log of the store means something else by it.
            Ok(Request::Merge(merge)) if merge.key.is_empty() => {
                ErrorReply::new(ErrorCode::BadRequest, "versions need a key")
            }
            Ok(Request::Merge(merge)) => match self.check_ring(merge.ring_version) {
                Ok(()) => {
                    self.replica_jobs += 1;
                    self.writes.push(WriteJob {
                        token,
                        key: merge.key,
                        work: WriteWork::Merge {
                            versions: merge.versions,
                            tell_beside: merge.tell_beside,
                        },
                    });
                    return;
                }
                Err(error) => error,
            },
            Ok(Request::Read(read)) => match self.check_ring(read.ring_version) {
                Ok(()) => {
                    self.replica_jobs += 1;
                    let (key, token) = match read.tell_actor {
                        true => (read.key, Token::Explaining(connection, request_id)),
                        false => (read.key, token),
                    };
                    self.reads.push(ReadJob {
                        token,
                        connection,
                        key,
                        digest_above: read.digest_above,
                    });
                    return;
                }
                Err(error) => error,
            },
            Ok(Request::Replace(replace)) if replace.key.is_empty() => {
                ErrorReply::new(ErrorCode::BadRequest, "versions need a key")
            }
            Ok(Request::Replace(replace)) => match self.check_ring(replace.ring_version) {
                Ok(()) => {
                    self.replica_jobs += 1;
                    self.writes.push(WriteJob {
                        token: Token::Replacing(connection, request_id),
                        key: replace.key,
                        work: WriteWork::Replace {
                            expected: replace.expected,
                            versions: replace.versions,
                        },
                    });
                    return;
                }
                Err(error) => error,
            },
            Ok(Request::Hint(hint)) => match self.check_ring(hint.ring_version) {
                Ok(()) => match self.keep_hint(connection, request_id, hint) {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            },
            Ok(_) => ErrorReply::new(ErrorCode::BadRequest, "this is no request about data"),
            Err(error) => undecodable(&error),
        };
        self.connections.refuse(connection, request_id, refusal);
    }

    /// Another node, or this one, compares its copies with this node's.
    pub(super) fn on_mending_request(&mut self, connection: ConnectionId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let work = match Request::decode(frame.header.kind, &frame.body) {
            Ok(_) if self.mending_scans >= MENDING_SCANS_MAX || self.is_draining => {
                let message = "this node has no time to compare at present";
                Err(ErrorReply::new(ErrorCode::Overloaded, message).retryable())
            }
            Ok(Request::Compare(compare)) => {
                let work = self.comparison(&compare);
                // The node that asks itself has nothing to learn from it.
                let is_other = connection != ConnectionId::ANTI_ENTROPY;
                if work.is_ok() && compare.page.is_none() && is_other {
                    self.repairs.note_asked_by(&compare.node_id);
                }
                work
            }
            Ok(Request::List(list)) => self
                .check_ring(list.ring_version)
                .map(|()| ScanWork::List(list)),
            Ok(_) => Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "this is no request about data",
            )),
            Err(error) => Err(undecodable(&error)),
        };
        match work {
            Ok(work) => {
                self.mending_scans += 1;
                self.store.scan(ScanJob {
                    connection,
                    request_id,
                    work,
                });
            }
            Err(error) => self.connections.refuse(connection, request_id, error),
        }
    }

    fn comparison(&mut self, compare: &Compare) -> Result<ScanWork, ErrorReply> {
        self.check_ring(compare.ring_version)?;
        let ring = self.view.ring.clone();
        let ring = ring.filter(|ring| ring.version() == compare.ring_version);
        let Some(ring) = ring else {
            let message = "this node does not follow that ring yet";
            return Err(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        };
        let own = ring.index_of(self.links.id(SELF));
        match (own, ring.index_of(&compare.node_id)) {
            (Some(own), Some(other)) => Ok(ScanWork::Compare {
                members: (own, other),
                page: compare.page,
                ring,
            }),
            _ => {
                let message = "only members of the ring can compare what they own";
                Err(ErrorReply::new(ErrorCode::NotOwner, message))
            }
        }
    }

    /// A replica that is ahead refuses, so that its coordinator learns of the newer ring before it
    /// counts anyone. One that is behind serves (merging is always right) and catches up.
    fn check_ring(&mut self, theirs: RingVersion) -> Result<(), ErrorReply> {
        let own = self.view.ring_version();
        if own.0 == 0 {
            let message = "this node has not joined its cluster yet";
            return Err(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        }
        if theirs < own {
            let message = format!("you follow ring {theirs}, this node ring {own}: fetch it");
            let error = ErrorReply::new(ErrorCode::StaleRing, message);
            return Err(error.retryable().with_ring_version(own));
        }
        if theirs > own {
            let _ = self
                .control
                .try_send(ControlEvent::NewerRingSeen { version: theirs });
        }
        Ok(())
    }

    pub(super) fn answer_replica(
        &mut self,
        connection: ConnectionId,
        request_id: u64,
        response: &Response,
    ) {
        self.replica_jobs -= 1;
        self.connections.respond(connection, request_id, response);
    }
}
