//! Who is alive: gossip and failure detection as one state machine.
//!
//! Every node raises its own *heartbeat* once a round and exchanges news with a few random members
//! (push-pull gossip; the counters are those of van Renesse, Minsky and Hayden 1998). What others
//! *think* of a member never changes a mind that has evidence of its own. Each node judges by
//! progress:
//!
//! | Without evidence for | The member is | and this is done |
//! |---|---|---|
//! | half of `suspect_after` | alive | it is probed: directly, then through others as well |
//! | `suspect_after` | suspected | probed further, told of its suspicion now and then |
//! | `dead_after` | dead | now and then gossip and a probe |
//!
//! *Evidence* is newer news from somebody who thinks the member alive, or an answered probe. It makes
//! the member alive at once, whatever it was before.
//!
//! A rumour that somebody is suspected or dead is a reason to look: it brings a probe forward. Only of
//! a member of which there never was evidence (this node has just started) it is believed. A member
//! that reads such a rumour of itself raises its incarnation (SWIM, Das et al. 2002, section 4.2), which
//! is news that beats every rumour.
//!
//! # What it withstands
//! - Messages and work per round do not grow with the cluster, apart from looking at each member once.
//! - Entries for nodes that the ring does not have, or has with another directory, are ignored; only the
//!   ring makes members.
//! - False counters: a heartbeat or an incarnation that its owner never reached is overtaken by the
//!   owner as soon as it reads it, and what no process can have counted to is ignored
//!   ([`counters`](crate::engine::counters)). A false generation of a directory is no small lie, as its owner
//!   would take its own run for one of an old copy: the caller asks the owner, where it is known to be, before
//!   it hands in news of a run that it does not know, and asks who says so before it ends.
//! - A pause of this node's own process is not held against the others.

use std::collections::BTreeMap;

use dynakv_protocol::gossip::{MemberEntry, MemberState};
use dynakv_protocol::ids::{NodeId, RingVersion};

pub use self::config::MembershipConfig;
pub use self::event::{Effect, Event, RingMember};
pub use self::member::MemberView;
use self::member::Peer;
use self::probe::{Accepted, Errand, Errands};
use self::rotation::Rotation;

mod config;
mod event;
pub mod generations;
mod gossip;
mod member;
mod probe;
mod rotation;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// The most members that are probed within one gossip interval; the rest wait for the next.
const PROBED_PER_INTERVAL_MAX: usize = 32;

/// Who is alive, as one node sees it. See the [module](self) for the rules.
///
/// All times are `now_ms`: milliseconds of a clock of the caller's that never goes back.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    me: MemberEntry,
    started_ms: u64,
    ring_version: RingVersion,
    peers: BTreeMap<NodeId, Peer>,
    rotation: Rotation,
    errands: Errands,
    random: fastrand::Rng,
    now_ms: u64,
    round_due_ms: u64,
    /// From when on the ring may be fetched again.
    fetch_due_ms: u64,
    /// How many members may yet be probed, and when the count begins anew.
    probes_left: usize,
    probes_renewed_ms: u64,
}

impl Membership {
    /// A node that knows nobody yet. Tell it the ring's members next.
    ///
    /// `me` is what others are told of this node: its generation must be higher than in any run
    /// before, its state and its counters are this machine's business.
    pub fn new(
        config: MembershipConfig,
        me: MemberEntry,
        random: fastrand::Rng,
        now_ms: u64,
    ) -> Self {
        Self {
            config,
            me: MemberEntry {
                state: MemberState::Alive,
                ..me
            },
            started_ms: now_ms,
            ring_version: RingVersion(0),
            peers: BTreeMap::new(),
            rotation: Rotation::default(),
            errands: Errands::default(),
            random,
            now_ms,
            round_due_ms: now_ms,
            fetch_due_ms: now_ms,
            probes_left: PROBED_PER_INTERVAL_MAX,
            probes_renewed_ms: now_ms,
        }
    }

