//! What clients sent and saw, by their own books, and what must hold of it.
//!
//! What excuses a write that is not there any more is decided by [`dynakv_bench::history`], which the
//! auditor of real clusters uses as well. Nothing is ever forgotten here: runs are short.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dynakv_bench::history::{self, Outcome};
use dynakv_protocol::client::Fetched;
use dynakv_protocol::ids::WriteId;

use crate::client::Failure;

/// Ids of writes.
pub(crate) type Writes = BTreeSet<WriteId>;

/// What a write replaces.
pub(crate) type Replaces = history::Replaces<WriteId>;

/// Which invariant broke, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

/// All that the clients of a run know.
#[derive(Debug, Default)]
pub(crate) struct History {
    by_key: BTreeMap<String, history::History<WriteId>>,
    keys: BTreeMap<WriteId, String>,
    violations: Vec<Violation>,
    reads: usize,
    acknowledged: usize,
}

/// The bytes that stand for a write.
pub(crate) fn value_of(id: WriteId) -> Bytes {
    let name = format!("value-of-{:032x}", id.0);
    // Some are so large that other owners answer with their digests.
    let padding = if id.0.is_multiple_of(4) { 5_000 } else { 0 };
    Bytes::from(name + &" ".repeat(padding))
}

fn write_of(value: &[u8]) -> Option<WriteId> {
    let text = std::str::from_utf8(value).ok()?;
    let number = u128::from_str_radix(text.strip_prefix("value-of-")?.trim_end(), 16);
    number.ok().map(WriteId)
}

impl History {
    /// A client begins a write.
    pub(crate) fn begin(
        &mut self,
        id: WriteId,
        key: &str,
        is_delete: bool,
        replaces: Replaces,
        now: Duration,
    ) {
        let known = self.keys.insert(id, key.to_owned());
        assert!(known.is_none(), "an id used twice");
        let history = self.by_key.entry(key.to_owned()).or_default();
        let begun = history.begin(id, is_delete, replaces, now);
        begun.expect("an id used once");
    }

    /// A client sends a write again.
    pub(crate) fn retry(&mut self, id: WriteId) {
        let retried = self.history_of(id).retry(id);
        retried.expect("a write that was begun");
    }

    fn history_of(&mut self, id: WriteId) -> &mut history::History<WriteId> {
        let history = self.by_key.get_mut(&self.keys[&id]);
        history.expect("a write that was begun")
    }

    /// An attempt has ended.
    pub(crate) fn end<T>(&mut self, id: WriteId, answer: &Result<T, Failure>, now: Duration) {
        let outcome = match answer {
            Ok(_) => Outcome::Acknowledged,
            Err(Failure::Refused(error)) if !error.maybe_applied => Outcome::NotApplied,
            Err(Failure::NotSent(_)) => Outcome::NotApplied,
            Err(Failure::Refused(_) | Failure::Broken | Failure::Silent) => Outcome::Unknown,
        };
        self.expect_an_end(answer, now);
        let ended = self.history_of(id).end(id, outcome, now);
        ended.expect("a write that is under way");
        self.acknowledged += usize::from(outcome == Outcome::Acknowledged);
    }

    /// Every request ends by its deadline.
    pub(crate) fn expect_an_end<T>(&mut self, answer: &Result<T, Failure>, now: Duration) {
        if matches!(answer, Err(Failure::Silent)) {
            let at = now.as_secs_f64();
            self.violate("bounded", format!("a request had no end by {at:.3}"));
        }
    }

    /// A read of R owners came back; gives the writes that it showed.
    pub(crate) fn on_read(
        &mut self,
        key: &str,
        fetched: &Fetched,
        began: Duration,
        now: Duration,
    ) -> Writes {
        self.reads += 1;
        let shown = self.shown(key, fetched);
        self.expect_nothing_lost(key, &shown, began, now);
        shown
    }

    /// **no_phantom**: a read shows only what was sent for its key, and nothing of which a client was
    /// promised that it did not happen.
    fn shown(&mut self, key: &str, fetched: &Fetched) -> Writes {
        let (mut shown, mut phantoms) = (Writes::new(), Vec::new());
        for sibling in &fetched.siblings {
            let id = write_of(&sibling.value);
            let history = self.by_key.get(key);
            let outcome = id.and_then(|id| history?.outcome(id));
            match (id, outcome) {
                (Some(id), Some(outcome)) => {
                    if outcome == Outcome::NotApplied {
                        let what = format!("{key} shows {id:x?}, which was never applied");
                        phantoms.push(what);
                    }
                    shown.insert(id);
                }
                _ => {
                    phantoms.push(format!(
                        "{key} shows {:?}, which nobody sent",
                        sibling.value
                    ));
                }
            }
        }
        for what in phantoms {
            self.violate("no_phantom", what);
        }
        shown
    }

    /// **no_lost_write** and **fresh_read**: every write of the key that was acknowledged before the
    /// read began is shown or excused.
    fn expect_nothing_lost(
        &mut self,
        key: &str,
        shown: &Writes,
        read_began: Duration,
        read_ended: Duration,
    ) {
        let Some(history) = self.by_key.get(key) else {
            return;
        };
        let missing = history.missing(shown, read_began, read_ended).into_iter();
        let lines: Vec<_> = missing
            .map(|id| {
                format!(
                    "{key}: {id:x?}, begun at {:.3}, was acknowledged and is gone at {:.3}; shown: {shown:x?}",
                    history.began(id).unwrap_or_default().as_secs_f64(),
                    read_ended.as_secs_f64(),
                )
            })
            .collect();
        for what in lines {
            self.violate("no_lost_write", what);
        }
    }

