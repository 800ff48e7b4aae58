//! Where the documents of a hint log lie.

use super::record::record_bytes;

/// Where the document of a key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its record begins. What waits begins where the file ends.
    pub(super) offset: u64,
    /// In bytes; [`HINT_BYTES_MAX`](super::record::HINT_BYTES_MAX) fits.
    pub(super) document_bytes: u32,
    /// It was found damaged, and its bytes are not there any more.
    pub(super) is_lost: bool,
}

impl Entry {
    pub(super) fn new(offset: u64, document_bytes: usize, is_lost: bool) -> Self {
        Self {
            offset,
            document_bytes: document_bytes as u32,
            is_lost,
        }
    }

    /// The size of its record, in bytes, for a key of this length.
    pub(super) fn record_bytes(&self, key_bytes: usize) -> u64 {
        record_bytes(key_bytes, self.document_bytes as usize)
    }
}
