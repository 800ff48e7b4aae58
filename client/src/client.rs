//! The client: which node a request goes to, and where it goes next when that one fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::client::{HealthReply, RingReply, StatsReply, StatusReply};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::placement::Placement;
use dynakv_protocol::{RingVersion, WriteId};
use tokio::time::{Instant, sleep_until};

use crate::builder::Builder;
use crate::error::Error;
use crate::node::{DialSettings, Node};
use crate::request::{DeleteRequest, GetRequest, PutRequest};
use crate::retry::{self, Decision};

/// How long before the client's own deadline a coordinator has to give up, so that its answer (which
/// says more than silence) still arrives. At most this, and at most a tenth of the time left.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// A client without a ring asks for one at most this often.
const RING_FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// How many nodes that do not own a key are asked after its owners.
const STAND_INS_MAX: usize = 3;

/// A connection to a cluster. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Builder,
    settings: Arc<DialSettings>,
    seeds: Vec<Arc<Node>>,
    ring: Mutex<RingState>,
    fetching_ring: AtomicBool,
    /// From the operating system, so that two clients never give the same write ids.
    first_write_id: u128,
    writes: AtomicU64,
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

impl Client {
    /// Begins a client; give it at least one seed.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) async fn connect(
        options: Builder,
        settings: Arc<DialSettings>,
    ) -> Result<Self, Error> {
        let seeds = options.seeds.iter();
        let seeds = seeds.map(|seed| Node::new(seed, &settings)).collect();
        let deadline = Instant::now() + options.timeout;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            Error::invalid(format!(
                "the operating system gives no random bytes: {error}"
            ))
        })?;
        let client = Self {
            inner: Arc::new(Inner {
                options,
                settings,
                seeds,
                ring: Mutex::default(),
                fetching_ring: AtomicBool::new(false),
                first_write_id: u128::from_be_bytes(random),
                writes: AtomicU64::new(0),
            }),
        };
        let mut failure = None;
        for (index, node) in client.inner.seeds.iter().enumerate() {
            let left = client.inner.seeds.len() - index - 1;
            let attempt = attempt_deadline(deadline, left);
            let first_request = if client.inner.options.ring_routing {
                Request::Ring
            } else {
                Request::Ping
            };
            match node.call(&first_request, attempt).await {
                Ok(Response::Ring(ring)) => client.inner.adopt(&ring),
                Ok(_) => {}
                // It answers, though it has no ring to show yet.
                Err(error) if retry::decide(&error) == Decision::BackOff => {}
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            }
            return Ok(client);
        }
        Err(failure.unwrap_or_else(|| Error::invalid("a client needs at least one seed")))
    }

    /// Reads a key. Await the request, or set its options first:
    /// `client.get("k").r(1).await?`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> GetRequest {
        GetRequest::new(self.clone(), key.as_ref())
    }

    /// Stores a value. Await the request, or set its options first:
    /// `client.put("k", "v").context(fetched.context).w(3).await?`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        PutRequest::new(self.clone(), key.as_ref(), value.into())
    }

    /// Deletes a key; deleting an absent one succeeds. Takes the same options as a put, but for a
    /// time to live.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> DeleteRequest {
        DeleteRequest::new(self.clone(), key.as_ref())
    }

    /// The statistics of the first seed.
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place.
    pub async fn stats(&self) -> Result<StatsReply, Error> {
        self.ask_first_seed(&Request::Stats, |response| match response {
            Response::Stats(stats) => Some(stats),
            _ => None,
        })
        .await
    }

    /// Whether the first seed is ready.
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place.
    pub async fn health(&self) -> Result<HealthReply, Error> {
        self.ask_first_seed(&Request::Health, |response| match response {
            Response::Health(health) => Some(health),
            _ => None,
        })
        .await
    }

    /// The cluster as the first seed sees it.
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place.
    pub async fn status(&self) -> Result<StatusReply, Error> {
        self.ask_first_seed(&Request::Status, |response| match response {
            Response::Status(status) => Some(status),
            _ => None,
        })
        .await
    }

    /// The ring as the first seed knows it.
    ///
    /// # Errors
    /// [`Error`]; no other node is asked in its place.
    pub async fn ring(&self) -> Result<RingReply, Error> {
        self.ask_first_seed(&Request::Ring, |response| match response {
            Response::Ring(ring) => Some(ring),
            _ => None,
        })
        .await
    }

    pub(crate) fn next_write_id(&self) -> WriteId {
        let number = self.inner.writes.fetch_add(1, Ordering::Relaxed);
        WriteId(self.inner.first_write_id.wrapping_add(u128::from(number)))
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.options.timeout
    }

    pub(crate) async fn ask_first_seed<T>(
        &self,
        request: &Request,
        extract: impl FnOnce(Response) -> Option<T>,
    ) -> Result<T, Error> {
        let Some(node) = self.inner.seeds.first() else {
            return Err(Error::invalid("a client needs at least one seed"));
        };
        let response = node.call(request, Instant::now() + self.timeout()).await?;
        extract(response).ok_or_else(|| unexpected(node, false))
    }

    /// Runs a data operation: asks the owners of the key, then whoever else there is, until one
    /// answers or the time is up.
    pub(crate) async fn execute<T>(
        &self,
        key: &[u8],
        timeout: Duration,
        request: impl Fn(u32) -> Request,
        extract: impl Fn(Response) -> Option<T>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let deadline = started + timeout;
        self.inner.fetch_missing_ring(deadline).await;
        let mut maybe_applied = false;
        let mut failure: Option<Error> = None;
        for pass in 0..retry::PASSES_MAX {
            let candidates = self.inner.candidates(key);
            let mut begin_again = None;
            for (index, node) in candidates.iter().enumerate() {
                let attempt = attempt_deadline(deadline, candidates.len() - index - 1);
                let request = request(coordinator_timeout_ms(attempt));
                let error = match node.call(&request, attempt).await {
                    Ok(response) => match extract(response) {
                        Some(answer) => return Ok(answer),
                        None => unexpected(node, !matches!(request, Request::Get(_))),
                    },
                    Err(error) => error,
                };
                maybe_applied |= error.maybe_applied();
                let decision = retry::decide(&error);
                let newer = newer_ring(&error);
                // What a node said is worth more to the caller than a connection that failed later.
                if error.is_answer() || !failure.as_ref().is_some_and(Error::is_answer) {
                    failure = Some(error);
                }
                match decision {
                    Decision::GiveUp => return Err(finish(failure, maybe_applied, started)),
                    Decision::NextNode => {}
                    Decision::BackOff => begin_again = Some(retry::backoff(pass)),
                    Decision::RefreshRing => {
                        begin_again = Some(retry::backoff(pass));
                        if self.inner.refresh_ring(node, newer, deadline).await {
                            begin_again = Some(Duration::ZERO);
                            break;
                        }
                    }
                }
                if Instant::now() >= deadline {
                    return Err(finish(failure, maybe_applied, started));
                }
            }
            let Some(pause) = begin_again else { break };
            let next = Instant::now() + pause;
            if pass + 1 == retry::PASSES_MAX || next >= deadline {
                break;
            }
            sleep_until(next).await;
        }
        Err(finish(failure, maybe_applied, started))
    }
}

