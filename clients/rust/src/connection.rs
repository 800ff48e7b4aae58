//! One multiplexed connection: many requests in flight, answers in any order.
//!
//! Callers encode their request into a shared outgoing buffer and wait. A single task per connection
//! owns the socket: its writing half takes whatever has gathered in the buffer and writes it at once
//! (so that under load many requests share one frame and one system call), its reading half decodes
//! every frame that one read brought and wakes the callers by request id. A third part watches for a
//! node that has stopped answering.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::DecodeError;
use dynakv_protocol::frame::{BatchWriter, Frame, Header, put_frame};
use dynakv_protocol::handshake::{GoAway, Hello, Welcome};
use dynakv_protocol::message::{Request, Response};
use rustc_hash::FxHashMap;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, TryAcquireError, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::addresses::{first_of, resolve};
use crate::dial::{DialError, network, read_welcome};
use crate::unasked::CONNECTION_ID;

use self::driver::drive;

mod driver;

/// A request takes one place in the window, and one more for each of these bytes.
const WINDOW_PLACE_BYTES: usize = 64 * 1024;

/// A connection without traffic is probed by the system after this time, and this often, so that one
/// whose other end vanished is found out before it is needed.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) struct CallError {
    /// Whether the request may have reached the node.
    pub(crate) sent: bool,
    /// What happened.
    pub(crate) cause: Cause,
}

/// What happened to a call.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The connection is gone.
    Closed(Arc<str>),
    /// The deadline passed.
    TimedOut,
    /// The answer could not be decoded.
    Undecodable(DecodeError),
}

/// An open connection. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    task: AbortHandle,
    welcome: Welcome,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    to_write: Notify,
    /// Places for requests in flight; callers beyond it wait.
    window: Semaphore,
    window_places: u32,
    /// How many reads have brought something: tells a slow node from a dead one.
    reads: AtomicU64,
    /// Bytes written since the last read.
    unanswered_bytes: AtomicU64,
    /// Set together with the reason in the state, to be looked at without the lock.
    closed: AtomicBool,
    /// Somebody waits again, so the connection is to be watched again.
    to_watch: Notify,
}

#[derive(Debug)]
struct State {
    waiting: FxHashMap<u64, oneshot::Sender<Result<Frame, CallError>>>,
    outgoing: BytesMut,
    /// The frame at the end of `outgoing` that still takes requests.
    batch: BatchWriter,
    next_id: u64,
    /// Requests below this id have been handed to the socket. Ids are given in the order of the
    /// outgoing buffer, so this one number says for each request whether it was sent.
    sent_before: u64,
    /// Nobody waited when the connection was looked at last: whoever comes next starts the watch.
    unwatched: bool,
    /// The node takes no more requests here, and still answers those that it took: why.
    leaving: Option<Arc<str>>,
    closed: Option<Arc<str>>,
}

impl CallError {
    /// The deadline passed before the request was written anywhere.
    const NOT_SENT_IN_TIME: Self = Self {
        sent: false,
        cause: Cause::TimedOut,
    };
}