    /// Takes in one event and appends what is to be done about it.
    pub fn step(&mut self, event: Event, now_ms: u64, effects: &mut Vec<Effect>) {
        self.advance(now_ms);
        match event {
            Event::Tick => self.tick(effects),
            Event::RingMembers(members) => self.set_members(members),
            Event::RingVersion(version) => {
                self.ring_version = version;
                self.me.ring_version = version;
            }
            Event::GossipReceived {
                from,
                gossip,
                is_reply,
            } => self.receive(&from, gossip, is_reply, effects),
            Event::ProbeRequested {
                token,
                target,
                from,
            } => self.run_errand(token, target, from, effects),
            Event::ProbeAnswered { target, via, alive } => {
                if via.is_none() {
                    let errands = self.errands.take_answered(&target);
                    answer(errands, alive, effects);
                }
                if alive {
                    if let Some(peer) = self.peers.get_mut(&target).filter(|_| via.is_none()) {
                        peer.hear(self.now_ms);
                    }
                    self.witness(&target, effects);
                }
            }
            Event::ConnectionLost { node } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.probes.hurry();
                    self.probe_due(effects);
                }
            }
            Event::LocalLoad {
                keys,
                disk_bytes,
                rebuilding_segments,
                hints_waiting,
                disk_full,
                complete_since,
                settled_at,
                hints_counted,
                moving,
            } => {
                self.me.keys = keys;
                self.me.disk_bytes = disk_bytes;
                self.me.rebuilding_segments = rebuilding_segments;
                self.me.hints_waiting = hints_waiting;
                self.me.disk_full = disk_full;
                self.me.complete_since = complete_since;
                self.me.settled_at = settled_at;
                self.me.hints_counted = hints_counted;
                self.me.moving = moving;
            }
            Event::LocalDisk { hangs } => self.set_disk(hangs, effects),
        }
    }

    /// What this node tells others of itself.
    pub fn me(&self) -> &MemberEntry {
        &self.me
    }

    /// What this node thinks of a member; none for a node that the ring does not have.
    pub fn state_of(&self, id: &NodeId) -> Option<MemberState> {
        if *id == self.me.id {
            return Some(MemberState::Alive);
        }
        self.peers.get(id).map(Peer::state)
    }

    /// This node and all other members, in the order of their ids.
    pub fn members(&self) -> Vec<MemberView> {
        let mut members: Vec<MemberView> = self
            .peers
            .values()
            .map(|peer| {
                let is_heard = peer.is_heard(&self.config, self.now_ms);
                MemberView::of(&peer.entry, peer.since_ms, is_heard)
            })
            .collect();
        let at = members.partition_point(|member| member.id < self.me.id);
        members.insert(at, MemberView::of(&self.me, self.started_ms, true));
        members
    }

    /// Moves the clock. Silence while this node itself did not run says nothing about the others.
    fn advance(&mut self, now_ms: u64) {
        let pause_ms = now_ms.saturating_sub(self.now_ms);
        if pause_ms > self.config.suspect_after_ms / 2 {
            for peer in self.peers.values_mut() {
                peer.forgive(pause_ms);
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        answer(self.errands.take_expired(self.now_ms), false, effects);
        self.judge(effects);
        self.probe_due(effects);
        if self.now_ms >= self.round_due_ms {
            self.gossip_round(effects);
        }
    }

    fn set_members(&mut self, members: Vec<RingMember>) {
        let by_id = members
            .into_iter()
            .map(|member| (member.id.clone(), member));
        let members: BTreeMap<NodeId, RingMember> = by_id.collect();
        self.peers.retain(|id, _| members.contains_key(id));
        for (id, member) in members {
            if id == self.me.id {
                continue;
            }
            match self.peers.get_mut(&id) {
                // Gossip has a newer address than the ring: a node may have moved since it joined.
                Some(peer) => {
                    if !peer.has_news {
                        peer.entry.address = member.address;
                    }
                    if peer.entry.directory_id != member.directory_id {
                        peer.move_to(member.directory_id);
                    }
                }
                None => {
                    self.peers.insert(id, Peer::new(member, self.now_ms));
                }
            }
        }
        if let Some(id) = self.random.choice(self.peers.keys()) {
            self.rotation.begin_after(id.clone());
        }
    }

    // Judging.

    fn judge(&mut self, effects: &mut Vec<Effect>) {
        let worse: Vec<(NodeId, MemberState)> = self
            .peers
            .values()
            .map(|peer| (peer, peer.judged(&self.config, self.now_ms)))
            .filter(|(peer, judged)| *judged != peer.state())
            .map(|(peer, judged)| (peer.entry.id.clone(), judged))
            .collect();
        for (id, judged) in worse {
            self.change_state(&id, judged, effects);
        }
    }

    fn witness(&mut self, id: &NodeId, effects: &mut Vec<Effect>) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.witness(self.now_ms);
            self.change_state(id, MemberState::Alive, effects);
        }
    }

    fn change_state(&mut self, id: &NodeId, to: MemberState, effects: &mut Vec<Effect>) {
        let sends = self.announced_sends();
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let from = std::mem::replace(&mut peer.entry.state, to);
        if from == to {
            return;
        }
        peer.since_ms = self.now_ms;
        self.rotation.announce(peer, sends);
        effects.push(Effect::StateChanged {
            id: id.clone(),
            from,
            to,
        });
    }

    /// In how many messages a change goes first: enough to reach everybody with near certainty.
    fn announced_sends(&self) -> usize {
        let doublings = usize::BITS - self.peers.len().leading_zeros();
        self.config.fanout.max(1) * (doublings as usize + 1)
    }

    // Probing.

    /// Tries the members whose turn it is; those tried least come first.
    fn probe_due(&mut self, effects: &mut Vec<Effect>) {
        let interval_ms = self.config.gossip_interval_ms;
        if self.now_ms.saturating_sub(self.probes_renewed_ms) >= interval_ms {
            self.probes_renewed_ms = self.now_ms;
            self.probes_left = PROBED_PER_INTERVAL_MAX;
        }
        let is_due = |peer: &&Peer| {
            let quiet_ms = peer.quiet_ms(self.now_ms);
            let schedule = &peer.probes;
            schedule.is_due(&self.config, peer.state(), quiet_ms, self.now_ms)
        };
        let mut due: Vec<(u32, NodeId)> = self
            .peers
            .values()
            .filter(is_due)
            .map(|peer| (peer.probes.attempts(), peer.entry.id.clone()))
            .collect();
        due.sort_unstable();
        due.truncate(self.probes_left);
        self.probes_left -= due.len();
        for (_, id) in due {
            self.probe(&id, effects);
        }
    }

    fn probe(&mut self, target: &NodeId, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(target) else {
            return;
        };
        let through_others = peer.probes.attempt(self.now_ms);
        self.ping(target, effects);
        if through_others {
            let can_help =
                |peer: &&Peer| peer.state() == MemberState::Alive && peer.entry.id != *target;
            let helpers = self.peers.values().filter(can_help);
            for via in self
                .random
                .choose_multiple(helpers, self.config.probe_through)
            {
                effects.push(Effect::SendProbe {
                    via: via.entry.id.clone(),
                    address: via.entry.address.clone(),
                    target: target.clone(),
                });
            }
        }
    }

    fn ping(&self, target: &NodeId, effects: &mut Vec<Effect>) {
        effects.push(Effect::SendPing {
            target: target.clone(),
            address: self.address_of(target),
        });
    }

    fn run_errand(&mut self, token: u64, target: NodeId, to: NodeId, effects: &mut Vec<Effect>) {
        let answer_now = |alive, target, to| Effect::AnswerProbe {
            token,
            to,
            target,
            alive,
        };
        if target == self.me.id || !self.peers.contains_key(&target) {
            effects.push(answer_now(target == self.me.id, target, to));
            return;
        }
        // Later than that the answer would be of no use to the asker.
        let deadline_ms = self.now_ms.saturating_add(self.config.suspect_after_ms / 2);
        match self
            .errands
            .accept(token, target.clone(), to.clone(), deadline_ms)
        {
            Accepted::Ping => self.ping(&target, effects),
            Accepted::Wait => {}
            Accepted::Refused => effects.push(answer_now(false, target, to)),
        }
    }

    fn address_of(&self, id: &NodeId) -> String {
        let peer = self.peers.get(id);
        peer.map(|peer| peer.entry.address.clone())
            .unwrap_or_default()
    }
}

fn answer(errands: Vec<Errand>, alive: bool, effects: &mut Vec<Effect>) {
    effects.extend(errands.into_iter().map(|errand| Effect::AnswerProbe {
        token: errand.token,
        to: errand.to,
        target: errand.target,
        alive,
    }));
}
