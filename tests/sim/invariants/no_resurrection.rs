//! **no_resurrection**: once all is healed, nothing is shown that an acknowledged write had read and
//! replaced, deletes above all.
//!
//! A write that was sent twice may happen twice, the second time after it was replaced, if whoever replaced
//! it read it before its sender was answered, or if not all of it need be seen by reads. Once it is
//! acknowledged by a quorum it is one write, however often it was sent, to all who read it of a quorum; who
//! has read fewer owners may have replaced the copy of an early attempt only.

use super::Read;
use crate::history::Books;

pub(crate) const NAME: &str = "no_resurrection";

pub(crate) fn check(books: &Books, read: &Read<'_>) -> Vec<String> {
    let mut returned = books.writes.returned(read.shown);
    returned.retain(|&(back, by)| !books.may_come_twice(back) && !books.may_have_missed(by, back));
    let tell = |(back, by)| {
        let key = read.key;
        format!("{key}: {back:x?} was replaced by {by:x?} and is back")
    };
    returned.into_iter().map(tell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Replaces;
    use crate::invariants::Heard;
    use crate::invariants::made_up::{
        acknowledged, deleted_after, in_doubt_and_replaced, read, replaced_twice, replaces,
    };

    fn returned(books: &Books, shown: &[u128]) -> usize {
        read(shown, |read| check(books, read)).len()
    }

    #[test]
    fn what_was_replaced_stays_away() {
        let books = acknowledged(&[(1, replaces(&[])), (2, replaces(&[1]))]);
        assert_eq!(returned(&books, &[2]), 0);
        assert_eq!(returned(&books, &[1, 2]), 1);
        let books = deleted_after(&[(1, replaces(&[]))], 2);
        assert_eq!(returned(&books, &[]), 0);
        assert_eq!(returned(&books, &[1]), 1);
    }

    #[test]
    fn a_write_that_may_come_twice_is_let_off() {
        let books = in_doubt_and_replaced();
        assert_eq!(returned(&books, &[1]), 0);
    }

    #[test]
    fn a_second_copy_of_an_acknowledged_write_stays_away() {
        let books = acknowledged(&[(1, Replaces::WhatIsThere), (2, replaces(&[1]))]);
        assert_eq!(returned(&books, &[1]), 1);
    }

    #[test]
    fn a_second_copy_is_back_only_where_fewer_owners_were_read() {
        use Heard::{Few, Quorum};
        assert_eq!(returned(&replaced_twice(1, [Few, Few]), &[1, 3]), 1);
        assert_eq!(returned(&replaced_twice(2, [Quorum, Few]), &[1, 3]), 1);
        assert_eq!(returned(&replaced_twice(2, [Few, Few]), &[1, 3]), 0);
        // The third has read only the second.
        assert_eq!(returned(&replaced_twice(2, [Few, Quorum]), &[2, 3]), 1);
    }
}
