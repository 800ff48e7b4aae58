//! A task of the node, whose end is told once.

use tokio::task::{JoinError, JoinHandle};

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
