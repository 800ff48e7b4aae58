//! The coordinator's side of connections that came in: answers are gathered here during one turn and
//! leave in one piece.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::frame::{BatchWriter, Header, try_put_frame};
use dynakv_protocol::limits::FRAME_BYTES_MAX;
use dynakv_protocol::message::Response;
use dynakv_protocol::{ErrorCode, ErrorReply, RingVersion};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::engine::write::lateness::Lateness;
use crate::runtime::shared::events::ConnectionId;
use crate::runtime::shared::ledger::{Kind, Ledger};
use crate::runtime::shared::outbox::{Outbox, UNREAD_BYTES};

/// Answers to one client or node.
struct Connection {
    outbox: Arc<Outbox>,
    is_peer: bool,
    /// When it was welcomed: what it says of times it counts from there.
    since: Instant,
    /// How long what it dates is on its way.
    lateness: Lateness,
    staged: BytesMut,
    /// Nodes get batches; clients get a frame each, so that the simplest client can read them.
    batch: BatchWriter,
    is_dirty: bool,
    /// Bytes of the last answer.
    last_bytes: usize,
    /// Reads answered in this turn.
    reads_ended: usize,
    /// The largest answer to a read of late.
    answer_bytes: usize,
    /// How much it had read when that was looked at in a shortage.
    seen_written: Option<usize>,
    /// The newest ring that it was told whole.
    told_ring: RingVersion,
}

impl Connection {
    fn kind(&self) -> Kind {
        match self.is_peer {
            true => Kind::PeerAnswers,
            false => Kind::ClientAnswers,
        }
    }
}

/// For about how many answers a large one is remembered, so that the next reads are not taken for small.
const ANSWERS_REMEMBERED: usize = 16;

/// How often it is looked in a shortage who does not read.
const SHORTAGE_LOOK: Duration = Duration::from_secs(1);

/// A connection for which this many times the settings' bound waits gets refusals in place of answers.
///
/// At the bound itself no more requests are read; what was read by then may still be answered, unless
/// the answers are far larger than the requests.
const REFUSED_FACTOR: usize = 4;

/// All connections that came in.
pub struct Connections {
    /// How many bytes may wait for one connection before answers turn into refusals.
    waiting_bytes_max: usize,
    by_id: FxHashMap<ConnectionId, Connection>,
    /// Those with staged answers.
    dirty: Vec<ConnectionId>,
    ledger: Arc<Ledger>,
    /// When it was last looked in a shortage who does not read.
    looked_at: Option<Instant>,
}

impl Connections {
    /// No connections yet; `waiting_bytes_max` is the settings' bound for one of them.
    pub fn new(waiting_bytes_max: usize, ledger: Arc<Ledger>) -> Self {
        Self {
            waiting_bytes_max: waiting_bytes_max.saturating_mul(REFUSED_FACTOR),
            by_id: FxHashMap::default(),
            dirty: Vec::new(),
            ledger,
            looked_at: None,
        }
    }

    /// Takes a connection in.
    pub fn open(&mut self, id: ConnectionId, outbox: Arc<Outbox>, is_peer: bool, since: Instant) {
        let connection = Connection {
            outbox,
            is_peer,
            since,
            lateness: Lateness::default(),
            staged: BytesMut::new(),
            batch: BatchWriter::default(),
            is_dirty: false,
            last_bytes: 0,
            reads_ended: 0,
            answer_bytes: 0,
            seen_written: None,
            told_ring: RingVersion(0),
        };
        self.by_id.insert(id, connection);
    }

    /// Whether a ring is news there: it is told whole once, as the requests that it refuses come in thousands.
    pub fn is_ring_news(&mut self, id: ConnectionId, version: RingVersion) -> bool {
        let connection = self.by_id.get_mut(&id);
        connection.is_some_and(|it| {
            let told = std::mem::replace(&mut it.told_ring, version);
            told < version
        })
    }

    /// For how long a message was on its way, at most, that came at this moment and says when it was sent.
    pub fn lateness(&mut self, id: ConnectionId, sent_ms: u64, came: Instant) -> Option<Duration> {
        let connection = self.by_id.get_mut(&id)?;
        let came_ms = came.saturating_duration_since(connection.since).as_millis();
        let came_ms = u64::try_from(came_ms).unwrap_or(u64::MAX);
        let late_ms = connection.lateness.of(sent_ms, came_ms);
        Some(Duration::from_millis(late_ms))
    }

    /// Forgets a connection; answers to it are dropped from now on.
    pub fn close(&mut self, id: ConnectionId) {
        self.by_id.remove(&id);
    }

    /// How many have come in.
    pub fn count(&self) -> usize {
        let own = [ConnectionId::LOCAL, ConnectionId::ANTI_ENTROPY];
        let own = own.iter().filter(|id| self.by_id.contains_key(id)).count();
        self.by_id.len() - own
    }

    /// Whether a node is at the other end.
    pub fn is_peer(&self, id: ConnectionId) -> bool {
        self.by_id
            .get(&id)
            .is_some_and(|connection| connection.is_peer)
    }

