//! What is done at each tick, and at the end of each turn.

use super::{
    Coordinator, ErrorCode, ErrorReply, Kind, Parked, Work, explain, forward, get, import, put,
};

impl Coordinator {
    /// Looks after deadlines, links and the disk.
    pub(super) fn on_tick(&mut self) {
        self.look_at_disk();
        let (expired, slow) = self.operations.due(self.now);
        for id in slow {
            match self.operations.get_mut(id).map(|operation| &operation.work) {
                Some(Work::Get(_)) => self.on_late_read(id),
                Some(Work::Forward(_)) => self.step_forward(id, forward::Event::Slow),
                Some(Work::Put { .. }) => self.on_slow_write(id),
                Some(Work::Explain(_) | Work::Import { .. }) | None => {}
            }
        }
        for id in expired {
            match self.operations.get_mut(id).map(|operation| &operation.work) {
                Some(Work::Get(_)) => self.step_get(id, get::Event::Deadline),
                Some(Work::Put { .. }) => self.step_put(id, put::Event::Deadline),
                Some(Work::Forward(_)) => self.step_forward(id, forward::Event::Deadline),
                Some(Work::Explain(_)) => self.step_explain(id, explain::Event::Deadline),
                Some(Work::Import { .. }) => self.step_import(id, import::Event::Deadline),
                None => {}
            }
        }
        for Parked {
            requester, waits, ..
        } in self.parking.expired(self.now)
        {
            let error = ErrorReply::new(ErrorCode::Timeout, waits.too_long()).retryable();
            self.end(requester, Err(error));
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

    /// The turn is over: hands on everything that came of it.
    pub(super) fn flush(&mut self) {
        loop {
            while let Some((id, node)) = self.unsent.pop() {
                self.on_replica_failed(id, node);
            }
            if !self.refuse_for_disk() {
                break;
            }
        }
        if !self.writes.is_empty() {
            self.store.write(std::mem::take(&mut self.writes));
        }
        if !self.reads.is_empty() {
            self.store.read(std::mem::take(&mut self.reads));
        }
        self.flush_hints();
        self.ledger.set(Kind::Results, self.operations.results());
        let sent_bytes = self.links.flush() + self.connections.flush();
        if sent_bytes > 0 {
            self.metrics.reads.sent_bytes.increment(sent_bytes as u64);
        }
    }
}
