//! Into how many blocks a segment is cut: into more as soon as its blocks have become too large on the average.
//!
//! The depth follows from what all blocks of a segment hold together, never from one of them: thirty keys that
//! somebody made to lie close together would else make millions of blocks. Such a block is spilled. How a cut stays
//! whole whatever happens, `arrangements` says.

use dynakv_protocol::hash::Segment;

use super::block::{Block, BlockKey, DEPTH_MAX, Raw, spilled};
use super::content::{Content, keys_of_depth};
use super::scratch::{BLOCK_BYTES_MAX, Scratch};
use crate::format::position_of_record;
use crate::items::PositionRange;

/// The mean size of a segment's blocks, in bytes, that a cut brings them below.
const MEAN_BYTES_MAX: u64 = 2048;

impl Content {
    /// Makes blocks of the records of a segment that was not cut before.
    pub(super) fn cut_records(&self, segment: Segment, scratch: &mut Scratch) -> sled::Result<()> {
        if self.was_empty {
            // There is nothing to be cut, nor in the segments beside it.
            return self.arrangements.set_untouched(segment);
        }
        let arc = PositionRange::of_segment(segment);
        let mut bytes = 0;
        for item in self.items_in(arc) {
            let (record_key, stored) = item?;
            bytes += Raw::of_item(&record_key, &stored).bytes() as u64;
        }
        let depth = depth_for(bytes, 1, 0);
        self.clear_blocks(segment, None)?;
        let mut spilled_blocks = Vec::new();
        let mut filling: Option<BlockKey> = None;
        scratch.builder.clear();
        for item in self.items_in(arc) {
            let (record_key, stored) = item?;
            let raw = Raw::of_item(&record_key, &stored);
            let key = BlockKey::of(raw.position, depth);
            if spilled_blocks.last() == Some(&key) {
                continue;
            }
            if filling != Some(key) {
                self.finish_block(filling.replace(key), None, scratch)?;
            }
            scratch.builder.push(&raw);
            if scratch.builder.bytes() > BLOCK_BYTES_MAX {
                scratch.builder.clear();
                self.put_block(key, &spilled(key, None))?;
                spilled_blocks.push(key);
            }
        }
        self.finish_block(filling, None, scratch)?;
        self.burn()?;
        self.arrangements.set(segment, depth)?;
        self.clear_moved(segment, depth, &spilled_blocks)
    }

    /// Cuts a segment deeper, if its blocks are too large on the average with so many bytes more. Whether it was.
    pub(super) fn cut_deeper(
        &self,
        segment: Segment,
        depth: u8,
        growth: u64,
        scratch: &mut Scratch,
    ) -> sled::Result<bool> {
        #[cfg(test)]
        self.hooks
            .looks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (mut bytes, mut spilled_count) = (0, 0);
        for item in self.blocks.range(keys_of_depth(segment, depth)) {
            let (key, stored) = item?;
            let key = BlockKey::from_bytes(&key);
            let block = key.and_then(|key| Block::decode(key, &stored).ok());
            // What is spilled says nothing of the others.
            match block.is_some_and(|block| block.is_spilled()) {
                true => spilled_count += 1,
                false => bytes += stored.len() as u64,
            }
        }
        let arcs = (1_u64 << depth).saturating_sub(spilled_count);
        let deeper = depth_for(bytes + growth, arcs, depth);
        if deeper == depth {
            // Not to be asked again before it has grown by that.
            let bytes = (MEAN_BYTES_MAX * arcs).saturating_sub(bytes);
            self.slacks.set(segment, depth, bytes);
            return Ok(false);
        }
        self.slacks.forget(segment);
        self.clear_blocks(segment, Some(depth))?;
        let mut spilled_parts = Vec::new();
        for item in self.blocks.range(keys_of_depth(segment, depth)) {
            let (key, stored) = item?;
            let Some(key) = BlockKey::from_bytes(&key) else {
                continue;
            };
            let loaded = self.loaded(key, stored);
            let loss = loaded.loss();
            let block = loaded.block();
            let mut records = block.records().peekable();
            for part in parts(key, deeper) {
                scratch.builder.clear();
                if block.is_spilled() {
                    if !self.gather(part, scratch)? {
                        self.put_block(part, &spilled(part, loss))?;
                        spilled_parts.push(part);
                        continue;
                    }
                } else {
                    while let Some(raw) = records.next_if(|raw| part.contains(raw.position)) {
                        scratch.builder.push(&raw);
                    }
                }
                self.finish_block(Some(part), loss, scratch)?;
            }
        }
        self.burn()?;
        self.arrangements.set(segment, deeper)?;
        self.damages.settle(PositionRange::of_segment(segment));
        self.clear_blocks(segment, Some(deeper))?;
        self.clear_moved(segment, deeper, &spilled_parts)?;
        Ok(true)
    }

