//! The store's reader.

use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::peer::Digest;
use dynakv_storage::Store;
use tokio::sync::mpsc;

use super::limits::note_read;
use super::{ReadJob, StoreEvent, Waiting, is_damaged_value, note_damage, refusal};
use crate::runtime::disk_progress::DiskProgress;
use crate::runtime::rebuilding::Rebuilding;

/// After how many bytes the reader hands on what it has read.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Reads keys, one list of jobs after the other.
pub(super) struct Reader {
    pub(super) store: Arc<dyn Store>,
    pub(super) rebuilding: Arc<Rebuilding>,
    pub(super) events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    pub(super) progress: Arc<DiskProgress>,
}

impl Reader {
    pub(super) fn run(self, jobs: Waiting<ReadJob>) {
        loop {
            let list = jobs.blocking_lock().blocking_recv();
            let Some(list) = list else {
                return;
            };
            self.read_all(list);
        }
    }

    pub(super) async fn run_simulated(self, jobs: Waiting<ReadJob>) {
        loop {
            let list = jobs.lock().await.recv().await;
            let Some(list) = list else {
                return;
            };
            self.read_all(list);
        }
    }

    /// Reads, and hands on what it has every so many bytes: a list of small requests for large values
    /// must not be held in memory whole.
    fn read_all(&self, list: Vec<ReadJob>) {
        let mut events = Vec::with_capacity(list.len());
        let mut bytes = 0;
        self.progress.reader.begin();
        for job in list {
            let (token, most) = (job.token, job.digest_above);
            let event = match self.read(&job.key) {
                Ok((mut versions, rebuilding)) => {
                    let is_large = most.is_some_and(|most| versions.len() > most as usize);
                    let digest = is_large.then(|| Digest::of(&std::mem::take(&mut versions)));
                    bytes += versions.len();
                    StoreEvent::Read {
                        token,
                        versions,
                        digest,
                        rebuilding,
                    }
                }
                Err(error) => StoreEvent::Refused { token, error },
            };
            events.push(event);
            self.progress.reader.step();
            if bytes >= READ_BYTES_MAX {
                bytes = 0;
                let _ = self.events.send(std::mem::take(&mut events));
            }
        }
        self.progress.reader.end();
        if !events.is_empty() {
            let _ = self.events.send(events);
        }
    }

    /// What is stored, and whether more of it may have been lost.
    fn read(&self, key: &[u8]) -> Result<(Bytes, bool), ErrorReply> {
        let was_rebuilding = self.rebuilding.covers(key);
        match self.store.get(key) {
            Ok(versions) => {
                let rebuilding = was_rebuilding || self.rebuilding.covers(key);
                let versions = versions.unwrap_or_default();
                note_read(&self.rebuilding, key, &versions);
                Ok((versions, rebuilding))
            }
            // Damage is never served and never passes for absence.
            Err(error) if is_damaged_value(&error) => {
                note_damage(&self.rebuilding, key, &error)?;
                Ok((Bytes::new(), true))
            }
            Err(error) => Err(refusal(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::hash::Segment;
    use dynakv_storage::{
        MemoryDisk, Mutation, Page, PageLimit, PositionRange, StoreError, Totals,
    };

    use super::*;

    /// An empty store; while it is read the rebuilding of all segments ends.
    struct RebuiltMeanwhile(Arc<Rebuilding>);

    impl Store for RebuiltMeanwhile {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
            let segments: Vec<_> = self.0.segments().iter().collect();
            self.0.finish(&segments)?;
            Ok(None)
        }

        fn apply(&self, _: &[Mutation]) -> Result<(), StoreError> {
            Ok(())
        }

        fn sync(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn scan(
            &self,
            _: PositionRange,
            _: Option<&[u8]>,
            _: PageLimit,
        ) -> Result<Page, StoreError> {
            Ok(Page::default())
        }

        fn totals(&self) -> Totals {
            Totals::default()
        }

        fn segment_hash(&self, _: Segment) -> u128 {
            0
        }
    }

    #[test]
    fn what_was_read_while_it_was_rebuilt_is_no_vote() {
        let files = Arc::new(MemoryDisk::new().files());
        let rebuilding = Arc::new(Rebuilding::load(files).unwrap());
        rebuilding.begin(b"key").unwrap();
        let (events, _events) = mpsc::unbounded_channel();
        let store: Arc<dyn Store> = Arc::new(RebuiltMeanwhile(rebuilding.clone()));
        let reader = Reader {
            store: store.clone(),
            rebuilding,
            events,
            progress: Arc::new(DiskProgress::new(store)),
        };
        assert_eq!(reader.read(b"key").unwrap(), (Bytes::new(), true));
        assert_eq!(reader.read(b"key").unwrap(), (Bytes::new(), false));
    }
}
