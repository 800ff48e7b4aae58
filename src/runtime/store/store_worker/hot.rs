//! Reads that need no thread of the store: of what is in memory, small, and in nobody's hand.
//!
//! Whoever asks is answered in the same turn. It is the state that the store's reader would find, and it waits for no
//! disk: also while that hangs.

use std::sync::Arc;

use bytes::Bytes;
use dynakv_storage::Store;

use super::fence::Fence;
use super::jobs::{ReadJob, StoreEvent};
use super::reader::outcome;
use super::trouble::note_read;
use crate::engine::write::outcome::JobOutcome;
use crate::runtime::store::rebuilding::Rebuilding;

/// Reads without waiting.
pub(super) struct HotReads {
    pub(super) store: Arc<dyn Store>,
    pub(super) rebuilding: Arc<Rebuilding>,
    pub(super) fence: Fence,
}

impl std::fmt::Debug for HotReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotReads").finish_non_exhaustive()
    }
}

/// How many keys are touched before the first of them is worked on: what their memory takes of the processor's nearest
/// cache is a part of it. The same of writes.
pub(super) const TOUCHED_AT_ONCE: usize = 64;

impl HotReads {
    /// These are read next. How many of them, in their order.
    pub(super) fn touch(&self, jobs: &[ReadJob]) -> usize {
        touch(&*self.store, jobs.iter().map(|job| &job.key))
    }

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
            outcome: match self.fence.check(job.ring_version) {
                Ok(()) => outcome(versions, job.digest_above, rebuilding),
                Err(error) => JobOutcome::Refused(error),
            },
        })
    }
}

/// Touches the first of these keys. How many.
pub(super) fn touch<'a>(
    store: &dyn Store,
    keys: impl ExactSizeIterator<Item = &'a Bytes>,
) -> usize {
    let count = keys.len().min(TOUCHED_AT_ONCE);
    // One alone waits no less for being touched.
    if count > 1 {
        keys.take(count).for_each(|key| store.touch(key));
    }
    count
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::RingVersion;
    use dynakv_protocol::peer::Digest;
    use dynakv_storage::{DiskOptions, DiskStore, Footprint, Mutation};

    use super::*;
    use crate::engine::write::outcome::JobOutcome;
    use crate::runtime::shared::events::ConnectionId;
    use crate::runtime::store::store_worker::Token;

    fn hot_reads(directory: &std::path::Path) -> HotReads {
        let store = DiskStore::open(directory.join("store"), DiskOptions::default()).unwrap();
        let files = Arc::new(dynakv_storage::DirectoryFiles::open(directory).unwrap());
        HotReads {
            store: Arc::new(store),
            rebuilding: Arc::new(Rebuilding::load(files).unwrap()),
            fence: Fence::default(),
        }
    }

    fn put(reads: &HotReads, key: &'static str, versions: Vec<u8>) {
        let mutation = Mutation {
            key: Bytes::from_static(key.as_bytes()),
            versions: Bytes::from(versions),
            before: Footprint::default(),
            after: Footprint::default(),
        };
        reads.store.apply(&[mutation]).unwrap();
    }

    fn job(key: &'static str, digest_above: Option<u32>) -> ReadJob {
        ReadJob {
            token: Token::Operation(7),
            ring_version: RingVersion(0),
            connection: ConnectionId::ANTI_ENTROPY,
            key: Bytes::from_static(key.as_bytes()),
            digest_above,
        }
    }

    fn read(reads: &HotReads, job: ReadJob) -> Option<(Bytes, Option<Digest>, bool)> {
        match reads.read(job) {
            Ok(StoreEvent::Job {
                token: Token::Operation(7),
                outcome:
                    JobOutcome::Read {
                        versions,
                        digest,
                        rebuilding,
                    },
            }) => Some((versions, digest, rebuilding)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    }

    #[test]
    fn what_is_in_memory_and_small_is_read_at_once_as_the_reader_would_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let reads = hot_reads(directory.path());
        put(&reads, "small", vec![1; 100]);
        put(&reads, "large", vec![1; 10_000]);
        let small = Bytes::from(vec![1; 100]);
        assert_eq!(
            read(&reads, job("small", None)),
            Some((small.clone(), None, false))
        );
        assert_eq!(
            read(&reads, job("small", Some(100))),
            Some((small.clone(), None, false))
        );
        let digest = Some(Digest::of(&small));
        assert_eq!(
            read(&reads, job("small", Some(99))),
            Some((Bytes::new(), digest, false))
        );
        assert_eq!(read(&reads, job("large", None)), None);
        assert_eq!(read(&reads, job("absent", None)), None);
        // What may have been lost beside it is no vote of this node.
        reads.rebuilding.begin(b"small").unwrap();
        assert_eq!(read(&reads, job("small", None)), Some((small, None, true)));
    }

    #[test]
    fn what_only_the_disk_has_takes_the_reader() {
        let directory = tempfile::tempdir().unwrap();
        let reads = hot_reads(directory.path());
        put(&reads, "key", vec![1; 100]);
        reads.store.sync_at_end().unwrap();
        drop(reads);
        let store =
            DiskStore::open(directory.path().join("store"), DiskOptions::default()).unwrap();
        store.checkpoint().unwrap();
        drop(store);
        let reads = hot_reads(directory.path());
        assert_eq!(read(&reads, job("key", None)), None);
        // The reader has it from there, and then it is in memory.
        assert!(reads.store.get(b"key").unwrap().is_some());
        assert!(read(&reads, job("key", None)).is_some());
    }
}
