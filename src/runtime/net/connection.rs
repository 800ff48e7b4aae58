//! One connection that came in: handshake, then requests out of it and answers into it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::frame::Frame;
use dynakv_protocol::handshake::{ClientLimits, GoAway, Lane, PeerIdentity};
use dynakv_protocol::limits::{FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX};
use dynakv_protocol::message::{Request, Response, kind};
use dynakv_protocol::oversize::Refused;
use dynakv_protocol::traffic::TrafficClass;
use dynakv_protocol::{ErrorCode, ErrorReply};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::farewell::{idle, makes_room};
use self::held::Held;
use super::admission::{Admission, no_more};
use super::frame_reader::{FrameReader, Intake, ReadError, Source, malformed};
use crate::runtime::net::undecodable::undecodable;
use crate::runtime::observe::http::sent_to_data_port;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::disk_progress::{DiskProgress, HANGING};
use crate::runtime::shared::environment::{ReadHalf, WriteHalf};
use crate::runtime::shared::events::{
    ConnectionId, ControlEvent, ControlSender, CoordinatorEvent, CoordinatorSender, Responder,
};
use crate::runtime::shared::ledger::{Kind, Ledger};
use crate::runtime::shared::outbox::Outbox;
use crate::runtime::shared::places::Place;

mod farewell;
mod held;

/// How long the other side may take over its hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what still comes is read and thrown away after the last frame from here, so that the other side can
/// read that one.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Where those belong who send HTTP here.
    pub http_port: u16,
    /// The most bytes of answers that may wait before no more requests are read.
    pub waiting_bytes_max: usize,
    /// What is held for others.
    pub ledger: Arc<Ledger>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the disk hangs.
    pub disk: Arc<DiskProgress>,
    /// The node is about to end, or goes out of its ring: clients are asked to go elsewhere.
    pub clients: CancellationToken,
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
    let outbox = Arc::new(Outbox::counted(shared.ledger.clone(), Kind::ClientAnswers));
    let mut writer = {
        let (outbox, metrics) = (outbox.clone(), shared.metrics.clone());
        tokio::spawn(async move {
            let written = outbox.write_to(write).await;
            if written.is_err_and(|error| error.kind() == ErrorKind::TimedOut) {
                metrics.held.closed_unread.increment(1);
            }
        })
    };
    let intake = Intake {
        malformed: shared.metrics.doors.malformed_frames.clone(),
        ledger: shared.ledger.clone(),
    };
    let mut reader = FrameReader::new(read, HANDSHAKE_FRAME_BYTES_MAX, intake, Source::Client);
    let mut course = Course::default();
    let end = tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => None,
        end = converse(id, &mut reader, &outbox, &place, &shared, &mut course) => end,
        // Only if it was busy with something else.
        () = place.is_wanted() => Some(makes_room()),
    };
    if let Some(error) = end {
        outbox.respond(0, &Response::Error(error));
    }
    outbox.close();
    if course.is_opened {
        // However the conversation ended. A coordinator that is gone needs no telling.
        let closed = CoordinatorEvent::Closed { connection: id };
        let _ = shared.coordinator.send(closed).await;
    }
    // Only ends when the other side reads or the connection breaks. Who does neither must not keep the
    // descriptor, nor the answers.
    let written = place.within(HANDSHAKE_TIMEOUT, &mut writer).await;
    if written.is_none() {
        outbox.cut();
    } else if place.was_greeted() || course.is_http {
        // To close a connection with something unread takes from the other side what it has not read.
        let _ = place.within(LINGER_TIMEOUT, reader.discard()).await;
    }
}

/// How far a conversation came.
#[derive(Debug, Default)]
struct Course {
    /// The coordinator knows of it.
    is_opened: bool,
    /// The other side sent HTTP, and was answered with it.
    is_http: bool,
}

/// Why the connection was closed from here; `None` when the other side ended it.
type End = Option<ErrorReply>;

async fn converse(
    id: ConnectionId,
    reader: &mut FrameReader,
    outbox: &Arc<Outbox>,
    place: &Place,
    shared: &Shared,
    course: &mut Course,
) -> End {
    let greeted = tokio::select! {
        biased;
        greeted = timeout(HANDSHAKE_TIMEOUT, shake_hands(reader, outbox, place, shared, course)) => greeted,
        () = place.is_wanted() => return Some(makes_room()),
    };
    let (peer, knows_goaway, since) = match greeted {
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
        caller: peer
            .as_ref()
            .filter(|_| is_member)
            .map(|peer| peer.node_id.clone()),
        since,
    };
    // Also when it is given up before that is over.
    course.is_opened = true;
    if shared.coordinator.send(opened).await.is_err() {
        return None;
    }
    reader.accept(match is_member {
        true => FRAME_BYTES_MAX,
        false => shared.frame_bytes_max,
    });
    if is_member {
        reader.comes_from(Source::Peer);
        outbox.count_as(Kind::PeerAnswers);
    }
    let asker = Asker {
        id,
        peer,
        is_member,
        knows_goaway,
    };
    tokio::select! {
        biased;
        // Who does not read its answers is not waited for.
        () = outbox.closed() => None,
        end = read_requests(asker, reader, outbox, place, shared) => end,
    }
}

