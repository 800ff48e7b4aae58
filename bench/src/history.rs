//! What clients wrote under one key and what they saw, by their own books, and what must hold of it.
//!
//! A write that is not there any more is excused only if a write that is there replaced it, itself or
//! through others: each link of that chain is the context that a client got from a read, taken as the
//! values which that read showed. The store's own clocks are no evidence: the clock of a node that has
//! forgotten something covers just what it has forgotten.
//!
//! Pure: moments are arguments, counted from any beginning. The auditor of real clusters and the
//! simulation (`tests/sim/history.rs`) share it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

mod forget;
mod sequence;

pub use sequence::OutOfSequence;

/// So many records may pile up before it is worth to look.
const CROWD: usize = 32;

/// What a write replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaces<Id> {
    /// What its client had read.
    Read(Vec<Id>),
    /// Whatever its coordinator has: of that the client knows nothing, except that it was begun before
    /// the blind write ended.
    WhatIsThere,
}

/// How a write ended, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It must be there from now on.
    Acknowledged,
    /// It may be there, now or later.
    Unknown,
    /// It was promised that nothing happened.
    NotApplied,
}

/// The books themselves are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BooksError {
    /// A write was begun under an id that another one has.
    #[error("a write was begun twice")]
    BegunTwice,
    /// A write ended or was retried that nobody began, or that has ended.
    #[error("a write ended that was not under way")]
    NotUnderWay,
}

#[derive(Debug, Clone)]
struct Record<Id> {
    is_delete: bool,
    replaces: Replaces<Id>,
    began: Duration,
    /// When it was known how it ended; nothing for a write that may still happen.
    ended: Option<Duration>,
    outcome: Outcome,
    /// Its client still waits.
    is_under_way: bool,
    /// Whether an attempt before the present one may have happened.
    is_in_doubt: bool,
    is_retried: bool,
}

impl<Id> Record<Id> {
    /// Whether it may have been there before a moment.
    fn may_exist_before(&self, moment: Duration) -> bool {
        self.outcome != Outcome::NotApplied && self.began < moment
    }

    /// Up to when it may have taken effect.
    fn until(&self) -> Duration {
        self.ended.unwrap_or(Duration::MAX)
    }
}

/// The history of one key.
#[derive(Debug, Clone)]
pub struct History<Id> {
    writes: BTreeMap<Id, Record<Id>>,
    /// How many records there may be until it is worth looking for some to forget.
    crowded_at: usize,
}

impl<Id> Default for History<Id> {
    fn default() -> Self {
        Self {
            writes: BTreeMap::new(),
            crowded_at: CROWD,
        }
    }
}

impl<Id: Copy + Ord> History<Id> {
    /// A client begins a write.
    ///
    /// # Errors
    /// [`BooksError::BegunTwice`].
    pub fn begin(
        &mut self,
        id: Id,
        is_delete: bool,
        replaces: Replaces<Id>,
        now: Duration,
    ) -> Result<(), BooksError> {
        if self.writes.contains_key(&id) {
            return Err(BooksError::BegunTwice);
        }
        let record = Record {
            is_delete,
            replaces,
            began: now,
            ended: None,
            outcome: Outcome::Unknown,
            is_under_way: true,
            is_in_doubt: false,
            is_retried: false,
        };
        self.writes.insert(id, record);
        Ok(())
    }

    /// A client sends a write again that has ended without an acknowledgement.
    ///
    /// # Errors
    /// [`BooksError::NotUnderWay`] when it was never begun.
    pub fn retry(&mut self, id: Id) -> Result<(), BooksError> {
        let record = self.writes.get_mut(&id).ok_or(BooksError::NotUnderWay)?;
        record.is_retried = true;
        record.is_in_doubt |= record.outcome == Outcome::Unknown;
        record.outcome = Outcome::Unknown;
        record.ended = None;
        record.is_under_way = true;
        Ok(())
    }

    /// An attempt has ended.
    ///
    /// # Errors
    /// [`BooksError::NotUnderWay`].
    pub fn end(&mut self, id: Id, outcome: Outcome, now: Duration) -> Result<(), BooksError> {
        let record = self
            .writes
            .get_mut(&id)
            .filter(|record| record.is_under_way);
        let record = record.ok_or(BooksError::NotUnderWay)?;
        // After an attempt that may have happened, a refusal says nothing of that attempt.
        record.outcome = match outcome {
            Outcome::NotApplied if record.is_in_doubt => Outcome::Unknown,
            outcome => outcome,
        };
        record.ended = (record.outcome != Outcome::Unknown).then_some(now);
        record.is_under_way = false;
        Ok(())
    }

