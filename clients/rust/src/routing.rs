//! Where a request goes: the client's copy of the ring, and the order in which nodes are asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynakv_protocol::RingVersion;
use dynakv_protocol::client::RingReply;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::placement::Placement;
use tokio::time::Instant;

use crate::node::{DialSettings, Node};

/// A client without a ring asks for one at most this often.
const RING_FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// How many nodes that do not own a key are asked after its owners.
const STAND_INS_MAX: usize = 3;

/// Which owner of a key is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Any of them: a read, which each of them coordinates alike. They share the load.
    AnyOwner,
    /// The first one: a write. Blind ones have to meet each other there.
    FirstOwner,
}

/// All nodes that the client knows, and who owns what.
#[derive(Debug)]
pub(crate) struct Routing {
    settings: Arc<DialSettings>,
    seeds: Vec<Arc<Node>>,
    /// Without it only the seeds are asked, in their order.
    by_ring: bool,
    ring: Mutex<RingState>,
    fetching_ring: AtomicBool,
}

#[derive(Debug, Default)]
struct RingState {
    known: Option<Arc<KnownRing>>,
    fetched_at: Option<Instant>,
}

#[derive(Debug)]
struct KnownRing {
    placement: Placement,
    /// The members' nodes, in the order of the document.
    members: Vec<Arc<Node>>,
}

/// The nodes to ask in one pass, best first.
///
/// Nearly always the first one answers: it is found without making a list of the others.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    routing: &'a Routing,
    segment: Segment,
    access: Access,
    first: Option<Arc<Node>>,
    rest: Option<std::vec::IntoIter<Arc<Node>>>,
}

impl Routing {
    pub(crate) fn new(seeds: &[String], by_ring: bool, settings: DialSettings) -> Self {
        let settings = Arc::new(settings);
        let seeds = seeds.iter().map(|seed| Node::new(seed, &settings));
        Self {
            seeds: seeds.collect(),
            settings,
            by_ring,
            ring: Mutex::default(),
            fetching_ring: AtomicBool::new(false),
        }
    }

    pub(crate) fn seeds(&self) -> &[Arc<Node>] {
        &self.seeds
    }

    /// The node at an address, with the connection that there is to it.
    pub(crate) fn node_at(&self, address: &str) -> Arc<Node> {
        let known = self.ring_state().known.clone();
        let members = known.iter().flat_map(|ring| &ring.members);
        let mut nodes = self.seeds.iter().chain(members);
        let open = nodes.find(|node| node.address() == address);
        open.map_or_else(|| Node::new(address, &self.settings), Arc::clone)
    }

