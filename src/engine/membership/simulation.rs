//! Whole clusters of state machines in simulated time, over a network that delays and loses.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use dynakv_protocol::codec::Wire;
use dynakv_protocol::gossip::Gossip;
use dynakv_protocol::ids::{DirectoryId, Generation};

use super::*;
use crate::engine::counters::{GENERATION_MAX, HEARTBEAT_MAX};

mod scale;

const TICK_MS: u64 = 250;
const PING_TIMEOUT_MS: u64 = 1_000;

struct Cluster {
    nodes: Vec<Option<Membership>>,
    config: MembershipConfig,
    random: fastrand::Rng,
    /// What will happen: by time, then in the order it was caused.
    agenda: BTreeMap<(Reverse<u64>, Reverse<u64>), (usize, Event)>,
    caused: u64,
    now_ms: u64,
    loss_percent: u8,
    cut_links: BTreeSet<(usize, usize)>,
    /// From and to: cut in one direction.
    dead_ways: BTreeSet<(usize, usize)>,
    /// Who changed its mind about whom, and when.
    changes: Vec<(u64, usize, usize, MemberState)>,
    gossip_sent: u64,
    probes_sent: u64,
    entries_sent: u64,
    bytes_sent: u64,
    /// Encoding takes longer than all the rest.
    counts_bytes: bool,
    entries_most: usize,
}

fn name(node: usize) -> NodeId {
    NodeId::new(&format!("node-{node}")).unwrap()
}

fn bytes_of(gossip: &Gossip) -> u64 {
    gossip.to_bytes().len() as u64
}

fn number(id: &NodeId) -> usize {
    id.as_str()["node-".len()..].parse().unwrap()
}

impl Cluster {
    fn new(size: usize, seed: u64, loss_percent: u8) -> Self {
        Self::with_config(MembershipConfig::default(), size, seed, loss_percent)
    }

    fn with_config(config: MembershipConfig, size: usize, seed: u64, loss_percent: u8) -> Self {
        let mut cluster = Self {
            nodes: (0..size).map(|_| None).collect(),
            config,
            random: fastrand::Rng::with_seed(seed),
            agenda: BTreeMap::new(),
            caused: 0,
            now_ms: 0,
            loss_percent,
            cut_links: BTreeSet::new(),
            dead_ways: BTreeSet::new(),
            changes: Vec::new(),
            gossip_sent: 0,
            probes_sent: 0,
            entries_sent: 0,
            bytes_sent: 0,
            counts_bytes: false,
            entries_most: 0,
        };
        for node in 0..size {
            cluster.start(node, 1);
            let phase_ms = cluster.random.u64(0..TICK_MS);
            cluster.later(phase_ms, node, Event::Tick);
        }
        cluster
    }

    fn start(&mut self, node: usize, generation: u64) {
        let me = MemberEntry {
            generation: Generation(generation),
            nonce: generation,
            ..MemberEntry::new(name(node), String::new(), DirectoryId(1))
        };
        let random = self.random.fork();
        let mut membership = Membership::new(self.config, me, random, self.now_ms);
        let members = (0..self.nodes.len())
            .map(|i| RingMember {
                id: name(i),
                directory_id: DirectoryId(1),
                address: String::new(),
            })
            .collect();
        membership.step(Event::RingMembers(members), self.now_ms, &mut Vec::new());
        self.nodes[node] = Some(membership);
    }

