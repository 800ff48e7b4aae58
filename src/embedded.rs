//! Data operations of a program on the node that it runs itself, without a socket.
//!
//! [`LocalClient`] is made like `dynakv_client::Client`: the same operations and options, the same
//! answers and errors, so that code can move from one to the other. A request goes to this one node,
//! which forwards it when it owns no copy of the key; the network client, for its part, asks one node
//! after the other.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::client::{Get, HealthReply, RingReply, StatsReply, StatusReply, Write};
use dynakv_protocol::limits::{KEY_BYTES_MAX, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX, VALUE_BYTES_MAX};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{ErrorCode, WriteId};
use tokio::time::{Instant, sleep_until};

use crate::runtime::net::local::{Local, LocalCause};

pub use dynakv_client::{Conflict, Context, Error, Fetched, FetchedSibling, Written};

/// The pause before the first retry of a request that the node was too busy for; doubled each time.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The longest such pause.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(100);

/// What `.await` on a request runs.
type Sending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Asks the node of this process. Cheap to clone; it may outlive the node, and then says that it ended.
///
/// Many tasks may use it at once. They may have half of the requests and bytes under way that the
/// node's settings allow in all; whoever comes when that is used up waits, within its deadline.
#[derive(Debug, Clone)]
pub struct LocalClient {
    inner: Arc<Inner>,
}

/// What the attempts of one request differ in.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// How long the node may take, in milliseconds.
    timeout_ms: u32,
    /// Whether an attempt before it may have been applied.
    again: bool,
}

#[derive(Debug)]
struct Inner {
    local: Arc<Local>,
    /// Where others reach the node: it stands in errors.
    address: String,
    /// The upper half of its write ids.
    writer: u64,
    writes: AtomicU64,
}

impl LocalClient {
    pub(crate) fn new(local: Arc<Local>, address: String, writer: u64) -> Self {
        let writes = AtomicU64::new(0);
        Self {
            inner: Arc::new(Inner {
                local,
                address,
                writer,
                writes,
            }),
        }
    }

