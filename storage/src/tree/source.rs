//! Records that lie together in the tree: of one block, or items of their own.

use dynakv_protocol::hash::Position;
use sled::IVec;

use super::block::{Block, BlockKey, Raw, RecordPlace};
use super::content::Content;
use crate::error::Damage;
use crate::format::{self, Record, key_of_record, position_of_record};
use crate::items::{Cut, PositionRange};

/// Records that lie together in an arc.
pub(super) struct Source {
    arc: PositionRange,
    /// Why keys of the arc may be lost.
    lost: Option<Damage>,
    records: Records,
}

enum Records {
    /// Of a block, from a place in it on.
    Block(Option<IVec>, RecordPlace),
    /// Items of their own: those that were not read yet, and the one that comes next.
    Items(Box<sled::Iter>, Option<(IVec, IVec)>),
}

impl Source {
    /// The records of a block, from a place on where these are items of their own.
    pub(super) fn of_block(content: &Content, key: BlockKey, stored: IVec, at: &Cut) -> Self {
        let loaded = content.loaded(key, stored);
        let arc = key.arc();
        let records = match loaded.block().is_spilled() {
            true => items_of(content, at, arc),
            false => Records::Block(loaded.stored, RecordPlace::default()),
        };
        let lost = loaded.lost.map(|(_, damage)| damage);
        Self { arc, lost, records }
    }

    /// The records of a segment that is not cut into blocks, from a place in it on.
    pub(super) fn of_items(content: &Content, at: &Cut) -> Self {
        let arc = PositionRange::of_segment(at.position.segment());
        Self {
            arc,
            lost: None,
            records: items_of(content, at, arc),
        }
    }

    pub(super) fn arc(&self) -> PositionRange {
        self.arc
    }

    /// Whether its records may be moved meanwhile. A block is held as a whole.
    pub(super) fn is_of_items(&self) -> bool {
        matches!(self.records, Records::Items(..))
    }

    /// Whether there is no record left. Reads on where that takes it.
    pub(super) fn is_at_end(&mut self) -> sled::Result<bool> {
        if let Records::Items(items, taken @ None) = &mut self.records {
            *taken = items.next().transpose()?;
        }
        Ok(self.record().is_none())
    }

    /// The record that comes next.
    pub(super) fn record(&self) -> Option<(Position, &[u8])> {
        match &self.records {
            Records::Block(stored, place) => raw_at(stored, *place).map(|raw| raw.place()),
            Records::Items(_, taken) => taken
                .as_ref()
                .map(|(record_key, _)| (position_of_record(record_key), key_of_record(record_key))),
        }
    }

    /// What it holds, or what is wrong with it.
    pub(super) fn check(&self) -> Result<Record<'_>, Damage> {
        match &self.records {
            Records::Block(stored, place) => {
                raw_at(stored, *place).map_or(Err(Damage::Lost), |raw| raw.check())
            }
            Records::Items(_, Some((record_key, stored))) => format::decode(record_key, stored),
            Records::Items(_, None) => Err(Damage::Lost),
        }
    }

    /// Goes behind the record that comes next.
    pub(super) fn pass(&mut self) {
        match &mut self.records {
            Records::Block(stored, place) => {
                let lengths = raw_at(stored, *place).map(|raw| raw.lengths());
                *place = lengths.map_or(*place, |lengths| place.behind(lengths));
            }
            Records::Items(_, taken) => *taken = None,
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub(super) fn take_lost(&mut self) -> Option<Damage> {
        self.lost.take()
    }
}

fn raw_at(stored: &Option<IVec>, place: RecordPlace) -> Option<Raw<'_>> {
    Block::trusted(stored.as_deref()?).record_at(place)
}

/// The items of an arc, from a place on if that lies in it.
fn items_of(content: &Content, at: &Cut, arc: PositionRange) -> Records {
    let items = match arc.contains(at.position) {
        true => content.items(at, arc.end),
        false => content.items_in(arc),
    };
    Records::Items(Box::new(items), None)
}
