//! Handing events to operations, and carrying out what they decide.

use dynakv_protocol::peer::KeepHint;

use super::forwarding::say_again;
use super::{
    Bytes, Coordinator, ErrorReply, Header, MergeVersions, NodeId, NodeSlot, OperationId, Parked,
    Reach, ReadJob, ReadVersions, Request, Requester, RingVersion, SELF, Token, Wait, WriteJob,
    WriteWork, reads::DIGEST_ABOVE_BYTES,
};
use crate::engine::operation::{
    Answer, Effect, Effects, Event, Mint, Operation, Owed, Purpose, Reading, Rest,
};
use crate::engine::write::mint::Intent;
use crate::engine::write::put::Round;
use crate::runtime::data::dispatch::{Action, data_request};
use crate::runtime::data::operations::InHand;
use crate::runtime::store::hint_worker::HintJob;

impl Coordinator {
    /// Something happened to an operation, if it is still in hand.
    pub(super) fn step(&mut self, id: OperationId, event: Event) {
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let mut effects = std::mem::take(&mut self.effects);
        in_hand.operation.step(event, &mut effects);
        let rest = in_hand.operation.rest();
        self.carry_out(id, effects);
        self.forget_if_over(id, rest);
    }

    /// Takes in an operation that has just begun, and carries out its first effects.
    pub(super) fn take_in(
        &mut self,
        requester: Requester,
        (frame, key): (super::Frame, Bytes),
        operation: Operation,
        slow_at: super::Instant,
        effects: Effects,
    ) -> OperationId {
        let rest = operation.rest();
        let operation = (self.view.ring_version(), operation);
        let id = self
            .operations
            .insert(requester, key, frame, operation, slow_at);
        self.carry_out(id, effects);
        self.forget_if_over(id, rest);
        id
    }

    fn carry_out(&mut self, id: OperationId, mut effects: Effects) {
        for effect in effects.drain() {
            match effect {
                Effect::Ping(to) => self.send(id, Purpose::Ping, to, &Request::Ping),
                Effect::Read { from: SELF, .. } => self.read_local(id),
                Effect::Read { from, how } => self.send_read(id, from, how),
                Effect::Mint(mint) => self.mint(id, mint),
                Effect::MintHint { intent, owed } => self.mint_hint(id, intent, owed),
                Effect::Merge {
                    to,
                    purpose: Purpose::Repair,
                    versions,
                    ..
                } => {
                    self.metrics.read_repairs.increment(1);
                    self.repair(id, to, versions);
                }
                Effect::Merge {
                    to,
                    purpose,
                    versions,
                    tell_beside,
                } => self.merge(id, purpose, to, (versions, tell_beside)),
                Effect::Hint {
                    to,
                    round,
                    versions,
                    owed,
                } => self.send_hint(id, Purpose::hint(round), to, (versions, owed)),
                Effect::Remind(owner) => self.remind(id, owner),
                Effect::HandOn {
                    to,
                    again,
                    may_go_elsewhere,
                } => self.hand_on(id, to, (again, may_go_elsewhere)),
                Effect::TakeOver => self.take_over(id),
                Effect::StandIn => self.stand_in(id),
                Effect::HandOver(error) => self.hand_over(id, error),
                Effect::NewerRing(version) => {
                    self.look_for_ring(version);
                }
                Effect::BeginAgain(version) => self.begin_again(id, version),
                Effect::AwaitRing(version) => self.awaiting_ring.push((id, version)),
                Effect::Rebase { round, versions } => {
                    let in_hand = self.operations.get_mut(id);
                    let work = WriteWork::Rebase {
                        sent: versions,
                        begin_by: in_hand.and_then(|it| it.requester.begin_by),
                    };
                    self.write_here(id, Purpose::write(round), work);
                }
                Effect::Answer(result) => self.answer(id, result),
            }
        }
        self.effects = effects;
    }

    /// Answers the client. The operation stays until its last effects are carried out, and a write while owners may
    /// still answer.
    fn answer(&mut self, id: OperationId, result: Result<Answer, ErrorReply>) {
        self.on_read_ends(id);
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let mut requester = in_hand.requester;
        if let Some(attempts) = in_hand.operation.attempts() {
            requester.attempts = attempts;
        }
        let key = in_hand.key.clone();
        let reply = result.map(|answer| self.reply(&key, answer));
        self.end(requester, reply);
    }