    /// Reads a key. Await the request, or set its options first: `node.get("k").r(1).await?`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> GetRequest {
        GetRequest {
            client: self.clone(),
            timeout: timeout_default(),
            get: Get {
                timeout_ms: 0,
                key: Bytes::copy_from_slice(key.as_ref()),
                r: None,
                repair_first: false,
            },
        }
    }

    /// Stores a value. Await the request, or set its options first:
    /// `node.put("k", "v").context(fetched.context).w(3).await?`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        PutRequest(self.write(key.as_ref(), Some(value.into())))
    }

    /// Deletes a key; deleting an absent one succeeds. Takes the same options as a put, but for a time
    /// to live.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> DeleteRequest {
        DeleteRequest(self.write(key.as_ref(), None))
    }

    /// The node's statistics.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn stats(&self) -> Result<StatsReply, Error> {
        self.ask(&Request::Stats, |response| match response {
            Response::Stats(stats) => Some(stats),
            _ => None,
        })
        .await
    }

    /// Whether the node is ready, and why not.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn health(&self) -> Result<HealthReply, Error> {
        self.ask(&Request::Health, |response| match response {
            Response::Health(health) => Some(health),
            _ => None,
        })
        .await
    }

    /// The cluster as the node sees it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self) -> Result<StatusReply, Error> {
        self.ask(&Request::Status, |response| match response {
            Response::Status(status) => Some(status),
            _ => None,
        })
        .await
    }

    /// The ring as the node knows it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ring(&self) -> Result<RingReply, Error> {
        self.ask(&Request::Ring, |response| match response {
            Response::Ring(ring) => Some(ring),
            _ => None,
        })
        .await
    }

    fn write(&self, key: &[u8], value: Option<Bytes>) -> WriteRequest {
        let number = self.inner.writes.fetch_add(1, Ordering::Relaxed);
        let write_id = WriteId::new(self.inner.writer, number);
        WriteRequest {
            client: self.clone(),
            timeout: timeout_default(),
            ttl: None,
            write: Write {
                timeout_ms: 0,
                write_id,
                key: Bytes::copy_from_slice(key),
                value,
                context: None,
                w: None,
                ttl_ms: None,
                sloppy: false,
                again: false,
                if_no_conflict: false,
                handed_on: None,
            },
        }
    }

    async fn ask<T>(
        &self,
        request: &Request,
        extract: impl Fn(Response) -> Option<T>,
    ) -> Result<T, Error> {
        self.execute(timeout_default(), |_| request.clone(), extract)
            .await
    }

    /// Runs a request; again, while there is time, when the node has too much in hand.
    async fn execute<T>(
        &self,
        timeout: Duration,
        request: impl Fn(Attempt) -> Request,
        extract: impl Fn(Response) -> Option<T>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let deadline = started + timeout;
        let mut pause = BUSY_PAUSE;
        let mut maybe_applied = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = request(Attempt {
                // At most 60 s.
                timeout_ms: (left.as_millis() as u32).max(1),
                again: maybe_applied,
            });
            let error = match self.attempt(&request, started, deadline).await {
                Ok(response) => match extract(response) {
                    Some(answer) => return Ok(answer),
                    None => Error::Protocol {
                        address: self.inner.address.clone(),
                        reason: "an answer to another kind of request".to_owned(),
                        maybe_applied: is_write(&request),
                    },
                },
                Err(error) => error,
            };
            maybe_applied |= error.maybe_applied();
            let is_busy = error.code() == Some(ErrorCode::Overloaded) && error.is_retryable();
            let next = Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if !is_busy || next >= deadline {
                return Err(error.or_maybe_applied(maybe_applied));
            }
            sleep_until(next).await;
            pause = (pause * 2).min(BUSY_PAUSE_MAX);
        }
    }

    async fn attempt(
        &self,
        request: &Request,
        started: Instant,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let is_write = is_write(request);
        let address = || self.inner.address.clone();
        let error = match self.inner.local.call(request, deadline).await {
            Ok(Response::Error(mut reply)) => {
                // Whatever a node says, a read applies nothing.
                reply.maybe_applied &= is_write;
                return Err(Error::from_reply(&self.inner.address, reply));
            }
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let maybe_applied = error.begun && is_write;
        Err(match error.cause {
            LocalCause::Ended(reason) if error.begun => Error::ConnectionLost {
                address: address(),
                reason: reason.into(),
                maybe_applied,
            },
            LocalCause::Ended(reason) => Error::Unreachable {
                address: address(),
                reason: reason.into(),
                maybe_applied,
            },
            LocalCause::TimedOut => Error::Timeout {
                address: address(),
                waited: started.elapsed(),
                maybe_applied,
            },
            LocalCause::Undecodable(error) => Error::Protocol {
                address: address(),
                reason: error.to_string(),
                maybe_applied,
            },
        })
    }
}

/// A read that has not been sent yet: see [`LocalClient::get`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct GetRequest {
    client: LocalClient,
    timeout: Duration,
    get: Get,
}

/// A put that has not been sent yet: see [`LocalClient::put`].
///
/// Its write id is given when it is made: a clone that is sent as well is the same write.
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct PutRequest(WriteRequest);

/// A delete that has not been sent yet: see [`LocalClient::delete`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct DeleteRequest(WriteRequest);

#[derive(Debug, Clone)]
struct WriteRequest {
    client: LocalClient,
    timeout: Duration,
    ttl: Option<Duration>,
    write: Write,
}

impl GetRequest {
    /// How many replicas must answer: 1 to the number of owners; the node's default when not given.
    pub fn r(mut self, r: u8) -> Self {
        self.get.r = Some(r);
        self
    }

    /// How long it may take: 5 s when not given, 60 s at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Mend stale replicas before the answer and not after it.
    pub fn repair_first(mut self) -> Self {
        self.get.repair_first = true;
        self
    }

    /// Sends it. The same as `.await` on the request, without its allocation.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn send(self) -> Result<Fetched, Error> {
        check_key(&self.get.key)?;
        check_timeout(self.timeout)?;
        let request = |attempt: Attempt| {
            Request::Get(Get {
                timeout_ms: attempt.timeout_ms,
                ..self.get.clone()
            })
        };
        let extract = |response| match response {
            Response::Fetched(fetched) => Some(Fetched::from(fetched)),
            _ => None,
        };
        self.client.execute(self.timeout, request, extract).await
    }
}

