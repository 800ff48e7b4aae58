//! Operations with options: made by the methods of a client, sent by `.await` over its [`Transport`].

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::client::{Get, Write};
use dynakv_protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use dynakv_protocol::message::{Request, Response};
use tokio::time::Instant;

use crate::answer::{Context, Fetched, Written};
use crate::checks::check_timeout;
use crate::client::Client;
use crate::error::Error;
use crate::transport::Transport;

/// What `.await` on a request runs.
pub(crate) type Sending<'f, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'f>>;

/// A read that has not been sent yet: see [`Client::get`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct GetRequest<T = Client> {
    client: T,
    timeout: Duration,
    get: Get,
}

/// A put that has not been sent yet: see [`Client::put`].
///
/// Its write id is given when it is made: a clone that is sent as well is the same write. Send the writes of a
/// key in the order in which you made them: their ids say which of two came first.
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct PutRequest<T = Client>(WriteRequest<T>);

/// A delete that has not been sent yet: see [`Client::delete`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct DeleteRequest<T = Client>(WriteRequest<T>);

#[derive(Debug, Clone)]
pub(crate) struct WriteRequest<T> {
    client: T,
    timeout: Duration,
    ttl: Option<Duration>,
    write: Write,
}

impl<T: Transport> GetRequest<T> {
    /// A read of this key over any transport; [`Client::get`] is the one over the network.
    pub fn new(client: T, key: Bytes) -> Self {
        let timeout = client.timeout();
        let get = Get {
            timeout_ms: 0,
            key,
            r: None,
            repair_first: false,
        };
        Self {
            client,
            timeout,
            get,
        }
    }

    /// How many replicas must answer: 1 to the number of owners; the node's default when not given.
    ///
    /// Reads take turns between the owners. With R + W of at most N two reads in a row may therefore
    /// see the key at different ages.
    pub fn r(mut self, r: u8) -> Self {
        self.get.r = Some(r);
        self
    }

    /// How long all attempts together may take, 60 s at most; the client's timeout when not given.
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
    /// [`Error`], after all attempts of the transport: [`retry`](crate::retry) lists those over the
    /// network.
    pub async fn send(self) -> Result<Fetched, Error> {
        check_timeout(self.timeout)?;
        let deadline = Instant::now() + self.timeout;
        self.send_by(deadline).await
    }

    /// Sends it as part of something that has a deadline.
    pub(crate) async fn send_by(self, deadline: Instant) -> Result<Fetched, Error> {
        check_key(&self.get.key)?;
        let extract = |response| match response {
            Response::Fetched(fetched) => Some(Fetched::from(fetched)),
            _ => None,
        };
        let Self { client, get, .. } = self;
        client.execute(Request::Get(get), deadline, extract).await
    }
}

impl<T: Transport> WriteRequest<T> {
    pub(crate) fn new(client: T, key: Bytes, value: Option<Bytes>) -> Self {
        let timeout = client.timeout();
        let write = Write {
            timeout_ms: 0,
            write_id: client.next_write_id(),
            key,
            value,
            context: None,
            w: None,
            ttl_ms: None,
            sloppy: false,
            again: false,
            if_no_conflict: false,
            handed_on: None,
        };
        Self {
            client,
            timeout,
            ttl: None,
            write,
        }
    }

    pub(crate) fn set_context(&mut self, context: Context) {
        self.write.context = Some(context.into_bytes());
    }

    pub(crate) fn set_sloppy(&mut self) {
        self.write.sloppy = true;
    }

    pub(crate) fn set_if_no_conflict(&mut self) {
        self.write.if_no_conflict = true;
    }

    pub(crate) fn set_w(&mut self, w: Option<u8>) {
        self.write.w = w;
    }

    pub(crate) fn set_ttl(&mut self, ttl: Option<Duration>) {
        self.ttl = ttl;
    }

    pub(crate) fn is_put(&self) -> bool {
        self.write.value.is_some()
    }

    async fn send(self) -> Result<Written, Error> {
        check_timeout(self.timeout)?;
        let deadline = Instant::now() + self.timeout;
        self.send_by(deadline).await
    }