    /// **no_resurrection**: once all is healed, nothing is shown that an acknowledged write had read
    /// and replaced. A write that was sent twice may happen twice, the second time after it was
    /// replaced: that of a client that tries again, and any blind one, which a node sends on to the next
    /// owner when the first does not answer.
    pub(crate) fn expect_no_resurrection(&mut self, key: &str, shown: &Writes) {
        let Some(history) = self.by_key.get(key) else {
            return;
        };
        let mut returned = history.returned(shown);
        returned.retain(|(back, _)| !history.may_come_twice(*back));
        for (back, by) in returned {
            let what = format!("{key}: {back:x?} was replaced by {by:x?} and is back");
            self.violate("no_resurrection", what);
        }
    }

    /// Takes note of a broken invariant.
    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        self.violations.push(Violation { invariant, what });
    }

    /// What broke.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Keys that were written to.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.by_key.keys().cloned().collect()
    }

    /// How many writes were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// How many reads were held against this history.
    pub(crate) fn reads(&self) -> usize {
        self.reads
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ErrorReply;
    use dynakv_protocol::causal::Dot;
    use dynakv_protocol::client::FetchedSibling;
    use dynakv_protocol::{Actor, ErrorCode};

    use super::*;

    const KEY: &str = "k";

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ids(ids: &[u128]) -> Vec<WriteId> {
        ids.iter().copied().map(WriteId).collect()
    }

    /// A history of acknowledged writes, one after the other, and what each replaces.
    fn acknowledged(writes: &[(u128, Replaces)]) -> History {
        let mut history = History::default();
        for (second, (id, replaces)) in writes.iter().enumerate() {
            let (id, second) = (WriteId(*id), second as u64);
            history.begin(id, KEY, false, replaces.clone(), at(second));
            history.end(id, &Ok(()), at(second) + Duration::from_millis(500));
        }
        history
    }

    /// What breaks when a read at the end shows these.
    fn broken_by(mut history: History, shown: &[u128]) -> Vec<&'static str> {
        let sibling = |id: &u128| FetchedSibling {
            dot: Dot {
                actor: Actor(1),
                counter: 1,
            },
            timestamp_ms: 0,
            value: value_of(WriteId(*id)),
        };
        let fetched = Fetched {
            siblings: shown.iter().map(sibling).collect(),
            context: Bytes::new(),
            effective_r: 2,
        };
        let shown = history.on_read(KEY, &fetched, at(100), at(101));
        history.expect_no_resurrection(KEY, &shown);
        let violations = history.violations().iter();
        violations.map(|violation| violation.invariant).collect()
    }

    #[test]
    fn only_a_chain_of_reads_excuses() {
        let chain = || {
            acknowledged(&[
                (1, Replaces::Read(ids(&[]))),
                (2, Replaces::Read(ids(&[1]))),
                (3, Replaces::Read(ids(&[2]))),
                (4, Replaces::Read(ids(&[]))),
            ])
        };
        assert!(broken_by(chain(), &[3, 4]).is_empty());
        assert_eq!(broken_by(chain(), &[3]), ["no_lost_write"]);
        // The fourth has seen none of the others.
        assert_eq!(broken_by(chain(), &[4]), ["no_lost_write"; 3]);
        assert_eq!(broken_by(chain(), &[1, 3, 4]), ["no_resurrection"]);
    }

    #[test]
    fn a_blind_write_excuses_what_was_begun_before_it_ended() {
        let blind = || {
            acknowledged(&[
                (1, Replaces::Read(ids(&[]))),
                (2, Replaces::WhatIsThere),
                (3, Replaces::Read(ids(&[]))),
            ])
        };
        assert!(broken_by(blind(), &[2, 3]).is_empty());
        assert_eq!(broken_by(blind(), &[2]), ["no_lost_write"]);
        assert_eq!(broken_by(blind(), &[3]), ["no_lost_write"; 2]);
    }

    #[test]
    fn what_never_happened_is_not_shown() {
        let mut history = acknowledged(&[(1, Replaces::Read(ids(&[])))]);
        history.begin(WriteId(2), KEY, false, Replaces::WhatIsThere, at(5));
        let refusal = ErrorReply::new(ErrorCode::QuorumUnavailable, "nothing was written");
        history.end::<()>(WriteId(2), &Err(Failure::Refused(refusal)), at(6));
        assert_eq!(broken_by(history, &[1, 2]), ["no_phantom"]);
        let unsent = acknowledged(&[(1, Replaces::Read(ids(&[])))]);
        assert_eq!(broken_by(unsent, &[1, 77]), ["no_phantom"]);
    }

    #[test]
    fn a_write_in_doubt_may_be_there_or_not() {
        let in_doubt = || {
            let mut history = acknowledged(&[(1, Replaces::Read(ids(&[])))]);
            history.begin(WriteId(2), KEY, false, Replaces::Read(ids(&[1])), at(5));
            history.end::<()>(WriteId(2), &Err(Failure::Broken), at(6));
            history.retry(WriteId(2));
            let unsent = Err(Failure::NotSent(String::new()));
            history.end::<()>(WriteId(2), &unsent, at(7));
            history
        };
        assert!(broken_by(in_doubt(), &[1]).is_empty());
        assert!(broken_by(in_doubt(), &[2]).is_empty());
    }
}
