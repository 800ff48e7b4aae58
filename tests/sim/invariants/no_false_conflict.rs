//! **no_false_conflict**: where one client writes a key, one write after the other, each with the context
//! of a read that it has just made, a read shows one value: there was never a conflict.
//!
//! A write whose outcome is unknown, and that the last one had not read, may come later and be a sibling
//! by right; then nothing is said. A write in doubt that two owners may have been given under dots of their own (a node
//! whose disk hangs hands on what it owns) is let off beside what replaced it: the last one may have read one
//! copy, and the other comes to light. Blind writes are held to
//! [`sequential_blind_writes`](super::sequential_blind_writes).

use dynakv_protocol::ids::WriteId;

use super::Read;
use crate::history::Books;

pub(crate) const NAME: &str = "no_false_conflict";

pub(crate) fn check(books: &Books, read: &Read<'_>) -> Option<String> {
    if read.values <= 1 {
        return None;
    }
    let begun = books.order().iter().copied();
    let mut begun = begun.filter(|&id| books.may_exist_before(id, read.ended));
    let last = begun.next_back()?;
    if !books.was_acknowledged_before(last, read.began) {
        return None;
    }
    let known = books.had_read(last);
    let is_in_doubt = |id| !books.was_acknowledged_before(id, read.began);
    if begun.any(|id| !known.contains(&id) && is_in_doubt(id)) {
        return None;
    }
    // A second copy excuses nothing but itself.
    let is_second_copy =
        |id: WriteId| known.contains(&id) && is_in_doubt(id) && books.may_come_twice(id);
    let second_copies = read.shown.iter().filter(|&&id| is_second_copy(id)).count();
    if read.values - second_copies <= 1 {
        return None;
    }
    let (key, shown) = (read.key, read.shown);
    let at = read.ended.as_secs_f64();
    Some(format!(
        "{key} shows {shown:x?} at {at:.3}: {} values, and nobody has written beside the one client",
        read.values
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::made_up::{
        Hung, acknowledged, given_to_a_disk_that_hung, in_doubt_after, read, replaces,
    };

    fn is_false(books: &Books, shown: &[u128]) -> bool {
        read(shown, |read| check(books, read)).is_some()
    }

    #[test]
    fn one_writer_has_no_conflicts() {
        let books = acknowledged(&[(1, replaces(&[])), (2, replaces(&[1]))]);
        assert!(!is_false(&books, &[2]));
        assert!(is_false(&books, &[1, 2]));
    }

    #[test]
    fn a_write_in_doubt_may_come_later() {
        let books = in_doubt_after(&[(1, replaces(&[]))], 2, replaces(&[1]));
        assert!(!is_false(&books, &[1, 2]));
    }

    #[test]
    fn a_write_in_doubt_may_come_twice_from_an_owner_whose_disk_hung() {
        let books = given_to_a_disk_that_hung(Hung::Meanwhile, false);
        assert!(!is_false(&books, &[2, 3]));
        // It excuses nobody else.
        assert!(is_false(&books, &[1, 3]));
        assert!(is_false(&books, &[1, 2, 3]));
        for hung in [Hung::Before, Hung::After] {
            let books = given_to_a_disk_that_hung(hung, false);
            assert!(is_false(&books, &[2, 3]), "{hung:?}");
        }
        let books = given_to_a_disk_that_hung(Hung::Meanwhile, true);
        assert!(is_false(&books, &[2, 3]));
    }
}
