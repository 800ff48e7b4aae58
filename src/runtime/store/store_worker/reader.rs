//! The store's reader.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::peer::Digest;
use dynakv_storage::Store;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::fence::Fence;
use super::jobs::{ReadJob, StoreEvent};
use super::trouble::{is_damaged_value, note_damage, note_read, refusal};
use super::waiting::{Waiting, next_waiting};
use crate::engine::write::outcome::JobOutcome;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::events::ConnectionId;
use crate::runtime::shared::ledger::{Kind, Ledger};
use crate::runtime::store::rebuilding::Rebuilding;

/// After how many bytes the reader hands on what it has read, and turns to who waits besides.
const TURN_BYTES: usize = 1024 * 1024;

/// How long to wait before it is looked again whether what was read is taken in.
const ROOM_POLL: Duration = Duration::from_millis(1);

/// Reads keys, one list of jobs after the other as long as they ask for little. Who asks for much waits in a
/// line of its own, and those lines take turns.
pub(super) struct Reader {
    pub(super) store: Arc<dyn Store>,
    pub(super) rebuilding: Arc<Rebuilding>,
    pub(super) events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    pub(super) progress: Arc<DiskProgress>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) lines: SharedLines,
    pub(super) fence: Fence,
}

/// The lines, from which jobs can be taken back while the reader hangs in the disk: it has the lock only while
/// it changes them.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedLines(Arc<Mutex<Lines>>);

impl SharedLines {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // They are whole between any two operations.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All jobs that the reader has not begun. It never will.
    pub(super) fn take_back(&self) -> Vec<ReadJob> {
        let Lines { waiting, .. } = std::mem::take(&mut *self.lock());
        waiting.into_values().flatten().collect()
    }
}

/// Jobs that wait because their connections ask for much.
#[derive(Debug, Default)]
struct Lines {
    /// Each that waits has one place here, except while its turn lasts.
    turns: VecDeque<ConnectionId>,
    /// None is empty.
    waiting: FxHashMap<ConnectionId, VecDeque<ReadJob>>,
}

impl Lines {
    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    fn push(&mut self, job: ReadJob) {
        let line = self.waiting.entry(job.connection).or_default();
        if line.is_empty() {
            self.turns.push_back(job.connection);
        }
        line.push_back(job);
    }

    /// Puts jobs into the lines of their connections; gives those of connections that have none.
    fn sort(&mut self, list: Vec<ReadJob>) -> Vec<ReadJob> {
        if self.is_empty() {
            return list;
        }
        let mut others = Vec::new();
        for job in list {
            match self.waiting.contains_key(&job.connection) {
                true => self.push(job),
                false => others.push(job),
            }
        }
        others
    }

    /// Whose turn it is; [`end_turn`](Self::end_turn) ends it.
    fn begin_turn(&mut self) -> Option<ConnectionId> {
        self.turns.pop_front()
    }

    /// The next job of the one whose turn it is. What it has besides can be taken back meanwhile.
    fn next(&mut self, connection: ConnectionId) -> Option<ReadJob> {
        let line = self.waiting.get_mut(&connection)?;
        let job = line.pop_front();
        if line.is_empty() {
            self.waiting.remove(&connection);
        }
        job
    }

    fn end_turn(&mut self, connection: ConnectionId) {
        if self.waiting.contains_key(&connection) {
            self.turns.push_back(connection);
        }
    }
}

impl Reader {
    pub(super) fn run(self, jobs: Waiting<Vec<ReadJob>>) {
        loop {
            if self.lines.lock().is_empty() {
                let list = jobs.blocking_lock().blocking_recv();
                let Some(list) = list else {
                    return;
                };
                self.read_list(list);
            }
            while let Some(list) = next_waiting(&jobs) {
                self.read_list(list);
            }
            // What was read and is not taken in yet takes memory, too. That is no disk that hangs.
            while self.ledger.is_full(Kind::Read) && !self.events.is_closed() {
                std::thread::sleep(ROOM_POLL);
            }
            self.read_turn();
        }
    }

    pub(super) async fn run_simulated(self, jobs: Waiting<Vec<ReadJob>>) {
        loop {
            if self.lines.lock().is_empty() {
                let list = jobs.lock().await.recv().await;
                let Some(list) = list else {
                    return;
                };
                self.read_list(list);
            }
            while let Some(list) = next_waiting(&jobs) {
                self.read_list(list);
            }
            while self.ledger.is_full(Kind::Read) && !self.events.is_closed() {
                tokio::time::sleep(ROOM_POLL).await;
            }
            self.read_turn();
        }
    }

    /// Reads a list, or what others ask for in it and its first part: a list of small requests for large
    /// values must neither be held in memory whole nor hold up who comes after it.
    fn read_list(&self, list: Vec<ReadJob>) {
        let list = self.lines.lock().sort(list);
        let mut jobs = list.into_iter();
        let events = self.read_some(&mut jobs);
        if jobs.len() > 0 {
            let mut lines = self.lines.lock();
            jobs.for_each(|job| lines.push(job));
        }
        self.hand_on(events);
    }

    /// Reads for the connection whose turn it is.
    fn read_turn(&self) {
        let turn = self.lines.lock().begin_turn();
        if let Some(connection) = turn {
            let mut jobs = std::iter::from_fn(|| self.lines.lock().next(connection));
            let events = self.read_some(&mut jobs);
            self.lines.lock().end_turn(connection);
            self.hand_on(events);
        }
    }

    /// Reads until so many bytes have come that it is somebody else's turn.
    fn read_some(&self, jobs: &mut impl Iterator<Item = ReadJob>) -> Vec<StoreEvent> {
        let mut events = Vec::with_capacity(jobs.size_hint().0);
        let mut bytes = 0;
        self.progress.reader.begin();
        while bytes < TURN_BYTES
            && let Some(job) = jobs.next()
        {
            let (token, most) = (job.token, job.digest_above);
            let read = self.read(&job.key);
            // What is read later may lack what this node has given up since.
            let outcome = match read.and_then(|it| self.fence.check(job.ring_version).map(|()| it))
            {
                Ok((versions, rebuilding)) => {
                    // A digest costs as much here, and nothing from here on.
                    bytes += versions.len();
                    outcome(versions, most, rebuilding)
                }
                Err(error) => JobOutcome::Refused(error),
            };
            events.push(StoreEvent::Job { token, outcome });
            self.progress.reader.step();
        }
        self.progress.reader.end();
        events
    }

    fn hand_on(&self, events: Vec<StoreEvent>) {
        if !events.is_empty() {
            let bytes = events.iter().map(StoreEvent::bytes_read).sum();
            self.ledger.take(Kind::Read, bytes);
            // A coordinator that is gone has no use for them.
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

/// What is told of versions that were read: of more bytes than `most`, their digest.
pub(super) fn outcome(mut versions: Bytes, most: Option<u32>, rebuilding: bool) -> JobOutcome {
    let is_large = most.is_some_and(|most| versions.len() > most as usize);
    let digest = is_large.then(|| Digest::of(&std::mem::take(&mut versions)));
    JobOutcome::Read {
        versions,
        digest,
        rebuilding,
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::RingVersion;
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
            self.0.finish(&segments, RingVersion(u64::MAX))?;
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
            ledger: Arc::new(Ledger::new(1 << 20)),
            lines: SharedLines::default(),
            fence: Fence::default(),
        };
        assert_eq!(reader.read(b"key").unwrap(), (Bytes::new(), true));
        assert_eq!(reader.read(b"key").unwrap(), (Bytes::new(), false));
    }
}
