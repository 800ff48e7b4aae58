//! One connection that came in: handshake, then requests out of it and answers into it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::frame::{Frame, FrameDecoder, FrameError, split_batch};
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::limits::{FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX};
use dynakv_protocol::message::{Request, Response, kind};
use dynakv_protocol::{ErrorCode, ErrorReply};
use metrics::Counter;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::dispatch::undecodable;
use super::environment::{ReadHalf, WriteHalf};
use super::events::{
    ConnectionId, ControlEvent, ControlSender, CoordinatorEvent, CoordinatorSender, Responder,
};
use super::metrics::Metrics;
use super::outbox::Outbox;

/// How long the other side may take over its hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read at once when there is that much.
const READ_BYTES: usize = 64 * 1024;

/// A connection that sends nothing at all for this long is closed; clients ping.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What every connection is given.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Who is let in.
    pub admission: Arc<Admission>,
    /// Where requests about data go.
    pub coordinator: CoordinatorSender,
    /// Where requests about nodes go.
    pub control: ControlSender,
    /// The largest frame accepted from a client after the handshake, in bytes.
    pub frame_bytes_max: usize,
    /// The most bytes of answers that may wait before no more requests are read.
    pub waiting_bytes_max: usize,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Ends all connections.
    pub shutdown: CancellationToken,
}

/// Serves one connection to its end.
pub async fn serve(id: ConnectionId, read: ReadHalf, write: WriteHalf, shared: Shared) {
    let outbox = Arc::new(Outbox::default());
    let writer = {
        let outbox = outbox.clone();
        tokio::spawn(async move { outbox.write_to(write).await })
    };
    let mut reader = FrameReader::new(
        read,
        HANDSHAKE_FRAME_BYTES_MAX,
        shared.metrics.malformed_frames.clone(),
    );
    let end = tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => None,
        end = converse(id, &mut reader, &outbox, &shared) => end,
    };
    if let Some(error) = end {
        outbox.respond(0, &Response::Error(error));
    }
    outbox.close();
    // Only ends when the other side reads or the connection breaks; a slow reader is left to the
    // shutdown deadline.
    let _ = timeout(HANDSHAKE_TIMEOUT, writer).await;
}

/// Why the connection was closed from here; `None` when the other side ended it.
type End = Option<ErrorReply>;

async fn converse(
    id: ConnectionId,
    reader: &mut FrameReader,
    outbox: &Arc<Outbox>,
    shared: &Shared,
) -> End {
    let peer = match timeout(HANDSHAKE_TIMEOUT, shake_hands(reader, outbox, shared)).await {
        Ok(Ok(peer)) => peer,
        Ok(Err(end)) => return end,
        Err(_) => return Some(malformed("no hello within 5 s")),
    };
    let opened = CoordinatorEvent::Opened {
        connection: id,
        outbox: outbox.clone(),
        is_peer: peer.is_some(),
    };
    if shared.coordinator.send(opened).await.is_err() {
        return None;
    }
    reader.decoder = FrameDecoder::new(match peer.is_some() {
        true => FRAME_BYTES_MAX,
        false => shared.frame_bytes_max,
    });
    let end = read_requests(id, peer, reader, outbox, shared).await;
    let closed = CoordinatorEvent::Closed { connection: id };
    // A coordinator that is gone needs no telling.
    let _ = shared.coordinator.send(closed).await;
    end
}

async fn shake_hands(
    reader: &mut FrameReader,
    outbox: &Outbox,
    shared: &Shared,
) -> Result<Option<Arc<PeerIdentity>>, End> {
    let Some(frame) = reader
        .next_frame()
        .await
        .map_err(|e| Some(e.into_reply()))?
    else {
        return Err(None);
    };
    let request_id = frame.header.request_id;
    let hello = match Request::decode(frame.header.kind, &frame.body) {
        Ok(Request::Hello(hello)) => hello,
        Ok(_) => return Err(Some(malformed("the first message must be a hello"))),
        Err(error) => return Err(Some(malformed(&error.to_string()))),
    };
    match shared.admission.admit(&hello).await {
        Ok(welcome) => {
            outbox.respond(request_id, &Response::Welcome(welcome));
            Ok(hello.peer.map(Arc::new))
        }
        Err(error) => {
            tracing::info!(reason = %error, "connection refused");
            outbox.respond(request_id, &Response::Error(error));
            Err(None)
        }
    }
}

