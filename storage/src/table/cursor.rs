//! Walks through the table in ring order, a few records per lock.

use dynakv_protocol::hash::Position;

use super::record::{Entry, Record};
use super::sync::atomic::Ordering;
use super::{SHARDS, SHIFT, Table, shard_of};
use crate::items::Cut;

/// How many records are taken out at a time, under one lock.
const RECORDS: usize = 128;

/// How many shards a stretch goes through at most: there may be nothing in any of them.
const SHARDS_MAX: usize = 256;

impl Table {
    /// Takes the first records behind `from` out that are wanted, of the shard in which it lies. Up to where these are
    /// all: `None` for the end of the ring.
    fn take(&self, from: &Cut, wanted: impl Fn(&Record) -> bool) -> (Vec<Entry>, Option<Cut>) {
        let index = shard_of(from.position);
        let (taken, is_all) = self.read(index).first_behind(from, RECORDS, wanted);
        let last = taken.last().filter(|_| !is_all);
        let up_to = match last {
            Some(last) => Some(Cut {
                position: last.position,
                behind: Some(Box::from(last.pair.key())),
            }),
            None => start_of(index + 1),
        };
        (taken, up_to)
    }
}

fn start_of(shard: usize) -> Option<Cut> {
    (shard < SHARDS).then(|| Cut::before(Position((shard as u64) << SHIFT)))
}

/// Walks the generation that is frozen while it lives. What was written over since is left out.
#[derive(Debug)]
pub(crate) struct FrozenCursor<'a> {
    table: &'a Table,
    generation: u32,
    next: Option<Cut>,
}

impl<'a> FrozenCursor<'a> {
    /// At the beginning of the ring.
    pub(crate) fn new(table: &'a Table) -> Self {
        Self {
            table,
            generation: table.active.load(Ordering::Acquire) - 1,
            next: start_of(0),
        }
    }

    /// The next records, in ring order; none at the end.
    pub(crate) fn next(&mut self) -> Option<Vec<Entry>> {
        while let Some(from) = &self.next {
            let generation = self.generation;
            let (taken, next) = self.table.take(from, |it| it.generation == generation);
            self.next = next;
            if !taken.is_empty() {
                return Some(taken);
            }
        }
        None
    }

    /// How much of the ring it has gone through, from 0 to 1.
    pub(crate) fn progress(&self) -> f64 {
        match &self.next {
            Some(at) => shard_of(at.position) as f64 / SHARDS as f64,
            None => 1.0,
        }
    }
}

/// A stretch of the ring, with all that was dirty in it when it was looked at. Whatever else is there, the tree has it
/// from that moment on: so the tree is to be read after this was taken.
#[derive(Debug)]
pub(crate) struct DirtyStretch {
    /// In ring order.
    pub(crate) entries: Vec<Entry>,
    /// Up to where it goes; `None` for the end that was asked for.
    pub(crate) up_to: Option<Cut>,
}

impl DirtyStretch {
    /// The stretch that begins at a place, and goes up to a position at most.
    pub(crate) fn take(table: &Table, from: &Cut, end: Option<Position>) -> Self {
        let is_behind_end = |position| end.is_some_and(|end| position >= end);
        let mut entries = Vec::new();
        let mut at = Some(from.clone());
        for _ in 0..SHARDS_MAX {
            let Some(from) = at.take_if(|at| !is_behind_end(at.position)) else {
                break;
            };
            if entries.len() >= RECORDS {
                at = Some(from);
                break;
            }
            let (taken, next) = table.take(&from, |it| table.is_dirty(it.generation));
            let within = taken
                .into_iter()
                .take_while(|it| !is_behind_end(it.position));
            entries.extend(within);
            at = next;
        }
        Self {
            entries,
            up_to: at.filter(|at| !is_behind_end(at.position)),
        }
    }
}
