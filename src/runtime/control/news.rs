//! Carrying out what membership decides: gossip, pings, probes, fetching newer rings.

use std::time::Duration;

use dynakv_protocol::gossip::{Gossip, MemberEntry, Probe, Probed};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{DirectoryId, ErrorCode, ErrorReply, NodeId, RingVersion};
use tokio::time::Instant;

use super::{CALL_TIMEOUT, CallEnd, Control, ControlError, Responder};
use crate::engine::membership::generations::{Judgement, Process};
use crate::engine::membership::{Effect, Event};
use crate::runtime::net::link::DialError;

/// How many members are asked at once for a newer ring.
const RING_ASKED_MAX: usize = 8;

/// How many claims about members are looked at at once: as many as a gossip message tells of. Most of them end at
/// once, as one member is asked one thing at a time.
const CONFIRMING_MAX: usize = 64;

/// How long after one question whether this node is outdated the next may be asked.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

impl Control {
    /// Tells all members of the ring's version at once, rather than with the next rounds of gossip.
    pub(super) fn announce(&mut self) {
        let Some(ring_version) = self.ring_to_tell().map(|ring| ring.version) else {
            return;
        };
        for member in self.membership.members() {
            if member.id != self.me.node_id {
                let news = Request::Gossip(Gossip {
                    ring_version,
                    entries: Vec::new(),
                });
                self.call_for_gossip(member.id, member.address, news);
            }
        }
    }

    /// Lets membership take in an event, and carries out what it wants done.
    pub(super) fn step(&mut self, event: Event) {
        self.step_answering(event, None);
    }

    pub(super) fn step_answering(&mut self, event: Event, responder: Option<&Responder>) {
        let now_ms = self.now_ms();
        let mut effects = std::mem::take(&mut self.effects);
        self.membership.step(event, now_ms, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(effect, responder);
        }
        self.effects = effects;
    }

    /// Takes out of gossip what it tells of members that is not known to be so: runs that are new, and other
    /// addresses. The members are asked; what they confirm is taken in then. `called` is the member that was called
    /// and answered this.
    pub(super) fn sift(&mut self, gossip: &mut Gossip, called: Option<&NodeId>) {
        let known = self.membership.members();
        let mut claims = Vec::new();
        gossip.entries.retain_mut(|entry| {
            let at = known.binary_search_by(|member| member.id.cmp(&entry.id));
            let member = at.ok().and_then(|at| known.get(at));
            // Of strangers membership takes in nothing.
            let Some(member) = member.filter(|member| member.id != self.me.node_id) else {
                return true;
            };
            if entry.directory_id == DirectoryId::default() {
                // An older version does not say of which run it speaks, so there is nothing to ask for.
                entry.address.clone_from(&member.address);
                return entry.generation <= member.generation || called == Some(&entry.id);
            }
            let is_moved = !entry.address.is_empty() && entry.address != member.address;
            let is_known = match self.seen.judge(&Process::of_entry(entry)) {
                Judgement::Stranger => return true,
                Judgement::Impossible(_) | Judgement::Outdated => return false,
                Judgement::Known => !is_moved,
                Judgement::ToConfirm => false,
            };
            if !is_known {
                claims.push(entry.clone());
            }
            is_known
        });
        for claim in claims {
            self.confirm(claim);
        }
    }

    /// Asks a member whether what was told of it is so. What there is no room for is told again.
    fn confirm(&mut self, told: MemberEntry) {
        if self.confirming >= CONFIRMING_MAX {
            return;
        }
        self.confirming += 1;
        let confirmer = self.confirmer.clone();
        self.spawn(async move {
            let found = confirmer.look_for(&told).await;
            CallEnd::Confirmed(found.map(|address| Box::new(MemberEntry { address, ..told })))
        });
    }

    /// A member has said that what was told of it is so, if it has.
    pub(super) fn on_confirmed(&mut self, entry: Option<Box<MemberEntry>>) {
        self.confirming = self.confirming.saturating_sub(1);
        let Some(entry) = entry else {
            return;
        };
        if let Err(error) = self.seen.see(&Process::of_entry(&entry)) {
            // Tried again with the next gossip; who dials is not let in before.
            tracing::warn!(%error, "could not note which runs of the members were seen");
            return;
        }
        self.step(Event::GossipReceived {
            from: entry.id.clone(),
            gossip: Gossip {
                ring_version: RingVersion(0),
                entries: vec![*entry],
            },
            is_reply: true,
        });
    }

    /// Others know a newer process of this node. To go on would be to mint dots that the newer one has
    /// minted already. The next start is an unclean one, with a new actor and a higher generation; and as
    /// this directory may be an old copy, it lacks what the newer one has acknowledged.
    pub(super) fn end_as_outdated(&mut self, error: ErrorReply) {
        self.end = Some(match self.rebuilding.begin_all() {
            Ok(()) => ControlError::Refused(error),
            Err(error) => error.into(),
        });
    }

