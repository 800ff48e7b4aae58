//! Carrying out what membership decides: gossip, pings, probes, fetching newer rings.

use std::time::Duration;

use dynakv_protocol::gossip::{Gossip, Probe, Probed};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{ErrorCode, NodeId, RingVersion};
use tokio::time::Instant;

use super::{CALL_TIMEOUT, CallEnd, Control, Responder};
use crate::engine::membership::{Effect, Event};
use crate::runtime::link::DialError;

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

    /// Someone follows a newer ring: asks all members for it, though not all the time.
    pub(super) fn look_for_ring(&mut self, version: RingVersion) {
        let own = self
            .ring
            .as_ref()
            .map_or(RingVersion(0), |ring| ring.version());
        if version <= own || Instant::now() < self.fetch_due {
            return;
        }
        self.fetch_due = Instant::now() + Duration::from_millis(100);
        for member in self.membership.members() {
            if member.id != self.me.node_id {
                self.fetch_ring(Some(member.id), member.address);
            }
        }
    }
}
