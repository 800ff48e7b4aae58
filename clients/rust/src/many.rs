//! Many keys in one call.
//!
//! A bounded number of lanes take one key after the other. Each lane is an ordinary request with all its
//! attempts, so one key that fails fails alone, and a node that is overloaded is waited for. Requests of
//! all lanes for one node gather in that node's connection and leave together: see
//! [`crate::connection`].

use std::future::{Future, IntoFuture};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::answer::{Fetched, Written};
use crate::checks::check_timeout;
use crate::client::Client;
use crate::error::Error;
use crate::request::{GetRequest, PutRequest, Sending};
use crate::transport::Transport;

/// How many requests of one call are under way at once, unless the caller says otherwise. Enough to
/// keep all nodes busy, and far from what makes a node refuse.
const LANES_DEFAULT: usize = 512;

/// More lanes than this only wait for each other.
const LANES_MAX: usize = 16 * 1024;

/// How many keys a lane takes at a time.
const KEYS_PER_TURN: usize = 8;

/// Reads of many keys that have not been sent yet: see [`Client::get_many`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct GetManyRequest<T = Client> {
    client: T,
    keys: Vec<Bytes>,
    options: Options,
    repair_first: bool,
}

/// Puts of many values that have not been sent yet: see [`Client::put_many`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `.await`"]
pub struct PutManyRequest<T = Client> {
    client: T,
    pairs: Vec<(Bytes, Bytes)>,
    options: Options,
    ttl: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Options {
    timeout: Duration,
    quorum: Option<u8>,
    lanes: usize,
}

impl Options {
    fn new(client: &impl Transport) -> Self {
        Self {
            timeout: client.timeout(),
            quorum: None,
            lanes: LANES_DEFAULT,
        }
    }

    fn check(&self) -> Result<Instant, Error> {
        check_timeout(self.timeout)?;
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return Err(Error::invalid(format!(
                "a window of {} requests is out of range: 1 to {LANES_MAX} are permitted",
                self.lanes
            )));
        }
        Ok(Instant::now() + self.timeout)
    }
}

macro_rules! many_options {
    ($name:ident) => {
        impl<T: Transport> $name<T> {
            /// One deadline for all keys together, 60 s at most; the client's timeout when not given.
            /// Keys that it cuts off fail with [`Error::Timeout`].
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.options.timeout = timeout;
                self
            }

            /// How many requests are under way at once: 512 by default, 16,384 at most, and no more
            /// than [the transport takes](Transport::requests_in_flight_max).
            pub fn window(mut self, requests: usize) -> Self {
                self.options.lanes = requests;
                self
            }
        }
    };
}

many_options!(GetManyRequest);
many_options!(PutManyRequest);

impl<T: Transport> GetManyRequest<T> {
    /// Reads of these keys over any transport; [`Client::get_many`] is the one over the network.
    pub fn new(client: T, keys: Vec<Bytes>) -> Self {
        let options = Options::new(&client);
        Self {
            client,
            keys,
            options,
            repair_first: false,
        }
    }

    /// How many replicas must answer for each key; the node's default when not given.
    pub fn r(mut self, r: u8) -> Self {
        self.options.quorum = Some(r);
        self
    }

    /// Mend stale replicas of each key before its answer and not after it.
    pub fn repair_first(mut self) -> Self {
        self.repair_first = true;
        self
    }

    /// Sends them. The same as `.await` on the request.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an option that cannot be; then nothing was sent. What goes wrong with a
    /// key is in its own result.
    pub async fn send(self) -> Result<Vec<Result<Fetched, Error>>, Error> {
        let deadline = self.options.check()?;
        let Self {
            client,
            keys,
            options,
            repair_first,
        } = self;
        let lanes = options.lanes.min(client.requests_in_flight_max());
        let total = keys.len();
        let each = move |index: usize| {
            let mut request = GetRequest::new(client.clone(), Bytes::clone(&keys[index]));
            if let Some(r) = options.quorum {
                request = request.r(r);
            }
            if repair_first {
                request = request.repair_first();
            }
            request.send_by(deadline)
        };
        Ok(run(total, lanes, each).await)
    }
}

