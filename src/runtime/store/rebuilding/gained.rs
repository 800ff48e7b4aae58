//! What this node gains by a change of the ring: noted once for each change, so that what was fetched for it is not
//! fetched again, by a restart or by another version of the same change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use dynakv_protocol::RingVersion;
use dynakv_protocol::codec::{Reader, Wire};
use dynakv_protocol::hash::Segment;
use dynakv_storage::{SmallFiles, StoreError, load_document, save_document};

use crate::engine::anti_entropy::rebuilding::SegmentSet;

/// The document that says by which change this node gained which segments last.
const GAINED: &str = "gained";

/// What a change has a node fetch.
#[derive(Debug, Default, Clone)]
pub struct Gain {
    /// The segments that it comes to own.
    pub new: SegmentSet,
    /// Those of which it keeps one of fewer copies. What it has of them counts as before; it may lack what the others have.
    pub to_top_up: SegmentSet,
}

/// What one change brings.
#[derive(Debug, Default, Clone)]
struct State {
    /// The version that began it.
    begun_at: RingVersion,
    gain: Gain,
    /// What of it is still to be topped up.
    left: SegmentSet,
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

    /// Forgets a change that began with a later ring than this.
    pub(super) fn forget_after(&self, followed: RingVersion) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.begun_at <= followed {
            return Ok(());
        }
        forget(&*self.files)?;
        *state = State::default();
        self.announced.store(0, Ordering::Release);
        Ok(())
    }

    /// This change brings this, and what is new is marked. Durable when it returns.
    pub(super) fn note(&self, begun_at: RingVersion, gain: Gain) -> Result<(), StoreError> {
        let left = gain.to_top_up.clone();
        let state = State {
            begun_at,
            gain,
            left,
        };
        self.save(&state)?;
        *self.lock() = state;
        Ok(())
    }

    /// This ring is followed now, in which this change has just begun, if any. The change that was noted is over with a ring
    /// after its own that is not the begin of it; one before that is still followed where it was only noted so far.
    pub(super) fn follow(&self, ring_version: RingVersion, fetches_for: Option<RingVersion>) {
        let mut state = self.lock();
        if ring_version >= state.begun_at && fetches_for != Some(state.begun_at) {
            state.left = SegmentSet::default();
        }
    }

    /// What is to be topped up.
    pub(super) fn to_top_up(&self) -> SegmentSet {
        self.lock().left.clone()
    }

    /// These segments were fetched. Durable when it returns. One call at a time.
    pub(super) fn top_up(&self, fetched: &[Segment]) -> Result<(), StoreError> {
        let mut next = self.lock().clone();
        let removed = fetched.iter().filter(|&&it| next.left.remove(it)).count();
        if removed == 0 {
            return Ok(());
        }
        // Who looks does not wait for the disk.
        self.save(&next)?;
        let mut state = self.lock();
        for &segment in fetched {
            state.left.remove(segment);
        }
        Ok(())
    }

    /// By which change this node has all that it is to fetch, while these segments are being rebuilt; 0 while it lacks some.
    pub(super) fn complete_since(&self, rebuilding: &SegmentSet) -> RingVersion {
        let state = self.lock();
        let Gain { new, to_top_up } = &state.gain;
        // What was topped up and is lost since is not here.
        let lacks = new.meets(rebuilding) || to_top_up.meets(rebuilding);
        match lacks || !state.left.is_empty() {
            true => RingVersion(0),
            false => state.begun_at,
        }
    }

    fn save(&self, state: &State) -> Result<(), StoreError> {
        let mut bytes = BytesMut::new();
        state.begun_at.encode(&mut bytes);
        state.gain.new.encode(&mut bytes);
        state.gain.to_top_up.encode(&mut bytes);
        state.left.encode(&mut bytes);
        save_document(&*self.files, GAINED, &bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(bytes: &bytes::Bytes) -> Option<State> {
    let mut reader = Reader::new(bytes);
    let begun_at = RingVersion::decode(&mut reader).ok()?;
    let new = SegmentSet::decode(&mut reader).ok()?;
    // An earlier version noted no more than that.
    let mut rest = || match reader.left() {
        0 => Some(SegmentSet::default()),
        _ => SegmentSet::decode(&mut reader).ok(),
    };
    let (to_top_up, left) = (rest()?, rest()?);
    let gain = Gain { new, to_top_up };
    Some(State {
        begun_at,
        gain,
        left,
    })
}
