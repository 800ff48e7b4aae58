//! Exchanging news: rounds, messages, replies, and what is made of what others say.

use std::collections::BTreeMap;

use dynakv_protocol::gossip::{Gossip, MemberEntry, MemberState};
use dynakv_protocol::ids::{DirectoryId, NodeId};
use dynakv_protocol::limits::MEMBERS_MAX;

use super::member::{News, Peer};
use super::{Effect, Membership};
use crate::engine::counters;

/// One round in so many also goes to a member that is suspected or dead.
const DOWN_ROUND_IN: u32 = 5;

/// How many members are told at once what cannot wait for a round. The rest hears it with the rounds, first
/// of all news; in a larger cluster few of the others share keys with this node.
const TOLD_MAX: usize = 64;

impl Membership {
    pub(super) fn gossip_round(&mut self, effects: &mut Vec<Effect>) {
        self.me.heartbeat = self.me.heartbeat.saturating_add(1);
        // Counted from when this round was due, so that rare ticks don't stretch the rounds, but
        // without making up for missed ones. A tenth of jitter keeps nodes that were started together
        // from staying in step.
        let interval_ms = self.config.gossip_interval_ms;
        let jitter_ms = self.random.u64(0..=interval_ms / 10);
        self.round_due_ms = self
            .round_due_ms
            .max(self.now_ms.saturating_sub(interval_ms))
            .saturating_add(interval_ms - interval_ms / 20)
            .saturating_add(jitter_ms);

        let is_alive = |peer: &&Peer| peer.state() == MemberState::Alive;
        let id_of = |peer: &Peer| peer.entry.id.clone();
        let alive = self.peers.values().filter(is_alive).map(id_of);
        let chosen = self.random.choose_multiple(alive, self.config.fanout);
        // With nobody left to talk to, every round goes to somebody who may be back.
        let try_down = chosen.is_empty() || self.random.u32(0..DOWN_ROUND_IN) == 0;
        for id in chosen {
            self.send_gossip(&id, effects);
        }
        if try_down {
            let down: Vec<&Peer> = self.peers.values().filter(|peer| !is_alive(peer)).collect();
            let id = self.random.choice(down).map(id_of);
            if let Some(id) = id {
                self.send_gossip(&id, effects);
                // An answer is evidence, whatever became of the counters.
                self.ping(&id, effects);
            }
        }
    }