impl<T: Transport> PutManyRequest<T> {
    /// Puts of these pairs of a key and a value over any transport; [`Client::put_many`] is the one over
    /// the network.
    pub fn new(client: T, pairs: Vec<(Bytes, Bytes)>) -> Self {
        let options = Options::new(&client);
        Self {
            client,
            pairs,
            options,
            ttl: None,
        }
    }

    /// How many replicas must have each value on disk; the node's default when not given.
    pub fn w(mut self, w: u8) -> Self {
        self.options.quorum = Some(w);
        self
    }

    /// After how long the values expire: at least 1 ms; rounded up to milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sends them. The same as `.await` on the request.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an option that cannot be; then nothing was sent. What goes wrong with a
    /// key is in its own result.
    pub async fn send(self) -> Result<Vec<Result<Written, Error>>, Error> {
        let deadline = self.options.check()?;
        let Self {
            client,
            pairs,
            options,
            ttl,
        } = self;
        let lanes = options.lanes.min(client.requests_in_flight_max());
        let total = pairs.len();
        let each = move |index: usize| {
            let (key, value) = pairs[index].clone();
            let mut request = PutRequest::new(client.clone(), key, value);
            if let Some(w) = options.quorum {
                request = request.w(w);
            }
            if let Some(ttl) = ttl {
                request = request.ttl(ttl);
            }
            request.send_by(deadline)
        };
        Ok(run(total, lanes, each).await)
    }
}

impl<T: Transport> IntoFuture for GetManyRequest<T> {
    type Output = Result<Vec<Result<Fetched, Error>>, Error>;
    type IntoFuture = Sending<'static, Vec<Result<Fetched, Error>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl<T: Transport> IntoFuture for PutManyRequest<T> {
    type Output = Result<Vec<Result<Written, Error>>, Error>;
    type IntoFuture = Sending<'static, Vec<Result<Written, Error>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Runs `each` for 0 to `total`, so many at a time; gives the results in order.
///
/// The lanes are tasks, so that an answer wakes only the lane that waits for it; dropping this future
/// ends them.
async fn run<T, F>(
    total: usize,
    lanes: usize,
    each: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Vec<Result<T, Error>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send,
{
    let work = Arc::new(Work {
        total,
        // A short list is shared out evenly.
        turn: (total / lanes).clamp(1, KEYS_PER_TURN),
        next: AtomicUsize::new(0),
        results: Mutex::new(std::iter::repeat_with(|| None).take(total).collect()),
    });
    let each = Arc::new(each);
    let mut tasks = JoinSet::new();
    for _ in 0..lanes.min(total) {
        let (work, each) = (Arc::clone(&work), Arc::clone(&each));
        tasks.spawn(async move {
            let mut done = Vec::with_capacity(KEYS_PER_TURN);
            while let Some(turn) = work.take_turn() {
                for index in turn {
                    done.push((index, each(index).await));
                }
                work.put_down(&mut done);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    let results = std::mem::take(&mut *lock(&work.results));
    let missing = || Err(Error::invalid("the runtime was shut down meanwhile"));
    let results = results.into_iter();
    results
        .map(|result| result.unwrap_or_else(missing))
        .collect()
}

/// What the lanes share.
struct Work<T> {
    total: usize,
    turn: usize,
    next: AtomicUsize,
    results: Mutex<Vec<Option<Result<T, Error>>>>,
}

impl<T> Work<T> {
    fn take_turn(&self) -> Option<Range<usize>> {
        let start = self.next.fetch_add(self.turn, Ordering::Relaxed);
        (start < self.total).then(|| start..self.total.min(start + self.turn))
    }

    fn put_down(&self, done: &mut Vec<(usize, Result<T, Error>)>) {
        let mut results = lock(&self.results);
        for (index, result) in done.drain(..) {
            results[index] = Some(result);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
