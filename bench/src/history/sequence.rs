//! Keys that one client writes without a context, each write begun after the one before it had ended.
//!
//! With strict quorums and W + R > N a store promises that a read shows the last acknowledged write only,
//! after a delete nothing. Here no blind write is excused by another: what was acknowledged before the
//! last one has been replaced, and is neither shown alone nor beside it. What has an unknown outcome may be
//! shown, may have been minted over what is there, and, as a delete, may hide it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{History, Outcome, Record};

/// A read that shows something else than the last acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfSequence<Id> {
    /// A write is there that the last one has replaced.
    Old {
        /// What is there.
        shown: Id,
        /// The last write that was acknowledged before the read began.
        last: Id,
    },
    /// The last put is not there, and nothing that came later can have replaced it.
    Gone {
        /// That put.
        last: Id,
    },
}

impl<Id: Copy + Ord> History<Id> {
    /// Holds a read against a history of blind writes of one client, one after the other.
    pub fn out_of_sequence(
        &self,
        shown: &BTreeSet<Id>,
        read_began: Duration,
        read_ended: Duration,
    ) -> Option<OutOfSequence<Id>> {
        let is_done = |record: &Record<Id>| {
            record.outcome == Outcome::Acknowledged
                && record.ended.is_some_and(|ended| ended < read_began)
        };
        let done = self.writes.iter().filter(|(_, record)| is_done(record));
        let (&last, record) = done.max_by_key(|(_, record)| record.began)?;
        let is_open = |record: &Record<Id>| !is_done(record) && record.may_exist_before(read_ended);
        let is_last = |id: &Id| *id == last && !record.is_delete;
        // What was forgotten was replaced before.
        let may_be_there = |id: &Id| is_last(id) || self.writes.get(id).is_some_and(is_open);
        if let Some(&old) = shown.iter().find(|id| !may_be_there(id)) {
            return Some(OutOfSequence::Old { shown: old, last });
        }
        let may_replace = |(id, record): (&Id, &Record<Id>)| {
            is_open(record) && (record.is_delete || shown.contains(id))
        };
        let is_there = record.is_delete || shown.contains(&last);
        let is_gone = !is_there && !self.writes.iter().any(may_replace);
        is_gone.then_some(OutOfSequence::Gone { last })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Replaces;
    use super::*;

    use Outcome::{Acknowledged, NotApplied, Unknown};

    const PUT: bool = false;
    const DELETE: bool = true;

    /// Writes one second after the other; each takes half a second.
    fn history(writes: &[(bool, Outcome)]) -> History<u32> {
        let mut history = History::default();
        for (number, (is_delete, outcome)) in (1_u32..).zip(writes) {
            let began = Duration::from_secs(number.into());
            let blind = Replaces::WhatIsThere;
            history.begin(number, *is_delete, blind, began).unwrap();
            let ended = began + Duration::from_millis(500);
            history.end(number, *outcome, ended).unwrap();
        }
        history
    }

    fn read(history: &History<u32>, shown: &[u32]) -> Option<OutOfSequence<u32>> {
        let shown = shown.iter().copied().collect();
        let (began, ended) = (Duration::from_secs(100), Duration::from_secs(101));
        history.out_of_sequence(&shown, began, ended)
    }

    #[test]
    fn the_last_acknowledged_write_stands_alone() {
        use OutOfSequence::{Gone, Old};
        let puts = history(&[(PUT, Acknowledged), (PUT, Acknowledged)]);
        let old = Some(Old { shown: 1, last: 2 });
        assert_eq!(read(&puts, &[2]), None);
        assert_eq!(read(&puts, &[1]), old);
        assert_eq!(read(&puts, &[1, 2]), old);
        assert_eq!(read(&puts, &[]), Some(Gone { last: 2 }));
        let deleted = history(&[(PUT, Acknowledged), (DELETE, Acknowledged)]);
        assert_eq!(read(&deleted, &[]), None);
        assert_eq!(read(&deleted, &[1]), old);
        assert_eq!(read(&history(&[(PUT, NotApplied)]), &[]), None);
    }

    #[test]
    fn what_nobody_knows_excuses_itself_alone() {
        let puts = [(PUT, Acknowledged), (PUT, Unknown), (PUT, Acknowledged)];
        let puts = history(&puts);
        for right in [&[3][..], &[2, 3], &[2]] {
            assert_eq!(read(&puts, right), None, "{right:?}");
        }
        for wrong in [&[1][..], &[1, 2], &[1, 3], &[]] {
            assert!(read(&puts, wrong).is_some(), "{wrong:?}");
        }
        // A delete that came late is not seen.
        let late = history(&[(PUT, Acknowledged), (DELETE, Unknown)]);
        assert_eq!(read(&late, &[]), None);
        assert_eq!(read(&late, &[1]), None);
        let refused = history(&[(PUT, Acknowledged), (PUT, NotApplied)]);
        assert!(read(&refused, &[2]).is_some());
        assert!(read(&refused, &[]).is_some());
    }

    /// What is under way, or acknowledged since the read began, may be there or not.
    #[test]
    fn what_goes_on_meanwhile_may_be_seen_or_not() {
        let puts = history(&[(PUT, Acknowledged), (PUT, Acknowledged)]);
        let during = |shown: &[u32]| {
            let shown = shown.iter().copied().collect();
            let (began, ended) = (Duration::from_millis(2200), Duration::from_millis(2700));
            puts.out_of_sequence(&shown, began, ended)
        };
        for right in [&[1][..], &[2], &[1, 2]] {
            assert_eq!(during(right), None, "{right:?}");
        }
        assert!(during(&[]).is_some());
    }

    #[test]
    fn what_was_forgotten_is_old() {
        let writes = vec![(PUT, Acknowledged); 200];
        let mut history = history(&writes);
        history.forget();
        assert!(history.len() < 200);
        let shown = BTreeSet::from([7]);
        let (began, ended) = (Duration::from_secs(900), Duration::from_secs(901));
        let found = history.out_of_sequence(&shown, began, ended);
        let old = OutOfSequence::Old {
            shown: 7,
            last: 200,
        };
        assert_eq!(found, Some(old));
    }
}
