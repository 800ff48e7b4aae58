//! The fences of all that keeps something for others on this node's disk: the store's writer and the keeper of hints.
//! Each has a queue of its own, so the next ring is followed once it is through both.

use dynakv_protocol::RingVersion;
use tokio::sync::oneshot::error::RecvError;

use super::hint_worker::HintHandle;
use super::store_worker::FenceMover;

/// Moves all of them; see [`Fence`](super::store_worker::Fence).
#[derive(Debug, Clone)]
pub struct Fences {
    store: FenceMover,
    hints: HintHandle,
}

impl Fences {
    /// Those of the store and of the hints.
    pub fn new(store: FenceMover, hints: HintHandle) -> Self {
        Self { store, hints }
    }

    /// This ring is followed, before anything is asked for.
    pub fn begin_at(&self, version: RingVersion) {
        self.store.begin_at(version);
        // It waits before everything that will be asked for under that ring.
        let _is_through = self.hints.move_fence(version);
    }

    /// Has this ring be followed. Ends when it is: once what was asked for before is done.
    ///
    /// # Errors
    /// When the store or the hints are gone.
    pub fn move_to(
        &self,
        version: RingVersion,
    ) -> impl Future<Output = Result<(), RecvError>> + Send + use<> {
        let store = self.store.move_to(version);
        let hints = self.hints.move_fence(version);
        async move {
            store.await?;
            hints.await
        }
    }
}