    fn stop(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    fn later(&mut self, delay_ms: u64, node: usize, event: Event) {
        self.caused += 1;
        let at = (Reverse(self.now_ms + delay_ms), Reverse(self.caused));
        self.agenda.insert(at, (node, event));
    }

    /// How long one message takes, or none when it is lost.
    fn transit_ms(&mut self, from: usize, to: usize) -> Option<u64> {
        let lost = self.random.u8(0..100) < self.loss_percent;
        let cut = self.cut_links.contains(&(from.min(to), from.max(to)))
            || self.dead_ways.contains(&(from, to));
        (!lost && !cut).then(|| self.random.u64(1..=50))
    }

    fn run(&mut self, time_ms: u64) {
        let end_ms = self.now_ms + time_ms;
        while let Some(next) = self.agenda.last_entry() {
            if next.key().0.0 > end_ms {
                break;
            }
            let ((Reverse(at_ms), _), (node, event)) = next.remove_entry();
            self.now_ms = at_ms;
            if event == Event::Tick {
                self.later(TICK_MS, node, Event::Tick);
            }
            let Some(membership) = &mut self.nodes[node] else {
                continue;
            };
            let mut effects = Vec::new();
            membership.step(event, at_ms, &mut effects);
            for effect in effects {
                self.carry_out(node, effect);
            }
        }
        self.now_ms = end_ms;
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::SendGossip {
                to,
                gossip,
                is_reply,
                ..
            } => {
                self.gossip_sent += 1;
                self.entries_sent += gossip.entries.len() as u64;
                if self.counts_bytes {
                    self.bytes_sent += bytes_of(&gossip);
                }
                self.entries_most = self.entries_most.max(gossip.entries.len());
                let from = name(node);
                let event = Event::GossipReceived {
                    from,
                    gossip,
                    is_reply,
                };
                if let Some(delay_ms) = self.transit_ms(node, number(&to)) {
                    self.later(delay_ms, number(&to), event);
                }
            }
            Effect::SendPing { target, .. } => {
                self.probes_sent += 1;
                let to = number(&target);
                let there_ms = self.transit_ms(node, to);
                let back_ms = self.transit_ms(to, node);
                let round_trip_ms = match (there_ms, back_ms, &self.nodes[to]) {
                    (Some(there_ms), Some(back_ms), Some(_)) => Some(there_ms + back_ms),
                    _ => None,
                };
                let event = Event::ProbeAnswered {
                    target,
                    via: None,
                    alive: round_trip_ms.is_some(),
                };
                self.later(round_trip_ms.unwrap_or(PING_TIMEOUT_MS), node, event);
            }
            Effect::SendProbe { via, target, .. } => {
                self.probes_sent += 1;
                let (token, from) = (0, name(node));
                let event = Event::ProbeRequested {
                    token,
                    target,
                    from,
                };
                if let Some(delay_ms) = self.transit_ms(node, number(&via)) {
                    self.later(delay_ms, number(&via), event);
                }
            }
            Effect::AnswerProbe {
                to, target, alive, ..
            } => {
                let via = Some(name(node));
                let event = Event::ProbeAnswered { target, via, alive };
                if let Some(delay_ms) = self.transit_ms(node, number(&to)) {
                    self.later(delay_ms, number(&to), event);
                }
            }
            Effect::StateChanged { id, to, .. } => {
                self.changes.push((self.now_ms, node, number(&id), to));
            }
            Effect::FetchRing { .. } | Effect::Outdated { .. } => {
                unreachable!("nobody has a newer ring or a copy of a directory")
            }
        }
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Membership)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(number, node)| node.as_ref().map(|node| (number, node)))
    }

    /// Asserts that every running node thinks this of every node that the condition names.
    fn assert_all_think(&self, of: impl Fn(usize) -> bool, state: MemberState) {
        for (observer, membership) in self.running() {
            for subject in (0..self.nodes.len()).filter(|subject| of(*subject)) {
                if subject != observer {
                    let thought = membership.state_of(&name(subject));
                    assert_eq!(thought, Some(state), "{observer} of {subject}");
                }
            }
        }
    }
}

#[test]
fn a_death_reaches_everybody_and_so_does_the_return() {
    for size in [2, 3, 30] {
        let mut cluster = Cluster::new(size, size as u64, 5);
        cluster.run(20_000);
        assert_eq!(cluster.changes, [], "nothing has happened yet");
        cluster.stop(1);
        let (stopped_ms, rounds_ms) = (cluster.now_ms, 10 * cluster.config.gossip_interval_ms);
        cluster.run(cluster.config.dead_after_ms + rounds_ms);
        cluster.assert_all_think(|subject| subject == 1, MemberState::Dead);
        cluster.assert_all_think(|subject| subject != 1, MemberState::Alive);
        for (at_ms, _, subject, state) in &cluster.changes {
            assert_eq!(*subject, 1, "only of the dead one: {state:?}");
            let earliest_ms = match state {
                MemberState::Alive => panic!("it is not"),
                MemberState::Suspected => cluster.config.suspect_after_ms,
                MemberState::Dead => cluster.config.dead_after_ms,
            };
            // The last heartbeat may have been said a round before the end.
            assert!(at_ms - stopped_ms + 2 * cluster.config.gossip_interval_ms >= earliest_ms);
        }
        cluster.start(1, 2);
        cluster.run(rounds_ms);
        cluster.assert_all_think(|_| true, MemberState::Alive);
    }
}

#[test]
fn nobody_is_suspected_falsely_while_messages_are_lost() {
    for (size, time_ms) in [(3, 3_600_000), (30, 1_200_000)] {
        let mut cluster = Cluster::new(size, 11, 5);
        cluster.run(time_ms);
        assert_eq!(cluster.changes, [], "{size} members");
    }
}

#[test]
fn gossip_flows_around_a_bad_link() {
    for size in [3, 5, 30] {
        let mut cluster = Cluster::new(size, 5, 0);
        cluster.cut_links.insert((0, 1));
        cluster.run(300_000);
        assert_eq!(cluster.changes, [], "{size} members");
        assert_eq!(cluster.probes_sent, 0);
    }
}