impl WriteRequest {
    async fn send(mut self) -> Result<Written, Error> {
        check_key(&self.write.key)?;
        check_timeout(self.timeout)?;
        let value_bytes = self.write.value.as_ref().map_or(0, Bytes::len);
        if value_bytes > VALUE_BYTES_MAX {
            return Err(invalid(format!(
                "the value has {value_bytes} bytes, {VALUE_BYTES_MAX} are permitted"
            )));
        }
        if let Some(ttl) = self.ttl {
            self.write.ttl_ms = Some(ttl_ms(ttl)?);
        }
        let is_put = self.write.value.is_some();
        let request = |attempt: Attempt| {
            let write = Write {
                timeout_ms: attempt.timeout_ms,
                again: attempt.again,
                ..self.write.clone()
            };
            if is_put {
                Request::Put(write)
            } else {
                Request::Delete(write)
            }
        };
        let extract = |response| match response {
            Response::Put(written) if is_put => Some(Written::from(written)),
            Response::Deleted(written) if !is_put => Some(Written::from(written)),
            _ => None,
        };
        self.client.execute(self.timeout, request, extract).await
    }
}

macro_rules! write_options {
    ($name:ident) => {
        impl $name {
            /// Replace exactly what the read that gave this context has seen; what was written
            /// meanwhile stays beside it as a sibling. Without a context the write is blind.
            pub fn context(mut self, context: Context) -> Self {
                self.0.write.context = Some(context.as_bytes().clone());
                self
            }

            /// While owners are down, let the next nodes of the ring count in their places: each keeps the
            /// write, durably, until enough owners have it. It is taken where a strict write would be
            /// refused, and reads do not see it until it is handed over.
            pub fn sloppy(mut self) -> Self {
                self.0.write.sloppy = true;
                self
            }

            /// Refuse the write, with [`ErrorCode::Conflict`](dynakv_protocol::ErrorCode::Conflict), where it has no
            /// context and would replace more than one value. When that only shows while it is written,
            /// it stands beside those values and the error says that it may have been applied.
            pub fn if_no_conflict(mut self) -> Self {
                self.0.write.if_no_conflict = true;
                self
            }

            /// How many replicas must have it on disk: 1 to the number of owners; the node's default
            /// when not given.
            pub fn w(mut self, w: u8) -> Self {
                self.0.write.w = Some(w);
                self
            }

            /// How long it may take: 5 s when not given, 60 s at most.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.0.timeout = timeout;
                self
            }

            /// Sends it. The same as `.await` on the request, without its allocation.
            ///
            /// # Errors
            /// [`Error`]; whether the write may have been applied all the same says
            /// [`Error::maybe_applied`].
            pub async fn send(self) -> Result<Written, Error> {
                self.0.send().await
            }
        }

        impl IntoFuture for $name {
            type Output = Result<Written, Error>;
            type IntoFuture = Sending<Written>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.send())
            }
        }
    };
}

write_options!(PutRequest);
write_options!(DeleteRequest);

impl PutRequest {
    /// After how long the value expires: at least 1 ms; rounded up to milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = Some(ttl);
        self
    }
}

impl IntoFuture for GetRequest {
    type Output = Result<Fetched, Error>;
    type IntoFuture = Sending<Fetched>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

fn is_write(request: &Request) -> bool {
    matches!(request, Request::Put(_) | Request::Delete(_))
}

fn timeout_default() -> Duration {
    Duration::from_millis(u64::from(TIMEOUT_MS_DEFAULT))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::Invalid { what: what.into() }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    Err(invalid(format!(
        "the key has {} bytes, 1 to {KEY_BYTES_MAX} are permitted",
        key.len()
    )))
}

fn check_timeout(timeout: Duration) -> Result<(), Error> {
    let max = Duration::from_millis(u64::from(TIMEOUT_MS_MAX));
    if timeout.is_zero() || timeout > max {
        return Err(invalid(format!(
            "a timeout of {timeout:?} is out of range: more than 0 and at most {max:?} are permitted"
        )));
    }
    Ok(())
}

fn ttl_ms(ttl: Duration) -> Result<u64, Error> {
    if ttl.is_zero() {
        return Err(invalid("a time to live of 0 would expire at once"));
    }
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000))
        .map_err(|_| invalid("the time to live is too long"))
}
