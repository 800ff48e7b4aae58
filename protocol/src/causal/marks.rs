//! What a key's state remembers of writes that were sent more than once.
//!
//! A write that its sender had to send again may have been taken by two nodes, under two dots. Whoever
//! replaces the one copy has not seen the other, which would come back as if it were new. So a later
//! attempt leaves a *mark* beside its value, and who replaces that value turns it into one that says:
//! this write is done with.
//!
//! A mark is a sibling like any other, with a dot of its own: it is merged, stored, hashed and sent as all
//! of them are, also by nodes that know nothing of marks. What tells it from a delete is its date of
//! expiry, which no delete has.

use smallvec::SmallVec;

use super::{Dot, Sibling, Value, Versions};
use crate::ids::WriteId;
use crate::limits::RETIRED_MAX;

/// The dates of expiry that make a delete a mark: milliseconds since 1970, and so before any write.
const RETIRED_EXPIRES_AT_MS: u64 = 0;
const AGAIN_EXPIRES_AT_MS: u64 = 1;

/// What a [`Sibling`] that holds no value of a client says of the write whose id it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Its sender sent it more than once: other nodes may have copies of it under other dots.
    Again,
    /// It was sent more than once and has been replaced: whatever copy of it comes to light is older than
    /// what stands here.
    Retired,
}

impl Mark {
    /// The mark for a write: `timestamp` is that of the value it goes with.
    pub fn sibling(self, dot: Dot, write_id: WriteId, timestamp: u64) -> Sibling {
        let expires_at_ms = match self {
            Self::Again => AGAIN_EXPIRES_AT_MS,
            Self::Retired => RETIRED_EXPIRES_AT_MS,
        };
        Sibling {
            dot,
            write_id,
            timestamp,
            expires_at_ms: Some(expires_at_ms),
            value: Value::Tombstone,
        }
    }

    /// What a sibling is that deletes nothing and expires at this time, in milliseconds since 1970; `None` for
    /// a value or a delete. For whoever holds a digest of a sibling only.
    pub fn of(is_tombstone: bool, expires_at_ms: Option<u64>) -> Option<Self> {
        match expires_at_ms {
            Some(RETIRED_EXPIRES_AT_MS) if is_tombstone => Some(Self::Retired),
            Some(AGAIN_EXPIRES_AT_MS) if is_tombstone => Some(Self::Again),
            _ => None,
        }
    }
}

impl Sibling {
    /// What it says, if it is a mark; `None` for what a client wrote.
    pub fn mark(&self) -> Option<Mark> {
        Mark::of(self.value == Value::Tombstone, self.expires_at_ms)
    }
}

/// The ids of the writes that are [retired](Mark::Retired), in order. As many as a coordinator leaves need no
/// allocation; an import brings any number.
#[derive(Debug, Clone, Default)]
pub struct RetiredIds(SmallVec<[WriteId; RETIRED_MAX]>);

