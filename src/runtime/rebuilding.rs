//! The segments that this node is rebuilding, for all its tasks and threads to see, and durable before
//! anyone does.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use dynakv_protocol::codec::Reader;
use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_storage::{SmallFiles, StoreError, load_document, save_document};

use crate::engine::rebuilding::SegmentSet;

/// The document that holds the set. There is none while nothing is being rebuilt.
const DOCUMENT: &str = "rebuilding";

/// The document that says that the store is to be counted anew.
const RECOUNT: &str = "recount";

/// Whether the store's totals and hashes still count what took a damaged value's place besides that value.
#[derive(Debug, Clone, Copy, Default)]
struct RecountState {
    is_due: bool,
    /// How many damaged values were replaced since the process began.
    replaced: u64,
}

/// The segments that this node is rebuilding.
pub struct Rebuilding {
    files: Arc<dyn SmallFiles>,
    segments: RwLock<SegmentSet>,
    /// How many these are: nearly always none, which is looked at without the lock.
    left: AtomicU32,
    recount: Mutex<RecountState>,
}

impl std::fmt::Debug for Rebuilding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rebuilding({} segments)", self.left())
    }
}

impl Rebuilding {
    /// What an earlier run has left to do.
    ///
    /// # Errors
    /// When the document cannot be read, other than for damage. The node must not start then: it says
    /// what is missing.
    pub fn load(files: Arc<dyn SmallFiles>) -> Result<Self, StoreError> {
        // Where the document is damaged: taking all segments for lost is always right.
        let segments = match load_document(&*files, DOCUMENT) {
            Ok(Some(bytes)) => decode(&bytes).unwrap_or_else(SegmentSet::all),
            Ok(None) => SegmentSet::default(),
            Err(error) if error.is_corruption() => SegmentSet::all(),
            Err(error) => return Err(error),
        };
        let is_due = match load_document(&*files, RECOUNT) {
            Ok(document) => document.is_some(),
            Err(error) if error.is_corruption() => true,
            Err(error) => return Err(error),
        };
        Ok(Self {
            left: AtomicU32::new(segments.len()),
            segments: RwLock::new(segments),
            recount: Mutex::new(RecountState {
                is_due,
                replaced: 0,
            }),
            files,
        })
    }

    /// Notes, durably, that all segments are to be rebuilt.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_all(files: &dyn SmallFiles) -> Result<(), StoreError> {
        save(files, &SegmentSet::all())
    }

    /// Notes, durably, that nothing is to be rebuilt.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_none(files: &dyn SmallFiles) -> Result<(), StoreError> {
        files.remove_durable(DOCUMENT)
    }

    /// How many segments are being rebuilt.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::Acquire)
    }

    /// Whether this node's versions of the key may lack something that it acknowledged.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.left() > 0 && self.contains(Segment::of_key(key))
    }

    /// The segments that are being rebuilt.
    pub fn segments(&self) -> SegmentSet {
        let segments = self.segments.read();
        segments.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether all segments are.
    pub fn is_all(&self) -> bool {
        self.left() as usize == SEGMENTS
    }

    /// Begins to rebuild all segments. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin_all(&self) -> Result<(), StoreError> {
        let segments = self.segments.write();
        let mut segments = segments.unwrap_or_else(PoisonError::into_inner);
        *segments = SegmentSet::all();
        self.left.store(segments.len(), Ordering::Release);
        save(&*self.files, &segments)
    }

    /// Whether this segment is being rebuilt.
    pub fn contains(&self, segment: Segment) -> bool {
        self.left() > 0 && {
            let segments = self.segments.read();
            let segments = segments.unwrap_or_else(PoisonError::into_inner);
            segments.contains(segment)
        }
    }

    /// Ends the rebuilding of these segments: reads count there again. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says. The segments count as rebuilt until the process ends; then they are rebuilt
    /// again, which is harmless.
    pub fn finish(&self, finished: &[Segment]) -> Result<(), StoreError> {
        let segments = self.segments.write();
        let mut segments = segments.unwrap_or_else(PoisonError::into_inner);
        for &segment in finished {
            segments.remove(segment);
        }
        self.left.store(segments.len(), Ordering::Release);
        match segments.is_empty() {
            true => self.files.remove_durable(DOCUMENT),
            false => save(&*self.files, &segments),
        }
    }

    /// Something takes the place of a damaged value: from now on, and after every restart, the store is to
    /// be counted anew.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_replaced(&self) -> Result<(), StoreError> {
        let mut recount = self.recount();
        if !recount.is_due {
            save_document(&*self.files, RECOUNT, b"")?;
            recount.is_due = true;
        }
        recount.replaced += 1;
        Ok(())
    }

    /// How many were replaced when a count begins, if there is reason for one.
    pub fn recount_due(&self) -> Option<u64> {
        let recount = self.recount();
        recount.is_due.then_some(recount.replaced)
    }

    /// The store was counted anew, begun when so many had been replaced. False when there were more since,
    /// so that it has to be counted once more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn end_recount(&self, replaced: u64) -> Result<bool, StoreError> {
        let mut recount = self.recount();
        if recount.replaced != replaced {
            return Ok(false);
        }
        self.files.remove_durable(RECOUNT)?;
        recount.is_due = false;
        Ok(true)
    }

    fn recount(&self) -> MutexGuard<'_, RecountState> {
        self.recount.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to rebuild the segment of this key. Durable when it returns; true when that is news.
    ///
    /// # Errors
    /// What the disk says. The segment counts as being rebuilt all the same, until the process ends.
    pub fn begin(&self, key: &[u8]) -> Result<bool, StoreError> {
        let segments = self.segments.write();
        let mut segments = segments.unwrap_or_else(PoisonError::into_inner);
        if !segments.insert(Segment::of_key(key)) {
            return Ok(false);
        }
        self.left.store(segments.len(), Ordering::Release);
        // Under the lock, so that two threads do not overwrite each other's news.
        save(&*self.files, &segments)?;
        Ok(true)
    }
}

