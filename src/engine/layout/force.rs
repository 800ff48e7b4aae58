//! A ring that one node decides by itself, as an operator says: more than half of those that would decide are gone for
//! good, so that nobody can decide anything in the usual way.
//!
//! It does without those that are gone, and begins a new **epoch**: 2^32 versions, the first of which is above all that
//! could be decided in the epoch before. So whoever comes to light with a ring of the old epoch follows the forced one.
//!
//! Two nodes that force in one epoch, each without the other, make two clusters of one. Their rings have other numbers
//! all the same, but once in a million times, as the number holds 20 bits of the ring's hash. So no message that is asked
//! for under the one counts under the other, and once they meet all follow the higher one. What was acknowledged under
//! the other is lost then. With the same members they are the same ring.

use std::collections::BTreeSet;

use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::checksum;
use dynakv_protocol::ids::{NodeId, RingVersion};
use dynakv_protocol::ring_document::{Change, ChangePhase, Member, RingDocument, Step};

use super::change::{self, ChangeRefusal};
use crate::engine::counters::check_ring_version;

/// How many bits of a version count within an epoch.
const EPOCH_BITS: u32 = 32;

/// How many bits at the end of a version are left for the steps after a forced one.
const STEP_BITS: u32 = 12;

/// How often a ring of this version was forced.
pub fn epoch(version: RingVersion) -> u64 {
    version.0 >> EPOCH_BITS
}