impl Connection {
    /// Connects and shakes hands, at whichever of its addresses that succeeds first; all share the limit.
    pub(crate) async fn dial(
        address: &str,
        hello: &Hello,
        limit: Duration,
        window: u32,
    ) -> Result<Self, DialError> {
        let dialled = async {
            let addresses = resolve(address).await.map_err(network)?;
            dial_any(&addresses, hello, window).await
        };
        match timeout(limit, dialled).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Network(
                format!("no connection within {limit:?}").into(),
            )),
        }
    }

    /// The same at one address, without a limit.
    pub(crate) async fn dial_one(
        address: SocketAddr,
        hello: &Hello,
        window: u32,
    ) -> Result<Self, DialError> {
        let mut stream = TcpStream::connect(address).await.map_err(network)?;
        stream.set_nodelay(true).map_err(network)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_INTERVAL);
        // It only finds out sooner what a request would find out, too.
        let _without = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let mut buffer = BytesMut::new();
        let request = Request::Hello(hello.clone());
        put_frame(
            &mut buffer,
            Header::new(request.kind(), CONNECTION_ID),
            |out| request.encode(out),
        );
        stream.write_all(&buffer).await.map_err(network)?;
        buffer.clear();
        let welcome = read_welcome(&mut stream, &mut buffer).await?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                waiting: FxHashMap::default(),
                outgoing: BytesMut::new(),
                batch: BatchWriter::default(),
                next_id: CONNECTION_ID + 1,
                sent_before: CONNECTION_ID + 1,
                unwatched: true,
                leaving: None,
                closed: None,
            }),
            to_write: Notify::new(),
            window: Semaphore::new(window as usize),
            window_places: window,
            reads: AtomicU64::new(0),
            unanswered_bytes: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            to_watch: Notify::new(),
        });
        let (reader, writer) = stream.into_split();
        let task = tokio::spawn(drive(Arc::clone(&shared), reader, writer, buffer)).abort_handle();
        Ok(Self {
            shared,
            task,
            welcome,
        })
    }

    /// What the node said of itself.
    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Whether it is of no use any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Whether the node has said that it takes no more requests on it.
    pub(crate) fn was_left(&self) -> bool {
        self.shared.lock().leaving.is_some()
    }

    /// Sends a request and waits for its answer. May be dropped at any time: its place in the window
    /// is then free, and its answer goes nowhere.
    pub(crate) async fn call(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, CallError> {
        let shared = &*self.shared;
        let places = 1 + request_bytes(request) / WINDOW_PLACE_BYTES;
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        let places = places.min(shared.window_places);
        let permit = match shared.window.try_acquire_many(places) {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(shared.closed_error()),
            Err(TryAcquireError::NoPermits) => {
                match timeout_at(deadline, shared.window.acquire_many(places)).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_closed)) => return Err(shared.closed_error()),
                    Err(_elapsed) => return Err(CallError::NOT_SENT_IN_TIME),
                }
            }
        };
        if Instant::now() >= deadline {
            return Err(CallError::NOT_SENT_IN_TIME);
        }
        let (id, answer) = shared.enqueue(request)?;
        let waiting = Waiting { shared, id };
        let frame = match timeout_at(deadline, answer).await {
            Ok(answered) => {
                // Whoever answered has taken it out of the table.
                waiting.forget();
                // The sender is dropped only together with the connection's state.
                answered.unwrap_or_else(|_dropped| Err(shared.closed_error_sent()))?
            }
            Err(_elapsed) => {
                return Err(CallError {
                    sent: true,
                    cause: Cause::TimedOut,
                });
            }
        };
        drop(permit);
        Response::decode(frame.header.kind, &frame.body).map_err(|error| CallError {
            sent: true,
            cause: Cause::Undecodable(error),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes a request out of the table when its caller stops waiting.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Waiting<'_> {
    /// Leaves the table as it is. (There is nothing else to drop.)
    fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.id);
    }
}

impl State {
    /// Appends a request to what is to be written; gives its id.
    fn push(&mut self, request: &Request) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let header = Header::new(request.kind(), id);
        self.batch
            .push(&mut self.outgoing, header, |out| request.encode(out));
        id
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and every step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(
        &self,
        request: &Request,
    ) -> Result<(u64, oneshot::Receiver<Result<Frame, CallError>>), CallError> {
        let (sender, receiver) = oneshot::channel();
        let mut locked = self.lock();
        let state = &mut *locked;
        if let Some(reason) = state.closed.as_ref().or(state.leaving.as_ref()) {
            return Err(CallError {
                sent: false,
                cause: Cause::Closed(Arc::clone(reason)),
            });
        }
        let id = state.push(request);
        state.waiting.insert(id, sender);
        let was_unwatched = std::mem::take(&mut state.unwatched);
        drop(locked);
        self.to_write.notify_one();
        if was_unwatched {
            self.to_watch.notify_one();
        }
        Ok((id, receiver))
    }

