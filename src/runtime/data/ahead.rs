//! Requests of nodes that follow a newer ring than this one: they wait until it is followed here, too.

use dynakv_protocol::RingVersion;
use dynakv_protocol::frame::Frame;
use tokio::time::Instant;

use crate::runtime::shared::events::ConnectionId;

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    frame: Frame,
    version: RingVersion,
    until: Instant,
}

/// All that wait. They are counted among what this node has in hand for others.
#[derive(Debug, Default)]
pub struct Ahead(Vec<Waiting>);

impl Ahead {
    /// How many wait.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The newest ring that is waited for.
    pub fn newest(&self) -> Option<RingVersion> {
        self.0.iter().map(|waiting| waiting.version).max()
    }

    /// Forgets what came over a connection that is closed.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.0.retain(|waiting| waiting.connection != connection);
    }

    /// Has a request wait for this ring.
    pub fn park(
        &mut self,
        (connection, frame): (ConnectionId, Frame),
        version: RingVersion,
        until: Instant,
    ) {
        self.0.push(Waiting {
            connection,
            frame,
            version,
            until,
        });
    }

    /// Those that need not wait once this ring is followed, in the order in which they came.
    pub fn released(&mut self, version: RingVersion) -> Vec<(ConnectionId, Frame)> {
        self.take(|waiting| waiting.version <= version)
    }

    /// Those whose senders wait no more.
    pub fn expired(&mut self, now: Instant) -> Vec<(ConnectionId, Frame)> {
        self.take(|waiting| waiting.until <= now)
    }

    fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<(ConnectionId, Frame)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let taken = self.0.extract_if(.., |waiting| which(waiting));
        taken.map(|it| (it.connection, it.frame)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use dynakv_protocol::frame::Header;

    use super::*;

    fn frame(request_id: u64) -> Frame {
        Frame {
            header: Header::new(1, request_id),
            body: Bytes::new(),
        }
    }

    fn ids(frames: Vec<(ConnectionId, Frame)>) -> Vec<u64> {
        let ids = frames.iter().map(|(_, frame)| frame.header.request_id);
        ids.collect()
    }

    #[test]
    fn they_wait_for_their_ring_as_long_as_their_senders_do() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ahead = Ahead::default();
        assert_eq!(ahead.newest(), None);
        for (id, connection, version, ms) in [
            (1, 1, 5, 100),
            (2, 2, 5, 200),
            (3, 1, 6, 300),
            (4, 2, 5, 50),
            (5, 3, 5, 900),
        ] {
            let who = (ConnectionId(connection), frame(id));
            ahead.park(who, RingVersion(version), at(ms));
        }
        assert_eq!((ahead.count(), ahead.newest()), (5, Some(RingVersion(6))));
        assert_eq!(ids(ahead.released(RingVersion(4))), [0; 0]);
        assert_eq!(ids(ahead.expired(at(60))), [4]);
        ahead.forget(ConnectionId(3));
        assert_eq!(ids(ahead.released(RingVersion(5))), [1, 2]);
        assert_eq!(ids(ahead.expired(at(299))), [0; 0]);
        assert_eq!(ids(ahead.expired(at(300))), [3]);
        assert_eq!(ahead.count(), 0);
    }
}
