//! What operators wish of the ring: one change of its members, or that the one under way is given up.
//!
//! The answer comes once the ring that begins it is decided. From there on the change goes on by itself, and `status`
//! tells of it.

use std::time::Duration;

use dynakv_protocol::change_ring::{ChangeRing, MemberWish, RingWish};
use dynakv_protocol::client::WAITING_MAX;
use dynakv_protocol::gossip::{Join, MemberState};
use dynakv_protocol::message::Response;
use dynakv_protocol::ring_document::{Member, RingDocument};
use dynakv_protocol::{ErrorCode, ErrorReply, NodeId};
use tokio::time::Instant;

use super::Control;
use super::state::{ChangeWish, Waiting};
use crate::engine::layout::change::Reads;
use crate::engine::layout::wish::{Known, WishRefusal, wished};
use crate::runtime::shared::events::Responder;

/// How long the members may take to decide on the ring that an operator wishes for.
const WISH_PATIENCE: Duration = Duration::from_secs(4);

/// The most wishes of operators at once.
const WISHES_MAX: usize = 16;

/// For how long it is said of a node that it wants in, since it last said so.
const WAITING: Duration = Duration::from_secs(30);

impl Control {
    /// An operator wants other members, or wants to know which ring that would be.
    pub(super) fn on_change_ring(&mut self, change: ChangeRing, responder: Responder) {
        let Some(ring) = self.ring.clone() else {
            return responder.respond(&self.not_joined());
        };
        if change.is_plan {
            return responder.respond(&match self.wished(ring.document(), &change) {
                Ok(document) => Response::RingChanged(document),
                Err(refusal) => refused(&refusal),
            });
        }
        if self.decisions.wishes.len() >= WISHES_MAX {
            let message = "this node has as many wishes for the ring in hand as it takes; try again in a moment";
            let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
            return responder.respond(&Response::Error(error));
        }
        let is_forced = change.is_forced;
        let wish = ChangeWish {
            change,
            responder,
            until: Instant::now() + WISH_PATIENCE,
            proposed: None,
        };
        match is_forced {
            // Nobody else need agree, and what others have to agree on may wait in vain.
            true => self.decisions.wishes.push_front(wish),
            false => self.decisions.wishes.push_back(wish),
        }
        self.decide_if_due(Instant::now());
    }

    fn wished(
        &self,
        current: &RingDocument,
        change: &ChangeRing,
    ) -> Result<RingDocument, WishRefusal> {
        let members = self.membership.members();
        // Who waits was asked before whether it can read a ring that changes.
        let joins = |id: &NodeId| match &change.wish {
            RingWish::Members(wishes) => wishes.iter().any(|wish| match wish {
                MemberWish::Joins(member) => member.id == *id,
                _ => false,
            }),
            RingWish::Abort => false,
        };
        let reads = |id: &NodeId| match joins(id) {
            true => Reads::Changes,
            false => self.reads(id, &members),
        };
        let state = |id: &NodeId| {
            let state = self.membership.state_of(id);
            state.unwrap_or(MemberState::Dead)
        };
        let hints = |id: &NodeId| {
            let member = members.iter().find(|member| member.id == *id);
            member.map_or(0, |member| member.hints_counted)
        };
        let known = Known {
            hints: &hints,
            planned_on: change.planned_on,
            accept_loss: change.accept_loss,
            forced_by: change.is_forced.then_some(&self.me.node_id),
            state: &state,
            reads: &reads,
        };
        wished(current, &change.wish, &known)
    }

    /// The ring that an operator wishes for. Answers those whose ring was decided, cannot be, or took too long.
    pub(super) fn next_wish(
        &mut self,
        current: &RingDocument,
        now: Instant,
    ) -> Option<RingDocument> {
        while let Some(mut wish) = self.decisions.wishes.pop_front() {
            if wish.is_fulfilled_by(current) {
                wish.responder
                    .respond(&Response::RingChanged(current.clone()));
                continue;
            }
            if wish.until <= now {
                let message = "the members did not decide on it in time: too few of them may be there. It may still be \
                               carried out; `dynakv status` says whether the ring changes. If more than half of them are \
                               gone for good, one node decides by itself: `dynakv cluster plan remove ID... --force`";
                let error = ErrorReply::new(ErrorCode::Timeout, message).maybe_applied(true);
                wish.responder.respond(&Response::Error(error));
                continue;
            }
            match self.wished(current, &wish.change) {
                Ok(next) => {
                    let is_forced = wish.change.is_forced;
                    wish.proposed = Some(next.clone());
                    self.decisions.wishes.push_front(wish);
                    if !is_forced {
                        return Some(next);
                    }
                    tracing::warn!(
                        version = next.version.0,
                        "an operator has this node decide on the ring by itself"
                    );
                    self.adopt(next);
                    // Answered once it is followed.
                    return None;
                }
                Err(refusal) => wish.responder.respond(&refused(&refusal)),
            }
        }
        None
    }

    /// A node that goes decides nothing any more.
    pub(super) fn refuse_wishes(&mut self) {
        for wish in self.decisions.wishes.drain(..) {
            let message =
                "this node has left the cluster; ask another one whether that was decided";
            let error = ErrorReply::new(ErrorCode::NotReady, message).maybe_applied(true);
            wish.responder.respond(&Response::Error(error));
        }
    }

    // Who waits to be let in.

    /// Notes that a node wants in and waits for an operator. What it is answered.
    pub(super) fn note_waiting(&mut self, join: &Join, now: Instant) -> ErrorReply {
        let waiting = &mut self.decisions.waiting;
        waiting.retain(|_, it| now < it.asked_at + WAITING);
        let member = join.member.clone();
        let id = member.id.clone();
        if waiting.len() < WAITING_MAX || waiting.contains_key(&id) {
            let asked_at = now;
            if waiting
                .insert(id.clone(), Waiting { member, asked_at })
                .is_none()
            {
                tracing::info!(node = %id, "wants in, and waits for `dynakv cluster join {id}`");
            }
        }
        let message = format!(
            "the cluster holds data, and {id} is let in once an operator says so: dynakv cluster join {id}"
        );
        ErrorReply::new(ErrorCode::NotReady, message).retryable()
    }

    /// Who waits.
    pub(super) fn waiting(&self) -> Vec<Member> {
        let now = Instant::now();
        let is_member = |id: &NodeId| {
            let ring = self.ring.as_ref();
            ring.is_some_and(|ring| ring.document().member(id).is_some())
        };
        let waiting = self.decisions.waiting.iter();
        let waiting = waiting.filter(|(id, it)| now < it.asked_at + WAITING && !is_member(id));
        waiting.map(|(_, it)| it.member.clone()).collect()
    }
}

fn refused(refusal: &WishRefusal) -> Response {
    let message = refusal.to_string();
    Response::Error(ErrorReply::new(ErrorCode::ChangeRefused, message))
}
