//! One multiplexed connection: many requests in flight, answers in any order.
//!
//! Callers encode their request into a shared outgoing buffer and wait. A single task per connection
//! owns the socket: its writing half takes whatever has gathered in the buffer and writes it at once
//! (so that under load many requests share one system call), its reading half decodes every frame that
//! one read brought and wakes the callers by request id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::frame::{Frame, FrameDecoder, Header, put_frame, split_batch};
use dynakv_protocol::handshake::{Hello, Welcome};
use dynakv_protocol::limits::{HANDSHAKE_FRAME_BYTES_MAX, VALUE_BYTES_MAX, frame_bytes_max};
use dynakv_protocol::message::{Request, Response};
use dynakv_protocol::{DecodeError, ErrorReply};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// The handshake's request id. Requests count from 1 on, so an error that answers no request of ours
/// but the connection as a whole is told apart.
const CONNECTION_ID: u64 = 0;

/// How much may be in flight on one connection, in units of one request plus one for each
/// [`WINDOW_UNIT_BYTES`] of it. Callers beyond it wait.
const WINDOW_UNITS: usize = 2048;

/// What a unit of the window stands for, in bytes.
const WINDOW_UNIT_BYTES: usize = 64 * 1024;

/// A read asks for at least this much room, so that one system call brings many answers.
const READ_BYTES_MIN: usize = 16 * 1024;

/// And at most for this much, whatever the length field of a frame claims.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// A write buffer that has grown beyond this is given back.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

/// A connection that was silent for this long while a request timed out on it is taken for dead.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(crate) enum DialError {
    /// The network's reason.
    Network(Arc<str>),
    /// The node refused the handshake.
    Refused(ErrorReply),
}

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
    window: Semaphore,
    /// How many reads have brought something: tells a slow node from a dead connection.
    reads: AtomicU64,
}

#[derive(Debug)]
struct State {
    waiting: FxHashMap<u64, oneshot::Sender<Result<Frame, CallError>>>,
    outgoing: BytesMut,
    next_id: u64,
    /// Requests below this id have been handed to the socket. Ids are given in the order of the
    /// outgoing buffer, so this one number says for each request whether it was sent.
    sent_before: u64,
    closed: Option<Arc<str>>,
}

