//! **bounded_siblings**: there are never more siblings than truly concurrent writes: no two values stand
//! side by side of which one had read and replaced the other, and no write stands there twice.
//!
//! A write that was sent twice is let off while one of its copies may have come about after it was replaced, as by
//! `no_resurrection`. Once it is acknowledged by a quorum it is one write, however often it was sent, to all who read it
//! of a quorum; who has read fewer owners may have replaced the copy of an early attempt only.

use super::Read;
use crate::history::Books;

pub(crate) const NAME: &str = "bounded_siblings";

pub(crate) fn check(books: &Books, read: &Read<'_>) -> Vec<String> {
    let (key, shown) = (read.key, read.shown);
    let at = read.ended.as_secs_f64();
    let mut broken = Vec::new();
    if read.values > shown.len() {
        let values = read.values;
        broken.push(format!(
            "{key} shows {values} values at {at:.3}, of {shown:x?}"
        ));
    }
    if shown.len() > 1 {
        for &by in shown {
            let replaced = books.had_read(by);
            let beside = shown.iter().filter(|id| replaced.contains(id));
            let beside =
                beside.filter(|&&id| !books.may_come_twice(id) && !books.may_have_missed(by, id));
            broken.extend(beside.map(|id| {
                format!("{key} shows {id:x?} at {at:.3}, and beside it {by:x?}, which replaced it")
            }));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::Heard;
    use crate::invariants::made_up::{
        Hung, acknowledged, given_to_a_disk_that_hung, in_doubt_and_replaced, read, replaced_twice,
        replaces,
    };

    fn broken(books: &Books, shown: &[u128]) -> usize {
        read(shown, |read| check(books, read)).len()
    }

    #[test]
    fn what_was_replaced_does_not_stand_beside_what_replaced_it() {
        let books = acknowledged(&[
            (1, replaces(&[])),
            (2, replaces(&[1])),
            (3, replaces(&[2])),
            (4, replaces(&[1])),
        ]);
        assert_eq!(broken(&books, &[3, 4]), 0);
        assert_eq!(broken(&books, &[2, 3]), 1);
        // Through the second, too.
        assert_eq!(broken(&books, &[1, 3]), 1);
    }

    #[test]
    fn a_write_that_may_come_twice_is_let_off() {
        let books = in_doubt_and_replaced();
        assert_eq!(broken(&books, &[1, 2]), 0);
    }

    #[test]
    fn an_owner_whose_disk_hung_may_have_handed_a_write_on_to_two() {
        let shown = |hung, is_acknowledged| {
            let books = given_to_a_disk_that_hung(hung, is_acknowledged);
            broken(&books, &[2, 3])
        };
        assert_eq!(shown(Hung::Meanwhile, false), 0);
        // Acknowledged it is one write.
        assert_eq!(shown(Hung::Meanwhile, true), 1);
        assert_eq!(shown(Hung::Before, false), 1);
        assert_eq!(shown(Hung::After, false), 1);
        // What was given to others.
        let books = given_to_a_disk_that_hung(Hung::Meanwhile, false);
        assert_eq!(broken(&books, &[1, 3]), 1);
    }

    #[test]
    fn a_second_copy_stands_only_beside_what_has_read_fewer_owners() {
        use Heard::{Few, Quorum};
        let two = [1, 2];
        // Sent once, it has no other copy.
        assert_eq!(broken(&replaced_twice(1, [Few, Few]), &two), 1);
        assert_eq!(broken(&replaced_twice(2, [Quorum, Few]), &two), 1);
        assert_eq!(broken(&replaced_twice(2, [Few, Few]), &two), 0);
        // One read of a quorum on the way is enough, be it the first or the last.
        let chain = [1, 3];
        assert_eq!(broken(&replaced_twice(2, [Few, Few]), &chain), 0);
        assert_eq!(broken(&replaced_twice(2, [Quorum, Few]), &chain), 1);
        assert_eq!(broken(&replaced_twice(2, [Few, Quorum]), &chain), 1);
        // The others are held to all.
        assert_eq!(broken(&replaced_twice(2, [Few, Few]), &[2, 3]), 1);
    }

    #[test]
    fn one_write_is_one_value() {
        let books = acknowledged(&[(1, replaces(&[]))]);
        let twice = read(&[1], |read| {
            check(
                &books,
                &Read {
                    values: 2,
                    ..read.clone()
                },
            )
        });
        assert_eq!(twice.len(), 1);
    }
}
