//! How a node ends: what its tasks came to, and letting go of its directory.

use std::sync::Arc;
use std::time::Duration;

use dynakv_storage::{SmallFiles, Store};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};

/// How long the other holders of a directory may take to let go of it. They end at once unless a disk
/// hangs.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether they have.
const RELEASE_INTERVAL: Duration = Duration::from_millis(1);

/// A task whose end is looked at once.
#[derive(Debug)]
pub(super) struct Task<T>(Option<JoinHandle<T>>);

impl<T> Task<T> {
    pub(super) fn new(handle: JoinHandle<T>) -> Self {
        Self(Some(handle))
    }

    /// What it came to; never again after it has been told.
    pub(super) async fn ended(&mut self) -> Result<T, JoinError> {
        let Some(handle) = &mut self.0 else {
            return std::future::pending().await;
        };
        let end = handle.await;
        self.0 = None;
        end
    }

    /// Whether its end was told, so that nobody may wait for it.
    pub(super) fn was_told(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it has ended, told or not.
    pub(super) fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// A data directory of this machine, which the node locks.
pub(super) struct Directory {
    pub(super) store: Arc<dyn Store>,
    pub(super) files: Arc<dyn SmallFiles>,
}

impl Directory {
    /// Waits until nobody else holds it, and lets go of it, so that it can be opened again.
    pub(super) async fn release(self) {
        let let_go = async {
            while Arc::strong_count(&self.store) > 1 || Arc::strong_count(&self.files) > 1 {
                sleep(RELEASE_INTERVAL).await;
            }
        };
        if timeout(RELEASE_TIMEOUT, let_go).await.is_err() {
            tracing::warn!("the data directory is still in use; it is let go of later");
        }
        // Closing the store may wait for the disk.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}