impl Inner {
    /// Whom to ask for a key: its owners, then the other nodes; those that just failed to connect
    /// come last.
    fn candidates(&self, key: &[u8]) -> Vec<Arc<Node>> {
        let ring = self.ring_state().known.clone();
        let Some(ring) = ring else {
            let mut seeds = self.seeds.clone();
            seeds.sort_by_key(|node| !node.looks_alive());
            return seeds;
        };
        let owners = ring.placement.owners_of_key(key);
        let owning = owners.iter().map(|owner| &ring.members[owner.slot()]);
        let mut candidates: Vec<_> = owning.map(Arc::clone).collect();
        // Others forward. A few are enough, chosen at random so that no node gets all of them.
        let others = ring.members.len() - candidates.len();
        let offset = fastrand::usize(..ring.members.len().max(1));
        let turned = (0..ring.members.len()).map(|at| (at + offset) % ring.members.len());
        let stand_ins = turned.filter(|at| !owners.iter().any(|owner| owner.slot() == *at));
        candidates.extend(
            stand_ins
                .take(others.min(STAND_INS_MAX))
                .map(|at| Arc::clone(&ring.members[at])),
        );
        for seed in &self.seeds {
            if !candidates
                .iter()
                .any(|node| node.address() == seed.address())
            {
                candidates.push(Arc::clone(seed));
            }
        }
        candidates.sort_by_key(|node| !node.looks_alive());
        candidates
    }

