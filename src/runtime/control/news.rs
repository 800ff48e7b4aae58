//! Carrying out what membership decides: gossip, pings, probes, fetching newer rings.

use std::time::Duration;

use dynakv_protocol::gossip::{Gossip, Probe, Probed};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{ErrorCode, ErrorReply, NodeId, RingVersion};
use tokio::time::Instant;

use super::{CALL_TIMEOUT, CallEnd, Control, ControlError, Responder};
use crate::engine::membership::{Effect, Event};
use crate::runtime::admission::duplicate;
use crate::runtime::link::DialError;

/// How many members are asked at once for a newer ring.
const RING_ASKED_MAX: usize = 8;

impl Control {
    /// Tells all members of the ring's version at once, rather than with the next rounds of gossip.
    pub(super) fn announce(&mut self) {
        let Some(ring) = self.ring.clone() else {
            return;
        };
        for member in self.membership.members() {
            if member.id != self.me.node_id {
                let news = Request::Gossip(Gossip {
                    ring_version: ring.version(),
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

    /// What gossip tells of other nodes' runs counts as seen.
    pub(super) fn note_runs(&self, gossip: &Gossip) {
        let others = gossip.entries.iter();
        let others = others.filter(|entry| entry.id != self.me.node_id);
        if let Err(error) = self.seen.hear(others) {
            // Tried again with the next gossip; who dials is not let in before.
            tracing::warn!(%error, "could not note which runs of the members were seen");
        }
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
                tracing::error!(%from, own = self.me.generation.0, newest = generation.0, "outdated");
                self.end_as_outdated(duplicate(&self.me.node_id, "another address"));
            }
            Effect::FetchRing { from, address } => self.fetch_ring(Some(from), address),
        }
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
        let own = self
            .ring
            .as_ref()
            .map_or(RingVersion(0), |ring| ring.version());
        if version <= own || Instant::now() < self.fetch_due {
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
