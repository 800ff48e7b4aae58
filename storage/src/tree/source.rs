//! Records that lie together in the tree: of one block, or items of their own.

use std::ops::Bound;

use dynakv_protocol::hash::Position;
use sled::IVec;

use super::block::{Block, BlockKey, Raw, RecordPlace};
use super::content::Content;
use crate::error::Damage;
use crate::format::{self, Record, key_of_record, position_of_record, record_key};
use crate::items::Cut;

/// Records that lie together.
pub(super) enum Source {
    Block {
        key: BlockKey,
        stored: Option<IVec>,
        place: RecordPlace,
        lost: Option<Damage>,
    },
    /// Items of their own, up to the end of a segment or of a block that is spilled.
    Items {
        items: Box<sled::Iter>,
        taken: Option<(IVec, IVec)>,
        /// The block, and why keys of it may be lost.
        block: Option<(BlockKey, Option<Damage>)>,
    },
}

impl Source {
    /// The records of a block, from a place on where these are items of their own.
    pub(super) fn of_block(content: &Content, key: BlockKey, stored: IVec, at: &Cut) -> Self {
        let loaded = content.loaded(key, stored);
        if loaded.block().is_spilled() {
            let start = Cut::before(key.start());
            let from = if at.position < start.position {
                &start
            } else {
                at
            };
            return Self::Items {
                items: Box::new(items_from(content, from, key.end())),
                taken: None,
                block: Some((key, loaded.lost.map(|(_, damage)| damage))),
            };
        }
        Self::Block {
            key,
            stored: loaded.stored,
            place: RecordPlace::default(),
            lost: loaded.lost.map(|(_, damage)| damage),
        }
    }

    /// The records of a segment that is not cut into blocks, from a place on.
    pub(super) fn of_items(content: &Content, at: &Cut, end: Option<Position>) -> Self {
        Self::Items {
            items: Box::new(items_from(content, at, end)),
            taken: None,
            block: None,
        }
    }

    /// The block that the records are of; `None` for those of a segment that is not cut into blocks.
    pub(super) fn block_key(&self) -> Option<BlockKey> {
        match self {
            Self::Block { key, .. } => Some(*key),
            Self::Items { block, .. } => block.as_ref().map(|(key, _)| *key),
        }
    }

    /// Whether there is no record left. Reads on where that takes it.
    pub(super) fn is_at_end(&mut self) -> sled::Result<bool> {
        if let Self::Items { items, taken, .. } = self
            && taken.is_none()
        {
            *taken = items.next().transpose()?;
        }
        Ok(self.record().is_none())
    }

    fn raw(&self) -> Option<Raw<'_>> {
        match self {
            Self::Block { stored, place, .. } => {
                Block::trusted(stored.as_deref()?).record_at(*place)
            }
            Self::Items { .. } => None,
        }
    }

    /// The record that comes next.
    pub(super) fn record(&self) -> Option<(Position, &[u8])> {
        match self {
            Self::Block { .. } => self.raw().map(|raw| raw.place()),
            Self::Items { taken, .. } => taken
                .as_ref()
                .map(|(record_key, _)| (position_of_record(record_key), key_of_record(record_key))),
        }
    }

    /// What it holds, or what is wrong with it.
    pub(super) fn check(&self) -> Result<Record<'_>, Damage> {
        match (self, self.raw()) {
            (_, Some(raw)) => raw.check(),
            (
                Self::Items {
                    taken: Some((record_key, stored)),
                    ..
                },
                None,
            ) => format::decode(record_key, stored),
            (_, None) => Err(Damage::Lost),
        }
    }

    /// Goes behind the record that comes next.
    pub(super) fn pass(&mut self) {
        let lengths = self.raw().map(|raw| raw.lengths());
        match self {
            Self::Block { place, .. } => {
                if let Some(lengths) = lengths {
                    *place = place.behind(lengths);
                }
            }
            Self::Items { taken, .. } => *taken = None,
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Block { lost, .. } => lost.is_some(),
            Self::Items { block, .. } => block.as_ref().is_some_and(|(_, lost)| lost.is_some()),
        }
    }

    pub(super) fn take_lost(&mut self) -> Option<Damage> {
        match self {
            Self::Block { lost, .. } => lost.take(),
            Self::Items { block, .. } => block.as_mut()?.1.take(),
        }
    }
}

/// The items from a place on.
fn items_from(content: &Content, from: &Cut, end: Option<Position>) -> sled::Iter {
    let from = match &from.behind {
        Some(key) => Bound::Excluded(record_key(from.position, key)),
        None => Bound::Included(from.position.0.to_be_bytes().to_vec()),
    };
    let end = match end {
        Some(end) => Bound::Excluded(end.0.to_be_bytes().to_vec()),
        None => Bound::Unbounded,
    };
    content.records.range((from, end))
}
