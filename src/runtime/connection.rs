//! One connection that came in: handshake, then requests out of it and answers into it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dynakv_protocol::frame::{Frame, FrameDecoder, FrameError, split_batch, split_batch_refusing};
use dynakv_protocol::handshake::{ClientLimits, GoAway, Lane, PeerIdentity};
use dynakv_protocol::limits::{FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX};
use dynakv_protocol::message::{Request, Response, kind};
use dynakv_protocol::oversize::{Begun, Oversize, Refused};
use dynakv_protocol::{DecodeError, ErrorCode, ErrorReply};
use metrics::Counter;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::farewell::{idle, makes_room, malformed};
use super::admission::{Admission, no_more};
use super::disk_progress::{DiskProgress, HANGING};
use super::dispatch::undecodable;
use super::environment::{ReadHalf, WriteHalf};
use super::events::{
    ConnectionId, ControlEvent, ControlSender, CoordinatorEvent, CoordinatorSender, Responder,
};
use super::metrics::Metrics;
use super::outbox::Outbox;
use super::places::Place;

mod farewell;

/// How long the other side may take over its hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read at once when there is that much.
const READ_BYTES: usize = 64 * 1024;

/// How long what still comes is read and thrown away after the last frame from here, so that the other side can
/// read that one.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a frame that has begun may take in any case.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// How fast a large one must come on the whole, in bytes per second: far slower than any link that a request
/// within its deadline can use. What comes slower holds memory for nothing.
const FRAME_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

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
    /// What clients are told of it and of other bounds.
    pub limits: ClientLimits,
    /// The most bytes of answers that may wait before no more requests are read.
    pub waiting_bytes_max: usize,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the disk hangs.
    pub disk: Arc<DiskProgress>,
    /// The node is about to end: clients are asked to go elsewhere.
    pub draining: CancellationToken,
    /// How long it may then take to answer what it has in hand.
    pub drain: Duration,
    /// Ends all connections.
    pub shutdown: CancellationToken,
}

/// Serves one connection to its end.
pub async fn serve(
    id: ConnectionId,
    read: ReadHalf,
    write: WriteHalf,
    place: Place,
    shared: Shared,
) {
    let outbox = Arc::new(Outbox::default());
    let mut writer = {
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
        end = converse(id, &mut reader, &outbox, &place, &shared) => end,
        // Only if it was busy with something else.
        () = place.is_wanted() => Some(makes_room()),
    };
    if let Some(error) = end {
        outbox.respond(0, &Response::Error(error));
    }
    outbox.close();
    // Only ends when the other side reads or the connection breaks. Who does neither must not keep the
    // descriptor, nor the answers.
    let written = place.within(HANDSHAKE_TIMEOUT, &mut writer).await;
    if written.is_none() {
        writer.abort();
    } else if place.was_greeted() {
        // To close a connection with something unread takes from the other side what it has not read.
        let _ = place.within(LINGER_TIMEOUT, reader.discard()).await;
    }
}

/// Why the connection was closed from here; `None` when the other side ended it.
type End = Option<ErrorReply>;

async fn converse(
    id: ConnectionId,
    reader: &mut FrameReader,
    outbox: &Arc<Outbox>,
    place: &Place,
    shared: &Shared,
) -> End {
    let greeted = tokio::select! {
        biased;
        greeted = timeout(HANDSHAKE_TIMEOUT, shake_hands(reader, outbox, place, shared)) => greeted,
        () = place.is_wanted() => return Some(makes_room()),
    };
    let (peer, knows_goaway) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(end)) => return end,
        Err(_) => return Some(malformed("no hello within 5 s")),
    };
    // Whoever only wants to become a member is let in to ask for that.
    let is_member = peer
        .as_ref()
        .is_some_and(|peer| shared.admission.is_member(peer));
    let opened = CoordinatorEvent::Opened {
        connection: id,
        outbox: outbox.clone(),
        is_peer: is_member,
    };
    if shared.coordinator.send(opened).await.is_err() {
        return None;
    }
    reader.accept(match is_member {
        true => FRAME_BYTES_MAX,
        false => shared.frame_bytes_max,
    });
    let asker = Asker {
        id,
        peer,
        is_member,
        knows_goaway,
    };
    let end = read_requests(asker, reader, outbox, place, shared).await;
    let closed = CoordinatorEvent::Closed { connection: id };
    // A coordinator that is gone needs no telling.
    let _ = shared.coordinator.send(closed).await;
    end
}

