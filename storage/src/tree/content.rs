//! Where the records lie in sled, and how one is found.
//!
//! Small records lie together in *blocks*, each an arc of a segment, about a dozen records: what a checkpoint
//! carries of a block costs one look-up and one insertion, and sled has a dozenth of the items. How many blocks a
//! segment has follows from how much is in it (`cutting`). A record is an item of its own where its segment was not
//! cut yet, as in format 1, and where its block would be too large (it is *spilled*): many large records, or keys
//! that somebody made so that they lie close together.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};
use sled::IVec;

use super::arrangements::{Arrangement, Arrangements};
use super::block::{Block, BlockKey};
use super::damages::Damages;
#[cfg(test)]
use super::hooks::Hooks;
use super::loss::Loss;
use super::slack::Slacks;
use crate::chunks::Chunks;
use crate::error::Damage;
use crate::format::{self, Record, record_key};
use crate::items::{Cut, PositionRange};

/// Blocks, records and chunks. One thread writes, any thread reads.
pub(super) struct Content {
    pub(super) blocks: sled::Tree,
    pub(super) records: sled::Tree,
    pub(super) arrangements: Arrangements,
    pub(super) chunks: Chunks,
    /// Shared with a copy that is being made.
    pub(super) damages: Arc<Damages>,
    /// There was nothing in it when it was opened, so nothing is left of what was cut short.
    pub(super) was_empty: bool,
    pub(super) slacks: Slacks,
    #[cfg(test)]
    pub(super) hooks: Hooks,
}

/// What is found under a key.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Versions(Bytes),
    /// It is damaged.
    Damaged(Damage),
    /// It may have been there.
    Lost(Damage),
}

/// A block as it was read.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// One that is sound, up to the bodies.
    pub(super) stored: Option<IVec>,
    /// Which loss it has, and what is to be said of a key that is not in it.
    pub(super) lost: Option<(u32, Damage)>,
    /// It has a loss that nobody waits for any more.
    pub(super) is_forgiven: bool,
}

impl Loaded {
    /// The block; an empty one where there is none.
    pub(super) fn block(&self) -> Block<'_> {
        self.stored
            .as_deref()
            .map(Block::trusted)
            .unwrap_or_default()
    }

    /// The loss that it has.
    pub(super) fn loss(&self) -> Option<u32> {
        self.lost.as_ref().map(|(loss, _)| *loss)
    }

    fn absent(self) -> Found {
        match self.lost {
            None => Found::Nothing,
            Some((_, damage)) => Found::Lost(damage),
        }
    }
}

impl Content {
    /// What the last checkpoint had under a key, checked against its checksum.
    pub(super) fn get(&self, position: Position, key: &[u8]) -> sled::Result<Found> {
        let segment = position.segment();
        loop {
            let arrangement = self.arrangements.of(segment);
            #[cfg(test)]
            self.hooks.pause.come_by();
            let found = match arrangement {
                Arrangement::Records => self.get_record(position, key)?,
                Arrangement::Blocks(depth) => {
                    self.get_in_block(BlockKey::of(position, depth), position, key)?
                }
            };
            // What was read of the former arrangement may have been removed meanwhile.
            if self.arrangements.of(segment) == arrangement {
                return Ok(found);
            }
        }
    }

    fn get_record(&self, position: Position, key: &[u8]) -> sled::Result<Found> {
        let record_key = record_key(position, key);
        let Some(mut stored) = self.records.get(&record_key)? else {
            return Ok(Found::Nothing);
        };
        loop {
            let damage = match self.versions(format::decode(&record_key, &stored))? {
                Ok(versions) => return Ok(Found::Versions(versions)),
                Err(damage) => damage,
            };
            // A checkpoint may have replaced the record and removed its chunks meanwhile. Each turn of
            // the loop is one such replacement.
            match self.records.get(&record_key)? {
                Some(now) if now != stored => stored = now,
                Some(_) => return Ok(Found::Damaged(damage)),
                None => return Ok(Found::Nothing),
            }
        }
    }

    fn get_in_block(
        &self,
        block_key: BlockKey,
        position: Position,
        key: &[u8],
    ) -> sled::Result<Found> {
        let mut loaded = self.load(block_key)?;
        loop {
            let block = loaded.block();
            if block.is_spilled() {
                return Ok(match self.get_record(position, key)? {
                    Found::Nothing => loaded.absent(),
                    found => found,
                });
            }
            let Some(raw) = block.find(position, key) else {
                return Ok(loaded.absent());
            };
            let damage = match self.versions(raw.check())? {
                Ok(versions) => return Ok(Found::Versions(versions)),
                Err(damage) => damage,
            };
            // As above.
            let now = self.load(block_key)?;
            if now.stored == loaded.stored {
                return Ok(Found::Damaged(damage));
            }
            loaded = now;
        }
    }

    /// The versions of a record that was just read. The inner error says what is wrong with them.
    pub(super) fn versions(
        &self,
        record: Result<Record<'_>, Damage>,
    ) -> sled::Result<Result<Bytes, Damage>> {
        match record {
            Ok(Record::Inline(versions)) => Ok(Ok(Bytes::copy_from_slice(versions))),
            Ok(Record::Chunked(value)) => self.chunks.get(&value),
            Err(damage) => Ok(Err(damage)),
        }
    }

    /// Reads a block.
    pub(super) fn load(&self, key: BlockKey) -> sled::Result<Loaded> {
        Ok(match self.blocks.get(key.to_bytes())? {
            Some(stored) => self.loaded(key, stored),
            None => Loaded::default(),
        })
    }

