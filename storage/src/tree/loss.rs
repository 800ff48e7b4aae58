//! What a store has lost, as it tells it to whoever brings it back.

use dynakv_protocol::hash::{Position, Segment};

use super::block::BlockKey;
use crate::format::{key_of_record, position_of_record, record_key};

/// That something is lost: the value of a key, or nobody can say what in a part of a segment; see
/// [`Store::losses`](crate::Store::losses). Another loss in the same place is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    place: Place,
    /// Tells it from another loss in the same place.
    number: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Keys of this block are lost.
    Block(BlockKey),
    /// The value under this record key is damaged.
    Record(Vec<u8>),
}

impl Loss {
    pub(super) fn of_block(key: BlockKey, number: u32) -> Self {
        let place = Place::Block(key);
        Self { place, number }
    }

    pub(super) fn of_record(record_key: Vec<u8>, number: u32) -> Self {
        let place = Place::Record(record_key);
        Self { place, number }
    }

    /// All of a segment.
    pub(crate) fn of_segment(segment: Segment, number: u32) -> Self {
        Self::of_block(BlockKey::of(segment.start(), 0), number)
    }

    /// The value of a key.
    pub(crate) fn of_key(position: Position, key: &[u8], number: u32) -> Self {
        Self::of_record(record_key(position, key), number)
    }

    /// Where it is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The key whose value it is, if it is a value.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Block(_) => None,
            Place::Record(record_key) => Some(key_of_record(record_key)),
        }
    }

    /// Tells it from another loss in the same place.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The segment.
    pub fn segment(&self) -> Segment {
        match &self.place {
            Place::Block(key) => key.segment,
            Place::Record(record_key) => position_of_record(record_key).segment(),
        }
    }
}
