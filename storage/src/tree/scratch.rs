//! How large a block is to be, and room to make one.

use super::block::Builder;

/// A block that grows beyond this, in bytes, is a reason to look whether its segment is to be cut deeper.
pub(crate) const BLOCK_BYTES_AIM: usize = 4096;

/// The largest block, in bytes. sled's memory grows far beyond its cache with larger items; the records of what would
/// be larger are items of their own.
pub(super) const BLOCK_BYTES_MAX: usize = 8192;

/// Room that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(super) record_key: Vec<u8>,
    pub(super) record: Vec<u8>,
    pub(super) builder: Builder,
    pub(super) block: Vec<u8>,
    pub(super) retired: Vec<u64>,
}
