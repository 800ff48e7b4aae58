//! **no_lost_write**: every write that was acknowledged before a read began is shown, or replaced by one
//! that is: directly or through others, by what their clients had read. A delete that may have happened
//! counts as shown.

use super::Read;
use crate::history::Books;

pub(crate) const NAME: &str = "no_lost_write";

pub(crate) fn check(books: &Books, read: &Read<'_>) -> Vec<String> {
    let missing = books.writes.missing(read.shown, read.began, read.ended);
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
    use super::*;
    use crate::history::Replaces;
    use crate::invariants::made_up::{acknowledged, in_doubt_after, read, replaces};

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
    fn a_write_in_doubt_may_be_there_or_not() {
        let books = in_doubt_after(&[(1, replaces(&[]))], 2, replaces(&[1]));
        assert_eq!(lost(&books, &[1]), 0);
        assert_eq!(lost(&books, &[2]), 0);
        assert_eq!(lost(&books, &[]), 1);
    }
}