async fn shake_hands(
    reader: &mut FrameReader,
    outbox: &Outbox,
    place: &Place,
    shared: &Shared,
) -> Result<(Option<Arc<PeerIdentity>>, bool), End> {
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
    let admitted = shared.admission.admit(&hello).await;
    let peer = hello.peer.as_ref();
    let member = peer.filter(|peer| shared.admission.is_member(peer));
    let greet = || place.greet(member.map(|peer| &peer.node_id));
    match admitted.and_then(|welcome| greet().map(|()| welcome)) {
        Ok(mut welcome) => {
            welcome.limits = hello.peer.is_none().then_some(shared.limits);
            outbox.respond(request_id, &Response::Welcome(welcome));
            Ok((hello.peer.map(Arc::new), hello.knows_goaway))
        }
        Err(error) => {
            tracing::info!(reason = %error, "connection refused");
            outbox.respond(request_id, &Response::Error(error));
            Err(None)
        }
    }
}

/// Who is at the other end.
struct Asker {
    id: ConnectionId,
    /// Who it says it is, when it says that it is a node; nothing for a client.
    peer: Option<Arc<PeerIdentity>>,
    /// Whether the ring had it when the connection was made.
    is_member: bool,
    /// Whether it can be told that no more requests are taken.
    knows_goaway: bool,
}

/// Why no more requests are read.
enum Leave {
    /// The node is about to end.
    Draining,
    /// Another connection needs the place.
    Wanted,
    /// Nothing has come for long.
    Idle,
}

async fn read_requests(
    asker: Asker,
    reader: &mut FrameReader,
    outbox: &Arc<Outbox>,
    place: &Place,
    shared: &Shared,
) -> End {
    let Asker {
        id,
        peer,
        is_member,
        knows_goaway,
    } = asker;
    let is_client = peer.is_none();
    let mut views = shared.admission.changes();
    views.mark_changed();
    let mut data = Vec::new();
    // Of the last request, in the order of the stream.
    let mut last_id = 0;
    loop {
        // Whoever does not read its answers gets no more of them.
        if outbox.bytes_waiting() > shared.waiting_bytes_max {
            outbox.below(shared.waiting_bytes_max / 2).await;
        }
        let mut control = Vec::new();
        let mut has_no_id = false;
        let mut sort = |frame: Frame| {
            last_id = frame.header.request_id;
            // Id 0 addresses the connection. Nodes ping each other with it.
            if is_client && last_id == 0 {
                has_no_id = true;
                return;
            }
            match frame.header.kind {
                kind::GET | kind::PUT | kind::DELETE | kind::MERGE | kind::READ => data.push(frame),
                kind::EXPLAIN | kind::EXPORT | kind::IMPORT => data.push(frame),
                kind::COMPARE | kind::LIST | kind::HINT | kind::REPLACE => data.push(frame),
                kind::PING => outbox.respond(frame.header.request_id, &pong(&frame, &peer, shared)),
                _ => control.push(frame),
            }
        };
        let read = tokio::select! {
            biased;
            () = shared.draining.cancelled(), if knows_goaway => Err(Leave::Draining),
            read = timeout(IDLE_TIMEOUT, reader.read_frames(&mut sort)) => {
                read.map_err(|_| Leave::Idle)
            }
            () = place.is_wanted() => Err(Leave::Wanted),
        };
        let more = match read {
            Ok(Ok(more)) => more,
            Ok(Err(error)) => return Some(error.into_reply()),
            Err(leave) => {
                return go_away(leave, last_id, knows_goaway, reader, outbox, shared).await;
            }
        };
        place.touch();
        for Refused { header, error } in reader.refused.drain(..) {
            has_no_id |= is_client && header.request_id == 0;
            last_id = header.request_id;
            outbox.respond(header.request_id, &Response::Error(error));
        }
        // A member that the ring has with another directory now is one no more.
        let member = peer.as_deref().filter(|_| is_member);
        if let Some(refusal) = member.and_then(|member| no_more(member, &mut views)) {
            return Some(refusal);
        }
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
        if has_no_id {
            return Some(malformed(
                "a request has the id 0, which addresses the connection",
            ));
        }
        if !more {
            return None;
        }
    }
}