    /// Takes over a ring, unless the one at hand is newer.
    fn adopt(&self, ring: &RingReply) {
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
    async fn refresh_ring(
        &self,
        node: &Arc<Node>,
        newer: Option<RingVersion>,
        deadline: Instant,
    ) -> bool {
        if !self.options.ring_routing {
            return false;
        }
        let version = |state: &RingState| state.known.as_ref().map(|ring| ring.placement.version());
        let before = version(&self.ring_state());
        if newer.is_some() && before >= newer {
            // Another task has fetched it, or it is the node that is behind.
            return false;
        }
        self.fetch_ring(node, deadline).await;
        version(&self.ring_state()) > before
    }

    async fn fetch_missing_ring(&self, deadline: Instant) {
        if !self.options.ring_routing {
            return;
        }
        {
            let mut state = self.ring_state();
            let now = Instant::now();
            let recently = |at: Instant| now < at + RING_FETCH_INTERVAL;
            if state.known.is_some() || state.fetched_at.is_some_and(recently) {
                return;
            }
            state.fetched_at = Some(now);
        }
        let alive = self.seeds.iter().find(|node| node.looks_alive());
        if let Some(node) = alive.or(self.seeds.first()) {
            self.fetch_ring(node, deadline).await;
        }
    }

    /// Fetches the ring; when another task is at it already, does nothing.
    async fn fetch_ring(&self, node: &Arc<Node>, deadline: Instant) {
        if self.fetching_ring.swap(true, Ordering::AcqRel) {
            return;
        }
        let _done = ResetOnDrop(&self.fetching_ring);
        // Not having it is no failure: any node forwards.
        if let Ok(Response::Ring(ring)) = node
            .call(&Request::Ring, attempt_deadline(deadline, 1))
            .await
        {
            self.adopt(&ring);
        }
    }

    fn ring_state(&self) -> MutexGuard<'_, RingState> {
        // Nothing panics while it holds the lock.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lowers a flag again, also when the future that raised it is dropped.
struct ResetOnDrop<'a>(&'a AtomicBool);

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// When an attempt ends: half of the time left goes to this node while there are others to ask.
fn attempt_deadline(deadline: Instant, others: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    if others == 0 {
        deadline
    } else {
        now + left / 2
    }
}

/// What the coordinator is told.
fn coordinator_timeout_ms(attempt: Instant) -> u32 {
    let left = attempt.saturating_duration_since(Instant::now());
    let for_it = left - ANSWER_MARGIN.min(left / 10);
    u32::try_from(for_it.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn newer_ring(error: &Error) -> Option<RingVersion> {
    match error {
        Error::Refused { reply, .. } => reply.ring_version,
        Error::Invalid { .. }
        | Error::Unreachable { .. }
        | Error::ConnectionLost { .. }
        | Error::Protocol { .. }
        | Error::Timeout { .. }
        | Error::QuorumUnavailable { .. } => None,
    }
}

fn unexpected(node: &Node, maybe_applied: bool) -> Error {
    Error::Protocol {
        address: node.address().to_owned(),
        reason: "an answer to another kind of request".to_owned(),
        maybe_applied,
    }
}

/// The error for the caller: the whole wait counts, and every attempt.
fn finish(failure: Option<Error>, maybe_applied: bool, started: Instant) -> Error {
    let failure = failure.unwrap_or_else(|| Error::invalid("there is no node to ask"));
    let failure = match failure {
        Error::Timeout { address, .. } => Error::Timeout {
            address,
            waited: started.elapsed(),
            maybe_applied,
        },
        other => other,
    };
    failure.or_maybe_applied(maybe_applied)
}