impl Connection {
    /// Connects and shakes hands.
    pub(crate) async fn dial(
        address: &str,
        hello: &Hello,
        limit: Duration,
    ) -> Result<Self, DialError> {
        match timeout(limit, Self::dial_unbounded(address, hello)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Network(
                format!("no connection within {limit:?}").into(),
            )),
        }
    }

    async fn dial_unbounded(address: &str, hello: &Hello) -> Result<Self, DialError> {
        let network = |error: std::io::Error| DialError::Network(error.to_string().into());
        let mut stream = TcpStream::connect(address).await.map_err(network)?;
        stream.set_nodelay(true).map_err(network)?;
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
                next_id: CONNECTION_ID + 1,
                sent_before: CONNECTION_ID + 1,
                closed: None,
            }),
            to_write: Notify::new(),
            window: Semaphore::new(WINDOW_UNITS),
            reads: AtomicU64::new(0),
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
        self.shared.lock().closed.is_some()
    }

    /// Sends a request and waits for its answer. May be dropped at any time.
    pub(crate) async fn call(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, CallError> {
        let units = 1 + request_bytes(request) / WINDOW_UNIT_BYTES;
        let units = units.min(WINDOW_UNITS) as u32;
        let started = Instant::now();
        let permit = match timeout_at(deadline, self.shared.window.acquire_many(units)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(self.shared.closed_error()),
            Err(_elapsed) => {
                return Err(CallError {
                    sent: false,
                    cause: Cause::TimedOut,
                });
            }
        };
        let reads_before = self.shared.reads.load(Ordering::Relaxed);
        let (id, answer) = self.shared.enqueue(request)?;
        let waiting = Waiting {
            shared: &self.shared,
            id,
        };
        let frame = match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result?,
            // The sender is dropped only together with the connection's state.
            Ok(Err(_dropped)) => return Err(self.shared.closed_error_sent()),
            Err(_elapsed) => {
                let silent = self.shared.reads.load(Ordering::Relaxed) == reads_before;
                drop(waiting);
                if silent && started.elapsed() >= SILENT_AFTER {
                    self.shared.close("the node has stopped answering".into());
                }
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

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.id);
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
        let mut state = self.lock();
        if let Some(reason) = &state.closed {
            return Err(CallError {
                sent: false,
                cause: Cause::Closed(Arc::clone(reason)),
            });
        }
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.insert(id, sender);
        put_frame(
            &mut state.outgoing,
            Header::new(request.kind(), id),
            |out| request.encode(out),
        );
        drop(state);
        self.to_write.notify_one();
        Ok((id, receiver))
    }

    /// Swaps what is to be written against an empty buffer; false when there is nothing.
    fn take_outgoing(&self, spare: &mut BytesMut) -> bool {
        let mut state = self.lock();
        if state.outgoing.is_empty() {
            return false;
        }
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

    /// Ends the connection for every caller, once.
    fn close(&self, reason: Arc<str>) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(Arc::clone(&reason));
        state.outgoing = BytesMut::new();
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

/// Owns the socket until it fails or the connection is dropped.
async fn drive(
    shared: Arc<Shared>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: BytesMut,
) {
    let reason = tokio::select! {
        reason = read_answers(&shared, reader, buffer) => reason,
        reason = write_requests(&shared, writer) => reason,
    };
    shared.close(reason);
}

async fn write_requests(shared: &Shared, mut writer: OwnedWriteHalf) -> Arc<str> {
    let mut chunk = BytesMut::new();
    loop {
        if shared.take_outgoing(&mut chunk) {
            if let Err(error) = writer.write_all(&chunk).await {
                return error.to_string().into();
            }
            chunk.clear();
            if chunk.capacity() > SPARE_BYTES_MAX {
                chunk = BytesMut::new();
            }
        } else if let Some(reason) = shared.lock().closed.clone() {
            return reason;
        } else {
            shared.to_write.notified().await;
        }
    }
}

async fn read_answers(
    shared: &Shared,
    mut reader: OwnedReadHalf,
    mut buffer: BytesMut,
) -> Arc<str> {
    let decoder = FrameDecoder::new(frame_bytes_max(VALUE_BYTES_MAX));
    let mut answers = Vec::new();
    loop {
        let damage = loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => match split_batch(frame, |item| answers.push(item)) {
                    Ok(()) => {}
                    Err(error) => break Some(error),
                },
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let ended = answers.iter().find_map(connection_error);
        shared.complete(&mut answers);
        if let Some(error) = damage {
            return format!("the node sent garbage: {error}").into();
        }
        if let Some(reply) = ended {
            return reply.to_string().into();
        }
        let room = decoder.lacking(&buffer);
        buffer.reserve(room.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return "closed by the node".into(),
            Ok(_) => shared.reads.fetch_add(1, Ordering::Relaxed),
            Err(error) => return error.to_string().into(),
        };
    }
}

/// An error that is about the connection and not about one request.
fn connection_error(frame: &Frame) -> Option<ErrorReply> {
    if frame.header.request_id != CONNECTION_ID {
        return None;
    }
    match Response::decode(frame.header.kind, &frame.body) {
        Ok(Response::Error(reply)) => Some(reply),
        Ok(_) | Err(_) => None,
    }
}

async fn read_welcome(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Welcome, DialError> {
    let garbage = |what: String| {
        DialError::Network(format!("this is no dynakv node: {what} (is the port right?)").into())
    };
    // A refusal may carry a long message beside the rest.
    let decoder = FrameDecoder::new(2 * HANDSHAKE_FRAME_BYTES_MAX);
    let frame = loop {
        match decoder.next(buffer) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(error) => return Err(garbage(error.to_string())),
        }
        buffer.reserve(READ_BYTES_MIN);
        match stream.read_buf(buffer).await {
            Ok(0) => {
                let reason = "the node closed the connection during the handshake";
                return Err(DialError::Network(reason.into()));
            }
            Ok(_) => {}
            Err(error) => return Err(DialError::Network(error.to_string().into())),
        }
    };
    match Response::decode(frame.header.kind, &frame.body) {
        Ok(Response::Welcome(welcome)) => Ok(welcome),
        Ok(Response::Error(reply)) => Err(DialError::Refused(reply)),
        Ok(_) => Err(garbage("unexpected answer to the handshake".to_owned())),
        Err(error) => Err(garbage(error.to_string())),
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
