//! Read, merge, write: the safe way to change a value that depends on the value before.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::ErrorCode;
use tokio::time::{Instant, sleep_until};

use crate::answer::{Context, Fetched, Written};
use crate::checks::check_timeout;
use crate::client::Client;
use crate::error::Error;
use crate::request::{GetRequest, Sending, WriteRequest};
use crate::retry;
use crate::transport::Transport;

/// How often an update writes before it gives up, unless the caller says otherwise.
const ROUNDS_DEFAULT: u32 = 8;

/// What is to become of a key: the answer of the closure given to [`Client::update`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Store this value in place of all that was read.
    Put(Bytes),
    /// Delete what was read.
    Delete,
    /// Write nothing.
    Keep,
}

impl Update {
    /// [`Update::Put`] of anything that can be bytes.
    pub fn put(value: impl Into<Bytes>) -> Self {
        Self::Put(value.into())
    }
}

/// What came of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// The last read: after a write, what stands there now; otherwise what the closure chose to keep.
    pub fetched: Fetched,
    /// The last write; `None` when the closure kept what it found at once.
    pub written: Option<Written>,
    /// How often the closure was asked.
    pub rounds: u32,
}

/// An update that has not been sent yet: see [`Client::update`].
///
/// One round is a read, the closure, and a write with the read's context, so that it replaces exactly
/// what the closure has seen. Nothing is locked: whoever writes at the same time leaves a sibling, which
/// the read after the write shows. Then there is another round, after a short pause of random length,
/// and the closure gets all siblings, its own among them. [`Error::Contended`] after too many rounds
/// loses nothing either: the siblings stay, and the next update merges them.
///
/// # What the closure has to hold to
/// It may be asked several times, and may find in the siblings what it has put there itself. So its result
/// must be a *merge* of everything it is given, and adding the same thing twice must be the same as
/// adding it once: the union of sets, the maximum per counter and client, the newer entry per field. A
/// bare `+ 1` is not; count per client and add up when reading.
#[must_use = "a request is sent by `.await`"]
pub struct UpdateRequest<'f, T = Client> {
    client: T,
    key: Bytes,
    change: Box<dyn FnMut(&Fetched) -> Update + Send + 'f>,
    timeout: Duration,
    rounds: u32,
    r: Option<u8>,
    w: Option<u8>,
    ttl: Option<Duration>,
}

/// Whether a node has refused the write for good, and nothing of it was done.
fn is_refused(error: &Error) -> bool {
    error.code() == Some(ErrorCode::BadRequest) && !error.maybe_applied()
}

impl<T> std::fmt::Debug for UpdateRequest<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpdateRequest")
            .field("key", &self.key)
            .field("timeout", &self.timeout)
            .field("rounds", &self.rounds)
            .finish_non_exhaustive()
    }
}

impl<'f, T: Transport> UpdateRequest<'f, T> {
    /// An update of this key over any transport; [`Client::update`] is the one over the network.
    pub fn new(client: T, key: Bytes, change: impl FnMut(&Fetched) -> Update + Send + 'f) -> Self {
        let timeout = client.timeout();
        Self {
            client,
            key,
            change: Box::new(change),
            timeout,
            rounds: ROUNDS_DEFAULT,
            r: None,
            w: None,
            ttl: None,
        }
    }

    /// How many replicas must answer each read; the node's default when not given. With R + W of at
    /// most N a read may miss what was just written, and with it the siblings.
    pub fn r(mut self, r: u8) -> Self {
        self.r = Some(r);
        self
    }

    /// How many replicas must have each write on disk; the node's default when not given.
    pub fn w(mut self, w: u8) -> Self {
        self.w = Some(w);
        self
    }

    /// After how long the value expires: at least 1 ms; rounded up to milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How long all rounds together may take, 60 s at most; the client's timeout when not given.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often to write at most: 8 by default, at least 1.
    pub fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds;
        self
    }

    /// Runs it. The same as `.await` on the request.
    ///
    /// # Errors
    /// [`Error::Contended`] when other writers left siblings in every round, with the last state; any
    /// other [`Error`] of a read or a write.
    pub async fn send(mut self) -> Result<Updated, Error> {
        check_timeout(self.timeout)?;
        if self.rounds == 0 {
            return Err(Error::invalid("an update needs at least one round"));
        }
        let deadline = Instant::now() + self.timeout;
        let mut written = None;
        let mut fetched = self.read().send_by(deadline).await?;
        for round in 1..=self.rounds {
            let value = match (self.change)(&fetched) {
                Update::Put(value) => Some(value),
                Update::Delete => None,
                Update::Keep => {
                    return Ok(Updated {
                        fetched,
                        written,
                        rounds: round,
                    });
                }
            };
            let earlier = written.is_some();
            let write = self
                .write(value, fetched.context.clone())
                .send_by(deadline)
                .await;
            match write {
                Ok(answer) => written = Some(answer),
                // What was read may have been a write that never came to be and is gone: then its context is of no
                // use any more, and another read has another one.
                Err(error) if is_refused(&error) && round < self.rounds => {
                    let read = self.read().send_by(deadline).await;
                    let again = read.map_err(|error| error.or_maybe_applied(earlier))?;
                    if again.context == fetched.context {
                        return Err(error.or_maybe_applied(earlier));
                    }
                    fetched = again;
                    continue;
                }
                Err(error) => return Err(error.or_maybe_applied(earlier)),
            }
            let read = self.read().send_by(deadline).await;
            fetched = read.map_err(|error| error.or_maybe_applied(true))?;
            if fetched.siblings.len() <= 1 {
                return Ok(Updated {
                    fetched,
                    written,
                    rounds: round,
                });
            }
            let next = Instant::now() + retry::backoff(round - 1);
            if round == self.rounds || next >= deadline {
                return Err(Error::Contended {
                    rounds: round,
                    last: Box::new(fetched),
                });
            }
            // Without a pause all who met here would meet again. After it somebody else may have merged.
            sleep_until(next).await;
            let read = self.read().send_by(deadline).await;
            fetched = read.map_err(|error| error.or_maybe_applied(true))?;
        }
        // The last round has returned.
        Err(Error::Contended {
            rounds: self.rounds,
            last: Box::new(fetched),
        })
    }

    // No future borrows the closure: it need not be shareable between threads for this one to be
    // sendable.
    fn read(&self) -> GetRequest<T> {
        let request = GetRequest::new(self.client.clone(), self.key.clone());
        match self.r {
            Some(r) => request.r(r),
            None => request,
        }
    }

    fn write(&self, value: Option<Bytes>, context: Context) -> WriteRequest<T> {
        let mut write = WriteRequest::new(self.client.clone(), self.key.clone(), value);
        write.set_context(context);
        write.set_w(self.w);
        // A tombstone has no time to live.
        write.set_ttl(self.ttl.filter(|_| write.is_put()));
        write
    }
}

impl<'f, T: Transport> IntoFuture for UpdateRequest<'f, T> {
    type Output = Result<Updated, Error>;
    type IntoFuture = Sending<'f, Updated>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
