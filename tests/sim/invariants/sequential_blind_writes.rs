//! **sequential_blind_writes**: strict, W + R > N, and one client that writes the key without a context,
//! puts and deletes, each begun after the one before it had ended: a later read shows the last
//! acknowledged one only, after a delete nothing, whatever failed in between.
//!
//! What has an unknown outcome may stand beside it. It may also stand in its place: a write that arrives
//! late is minted over what is there, and a delete that arrives late is not seen at all.

use dynakv_bench::history::OutOfSequence;

use super::Read;
use crate::history::Books;

pub(crate) const NAME: &str = "sequential_blind_writes";

pub(crate) fn check(books: &Books, read: &Read<'_>) -> Option<String> {
    let (key, shown) = (read.key, read.shown);
    let wrong = books
        .writes
        .out_of_sequence(shown, read.began, read.ended)?;
    let (OutOfSequence::Old { last, .. } | OutOfSequence::Gone { last }) = wrong;
    let what = if books.is_delete(last) {
        "delete"
    } else {
        "put"
    };
    let how = match wrong {
        OutOfSequence::Old { shown, .. } => format!("there is {shown:x?}, which came before it"),
        OutOfSequence::Gone { .. } => "it is gone".to_owned(),
    };
    let (began, ended) = (read.began.as_secs_f64(), read.ended.as_secs_f64());
    Some(format!(
        "{key}: the {what} {last:x?} was acknowledged before {began:.3}, and at {ended:.3} {how}; shown: {shown:x?}"
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynakv_protocol::ids::WriteId;

    use super::*;
    use crate::history::{History, Replaces};
    use crate::invariants::Heard;
    use crate::invariants::made_up::{Blind, KEY, blind_history, read};

    fn is_broken(history: &History, shown: &[u128]) -> bool {
        let books = history.books(KEY).unwrap();
        read(shown, |read| check(books, read)).is_some()
    }

    #[test]
    fn the_last_acknowledged_put_stands_alone() {
        let history = blind_history(&[Blind::Put(1), Blind::Put(2)]);
        assert!(!is_broken(&history, &[2]));
        for wrong in [&[1][..], &[1, 2], &[]] {
            assert!(is_broken(&history, wrong), "{wrong:?}");
        }
    }

    #[test]
    fn after_a_delete_there_is_nothing() {
        let history = blind_history(&[Blind::Put(1), Blind::Delete(2)]);
        assert!(!is_broken(&history, &[]));
        assert!(is_broken(&history, &[1]));
        let history = blind_history(&[Blind::Put(1), Blind::Delete(2), Blind::Put(3)]);
        assert!(!is_broken(&history, &[3]));
        for wrong in [&[1][..], &[1, 3], &[]] {
            assert!(is_broken(&history, wrong), "{wrong:?}");
        }
    }

    #[test]
    fn what_nobody_knows_may_stand_beside_or_in_its_place() {
        for history in [
            blind_history(&[Blind::Put(1), Blind::PutInDoubt(2), Blind::Put(3)]),
            blind_history(&[Blind::Put(1), Blind::Put(3), Blind::PutInDoubt(2)]),
        ] {
            for right in [&[3][..], &[2, 3], &[2]] {
                assert!(!is_broken(&history, right), "{right:?}");
            }
            // It excuses nothing but itself.
            for wrong in [&[1][..], &[1, 3], &[1, 2], &[]] {
                assert!(is_broken(&history, wrong), "{wrong:?}");
            }
        }
        let history = blind_history(&[Blind::Put(1), Blind::PutInDoubt(2), Blind::Delete(3)]);
        assert!(!is_broken(&history, &[]));
        assert!(!is_broken(&history, &[2]));
        assert!(is_broken(&history, &[1]));
    }

    #[test]
    fn a_delete_that_nobody_knows_of_may_come_late() {
        for history in [
            blind_history(&[Blind::Put(1), Blind::DeleteInDoubt(2), Blind::Put(3)]),
            blind_history(&[Blind::Put(1), Blind::Put(3), Blind::DeleteInDoubt(2)]),
        ] {
            assert!(!is_broken(&history, &[3]));
            assert!(!is_broken(&history, &[]));
            assert!(is_broken(&history, &[1]));
            assert!(is_broken(&history, &[1, 3]));
        }
    }

    #[test]
    fn what_was_refused_counts_for_nothing() {
        let history = blind_history(&[Blind::Put(1), Blind::PutRefused(2)]);
        assert!(!is_broken(&history, &[1]));
        assert!(is_broken(&history, &[2]));
        assert!(is_broken(&history, &[]));
    }

    /// A write that is under way may be there already, may have replaced the last one, or may not.
    #[test]
    fn a_write_that_is_under_way_may_be_seen() {
        let mut history = blind_history(&[Blind::Put(1), Blind::Put(2)]);
        let (id, began) = (WriteId(3), Duration::from_secs(99));
        history.begin(id, KEY, false, Replaces::WhatIsThere, began);
        for right in [&[2][..], &[2, 3], &[3]] {
            assert!(!is_broken(&history, right), "{right:?}");
        }
        assert!(is_broken(&history, &[]));
        assert!(is_broken(&history, &[1, 3]));
        // Acknowledged before the read has ended, and not before it began.
        history.end(id, &Ok(()), Duration::from_millis(100_500));
        assert!(!is_broken(&history, &[2]));
        assert!(!is_broken(&history, &[3]));
    }

    #[test]
    fn reads_of_such_keys_are_held_against_it_and_few_copies_prove_nothing() {
        let history = blind_history(&[Blind::Put(1), Blind::Put(2)]);
        let books = history.books(KEY).unwrap();
        for (heard, broken) in [(Heard::Few, 0), (Heard::Quorum, 1), (Heard::All, 1)] {
            let names = read(&[1, 2], |read| {
                let read = Read {
                    heard,
                    ..read.clone()
                };
                crate::invariants::check_read(books, &read)
            });
            let names = names.iter().filter(|it| it.invariant == NAME);
            assert_eq!(names.count(), broken, "{heard:?}");
        }
    }
}
