//! What is done at each tick, and at the end of each turn.

use super::{Coordinator, ErrorCode, ErrorReply, Kind, OperationId, SLOW_WRITE};
use crate::engine::operation::Event;

impl Coordinator {
    /// Looks after deadlines, links and the disk.
    pub(super) fn on_tick(&mut self) {
        self.look_at_disk();
        let (expired, slow) = self.operations.due(self.now);
        for id in slow {
            self.on_slow(id);
        }
        for id in expired {
            self.step(id, Event::Deadline);
        }
        self.end_parked();
        self.end_ahead();
        if let Some(version) = self.ahead.newest() {
            self.look_for_ring(version);
        }
        for (node, how) in self.links.tick(self.now) {
            self.on_node_lost(node, "it is silent", how);
        }
        self.metrics
            .in_flight
            .set((self.operations.len() + self.replica_jobs) as f64);
        let unread = self.connections.tick(self.now);
        self.metrics.held.closed_unread.increment(unread);
        let requests = self.ledger.held(Kind::ClientRequests);
        self.metrics.in_flight_bytes.set(requests as f64);
        for kind in Kind::ALL {
            let bytes = self.ledger.held(kind);
            self.metrics.held.bytes[kind as usize].set(bytes as f64);
        }
        let connections = self.connections.count();
        self.metrics.doors.connections.set(connections as f64);
        self.metrics.doors.links.set(self.links.up() as f64);
    }

    /// Refuses those that have waited as long as their senders do.
    fn end_ahead(&mut self) {
        for (connection, frame) in self.ahead.expired(self.now) {
            let message = "time is up: this node could not follow the newer ring of its sender yet";
            let error = ErrorReply::new(ErrorCode::Timeout, message).retryable();
            self.connections
                .refuse(connection, frame.header.request_id, error);
        }
    }

    /// An operation takes longer than it should.
    fn on_slow(&mut self, id: OperationId) {
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        if in_hand.operation.as_get().is_some() {
            return self.on_late_read(id);
        }
        self.step(id, Event::Slow);
        let again_at = self.now + SLOW_WRITE;
        if let Some(in_hand) = self.operations.get_mut(id)
            && in_hand.operation.passes_by()
        {
            self.operations.set_slow_at(id, again_at);
        }
    }

    /// The turn is over: hands on everything that came of it.
    pub(super) fn flush(&mut self) {
        loop {
            if !self.awaiting_ring.is_empty() {
                self.rebase_waiting();
            }
            while let Some((id, node)) = self.unsent.pop() {
                self.on_failed(id, node);
            }
            let has_read = self.read_hot();
            if !self.refuse_for_disk() && !has_read {
                break;
            }
        }
        if !self.writes.is_empty() {
            self.store.write(std::mem::take(&mut self.writes));
        }
        if !self.cold_reads.is_empty() {
            self.store.read(std::mem::take(&mut self.cold_reads));
        }
        self.flush_hints();
        self.ledger.set(Kind::Results, self.operations.results());
        let sent_bytes = self.links.flush() + self.connections.flush();
        if sent_bytes > 0 {
            self.metrics.reads.sent_bytes.increment(sent_bytes as u64);
        }
    }
}