    /// Forgets an operation of which nothing more will come, and answered writes where too many wait.
    fn forget_if_over(&mut self, id: OperationId, rest: Rest) {
        let stays = match rest {
            Rest::InHand => true,
            Rest::Over => false,
            Rest::Tail => {
                // Each holds what it wrote: large ones must not take the room of requests.
                let results_max = self.ledger.bytes_max(super::Kind::Results);
                let has_room = self.operations.results() <= results_max / 2;
                self.operations.is_tail(id) || has_room && self.operations.begin_tail(id)
            }
        };
        if !stays {
            self.operations.remove(id);
        }
    }

    /// Begins an operation anew under a ring that is newer than the one it began with.
    pub(super) fn begin_again(&mut self, id: OperationId, version: RingVersion) {
        let Some(InHand {
            mut requester,
            mut frame,
            ..
        }) = self.operations.remove(id)
        else {
            return;
        };
        if requester.op == super::Op::Import {
            // Some owner may have merged it.
            requester.attempts.begin();
        }
        say_again(&requester, &mut frame);
        if self.view.ring_version() >= version {
            self.begin(requester, frame);
        } else if !self.is_usable() {
            // The next ring waits for this node's disk.
            self.end(requester, Err(super::disk::hanging()));
        } else {
            self.parking.park(requester, frame, Wait::ForRing(version));
        }
    }

    /// Has writes go on that wait for the ring that this node follows by now.
    pub(super) fn rebase_waiting(&mut self) {
        let version = self.view.ring_version();
        let Some(ring) = self.view.ring.clone() else {
            return;
        };
        let waiting = std::mem::take(&mut self.awaiting_ring);
        for (id, wanted) in waiting {
            if wanted > version {
                if self.operations.contains(id) {
                    self.awaiting_ring.push((id, wanted));
                }
                continue;
            }
            let Some(id) = self.operations.rebase(id, version) else {
                continue;
            };
            let Some(key) = self.operations.get_mut(id).map(|it| it.key.clone()) else {
                continue;
            };
            self.metrics.cluster.writes_rebased.increment(1);
            let owners = self.owners(&ring, &key);
            let others = owners.iter().filter(|&node| node != SELF);
            let event = Event::NewRing {
                usable: others
                    .filter(|&node| self.links.reach(node) == Reach::Usable)
                    .collect(),
                stand_ins: self.stand_ins(&key),
                owners,
            };
            self.step(id, event);
        }
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
        if let Some(in_hand) = self.operations.get_mut(id) {
            in_hand.note_sent(to, self.now);
        }
    }

    fn send_read(&mut self, id: OperationId, to: NodeSlot, how: Reading) {
        if how == Reading::Again {
            self.metrics.reads.digest_misses.increment(1);
        }
        let now = self.now;
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let request = Request::Read(ReadVersions {
            ring_version: in_hand.ring_version,
            timeout_ms: remaining_ms(&in_hand.requester, now),
            key: in_hand.key.clone(),
            tell_actor: how == Reading::WithActor,
            digest_above: (how == Reading::OrDigest).then_some(DIGEST_ABOVE_BYTES),
        });
        self.send(id, Purpose::Read, to, &request);
    }

    fn read_local(&mut self, id: OperationId) {
        if let Some(in_hand) = self.operations.get_mut(id) {
            self.reads.push(ReadJob {
                token: Token::Operation(id.message(Purpose::Read)),
                connection: in_hand.requester.connection,
                ring_version: in_hand.ring_version,
                key: in_hand.key.clone(),
                digest_above: None,
            });
        }
    }

    fn merge(
        &mut self,
        id: OperationId,
        purpose: Purpose,
        to: NodeSlot,
        (versions, tell_beside): (Bytes, bool),
    ) {
        if to == SELF {
            return self.merge_here(id, purpose, versions);
        }
        let now = self.now;
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let key = in_hand.key.clone();
        let request = Request::Merge(MergeVersions {
            ring_version: in_hand.ring_version,
            timeout_ms: remaining_ms(&in_hand.requester, now),
            key,
            versions,
            tell_beside,
        });
        self.send(id, purpose, to, &request);
    }

    fn merge_here(&mut self, id: OperationId, purpose: Purpose, versions: Bytes) {
        let work = WriteWork::Merge {
            versions,
            tell_beside: false,
        };
        self.write_here(id, purpose, work);
    }

