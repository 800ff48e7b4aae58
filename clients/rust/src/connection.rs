//! One multiplexed connection: many requests in flight, answers in any order.
//!
//! Callers encode their request into a shared outgoing buffer and wait. A single task per connection
//! owns the socket: its writing half takes whatever has gathered in the buffer and writes it at once
//! (so that under load many requests share one frame and one system call), its reading half decodes
//! every frame that one read brought and wakes the callers by request id. A third part watches for a
//! node that has stopped answering.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::frame::{BatchWriter, Header, put_frame};
use dynakv_protocol::handshake::{Hello, Welcome};
use dynakv_protocol::message::{Request, Response};
use rustc_hash::FxHashMap;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, TryAcquireError};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::addresses::{first_of, resolve};
use crate::dial::{DialError, network, read_welcome};
use crate::unasked::CONNECTION_ID;

use self::driver::drive;
use self::shared::{Shared, State};

mod driver;
mod shared;

pub(crate) use self::shared::{CallError, Cause};

/// A request takes one place in the window, and one more for each of these bytes.
const WINDOW_PLACE_BYTES: usize = 64 * 1024;

/// A connection without traffic is probed by the system after this time, and this often, so that one
/// whose other end vanished is found out before it is needed.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// An open connection. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    task: AbortHandle,
    welcome: Welcome,
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
