//! **fresh_read**: strict, W + R > N, and one client that writes the key, one write after the other: no
//! read that began after an acknowledgement shows less than that write, or something later.
//!
//! This is more than [`no_lost_write`](super::no_lost_write) where deletes are: the value before an
//! acknowledged delete is not lost, and stale all the same.
//!
//! A put in doubt that a delete had not read is concurrent to it, and may be seen alone after it.

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
    // Deletes are not seen, also one that is under way; beside them there may be what they had not read
    // and what may have come later: a put of which nobody knew whether it happened.
    let may_be_deleted = later
        .iter()
        .any(|&id| books.is_delete(id) && books.may_exist_before(id, read.ended));
    let known = books.had_read(books.order()[newest]);
    let may_come_later =
        |&id| !known.contains(&id) && !books.was_acknowledged_before(id, read.began);
    if may_be_deleted && read.shown.iter().all(may_come_later) {
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
    use std::time::Duration;

    use super::*;
    use crate::invariants::made_up::{
        KEY, acknowledged, deleted_after, in_doubt, in_doubt_after, read, replaces,
    };

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

    #[test]
    fn a_put_that_came_beside_a_delete_is_not_stale() {
        let writes = [(1, replaces(&[]))];
        let mut history = in_doubt(&writes, 2, replaces(&[1]));
        // The delete has not seen the second.
        let (id, began) = (WriteId(3), Duration::from_secs(50));
        history.begin(id, KEY, true, replaces(&[1]), began);
        history.end(id, &Ok(()), began + Duration::from_secs(1));
        let books = history.books(KEY).unwrap();
        assert!(!is_stale(books, &[2]));
        assert!(!is_stale(books, &[]));
        assert!(is_stale(books, &[1]));
        assert!(is_stale(books, &[1, 2]));
    }
}
