//! How a node lets go of its data directory.

use std::sync::Arc;
use std::time::Duration;

use dynakv_storage::{SmallFiles, Store};
use tokio::time::{sleep, timeout};

/// How long the other holders of a directory may take to let go of it. They end at once unless a disk
/// hangs.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether they have.
const RELEASE_INTERVAL: Duration = Duration::from_millis(1);

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

#[cfg(test)]
mod tests {
    use dynakv_storage::DirectoryFiles;
    use tokio::time::Instant;

    use super::*;

    fn directory(root: &tempfile::TempDir) -> Directory {
        Directory {
            store: Arc::new(dynakv_storage::MemoryDisk::new().store()),
            files: Arc::new(DirectoryFiles::open(root.path()).unwrap()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_is_let_go_of_once_nobody_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory(&root);
        let began = Instant::now();
        for (held_ms, file_is_held) in [(50, false), (90, true)] {
            let store = directory.store.clone();
            let files = file_is_held.then(|| directory.files.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(held_ms)).await;
                drop((store, files));
            });
        }
        directory.release().await;
        assert!(began.elapsed() >= Duration::from_millis(90));
        DirectoryFiles::open(root.path()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_who_never_lets_go_is_not_waited_for_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory(&root);
        let _held = directory.files.clone();
        directory.release().await;
        assert!(DirectoryFiles::open(root.path()).is_err());
    }
}
