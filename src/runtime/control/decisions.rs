//! Deciding the next ring: what is wished for, one attempt at a time, and this node's own votes.

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::codec::Wire;
use dynakv_protocol::gossip::{Accept, Join, MemberState, Prepare, Vote};
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::ring_document::{RingDocument, Step};
use dynakv_protocol::{DirectoryId, ErrorCode, ErrorReply, NodeId, RingVersion};
use dynakv_storage::save_document;
use tokio::time::Instant;

use super::Control;
use super::state::{CallEnd, HolderTried, JoinWish, VoteFrom};
use crate::engine::layout::change::{ChangeRefusal, give_up};
use crate::engine::layout::{Answer, Effect, JoinRefusal, Phase, Proposer, admit, seal};
use crate::engine::membership::generations::Process;
use crate::runtime::net::confirming::There;
use crate::runtime::shared::data_directory::ACCEPTOR;
use crate::runtime::shared::events::Responder;

/// How long the members may take over one phase.
const PHASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a joining node's wish is kept; it asks again.
const JOIN_PATIENCE: Duration = Duration::from_secs(8);

/// How long a ring with data waits for others that want in, so that one change takes them in together.
const GATHERING: Duration = Duration::from_secs(1);

/// How long the wish to seal is kept after the last write that asked for it.
const SEAL_PATIENCE: Duration = Duration::from_secs(5);

/// The longest pause before another attempt after a lost one; random up to this.
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// The most wishes at once, with those whose name's holder is being called.
const WISHES_MAX: usize = 256;

impl Control {
    /// Looks again what was accepted for the version after the ring.
    pub(super) fn note_accepted(&mut self) {
        let Some(ring) = &self.ring else {
            return;
        };
        let decisions = &mut self.decisions;
        let accepted = decisions.acceptor.accepted_after(ring.document());
        if accepted != decisions.next.as_deref() {
            decisions.next = accepted.cloned().map(Arc::new);
        }
    }

    // Wishes.

    /// A write waits for the ring to become final.
    pub(super) fn wish_to_seal(&mut self) {
        self.decisions.seal_until = Some(Instant::now() + SEAL_PATIENCE);
        self.decide_if_due(Instant::now());
    }

    pub(super) fn on_join(&mut self, join: Join, peer: &PeerIdentity, responder: Responder) {
        if self.ring.is_none() {
            return responder.respond(&self.not_joined());
        }
        if peer.node_id != join.member.id || peer.directory_id != join.member.directory_id {
            let message = "a node may only ask for itself";
            let error = ErrorReply::new(ErrorCode::BadRequest, message);
            return responder.respond(&Response::Error(error));
        }
        let wish = JoinWish {
            join,
            nonce: peer.nonce,
            responder,
            came_at: Instant::now(),
            until: Instant::now() + JOIN_PATIENCE,
            gone: None,
        };
        let member = &wish.join.member;
        // The holder of the name is being called already, and once is enough.
        if let Some(earlier) = self.decisions.trying.get_mut(&member.id) {
            if earlier.join.member.directory_id == member.directory_id {
                *earlier = wish;
            } else {
                let message = format!(
                    "another node asks to join as {} just now; ask again in a moment",
                    member.id
                );
                let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
                wish.responder.respond(&Response::Error(error));
            }
            return;
        }
        if self.decisions.joins.len() + self.decisions.trying.len() >= WISHES_MAX {
            let message = "too many nodes join at once; ask again in a moment";
            let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
            return wish.responder.respond(&Response::Error(error));
        }
        // Asked again, the earlier question needs no answer any more.
        self.decisions
            .joins
            .retain(|earlier| earlier.join.member.id != member.id);
        self.decisions.joins.push_back(wish);
        self.decide_if_due(Instant::now());
    }

