//! Requests on their way to an owner of their key.

use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::ErrorCode;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::client::{HandedOn, Write};
use dynakv_protocol::frame::{FLAG_FORWARDED, Frame, Header};
use dynakv_protocol::message::{Response, kind};
use tokio::time::Instant;

use super::effects::Reply;
use super::{
    Bytes, Coordinator, NodeSlot, Operation, OperationId, Preference, Purpose, Requester, Work,
};
use crate::engine::write::forward::{self, Forward};
use crate::runtime::data::dispatch::{Action, DataRequest, data_request};

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
        let mut effects = std::mem::take(&mut self.forward_effects);
        let reach = |node| self.links.reach(node);
        let forward = Forward::start(owners, place, terms, reach, &mut effects);
        let work = Work::Forward(forward);
        let slow_at = slow_forward_at(&requester, self.now);
        let id = self.operations.insert(requester, key, frame, work, slow_at);
        self.carry_out_forward(id, effects);
    }

    pub(super) fn step_forward(&mut self, id: OperationId, event: forward::Event) {
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        if let Work::Forward(forward) = &mut operation.work {
            let mut effects = std::mem::take(&mut self.forward_effects);
            forward.step(event, &mut effects);
            self.carry_out_forward(id, effects);
        }
    }

    pub(super) fn carry_out_forward(&mut self, id: OperationId, mut effects: Vec<forward::Effect>) {
        // Only a send that fails at once leads to another effect.
        while let Some(effect) = effects.pop() {
            match effect {
                forward::Effect::Send(to) => {
                    self.await_forward(id);
                    let waits = self.links.is_dialled(to);
                    if waits || !self.hand_on(id, to) {
                        let operation = self.operations.get_mut(id);
                        match operation.map(|operation| &mut operation.work) {
                            Some(Work::Forward(forward)) if waits => forward.wait(),
                            Some(Work::Forward(forward)) => {
                                forward.step(forward::Event::NotTaken(to), &mut effects);
                            }
                            Some(_) | None => {}
                        }
                    }
                }
                forward::Effect::TakeOver => self.take_over(id),
                forward::Effect::StandIn => self.stand_in(id),
                forward::Effect::Answer(error) => self.finish(id, Err(error)),
            }
        }
        self.forward_effects = effects;
    }

    /// The next owner is tried some time from now.
    fn await_forward(&mut self, id: OperationId) {
        let now = self.now;
        if let Some(operation) = self.operations.get_mut(id) {
            let slow_at = slow_forward_at(&operation.requester, now);
            self.operations.set_slow_at(id, slow_at);
        }
    }

    /// Sends a request to an owner of its key. False when the link does not take it.
    fn hand_on(&mut self, id: OperationId, to: NodeSlot) -> bool {
        let Some(operation) = self.operations.get_mut(id) else {
            return false;
        };
        let again = operation.requester.is_attempted();
        let Frame { header, body } = operation.frame.clone();
        let header = Header {
            flags: header.flags | FLAG_FORWARDED,
            request_id: id.message(Purpose::Forward),
            ..header
        };
        let may_go_elsewhere = match &operation.work {
            Work::Forward(forward) => forward.may_go_elsewhere(),
            _ => false,
        };
        let is_dated = may_go_elsewhere && matches!(header.kind, kind::PUT | kind::DELETE);
        let patience = slow_forward_at(&operation.requester, self.now) - self.now;
        let handed_on = is_dated.then(|| HandedOn {
            sent_ms: self.links.since_welcome_ms(to, self.now),
            // A second at most.
            within_ms: (patience - patience / SPARED).as_millis() as u32,
        });
        let is_taken = self.links.send(to, header, |out| {
            out.extend_from_slice(&body);
            if again {
                Write::add_again(out);
            }
            if let Some(handed_on) = handed_on {
                Write::add_handed_on(handed_on, out);
            }
        });
        if is_taken {
            let handed_on = operation.requester.handed_on;
            operation.requester.handed_on = handed_on.saturating_add(1);
        }
        is_taken
    }

    /// There is a link to a node: what has waited for it is sent.
    pub(super) fn on_link_up(&mut self, node: NodeSlot) {
        for id in self.operations.ids() {
            let operation = self.operations.get_mut(id);
            if let Some(Work::Forward(forward)) = operation.map(|operation| &mut operation.work)
                && forward.take_up(node)
            {
                self.await_forward(id);
                if !self.hand_on(id, node) {
                    self.step_forward(id, forward::Event::NotTaken(node));
                }
            }
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
    fn take_over(&mut self, id: OperationId) {
        if let Some(operation) = self.operations.remove(id) {
            let mut frame = operation.frame;
            // It has been forwarded once, even if nobody took it: not again.
            frame.header.flags |= FLAG_FORWARDED;
            say_again(&operation.requester, &mut frame);
            self.begin(operation.requester, frame);
        }
    }

    /// This node's disk has no room for a write that it coordinates, or hangs: another owner may take it,
    /// with this one's copy missing.
    pub(super) fn hand_over(&mut self, id: OperationId, error: ErrorReply) {
        let Some(Operation {
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
                    may_stand_in: false,
                };
                self.forward(requester, frame, key, &owners, (place, terms));
            }
            None => self.end(requester, Err(error)),
        }
    }

    /// The owner that a request was handed on to has certainly not acted on it.
    pub(super) fn on_not_taken(&mut self, id: OperationId, node: NodeSlot) {
        if let Some(operation) = self.operations.get_mut(id)
            && let Work::Forward(forward) = &operation.work
            && forward.awaits(node)
            && !forward.waits_for(node)
        {
            let handed_on = operation.requester.handed_on;
            operation.requester.handed_on = handed_on.saturating_sub(1);
        }
        self.step_forward(id, forward::Event::NotTaken(node));
    }

    /// The owner that was asked to coordinate a request has answered.
    pub(super) fn on_forwarded(&mut self, id: OperationId, from: NodeSlot, frame: Frame) {
        // Of a write only the last attempt's answer counts: that one stands for the copies that earlier
        // attempts left, and they do not stand for its own.
        let Some(operation) = self.operations.get_mut(id) else {
            return;
        };
        let is_write = operation.requester.is_write();
        if !matches!(&operation.work, Work::Forward(forward) if forward.hears(from)) {
            return;
        }
        if frame.header.kind == kind::ERROR
            && let Ok(Response::Error(error)) = Response::decode(frame.header.kind, &frame.body)
        {
            match error.code {
                // It can't take the request, and has not.
                ErrorCode::NotOwner
                | ErrorCode::StaleRing
                | ErrorCode::NotReady
                | ErrorCode::Overloaded
                    if !error.maybe_applied =>
                {
                    return self.on_not_taken(id, from);
                }
                ErrorCode::NotOwner
                | ErrorCode::StaleRing
                | ErrorCode::NotReady
                | ErrorCode::Overloaded => {
                    return self.step_forward(id, forward::Event::Failed(from));
                }
                // So it is with what came too late there, while there is time left.
                ErrorCode::Timeout if !error.maybe_applied && is_write => {
                    return self.on_not_taken(id, from);
                }
                ErrorCode::DiskFull if !error.maybe_applied => {
                    return self.step_forward(id, forward::Event::Full(from));
                }
                _ => {}
            }
            let requester = self.operations.get_mut(id).map(|known| known.requester);
            if requester.is_some_and(|known| known.is_write() && known.handed_on > 1) {
                return self.finish(id, Err(error.maybe_applied(true)));
            }
        }
        self.finish(id, Ok(Reply::Forwarded(frame)));
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