    fn write_here(&mut self, id: OperationId, purpose: Purpose, work: WriteWork) {
        if let Some(in_hand) = self.operations.get_mut(id) {
            self.writes.push(WriteJob {
                token: Token::Operation(id.message(purpose)),
                ring_version: in_hand.ring_version,
                key: in_hand.key.clone(),
                work,
            });
        }
    }

    fn repair(&mut self, id: OperationId, to: NodeSlot, versions: Bytes) {
        if to == SELF {
            return self.merge_here(id, Purpose::Repair, versions);
        }
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let key = in_hand.key.clone();
        let request = Request::Merge(MergeVersions {
            ring_version: in_hand.ring_version,
            timeout_ms: dynakv_protocol::limits::TIMEOUT_MS_DEFAULT,
            key,
            versions,
            tell_beside: false,
        });
        let header = Header::new(request.kind(), id.message(Purpose::Repair));
        if !self.links.send(to, header, |out| request.encode(out)) {
            // Left to the next read or to anti-entropy; who waits for it need not.
            self.unsent.push((id, to));
        }
    }

    fn mint(&mut self, id: OperationId, mint: Mint) {
        let Mint {
            intent,
            seen,
            round,
            catches_up,
        } = mint;
        let Some(intent) = intent.or_else(|| self.intent_again(id)) else {
            return;
        };
        if round == Round::Second {
            self.metrics.minted_again.increment(1);
        }
        let cluster_id = self.view.cluster_id;
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let begin_by = in_hand.requester.begin_by;
        let work = WriteWork::Mint {
            intent,
            seen,
            catches_up,
            cluster_id,
            // What was begun in time is brought to its end, unless the ring has changed on it.
            begin_by: begin_by.filter(|_| round == Round::First || in_hand.is_rebased),
        };
        self.write_here(id, Purpose::write(round), work);
    }

    fn mint_hint(&mut self, id: OperationId, intent: Option<Box<Intent>>, owed: Owed) {
        let Some(intent) = intent.or_else(|| self.intent_again(id)) else {
            return;
        };
        let cluster_id = self.view.cluster_id;
        let owners = owed.owners.iter();
        let owners = owners.map(|&slot| self.links.id(slot).clone()).collect();
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        self.hint_jobs.push(HintJob::Mint {
            token: Token::Operation(id.message(Purpose::Write)),
            ring_version: in_hand.ring_version,
            key: in_hand.key.clone(),
            intent,
            owed: owners,
            needed: owed.needed,
            cluster_id,
        });
    }

    /// What a write says that is minted once more: so rare that it is not kept for that. It was decoded when it
    /// came, so there is one.
    fn intent_again(&mut self, id: OperationId) -> Option<Box<Intent>> {
        let ring = self.view.ring.clone()?;
        let limits = self.limits(&ring);
        let in_hand = self.operations.get_mut(id)?;
        match data_request(&in_hand.frame, limits).map(|it| it.action) {
            Ok(Action::Put { intent, .. }) => Some(intent),
            Ok(_) | Err(_) => None,
        }
    }

    fn send_hint(
        &mut self,
        id: OperationId,
        purpose: Purpose,
        to: NodeSlot,
        (versions, owed): (Bytes, Owed),
    ) {
        let owners = owed.owners.iter();
        let owners: Vec<NodeId> = owners.map(|&slot| self.links.id(slot).clone()).collect();
        let now = self.now;
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let request = Request::Hint(KeepHint {
            ring_version: in_hand.ring_version,
            timeout_ms: remaining_ms(&in_hand.requester, now),
            key: in_hand.key.clone(),
            versions,
            owed: owners,
            needed: owed.needed,
        });
        self.send(id, purpose, to, &request);
    }

    /// An owner has missed an acknowledged write of this key.
    fn remind(&mut self, id: OperationId, owner: NodeSlot) {
        let owner = self.links.id(owner).clone();
        if let Some(in_hand) = self.operations.get_mut(id) {
            self.reminders.push((in_hand.key.clone(), owner));
        }
    }

    /// Requests that have waited for a ring long enough.
    pub(super) fn end_parked(&mut self) {
        for Parked {
            requester, waits, ..
        } in self.parking.expired(self.now)
        {
            let error = ErrorReply::new(super::ErrorCode::Timeout, waits.too_long()).retryable();
            self.end(requester, Err(error));
        }
    }
}

pub(super) fn remaining_ms(requester: &Requester, now: tokio::time::Instant) -> u32 {
    let remaining = requester.deadline.saturating_duration_since(now);
    // Deadlines are at most a minute away.
    remaining.as_millis() as u32
}