    /// Whether this node takes writes is told at once: until others know it, each write of theirs that
    /// needs this node asks it first.
    pub(super) fn set_disk(&mut self, hangs: bool, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.me.disk_hangs, hangs) == hangs {
            return;
        }
        self.me.heartbeat = self.me.heartbeat.saturating_add(1);
        let is_alive = |peer: &&Peer| peer.state() == MemberState::Alive;
        let alive = self.peers.values().filter(is_alive);
        let told: Vec<NodeId> = alive
            .map(|peer| peer.entry.id.clone())
            .take(TOLD_MAX)
            .collect();
        for id in told {
            self.send_gossip(&id, effects);
        }
    }

    fn send_gossip(&mut self, to: &NodeId, effects: &mut Vec<Effect>) {
        let address = self.address_of(to);
        effects.push(Effect::SendGossip {
            to: to.clone(),
            address,
            gossip: self.compose(to, &BTreeMap::new()),
            is_reply: false,
        });
    }

    /// A message for one node: this node itself, what is thought of the receiver (so that it can
    /// refute it), then whatever the receiver has not just shown to know.
    fn compose(&mut self, to: &NodeId, known: &BTreeMap<NodeId, News>) -> Gossip {
        let mut entries = vec![self.me.clone()];
        let receiver = self.peers.get(to).filter(|peer| peer.has_news);
        entries.extend(receiver.map(|peer| peer.entry.clone()));
        let entries_max = self.config.message_entries_max.min(MEMBERS_MAX);
        let room = entries_max.saturating_sub(entries.len());
        let skip = |peer: &Peer| {
            let id = &peer.entry.id;
            id == to || known.get(id).is_some_and(|news| *news >= peer.news())
        };
        entries.extend(self.rotation.choose(&mut self.peers, room, skip));
        Gossip {
            ring_version: self.ring_version,
            entries,
        }
    }

    pub(super) fn receive(
        &mut self,
        from: &NodeId,
        gossip: Gossip,
        is_reply: bool,
        effects: &mut Vec<Effect>,
    ) {
        // A second process under this node's name; the handshake refuses it.
        if *from == self.me.id {
            return;
        }
        let address = match self.peers.get(from) {
            Some(peer) => peer.entry.address.clone(),
            None => {
                let own = gossip.entries.iter().find(|entry| entry.id == *from);
                own.map(|entry| entry.address.clone()).unwrap_or_default()
            }
        };
        let is_possible = counters::check_ring_version(gossip.ring_version).is_ok();
        let is_newer = gossip.ring_version > self.ring_version;
        if is_newer && is_possible && self.now_ms >= self.fetch_due_ms {
            self.fetch_due_ms = self.now_ms.saturating_add(self.config.gossip_interval_ms);
            effects.push(Effect::FetchRing {
                from: from.clone(),
                address: address.clone(),
            });
        }
        let mut known = BTreeMap::new();
        for entry in gossip.entries {
            // This node called it, and it speaks of itself.
            let is_first_hand = is_reply && entry.id == *from;
            if !self.is_possible(&entry, is_first_hand) {
                // Neither believed nor passed on.
                continue;
            }
            if entry.id == self.me.id {
                self.hear_of_me(from, &entry, effects);
            } else if self.is_of_ring(&entry) {
                if !is_reply {
                    known.insert(entry.id.clone(), News::of(&entry));
                }
                self.hear(entry, effects);
            }
        }
        if !is_reply {
            effects.push(Effect::SendGossip {
                to: from.clone(),
                address,
                gossip: self.compose(from, &known),
                is_reply: true,
            });
        }
    }

    /// Whether its counters are ones that a process can have counted to.
    fn is_possible(&self, entry: &MemberEntry, is_first_hand: bool) -> bool {
        let known = match self.peers.get(&entry.id) {
            None => (entry.id == self.me.id).then_some(&self.me),
            Some(peer) => Some(&peer.entry).filter(|_| peer.has_news && !is_first_hand),
        };
        counters::check_news(known, entry).is_ok()
    }

    /// Whether this is about a member of the ring. The same name with another directory is not: it is the
    /// directory that the member has lost, or one that it will have in a ring that is still to come.
    fn is_of_ring(&self, entry: &MemberEntry) -> bool {
        let is_unsaid = entry.directory_id == DirectoryId::default();
        let peer = self.peers.get(&entry.id);
        peer.is_some_and(|peer| is_unsaid || peer.entry.directory_id == entry.directory_id)
    }

    /// Takes in what somebody says of a member.
    fn hear(&mut self, entry: MemberEntry, effects: &mut Vec<Effect>) {
        let sends = self.announced_sends();
        let Some(peer) = self.peers.get_mut(&entry.id) else {
            return;
        };
        let (said, news, id) = (entry.state, News::of(&entry), entry.id.clone());
        let before = peer.news();
        let is_newer = !peer.has_news || news > before;
        if is_newer {
            let has_turned = peer.entry.disk_hangs != entry.disk_hangs;
            peer.learn(entry);
            if has_turned || news.is_new_life_after(before) {
                self.rotation.announce(peer, sends);
            }
        }
        match said {
            MemberState::Alive if is_newer => {
                peer.hear(self.now_ms);
                self.witness(&id, effects);
            }
            MemberState::Alive => {}
            // Of older news this node knows better.
            MemberState::Suspected | MemberState::Dead if news >= before => {
                self.hear_rumour(&id, said, effects);
            }
            MemberState::Suspected | MemberState::Dead => {}
        }
    }

    fn hear_rumour(&mut self, id: &NodeId, said: MemberState, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if !peer.was_witnessed {
            let worse = said.max(peer.state());
            self.change_state(id, worse, effects);
        } else if peer.state() == MemberState::Alive
            && peer.quiet_ms(self.now_ms) >= self.config.gossip_interval_ms.saturating_mul(2)
        {
            peer.probes.hurry();
        }
    }

    fn hear_of_me(&mut self, from: &NodeId, said: &MemberEntry, effects: &mut Vec<Effect>) {
        let is_said = said.directory_id != DirectoryId::default();
        // Another directory under this name: which of the two is the member is for the ring to say.
        if is_said && said.directory_id != self.me.directory_id {
            return;
        }
        let is_copy = said.generation == self.me.generation && said.nonce != self.me.nonce;
        if is_said && (said.generation > self.me.generation || is_copy) {
            effects.push(Effect::Outdated {
                from: from.clone(),
                generation: said.generation,
            });
        } else if said.generation == self.me.generation {
            self.refute(said);
        }
        // An older run's counters are beaten by this one's generation already.
    }

    /// Answers a doubt about this run, or counters that it never reached.
    fn refute(&mut self, said: &MemberEntry) {
        let is_doubt = match said.state {
            MemberState::Alive => false,
            MemberState::Suspected | MemberState::Dead => said.incarnation >= self.me.incarnation,
        };
        if is_doubt || News::of(said) > News::of(&self.me) {
            let highest = self.me.incarnation.max(said.incarnation);
            self.me.incarnation = highest.saturating_add(1);
        }
    }
}