impl RetiredIds {
    /// Whether this write is among them.
    pub fn contains(&self, id: WriteId) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Versions {
    /// What clients wrote and nobody has replaced, deletes among it and marks not. Copies of
    /// [retired](Mark::Retired) writes are among it.
    pub fn written(&self) -> impl Iterator<Item = &Sibling> {
        let siblings = self.siblings().iter();
        siblings.filter(|sibling| sibling.mark().is_none())
    }

    /// What stands, deletes among it: all that was [written](Self::written) but copies of retired writes.
    /// These too when there is nothing else, so that no state that holds a write shows none.
    pub fn standing(&self) -> impl Iterator<Item = &Sibling> {
        let retired = self.retired();
        let is_other = |it: &Sibling| !retired.contains(it.write_id);
        let hides = !retired.is_empty() && self.written().any(is_other);
        self.written()
            .filter(move |it| !hides || !retired.contains(it.write_id))
    }

    /// Which writes were sent more than once and have been replaced: for whoever asks of many.
    pub fn retired(&self) -> RetiredIds {
        let siblings = self.siblings().iter();
        let marks = siblings.filter(|sibling| sibling.mark() == Some(Mark::Retired));
        let mut ids: SmallVec<_> = marks.map(|mark| mark.write_id).collect();
        ids.sort_unstable();
        RetiredIds(ids)
    }

    /// Whether a write was sent more than once and has been replaced.
    pub fn is_retired(&self, id: WriteId) -> bool {
        self.has_mark(Mark::Retired, id)
    }

    /// Whether a write was sent more than once and stands.
    pub fn was_sent_again(&self, id: WriteId) -> bool {
        self.has_mark(Mark::Again, id)
    }

    fn has_mark(&self, mark: Mark, id: WriteId) -> bool {
        let mut siblings = self.siblings().iter();
        siblings.any(|sibling| sibling.write_id == id && sibling.mark() == Some(mark))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::causal::{Clock, Incoming};
    use crate::ids::Actor;

    fn dot(actor: u64, counter: u64) -> Dot {
        let actor = Actor(actor);
        Dot { actor, counter }
    }

    fn with_value(actor: u64, id: u128) -> Versions {
        let mut versions = Versions::new();
        let incoming = Incoming {
            write_id: WriteId(id),
            timestamp: 7,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from_static(b"v")),
        };
        versions.write(&Clock::new(), dot(actor, 1), incoming);
        versions
    }

    fn ids(siblings: impl Iterator<Item = WriteId>) -> Vec<u128> {
        siblings.map(|id| id.0).collect()
    }

    #[test]
    fn a_mark_is_no_delete_and_no_value() {
        let marks = [Mark::Again, Mark::Retired];
        for mark in marks {
            let sibling = mark.sibling(dot(1, 1), WriteId(3), 9);
            assert_eq!(sibling.mark(), Some(mark));
            assert!(!sibling.is_live(0));
        }
        let delete = Sibling {
            expires_at_ms: None,
            ..Mark::Again.sibling(dot(1, 1), WriteId(3), 9)
        };
        assert_eq!(delete.mark(), None);
        for expires_at_ms in [0, 1] {
            let value = Sibling {
                expires_at_ms: Some(expires_at_ms),
                value: Value::Bytes(Bytes::new()),
                ..delete.clone()
            };
            assert_eq!(
                value.mark(),
                None,
                "a value is a value, whenever it expires"
            );
        }
    }

    /// An import may bring as many: looked up one by one they would take the writer's thread for minutes.
    #[test]
    fn very_many_retired_writes_are_looked_up_fast() {
        let count = 60_000;
        let mut siblings = Vec::new();
        for id in 1..=count {
            let mark = Mark::Retired.sibling(dot(1, id), WriteId(u128::from(id / 2)), 7);
            siblings.push(match id % 2 {
                0 => mark,
                _ => Sibling {
                    value: Value::Bytes(Bytes::new()),
                    expires_at_ms: None,
                    ..mark
                },
            });
        }
        let clock = [dot(1, count)].into_iter().collect();
        let key = Versions::from_parts(clock, siblings).unwrap();
        let began = std::time::Instant::now();
        // The first has an id that none of the marks has.
        assert_eq!(ids(key.standing().map(|it| it.write_id)), [0]);
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    }

    #[test]
    fn copies_of_a_retired_write_are_hidden_while_something_else_stands() {
        let mut key = with_value(1, 10);
        key.add(Mark::Retired.sibling(dot(2, 4), WriteId(10), 7));
        // Nothing else is there: a write that is held is shown.
        assert_eq!(ids(key.standing().map(|it| it.write_id)), [10]);
        key.merge(&with_value(3, 11));
        assert_eq!(ids(key.standing().map(|it| it.write_id)), [11]);
        assert_eq!(ids(key.written().map(|it| it.write_id)), [10, 11]);
        assert!(key.is_retired(WriteId(10)) && !key.is_retired(WriteId(11)));
        // Sent again is not retired.
        let mut key = with_value(1, 10);
        key.add(Mark::Again.sibling(dot(1, 2), WriteId(10), 7));
        key.merge(&with_value(3, 11));
        assert_eq!(ids(key.standing().map(|it| it.write_id)), [10, 11]);
        assert!(key.was_sent_again(WriteId(10)) && !key.is_retired(WriteId(10)));
    }
}