    /// Nobody waits any more: what has no end yet may have happened, now or later.
    pub fn close(&mut self) {
        for record in self.writes.values_mut() {
            record.is_under_way = false;
        }
    }

    /// How a write ended; nothing when it is not in the books.
    pub fn outcome(&self, id: Id) -> Option<Outcome> {
        self.writes.get(&id).map(|record| record.outcome)
    }

    /// When a write began.
    pub fn began(&self, id: Id) -> Option<Duration> {
        self.writes.get(&id).map(|record| record.began)
    }

    /// When a write ended, if it is known how.
    pub fn ended(&self, id: Id) -> Option<Duration> {
        self.writes.get(&id).and_then(|record| record.ended)
    }

    /// Whether a write may take effect a second time, after it was replaced: that of a client that
    /// tried again, and any blind one, which a node hands on when another is slow to answer.
    pub fn may_come_twice(&self, id: Id) -> bool {
        let record = self.writes.get(&id);
        record.is_some_and(|record| record.is_retried || record.replaces == Replaces::WhatIsThere)
    }

    /// How many writes are remembered.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// What a read fails to show: each put that was acknowledged before the read began, is not shown,
    /// and was replaced by nothing that is shown.
    ///
    /// A delete shows nothing; what it deleted is for [`returned`](Self::returned).
    pub fn missing(
        &self,
        shown: &BTreeSet<Id>,
        read_began: Duration,
        read_ended: Duration,
    ) -> Vec<Id> {
        let is_due = |record: &Record<Id>| {
            record.outcome == Outcome::Acknowledged
                && !record.is_delete
                && record.ended.is_some_and(|ended| ended < read_began)
        };
        let due = self.writes.iter().filter(|(_, record)| is_due(record));
        let mut due: Vec<Id> = due.map(|(id, _)| *id).collect();
        due.retain(|id| !shown.contains(id));
        if !due.is_empty() {
            let excused = self.excused(shown, read_ended);
            due.retain(|id| !excused.contains(id));
        }
        due
    }

    /// What the shown writes replaced, themselves or through others. Deletes cannot be seen, so each
    /// that may have happened counts as if it were shown.
    fn excused(&self, shown: &BTreeSet<Id>, until: Duration) -> BTreeSet<Id> {
        let deletes = self.writes.iter().filter(|(_, record)| {
            let is_possible = record.may_exist_before(until);
            record.is_delete && is_possible
        });
        let deletes = deletes.map(|(id, _)| *id);
        self.replaced_by(shown.iter().copied().chain(deletes), |_| true)
    }

    /// What these writes replaced, themselves or through others that count.
    fn replaced_by(
        &self,
        roots: impl IntoIterator<Item = Id>,
        counts: impl Fn(&Record<Id>) -> bool,
    ) -> BTreeSet<Id> {
        let mut waiting: Vec<Id> = roots.into_iter().collect();
        let mut replaced = BTreeSet::new();
        let mut blind_until = Duration::ZERO;
        while let Some(id) = waiting.pop() {
            // What is not in the books has no say.
            let record = self.writes.get(&id).filter(|record| counts(record));
            let Some(record) = record else {
                continue;
            };
            match &record.replaces {
                Replaces::Read(read) => {
                    waiting.extend(read.iter().copied().filter(|id| replaced.insert(*id)));
                }
                Replaces::WhatIsThere if record.until() <= blind_until => {}
                Replaces::WhatIsThere => {
                    blind_until = record.until();
                    let others = self.writes.iter();
                    let before = others.filter(|(_, other)| other.may_exist_before(blind_until));
                    waiting.extend(before.map(|(id, _)| *id).filter(|id| replaced.insert(*id)));
                }
            }
        }
        replaced
    }

    /// What is shown although an acknowledged write had read and replaced it: pairs of the one that is
    /// back and the one that replaced it.
    pub fn returned(&self, shown: &BTreeSet<Id>) -> Vec<(Id, Id)> {
        let mut returned = Vec::new();
        for (id, record) in &self.writes {
            if record.outcome != Outcome::Acknowledged {
                continue;
            }
            if let Replaces::Read(read) = &record.replaces {
                let back = read.iter().filter(|read| shown.contains(read));
                returned.extend(back.map(|back| (*back, *id)));
            }
        }
        returned
    }
}

#[cfg(test)]
mod tests;
