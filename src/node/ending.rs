//! How a node ends: by failing or in order, and how it lets go of its directory.

use std::sync::Arc;
use std::time::Duration;

use dynakv_storage::{SmallFiles, Store};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};

use super::{Node, ServeError, system};
use crate::runtime::data::coordinator::End;

/// How long answers that are on their way may take to leave.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the other holders of a directory may take to let go of it. They end at once unless a disk
/// hangs.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether they have.
const RELEASE_INTERVAL: Duration = Duration::from_millis(1);

impl Node {
    /// Waits until the node can't go on. It never ends by itself otherwise. Each failure is told once;
    /// [`shutdown`](Self::shutdown) then ends what still runs.
    pub async fn failed(&mut self) -> ServeError {
        tokio::select! {
            biased;
            end = self.coordinator.ended() => match end {
                Ok(End::DiskFailed(error)) => ServeError::DiskFailed(error),
                Ok(End::Drained) => system("the coordinator", "it ended"),
                Err(error) => system("the coordinator", &error.to_string()),
            },
            end = self.control.ended() => match end {
                Ok(Err(error)) => error.into(),
                Ok(Ok(())) => system("the control task", "it ended"),
                Err(error) => system("the control task", &error.to_string()),
            },
        }
    }

    /// Stops in order: refuses new work, finishes what is in hand, syncs, and marks the directory as
    /// cleanly stopped. What is not finished by the deadline of the settings is left as after a crash,
    /// which is safe. So is the directory of a node that could not go on.
    ///
    /// When it returns, the directory and the ports are free: a node may be started in them again.
    pub async fn shutdown(mut self) {
        tracing::info!("shutting down");
        self.end.tell("the node was shut down");
        self.stop.draining.cancel();
        let deadline = self.config.shutdown_deadline;
        let in_order = timeout(deadline, async {
            if self.coordinator.was_told() {
                return None;
            }
            let drained = self.coordinator.ended().await;
            let minter = (&mut self.minter).await;
            match (drained, minter) {
                (Ok(End::Drained), Ok(minter)) => Some(minter.position()),
                _ => None,
            }
        });
        let in_order = in_order.await;
        let is_late = in_order.is_err();
        match in_order {
            // It has not been told to end yet: the cluster refused this node, or its disk failed.
            Ok(_) if self.control.has_ended() => {
                tracing::warn!("the node could not go on; the next start is an unclean one");
            }
            Ok(Some((actor, counter))) => {
                let store_end = self.directory.as_ref().map(|it| it.store.log_end());
                let store_end = store_end.unwrap_or_default();
                let marked = self
                    .identity
                    .mark_clean(&*self.files, actor, counter, store_end);
                match marked {
                    Ok(()) => tracing::info!("stopped cleanly"),
                    Err(error) => tracing::warn!(%error, "could not mark the stop as clean"),
                }
            }
            Ok(None) => {
                tracing::warn!("the store did not finish; the next start is an unclean one")
            }
            Err(_) => tracing::warn!(
                ?deadline,
                "the deadline passed; the next start is an unclean one"
            ),
        }
        self.stop.shutdown.cancel();
        self.tasks.close();
        // Whoever does not read them is not waited for.
        let _ = timeout(ANSWERS_TIMEOUT, self.tasks.wait()).await;
        let directory = self.directory.take();
        drop(self);
        match directory {
            Some(directory) if !is_late => directory.release().await,
            // Whoever still has it in hand lets go of it when done.
            _ => {}
        }
    }
}

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
