//! The coordinator's side of links to other nodes: dialled as needed, written once per turn.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::NodeId;
use dynakv_protocol::frame::{BatchWriter, Header};
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::handshake::Hello;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::limits::FRAME_BYTES_MAX;
use dynakv_protocol::message::kind;
use tokio::time::Instant;

use crate::engine::operation::Lost;
use crate::engine::placement::preference::{NodeSlot, Preference, Reach, SELF};
use crate::engine::placement::ring::{MemberIndex, Ring};
use crate::runtime::net::frame_reader::Intake;
use crate::runtime::net::link::{self, Target};
use crate::runtime::shared::environment::Network;
use crate::runtime::shared::events::{CoordinatorSender, Epoch};
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::ledger::{Charge, Kind};
use crate::runtime::shared::outbox::Outbox;
use crate::runtime::shared::unreachable::Unreachable;
use crate::runtime::shared::view::{MemberView, View};

use self::node::{Node, State};

mod node;

/// The first pause before a link is dialled again; doubled up to the longest, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A link that is silent for this long is asked whether it lives. A ping is answered by whoever holds the
/// connection, however long the node's queues are.
const PING_AFTER: Duration = Duration::from_millis(500);

/// A link that is silent for this long although it was asked is given up.
const SILENT_MAX: Duration = Duration::from_secs(8);

/// The most bytes that wait for one link. What is over it counts as a failure of that node: a replica
/// that can't keep up must not take this node's memory.
const LINK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The most that one look at the links counts for. A longer gap is this process's own: what came meanwhile
/// has not been read yet.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// Request ids below this belong to the link itself.
const PING_REQUEST: u64 = 0;

/// How links are made.
pub struct Dialer {
    /// The network.
    pub network: Arc<dyn Network>,
    /// Who this node says it is; the cluster id is filled in from the view.
    pub hello: Hello,
    /// Into what answers are taken.
    pub intake: Intake,
    /// Where news goes.
    pub events: CoordinatorSender,
    /// What was seen of the nodes.
    pub seen: Arc<KnownProcesses>,
    /// Hears who cannot be spoken to.
    pub unreachable: Arc<Unreachable>,
}

/// All nodes this process has known, and the links to them.
pub struct Links {
    dialer: Dialer,
    random: fastrand::Rng,
    /// By slot; slot 0 is this node itself and has no link.
    nodes: Vec<Node>,
    /// By the ring's member index.
    members: Vec<NodeSlot>,
    dirty: Vec<NodeSlot>,
    ticked_at: Instant,
}

impl Links {
    /// Begins with nobody but this node.
    pub fn new(dialer: Dialer, me: NodeId, random: fastrand::Rng) -> Self {
        let mut links = Self {
            dialer,
            random,
            nodes: Vec::new(),
            members: Vec::new(),
            dirty: Vec::new(),
            ticked_at: Instant::now(),
        };
        links.add(me, String::new());
        links
    }

    fn add(&mut self, id: NodeId, address: String) -> NodeSlot {
        let ledger = self.dialer.intake.ledger.clone();
        // Rings hold at most 1,024 members, and names are never reused for another node.
        let slot = NodeSlot(self.nodes.len() as u16);
        self.nodes.push(Node {
            id,
            address,
            state: MemberState::Alive,
            disk_hangs: false,
            is_unreachable: false,
            link: State::Down {
                retry_at: Instant::now(),
                backoff: BACKOFF_FIRST,
            },
            epoch: 0,
            staged: BytesMut::new(),
            batch: BatchWriter::default(),
            is_dirty: false,
            charge: Charge::new(ledger, Kind::NodeRequests, 0),
        });
        slot
    }

