//! The replica's side: other nodes ask this one to merge and to read.

use std::cmp::Ordering;
use std::time::Duration;

use dynakv_protocol::limits::TIMEOUT_MS_MAX;
use dynakv_protocol::mend::{Compare, List};
use dynakv_protocol::peer::MergeVersions;
use dynakv_protocol::unlock::Replace;

use super::disk::hanging;
use crate::engine::counters::check_ring_version;
use crate::runtime::net::undecodable::undecodable;

use super::{
    ConnectionId, ControlEvent, Coordinator, ErrorCode, ErrorReply, Frame, Kind, ReadJob,
    ReadVersions, Request, Response, RingVersion, SELF, Segment, Token, WriteJob, WriteWork,
    admin::MENDING_SCANS_MAX,
};
use crate::runtime::store::store_worker::{ScanJob, ScanWork, stale};

impl Coordinator {
    pub(super) fn on_replica_request(&mut self, connection: ConnectionId, frame: Frame) {
        let request_id = frame.header.request_id;
        let token = Token::Replica(connection, request_id);
        // Twice the clients' bound: what another node has begun should rather be finished than what
        // a client might begin, or the cluster would work for nothing under overload.
        if self.operations.len() + self.replica_jobs + self.ahead.count()
            >= 2 * self.bounds.requests_max
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
        let decoded = Request::decode(frame.header.kind, &frame.body);
        if let Some((theirs, timeout_ms)) = decoded.as_ref().ok().and_then(label) {
            match self.check_ring(theirs) {
                Ok(Fit::Now) => {}
                // The next ring waits for this node's disk.
                Ok(Fit::Later) if !self.is_usable() => {
                    return self.connections.refuse(connection, request_id, hanging());
                }
                Ok(Fit::Later) => {
                    let wait = Duration::from_millis(timeout_ms.min(TIMEOUT_MS_MAX).into());
                    let until = self.now + wait;
                    return self.ahead.park((connection, frame), theirs, until);
                }
                Err(error) => return self.refuse_replica(connection, request_id, error),
            }
        }
        let of_owner = decoded.as_ref().ok().and_then(asked_of_owner);
        if let Some(error) = of_owner.and_then(|it| self.not_owned(connection, it)) {
            return self.connections.refuse(connection, request_id, error);
        }
        let done = match decoded {
            // The log of the store means something else by it.
            Ok(
                Request::Merge(MergeVersions { key, .. }) | Request::Replace(Replace { key, .. }),
            ) if key.is_empty() => Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "versions need a key",
            )),
            Ok(Request::Merge(merge)) => {
                let work = WriteWork::Merge {
                    versions: merge.versions,
                    tell_beside: merge.tell_beside,
                };
                self.write_for(token, merge.ring_version, merge.key, work);
                Ok(())
            }
            Ok(Request::Replace(replace)) => {
                let work = WriteWork::Replace {
                    expected: replace.expected,
                    versions: replace.versions,
                };
                let token = Token::Replacing(connection, request_id);
                self.write_for(token, replace.ring_version, replace.key, work);
                Ok(())
            }
            Ok(Request::Read(read)) => {
                self.replica_jobs += 1;
                self.reads.push(ReadJob {
                    token: match read.tell_actor {
                        true => Token::Explaining(connection, request_id),
                        false => token,
                    },
                    connection,
                    ring_version: read.ring_version,
                    key: read.key,
                    digest_above: read.digest_above,
                });
                Ok(())
            }
            Ok(Request::Hint(hint)) => self.keep_hint(connection, request_id, hint),
            Ok(_) => Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "this is no request about data",
            )),
            Err(error) => Err(undecodable(&error)),
        };
        if let Err(error) = done {
            self.connections.refuse(connection, request_id, error);
        }
    }

    /// The refusal of what is asked of this node as of an owner of this segment, where it is none under the ring that it
    /// follows, which is that of the request: its copy would be one of N for nobody, and "absent" here says nothing.
    fn not_owned(
        &self,
        connection: ConnectionId,
        (segment, asked): (Segment, Asked),
    ) -> Option<ErrorReply> {
        // What it has left of what it owned once it may ask itself for, and hand on.
        if asked == Asked::ToTell && connection == ConnectionId::ANTI_ENTROPY {
            return None;
        }
        let ring = self.view.ring.as_ref()?;
        let mut owners = ring.owners(segment).iter();
        if owners.any(|&owner| self.links.slot_of(owner) == SELF) {
            return None;
        }
        let version = ring.version();
        let message = format!("this node does not own that under ring {version}");
        let error = ErrorReply::new(ErrorCode::NotOwner, message);
        Some(error.retryable().with_ring_version(version))
    }

    /// Has the store write something for another node.
    fn write_for(
        &mut self,
        token: Token,
        ring_version: RingVersion,
        key: super::Bytes,
        work: WriteWork,
    ) {
        self.replica_jobs += 1;
        self.writes.push(WriteJob {
            token,
            ring_version,
            key,
            work,
        });
    }

    /// Refuses what another node has asked for. Where that follows an older ring, it is told the newer one.
    fn refuse_replica(&mut self, connection: ConnectionId, request_id: u64, error: ErrorReply) {
        let error = self.with_ring(connection, error);
        self.connections.refuse(connection, request_id, error);
    }

    /// The same error, with the ring that its receiver is to follow where it was not told that yet.
    pub(super) fn with_ring(
        &mut self,
        connection: ConnectionId,
        mut error: ErrorReply,
    ) -> ErrorReply {
        if error.code == ErrorCode::StaleRing
            && let Some(ring) = &self.view.ring
            && error.ring_version == Some(ring.version())
            && self.connections.is_ring_news(connection, ring.version())
        {
            error.ring_document = Some(Box::new(ring.document().clone()));
        }
        error
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
            Ok(Request::List(list)) => self.listing(connection, list),
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
            Err(error) => self.refuse_replica(connection, request_id, error),
        }
    }

    fn listing(&mut self, connection: ConnectionId, list: List) -> Result<ScanWork, ErrorReply> {
        self.check_ring_now(list.ring_version)?;
        match self.not_owned(connection, (list.segment, Asked::ToTell)) {
            Some(error) => Err(error),
            None => Ok(ScanWork::List(list)),
        }
    }

    fn comparison(&mut self, compare: &Compare) -> Result<ScanWork, ErrorReply> {
        self.check_ring_now(compare.ring_version)?;
        // It is the one that was asked for.
        let Some(ring) = self.view.ring.clone() else {
            let message = "this node has not joined its cluster yet";
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

    /// Whether what was asked for under a ring may be done: while this node follows that one. A node that is ahead
    /// refuses, so that whoever asks learns of the newer ring before it counts anyone; one that is behind catches up
    /// first.
    fn check_ring(&mut self, theirs: RingVersion) -> Result<Fit, ErrorReply> {
        let own = self.view.ring_version();
        if own.0 == 0 {
            let message = "this node has not joined its cluster yet";
            return Err(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        }
        if let Err(error) = check_ring_version(theirs) {
            return Err(ErrorReply::new(ErrorCode::BadRequest, error.to_string()));
        }
        match theirs.cmp(&own) {
            Ordering::Equal => Ok(Fit::Now),
            Ordering::Less => Err(stale(theirs, own)),
            Ordering::Greater => {
                // Of those that wait it is told once and again.
                if self.ahead.newest().is_none_or(|newest| newest < theirs) {
                    self.look_for_ring(theirs);
                }
                Ok(Fit::Later)
            }
        }
    }

    /// Has a newer ring fetched. Only a hint; it is given again.
    pub(super) fn look_for_ring(&self, version: RingVersion) {
        let seen = ControlEvent::NewerRingSeen { version };
        let _ = self.control.try_send(seen);
    }

    /// The same of what does not wait: it is asked for again.
    fn check_ring_now(&mut self, theirs: RingVersion) -> Result<(), ErrorReply> {
        match self.check_ring(theirs)? {
            Fit::Now => Ok(()),
            Fit::Later => {
                let message = "this node does not follow that ring yet";
                Err(ErrorReply::new(ErrorCode::NotReady, message).retryable())
            }
        }
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

/// Whether something may be done under the ring that this node follows.
enum Fit {
    Now,
    /// Once it follows the ring that it was asked for under.
    Later,
}

/// What an owner is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To change its copy.
    ToChange,
    /// To say what it has.
    ToTell,
}

/// What is asked of an owner, and of which segment. Hints are kept by those who own no copy.
fn asked_of_owner(request: &Request) -> Option<(Segment, Asked)> {
    match request {
        Request::Merge(MergeVersions { key, .. }) | Request::Replace(Replace { key, .. }) => {
            Some((Segment::of_key(key), Asked::ToChange))
        }
        Request::Read(ReadVersions { key, .. }) => Some((Segment::of_key(key), Asked::ToTell)),
        _ => None,
    }
}

/// The ring under which something about data is asked for, and how long its sender waits, in milliseconds.
fn label(request: &Request) -> Option<(RingVersion, u32)> {
    match request {
        Request::Merge(merge) => Some((merge.ring_version, merge.timeout_ms)),
        Request::Read(read) => Some((read.ring_version, read.timeout_ms)),
        Request::Hint(hint) => Some((hint.ring_version, hint.timeout_ms)),
        Request::Replace(replace) => Some((replace.ring_version, replace.timeout_ms)),
        _ => None,
    }
}
