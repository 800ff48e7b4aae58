//! Copying what is live of a tree into another one, which then takes its place.
//!
//! A segment is copied as it lies: its blocks and items byte for byte, damage included, and the chunks that they name.
//! What nothing names any more stays behind.

use std::path::Path;

use dynakv_protocol::hash::{SEGMENTS, Segment};

use super::Tree;
use super::arrangements::Arrangement;
use super::block::{Block, BlockKey};
use super::content::{Content, keys_of_depth};
use super::failure::guarded;
use crate::directory::sync_path;
use crate::error::{Damage, StoreError};
use crate::format::{self, Record};
use crate::items::PositionRange;

/// How far ahead of those of the first one the numbers of chunk sets are that only the copy has. The first one gives
/// out fewer while it is copied.
const SETS_AHEAD: u64 = 1 << 40;

impl Content {
    /// Copies a segment, of which the other has nothing yet. How many bytes that were.
    fn copy_segment(&self, segment: Segment, into: &Self) -> sled::Result<u64> {
        let mut bytes = 0;
        if let Arrangement::Blocks(depth) = self.arrangements.of(segment) {
            for item in self.blocks.range(keys_of_depth(segment, depth)) {
                let (key, stored) = item?;
                let place = BlockKey::from_bytes(&key);
                let block = place.and_then(|place| Block::decode(place, &stored).ok());
                for raw in block.unwrap_or_default().records() {
                    if let Some(set) = raw.chunk_set() {
                        bytes += self.chunks.copy(set, &into.chunks)?;
                    }
                }
                bytes += stored.len() as u64;
                into.blocks.insert(key, stored)?;
            }
            if into.arrangements.of(segment) != Arrangement::Blocks(depth) {
                into.arrangements.set(segment, depth)?;
            }
        }
        for item in self.items_in(PositionRange::of_segment(segment)) {
            let (record_key, stored) = item?;
            if let Ok(Record::Chunked(value)) = format::decode(&record_key, &stored) {
                bytes += self.chunks.copy(value.set, &into.chunks)?;
            }
            bytes += stored.len() as u64;
            into.records.insert(record_key, stored)?;
        }
        Ok(bytes)
    }
}

impl Content {
    /// How many bytes of a segment there are to be copied.
    fn bytes_of_segment(&self, segment: Segment) -> sled::Result<u64> {
        let mut bytes = 0;
        if let Arrangement::Blocks(depth) = self.arrangements.of(segment) {
            for item in self.blocks.range(keys_of_depth(segment, depth)) {
                let (key, stored) = item?;
                let place = BlockKey::from_bytes(&key);
                let block = place.and_then(|place| Block::decode(place, &stored).ok());
                let records = block.unwrap_or_default().records();
                let chunked = records.filter(|raw| raw.chunk_set().is_some());
                bytes += chunked.map(|raw| chunk_bytes(raw.check())).sum::<u64>();
                bytes += (key.len() + stored.len()) as u64;
            }
        }
        for item in self.items_in(PositionRange::of_segment(segment)) {
            let (record_key, stored) = item?;
            bytes += chunk_bytes(format::decode(&record_key, &stored));
            bytes += (record_key.len() + stored.len()) as u64;
        }
        Ok(bytes)
    }
}

/// How many bytes of chunks a record names.
fn chunk_bytes(record: Result<Record<'_>, Damage>) -> u64 {
    match record {
        Ok(Record::Chunked(value)) => value.length.into(),
        Ok(Record::Inline(_)) | Err(_) => 0,
    }
}

impl Tree {
    /// About how many bytes there are to be copied of all segments, by a look at so many of them.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn live_bytes(&self, looks: u16) -> Result<u64, StoreError> {
        guarded(&self.directory, || {
            let step = u16::MAX / looks.max(1);
            let mut bytes = 0;
            for look in 0..looks {
                let of_segment = self.content.bytes_of_segment(Segment(look * step));
                bytes += of_segment.map_err(self.failure("read"))?;
            }
            Ok(bytes * SEGMENTS as u64 / u64::from(looks.max(1)))
        })
    }

    /// How often a loss was forgiven, and whether one still stands in its block: a copy would tell of it again.
    pub(crate) fn forgave(&self) -> (u64, bool) {
        self.content.damages.forgave()
    }

    /// Makes this empty one ready to become a copy of another.
    ///
    /// # Errors
    /// What either disk says.
    pub(crate) fn begin_copy_of(&mut self, of: &Self) -> Result<(), StoreError> {
        let content = &mut self.content;
        // Where segments that lie as items of their own come from.
        content.was_empty = of.content.was_empty;
        content.damages = of.content.damages.clone();
        let next_set = of.content.chunks.next_set();
        content.chunks.begin_at(next_set.saturating_add(SETS_AHEAD));
        guarded(&self.directory, || {
            let copied = of.content.arrangements.copy(&self.content.arrangements);
            copied.map_err(self.failure("copy"))
        })
    }

    /// The first segment from this one on in which there may be something.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn next_segment(&self, from: Segment) -> Result<Option<Segment>, StoreError> {
        guarded(&self.directory, || {
            let next = self.content.next_segment(from.start());
            next.map_err(self.failure("read"))
        })
    }

    /// Copies a segment into another tree, which has nothing of it yet. How many bytes that were.
    ///
    /// # Errors
    /// What either disk says.
    pub(crate) fn copy_segment(&self, segment: Segment, into: &Self) -> Result<u64, StoreError> {
        guarded(&self.directory, || {
            let copied = self.content.copy_segment(segment, &into.content);
            copied.map_err(self.failure("copy"))
        })
    }

    /// Makes the copy of all segments durable as what the other one is since its last checkpoint. From then on it is to
    /// be found in this directory.
    ///
    /// # Errors
    /// What the disk says, or that the hashes of the segments are damaged.
    pub(crate) fn complete_copy_of(&mut self, of: &Self, at: &Path) -> Result<(), StoreError> {
        let directory = self.directory.clone();
        guarded(&directory, || {
            let failed = |error| self.failure("write")(error);
            let chunks = &self.content.chunks;
            let retired = chunks.note_retired().map_err(failed)?;
            of.hash_pages.copy(&self.hash_pages).map_err(failed)?;
            let next_set = chunks.next_set();
            let checkpoint = self.witness.copy(&of.witness, next_set).map_err(failed)?;
            self.db.flush().map_err(self.failure("sync"))?;
            self.sync_files()?;
            self.witness.after_flush()?;
            sync_path(&directory.join(crate::witness::FILE))?;
            chunks.remove(&retired).map_err(failed)?;
            self.db.flush().map_err(failed)?;
            let root = checkpoint.map_or(0, |checkpoint| checkpoint.hash_root);
            let pages = self.hash_pages.open_again(self.witness.number(), root);
            self.hash_pages =
                pages
                    .map_err(failed)?
                    .map_err(|reason| StoreError::CorruptStore {
                        path: directory.clone(),
                        reason: reason.to_owned(),
                    })?;
            Ok(())
        })?;
        self.directory = at.to_owned();
        Ok(())
    }
}