    /// Puts the records of an arc, which are items of their own, together. False when they are too many.
    fn gather(&self, key: BlockKey, scratch: &mut Scratch) -> sled::Result<bool> {
        for item in self.items_in(key.arc()) {
            let (record_key, stored) = item?;
            scratch.builder.push(&Raw::of_item(&record_key, &stored));
            if scratch.builder.bytes() > BLOCK_BYTES_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the block that was put together, unless there is nothing in it, and begins the next.
    fn finish_block(
        &self,
        key: Option<BlockKey>,
        loss: Option<u32>,
        scratch: &mut Scratch,
    ) -> sled::Result<()> {
        let Scratch { builder, block, .. } = scratch;
        if let Some(key) = key.filter(|_| loss.is_some() || !builder.is_empty()) {
            builder.finish(key, loss, block);
            self.put_block(key, block)?;
        }
        builder.clear();
        Ok(())
    }

    /// Makes items of their own of the records that were put together, which are too many for a block.
    pub(super) fn spill(
        &self,
        key: BlockKey,
        loss: Option<u32>,
        scratch: &mut Scratch,
    ) -> sled::Result<()> {
        // What a cut left that did not come to its end would come back.
        self.clear_records(key)?;
        let builder = std::mem::take(&mut scratch.builder);
        for raw in builder.records() {
            self.write_record(&raw, scratch)?;
        }
        scratch.builder = builder;
        self.put_block(key, &spilled(key, loss))?;
        Ok(())
    }

    /// Removes all blocks of a segment but those of this depth: what is left of other arrangements, also of such that did
    /// not come about.
    fn clear_blocks(&self, segment: Segment, kept_depth: Option<u8>) -> sled::Result<()> {
        for key in self.blocks.scan_prefix(segment.0.to_be_bytes()).keys() {
            let key = key?;
            if key.get(2).copied() != kept_depth {
                self.remove_block(key)?;
            }
        }
        Ok(())
    }

    /// Removes the items of a segment whose records are in blocks now.
    fn clear_moved(
        &self,
        segment: Segment,
        depth: u8,
        spilled_blocks: &[BlockKey],
    ) -> sled::Result<()> {
        let items = self.items_in(PositionRange::of_segment(segment));
        for record_key in items.keys() {
            let record_key = record_key?;
            let key = BlockKey::of(position_of_record(&record_key), depth);
            if spilled_blocks.binary_search(&key).is_err() {
                self.remove_record(record_key)?;
            }
        }
        Ok(())
    }

    /// Removes the items of an arc whose records lie elsewhere. Their chunks belong to those.
    fn clear_records(&self, key: BlockKey) -> sled::Result<()> {
        for record_key in self.items_in(key.arc()).keys() {
            self.remove_record(record_key?)?;
        }
        Ok(())
    }
}

/// The blocks that one has become when its segment is cut deeper.
fn parts(key: BlockKey, deeper: u8) -> impl Iterator<Item = BlockKey> {
    let first = BlockKey::of(key.arc().start, deeper);
    let count = 1_u32 << (deeper - key.depth);
    (0..count).map(move |number| BlockKey {
        index: first.index + number,
        ..first
    })
}

/// How deep a segment is to be cut whose blocks, so many arcs at this depth, hold so much.
fn depth_for(bytes: u64, arcs: u64, depth: u8) -> u8 {
    let fits = |deeper: &u8| bytes <= (MEAN_BYTES_MAX * arcs) << (deeper - depth);
    match arcs {
        // All are spilled: there is nothing to be gained.
        0 => depth,
        _ => (depth..=DEPTH_MAX).find(fits).unwrap_or(DEPTH_MAX),
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::hash::Position;

    use super::*;

    #[test]
    fn the_depth_follows_from_the_mean() {
        assert_eq!(depth_for(0, 1, 0), 0);
        assert_eq!(depth_for(2048, 1, 0), 0);
        assert_eq!(depth_for(2049, 1, 0), 1);
        assert_eq!(depth_for(9000, 1, 0), 3);
        assert_eq!(depth_for(9000, 4, 2), 3);
        assert_eq!(depth_for(8000, 4, 2), 2);
        assert_eq!(depth_for(u64::MAX / 4, 1, 0), DEPTH_MAX);
        assert_eq!(depth_for(1 << 40, 0, 3), 3, "all are spilled");
    }

    #[test]
    fn the_parts_of_a_block_are_its_arc() {
        let key = BlockKey::of(Position(u64::MAX), 2);
        let parts: Vec<_> = parts(key, 4).collect();
        assert_eq!(parts.len(), 4);
        assert_eq!(parts[0].arc().start, key.arc().start);
        assert_eq!(parts[3].arc().end, None);
        for pair in parts.windows(2) {
            assert_eq!(pair[0].arc().end, Some(pair[1].arc().start));
        }
    }
}
