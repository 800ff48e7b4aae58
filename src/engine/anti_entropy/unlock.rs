//! What becomes of a key that is locked, when an operator gives up what must be given up.
//!
//! All owners are asked for all they have; their states are merged, whatever their size. Of the merged state the clock
//! loses the entries under which no value stands, and, where it is still too large, the oldest values go. All owners
//! then take the result in place of exactly what they had answered ([`Digest`](dynakv_protocol::peer::Digest)), or none of it where that has
//! changed. It is no merge: merged, the entries would come back.
//!
//! What an entry covered and somebody else still holds may come back: a hint, a message on its way, an owner that
//! is not one any more. That is the loss that is accepted, beside the values that go.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bytes::Bytes;
use dynakv_protocol::causal::{Mark, RETIRED_MAX, Sibling, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::limits::{CLOCK_ENTRIES_SOFT_MAX, SIBLINGS_MAX, versions_bytes_soft_max};
use dynakv_protocol::{Actor, DecodeError, WriteId};

use crate::engine::limits;

/// The state that takes the place of a locked one, and what it gives up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlocked {
    /// The new state; within the soft limits.
    pub versions: Versions,
    /// Whether the key is locked as it stands.
    pub was_locked: bool,
    /// How many entries its clock had.
    pub clock_entries_before: usize,
    /// How many values and tombstones were given up.
    pub siblings_given_up: usize,
}

/// Merges what the owners have, and makes of it what can be read and written again. `states` are encoded, empty for
/// none.
///
/// # Errors
/// [`DecodeError`] for bytes that are no versions.
pub fn unlock(states: &[Bytes], value_bytes_max: usize) -> Result<Unlocked, DecodeError> {
    let mut merged = Versions::new();
    let mut was_locked = false;
    for state in states.iter().filter(|state| !state.is_empty()) {
        let theirs = Versions::from_bytes_of_any_size(state)?;
        was_locked |= limits::is_locked(&theirs, state.len());
        merged.merge(&theirs);
    }
    was_locked |= limits::is_locked(&merged, merged.to_bytes().len());
    let clock_entries_before = merged.clock().len();
    let all = merged.standing().count();
    let kept = kept(&merged, value_bytes_max);
    let needed: BTreeSet<Actor> = kept.iter().map(|sibling| sibling.dot.actor).collect();
    let clock = merged.clock().pruned(|actor| needed.contains(&actor));
    let written = kept.iter().filter(|sibling| sibling.mark().is_none());
    let siblings_given_up = all - written.count();
    Ok(Unlocked {
        // In the order of the merged state, and each under an entry that was kept.
        versions: Versions::from_parts(clock, kept)?,
        was_locked,
        clock_entries_before,
        siblings_given_up,
    })
}