#[test]
fn probes_through_others_save_a_node_behind_a_bad_link() {
    for probe_through in [0, 1, 3] {
        // With room for no third party in a message, node 0 hears of node 1 by probes alone.
        let config = MembershipConfig {
            message_entries_max: 2,
            probe_through,
            ..MembershipConfig::default()
        };
        let mut cluster = Cluster::with_config(config, 5, 5, 0);
        cluster.cut_links.insert((0, 1));
        cluster.run(300_000);
        assert!(cluster.probes_sent > 0);
        assert_eq!(
            cluster.changes.is_empty(),
            probe_through > 0,
            "{probe_through}"
        );
    }
}

#[test]
fn two_halves_think_each_other_dead_and_find_together_again() {
    for size in [2, 4, 20] {
        let mut cluster = Cluster::new(size, 3, 0);
        cluster.run(20_000);
        for a in 0..size / 2 {
            for b in size / 2..size {
                cluster.cut_links.insert((a, b));
            }
        }
        cluster.run(45_000);
        for (observer, membership) in cluster.running() {
            for subject in (0..size).filter(|subject| *subject != observer) {
                let same_side = (observer < size / 2) == (subject < size / 2);
                let expected = if same_side {
                    MemberState::Alive
                } else {
                    MemberState::Dead
                };
                assert_eq!(membership.state_of(&name(subject)), Some(expected));
            }
        }
        cluster.cut_links.clear();
        cluster.run(30_000);
        cluster.assert_all_think(|_| true, MemberState::Alive);
    }
}

#[test]
fn false_counters_are_overtaken_by_their_owner() {
    let mut cluster = Cluster::new(10, 1, 0);
    cluster.run(20_000);
    let mut lie = cluster.nodes[4].as_ref().unwrap().me().clone();
    lie.heartbeat = 1 << 30;
    lie.state = MemberState::Dead;
    for node in (0..10).filter(|node| *node != 4) {
        let event = Event::GossipReceived {
            from: name(9),
            gossip: Gossip {
                ring_version: RingVersion(0),
                entries: vec![lie.clone()],
            },
            is_reply: true,
        };
        cluster.later(0, node, event);
    }
    cluster.run(60_000);
    assert_eq!(cluster.changes, []);
    assert_eq!(cluster.nodes[4].as_ref().unwrap().me().incarnation, 1);
    cluster.stop(4);
    cluster.run(40_000);
    cluster.assert_all_think(|subject| subject == 4, MemberState::Dead);
}

/// Somebody tells nodes about nodes what cannot be, and what could be, all the time: nobody is ended, nobody is
/// suspected, and the truth comes through as soon as the lies end.
#[test]
fn lies_about_counters_harm_nobody() {
    let mut cluster = Cluster::new(10, 7, 0);
    cluster.run(20_000);
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..600 {
        let (to, about) = (random.usize(0..10), random.usize(0..10));
        let mut lie = cluster.nodes[about].as_ref().unwrap().me().clone();
        let numbers = [0, 1 << 9, 1 << 20, HEARTBEAT_MAX, u64::MAX - 1, u64::MAX];
        lie.incarnation = numbers[random.usize(..numbers.len())];
        lie.heartbeat = numbers[random.usize(..numbers.len())];
        if random.bool() {
            lie.generation = Generation(random.u64(GENERATION_MAX + 1..));
        }
        lie.state = [MemberState::Alive, MemberState::Dead][random.usize(0..2)];
        let from = random.usize(0..10);
        let event = Event::GossipReceived {
            from: name(from),
            gossip: Gossip {
                ring_version: RingVersion(0),
                entries: vec![lie],
            },
            // In the place of a member that was called only that member answers.
            is_reply: from != about && random.bool(),
        };
        cluster.later(0, to, event);
        cluster.run(100);
    }
    cluster.run(60_000);
    assert_eq!(cluster.changes, []);
    for (_, membership) in cluster.running() {
        for member in membership.members() {
            assert_eq!(member.generation, Generation(1), "of {}", member.id);
        }
    }
    cluster.probes_sent = 0;
    cluster.run(60_000);
    assert_eq!(cluster.probes_sent, 0, "all counters are believed again");
}

#[test]
fn members_that_hear_of_each_other_need_no_probes() {
    for size in [10, 100] {
        let mut cluster = Cluster::new(size, 2, 0);
        cluster.run(30_000);
        assert_eq!(cluster.probes_sent, 0, "{size} members");
        assert_eq!(cluster.changes, [], "{size} members");
    }
}
