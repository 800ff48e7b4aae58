//! Requests of clients, from their frame to the operation that they become here, or to the next node.

use dynakv_protocol::causal::Value;
use dynakv_protocol::ring_document::Step;

use super::{
    ConnectionId, ControlEvent, Coordinator, ErrorCode, ErrorReply, Frame, Kind, Op, Preference,
    READ_BYTES, Requester, Ring, Role, SLOW_WRITE, Segment, Wait, kind,
};
use crate::engine::operation::Operation;
use crate::engine::placement::preference::{Route, Strictness};
use crate::engine::write::attempts::Attempts;
use crate::engine::write::{forward, lateness, put};
use crate::runtime::data::dispatch::{Action, DataRequest, check_form, data_request};

impl Coordinator {
    pub(super) fn on_client_request(&mut self, connection: ConnectionId, frame: Frame) {
        let requester = Requester {
            connection,
            request_id: frame.header.request_id,
            op: match frame.header.kind {
                kind::GET => Op::Get,
                kind::DELETE => Op::Delete,
                kind::EXPLAIN => Op::Explain,
                kind::IMPORT => Op::Import,
                _ => Op::Put,
            },
            arrived: self.now,
            // Replaced by the request's own once that is known.
            deadline: self.now,
            attempts: Attempts::default(),
            begin_by: None,
        };
        let in_hand = self.operations.len() + self.replica_jobs + self.parking.len();
        let share = match self.connections.is_peer(connection) {
            true => Kind::PeerRequests,
            false => Kind::ClientRequests,
        };
        if in_hand >= self.bounds.requests_max
            || self.is_over(share, &frame)
            || self.ledger.is_over(Kind::Results, 0)
        {
            self.metrics.refused.increment(1);
            let message = "this node has as much in hand as it takes; try again in a moment, or at \
                           another node";
            let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
            return self.end(requester, Err(error));
        }
        if self.is_draining {
            let message = "this node is shutting down; ask another one";
            let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
            return self.end(requester, Err(error));
        }
        self.begin(requester, frame);
    }

    /// Whether requests take more than their share. This one is in it by now, with what came along.
    pub(super) fn is_over(&self, share: Kind, frame: &Frame) -> bool {
        self.ledger
            .is_over(share, frame.body.len() + 2 * READ_BYTES)
    }

    /// Who owns a key under this ring.
    pub(super) fn owners(&self, ring: &Ring, key: &[u8]) -> Preference {
        self.links.preference(ring, Segment::of_key(key))
    }

    /// Begins a client's request, for the first time or again after it was parked.
    pub(super) fn begin(&mut self, mut requester: Requester, frame: Frame) {
        let Some(ring) = self.view.ring.clone() else {
            if let Err(error) = check_form(&frame) {
                return self.end(requester, Err(error));
            }
            let message =
                "this node has not joined its cluster yet; ask another one, or see its log";
            let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
            return self.end(requester, Err(error));
        };
        let limits = self.limits(&ring);
        let request = match data_request(&frame, limits) {
            Ok(request) => request,
            Err(error) => return self.end(requester, Err(error)),
        };
        requester.deadline = requester.arrived + request.timeout;
        if requester.deadline <= self.now {
            let error = ErrorReply::new(ErrorCode::Timeout, "time was up before the request began");
            return self.end(requester, Err(error.retryable()));
        }
        if requester.begin_by.is_none() {
            requester.begin_by = self.begin_by(&requester, &request);
        }
        if requester.begin_by.is_some_and(|by| by <= self.now) {
            return self.end(requester, Err(lateness::refusal()));
        }
        let is_write = matches!(request.action, Action::Put { .. } | Action::Import { .. });
        if is_write && ring.document().step == Step::Open {
            // The first write: from now on the members are these.
            let _ = self.control.try_send(ControlEvent::SealWanted);
            self.parking.park(requester, frame, Wait::ForSealing);
            return;
        }
        let owners = self.owners(&ring, &request.key);
        let request = match request.action {
            // Any node can ask all owners, so these are not handed on.
            Action::Explain => return self.explain(requester, frame, request.key, &owners),
            Action::Import { w, versions } => {
                let what = (request.key, versions);
                return self.import(requester, frame, what, owners, w);
            }
            Action::Get { .. } | Action::Put { .. } => request,
        };
        if requester.is_write() && !self.is_usable() {
            return self.begin_elsewhere(requester, frame, &request, &owners);
        }
        let strictness = match request.action {
            Action::Put { strictness, .. } => strictness,
            Action::Get { .. } | Action::Explain | Action::Import { .. } => Strictness::Strict,
        };
        let may_stand_in = strictness == Strictness::Sloppy && self.may_stand_in(&ring, &owners);
        let route = {
            let reach = |node| self.links.reach(node);
            let is_forwarded = frame.header.is_forwarded();
            owners.route(request.access, may_stand_in, is_forwarded, reach)
        };
        match route {
            Route::Here { place } => {
                let by = Role {
                    place,
                    is_stand_in: false,
                };
                self.coordinate(requester, frame, request, owners, by);
            }
            Route::StandIn { place } => {
                let by = Role {
                    place,
                    is_stand_in: true,
                };
                self.coordinate(requester, frame, request, owners, by);
            }
            Route::Forward { place } => {
                let terms = forward::Terms {
                    needed: request.action.needed(),
                    is_write: requester.is_write(),
                    is_sloppy: request.action.is_sloppy(),
                    may_stand_in,
                    ..forward::Terms::default()
                };
                self.forward(requester, frame, request.key, &owners, (place, terms));
            }
            Route::NotOwner => {
                let message = "this node does not own the key under its ring";
                let error = ErrorReply::new(ErrorCode::NotOwner, message)
                    .retryable()
                    .with_ring_version(ring.version());
                self.end(requester, Err(error));
            }
        }
    }

    pub(super) fn coordinate(
        &mut self,
        requester: Requester,
        frame: Frame,
        request: DataRequest,
        owners: Preference,
        by: Role,
    ) {
        let Role { place, .. } = by;
        match request.action {
            Action::Get { r, repair_first } => {
                let how = (r, repair_first);
                self.read(requester, frame, request.key, (owners, place), how);
            }
            Action::Put {
                w,
                strictness,
                intent,
            } => {
                if let Value::Bytes(value) = &intent.value {
                    self.metrics.value_bytes.record(value.len() as f64);
                }
                let is_blind = intent.context.is_none();
                let document = self.view.ring.as_ref().map(|ring| ring.document());
                let terms = put::Terms {
                    own: place,
                    is_stand_in: by.is_stand_in,
                    is_blind,
                    is_rebuilding: is_blind && self.rebuilding.covers(&request.key),
                    w,
                    promised: put::Promised {
                        w: document.map_or(self.view.w, |document| document.w),
                        r: document.map_or(self.view.r, |document| document.r),
                    },
                    stand_ins: match strictness {
                        Strictness::Strict => None,
                        Strictness::Sloppy => Some(self.stand_ins(&request.key)),
                    },
                };
                let mut effects = std::mem::take(&mut self.effects);
                let reach = |node| self.links.reach(node);
                let operation = Operation::put(owners, terms, intent, reach, &mut effects);
                let slow_at = self.now + SLOW_WRITE;
                let request = (frame, request.key);
                self.take_in(requester, request, operation, slow_at, effects);
            }
            // Begun before a route is looked for.
            Action::Explain | Action::Import { .. } => {}
        }
    }
}
