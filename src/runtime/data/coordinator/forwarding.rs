//! Requests on their way to an owner of their key.

use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::ErrorCode;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::client::{HandedOn, Write};
use dynakv_protocol::frame::{FLAG_FORWARDED, Frame, Header};
use dynakv_protocol::message::kind;
use tokio::time::Instant;

use super::{Bytes, Coordinator, NodeSlot, OperationId, Preference, Requester};
use crate::engine::operation::{Event, Operation, Purpose};
use crate::engine::write::forward;
use crate::runtime::data::dispatch::{Action, DataRequest, data_request};
use crate::runtime::data::operations::InHand;

/// How much longer a body becomes by a tag of one byte: the tag, its length, and that byte.
const TAG_BYTES: usize = 3;

/// How long an owner may take over a forwarded request before the next is tried.
const SLOW_FORWARD: Duration = Duration::from_millis(1000);

/// The last part of that time in which nothing is begun any more: one in so many.
const SPARED: u32 = 10;

impl Coordinator {
    pub(super) fn forward(
        &mut self,
        requester: Requester,
        frame: Frame,
        key: Bytes,
        owners: &Preference,
        (place, terms): (u8, forward::Terms),
    ) {
        self.metrics.forwarded.increment(1);
        let terms = forward::Terms {
            attempts: requester.attempts,
            ..terms
        };
        let mut effects = std::mem::take(&mut self.effects);
        let reach = |node| self.links.reach(node);
        let operation = Operation::forward(owners, place, terms, reach, &mut effects);
        let slow_at = slow_forward_at(&requester, self.now);
        self.take_in(requester, (frame, key), operation, slow_at, effects);
    }

    /// Sends a request to an owner of its key, or leaves it waiting for a link to it.
    pub(super) fn hand_on(
        &mut self,
        id: OperationId,
        to: NodeSlot,
        (again, may_go_elsewhere): (bool, bool),
    ) {
        self.await_forward(id);
        if self.links.is_dialled(to) {
            return;
        }
        let event = match self.send_on(id, to, (again, may_go_elsewhere)) {
            true => Event::HandedOn(to),
            false => Event::NotTaken(to),
        };
        self.step(id, event);
    }

    /// The next owner is tried some time from now.
    fn await_forward(&mut self, id: OperationId) {
        let now = self.now;
        if let Some(in_hand) = self.operations.get_mut(id) {
            let slow_at = slow_forward_at(&in_hand.requester, now);
            self.operations.set_slow_at(id, slow_at);
        }
    }

    /// False when the link does not take it.
    fn send_on(
        &mut self,
        id: OperationId,
        to: NodeSlot,
        (again, may_go_elsewhere): (bool, bool),
    ) -> bool {
        let Some(in_hand) = self.operations.get_mut(id) else {
            return false;
        };
        let Frame { header, body } = in_hand.frame.clone();
        let header = Header {
            flags: header.flags | FLAG_FORWARDED,
            request_id: id.message(Purpose::Forward),
            ..header
        };
        let is_write = matches!(header.kind, kind::PUT | kind::DELETE);
        let patience = slow_forward_at(&in_hand.requester, self.now) - self.now;
        let is_dated = is_write && may_go_elsewhere;
        let handed_on = is_dated.then(|| HandedOn {
            sent_ms: self.links.since_welcome_ms(to, self.now),
            // A second at most.
            within_ms: (patience - patience / SPARED).as_millis() as u32,
        });
        self.links.send(to, header, |out| {
            out.extend_from_slice(&body);
            if is_write && again {
                Write::add_again(out);
            }
            if let Some(handed_on) = handed_on {
                Write::add_handed_on(handed_on, out);
            }
        })
    }

    /// There is a link to a node: what has waited for it is sent.
    pub(super) fn on_link_up(&mut self, node: NodeSlot) {
        for id in self.operations.ids() {
            self.step(id, Event::LinkUp(node));
        }
    }

    /// Until when a blind write may be minted that another node has handed on: that gives it to the next one some time
    /// later.
    pub(super) fn begin_by(
        &mut self,
        requester: &Requester,
        request: &DataRequest,
    ) -> Option<Instant> {
        let HandedOn { sent_ms, within_ms } = request.handed_on?;
        let Action::Put { intent, .. } = &request.action else {
            return None;
        };
        let came = requester.arrived;
        let late = self
            .connections
            .lateness(requester.connection, sent_ms, came)?;
        let left = Duration::from_millis(within_ms.into()).saturating_sub(late);
        intent.context.is_none().then(|| came + left)
    }

    /// The owner before this one can't be reached: coordinates the request here after all.
    pub(super) fn take_over(&mut self, id: OperationId) {
        if let Some(in_hand) = self.operations.remove(id) {
            let mut frame = in_hand.frame;
            // It has been forwarded once, even if nobody took it: not again.
            frame.header.flags |= FLAG_FORWARDED;
            say_again(&in_hand.requester, &mut frame);
            self.begin(in_hand.requester, frame);
        }
    }

    /// This node's disk has no room for a write that it coordinates, or hangs: another owner may take it,
    /// with this one's copy missing.
    pub(super) fn hand_over(&mut self, id: OperationId, error: ErrorReply) {
        let Some(InHand {
            requester,
            key,
            frame,
            ..
        }) = self.operations.remove(id)
        else {
            return;
        };
        let ring = self.view.ring.as_ref();
        // It was of its form when it came.
        let request = ring.and_then(|ring| data_request(&frame, self.limits(ring)).ok());
        let action = request.map(|request| request.action);
        let needed = action.as_ref().map_or(self.view.w, Action::needed);
        let is_sloppy = action.as_ref().is_some_and(Action::is_sloppy);
        let owners = ring.map(|ring| self.owners(ring, &key));
        let others = owners.filter(|_| !frame.header.is_forwarded());
        let next = others.and_then(|owners| {
            let reach = |node| self.links.reach(node);
            owners.first_other(reach).map(|place| (owners, place))
        });
        match next {
            Some((owners, place)) => {
                let terms = forward::Terms {
                    needed,
                    is_write: true,
                    is_full: error.code == ErrorCode::DiskFull,
                    is_hanging: error.code != ErrorCode::DiskFull,
                    is_sloppy,
                    ..forward::Terms::default()
                };
                self.forward(requester, frame, key, &owners, (place, terms));
            }
            None => self.end(requester, Err(error)),
        }
    }
}

/// Has a write say that it is not the first attempt, if owners were given it before this node takes it on.
pub(super) fn say_again(requester: &Requester, frame: &mut Frame) {
    if requester.is_attempted() {
        let mut body = BytesMut::with_capacity(frame.body.len() + TAG_BYTES);
        body.extend_from_slice(&frame.body);
        Write::add_again(&mut body);
        frame.body = body.freeze();
    }
}

/// When the next owner is tried besides the one that a request was handed to.
fn slow_forward_at(requester: &Requester, now: Instant) -> Instant {
    let left = requester.deadline.saturating_duration_since(now);
    now + SLOW_FORWARD.min(left / 2)
}
