//! **no_false_conflict**: where one client writes a key, one write after the other, each with the context
//! of a read that it has just made, a read shows one value: there was never a conflict.
//!
//! A write whose outcome is unknown, and that the last one had not read, may come later and be a sibling
//! by right; then nothing is said. Blind writes are held to
//! [`sequential_blind_writes`](super::sequential_blind_writes).

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
    let may_come_later =
        |id| !known.contains(&id) && !books.was_acknowledged_before(id, read.began);
    if begun.any(may_come_later) {
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
    use crate::invariants::made_up::{acknowledged, in_doubt_after, read, replaces};

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
}
