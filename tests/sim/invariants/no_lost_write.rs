//! **no_lost_write**: every write that was acknowledged before a read began is shown, or replaced by one
//! that is: directly or through others, by what their clients had read. A delete that may have happened
//! counts as shown.
//!
//! What was acknowledged by nodes that stand in for owners, a read of owners may miss until their hints are
//! handed over; then it is held to the same.

use super::{Heard, Read};
use crate::history::Books;

pub(crate) const NAME: &str = "no_lost_write";

pub(crate) fn check(books: &Books, read: &Read<'_>) -> Vec<String> {
    let mut missing = books.writes.missing(read.shown, read.began, read.ended);
    missing.retain(|&id| read.heard == Heard::All || !books.was_sloppy(id));
    let tell = |id| {
        let (key, shown) = (read.key, read.shown);
        let began = books.writes.began(id).unwrap_or_default().as_secs_f64();
        let at = read.ended.as_secs_f64();
        format!(
            "{key}: {id:x?}, begun at {began:.3}, was acknowledged and is gone at {at:.3}; shown: {shown:x?}"
        )
    };
    missing.into_iter().map(tell).collect()
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ids::WriteId;

    use super::*;
    use crate::history::Replaces;
    use crate::invariants::made_up::{
        KEY, acknowledged, acknowledged_history, in_doubt_after, read, replaces,
    };

    fn lost(books: &Books, shown: &[u128]) -> usize {
        read(shown, |read| check(books, read)).len()
    }

    #[test]
    fn only_a_chain_of_reads_excuses() {
        let books = acknowledged(&[
            (1, replaces(&[])),
            (2, replaces(&[1])),
            (3, replaces(&[2])),
            (4, replaces(&[])),
        ]);
        assert_eq!(lost(&books, &[3, 4]), 0);
        assert_eq!(lost(&books, &[3]), 1);
        // The fourth has seen none of the others.
        assert_eq!(lost(&books, &[4]), 3);
    }

    #[test]
    fn a_blind_write_excuses_what_was_begun_before_it_ended() {
        let books = acknowledged(&[
            (1, replaces(&[])),
            (2, Replaces::WhatIsThere),
            (3, replaces(&[])),
        ]);
        assert_eq!(lost(&books, &[2, 3]), 0);
        assert_eq!(lost(&books, &[2]), 1);
        assert_eq!(lost(&books, &[3]), 2);
    }

    #[test]
    fn a_sloppy_write_may_be_missing_until_hints_are_handed_over() {
        let mut history = acknowledged_history(&[(1, replaces(&[])), (2, replaces(&[]))]);
        history.stood_in_for(WriteId(1));
        let books = history.books(KEY).unwrap();
        let heard = |heard, shown: &[u128]| {
            let lost = |read: &Read<'_>| {
                check(
                    books,
                    &Read {
                        heard,
                        ..read.clone()
                    },
                )
            };
            read(shown, lost).len()
        };
        assert_eq!(heard(Heard::Quorum, &[2]), 0);
        assert_eq!(heard(Heard::All, &[2]), 1);
        // The other has W owners.
        assert_eq!(heard(Heard::Quorum, &[1]), 1);
    }

    #[test]
    fn a_write_in_doubt_may_be_there_or_not() {
        let books = in_doubt_after(&[(1, replaces(&[]))], 2, replaces(&[1]));
        assert_eq!(lost(&books, &[1]), 0);
        assert_eq!(lost(&books, &[2]), 0);
        assert_eq!(lost(&books, &[]), 1);
    }
}