    /// Stages an answer, or a refusal when its receiver does not read.
    pub fn respond(&mut self, id: ConnectionId, request_id: u64, response: &Response) {
        if self.is_clogged(id) && !matches!(response, Response::Error(_)) {
            return self.refuse(id, request_id, clogged());
        }
        let header = Header::new(response.kind(), request_id);
        self.stage(id, header, |out| response.encode(out));
    }

    /// Stages a refusal.
    pub fn refuse(&mut self, id: ConnectionId, request_id: u64, error: ErrorReply) {
        self.respond(id, request_id, &Response::Error(error));
    }

    /// Stages an answer that another node has encoded.
    pub fn pass_on(&mut self, id: ConnectionId, request_id: u64, kind: u8, body: &Bytes) {
        if self.is_clogged(id) {
            return self.refuse(id, request_id, clogged());
        }
        self.stage(id, Header::new(kind, request_id), |out| {
            out.extend_from_slice(body);
        });
    }

    /// A client's read has ended with the last answer.
    pub fn end_read(&mut self, id: ConnectionId, is_found: bool) {
        if let Some(connection) = self.by_id.get_mut(&id)
            && !connection.is_peer
            && id != ConnectionId::LOCAL
        {
            connection.reads_ended += 1;
            // A refusal says nothing of what other answers are like.
            if is_found {
                let before = connection.answer_bytes;
                let faded = before - before / ANSWERS_REMEMBERED;
                connection.answer_bytes = connection.last_bytes.max(faded);
            }
        }
    }

    /// Whether more answers wait for it than it may leave unread, or for all together and for it, too.
    fn is_clogged(&self, id: ConnectionId) -> bool {
        self.by_id.get(&id).is_some_and(|connection| {
            let waiting = connection.outbox.bytes_waiting() + connection.staged.len();
            let kind = connection.kind();
            let (all, all_max) = (self.ledger.held(kind), self.ledger.bytes_max(kind));
            waiting > self.waiting_bytes_max
                || all > all_max && waiting > UNREAD_BYTES
                || all > all_max.saturating_mul(2)
        })
    }

    /// Hangs up on those that do not read while unread answers take all the room that they may. Gives how
    /// many they were.
    pub fn tick(&mut self, now: Instant) -> u64 {
        let kinds = [Kind::ClientAnswers, Kind::PeerAnswers];
        let short = kinds.map(|kind| self.ledger.is_full(kind));
        if short == [false, false] {
            if self.looked_at.take().is_some() {
                for connection in self.by_id.values_mut() {
                    connection.seen_written = None;
                }
            }
            return 0;
        }
        if let Some(looked_at) = self.looked_at
            && now - looked_at < SHORTAGE_LOOK
        {
            return 0;
        }
        self.looked_at = Some(now);
        let mut closed = 0;
        for connection in self.by_id.values_mut() {
            let is_short = short[usize::from(connection.is_peer)];
            let outbox = &connection.outbox;
            let written = outbox.bytes_written();
            let is_behind = is_short && outbox.bytes_waiting() > UNREAD_BYTES;
            let before = connection.seen_written.replace(written);
            let reads = before.is_none_or(|before| written - before >= UNREAD_BYTES);
            if is_behind && !reads && !outbox.is_closed() {
                outbox.cut();
                closed += 1;
            }
        }
        closed
    }

    fn stage(&mut self, id: ConnectionId, header: Header, body: impl FnOnce(&mut BytesMut)) {
        // Whoever has hung up gets no answer.
        let Some(connection) = self.by_id.get_mut(&id) else {
            return;
        };
        let staged = &mut connection.staged;
        let before = staged.len();
        let fits = if connection.is_peer {
            connection
                .batch
                .try_push(staged, header, FRAME_BYTES_MAX, body)
        } else {
            try_put_frame(staged, header, FRAME_BYTES_MAX, body)
        };
        if !fits {
            return self.refuse(id, header.request_id, too_large());
        }
        connection.last_bytes = staged.len() - before;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
    }

    /// Hands everything staged to the connections' writers. Gives how many bytes of it were for other
    /// nodes.
    pub fn flush(&mut self) -> usize {
        let mut peer_bytes = 0;
        for id in self.dirty.drain(..) {
            if let Some(connection) = self.by_id.get_mut(&id) {
                connection.batch.finish(&mut connection.staged);
                if connection.is_peer && id != ConnectionId::ANTI_ENTROPY {
                    peer_bytes += connection.staged.len();
                }
                let reads = std::mem::take(&mut connection.reads_ended);
                if reads > 0 {
                    connection.outbox.end_reads(reads, connection.answer_bytes);
                }
                connection.outbox.push(connection.staged.split().freeze());
                connection.is_dirty = false;
            }
        }
        peer_bytes
    }
}

/// A frame that is too long would end the connection, and with it all that waits there.
fn too_large() -> ErrorReply {
    let message = format!(
        "the versions of the key do not fit into an answer ({FRAME_BYTES_MAX} bytes): `dynakv explain` tells \
         who has what of it"
    );
    ErrorReply::new(ErrorCode::TooLarge, message)
}

fn clogged() -> ErrorReply {
    let message = "the answers to earlier requests of this connection wait to be read; read them, and \
                   ask for less at once. If it was a write, it may have been applied";
    ErrorReply::new(ErrorCode::Overloaded, message)
        .maybe_applied(true)
        .retryable()
}
