//! How far the store is counted anew.

use bytes::Bytes;

/// A count that is under way.
pub(super) struct Count {
    /// Behind which key it goes on.
    pub(super) after_key: Option<Bytes>,
    /// How many damaged values had been replaced when it began.
    pub(super) replaced: u64,
    pub(super) corrected_segments: u32,
}
