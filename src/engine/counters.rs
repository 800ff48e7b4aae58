//! How far the counters of nodes can have counted: what is beyond is a lie or damage, and is neither believed
//! nor stored.
//!
//! A counter orders news: who tells the highest is believed. So one number that nobody has counted to would be
//! believed for ever, were it once believed. Two kinds of bounds keep it out. What lies above the *greatest*
//! was not counted by any process. What lies further above the last known value than the *jump* was not
//! counted since; it is wide enough for whoever was cut off for weeks, and so narrow that jumping to the greatest
//! takes long. To a heartbeat's it takes 2^8 messages, which end with the run they speak of; to an incarnation's or
//! a round's more than can be sent. To a generation's it takes 2^22 jumps, and as each is looked at a second after
//! the one before it at the earliest (`runtime/net/confirming.rs`), that is 48 days in which the member is down.

use dynakv_protocol::gossip::{Ballot, MemberEntry};
use dynakv_protocol::{Generation, RingVersion};

/// The highest generation. A start takes a second or so: 136 years of nothing but starts.
pub const GENERATION_MAX: u64 = 1 << 32;

/// By how much a generation may rise where nobody can be asked about it. A node that starts and fails every
/// ten minutes does so for a week. It is also how often a node has to be started to overtake a false one.
pub const GENERATION_JUMP_MAX: u64 = 1 << 10;

/// The highest heartbeat. One each millisecond, a thousand times what is usual, for 34 years.
pub const HEARTBEAT_MAX: u64 = 1 << 40;

/// By how much a heartbeat may rise between two pieces of news of one run: one each millisecond for 49 days.
pub const HEARTBEAT_JUMP_MAX: u64 = 1 << 32;

/// The highest incarnation: a node always has one left to refute a lie with. By jumps it takes 2^42 lies to get
/// there.
pub const INCARNATION_MAX: u64 = 1 << 62;

/// By how much an incarnation may rise between two pieces of news of one run. A node raises its own at most once
/// while a rumour goes round, a second or so: that makes 12 days. It follows lies about itself as far, so that
/// it refutes whatever others may have believed; who has missed more hears it from the node itself.
pub const INCARNATION_JUMP_MAX: u64 = 1 << 20;

/// The highest round of a ballot: there is always a higher one to try with. By jumps it takes 2^42 writes to
/// disk to get there.
pub const ROUND_MAX: u64 = 1 << 62;

/// By how much a round may lie above the highest that was seen of its slot: a proposer that no majority
/// answers tries every two seconds for 24 days. Who asks further ahead brings the voter on by this much.
pub const ROUND_JUMP_MAX: u64 = 1 << 20;

/// The highest ring version: 2^16 epochs, each with a change a second for 136 years.
pub const RING_VERSION_MAX: u64 = 1 << 48;

/// By how much a ring's version may rise at once: 2^8 epochs, each of which an operator has forced. To get to the highest
/// it takes as many rings, each of which is followed.
pub const RING_VERSION_JUMP_MAX: u64 = 1 << 40;

/// A counter that nobody can have counted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{counter} {value} is one that no process has counted to: {max} at most is possible")]
pub struct Impossible {
    /// Which counter.
    pub counter: &'static str,
    /// What was told.
    pub value: u64,
    /// The highest that is possible.
    pub max: u64,
}

fn within(counter: &'static str, value: u64, max: u64) -> Result<(), Impossible> {
    match value <= max {
        true => Ok(()),
        false => Err(Impossible {
            counter,
            value,
            max,
        }),
    }
}

/// Whether a directory can have been started so often.
///
/// # Errors
/// [`Impossible`].
pub fn check_generation(generation: Generation) -> Result<(), Impossible> {
    within("generation", generation.0, GENERATION_MAX)
}

/// Whether a directory can have been started so often since it was seen last, when nobody can be asked.
///
/// # Errors
/// [`Impossible`].
pub fn check_generation_after(known: Generation, generation: Generation) -> Result<(), Impossible> {
    check_generation(generation)?;
    let max = known.0.saturating_add(GENERATION_JUMP_MAX);
    within("generation", generation.0, max)
}

/// Whether a ring can have been changed so often.
///
/// # Errors
/// [`Impossible`].
pub fn check_ring_version(version: RingVersion) -> Result<(), Impossible> {
    within("ring version", version.0, RING_VERSION_MAX)
}

/// Whether a ring can have been changed so often since this one.
///
/// # Errors
/// [`Impossible`].
pub fn check_ring_version_after(
    known: RingVersion,
    version: RingVersion,
) -> Result<(), Impossible> {
    check_ring_version(version)?;
    let max = known.0.saturating_add(RING_VERSION_JUMP_MAX);
    within("ring version", version.0, max)
}