    /// Begins the next attempt, if anything is wished for and none is under way.
    pub(super) fn decide_if_due(&mut self, now: Instant) {
        if self.decisions.proposer.is_some() {
            if now >= self.decisions.phase_deadline {
                self.step_proposer(Proposer::on_timeout);
            }
            return;
        }
        let decisions = &mut self.decisions;
        decisions.joins.retain(|wish| wish.until > now);
        if self.removal.is_some() {
            return self.refuse_wishes();
        }
        if self.adopting.is_some() {
            // The next attempt begins with that ring.
            return;
        }
        if decisions.seal_until.is_some_and(|until| until <= now) {
            decisions.seal_until = None;
        }
        if decisions.pause_until.is_some_and(|until| until > now) {
            return;
        }
        decisions.pause_until = None;
        let Some(current) = self.ring.as_ref().map(|ring| ring.document().clone()) else {
            return;
        };
        let wanted = self.next_wish(&current, now);
        // Who asked to join before the first write is in before it.
        let wanted = wanted.or_else(|| self.next_join(&current, now));
        let wanted = wanted.or_else(|| self.next_seal(&current));
        if let Some(wanted) = wanted.or_else(|| self.next_step(now)) {
            self.attempt(current, wanted);
        }
    }

    fn next_seal(&mut self, current: &RingDocument) -> Option<RingDocument> {
        self.decisions.seal_until?;
        if current.step != Step::Open {
            self.decisions.seal_until = None;
        }
        seal(current)
    }

    /// The ring with the next joining node in it. Answers those that need no decision.
    fn next_join(&mut self, current: &RingDocument, now: Instant) -> Option<RingDocument> {
        while let Some(wish) = self.decisions.joins.pop_front() {
            let member = &wish.join.member;
            let holder = current.member(&member.id);
            match admit(current, &wish.join) {
                Ok(_) | Err(JoinRefusal::ComingIn { .. })
                    if holder.is_some_and(|h| wish.gone != Some(h.directory_id)) =>
                {
                    self.try_holder(wish, current);
                }
                Ok(next) => {
                    self.decisions.joins.push_front(wish);
                    return Some(next);
                }
                Err(JoinRefusal::AlreadyMember { .. })
                    if holder.is_some_and(|h| h.directory_id == member.directory_id) =>
                {
                    wish.responder.respond(&Response::Joined(current.clone()));
                }
                Err(refusal @ JoinRefusal::DirectoryLost { .. }) => {
                    let error = ErrorReply::new(ErrorCode::DirectoryLost, refusal.to_string());
                    wish.responder.respond(&Response::Error(error.retryable()));
                }
                // What it had fetched is gone, and it is taken in anew.
                Err(JoinRefusal::ComingIn { .. }) => {
                    self.decisions.joins.push_front(wish);
                    return give_up(current);
                }
                Err(JoinRefusal::HoldsData) if self.is_for_operators(&wish.join) => {
                    let error = self.note_waiting(&wish.join, now);
                    wish.responder.respond(&Response::Error(error));
                }
                Err(JoinRefusal::HoldsData) if now < wish.came_at + GATHERING => {
                    self.decisions.joins.push_front(wish);
                    return None;
                }
                Err(JoinRefusal::HoldsData) => match self.begin_change(current, &wish) {
                    Ok(next) => {
                        self.decisions.joins.push_front(wish);
                        return Some(next);
                    }
                    Err(
                        refusal @ (ChangeRefusal::Running { .. }
                        | ChangeRefusal::TooOld { .. }
                        | ChangeRefusal::Unheard { .. }),
                    ) => {
                        let error = ErrorReply::new(ErrorCode::NotReady, refusal.to_string());
                        wish.responder.respond(&Response::Error(error.retryable()));
                    }
                    Err(refusal) => refuse_join(&wish.responder, refusal.to_string()),
                },
                Err(refusal) => refuse_join(&wish.responder, refusal.to_string()),
            }
        }
        None
    }

    /// A node asks for a name that the ring has with another directory: is the holder still there? It is called where it
    /// is known to be now, and where the ring has it, as it may have moved. Its directory tells it from whoever asks:
    /// what else a process says of itself is told to everybody.
    fn try_holder(&mut self, wish: JoinWish, current: &RingDocument) {
        let Some(holder) = current.member(&wish.join.member.id).cloned() else {
            return;
        };
        let known = self.membership.members().into_iter();
        let known = known
            .filter(|member| member.id == holder.id)
            .map(|member| member.address);
        let mut addresses: Vec<String> = known.chain([holder.address.clone()]).collect();
        addresses.dedup();
        self.decisions.trying.insert(holder.id.clone(), wish);
        let confirmer = self.confirmer.clone();
        self.spawn(async move {
            let mut there = Vec::new();
            for address in addresses {
                there.push(confirmer.who_is_at(&address).await);
            }
            CallEnd::Holder(HolderTried { holder, there })
        });
    }

