//! Reads that need no thread of the store: of what is in memory, small, and in nobody's hand.
//!
//! Whoever asks is answered in the same turn. It is the state that the store's reader would find, and it waits for no
//! disk: also while that hangs.

use std::sync::Arc;

use dynakv_storage::Store;

use super::jobs::{ReadJob, StoreEvent};
use super::reader::outcome;
use super::trouble::note_read;
use crate::runtime::store::rebuilding::Rebuilding;

/// Reads without waiting.
#[derive(Clone)]
pub(super) struct HotReads {
    pub(super) store: Arc<dyn Store>,
    pub(super) rebuilding: Arc<Rebuilding>,
}

impl std::fmt::Debug for HotReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotReads").finish_non_exhaustive()
    }
}

impl HotReads {
    /// What comes of the job at once; gives it back where that takes the reader.
    pub(super) fn read(&self, job: ReadJob) -> Result<StoreEvent, ReadJob> {
        let was_rebuilding = self.rebuilding.covers(&job.key);
        let Some(versions) = self.store.get_hot(&job.key) else {
            return Err(job);
        };
        let rebuilding = was_rebuilding || self.rebuilding.covers(&job.key);
        note_read(&self.rebuilding, &job.key, &versions);
        Ok(StoreEvent::Job {
            token: job.token,
            outcome: outcome(versions, job.digest_above, rebuilding),
        })
    }
}
