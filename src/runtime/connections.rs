//! The coordinator's side of connections that came in: answers are gathered here during one turn and
//! leave in one piece.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::frame::{BatchWriter, Header, try_put_frame};
use dynakv_protocol::limits::FRAME_BYTES_MAX;
use dynakv_protocol::message::Response;
use dynakv_protocol::{ErrorCode, ErrorReply};
use rustc_hash::FxHashMap;

use super::events::ConnectionId;
use super::outbox::Outbox;

/// Answers to one client or node.
struct Connection {
    outbox: Arc<Outbox>,
    is_peer: bool,
    staged: BytesMut,
    /// Nodes get batches; clients get a frame each, so that the simplest client can read them.
    batch: BatchWriter,
    is_dirty: bool,
}

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
}

impl Connections {
    /// No connections yet; `waiting_bytes_max` is the settings' bound for one of them.
    pub fn new(waiting_bytes_max: usize) -> Self {
        Self {
            waiting_bytes_max: waiting_bytes_max.saturating_mul(REFUSED_FACTOR),
            by_id: FxHashMap::default(),
            dirty: Vec::new(),
        }
    }

    /// Takes a connection in.
    pub fn open(&mut self, id: ConnectionId, outbox: Arc<Outbox>, is_peer: bool) {
        let connection = Connection {
            outbox,
            is_peer,
            staged: BytesMut::new(),
            batch: BatchWriter::default(),
            is_dirty: false,
        };
        self.by_id.insert(id, connection);
    }

    /// Forgets a connection; answers to it are dropped from now on.
    pub fn close(&mut self, id: ConnectionId) {
        self.by_id.remove(&id);
    }

    /// How many have come in.
    pub fn count(&self) -> usize {
        let own = [ConnectionId::LOCAL, ConnectionId::MENDER];
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

    /// Whether more answers wait for it than it may leave unread.
    fn is_clogged(&self, id: ConnectionId) -> bool {
        self.by_id.get(&id).is_some_and(|connection| {
            let waiting = connection.outbox.bytes_waiting() + connection.staged.len();
            waiting > self.waiting_bytes_max
        })
    }

    fn stage(&mut self, id: ConnectionId, header: Header, body: impl FnOnce(&mut BytesMut)) {
        // Whoever has hung up gets no answer.
        let Some(connection) = self.by_id.get_mut(&id) else {
            return;
        };
        let staged = &mut connection.staged;
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
                if connection.is_peer && id != ConnectionId::MENDER {
                    peer_bytes += connection.staged.len();
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