    /// What a block that was read is.
    pub(super) fn loaded(&self, key: BlockKey, stored: IVec) -> Loaded {
        let (is_sound, lost) = match Block::decode(key, &stored) {
            Ok(block) => (true, block.loss().map(|loss| (loss, Damage::Lost))),
            Err(damage) => (false, Some((crc32fast::hash(&stored), damage))),
        };
        let is_forgiven = |(loss, _): &(u32, Damage)| self.damages.is_forgiven(key, *loss);
        let is_forgiven = lost.as_ref().is_some_and(is_forgiven);
        Loaded {
            stored: is_sound.then_some(stored),
            lost: lost.filter(|_| !is_forgiven),
            is_forgiven,
        }
    }

    /// The first segment in which there may be something from a position on.
    pub(super) fn next_segment(&self, from: Position) -> sled::Result<Option<Segment>> {
        // In this order: what is moved from an item to a block meanwhile is seen in one of them.
        let record = self.items(&Cut::before(from), None).keys().next();
        let record = record.transpose()?;
        let first = BlockKey {
            segment: from.segment(),
            depth: 0,
            index: 0,
        };
        let blocks = self.blocks.range(first.to_bytes()..);
        let block = blocks.keys().next().transpose()?;
        let segment_of = |key: &IVec| {
            let number = key.first_chunk().map(|&bytes| u16::from_be_bytes(bytes));
            Segment(number.unwrap_or(u16::MAX))
        };
        let found = [record, block];
        Ok(found.iter().flatten().map(segment_of).min())
    }

    /// The records that are items of their own, from a place on, up to a position or to the end of the ring.
    pub(super) fn items(&self, from: &Cut, end: Option<Position>) -> sled::Iter {
        let from = match &from.behind {
            Some(key) => Bound::Excluded(record_key(from.position, key)),
            None => Bound::Included(from.position.0.to_be_bytes().to_vec()),
        };
        let end = match end {
            Some(end) => Bound::Excluded(end.0.to_be_bytes().to_vec()),
            None => Bound::Unbounded,
        };
        self.records.range((from, end))
    }

    /// All that lie in an arc.
    pub(super) fn items_in(&self, arc: PositionRange) -> sled::Iter {
        self.items(&Cut::before(arc.start), arc.end)
    }

    // Whatever changes something comes by here.

    pub(super) fn put_block(&self, key: BlockKey, block: &[u8]) -> sled::Result<()> {
        self.burn()?;
        self.blocks.insert(key.to_bytes(), block).map(drop)
    }

    pub(super) fn remove_block(&self, key: IVec) -> sled::Result<()> {
        self.burn()?;
        self.blocks.remove(key).map(drop)
    }

    /// Gives what was there.
    pub(super) fn put_record(
        &self,
        record_key: &[u8],
        record: &[u8],
    ) -> sled::Result<Option<IVec>> {
        self.burn()?;
        self.records.insert(record_key, record)
    }

    /// Gives what was there.
    pub(super) fn remove_record(&self, record_key: IVec) -> sled::Result<Option<IVec>> {
        self.burn()?;
        self.records.remove(record_key)
    }

    /// Fails where a test wants it to.
    pub(super) fn burn(&self) -> sled::Result<()> {
        #[cfg(test)]
        self.hooks.fuse.burn()?;
        Ok(())
    }

    /// The blocks of a segment in which keys may be lost, and the keys whose values were met damaged.
    pub(super) fn losses(&self, segment: Segment, found: &mut Vec<Loss>) -> sled::Result<()> {
        let damaged = self.damages.of_segment(segment).into_iter();
        found.extend(damaged.map(|(record_key, number)| Loss::of_record(record_key, number)));
        let Arrangement::Blocks(depth) = self.arrangements.of(segment) else {
            return Ok(());
        };
        for item in self.blocks.range(keys_of_depth(segment, depth)) {
            let (key, stored) = item?;
            let Some(key) = BlockKey::from_bytes(&key) else {
                continue;
            };
            let loss = self.loaded(key, stored).loss();
            found.extend(loss.map(|number| Loss::of_block(key, number)));
        }
        Ok(())
    }
}

/// The keys of a segment's blocks, of one depth.
pub(super) fn keys_of_depth(segment: Segment, depth: u8) -> std::ops::RangeInclusive<[u8; 7]> {
    let key = |index| BlockKey {
        segment,
        depth,
        index,
    };
    key(0).to_bytes()..=key(u32::MAX).to_bytes()
}

#[cfg(test)]
impl Content {
    /// Makes a record vanish, as if it had never been written.
    pub(super) fn lose_record(&self, position: Position, key: &[u8]) {
        let Arrangement::Blocks(depth) = self.arrangements.of(position.segment()) else {
            self.records.remove(record_key(position, key)).unwrap();
            return;
        };
        let block_key = BlockKey::of(position, depth);
        let loaded = self.load(block_key).unwrap();
        let mut builder = super::block::Builder::default();
        let others = loaded.block().records();
        for raw in others.filter(|raw| raw.place() != (position, key)) {
            builder.push(&raw);
        }
        let mut block = Vec::new();
        builder.finish(block_key, None, &mut block);
        assert_ne!(loaded.stored.unwrap(), block);
        self.blocks.insert(block_key.to_bytes(), block).unwrap();
    }
}
