//! The client as its user sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dynakv_protocol::WriteId;
use dynakv_protocol::client::{HealthReply, RingReply, StatsReply, StatusReply};
use dynakv_protocol::message::{Request, Response};
use tokio::time::Instant;

use crate::checks::check_address;
use crate::error::Error;
use crate::execute;
use crate::node::DialSettings;
use crate::node_client::NodeClient;
use crate::retry::{self, Decision};
use crate::routing::{Routing, attempt_deadline};
use crate::transport::Transport;

/// A connection to a cluster. Cheap to clone; all clones share the connections.
///
/// Every method may be called from any number of tasks at once, and every future may be dropped at any
/// time: a request that was sent may then still be carried out.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    timeout: Duration,
    routing: Routing,
    /// Which seed has answered last of those that were asked about themselves: the first, until it does not.
    answering: AtomicUsize,
    /// The upper half of all write ids: from the operating system, so that no two clients have the same.
    writer: u64,
    writes: AtomicU64,
}

impl Client {
    pub(crate) async fn connect(
        timeout: Duration,
        seeds: &[String],
        ring_routing: bool,
        settings: DialSettings,
    ) -> Result<Self, Error> {
        let deadline = Instant::now() + timeout;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| {
            Error::invalid(format!(
                "the operating system gives no random bytes: {error}"
            ))
        })?;
        let client = Self {
            inner: Arc::new(Inner {
                timeout,
                routing: Routing::new(seeds, ring_routing, settings),
                answering: AtomicUsize::new(0),
                writer: u64::from_be_bytes(random),
                writes: AtomicU64::new(0),
            }),
        };
        let routing = client.routing();
        let first_request = if ring_routing {
            Request::Ring
        } else {
            Request::Ping
        };
        let mut failures = Vec::new();
        for (index, node) in routing.seeds().iter().enumerate() {
            let others = index + 1 < routing.seeds().len();
            let attempt = attempt_deadline(deadline, others);
            match node.call(&first_request, attempt).await {
                Ok(Response::Ring(ring)) => routing.adopt(&ring),
                Ok(_) => {}
                // It answers, though it has no ring to show yet.
                Err(error) if retry::decide(&error) == Decision::BackOff => {}
                Err(error) => {
                    failures.push(error);
                    continue;
                }
            }
            client.inner.answering.store(index, Ordering::Relaxed);
            return Ok(client);
        }
        Err(Error::of_all(failures))
    }

    /// One node of the cluster, for the questions that only it can answer. An address that is no
    /// member's is dialled all the same, and refused when it belongs to another cluster.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless it is of the form `HOST:PORT`.
    pub fn node(&self, address: &str) -> Result<NodeClient, Error> {
        check_address(address).map_err(|error| Error::invalid(error.to_string()))?;
        let node = self.routing().node_at(address);
        Ok(NodeClient::new(node, self.inner.timeout))
    }

    /// The addresses of the members by the ring this client has at hand; of the seeds without one.
    pub fn node_addresses(&self) -> Vec<String> {
        self.routing().addresses()
    }

    /// The statistics of a seed: of the one that has answered so far, and of the next while it does not.
    /// [`node`](Self::node) asks a certain node.
    ///
    /// # Errors
    /// [`Error`], when no seed answers within the client's timeout, which they share.
    pub async fn stats(&self) -> Result<StatsReply, Error> {
        self.ask_a_seed(async |seed| seed.stats().await).await
    }

    /// Whether a seed is ready: the one that has answered so far, or the next while it does not.
    ///
    /// # Errors
    /// [`Error`], when no seed answers within the client's timeout, which they share.
    pub async fn health(&self) -> Result<HealthReply, Error> {
        self.ask_a_seed(async |seed| seed.health().await).await
    }

    /// The cluster as a seed sees it: the one that has answered so far, or the next while it does not.
    ///
    /// # Errors
    /// [`Error`], when no seed answers within the client's timeout, which they share.
    pub async fn status(&self) -> Result<StatusReply, Error> {
        self.ask_a_seed(async |seed| seed.status().await).await
    }

    /// The ring as a seed knows it: the one that has answered so far, or the next while it does not.
    ///
    /// # Errors
    /// [`Error`], when no seed answers within the client's timeout, which they share.
    pub async fn ring(&self) -> Result<RingReply, Error> {
        self.ask_a_seed(async |seed| seed.ring().await).await
    }

    /// The address of the seed that answers for the cluster: the one that has answered so far.
    pub fn asked_address(&self) -> &str {
        let seeds = self.routing().seeds();
        let asked = seeds.get(self.inner.answering.load(Ordering::Relaxed));
        asked.map_or("", |seed| seed.address())
    }

    /// That seed, for questions of which several have to go to the same node.
    pub(crate) fn answering_seed(&self) -> Result<NodeClient, Error> {
        let seeds = self.routing().seeds();
        let seed = seeds.get(self.inner.answering.load(Ordering::Relaxed));
        let seed = seed.ok_or_else(|| Error::invalid("a client needs at least one seed"))?;
        Ok(NodeClient::new(Arc::clone(seed), self.inner.timeout))
    }

    /// Asks the seed that has answered so far, then the others in their order, until one answers. Which one did
    /// is remembered.
    async fn ask_a_seed<T>(
        &self,
        ask: impl AsyncFn(NodeClient) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + self.inner.timeout;
        let seeds = self.routing().seeds();
        let first = self.inner.answering.load(Ordering::Relaxed);
        let others = (0..seeds.len()).filter(|index| *index != first);
        let mut failures = Vec::new();
        for (turn, index) in std::iter::once(first).chain(others).enumerate() {
            let Some(seed) = seeds.get(index) else {
                continue;
            };
            let attempt = attempt_deadline(deadline, turn + 1 < seeds.len());
            let time = attempt.saturating_duration_since(Instant::now());
            match ask(NodeClient::new(Arc::clone(seed), time)).await {
                Ok(answer) => {
                    self.inner.answering.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if retry::decide(&error) == Decision::GiveUp => return Err(error),
                Err(error) => failures.push(error),
            }
        }
        Err(Error::of_all(failures))
    }

    fn routing(&self) -> &Routing {
        &self.inner.routing
    }
}

/// Over the network, to one node after the other: [`retry`] has the table.
impl Transport for Client {
    fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    fn next_write_id(&self) -> WriteId {
        let number = self.inner.writes.fetch_add(1, Ordering::Relaxed);
        WriteId::new(self.inner.writer, number)
    }

    fn execute<A>(
        &self,
        request: Request,
        deadline: Instant,
        extract: impl Fn(Response) -> Option<A> + Send,
    ) -> impl Future<Output = Result<A, Error>> + Send {
        execute::execute(self.routing(), request, deadline, extract)
    }
}