    pub(crate) async fn send_by(self, deadline: Instant) -> Result<Written, Error> {
        let Self {
            client,
            ttl,
            mut write,
            ..
        } = self;
        check_key(&write.key)?;
        let value_bytes = write.value.as_ref().map_or(0, Bytes::len);
        if value_bytes > VALUE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the value has {value_bytes} bytes, {VALUE_BYTES_MAX} are permitted"
            )));
        }
        if let Some(ttl) = ttl {
            write.ttl_ms = Some(ttl_ms(ttl)?);
        }
        let is_put = write.value.is_some();
        let request = if is_put {
            Request::Put(write)
        } else {
            Request::Delete(write)
        };
        let extract = |response| match response {
            Response::Put(written) if is_put => Some(Written::from(written)),
            Response::Deleted(written) if !is_put => Some(Written::from(written)),
            _ => None,
        };
        client.execute(request, deadline, extract).await
    }
}

macro_rules! write_options {
    ($name:ident) => {
        impl<T: Transport> $name<T> {
            /// Replace exactly what the read that gave this context has seen; what was written
            /// meanwhile stays beside it as a sibling. Without a context the write is blind.
            pub fn context(mut self, context: Context) -> Self {
                self.0.set_context(context);
                self
            }

            /// While owners are down, let the next nodes of the ring count in their places: each keeps the
            /// write, durably, until enough owners have it. It is taken where a strict write would be
            /// refused, and reads do not see it until it is handed over.
            pub fn sloppy(mut self) -> Self {
                self.0.set_sloppy();
                self
            }

            /// Refuse the write, with [`ErrorCode::Conflict`](crate::ErrorCode::Conflict), where it has no
            /// context and would replace more than one value. When that only shows while it is written,
            /// it stands beside those values and the error says that it may have been applied.
            pub fn if_no_conflict(mut self) -> Self {
                self.0.set_if_no_conflict();
                self
            }

            /// How many replicas must have it on disk: 1 to the number of owners; the node's default
            /// when not given.
            pub fn w(mut self, w: u8) -> Self {
                self.0.set_w(Some(w));
                self
            }

            /// How long all attempts together may take, 60 s at most; the client's timeout when not
            /// given.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.0.timeout = timeout;
                self
            }

            /// Sends it. The same as `.await` on the request, without its allocation.
            ///
            /// # Errors
            /// [`Error`], after all attempts of the transport: [`retry`](crate::retry) lists those
            /// over the network. Every attempt carries the same write id, and only the answer to the last
            /// one counts.
            pub async fn send(self) -> Result<Written, Error> {
                self.0.send().await
            }
        }

        impl<T: Transport> IntoFuture for $name<T> {
            type Output = Result<Written, Error>;
            type IntoFuture = Sending<'static, Written>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.send())
            }
        }
    };
}

write_options!(PutRequest);
write_options!(DeleteRequest);

impl<T: Transport> PutRequest<T> {
    /// A put of this value over any transport; [`Client::put`] is the one over the network.
    pub fn new(client: T, key: Bytes, value: Bytes) -> Self {
        Self(WriteRequest::new(client, key, Some(value)))
    }

    /// Sends it as part of something that has a deadline.
    pub(crate) async fn send_by(self, deadline: Instant) -> Result<Written, Error> {
        self.0.send_by(deadline).await
    }

    /// After how long the value expires: at least 1 ms; rounded up to milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.set_ttl(Some(ttl));
        self
    }
}

impl<T: Transport> DeleteRequest<T> {
    /// A delete of this key over any transport; [`Client::delete`] is the one over the network.
    pub fn new(client: T, key: Bytes) -> Self {
        Self(WriteRequest::new(client, key, None))
    }
}

impl<T: Transport> IntoFuture for GetRequest<T> {
    type Output = Result<Fetched, Error>;
    type IntoFuture = Sending<'static, Fetched>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the key has {} bytes, 1 to {KEY_BYTES_MAX} are permitted",
        key.len()
    )))
}

fn ttl_ms(ttl: Duration) -> Result<u64, Error> {
    if ttl.is_zero() {
        return Err(Error::invalid("a time to live of 0 would expire at once"));
    }
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000))
        .map_err(|_| Error::invalid("the time to live is too long"))
}