async fn read_requests(
    id: ConnectionId,
    peer: Option<Arc<PeerIdentity>>,
    reader: &mut FrameReader,
    outbox: &Arc<Outbox>,
    shared: &Shared,
) -> End {
    let mut data = Vec::new();
    loop {
        // Whoever does not read its answers gets no more of them.
        if outbox.bytes_waiting() > shared.waiting_bytes_max {
            outbox.below(shared.waiting_bytes_max / 2).await;
        }
        let mut control = Vec::new();
        let mut sort = |frame: Frame| match frame.header.kind {
            kind::GET | kind::PUT | kind::DELETE | kind::MERGE | kind::READ => data.push(frame),
            kind::EXPLAIN | kind::EXPORT | kind::IMPORT => data.push(frame),
            kind::COMPARE | kind::LIST | kind::HINT | kind::REPLACE => data.push(frame),
            kind::PING => outbox.respond(frame.header.request_id, &Response::Pong),
            _ => control.push(frame),
        };
        let more = match timeout(IDLE_TIMEOUT, reader.read_frames(&mut sort)).await {
            Ok(Ok(more)) => more,
            Ok(Err(error)) => return Some(error.into_reply()),
            Err(_) => return None,
        };
        if !data.is_empty() {
            let frames = std::mem::take(&mut data);
            let requests = CoordinatorEvent::Requests {
                connection: id,
                frames,
            };
            if shared.coordinator.send(requests).await.is_err() {
                return None;
            }
        }
        for frame in control {
            pass_on(frame, &peer, outbox, shared).await;
        }
        if !more {
            return None;
        }
    }
}

async fn pass_on(
    frame: Frame,
    peer: &Option<Arc<PeerIdentity>>,
    outbox: &Arc<Outbox>,
    shared: &Shared,
) {
    let responder = Responder {
        outbox: outbox.clone(),
        request_id: frame.header.request_id,
    };
    match Request::decode(frame.header.kind, &frame.body) {
        Ok(request) => {
            let event = ControlEvent::Request {
                request: Box::new(request),
                peer: peer.clone(),
                responder,
            };
            // A control task that is gone is shutting down; the connection ends right after.
            let _ = shared.control.send(event).await;
        }
        Err(error) => responder.respond(&Response::Error(undecodable(&error))),
    }
}

fn malformed(what: &str) -> ErrorReply {
    let message =
        format!("{what}; this port speaks the dynakv protocol, metrics are on the HTTP port");
    ErrorReply::new(ErrorCode::Malformed, message)
}

/// Why a connection could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl ReadError {
    fn into_reply(self) -> ErrorReply {
        malformed(&self.to_string())
    }
}

/// Reads frames off a connection, all that each read brings.
pub struct FrameReader {
    read: ReadHalf,
    buffer: BytesMut,
    /// What it accepts; replaced once the handshake is done.
    pub decoder: FrameDecoder,
    /// Counts what is no frame.
    malformed: Counter,
}

impl FrameReader {
    /// A reader that accepts frames up to `length_max` bytes, and counts what is none.
    pub fn new(read: ReadHalf, length_max: usize, malformed: Counter) -> Self {
        Self {
            read,
            buffer: BytesMut::new(),
            decoder: FrameDecoder::new(length_max),
            malformed,
        }
    }

    /// The next frame, or `None` at the end of the connection.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.cut_off()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads once and hands on every message that is whole by then, batches taken apart. False at
    /// the end of the connection.
    ///
    /// # Errors
    /// [`ReadError`]; messages before the damage have been handed on.
    pub async fn read_frames(
        &mut self,
        take: &mut (impl FnMut(Frame) + Send),
    ) -> Result<bool, ReadError> {
        // What came together with the handshake is there already.
        let mut any = false;
        while !any {
            while let Some(frame) = self.cut_off()? {
                split_batch(frame, &mut *take).inspect_err(|_| self.malformed.increment(1))?;
                any = true;
            }
            if !any && !self.fill().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn cut_off(&mut self) -> Result<Option<Frame>, FrameError> {
        let next = self.decoder.next(&mut self.buffer);
        next.inspect_err(|_| self.malformed.increment(1))
    }

    async fn fill(&mut self) -> Result<bool, ReadError> {
        // Large frames are read in large pieces, but memory grows only as bytes come in.
        let lacking = self.decoder.lacking(&self.buffer);
        self.buffer.reserve(lacking.clamp(4096, READ_BYTES));
        Ok(self.read.read_buf(&mut self.buffer).await? > 0)
    }
}
