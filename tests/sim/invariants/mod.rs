//! What must hold, whatever happens to a cluster: one file for each invariant, with its checker and with
//! tests of its own that show it failing.
//!
//! A checker is a pure function of what clients saw ([`Books`], [`Read`]) or of what lies on the disks.
//! The store's clocks are no evidence in any of them: the clock of a node that has forgotten something
//! covers just what it has forgotten.
//!
//! | Invariant | Says | Is looked at |
//! |---|---|---|
//! | [`no_lost_write`] | an acknowledged write is shown, or replaced by one that had read it | at each read of a quorum, and at the end |
//! | [`no_phantom`] | a read shows only what was sent and may have happened | at each read |
//! | [`fresh_read`] | with one writer, no read is older than what was acknowledged before it | at each read of a quorum |
//! | [`no_false_conflict`] | a write with the full context leaves one sibling | at each read of a quorum |
//! | [`bounded_siblings`] | siblings were written without knowledge of each other | at each read |
//! | [`sequential_blind_writes`] | with one writer that has no context, a read shows the last acknowledged write only | at each read of a quorum, and at the end |
//! | [`no_resurrection`] | what was replaced stays away | once all is healed |
//! | [`convergence`] | all owners of a key hold the same | once all is healed, before any read, and at the end |
//! | [`hints_drain`] | what is kept for other nodes is handed over | once all is healed, before any read |
//! | [`change_ends`] | the ring is final and has the members that it is to have, and nobody else runs | once all is healed, and at the end |
//! | [`owners_only`] | a member holds nothing that it does not own | once all is healed |
//! | [`unique_dots`] | a dot names one write for ever | at each read, on all disks at intervals, hints included, before each power cut, at the end |
//! | [`bounded`] | nothing panics, no node ends by itself, each request ends in time | always |

use std::time::Duration;

use crate::history::{Books, Promise, Writes};

pub(crate) mod bounded;
pub(crate) mod bounded_siblings;
pub(crate) mod change_ends;
pub(crate) mod convergence;
pub(crate) mod fresh_read;
pub(crate) mod hints_drain;
pub(crate) mod no_false_conflict;
pub(crate) mod no_lost_write;
pub(crate) mod no_phantom;
pub(crate) mod no_resurrection;
pub(crate) mod owners_only;
pub(crate) mod sequential_blind_writes;
pub(crate) mod unique_dots;

#[cfg(test)]
mod made_up;

/// Which invariant broke, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

/// One read, as its client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Read<'a> {
    pub(crate) key: &'a str,
    /// The writes whose values it showed.
    pub(crate) shown: &'a Writes,
    /// How many values it showed.
    pub(crate) values: usize,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) heard: Heard,
}

/// Whom a read has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Too few to be sure of anything.
    Few,
    /// R owners: all that W owners have.
    Quorum,
    /// As good as everybody: all copies are the same, and nothing is kept for anybody.
    All,
}

/// Holds a read against the books of its key.
pub(crate) fn check_read(books: &Books, read: &Read<'_>) -> Vec<Violation> {
    let mut violations = named(bounded_siblings::NAME, bounded_siblings::check(books, read));
    // W + R > N, or nothing of the following is promised.
    if read.heard != Heard::Few {
        violations.extend(named(
            no_lost_write::NAME,
            no_lost_write::check(books, read),
        ));
        if books.promise == Promise::OneWriter {
            violations.extend(named(fresh_read::NAME, fresh_read::check(books, read)));
            let conflict = no_false_conflict::check(books, read);
            violations.extend(named(no_false_conflict::NAME, conflict));
        }
        if books.promise == Promise::BlindWriter {
            let broken = sequential_blind_writes::check(books, read);
            violations.extend(named(sequential_blind_writes::NAME, broken));
        }
    }
    violations
}

fn named(invariant: &'static str, broken: impl IntoIterator<Item = String>) -> Vec<Violation> {
    let broken = broken.into_iter();
    broken.map(|what| Violation { invariant, what }).collect()
}