    /// Asks for a sign of life. Nobody waits for the answer: that bytes come is enough.
    fn ping(&self) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.push(&Request::Ping);
        }
        drop(state);
        self.to_write.notify_one();
    }

    /// Whether somebody waits; if not, the next one says so.
    fn is_watched(&self) -> bool {
        let mut state = self.lock();
        state.unwatched = state.waiting.is_empty();
        !state.unwatched
    }

    /// Swaps what is to be written against an empty buffer; false when there is nothing.
    fn take_outgoing(&self, spare: &mut BytesMut) -> bool {
        let mut locked = self.lock();
        let state = &mut *locked;
        if state.outgoing.is_empty() {
            return false;
        }
        state.batch.finish(&mut state.outgoing);
        std::mem::swap(&mut state.outgoing, spare);
        state.sent_before = state.next_id;
        true
    }

    fn complete(&self, answers: &mut Vec<Frame>) {
        let mut state = self.lock();
        for frame in answers.drain(..) {
            // An unknown id is an answer whose caller has gone.
            if let Some(sender) = state.waiting.remove(&frame.header.request_id) {
                let _gone = sender.send(Ok(frame));
            }
        }
    }

    /// The node takes no requests behind this one: they were certainly not carried out, and go elsewhere. The others
    /// wait on for their answers.
    fn leave(&self, goaway: &GoAway) {
        let reason: Arc<str> = goaway.reason.as_str().into();
        let mut state = self.lock();
        state.leaving = Some(Arc::clone(&reason));
        // Of no use for what is new, and so dialled anew.
        self.closed.store(true, Ordering::Release);
        // What waits to be written is behind it, too.
        state.outgoing = BytesMut::new();
        state.batch = BatchWriter::default();
        let is_behind = |id: &u64| *id > goaway.last_id;
        let ids: Vec<u64> = state.waiting.keys().copied().filter(is_behind).collect();
        let behind: Vec<_> = ids
            .iter()
            .filter_map(|id| state.waiting.remove(id))
            .collect();
        drop(state);
        for sender in behind {
            let cause = Cause::Closed(Arc::clone(&reason));
            let _gone = sender.send(Err(CallError { sent: false, cause }));
        }
    }

    /// Ends the connection for every caller, once.
    fn close(&self, reason: Arc<str>) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(Arc::clone(&reason));
        self.closed.store(true, Ordering::Release);
        state.outgoing = BytesMut::new();
        state.batch = BatchWriter::default();
        let sent_before = state.sent_before;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for (id, sender) in waiting {
            let cause = Cause::Closed(Arc::clone(&reason));
            let sent = id < sent_before;
            let _gone = sender.send(Err(CallError { sent, cause }));
        }
        self.window.close();
        self.to_write.notify_one();
    }

    fn closed_error(&self) -> CallError {
        let reason = self.lock().closed.clone();
        CallError {
            sent: false,
            cause: Cause::Closed(reason.unwrap_or_else(|| "closed".into())),
        }
    }

    fn closed_error_sent(&self) -> CallError {
        CallError {
            sent: true,
            ..self.closed_error()
        }
    }
}

/// About how many bytes the request has, for the window.
fn request_bytes(request: &Request) -> usize {
    match request {
        Request::Put(write) | Request::Delete(write) => {
            write.key.len() + write.value.as_ref().map_or(0, bytes::Bytes::len)
        }
        // The other requests that a client sends are small.
        _ => 0,
    }
}

/// A connection to whichever of these addresses shakes hands first. The others need not even take connections.
pub(crate) async fn dial_any(
    addresses: &[SocketAddr],
    hello: &Hello,
    window: u32,
) -> Result<Connection, DialError> {
    let dialled = first_of(addresses, |at| Connection::dial_one(at, hello, window));
    dialled.await.map_err(DialError::of_all)
}