/// The siblings that stay: all, where they fit; else the newest ones, values before tombstones. Marks stay with what
/// they speak of; copies of retired writes, which nobody is shown, do not.
fn kept(merged: &Versions, value_bytes_max: usize) -> Vec<Sibling> {
    let bytes_max = versions_bytes_soft_max(value_bytes_max);
    let mut by_worth: Vec<&Sibling> = merged.standing().collect();
    by_worth.sort_by_key(|sibling| {
        let is_value = matches!(sibling.value, Value::Bytes(_));
        Reverse((is_value, sibling.timestamp, sibling.dot))
    });
    let mut actors = BTreeSet::new();
    // One below the limit: whoever writes next is a new actor.
    let mut has_entry = |actor| {
        let is_known = actors.contains(&actor);
        is_known || (actors.len() + 1 < CLOCK_ENTRIES_SOFT_MAX && actors.insert(actor))
    };
    let mut bytes = 0_usize;
    let mut kept: Vec<Sibling> = Vec::new();
    for sibling in by_worth {
        let fits = kept.is_empty() || bytes.saturating_add(sibling.value.len()) <= bytes_max;
        if kept.len() >= SIBLINGS_MAX || !fits || !has_entry(sibling.dot.actor) {
            continue;
        }
        bytes = bytes.saturating_add(sibling.value.len());
        kept.push(sibling.clone());
    }
    let ids: BTreeSet<WriteId> = kept.iter().map(|sibling| sibling.write_id).collect();
    let mut marks: Vec<(Mark, &Sibling)> = merged
        .siblings()
        .iter()
        .filter_map(|sibling| Some((sibling.mark()?, sibling)))
        .collect();
    marks.sort_by_key(|(_, sibling)| Reverse((sibling.timestamp, sibling.dot)));
    // Several owners can have marked one write.
    let mut known = BTreeSet::new();
    let mut retired = 0;
    for (mark, sibling) in marks {
        let is_retired = mark == Mark::Retired;
        let speaks = match mark {
            Mark::Retired => retired < RETIRED_MAX,
            Mark::Again => ids.contains(&sibling.write_id),
        };
        let is_news = speaks && known.insert((is_retired, sibling.write_id));
        if is_news && has_entry(sibling.dot.actor) {
            retired += usize::from(is_retired);
            kept.push(sibling.clone());
        }
    }
    kept.sort_by_key(|sibling| sibling.dot);
    kept
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::causal::{Clock, Dot};
    use dynakv_protocol::limits::SIBLINGS_DECODED_MAX;

    use super::*;

    fn dot(actor: u64, counter: u64) -> Dot {
        let actor = Actor(actor);
        Dot { actor, counter }
    }

    fn sibling(dot: Dot, timestamp: u64, value: Value) -> Sibling {
        Sibling {
            dot,
            write_id: WriteId(u128::from(timestamp)),
            timestamp,
            expires_at_ms: None,
            value,
        }
    }

    fn bytes(length: usize) -> Value {
        Value::Bytes(Bytes::from(vec![b'v'; length]))
    }

    fn state(clock: impl IntoIterator<Item = Dot>, siblings: Vec<Sibling>) -> Versions {
        Versions::from_parts(clock.into_iter().collect(), siblings).unwrap()
    }

    #[test]
    fn only_entries_without_a_value_go_where_that_is_enough() {
        let clock = || (1..=5000).map(|actor| dot(actor, 9));
        let one = state(clock(), vec![sibling(dot(7, 9), 5, bytes(3))]);
        let other = state(
            (5001..=6000).map(|actor| dot(actor, 1)),
            vec![sibling(dot(5500, 1), 6, Value::Tombstone)],
        );
        let unlocked = unlock(&[one.to_bytes(), Bytes::new(), other.to_bytes()], 1024).unwrap();
        assert!(unlocked.was_locked);
        assert_eq!(unlocked.clock_entries_before, 6000);
        assert_eq!(unlocked.siblings_given_up, 0);
        let expected: Clock = [dot(7, 9), dot(5500, 1)].into_iter().collect();
        assert_eq!(unlocked.versions.clock(), &expected);
        assert_eq!(unlocked.versions.siblings().len(), 2);
        assert!(!limits::is_locked(&unlocked.versions, 100));
        // What one has replaced does not come back from the other.
        let stale = state([dot(3, 2)], vec![sibling(dot(3, 2), 99, bytes(1))]);
        let unlocked = unlock(&[stale.to_bytes(), one.to_bytes()], 1024).unwrap();
        assert_eq!(unlocked.versions.siblings(), one.siblings());
    }

    #[test]
    fn of_too_many_values_the_newest_stay() {
        let count = SIBLINGS_DECODED_MAX as u64 + 1;
        let siblings = (1..=count).map(|counter| {
            let value = match counter > count - 10 {
                // The newest are tombstones: a value that is there is worth more.
                true => Value::Tombstone,
                false => bytes(1),
            };
            sibling(dot(1, counter), counter, value)
        });
        let locked = state([dot(1, count)], siblings.collect());
        assert!(Versions::from_bytes(&locked.to_bytes()).is_err());
        let unlocked = unlock(&[locked.to_bytes()], 1024).unwrap();
        assert!(unlocked.was_locked);
        let kept = unlocked.versions.siblings();
        assert_eq!(kept.len(), SIBLINGS_MAX);
        assert_eq!(kept[0].dot.counter, count - 10 - SIBLINGS_MAX as u64 + 1);
        assert_eq!(
            unlocked.siblings_given_up,
            locked.siblings().len() - SIBLINGS_MAX
        );
        // By bytes, too; one always stays.
        let large = state(
            [dot(1, 3)],
            (1..=3)
                .map(|at| sibling(dot(1, at), at, bytes(3000)))
                .collect(),
        );
        let unlocked = unlock(&[large.to_bytes()], 1024).unwrap();
        assert!(!unlocked.was_locked, "it is only large");
        assert_eq!(unlocked.versions.siblings().len(), 1);
    }

    #[test]
    fn so_many_actors_that_have_values_that_nobody_could_write_are_cut_too() {
        let actors = 1..=CLOCK_ENTRIES_SOFT_MAX as u64 + 50;
        let siblings = actors.clone().map(|it| sibling(dot(it, 1), it, bytes(1)));
        let locked = state(actors.clone().map(|it| dot(it, 1)), siblings.collect());
        let unlocked = unlock(&[locked.to_bytes()], 1024).unwrap();
        assert!(unlocked.was_locked);
        let entries = unlocked.versions.clock();
        assert!(limits::check_write(entries, None, Actor(1 << 50)).is_ok());
    }

    #[test]
    fn bytes_that_are_none_are_an_error() {
        assert!(unlock(&[Bytes::from_static(b"no versions")], 1024).is_err());
        let nothing = unlock(&[Bytes::new()], 1024).unwrap();
        assert!(!nothing.was_locked && nothing.versions.is_empty());
    }

    /// What replaced a write that was sent twice goes on hiding its copies, also those that come to light later.
    #[test]
    fn marks_stay_with_what_they_speak_of() {
        let clock = (1..=5000).map(|actor| dot(actor, 9));
        let copy = sibling(dot(6, 9), 5, bytes(3));
        let newer = sibling(dot(7, 9), 8, bytes(3));
        let retired = Mark::Retired.sibling(dot(7, 8), copy.write_id, 5);
        let again = |at: Dot, id| Mark::Again.sibling(at, id, 8);
        let of_newer = again(dot(7, 7), newer.write_id);
        let of_nothing = again(dot(9, 9), WriteId(77));
        let twice = again(dot(8, 9), newer.write_id);
        let siblings = vec![
            copy,
            of_newer.clone(),
            retired.clone(),
            newer.clone(),
            twice,
            of_nothing,
        ];
        let unlocked = unlock(&[state(clock, siblings).to_bytes()], 1024).unwrap();
        assert!(unlocked.was_locked);
        assert_eq!(unlocked.siblings_given_up, 0, "nothing that is shown");
        let kept = unlocked.versions;
        assert_eq!(kept.standing().collect::<Vec<_>>(), [&newer]);
        assert!(kept.is_retired(retired.write_id) && kept.was_sent_again(newer.write_id));
        assert_eq!(kept.siblings().len(), 3);
        assert!(kept.clock().len() <= 2);
    }
}
