//! **no_phantom**: a read shows only what was sent for its key, and nothing of which a client was promised
//! that it did not happen.

use dynakv_bench::history::Outcome;
use dynakv_protocol::ids::WriteId;

use crate::history::Books;

pub(crate) const NAME: &str = "no_phantom";

/// What is wrong with a value: the write that it stands for, if it stands for any.
pub(crate) fn check(
    books: Option<&Books>,
    key: &str,
    id: Option<WriteId>,
    value: &[u8],
) -> Option<String> {
    let outcome = id.and_then(|id| books?.writes.outcome(id));
    match (id, outcome) {
        (Some(id), Some(Outcome::NotApplied)) => {
            Some(format!("{key} shows {id:x?}, which was never applied"))
        }
        (Some(_), Some(_)) => None,
        _ => Some(format!(
            "{key} shows {:?}, which nobody sent",
            value.escape_ascii().to_string()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::made_up::{acknowledged, refused_after, replaces};

    fn is_phantom(books: &Books, id: u128) -> bool {
        check(Some(books), "k", Some(WriteId(id)), b"").is_some()
    }

    #[test]
    fn what_never_happened_is_not_shown() {
        let books = refused_after(&[(1, replaces(&[]))], 2);
        assert!(!is_phantom(&books, 1));
        assert!(is_phantom(&books, 2));
    }

    #[test]
    fn what_nobody_sent_is_not_shown() {
        let books = acknowledged(&[(1, replaces(&[]))]);
        assert!(is_phantom(&books, 77));
        assert!(check(Some(&books), "k", None, b"garbage").is_some());
        assert!(check(None, "other", Some(WriteId(1)), b"").is_some());
    }
}
