//! How a node is told to end.

use tokio_util::sync::CancellationToken;

use crate::runtime::net::local::EndReason;

/// The steps of a shutdown, in order. Dropping it takes all of them at once.
#[derive(Debug)]
pub(super) struct Stop {
    /// For those who still ask it something.
    pub(super) end: EndReason,
    /// Not ready any more; nothing new is begun.
    pub(super) draining: CancellationToken,
    /// Clients are to go on elsewhere: the node is draining, or goes out of its ring.
    pub(super) clients: CancellationToken,
    /// Connections and tasks end.
    pub(super) shutdown: CancellationToken,
}

impl Default for Stop {
    fn default() -> Self {
        let draining = CancellationToken::new();
        Self {
            end: EndReason::default(),
            clients: draining.child_token(),
            draining,
            shutdown: CancellationToken::new(),
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.end.tell("the node was dropped");
        self.draining.cancel();
        self.shutdown.cancel();
    }
}
