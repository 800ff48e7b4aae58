//! Made-up histories, for the tests of the checkers: writes one second after the other, a read long after.

use std::time::Duration;

use dynakv_protocol::ids::WriteId;
use dynakv_protocol::{ErrorCode, ErrorReply};

use super::{Heard, Read};
use crate::client::Failure;
use crate::hangs::Hangs;
use crate::history::{Books, History, Promise, Replaces};

pub(crate) const KEY: &str = "k";

/// What a write with a context replaces.
pub(crate) fn replaces(ids: &[u128]) -> Replaces {
    Replaces::Read(ids.iter().copied().map(WriteId).collect())
}

/// Writes that were acknowledged, and what each replaces.
pub(crate) fn acknowledged(writes: &[(u128, Replaces)]) -> Books {
    books(writes, None)
}

/// The same, to go on with.
pub(crate) fn acknowledged_history(writes: &[(u128, Replaces)]) -> History {
    history(writes, None)
}

/// The same, and one more of which nobody knows what came of it.
pub(crate) fn in_doubt_after(writes: &[(u128, Replaces)], id: u128, by: Replaces) -> Books {
    books_of(&in_doubt(writes, id, by))
}

/// The same, to go on with.
pub(crate) fn in_doubt(writes: &[(u128, Replaces)], id: u128, by: Replaces) -> History {
    history(writes, Some((id, by, false, Err(Failure::Broken))))
}

/// The same, and one more that was refused.
pub(crate) fn refused_after(writes: &[(u128, Replaces)], id: u128) -> Books {
    let refusal = ErrorReply::new(ErrorCode::QuorumUnavailable, "nothing was written");
    let refusal = Err(Failure::Refused(refusal));
    books(writes, Some((id, Replaces::WhatIsThere, false, refusal)))
}

/// The same, and an acknowledged delete that had read them all.
pub(crate) fn deleted_after(writes: &[(u128, Replaces)], id: u128) -> Books {
    let all = writes.iter().map(|(id, _)| WriteId(*id)).collect();
    books(writes, Some((id, Replaces::Read(all), true, Ok(()))))
}

type Last = (u128, Replaces, bool, Result<(), Failure>);

fn books(writes: &[(u128, Replaces)], last: Option<Last>) -> Books {
    books_of(&history(writes, last))
}

fn books_of(history: &History) -> Books {
    history.books(KEY).expect("written to").clone()
}

fn history(writes: &[(u128, Replaces)], last: Option<Last>) -> History {
    let writes = writes.iter().cloned();
    let writes = writes.map(|(id, replaces)| (id, replaces, false, Ok(())));
    let mut history = History::default();
    history.promise(KEY, Promise::OneWriter);
    for (second, (id, replaces, is_delete, answer)) in writes.chain(last).enumerate() {
        let (id, began) = (WriteId(id), Duration::from_secs(second as u64));
        history.begin(id, KEY, is_delete, replaces, began);
        history.end(id, &answer, began + Duration::from_millis(500));
    }
    history
}

/// A write that nobody knows the end of, and an acknowledged one that had read it.
pub(crate) fn in_doubt_and_replaced() -> Books {
    let mut history = in_doubt(&[], 1, Replaces::WhatIsThere);
    let (id, began) = (WriteId(2), Duration::from_secs(10));
    history.begin(id, KEY, false, replaces(&[1]), began);
    history.end(id, &Ok(()), began + Duration::from_millis(500));
    books_of(&history)
}

/// When the disk of an owner hung.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hung {
    /// While that owner had the write.
    Meanwhile,
    Before,
    After,
}

/// An acknowledged write 1, then 2, with its context, sent once to an owner whose disk hung: it is acknowledged, or in
/// doubt. Then an acknowledged 3 that had read 2.
pub(crate) fn given_to_a_disk_that_hung(hung: Hung, is_acknowledged: bool) -> Books {
    let ms = Duration::from_millis;
    let mut history = acknowledged_history(&[(1, replaces(&[]))]);
    let (began, ended) = match hung {
        Hung::Before => (1_000, 4_000),
        Hung::Meanwhile => (4_000, 6_000),
        Hung::After => (6_000, 7_000),
    };
    let hangs = Hangs::default();
    hangs.note(true, ms(began));
    hangs.note(false, ms(ended));
    history.begin(WriteId(2), KEY, false, replaces(&[1]), ms(5_000));
    history.give(WriteId(2), &hangs, ms(5_000));
    let answer = match is_acknowledged {
        true => Ok(()),
        false => Err(Failure::Broken),
    };
    history.end(WriteId(2), &answer, ms(5_500));
    history.begin(WriteId(3), KEY, false, replaces(&[2]), ms(10_000));
    history.end(WriteId(3), &Ok(()), ms(10_500));
    books_of(&history)
}

/// The first was acknowledged after it was sent so often, the second had read it, and the third the second: each of
/// those it says.
pub(crate) fn replaced_twice(attempts: usize, heard: [Heard; 2]) -> Books {
    let mut history = History::default();
    history.promise(KEY, Promise::Quorum);
    let (first, ended) = (WriteId(1), Duration::from_millis(500));
    history.begin(first, KEY, false, replaces(&[]), Duration::ZERO);
    for _ in 1..attempts {
        history.end::<()>(first, &Err(Failure::Broken), ended);
        history.retry(first);
    }
    history.end(first, &Ok(()), ended);
    for (id, heard) in (2..).zip(heard) {
        let began = Duration::from_secs(id as u64);
        let by = WriteId(id);
        history.begin(by, KEY, false, replaces(&[id - 1]), began);
        if heard == Heard::Few {
            history.has_read_few(by);
        }
        history.end(by, &Ok(()), began + ended);
    }
    books_of(&history)
}

/// Hands a read that showed these to a checker.
pub(crate) fn read<T>(shown: &[u128], check: impl FnOnce(&Read<'_>) -> T) -> T {
    let shown = shown.iter().copied().map(WriteId).collect();
    let read = Read {
        key: KEY,
        shown: &shown,
        values: shown.len(),
        began: Duration::from_secs(100),
        ended: Duration::from_secs(101),
        heard: Heard::All,
    };
    check(&read)
}

/// A write without a context.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blind {
    Put(u128),
    Delete(u128),
    /// Nobody knows what came of it.
    PutInDoubt(u128),
    DeleteInDoubt(u128),
    PutRefused(u128),
}

/// One client's writes without a context, one after the other.
pub(crate) fn blind_history(writes: &[Blind]) -> History {
    let mut history = History::default();
    history.promise(KEY, Promise::BlindWriter);
    for (second, write) in writes.iter().enumerate() {
        let refusal = ErrorReply::new(ErrorCode::QuorumUnavailable, "nothing was written");
        let (id, is_delete, answer) = match *write {
            Blind::Put(id) => (id, false, Ok(())),
            Blind::Delete(id) => (id, true, Ok(())),
            Blind::PutInDoubt(id) => (id, false, Err(Failure::Broken)),
            Blind::DeleteInDoubt(id) => (id, true, Err(Failure::Broken)),
            Blind::PutRefused(id) => (id, false, Err(Failure::Refused(refusal))),
        };
        let (id, began) = (WriteId(id), Duration::from_secs(second as u64));
        history.begin(id, KEY, is_delete, Replaces::WhatIsThere, began);
        history.end(id, &answer, began + Duration::from_millis(500));
    }
    history
}