/// A ping has no body but, one day, tagged fields. It finds out whether this node lives; from a coordinator, over
/// its link for data and with an id of its own, also whether it takes writes.
fn pong(frame: &Frame, peer: &Option<Arc<PeerIdentity>>, shared: &Shared) -> Response {
    let is_of_write = peer.as_ref().is_some_and(|peer| peer.lane == Lane::Data);
    match Request::decode(frame.header.kind, &frame.body) {
        Ok(_) if is_of_write && frame.header.request_id != 0 && shared.disk.hangs() => {
            Response::Error(ErrorReply::new(ErrorCode::Overloaded, HANGING).retryable())
        }
        Ok(_) => Response::Pong,
        Err(error) => Response::Error(undecodable(&error)),
    }
}

/// Takes no more requests. Whoever knows how hears up to which it may wait for an answer; what comes behind that
/// one is thrown away, pings excepted, so that it is certain that it was not carried out.
async fn go_away(
    leave: Leave,
    last_id: u64,
    knows_goaway: bool,
    reader: &mut FrameReader,
    outbox: &Arc<Outbox>,
    shared: &Shared,
) -> End {
    let (drain, end) = match leave {
        Leave::Draining => (shared.drain, None),
        // Nothing is in hand for a client that has been idle for so long.
        Leave::Wanted => (Duration::ZERO, Some(makes_room())),
        Leave::Idle => (Duration::ZERO, Some(idle())),
    };
    if knows_goaway {
        let reason = match &end {
            None => "the node is shutting down: ask another one".to_owned(),
            Some(error) => error.message.clone(),
        };
        let goaway = GoAway {
            last_id,
            drain_ms: drain.as_millis() as u32,
            reason,
        };
        outbox.respond(0, &Response::GoAway(goaway));
    }
    if end.is_some() {
        return end;
    }
    // Ended by the other side, or by the shutdown.
    let mut answer_pings = |frame: Frame| {
        if frame.header.kind == kind::PING {
            outbox.respond(frame.header.request_id, &pong(&frame, &None, shared));
        }
    };
    loop {
        match reader.read_frames(&mut answer_pings).await {
            Ok(true) => reader.refused.clear(),
            Ok(false) => return None,
            Err(error) => return Some(error.into_reply()),
        }
        if outbox.bytes_waiting() > shared.waiting_bytes_max {
            outbox.below(shared.waiting_bytes_max / 2).await;
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

/// Why a connection could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame began and did not come to its end.
    #[error(
        "a frame of {length} bytes has begun and does not come to its end: {received} bytes are there"
    )]
    Stalled {
        /// Its length, as far as that is known, in bytes.
        length: usize,
        /// How much of it came.
        received: usize,
    },
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
    /// The longest frame that is accepted, and up to which longer ones are passed over.
    length_max: usize,
    passed_max: usize,
    /// Whether what cannot be taken is refused one by one; it ends the connection otherwise.
    takes_requests: bool,
    /// A frame that is being passed over.
    oversize: Option<Box<Oversize>>,
    /// What the last read brought and cannot be taken, for whoever accepts requests.
    pub refused: Vec<Refused>,
    /// Whether the other side has ended the connection.
    is_at_end: bool,
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
            length_max,
            passed_max: length_max,
            takes_requests: false,
            oversize: None,
            refused: Vec::new(),
            is_at_end: false,
            malformed,
        }
    }

    /// Accepts requests up to `length_max` bytes from now on. Longer ones, up to the longest of all, are passed over
    /// and, like items of a batch that cannot be taken, found in [`refused`](Self::refused).
    fn accept(&mut self, length_max: usize) {
        self.decoder = FrameDecoder::new(length_max);
        self.length_max = length_max;
        self.passed_max = FRAME_BYTES_MAX;
        self.takes_requests = true;
    }

    /// Reads and throws away until the other side ends the connection.
    async fn discard(&mut self) {
        while !self.is_at_end {
            self.buffer.clear();
            self.buffer.reserve(READ_BYTES);
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => self.is_at_end = true,
                Ok(_) => {}
            }
        }
    }

    /// The next frame, or `None` at the end of the connection.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        let mut begun = None;
        loop {
            if let Some(frame) = self.cut_off()? {
                return Ok(Some(frame));
            }
            if !self.fill(&mut begun).await? {
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
        let mut begun = None;
        while !any {
            while let Some(frame) = self.cut_off()? {
                self.split(frame, take)?;
                any = true;
            }
            any |= !self.refused.is_empty();
            if !any && !self.fill(&mut begun).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn split(&mut self, frame: Frame, take: &mut impl FnMut(Frame)) -> Result<(), FrameError> {
        let takes_requests = self.takes_requests;
        let refused = &mut self.refused;
        let refuse = |header, error: DecodeError| {
            let error = undecodable(&error);
            refused.push(Refused { header, error });
            Ok(())
        };
        let split = match takes_requests {
            true => split_batch_refusing(frame, take, refuse),
            false => split_batch(frame, take),
        };
        split.inspect_err(|_| self.malformed.increment(1))
    }

    fn cut_off(&mut self) -> Result<Option<Frame>, FrameError> {
        let next = self.try_cut_off();
        next.inspect_err(|_| self.malformed.increment(1))
    }

    fn try_cut_off(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(oversize) = &mut self.oversize {
                let Some(refused) = oversize.pass(&mut self.buffer)? else {
                    return Ok(None);
                };
                self.refused.extend(refused);
                self.oversize = None;
            }
            match Oversize::begin(&mut self.buffer, self.length_max, self.passed_max)? {
                Begun::No => return self.decoder.next(&mut self.buffer),
                Begun::NotYet => return Ok(None),
                Begun::Yes(oversize) => self.oversize = Some(oversize),
            }
        }
    }

    /// Reads once. `begun` is when it was first waited for the end of the present frame; the time that its
    /// reader did something else in does not count.
    async fn fill(&mut self, begun: &mut Option<Instant>) -> Result<bool, ReadError> {
        // Large frames are read in large pieces, but memory grows only as bytes come in.
        let (lacking, length) = match &self.oversize {
            Some(oversize) => (oversize.left(), oversize.length()),
            None => {
                let lacking = self.decoder.lacking(&self.buffer);
                (lacking, self.buffer.len() + lacking)
            }
        };
        self.buffer.reserve(lacking.clamp(4096, READ_BYTES));
        if self.buffer.is_empty() && self.oversize.is_none() {
            return self.read_once().await;
        }
        let begun = *begun.get_or_insert_with(Instant::now);
        let transfer = Duration::from_secs(length as u64 / FRAME_BYTES_PER_SECOND_MIN);
        match timeout_at(begun + FRAME_TIMEOUT + transfer, self.read_once()).await {
            Ok(read) => read,
            Err(_) => Err(ReadError::Stalled {
                length,
                received: self.buffer.len(),
            }),
        }
    }

    async fn read_once(&mut self) -> Result<bool, ReadError> {
        let read = self.read.read_buf(&mut self.buffer).await;
        self.is_at_end = !matches!(read, Ok(1..));
        Ok(read? > 0)
    }
}
