//! Whether the store is to be counted anew, and which of its hashes say nothing until it was.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use dynakv_protocol::hash::Segment;
use dynakv_storage::{SmallFiles, StoreError, load_document, save_document};

use super::stored::decode;
use crate::engine::anti_entropy::rebuilding::SegmentSet;

/// The document that says that the store is to be counted anew, and which hashes are wrong. Empty for all.
const RECOUNT: &str = "recount";

#[derive(Default)]
struct State {
    is_due: bool,
    /// How many damaged values were replaced since the process began.
    replaced: u64,
    /// The segments whose sums are not sure.
    unsure: SegmentSet,
}

/// What took a damaged value's place counts besides that value, in the store's totals and in its segment's
/// hash, until the store is counted anew.
pub(super) struct Recount {
    files: Arc<dyn SmallFiles>,
    state: Mutex<State>,
}

impl Recount {
    pub(super) fn load(files: Arc<dyn SmallFiles>) -> Result<Self, StoreError> {
        // Damaged, or of a version that did not say which: then no hash is sure.
        let (is_due, unsure) = match load_document(&*files, RECOUNT) {
            Ok(Some(bytes)) => (true, decode(&bytes).unwrap_or_else(SegmentSet::all)),
            Ok(None) => (false, SegmentSet::default()),
            Err(error) if error.is_corruption() => (true, SegmentSet::all()),
            Err(error) => return Err(error),
        };
        let state = Mutex::new(State {
            is_due,
            replaced: 0,
            unsure,
        });
        Ok(Self { files, state })
    }

    /// A damaged value in this segment is about to be replaced. Durable when it returns.
    pub(super) fn note_replaced(&self, segment: Segment) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.unsure.insert(segment) {
            let mut bytes = BytesMut::new();
            state.unsure.encode(&mut bytes);
            if let Err(error) = save_document(&*self.files, RECOUNT, &bytes) {
                // The next one is to try it again.
                state.unsure.remove(segment);
                return Err(error);
            }
        }
        state.is_due = true;
        state.replaced += 1;
        Ok(())
    }

    /// The segments whose hash may be wrong.
    pub(super) fn unsure(&self) -> SegmentSet {
        self.lock().unsure.clone()
    }

    pub(super) fn due(&self) -> Option<u64> {
        let state = self.lock();
        state.is_due.then_some(state.replaced)
    }

    pub(super) fn end(&self, replaced: u64) -> Result<bool, StoreError> {
        let mut state = self.lock();
        if state.replaced != replaced {
            return Ok(false);
        }
        self.files.remove_durable(RECOUNT)?;
        state.is_due = false;
        state.unsure = SegmentSet::default();
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
