//! The client as its user sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::WriteId;
use dynakv_protocol::client::{HealthReply, RingReply, StatsReply, StatusReply};
use dynakv_protocol::message::{Request, Response};
use tokio::time::Instant;

use crate::answer::Fetched;
use crate::builder::{Builder, check_address};
use crate::error::Error;
use crate::execute;
use crate::many::{GetManyRequest, PutManyRequest};
use crate::node::DialSettings;
use crate::node_client::NodeClient;
use crate::request::{DeleteRequest, GetRequest, PutRequest};
use crate::retry::{self, Decision};
use crate::routing::{Access, Routing, attempt_deadline};
use crate::update::{Update, UpdateRequest};

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
    /// Begins a client; give it at least one seed.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) async fn connect(options: Builder, settings: DialSettings) -> Result<Self, Error> {
        let deadline = Instant::now() + options.timeout;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| {
            Error::invalid(format!(
                "the operating system gives no random bytes: {error}"
            ))
        })?;
        let client = Self {
            inner: Arc::new(Inner {
                timeout: options.timeout,
                routing: Routing::new(&options.seeds, options.ring_routing, settings),
                answering: AtomicUsize::new(0),
                writer: u64::from_be_bytes(random),
                writes: AtomicU64::new(0),
            }),
        };
        let routing = client.routing();
        let first_request = if options.ring_routing {
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

    /// Reads a key. Await the request, or set its options first:
    /// `client.get("k").r(1).await?`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> GetRequest {
        GetRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Stores a value. Await the request, or set its options first:
    /// `client.put("k", "v").context(fetched.context).w(3).await?`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        let key = Bytes::copy_from_slice(key.as_ref());
        PutRequest::new(self.clone(), key, value.into())
    }

    /// Deletes a key; deleting an absent one succeeds. Takes the same options as a put, but for a
    /// time to live.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> DeleteRequest {
        DeleteRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Reads a key, has `change` make one value of what is there, and writes it with the read's
    /// context; again, a bounded number of times, while other writers leave siblings beside it. See
    /// [`UpdateRequest`] for what `change` has to hold to.
    ///
    /// ```no_run
    /// # async fn example(client: dynakv_client::Client) -> Result<(), dynakv_client::Error> {
    /// use std::collections::BTreeSet;
    /// use dynakv_client::Update;
    ///
    /// // A set of words, one a line. The union of all siblings loses nobody's word.
    /// let updated = client
    ///     .update("words", |found| {
    ///         let mut words: BTreeSet<String> = found
    ///             .siblings
    ///             .iter()
    ///             .flat_map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned()
    ///                 .lines().map(str::to_owned).collect::<Vec<_>>())
    ///             .collect();
    ///         words.insert("dynamo".to_owned());
    ///         Update::put(words.into_iter().collect::<Vec<_>>().join("\n"))
    ///     })
    ///     .await?;
    /// println!("stored after {} rounds", updated.rounds);
    /// # Ok(()) }
    /// ```
    pub fn update<'f>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(&Fetched) -> Update + Send + 'f,
    ) -> UpdateRequest<'f> {
        UpdateRequest::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), change)
    }

    /// Reads many keys; each has a result of its own, in the order of the keys.
    ///
    /// ```no_run
    /// # async fn example(client: dynakv_client::Client) -> Result<(), dynakv_client::Error> {
    /// let results = client.get_many(["a", "b", "c"]).await?;
    /// for (key, result) in ["a", "b", "c"].iter().zip(results) {
    ///     match result {
    ///         Ok(fetched) => println!("{key}: {} values", fetched.siblings.len()),
    ///         Err(error) => println!("{key}: {error}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> GetManyRequest {
        let keys = keys.into_iter();
        let keys = keys.map(|key| Bytes::copy_from_slice(key.as_ref()));
        GetManyRequest::new(self.clone(), keys.collect())
    }

    /// Stores many values, each with a result of its own, in the order of the pairs. The writes are
    /// blind, and two for the same key may take effect in either order.
    ///
    /// ```no_run
    /// # async fn example(client: dynakv_client::Client) -> Result<(), dynakv_client::Error> {
    /// let pairs = (0..100_000).map(|number| (format!("key-{number}"), "value"));
    /// let results = client.put_many(pairs).timeout(std::time::Duration::from_secs(30)).await?;
    /// let failed = results.iter().filter(|result| result.is_err()).count();
    /// println!("{failed} of {} failed", results.len());
    /// # Ok(()) }
    /// ```
    pub fn put_many<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> PutManyRequest {
        let pairs = pairs.into_iter();
        let pairs = pairs.map(|(key, value)| (Bytes::copy_from_slice(key.as_ref()), value.into()));
        PutManyRequest::new(self.clone(), pairs.collect())
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

    pub(crate) fn next_write_id(&self) -> WriteId {
        let number = self.inner.writes.fetch_add(1, Ordering::Relaxed);
        WriteId::new(self.inner.writer, number)
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    /// Runs a data operation.
    pub(crate) async fn execute<T>(
        &self,
        request: Request,
        access: Access,
        deadline: Instant,
        extract: impl Fn(Response) -> Option<T>,
    ) -> Result<T, Error> {
        execute::execute(self.routing(), request, access, deadline, extract).await
    }

    fn routing(&self) -> &Routing {
        &self.inner.routing
    }
}