/// Whether what is told of a member can be so; `known` is the last news of it. A member that was called and
/// speaks of itself need not be held against that: then there is none.
///
/// # Errors
/// [`Impossible`].
pub fn check_news(known: Option<&MemberEntry>, told: &MemberEntry) -> Result<(), Impossible> {
    check_generation(told.generation)?;
    within("incarnation", told.incarnation, INCARNATION_MAX)?;
    within("heartbeat", told.heartbeat, HEARTBEAT_MAX)?;
    let Some(known) = known.filter(|known| known.generation == told.generation) else {
        return Ok(());
    };
    let max = known.incarnation.saturating_add(INCARNATION_JUMP_MAX);
    within("incarnation", told.incarnation, max)?;
    let max = known.heartbeat.saturating_add(HEARTBEAT_JUMP_MAX);
    within("heartbeat", told.heartbeat, max)
}

/// Whether a proposer can have come to this round.
///
/// # Errors
/// [`Impossible`].
pub fn check_round(ballot: &Ballot) -> Result<(), Impossible> {
    within("round", ballot.round, ROUND_MAX)
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::{DirectoryId, NodeId};

    use super::*;

    fn news(generation: u64, incarnation: u64, heartbeat: u64) -> MemberEntry {
        MemberEntry {
            generation: Generation(generation),
            incarnation,
            heartbeat,
            nonce: 1,
            ..MemberEntry::new(NodeId::new("b").unwrap(), String::new(), DirectoryId(7))
        }
    }

    #[test]
    fn what_no_process_has_counted_to_is_impossible_from_whomever_it_comes() {
        let known = news(5, 7, 9);
        for (told, is_possible) in [
            (news(5, 7, 10), true),
            (news(5, 8, 0), true),
            (news(6, 0, 0), true),
            (news(4, 0, 0), true),
            (news(GENERATION_MAX, 0, 0), true),
            (news(GENERATION_MAX + 1, 0, 0), false),
            (news(u64::MAX, 0, 0), false),
            (news(6, INCARNATION_MAX, HEARTBEAT_MAX), true),
            (news(6, INCARNATION_MAX + 1, 0), false),
            (news(6, 0, HEARTBEAT_MAX + 1), false),
            (news(6, u64::MAX, u64::MAX), false),
            // Within one run it is known from where they were counted.
            (
                news(5, 7 + INCARNATION_JUMP_MAX, 9 + HEARTBEAT_JUMP_MAX),
                true,
            ),
            (news(5, 8 + INCARNATION_JUMP_MAX, 9), false),
            (news(5, 7, 10 + HEARTBEAT_JUMP_MAX), false),
        ] {
            let checked = check_news(Some(&known), &told);
            assert_eq!(checked.is_ok(), is_possible, "{told:?}");
        }
        assert!(check_news(None, &news(5, INCARNATION_MAX, HEARTBEAT_MAX)).is_ok());
        assert!(check_news(None, &news(u64::MAX, 0, 0)).is_err());
    }

    #[test]
    fn a_generation_that_nobody_can_be_asked_about_rises_by_little() {
        let known = Generation(5);
        let after = |generation| check_generation_after(known, Generation(generation)).is_ok();
        assert!(after(5) && after(6) && after(5 + GENERATION_JUMP_MAX));
        assert!(!after(6 + GENERATION_JUMP_MAX) && !after(u64::MAX));
        let last = Generation(GENERATION_MAX);
        assert!(check_generation_after(last, Generation(GENERATION_MAX + 1)).is_err());
        assert!(check_generation_after(Generation(u64::MAX), Generation(u64::MAX)).is_err());
    }

    #[test]
    fn rounds_and_versions_have_an_end() {
        let ballot = |round| Ballot {
            round,
            node: NodeId::new("b").unwrap(),
        };
        assert!(check_round(&ballot(ROUND_MAX)).is_ok());
        assert!(check_round(&ballot(ROUND_MAX + 1)).is_err());
        assert!(check_ring_version(RingVersion(RING_VERSION_MAX)).is_ok());
        assert!(check_ring_version(RingVersion(u64::MAX)).is_err());
        let (known, jump) = (RingVersion(5), RING_VERSION_JUMP_MAX);
        assert!(check_ring_version_after(known, RingVersion(5 + jump)).is_ok());
        assert!(check_ring_version_after(known, RingVersion(6 + jump)).is_err());
        let said = check_round(&ballot(u64::MAX)).unwrap_err().to_string();
        assert!(said.contains("round 18446744073709551615"), "{said}");
    }
}
