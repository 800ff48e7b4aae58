//! Counting the hashes of damaged pages anew when a store is opened.

use bytes::Bytes;
use dynakv_protocol::hash::{Segment, versions_hash};

use super::layout::TREE_DIRECTORY;
use super::shared::Shared;
use crate::error::StoreError;
use crate::items::{PageLimit, PositionRange};
use crate::store::past_losses;

/// How much is read at a time to count the hashes of a damaged page.
const COUNT_PAGE: PageLimit = PageLimit {
    items_max: 1000,
    bytes_max: 1024 * 1024,
};

impl Shared {
    /// Counts the hashes of damaged pages anew, from what is stored now. What the log has changed is in them
    /// already, so what they were at the checkpoint follows, and must come to `missing_root`: else more is
    /// wrong than these pages.
    pub(super) fn count_pages(&self, pages: &[u8], missing_root: u128) -> Result<(), StoreError> {
        let hashes = self.counters.hashes();
        let (mut root, mut is_known) = (0, true);
        for &page in pages {
            tracing::error!(
                page,
                "a page of segment hashes is damaged: its segments are read and counted anew"
            );
            for within in 0..=u8::MAX {
                let segment = Segment(u16::from_be_bytes([page, within]));
                let (counted, is_whole) = self.hash_of_stored(segment)?;
                let at_checkpoint = counted ^ hashes.get(segment);
                hashes.change(segment, at_checkpoint);
                root ^= at_checkpoint;
                is_known &= is_whole;
            }
        }
        // Without the damaged values nobody can say; whoever reads them has the segment rebuilt.
        match is_known && root != missing_root {
            true => Err(StoreError::CorruptStore {
                path: self.directory.join(TREE_DIRECTORY),
                reason: "the hashes of its segments are damaged, and its records are not those of its last checkpoint"
                    .to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// The hash of what a segment holds, and whether all of it can be read.
    fn hash_of_stored(&self, segment: Segment) -> Result<(u128, bool), StoreError> {
        let range = PositionRange::of_segment(segment);
        let (mut hash, mut is_whole) = (0, true);
        let mut after: Option<Bytes> = None;
        loop {
            let mut lost = Vec::new();
            let scan = |range, after_key: Option<&[u8]>| self.scan(range, after_key, COUNT_PAGE);
            let page = match past_losses(scan, range, after.as_deref(), &mut lost) {
                Ok(page) => page,
                Err(StoreError::Corrupt { key, .. }) => {
                    is_whole = false;
                    after = Some(key);
                    continue;
                }
                Err(error) => return Err(error),
            };
            is_whole &= lost.is_empty();
            for item in &page.items {
                hash ^= versions_hash(&item.key, &item.versions);
            }
            after = page.next;
            if after.is_none() {
                return Ok((hash, is_whole));
            }
        }
    }
}