    pub(super) fn carry_out(&mut self, effect: Effect, responder: Option<&Responder>) {
        match effect {
            Effect::SendGossip {
                gossip,
                is_reply: true,
                ..
            } => {
                if let Some(responder) = responder {
                    responder.respond(&Response::Gossip(gossip));
                }
            }
            Effect::SendGossip {
                to,
                address,
                gossip,
                is_reply: false,
            } => self.call_for_gossip(to, address, Request::Gossip(gossip)),
            Effect::SendPing { target, address } => {
                let calls = self.calls.clone();
                self.spawn(async move {
                    let called = calls.call(&address, Some(&target), &Request::Ping, CALL_TIMEOUT);
                    let alive = matches!(called.await, Ok((Response::Pong, _)));
                    CallEnd::Pinged(target, alive)
                });
            }
            Effect::SendProbe {
                via,
                address,
                target,
            } => {
                let calls = self.calls.clone();
                self.spawn(async move {
                    let request = Request::Probe(Probe {
                        target: target.clone(),
                    });
                    let called = calls
                        .call(&address, Some(&via), &request, 2 * CALL_TIMEOUT)
                        .await;
                    let alive = matches!(called, Ok((Response::Probed(probed), _)) if probed.alive);
                    CallEnd::ProbedVia { via, target, alive }
                });
            }
            Effect::AnswerProbe {
                token,
                target,
                alive,
                ..
            } => {
                if let Some(responder) = self.probes.remove(&token) {
                    responder.respond(&Response::Probed(Probed { target, alive }));
                }
            }
            Effect::StateChanged { id, from, to } => {
                tracing::info!(node = %id, ?from, ?to, "membership");
            }
            Effect::Outdated { from, generation } => {
                tracing::warn!(
                    %from,
                    own = self.me.generation.0,
                    newest = generation.0,
                    "told that this is an old run of its directory"
                );
                self.ask_whether_outdated(&from);
            }
            // Where gossip says that its sender is, it need not be.
            Effect::FetchRing { from, .. } => {
                if let Some(address) = self.address_of(&from) {
                    self.fetch_ring(Some(from), address);
                }
            }
        }
    }

    /// Where a member is reached, also one that the ring will have next.
    fn address_of(&self, id: &NodeId) -> Option<String> {
        let members = self.membership.members().into_iter();
        let known = members.filter(|member| member.id == *id);
        let known = known.map(|member| member.address).next();
        known.or_else(|| {
            let next = self.decisions.next()?;
            next.member(id).map(|member| member.address.clone())
        })
    }

    /// Somebody says that a newer run of this node's directory has been seen. Whoever has seen one lets this
    /// one in no more: so the member that is said to say so is called, where it is known to be. Words alone end
    /// nobody, as anybody can say them.
    fn ask_whether_outdated(&mut self, whom: &NodeId) {
        let Some(address) = self.address_of(whom) else {
            return;
        };
        let now = Instant::now();
        if now < self.doubt_due {
            return;
        }
        self.doubt_due = now + DOUBT_PAUSE;
        let calls = self.calls.clone();
        self.spawn(async move {
            match calls.introduce(&address).await {
                Err(DialError::Refused(error)) if error.code == ErrorCode::DuplicateNode => {
                    CallEnd::Outdated(error)
                }
                Ok(_) | Err(_) => CallEnd::NotOutdated,
            }
        });
    }

    pub(super) fn call_for_gossip(&mut self, to: NodeId, address: String, request: Request) {
        let calls = self.calls.clone();
        self.spawn(async move {
            match calls
                .call(&address, Some(&to), &request, CALL_TIMEOUT)
                .await
            {
                Ok((Response::Gossip(gossip), _)) => CallEnd::Gossip(to, Some(gossip)),
                Ok(_) => CallEnd::Gossip(to, None),
                Err(DialError::Refused(error)) if error.code == ErrorCode::DuplicateNode => {
                    CallEnd::Outdated(error)
                }
                Err(error) => {
                    tracing::debug!(node = %to, address, %error, "gossip");
                    CallEnd::Gossip(to, None)
                }
            }
        });
    }

    pub(super) fn fetch_ring(&mut self, from: Option<NodeId>, address: String) {
        let calls = self.calls.clone();
        self.spawn(async move {
            let request = Request::FetchRing;
            let called = calls
                .call(&address, from.as_ref(), &request, CALL_TIMEOUT)
                .await;
            CallEnd::Ring(match called {
                Ok((Response::RingDocument(document), _)) => Some(document),
                Ok(_) | Err(_) => None,
            })
        });
    }

    /// Someone follows a newer ring: asks some members for it, though not all the time. Whoever adopts a ring
    /// tells everybody, so more than a few need not be asked.
    pub(super) fn look_for_ring(&mut self, version: RingVersion) {
        let own = self.newest_ring().map(|document| document.version);
        if version <= own.unwrap_or(RingVersion(0)) || Instant::now() < self.fetch_due {
            return;
        }
        self.fetch_due = Instant::now() + Duration::from_millis(100);
        let members = self.membership.members().into_iter();
        let others = members.filter(|member| member.id != self.me.node_id);
        for member in self.random.choose_multiple(others, RING_ASKED_MAX) {
            self.fetch_ring(Some(member.id), member.address);
        }
    }
}
