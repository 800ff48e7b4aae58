//! Forgetting what can make no difference any more, so that an audit of hours needs no more memory than
//! one of seconds.
//!
//! A write *w* is forgotten when an acknowledged write *v* replaced it, itself or through others, and *w*
//! did not replace *v* (two blind writes at the same time may each have replaced the other). This loses
//! nothing:
//!
//! - If *w* is missing without an excuse, then so is *v*: whatever is *v*, or replaced *v*, replaced *w*.
//!   *v* is forgotten in turn only for an acknowledged write above it, so one of them stays.
//! - *w* goes only together with all that it replaced, so it is not missed as an excuse. As it has ended,
//!   it replaces nothing that is begun later.
//!
//! So the verdict on a read stays, and only the list of what is missing becomes shorter: it names *v* and
//! not what *v* had replaced.
//!
//! A delete is never shown, so nobody reads it and nobody replaces it. It goes when all that it replaced
//! is gone; the newest few stay, so that a value that comes back is noticed.

use std::collections::{BTreeMap, BTreeSet};

use super::{CROWD, History, Outcome, Record, Replaces};

/// So many deletes are kept at least.
const DELETES_KEPT: usize = 8;

impl<Id: Copy + Ord> History<Id> {
    /// Forgets what is provably replaced, when many writes have piled up. To be called now and then,
    /// after an acknowledgement. Whether it has.
    pub fn forget_if_crowded(&mut self) -> bool {
        let is_crowded = self.writes.len() >= self.crowded_at;
        if is_crowded {
            self.forget();
            self.crowded_at = CROWD.max(2 * self.writes.len());
        }
        is_crowded
    }

    /// Forgets what is provably replaced.
    pub(super) fn forget(&mut self) {
        type Replaced<Id> = BTreeMap<Id, BTreeSet<Id>>;
        // A write that is under way may yet be refused, so it proves nothing; but it may replace.
        let is_over = |record: &Record<Id>| !record.is_under_way;
        let ids = self.writes.keys();
        let proven = ids.map(|id| (*id, self.replaced_by([*id], is_over)));
        let proven: Replaced<Id> = proven.collect();
        let ids = self.writes.keys();
        let possible = ids.map(|id| (*id, self.replaced_by([*id], |_| true)));
        let possible: Replaced<Id> = possible.collect();
        let is_acknowledged = |record: &Record<Id>| record.outcome == Outcome::Acknowledged;
        let acknowledged = self.writes.iter().filter(|(_, r)| is_acknowledged(r));
        let acknowledged: Vec<Id> = acknowledged.map(|(id, _)| *id).collect();
        let is_below = |id: &Id| {
            let mut above = acknowledged.iter();
            above.any(|above| proven[above].contains(id) && !possible[id].contains(above))
        };
        let has_ended =
            |record: &Record<Id>| is_over(record) && record.outcome != Outcome::NotApplied;
        let below = self.writes.iter();
        let below = below.filter(|(id, record)| has_ended(record) && is_below(id));
        let mut forgotten: BTreeSet<Id> = below.map(|(id, _)| *id).collect();

        let of_reads = |record: &Record<Id>| matches!(record.replaces, Replaces::Read(_));
        let deletes = self.writes.iter();
        let deletes = deletes.filter(|(_, r)| r.is_delete && has_ended(r) && of_reads(r));
        let mut deletes: Vec<Id> = deletes.map(|(id, _)| *id).collect();
        deletes.sort_by_key(|id| self.writes[id].began);
        let (old, new) = deletes.split_at(deletes.len().saturating_sub(DELETES_KEPT));
        forgotten.extend(old);
        forgotten.retain(|id| !new.contains(id));
        // No chain of excuses that leads to one who stays may lose a link.
        let is_gone = |id: &Id| forgotten.contains(id) || !self.writes.contains_key(id);
        let links = forgotten
            .iter()
            .filter(|id| !possible[*id].iter().all(is_gone));
        let links: BTreeSet<Id> = links.copied().collect();
        forgotten.retain(|id| !links.contains(id));
        self.writes.retain(|id, _| !forgotten.contains(id));
    }
}