fn save(files: &dyn SmallFiles, segments: &SegmentSet) -> Result<(), StoreError> {
    let mut bytes = BytesMut::new();
    segments.encode(&mut bytes);
    save_document(files, DOCUMENT, &bytes)
}

fn decode(bytes: &Bytes) -> Option<SegmentSet> {
    let mut reader = Reader::new(bytes);
    let segments = SegmentSet::decode(&mut reader).ok()?;
    (reader.left() == 0).then_some(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynakv_storage::{DirectoryFiles, MemoryDisk};

    #[test]
    fn what_is_to_be_rebuilt_survives_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(DirectoryFiles::open(directory.path()).unwrap());
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        assert!(!rebuilding.covers(b"a") && rebuilding.left() == 0);
        assert!(rebuilding.begin(b"a").unwrap());
        assert!(!rebuilding.begin(b"a").unwrap());
        assert!(rebuilding.covers(b"a") && !rebuilding.covers(b"b"));
        let again = Rebuilding::load(files.clone()).unwrap();
        assert!(again.covers(b"a") && again.left() == 1);
        Rebuilding::note_all(&*files).unwrap();
        let again = Rebuilding::load(files).unwrap();
        assert!(again.covers(b"b") && again.left() == 65_536);
    }

    #[test]
    fn a_count_that_is_due_is_remembered_until_it_is_done() {
        let files = Arc::new(MemoryDisk::new().files());
        let rebuilding = Rebuilding::load(files.clone()).unwrap();
        assert_eq!(rebuilding.recount_due(), None);
        rebuilding.note_replaced().unwrap();
        assert_eq!(rebuilding.recount_due(), Some(1));
        let again = Rebuilding::load(files.clone()).unwrap();
        assert_eq!(again.recount_due(), Some(0));
        again.note_replaced().unwrap();
        assert!(!again.end_recount(0).unwrap(), "there was one more");
        assert!(again.end_recount(1).unwrap());
        assert_eq!(again.recount_due(), None);
        assert_eq!(Rebuilding::load(files).unwrap().recount_due(), None);
    }

    #[test]
    fn a_set_that_makes_no_sense_stands_for_all() {
        let files = Arc::new(MemoryDisk::new().files());
        save_document(&*files, DOCUMENT, b"\x01").unwrap();
        assert_eq!(Rebuilding::load(files).unwrap().left(), 65_536);
    }
}
