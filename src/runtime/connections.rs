//! The coordinator's side of connections that came in: answers are gathered here during one turn and
//! leave in one piece.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dynakv_protocol::ErrorReply;
use dynakv_protocol::frame::{BatchWriter, Header, put_frame};
use dynakv_protocol::message::Response;
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

/// All connections that came in.
#[derive(Default)]
pub struct Connections {
    by_id: FxHashMap<ConnectionId, Connection>,
    /// Those with staged answers.
    dirty: Vec<ConnectionId>,
}

impl Connections {
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

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a node is at the other end.
    pub fn is_peer(&self, id: ConnectionId) -> bool {
        self.by_id
            .get(&id)
            .is_some_and(|connection| connection.is_peer)
    }

    /// Stages an answer.
    pub fn respond(&mut self, id: ConnectionId, request_id: u64, response: &Response) {
        let header = Header::new(response.kind(), request_id);
        self.stage(id, header, |out| response.encode(out));
    }

    /// Stages a refusal.
    pub fn refuse(&mut self, id: ConnectionId, request_id: u64, error: ErrorReply) {
        self.respond(id, request_id, &Response::Error(error));
    }

    /// Stages an answer that another node has encoded.
    pub fn pass_on(&mut self, id: ConnectionId, request_id: u64, kind: u8, body: &Bytes) {
        self.stage(id, Header::new(kind, request_id), |out| {
            out.extend_from_slice(body);
        });
    }

    fn stage(&mut self, id: ConnectionId, header: Header, body: impl FnOnce(&mut BytesMut)) {
        // Whoever has hung up gets no answer.
        let Some(connection) = self.by_id.get_mut(&id) else {
            return;
        };
        if connection.is_peer {
            connection.batch.push(&mut connection.staged, header, body);
        } else {
            put_frame(&mut connection.staged, header, body);
        }
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
    }

    /// Hands everything staged to the connections' writers.
    pub fn flush(&mut self) {
        for id in self.dirty.drain(..) {
            if let Some(connection) = self.by_id.get_mut(&id) {
                connection.batch.finish(&mut connection.staged);
                connection.outbox.push(connection.staged.split().freeze());
                connection.is_dirty = false;
            }
        }
    }
}