    /// Follows a new view: who the members are, where they are, who is alive. Gives those whose disk hangs
    /// since.
    pub fn follow(&mut self, view: &View) -> Vec<NodeSlot> {
        if let Some(peer) = &mut self.dialer.hello.peer {
            peer.cluster_id = view.cluster_id;
        }
        let mut hanging = Vec::new();
        self.members.clear();
        for member in &view.members {
            let slot = self.follow_member(member);
            self.members.push(slot);
            let node = &mut self.nodes[usize::from(slot.0)];
            let hung = std::mem::replace(&mut node.disk_hangs, member.disk_hangs);
            if slot != SELF && member.disk_hangs && !hung {
                hanging.push(slot);
            }
        }
        hanging
    }

    fn follow_member(&mut self, member: &MemberView) -> NodeSlot {
        let known = self.nodes.iter().position(|node| node.id == member.id);
        let slot = match known {
            Some(at) => NodeSlot(at as u16),
            None => self.add(member.id.clone(), member.address.clone()),
        };
        let node = &mut self.nodes[usize::from(slot.0)];
        let came_back = node.state != MemberState::Alive && member.state == MemberState::Alive;
        node.state = member.state;
        if node.address != member.address || came_back {
            node.address.clone_from(&member.address);
            if let State::Down { retry_at, .. } = &mut node.link {
                *retry_at = Instant::now();
            }
        }
        slot
    }

    /// The owners of a segment, as slots.
    pub fn preference(&self, ring: &Ring, segment: Segment) -> Preference {
        let owners = ring.owners(segment).iter();
        let owners = owners.map(|&owner| self.slot_of(owner));
        Preference::joint(owners, ring.sides(segment))
    }

    /// The slot of a member of the ring.
    pub fn slot_of(&self, member: MemberIndex) -> NodeSlot {
        self.members[usize::from(member.0)]
    }

    /// What is known of the way to a node.
    pub fn reach(&self, slot: NodeSlot) -> Reach {
        let node = &self.nodes[usize::from(slot.0)];
        let connected = match &node.link {
            State::Up { .. } => !node.link.is_silent(),
            State::Dialing { is_doubtful, .. } => !is_doubtful,
            State::Down { .. } => false,
        };
        if connected && node.state == MemberState::Alive && !node.disk_hangs {
            Reach::Usable
        } else {
            Reach::Doubtful
        }
    }

    /// The name of a node.
    pub fn id(&self, slot: NodeSlot) -> &NodeId {
        &self.nodes[usize::from(slot.0)].id
    }

    /// How many links stand.
    pub fn up(&self) -> usize {
        let is_up = |node: &&Node| matches!(node.link, State::Up { .. });
        self.nodes.iter().filter(is_up).count()
    }

    /// Stages a request; a link that is down is dialled at once. False when so much waits already, or it is
    /// so large, that it must count as failed, and for a node that is silent.
    #[must_use]
    pub fn send(
        &mut self,
        slot: NodeSlot,
        header: Header,
        body: impl FnOnce(&mut BytesMut),
    ) -> bool {
        self.dial_if_down(slot);
        let node = &mut self.nodes[usize::from(slot.0)];
        if node.link.is_silent() {
            return false;
        }
        let waiting = match &node.link {
            State::Up { outbox, .. } => outbox.bytes_waiting(),
            State::Dialing { .. } | State::Down { .. } => 0,
        };
        // For all links together, too: what waits for dials is as long as those that are down are many.
        let ledger = &self.dialer.intake.ledger;
        let is_full = ledger.is_full(Kind::NodeRequests) && waiting + node.staged.len() > 0;
        if is_full || waiting + node.staged.len() > LINK_BYTES_MAX {
            return false;
        }
        let staged = &mut node.staged;
        if !node.batch.try_push(staged, header, FRAME_BYTES_MAX, body) {
            // It would end the link, and all that waits for it.
            tracing::warn!(
                node = %node.id, kind = header.kind,
                "the versions of a key do not fit into a frame: reconcile its siblings"
            );
            return false;
        }
        if !node.is_dirty {
            node.is_dirty = true;
            self.dirty.push(slot);
        }
        true
    }