    /// The addresses of the members, or of the seeds while no ring is known.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let known = self.ring_state().known.clone();
        let nodes = known.as_ref().map_or(&self.seeds, |ring| &ring.members);
        nodes.iter().map(|node| node.address().to_owned()).collect()
    }

    /// Begins to go through the nodes for a key.
    pub(crate) fn pass(&self, segment: Segment, access: Access) -> Pass<'_> {
        Pass {
            routing: self,
            segment,
            access,
            first: None,
            rest: None,
        }
    }

    /// The best node to ask when all is well, and whether there are others; `None` when it takes a
    /// closer look.
    fn first_choice(&self, segment: Segment, access: Access) -> Option<(Arc<Node>, bool)> {
        let state = self.ring_state();
        let Some(ring) = &state.known else {
            drop(state);
            let alive = self.seeds.iter().find(|node| node.looks_alive())?;
            return Some((Arc::clone(alive), self.seeds.len() > 1));
        };
        let owners = ring.placement.owners(segment);
        let turn = first_place(access, owners.len());
        let in_turn = owners[turn..].iter().chain(&owners[..turn]);
        let mut nodes = in_turn.map(|owner| &ring.members[owner.slot()]);
        let alive = nodes.find(|node| node.looks_alive())?;
        Some((Arc::clone(alive), ring.members.len() > 1))
    }

    /// Whom to ask for a key: its owners, then the other nodes; those that failed come last.
    fn candidates(&self, segment: Segment, access: Access) -> Vec<Arc<Node>> {
        let ring = self.ring_state().known.clone();
        let mut candidates = Vec::new();
        if let Some(ring) = ring {
            let owners = ring.placement.owners(segment);
            let turn = first_place(access, owners.len());
            let in_turn = owners[turn..].iter().chain(&owners[..turn]);
            candidates.extend(in_turn.map(|owner| Arc::clone(&ring.members[owner.slot()])));
            // Others forward. A few are enough, chosen at random so that no node gets all of them.
            let members = ring.members.len();
            let offset = fastrand::usize(..members.max(1));
            let turned = (0..members).map(|at| (at + offset) % members);
            let stand_ins = turned.filter(|at| !owners.iter().any(|owner| owner.slot() == *at));
            let stand_ins = stand_ins.take(STAND_INS_MAX);
            candidates.extend(stand_ins.map(|at| Arc::clone(&ring.members[at])));
        }
        for seed in &self.seeds {
            if !candidates.iter().any(|node| Arc::ptr_eq(node, seed)) {
                candidates.push(Arc::clone(seed));
            }
        }
        candidates.sort_by_cached_key(|node| !node.looks_alive());
        candidates
    }

    /// Takes over a ring, unless the one at hand is newer.
    pub(crate) fn adopt(&self, ring: &RingReply) {
        let placement = Placement::new(&ring.document);
        let mut state = self.ring_state();
        let before = state.known.clone();
        if let Some(before) = &before
            && before.placement.version() > placement.version()
        {
            return;
        }
        let known = before.iter().flat_map(|ring| &ring.members);
        let known: Vec<_> = self.seeds.iter().chain(known).map(Arc::clone).collect();
        let node_at = |address: &String| {
            let open = known.iter().find(|node| node.address() == address);
            open.map_or_else(|| Node::new(address, &self.settings), Arc::clone)
        };
        state.known = Some(Arc::new(KnownRing {
            placement,
            members: ring.addresses.iter().map(node_at).collect(),
        }));
    }

    /// Fetches the ring from a node that knows a newer one. True when the ring at hand is not the
    /// one that was refused any more.
    pub(crate) async fn refresh(
        &self,
        node: &Arc<Node>,
        newer: Option<RingVersion>,
        deadline: Instant,
    ) -> bool {
        if !self.by_ring {
            return false;
        }
        let version = |state: &RingState| state.known.as_ref().map(|ring| ring.placement.version());
        let before = version(&self.ring_state());
        if newer.is_some() && before >= newer {
            // Another task has fetched it, or it is the node that is behind.
            return false;
        }
        self.fetch(node, deadline).await;
        version(&self.ring_state()) > before
    }

    /// Asks for the ring when there is none yet, now and then.
    pub(crate) async fn fetch_missing(&self, deadline: Instant) {
        if !self.by_ring {
            return;
        }
        {
            let mut state = self.ring_state();
            if state.known.is_some() {
                return;
            }
            let now = Instant::now();
            let recently = |at: Instant| now < at + RING_FETCH_INTERVAL;
            if state.fetched_at.is_some_and(recently) {
                return;
            }
            state.fetched_at = Some(now);
        }
        let alive = self.seeds.iter().find(|node| node.looks_alive());
        if let Some(node) = alive.or(self.seeds.first()) {
            self.fetch(node, deadline).await;
        }
    }

    /// Fetches the ring; when another task is at it already, does nothing.
    async fn fetch(&self, node: &Arc<Node>, deadline: Instant) {
        if self.fetching_ring.swap(true, Ordering::AcqRel) {
            return;
        }
        let _done = ResetOnDrop(&self.fetching_ring);
        // Not having it is no failure: any node forwards.
        let asked = node.call(&Request::Ring, attempt_deadline(deadline, true));
        if let Ok(Response::Ring(ring)) = asked.await {
            self.adopt(&ring);
        }
    }

    fn ring_state(&self) -> MutexGuard<'_, RingState> {
        // Nothing panics while it holds the lock.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The next node to ask, and whether there are others after it.
    pub(crate) fn next(&mut self) -> Option<(Arc<Node>, bool)> {
        if self.first.is_none() && self.rest.is_none() {
            match self.routing.first_choice(self.segment, self.access) {
                Some((node, others)) => {
                    self.first = Some(Arc::clone(&node));
                    return Some((node, others));
                }
                None => self.first = None,
            }
        }
        let rest = match &mut self.rest {
            Some(rest) => rest,
            None => {
                let mut candidates = self.routing.candidates(self.segment, self.access);
                if let Some(asked) = &self.first {
                    candidates.retain(|node| !Arc::ptr_eq(node, asked));
                }
                self.rest.insert(candidates.into_iter())
            }
        };
        let node = rest.next()?;
        Some((node, rest.len() > 0))
    }
}

/// At which place of the preference list to begin.
fn first_place(access: Access, owners: usize) -> usize {
    match access {
        Access::AnyOwner if owners > 1 => fastrand::usize(..owners),
        Access::AnyOwner | Access::FirstOwner => 0,
    }
}

/// When an attempt ends: half of the time left goes to this node while there are others to ask. (One
/// that does not answer at all is found out long before: see [`crate::connection`].)
pub(crate) fn attempt_deadline(deadline: Instant, others: bool) -> Instant {
    if !others {
        return deadline;
    }
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// Lowers a flag again, also when the future that raised it is dropped.
struct ResetOnDrop<'a>(&'a AtomicBool);

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
