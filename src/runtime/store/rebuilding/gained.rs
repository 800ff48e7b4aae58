//! What this node gains by a change of the ring: noted once for each change, so that what was fetched for it is not
//! fetched again, by a restart or by another version of the same change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use dynakv_protocol::RingVersion;
use dynakv_protocol::codec::{Reader, Wire};
use dynakv_storage::{SmallFiles, StoreError, load_document, save_document};

use crate::engine::anti_entropy::rebuilding::SegmentSet;

/// The document that says by which change this node gained which segments last.
const GAINED: &str = "gained";

/// What one change brings.
#[derive(Debug, Default)]
struct State {
    /// The version that began it.
    begun_at: RingVersion,
    segments: SegmentSet,
}

/// The last change of the ring that this node has met.
pub(super) struct Gained {
    files: Arc<dyn SmallFiles>,
    state: Mutex<State>,
    /// The last change that began to be noted.
    announced: AtomicU64,
}

/// Forgets what was gained, durably: it is noted, and fetched, once more.
pub(super) fn forget(files: &dyn SmallFiles) -> Result<(), StoreError> {
    files.remove_durable(GAINED)
}

impl Gained {
    pub(super) fn load(files: Arc<dyn SmallFiles>) -> Result<Self, StoreError> {
        // Damaged: what it gained is fetched once more.
        let state = match load_document(&*files, GAINED) {
            Ok(Some(bytes)) => decode(&bytes).unwrap_or_default(),
            Ok(None) => State::default(),
            Err(error) if error.is_corruption() => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            files,
            announced: AtomicU64::new(state.begun_at.0),
            state: Mutex::new(state),
        })
    }

    /// Whether this change was met before.
    pub(super) fn is_known(&self, begun_at: RingVersion) -> bool {
        self.lock().begun_at >= begun_at
    }

    /// This change is about to be noted: what was fetched under a ring before it counts for nothing any more.
    pub(super) fn announce(&self, begun_at: RingVersion) {
        self.announced.fetch_max(begun_at.0, Ordering::AcqRel);
    }

    /// The last change that was.
    pub(super) fn announced(&self) -> RingVersion {
        RingVersion(self.announced.load(Ordering::Acquire))
    }

    /// This change brings these segments, which are marked. Durable when it returns.
    pub(super) fn note(
        &self,
        begun_at: RingVersion,
        segments: SegmentSet,
    ) -> Result<(), StoreError> {
        let mut bytes = BytesMut::new();
        begun_at.encode(&mut bytes);
        segments.encode(&mut bytes);
        save_document(&*self.files, GAINED, &bytes)?;
        *self.lock() = State { begun_at, segments };
        Ok(())
    }

    /// By which change this node has all that it gained, while these segments are being fetched; 0 while it lacks some.
    pub(super) fn complete_since(&self, rebuilding: &SegmentSet) -> RingVersion {
        let state = self.lock();
        match state.segments.meets(rebuilding) {
            true => RingVersion(0),
            false => state.begun_at,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(bytes: &bytes::Bytes) -> Option<State> {
    let mut reader = Reader::new(bytes);
    let begun_at = RingVersion::decode(&mut reader).ok()?;
    let segments = SegmentSet::decode(&mut reader).ok()?;
    Some(State { begun_at, segments })
}
