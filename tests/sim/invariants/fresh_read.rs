//! **fresh_read**: strict, W + R > N, and one client that writes the key, one write after the other: no
//! read that began after an acknowledgement shows less than that write, or something later.
//!
//! This is more than [`no_lost_write`](super::no_lost_write) where deletes are: the value before an
//! acknowledged delete is not lost, and stale all the same.

use dynakv_protocol::ids::WriteId;

use super::Read;
use crate::history::Books;

pub(crate) const NAME: &str = "fresh_read";

pub(crate) fn check(books: &Books, read: &Read<'_>) -> Option<String> {
    // The order of beginnings is that of the one client's time.
    let is_due = |id: &WriteId| books.was_acknowledged_before(*id, read.began);
    let newest = books.order().iter().rposition(is_due)?;
    let later = &books.order()[newest..];
    if later.iter().any(|id| read.shown.contains(id)) {
        return None;
    }
    // A delete shows nothing; so may one that is under way.
    let may_be_deleted = later
        .iter()
        .any(|&id| books.is_delete(id) && books.may_exist_before(id, read.ended));
    if may_be_deleted && read.shown.is_empty() {
        return None;
    }
    let (key, shown, id) = (read.key, read.shown, books.order()[newest]);
    let began = read.began.as_secs_f64();
    Some(format!(
        "{key}: {id:x?} was acknowledged before {began:.3}, and a read that began then shows {shown:x?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::made_up::{acknowledged, deleted_after, in_doubt_after, read, replaces};

    fn is_stale(books: &Books, shown: &[u128]) -> bool {
        read(shown, |read| check(books, read)).is_some()
    }

    #[test]
    fn what_was_acknowledged_or_later_is_shown() {
        let writes = [(1, replaces(&[])), (2, replaces(&[1]))];
        let books = acknowledged(&writes);
        assert!(!is_stale(&books, &[2]));
        assert!(is_stale(&books, &[1]));
        assert!(is_stale(&books, &[]));
        let books = in_doubt_after(&writes, 3, replaces(&[2]));
        assert!(!is_stale(&books, &[2]));
        assert!(!is_stale(&books, &[3]));
        assert!(is_stale(&books, &[1]));
    }

    #[test]
    fn what_was_deleted_is_stale() {
        let books = deleted_after(&[(1, replaces(&[]))], 2);
        assert!(!is_stale(&books, &[]));
        assert!(is_stale(&books, &[1]));
    }
}