    pub(super) fn on_holder_tried(&mut self, tried: HolderTried) {
        let HolderTried { holder, there } = tried;
        let Some(mut wish) = self.decisions.trying.remove(&holder.id) else {
            return;
        };
        let is_it = |process: &Process| {
            // An older version does not name its directory. Then it is somebody other than who asks, at least.
            let is_its_directory = match process.directory_id == DirectoryId::default() {
                true => process.nonce != wish.nonce,
                false => process.directory_id == holder.directory_id,
            };
            process.node_id == holder.id && is_its_directory
        };
        let lives = |there: &There| matches!(there, There::Process(process) if is_it(process));
        let is_unclear = |there: &There| matches!(there, There::Silent | There::Busy);
        if there.iter().any(lives) {
            let message = format!(
                "a node with the id {} is running; stop it first, or choose another --id",
                holder.id
            );
            let error = ErrorReply::new(ErrorCode::DuplicateNode, message);
            return wish.responder.respond(&Response::Error(error));
        }
        // One that is overloaded or stopped for a moment does not answer either.
        let is_dead = self.membership.state_of(&holder.id) == Some(MemberState::Dead);
        if there.iter().any(is_unclear) && !is_dead {
            let message = format!(
                "it cannot be told yet whether the node {} that the ring knows is gone: it does not answer, and does \
                 not count as dead. If it is gone for good this node is let in as soon as it does",
                holder.id
            );
            let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
            return wish.responder.respond(&Response::Error(error));
        }
        wish.gone = Some(holder.directory_id);
        self.decisions.joins.push_front(wish);
        self.decide_if_due(Instant::now());
    }

    // Attempts.

    fn attempt(&mut self, current: RingDocument, wanted: RingDocument) {
        let decisions = &mut self.decisions;
        let round = decisions
            .acceptor
            .next_round(&current)
            .max(decisions.next_round);
        match Proposer::new(self.me.node_id.clone(), current, wanted, round) {
            Ok(proposer) => {
                decisions.attempt += 1;
                decisions.proposer = Some(proposer);
                self.step_proposer(Proposer::start);
            }
            Err(error) => tracing::error!(%error, "a ring that can't follow the present one"),
        }
    }

    fn step_proposer(&mut self, step: impl FnOnce(&mut Proposer, &mut Vec<Effect>)) {
        let Some(proposer) = &mut self.decisions.proposer else {
            return;
        };
        let mut effects = Vec::new();
        step(proposer, &mut effects);
        // This node's own acceptor answers at once and may bring the attempt on.
        for effect in effects {
            self.carry_out_proposal(effect);
        }
    }

    fn carry_out_proposal(&mut self, effect: Effect) {
        match effect {
            Effect::SendPrepare { to, prepare } => {
                self.decisions.phase_deadline = Instant::now() + PHASE_TIMEOUT;
                self.ask(to, Phase::Prepare, Request::Prepare(prepare));
            }
            Effect::SendAccept { to, accept } => {
                self.decisions.phase_deadline = Instant::now() + PHASE_TIMEOUT;
                self.ask(to, Phase::Accept, Request::Accept(accept));
            }
            Effect::Decided(document) => {
                self.end_attempt(None);
                self.adopt(document);
            }
            Effect::Retry { next_round } => self.end_attempt(Some(next_round)),
            Effect::NoMajority {
                needed,
                got,
                next_round,
            } => {
                tracing::warn!(
                    needed,
                    got,
                    "too few members answer to decide about the ring"
                );
                self.end_attempt(Some(next_round));
            }
        }
    }

