//! Copying what is live of a tree into another one, which then takes its place.
//!
//! A segment is copied as it lies: its blocks and items byte for byte, damage included, and the chunks that they name.
//! What nothing names any more stays behind.

use std::path::Path;

use dynakv_protocol::hash::{SEGMENTS, Segment};
use sled::IVec;

use super::Tree;
use super::arrangements::Arrangement;
use super::block::{Block, BlockKey};
use super::content::{Content, keys_of_depth};
use super::failure::guarded;
use crate::directory::sync_path;
use crate::error::StoreError;
use crate::format::{self, ChunkedValue, Record};
use crate::items::PositionRange;

/// How far ahead of those of the first one the numbers of chunk sets are that only the copy has. The first one gives
/// out fewer while it is copied.
const SETS_AHEAD: u64 = 1 << 40;

/// A part of what is live in a segment.
enum Part {
    Block(IVec, IVec),
    Item(IVec, IVec),
    /// The chunks that a block or an item names.
    Chunks(ChunkedValue),
}

impl Part {
    fn bytes(&self) -> u64 {
        match self {
            Self::Block(key, stored) | Self::Item(key, stored) => (key.len() + stored.len()) as u64,
            Self::Chunks(value) => value.length.into(),
        }
    }
}

impl Content {
    /// Shows each part of a segment. Of what is damaged it shows no chunks.
    fn for_each_part(
        &self,
        segment: Segment,
        mut show: impl FnMut(Part) -> sled::Result<()>,
    ) -> sled::Result<()> {
        if let Arrangement::Blocks(depth) = self.arrangements.of(segment) {
            for item in self.blocks.range(keys_of_depth(segment, depth)) {
                let (key, stored) = item?;
                let place = BlockKey::from_bytes(&key);
                let block = place.and_then(|place| Block::decode(place, &stored).ok());
                for raw in block.unwrap_or_default().records() {
                    if let Ok(Record::Chunked(value)) = raw.check() {
                        show(Part::Chunks(value))?;
                    }
                }
                show(Part::Block(key, stored))?;
            }
        }
        for item in self.items_in(PositionRange::of_segment(segment)) {
            let (record_key, stored) = item?;
            if let Ok(Record::Chunked(value)) = format::decode(&record_key, &stored) {
                show(Part::Chunks(value))?;
            }
            show(Part::Item(record_key, stored))?;
        }
        Ok(())
    }

    /// Copies a segment, of which the other has nothing yet. How many bytes that were.
    fn copy_segment(&self, segment: Segment, into: &Self) -> sled::Result<u64> {
        let mut bytes = 0;
        self.for_each_part(segment, |part| {
            bytes += part.bytes();
            match part {
                Part::Block(key, stored) => into.blocks.insert(key, stored).map(drop),
                Part::Item(key, stored) => into.records.insert(key, stored).map(drop),
                Part::Chunks(value) => self.chunks.copy(value.set, &into.chunks),
            }
        })?;
        // It may have been cut since the arrangements were copied.
        match self.arrangements.of(segment) {
            of if of == into.arrangements.of(segment) => {}
            Arrangement::Blocks(depth) => into.arrangements.set(segment, depth)?,
            Arrangement::Records => {}
        }
        Ok(bytes)
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
                let shown = self.content.for_each_part(Segment(look * step), |part| {
                    bytes += part.bytes();
                    Ok(())
                });
                shown.map_err(self.failure("read"))?;
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

    /// Copies the first segment from this one on in which there is something into another tree, which has nothing of it
    /// yet. Which one, and how many bytes that were; `None` when there is none.
    ///
    /// # Errors
    /// What either disk says.
    pub(crate) fn copy_next(
        &self,
        from: Segment,
        into: &Self,
    ) -> Result<Option<(Segment, u64)>, StoreError> {
        guarded(&self.directory, || {
            let next = self.content.next_segment(from.start());
            let Some(segment) = next.map_err(self.failure("read"))? else {
                return Ok(None);
            };
            let copied = self.content.copy_segment(segment, &into.content);
            Ok(Some((segment, copied.map_err(self.failure("copy"))?)))
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