async fn shake_hands(
    reader: &mut FrameReader,
    outbox: &Outbox,
    place: &Place,
    shared: &Shared,
    course: &mut Course,
) -> Result<(Option<Arc<PeerIdentity>>, bool, Instant), End> {
    let frame = match reader.next_frame().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(None),
        Err(error) if error.is_http() => {
            outbox.push(sent_to_data_port(shared.http_port).into());
            course.is_http = true;
            return Err(None);
        }
        Err(error) => return Err(Some(error.into_reply())),
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
            let since = Instant::now();
            outbox.respond(request_id, &Response::Welcome(welcome));
            Ok((hello.peer.map(Arc::new), hello.knows_goaway, since))
        }
        Err(error) => {
            shared.metrics.doors.hellos_refused.increment(1);
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

impl Asker {
    fn is_client(&self) -> bool {
        self.peer.is_none()
    }
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

/// What one read brought, by who takes it.
#[derive(Default)]
struct Sorted {
    /// For the coordinator.
    data: Vec<Frame>,
    /// For the control task.
    control: Vec<Frame>,
    /// A client sent a request with the id 0.
    has_no_id: bool,
}

impl Sorted {
    /// Takes one in, or answers it right away.
    fn take(&mut self, frame: Frame, asker: &Asker, outbox: &Outbox, shared: &Shared) {
        // Id 0 addresses the connection. Nodes ping each other with it.
        if asker.is_client() && frame.header.request_id == 0 {
            self.has_no_id = true;
            return;
        }
        match TrafficClass::of(frame.header.kind) {
            Some(
                TrafficClass::Client
                | TrafficClass::Export
                | TrafficClass::Replica
                | TrafficClass::Mending,
            ) => self.data.push(frame),
            Some(TrafficClass::Liveness) => {
                let answer = pong(&frame, &asker.peer, shared);
                outbox.respond(frame.header.request_id, &answer);
            }
            // What is out of place, or unknown, is refused there.
            Some(TrafficClass::Control | TrafficClass::Handshake) | None => {
                self.control.push(frame);
            }
        }
    }
}

async fn read_requests(
    asker: Asker,
    reader: &mut FrameReader,
    outbox: &Arc<Outbox>,
    place: &Place,
    shared: &Shared,
) -> End {
    let (peer, knows_goaway) = (&asker.peer, asker.knows_goaway);
    let mut views = shared.admission.changes();
    views.mark_changed();
    let mut held = Held::default();
    let mut came = Sorted::default();
    loop {
        // What nodes forward for others was held back where it came in.
        let frames = match asker.is_member {
            true => std::mem::take(&mut came.data),
            false => held.next(&mut came.data, outbox, shared.waiting_bytes_max),
        };
        if !frames.is_empty() {
            let requests = CoordinatorEvent::Requests {
                connection: asker.id,
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
            error = reader.displaced() => return Some(broken(error, shared)),
        }
        let mut take = |frame: Frame| came.take(frame, &asker, outbox, shared);
        let read = tokio::select! {
            biased;
            // What was taken from the stream is carried out first.
            () = shared.clients.cancelled(), if knows_goaway && held.is_empty() => {
                Err(Leave::Draining)
            }
            () = outbox.room_for_reads(shared.waiting_bytes_max), if !held.is_empty() => continue,
            // Pings are answered meanwhile.
            read = timeout(IDLE_TIMEOUT, reader.read_frames(&mut take)), if held.may_grow() => {
                read.map_err(|_| Leave::Idle)
            }
            () = place.is_wanted() => Err(Leave::Wanted),
        };
        let more = match read {
            Ok(Ok(more)) => more,
            Ok(Err(error)) => return Some(broken(error, shared)),
            Err(leave) => return go_away(leave, knows_goaway, reader, outbox, shared).await,
        };
        place.touch();
        for Refused { header, error } in reader.refused.drain(..) {
            came.has_no_id |= asker.is_client() && header.request_id == 0;
            outbox.respond(header.request_id, &Response::Error(error));
        }
        // A member that the ring has with another directory now is one no more.
        let member = peer.as_deref().filter(|_| asker.is_member);
        if let Some(refusal) = member.and_then(|member| no_more(member, &mut views)) {
            return Some(refusal);
        }
        for frame in came.control.drain(..) {
            pass_on(frame, peer, outbox, shared).await;
        }
        if came.has_no_id {
            let message = "a request has the id 0, which addresses the connection";
            return Some(malformed(message));
        }
        if !more {
            return None;
        }
    }
}

/// Counts what broke the stream of requests, and says what is said of it.
fn broken(error: ReadError, shared: &Shared) -> ErrorReply {
    match &error {
        ReadError::Stalled { .. } => shared.metrics.held.closed_stalled.increment(1),
        ReadError::Displaced => shared.metrics.held.closed_displaced.increment(1),
        ReadError::Frame(_) | ReadError::Io(_) => {}
    }
    error.into_reply()
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
            None => "the node is shutting down, or leaves the cluster: ask another one".to_owned(),
            Some(error) => error.message.clone(),
        };
        let goaway = GoAway {
            last_id: reader.last_id,
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