    fn end_attempt(&mut self, retry_round: Option<u64>) {
        self.decisions.proposer = None;
        match retry_round {
            Some(round) => {
                let pause = PAUSE_MAX.mul_f64(self.random.f64());
                self.decisions.next_round = round;
                self.decisions.pause_until = Some(Instant::now() + pause);
            }
            None => self.decisions.next_round = 1,
        }
    }

    fn ask(&mut self, to: NodeId, phase: Phase, request: Request) {
        let attempt = self.decisions.attempt;
        let address = self
            .membership
            .members()
            .into_iter()
            .find(|m| m.id == to)
            .map(|m| m.address);
        let Some(address) = address else {
            return;
        };
        let (calls, is_me) = (self.calls.clone(), to == self.me.node_id);
        let own = if is_me { self.own_vote(&request) } else { None };
        self.spawn(async move {
            let vote = if is_me {
                own
            } else {
                match calls
                    .call(&address, Some(&to), &request, PHASE_TIMEOUT)
                    .await
                {
                    Ok((Response::Promise(vote) | Response::Accepted(vote), _)) => Some(vote),
                    Ok(_) | Err(_) => None,
                }
            };
            CallEnd::Vote(VoteFrom {
                attempt,
                from: to,
                phase,
                vote,
            })
        });
    }

    pub(super) fn on_vote(&mut self, vote: VoteFrom) {
        if vote.attempt != self.decisions.attempt {
            return;
        }
        let Some(cast) = vote.vote else {
            return;
        };
        self.step_proposer(|proposer, effects| {
            proposer.on_vote(&vote.from, vote.phase, cast, effects);
        });
    }

    // This node's own votes.

    pub(super) fn on_prepare(&mut self, prepare: &Prepare, responder: &Responder) {
        match self.vote_on_prepare(prepare) {
            Some(vote) => responder.respond(&Response::Promise(vote)),
            None => responder.respond(&self.not_joined()),
        }
    }

    pub(super) fn on_accept(&mut self, accept: &Accept, responder: &Responder) {
        match self.vote_on_accept(accept) {
            Some(vote) => responder.respond(&Response::Accepted(vote)),
            None => responder.respond(&self.not_joined()),
        }
    }

    fn own_vote(&mut self, request: &Request) -> Option<Vote> {
        match request {
            Request::Prepare(prepare) => self.vote_on_prepare(prepare),
            Request::Accept(accept) => self.vote_on_accept(accept),
            _ => None,
        }
    }

    fn vote_on_prepare(&mut self, prepare: &Prepare) -> Option<Vote> {
        let current = self.ring.clone()?;
        self.catch_up(current.version(), prepare.slot);
        let answer = self
            .decisions
            .acceptor
            .on_prepare(current.document(), prepare);
        self.cast(answer)
    }

    fn vote_on_accept(&mut self, accept: &Accept) -> Option<Vote> {
        let current = self.ring.clone()?;
        self.catch_up(current.version(), accept.document.version);
        let answer = self
            .decisions
            .acceptor
            .on_accept(current.document(), accept);
        self.cast(answer)
    }

    /// A slot further ahead than the next shows that this node has missed a ring.
    fn catch_up(&mut self, own: RingVersion, slot: RingVersion) {
        if slot.0 > own.0 + 1 {
            self.look_for_ring(RingVersion(slot.0 - 1));
        }
    }

    /// A vote leaves only once it is durable.
    fn cast(&mut self, answer: Answer) -> Option<Vote> {
        if answer.save || self.decisions.is_unsaved {
            let bytes = self.decisions.acceptor.to_bytes();
            let saved = save_document(&*self.files, ACCEPTOR, &bytes);
            self.decisions.is_unsaved = saved.is_err();
            match saved {
                Ok(()) => {}
                // Nobody hears of this vote; whoever asks again gets one.
                Err(error) if error.is_shortage() => {
                    tracing::warn!(%error, "no vote on the ring");
                    return None;
                }
                Err(error) => {
                    self.end = Some(error.into());
                    return None;
                }
            }
            self.note_accepted();
        }
        Some(answer.vote)
    }
}

fn refuse_join(responder: &Responder, message: String) {
    let error = ErrorReply::new(ErrorCode::JoinRefused, message);
    responder.respond(&Response::Error(error));
}