    /// Whether a node is being dialled, which begins with this if it is due, and may soon be spoken to.
    pub fn is_dialled(&mut self, slot: NodeSlot) -> bool {
        self.dial_if_down(slot);
        let link = &self.nodes[usize::from(slot.0)].link;
        matches!(link, State::Dialing { .. }) && !link.is_silent()
    }

    /// How long after it was welcomed by a node that was, in milliseconds; 0 if it was before, or there is no link. By this
    /// clock what is handed on says when it was sent.
    pub fn since_welcome_ms(&self, slot: NodeSlot, when: Instant) -> u64 {
        let since = match &self.nodes[usize::from(slot.0)].link {
            State::Up { since, .. } => *since,
            State::Dialing { .. } | State::Down { .. } => return 0,
        };
        let after = when.saturating_duration_since(since);
        u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
    }

    fn dial_if_down(&mut self, slot: NodeSlot) {
        let node = &mut self.nodes[usize::from(slot.0)];
        let State::Down { backoff, .. } = node.link else {
            return;
        };
        node.epoch += 1;
        node.link = State::Dialing {
            backoff,
            is_doubtful: backoff > BACKOFF_FIRST,
            lasts: Duration::ZERO,
        };
        let target = Target {
            node_id: node.id.clone(),
            address: node.address.clone(),
            hello: self.dialer.hello.clone(),
            seen: self.dialer.seen.clone(),
            intake: self.dialer.intake.clone(),
        };
        let (network, events) = (self.dialer.network.clone(), self.dialer.events.clone());
        tokio::spawn(link::run(network, slot, node.epoch, target, events));
    }

    /// A node has called, so it may have been started anew: a link to it that is down is dialled with the next tick.
    pub fn on_called(&mut self, id: &NodeId) {
        let called = self.nodes.iter_mut().find(|node| node.id == *id);
        if let Some(State::Down { retry_at, .. }) = called.map(|node| &mut node.link) {
            *retry_at = Instant::now();
        }
    }

    /// A dial has succeeded. False when it was not the present one.
    pub fn on_up(
        &mut self,
        slot: NodeSlot,
        epoch: Epoch,
        outbox: Arc<Outbox>,
        since: Instant,
    ) -> bool {
        let node = &mut self.nodes[usize::from(slot.0)];
        if node.epoch != epoch {
            outbox.close();
            return false;
        }
        node.link = State::Up {
            outbox,
            since,
            silent_for: Duration::ZERO,
            pinged: false,
        };
        node.note_reach(&self.dialer.unreachable, false);
        tracing::debug!(node = %node.id, address = %node.address, "connected");
        if !node.staged.is_empty() && !node.is_dirty {
            node.is_dirty = true;
            self.dirty.push(slot);
        }
        true
    }

    /// News came over a link. False when it is of an old connection and must be ignored.
    pub fn on_heard(&mut self, slot: NodeSlot, epoch: Epoch) -> bool {
        let node = &mut self.nodes[usize::from(slot.0)];
        if node.epoch != epoch {
            return false;
        }
        if let State::Up {
            silent_for, pinged, ..
        } = &mut node.link
        {
            *silent_for = Duration::ZERO;
            *pinged = false;
            node.note_reach(&self.dialer.unreachable, false);
        }
        true
    }

