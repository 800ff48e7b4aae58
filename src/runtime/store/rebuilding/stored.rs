//! Segments as they stand in a small document.

use bytes::Bytes;
use dynakv_protocol::codec::Reader;

use crate::engine::anti_entropy::rebuilding::SegmentSet;

/// The segments of a document; nothing when these are none.
pub(super) fn decode(bytes: &Bytes) -> Option<SegmentSet> {
    let mut reader = Reader::new(bytes);
    let segments = SegmentSet::decode(&mut reader).ok()?;
    (reader.left() == 0).then_some(segments)
}