/// The ring of the next epoch, which goes on without these. A change that was under way is over with it: given up, or
/// finished where the new owners were read already.
///
/// # Errors
/// [`ChangeRefusal`], whose text tells the operator what to do.
pub fn forced(
    current: &RingDocument,
    gone: &BTreeSet<NodeId>,
) -> Result<RingDocument, ChangeRefusal> {
    let base = match current.change().map(|change| change.phase) {
        None if current.step == Step::Open => return Err(ChangeRefusal::StillOpen),
        None => Some(current.clone()),
        Some(ChangePhase::WriteBoth) => change::taken_back(current),
        Some(ChangePhase::ReadNew) => change::finish(current),
    };
    let mut base = base.ok_or(ChangeRefusal::VersionsExhausted)?;
    // Who was gone before is not back.
    let stopped = current.change().map(|change| change.stopped.iter());
    let gone: BTreeSet<&NodeId> = gone.iter().chain(stopped.into_iter().flatten()).collect();
    let next_epoch = epoch(current.version) + 1;
    let first = next_epoch.checked_mul(1 << EPOCH_BITS);
    let first = first.ok_or(ChangeRefusal::VersionsExhausted)?;
    base.version = RingVersion(first);
    let stopped = base.members.iter().map(|member| &member.id);
    let stopped: Vec<NodeId> = stopped.filter(|id| gone.contains(*id)).cloned().collect();
    let mut next = match stopped.is_empty() {
        // They were only coming in, or had gone as good as.
        true => base,
        false => {
            let stays = |member: &&Member| !gone.contains(&member.id);
            let target: Vec<Member> = base.members.iter().filter(stays).cloned().collect();
            change::changing(&base, base.clone(), &target, &stopped)?
        }
    };
    // Of all but the number.
    let part = checksum(&next.to_bytes()) >> (64 - (EPOCH_BITS - STEP_BITS));
    next.version = RingVersion(first | part << STEP_BITS);
    if let Step::Changing(Change { begun_at, .. }) = &mut next.step {
        *begun_at = next.version;
    }
    match check_ring_version(next.version) {
        Ok(()) => Ok(next),
        Err(_) => Err(ChangeRefusal::VersionsExhausted),
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ids::ClusterId;

    use super::*;
    use crate::engine::layout::change::Reads;
    use crate::engine::layout::made_up::{id, members};
    use crate::engine::layout::{check_later, check_next};

    fn ring(names: &str) -> RingDocument {
        RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "c".to_owned(),
            version: RingVersion(9),
            step: Step::Final,
            n: 3,
            w: 2,
            r: 2,
            members: members(names),
        }
    }

    fn without(ring: &RingDocument, gone: &str) -> RingDocument {
        let gone = gone.chars().map(|name| id(&name.to_string())).collect();
        let next = forced(ring, &gone).unwrap();
        assert_eq!(check_later(ring, &next), Ok(()));
        // No vote is asked for, so no vote may make it.
        assert!(check_next(ring, &next).is_err());
        next
    }

    fn voters(ring: &RingDocument) -> Vec<&str> {
        let voters = ring.voters();
        voters.map(|member| member.id.as_str()).collect()
    }

    /// From there on all goes its usual way.
    #[test]
    fn who_is_left_decides() {
        let next = without(&ring("abc"), "bc");
        assert_eq!(voters(&next), ["a"]);
        assert_eq!(next.majority(), 1);
        let change = next.change().unwrap();
        assert_eq!(change.begun_at, next.version);
        assert_eq!(change.stopped, [id("b"), id("c")]);
        let read = change::read_new(&next).unwrap();
        let last = change::finish(&read).unwrap();
        assert_eq!(last.members, members("a"));
        assert_eq!(last.version.0, next.version.0 + 2);
        assert_eq!((epoch(ring("a").version), epoch(last.version)), (0, 1));
        assert_eq!(epoch(without(&last_of("ab", last.version), "b").version), 2);
    }

    fn last_of(names: &str, version: RingVersion) -> RingDocument {
        RingDocument {
            version,
            ..ring(names)
        }
    }

    /// Whatever the old epoch can come to, it is below.
    #[test]
    fn a_new_epoch_is_above_the_old_one() {
        let next = without(&ring("abc"), "bc");
        let late = last_of("abc", RingVersion((1 << EPOCH_BITS) - 1));
        assert!(check_later(&next, &late).is_err());
        assert!(check_later(&late, &next).is_ok());
    }

    /// The same is the same ring, wherever it is said. Another one has another number, also some steps later.
    #[test]
    fn two_rings_of_one_epoch_have_two_numbers() {
        let one = without(&ring("abc"), "bc");
        assert_eq!(
            one,
            without(&last_of("abc", RingVersion(7)), "bc"),
            "from another version"
        );
        for gone in ["ab", "ac", "a", "b", "c"] {
            let other = without(&ring("abc"), gone);
            let apart = one.version.0.abs_diff(other.version.0);
            assert!(apart >= 1 << STEP_BITS, "{gone}: {apart}");
        }
    }

    #[test]
    fn a_change_that_was_under_way_is_over() {
        let ring = ring("abcd");
        let target = members("bcde");
        let begun = change::begin(&ring, &target, &[], |_| Reads::Changes).unwrap();
        // Given up: who was coming in is in it no more, and who was going stays.
        let next = without(&begun, "bcd");
        assert_eq!(voters(&next), ["a"]);
        assert_eq!(next.member(&id("e")), None);
        // Finished: the other way round.
        let read = change::read_new(&begun).unwrap();
        let next = without(&read, "bcd");
        assert_eq!(voters(&next), ["e"]);
        assert_eq!(next.member(&id("a")), None);
        // They were as good as gone, or not there yet.
        assert_eq!(without(&read, "a").step, Step::Final);
        assert_eq!(without(&begun, "e").step, Step::Final);
        // Who was gone before stays so.
        let target = members("abc");
        let begun = change::begin(&ring, &target, &[id("d")], |_| Reads::Changes).unwrap();
        assert_eq!(voters(&without(&begun, "c")), ["a", "b"]);
    }

    #[test]
    fn somebody_has_to_be_left() {
        let all = [id("a"), id("b")].into();
        assert_eq!(forced(&ring("ab"), &all), Err(ChangeRefusal::NobodyLeft));
        let mut open = ring("ab");
        open.step = Step::Open;
        let refusal = forced(&open, &[id("a")].into());
        assert_eq!(refusal, Err(ChangeRefusal::StillOpen));
        let last = last_of("ab", RingVersion(u64::MAX - 1));
        let refusal = forced(&last, &[id("a")].into());
        assert_eq!(refusal, Err(ChangeRefusal::VersionsExhausted));
    }
}
