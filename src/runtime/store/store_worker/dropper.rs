//! Asking the writer to remove keys, a few at a time.

use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::{ErrorReply, RingVersion};
use dynakv_storage::Store;
use tokio::sync::{mpsc, oneshot};

use super::jobs::{DropJob, Dropped, Queued};
use crate::engine::anti_entropy::rebuilding::SegmentSet;

/// The most keys of one job: writers wait for it.
const KEYS_PER_JOB_MAX: usize = 256;

/// How anti-entropy learns where the store holds keys, and has some removed. Does not keep the store's threads from
/// ending.
#[derive(Clone)]
pub struct Dropper {
    store: Arc<dyn Store>,
    writes: mpsc::WeakUnboundedSender<Queued>,
}

impl std::fmt::Debug for Dropper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dropper").finish_non_exhaustive()
    }
}

impl Dropper {
    pub(super) fn new(store: Arc<dyn Store>, writes: &mpsc::UnboundedSender<Queued>) -> Self {
        let writes = writes.downgrade();
        Self { store, writes }
    }

    /// The segments in which the store holds keys.
    pub fn held(&self) -> SegmentSet {
        held(&*self.store)
    }

    /// Removes keys, each only if the [`checksum`](dynakv_protocol::hash::checksum) of what is stored under it is this
    /// one. In small jobs, one after the other, so that no write waits for long. Durable when it returns; nothing when
    /// the store has ended, or its disk hangs.
    ///
    /// # Errors
    /// When the store follows another ring, or does not take it; some may be removed then.
    pub async fn remove(
        &self,
        ring_version: RingVersion,
        keys: &[(Bytes, u64)],
    ) -> Option<Result<Dropped, ErrorReply>> {
        let mut all = Dropped::default();
        for keys in keys.chunks(KEYS_PER_JOB_MAX) {
            let (done, is_done) = oneshot::channel();
            let job = DropJob {
                ring_version,
                keys: keys.to_vec(),
                done,
            };
            self.writes.upgrade()?.send(Queued::Drop(job)).ok()?;
            match is_done.await.ok()? {
                Ok(Dropped { removed, kept }) => {
                    all.removed += removed;
                    all.kept += kept;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(all))
    }
}

/// The segments in which a store holds keys: cheap, by their hashes.
pub fn held(store: &dyn Store) -> SegmentSet {
    let hashes = store.segment_hashes(0..=u16::MAX);
    let segments = (0..=u16::MAX).map(Segment).zip(hashes);
    let mut held = SegmentSet::default();
    for (segment, _) in segments.filter(|(_, hash)| *hash != 0) {
        held.insert(segment);
    }
    held
}