    /// A dial has failed or a link has ended. Tells when it was the present one: everything for the node
    /// that is not answered has failed.
    pub fn on_down(&mut self, slot: NodeSlot, epoch: Epoch, reason: &str) -> Option<Lost> {
        let jitter = self.random.f64() / 2.0 + 0.75;
        let node = &mut self.nodes[usize::from(slot.0)];
        if node.epoch != epoch {
            return None;
        }
        let lost = match &node.link {
            State::Up { .. } => Lost::WithRequests,
            State::Dialing { .. } | State::Down { .. } => Lost::BeforeAny,
        };
        let backoff = match &node.link {
            State::Up { .. } => {
                tracing::info!(node = %node.id, address = %node.address, reason, "connection lost");
                BACKOFF_FIRST
            }
            State::Dialing { backoff, .. } | State::Down { backoff, .. } => {
                tracing::debug!(node = %node.id, address = %node.address, reason, "can't connect");
                *backoff
            }
        };
        // Its node may live: the dial that follows at once shows it. Until then what needs it fails.
        node.note_reach(&self.dialer.unreachable, true);
        node.epoch += 1;
        node.staged.clear();
        node.charge.resize(0);
        node.batch = BatchWriter::default();
        node.link = State::Down {
            retry_at: Instant::now() + backoff.mul_f64(jitter),
            backoff: (backoff * 2).min(BACKOFF_MAX),
        };
        Some(lost)
    }

    /// Dials what is due and looks after silent links. Returns the nodes for which nothing that waits for
    /// them need wait any longer, and how they are lost: a link that is only in doubt stays, and what comes
    /// over it all the same counts.
    pub fn tick(&mut self, now: Instant) -> Vec<(NodeSlot, Lost)> {
        let passed = now.saturating_duration_since(self.ticked_at).min(LOOK_MAX);
        self.ticked_at = now;
        let mut lost = Vec::new();
        for slot in self.members.clone() {
            if slot == SELF {
                continue;
            }
            let node = &mut self.nodes[usize::from(slot.0)];
            let was_silent = node.link.is_silent();
            match &mut node.link {
                State::Down { retry_at, .. } if *retry_at <= now => self.dial_if_down(slot),
                State::Down { .. } => {}
                State::Dialing { lasts, .. } => {
                    *lasts += passed;
                    if node.link.is_silent() && !was_silent {
                        // It counts as not sent, so it must not be.
                        node.staged.clear();
                        node.charge.resize(0);
                        node.batch = BatchWriter::default();
                        node.note_reach(&self.dialer.unreachable, true);
                        lost.push((slot, Lost::BeforeAny));
                    }
                }
                State::Up {
                    silent_for,
                    pinged,
                    outbox,
                    ..
                } => {
                    *silent_for += passed;
                    let silent_for = *silent_for;
                    let is_due = silent_for > PING_AFTER;
                    let was_pinged = std::mem::replace(pinged, *pinged || is_due);
                    if silent_for > SILENT_MAX {
                        outbox.close();
                        let epoch = node.epoch;
                        let how = self.on_down(slot, epoch, "silent for too long");
                        lost.extend(how.map(|how| (slot, how)));
                    } else if node.link.is_silent() {
                        if !was_silent {
                            tracing::info!(node = %node.id, address = %node.address, "silent");
                            node.note_reach(&self.dialer.unreachable, true);
                            lost.push((slot, Lost::InDoubt));
                        }
                    } else if is_due && !was_pinged {
                        let sent = self.send(slot, Header::new(kind::PING, PING_REQUEST), |_| {});
                        // A link with that much waiting is not idle.
                        let _ = sent;
                    }
                }
            }
        }
        lost
    }

    /// Hands everything staged to the links' writers. What waits for a dial stays. Gives how many bytes
    /// it was.
    pub fn flush(&mut self) -> usize {
        let mut bytes = 0;
        for slot in self.dirty.drain(..) {
            let node = &mut self.nodes[usize::from(slot.0)];
            node.is_dirty = false;
            match &node.link {
                State::Up { outbox, .. } => {
                    node.batch.finish(&mut node.staged);
                    bytes += node.staged.len();
                    node.charge.resize(0);
                    outbox.push(node.staged.split().freeze());
                }
                State::Dialing { .. } | State::Down { .. } => {
                    node.charge.resize(node.staged.len());
                }
            }
        }
        bytes
    }

    /// Ends all links.
    pub fn close(&mut self) {
        for node in &mut self.nodes {
            if let State::Up { outbox, .. } = &node.link {
                outbox.close();
            }
        }
    }
}
