//! One connection that came in: handshake, then requests out of it and answers into it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::ErrorReply;
use dynakv_protocol::frame::{Frame, FrameDecoder};
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::limits::{FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX};
use dynakv_protocol::message::{Request, Response, kind};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::dispatch::undecodable;
use super::environment::{ReadHalf, WriteHalf};
use super::events::{
    ConnectionId, ControlEvent, ControlSender, CoordinatorEvent, CoordinatorSender, Responder,
};
use super::frame_reader::{FrameReader, Intake, ReadError, Source, malformed};
use super::ledger::{Kind, Ledger};
use super::metrics::Metrics;
use super::outbox::Outbox;

/// How long the other side may take over its hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// What is held for others.
    pub ledger: Arc<Ledger>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Ends all connections.
    pub shutdown: CancellationToken,
}

/// Serves one connection to its end.
pub async fn serve(id: ConnectionId, read: ReadHalf, write: WriteHalf, shared: Shared) {
    let outbox = Arc::new(Outbox::counted(shared.ledger.clone(), Kind::ClientAnswers));
    let writer = {
        let (outbox, metrics) = (outbox.clone(), shared.metrics.clone());
        tokio::spawn(async move {
            let written = outbox.write_to(write).await;
            if written.is_err_and(|error| error.kind() == ErrorKind::TimedOut) {
                metrics.held.closed_unread.increment(1);
            }
        })
    };
    let intake = Intake {
        malformed: shared.metrics.malformed_frames.clone(),
        ledger: shared.ledger.clone(),
    };
    let mut reader = FrameReader::new(read, HANDSHAKE_FRAME_BYTES_MAX, intake, Source::Client);
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
    if peer.is_some() {
        reader.comes_from(Source::Peer);
        outbox.count_as(Kind::PeerAnswers);
    }
    let end = tokio::select! {
        biased;
        // Who does not read its answers is not waited for.
        () = outbox.closed() => None,
        end = read_requests(id, peer, reader, outbox, shared) => end,
    };
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
    let mut held = Held::default();
    let mut data = Vec::new();
    loop {
        // What nodes forward for others was held back where it came in.
        let frames = match peer.is_some() {
            true => std::mem::take(&mut data),
            false => held.next(&mut data, outbox, shared.waiting_bytes_max),
        };
        if !frames.is_empty() {
            let requests = CoordinatorEvent::Requests {
                connection: id,
                frames,
            };
            if shared.coordinator.send(requests).await.is_err() {
                return None;
            }
        }
        // Whoever does not read its answers gets no more of them.
        tokio::select! {
            biased;
            () = outbox.caught_up(shared.waiting_bytes_max) => {}
            error = reader.displaced() => {
                shared.metrics.held.closed_displaced.increment(1);
                return Some(error.into_reply());
            }
        }
        let mut control = Vec::new();
        let mut sort = |frame: Frame| match frame.header.kind {
            kind::GET | kind::PUT | kind::DELETE | kind::MERGE | kind::READ => data.push(frame),
            kind::EXPLAIN | kind::EXPORT | kind::IMPORT => data.push(frame),
            kind::COMPARE | kind::LIST | kind::HINT => data.push(frame),
            kind::PING => outbox.respond(frame.header.request_id, &Response::Pong),
            _ => control.push(frame),
        };
        let read = tokio::select! {
            biased;
            () = outbox.room_for_reads(shared.waiting_bytes_max), if !held.is_empty() => continue,
            // Pings are answered meanwhile.
            read = timeout(IDLE_TIMEOUT, reader.read_frames(&mut sort)), if held.may_grow() => read,
        };
        let more = match read {
            Ok(Ok(more)) => more,
            Ok(Err(error)) => {
                match &error {
                    ReadError::Stalled => shared.metrics.held.closed_stalled.increment(1),
                    ReadError::Displaced => shared.metrics.held.closed_displaced.increment(1),
                    ReadError::Frame(_) | ReadError::Io(_) => {}
                }
                return Some(error.into_reply());
            }
            Err(_) => return None,
        };
        for frame in control {
            pass_on(frame, &peer, outbox, shared).await;
        }
        if !more {
            return None;
        }
    }
}

/// How many requests a connection may have waiting because the answers to its reads would be too much at
/// once. More than clients have under way, so that theirs never keep a ping from being read.
const HELD_MAX: usize = 4096;

/// Requests of a client that wait behind reads whose answers would be too much at once: a few bytes ask for a
/// megabyte, and all others would wait for those.
#[derive(Default)]
struct Held(Vec<Frame>);

impl Held {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn may_grow(&self) -> bool {
        self.0.len() < HELD_MAX
    }

    /// Adds requests; gives those that may go on, in the order in which they came.
    fn next(&mut self, came: &mut Vec<Frame>, outbox: &Outbox, bytes_max: usize) -> Vec<Frame> {
        match self.0.is_empty() {
            true => std::mem::swap(&mut self.0, came),
            false => self.0.append(came),
        }
        let is_read = |frame: &Frame| frame.header.kind == kind::GET;
        let reads = self.0.iter().filter(|frame| is_read(frame)).count();
        let begun = match reads {
            0 => 0,
            reads => outbox.begin_reads(reads, bytes_max),
        };
        // Up to the first read that has to wait.
        let places = self.0.iter().enumerate().filter(|(_, it)| is_read(it));
        let waits_at = places.map(|(at, _)| at).nth(begun);
        let rest = waits_at.map_or_else(Vec::new, |at| self.0.split_off(at));
        std::mem::replace(&mut self.0, rest)
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
                body: frame.body,
                peer: peer.clone(),
                responder,
            };
            // A control task that is gone is shutting down; the connection ends right after.
            let _ = shared.control.send(event).await;
        }
        Err(error) => responder.respond(&Response::Error(undecodable(&error))),
    }
}
