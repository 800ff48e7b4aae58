//! Which ring the store follows: what was asked for under another one is not done.
//!
//! A message counts under the ring that it was sent under. So it must be done while its receiver follows that ring, and
//! not merely be received then: a snapshot that is taken after the next ring is followed has all that was ever counted
//! under the one before. The store's writer moves the fence, between two jobs, and compares with each; what is read is
//! compared after it was read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dynakv_protocol::{ErrorCode, ErrorReply, RingVersion};

/// The version of the ring that the store follows; 0 for none.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<AtomicU64>);

impl Fence {
    /// The ring that is followed.
    pub fn version(&self) -> RingVersion {
        RingVersion(self.0.load(Ordering::Acquire))
    }

    /// From now on this ring is followed. Only the writer may say so, or whoever knows that it does nothing yet.
    pub fn raise(&self, version: RingVersion) {
        self.0.fetch_max(version.0, Ordering::AcqRel);
    }

    /// Whether what was asked for under this ring may be done, or counts if it is done.
    ///
    /// # Errors
    /// [`ErrorCode::StaleRing`] with the version that is followed.
    pub fn check(&self, asked: RingVersion) -> Result<(), ErrorReply> {
        let version = self.version();
        match version == asked {
            true => Ok(()),
            false => Err(stale(asked, version)),
        }
    }
}

/// What is said of a request under an older ring.
pub fn stale(asked: RingVersion, version: RingVersion) -> ErrorReply {
    let message = format!("you follow ring {asked}, this node ring {version}: follow that one");
    let error = ErrorReply::new(ErrorCode::StaleRing, message);
    error.retryable().with_ring_version(version)
}
