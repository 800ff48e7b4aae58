//! How a node ends: by failing or in order.

use std::time::Duration;

use tokio::time::timeout;

use super::Node;
use super::error::{ServeError, system};
use crate::runtime::data::coordinator::End;

/// How long answers that are on their way may take to leave.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

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
