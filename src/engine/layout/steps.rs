//! When a change of the ring may take its next step.
//!
//! Members say of themselves which ring they follow, and by which change they have all that they gained. Any member can
//! judge by what it has heard, however late that is, and the step is decided as every ring is. Who was complete and is
//! not any more has lost something since, as any owner may after the step.
//!
//! | Step | Once |
//! |---|---|
//! | `WriteBoth` → `ReadNew` | whoever gains a segment has it: from then on it is read. Where there are to be fewer copies, who keeps one has what the others had |
//! | `ReadNew` → `Final` | of the old owners of each segment so many follow `ReadNew` that the others are no read quorum: none of them answers reads by itself any more. And who goes has handed on what it has |
//!
//! Who is gone, as an operator says, is not waited for.

use dynakv_protocol::hash::Segment;
use dynakv_protocol::ids::{NodeId, RingVersion};
use dynakv_protocol::ring_document::{Change, ChangePhase, RingDocument};

use super::change;
use crate::engine::placement::ring::{MemberIndex, Ring};

/// What a member has said of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The ring that it follows.
    pub ring_version: RingVersion,
    /// By which change it has all that it gained.
    pub complete_since: RingVersion,
    /// By which ring it is to go and has nothing left that the others need.
    pub settled_at: RingVersion,
    /// How many keys it keeps for others that an acknowledged write counts on.
    pub hints: u64,
}

/// What a change of the ring waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// This ring may be decided.
    Step(Box<RingDocument>),
    /// These members have not got yet what they gain.
    Fetching(Vec<NodeId>),
    /// These members do not follow the ring yet.
    Following(Vec<NodeId>),
    /// These members go, and have something left that they are to hand on.
    HandingOn(Vec<NodeId>),
}

impl Due {
    /// Whom it waits for.
    pub fn waits_for(&self) -> &[NodeId] {
        match self {
            Self::Step(_) => &[],
            Self::Fetching(ids) | Self::Following(ids) | Self::HandingOn(ids) => ids,
        }
    }
}

/// What comes next. `None` unless the ring changes. `dead_for_ms` says for how long a member has been dead, as far as who
/// asks has watched it without a break.
pub fn due(
    ring: &Ring,
    progress: impl Fn(&NodeId) -> Progress,
    dead_for_ms: impl Fn(&NodeId) -> Option<u64>,
) -> Option<Due> {
    let document = ring.document();
    let change = document.change()?;
    let members = || (0..ring.len() as u16).map(MemberIndex);
    let of = |member: MemberIndex| progress(&ring.member(member).id);
    let (waits, next) = match change.phase {
        ChangePhase::WriteBoth => {
            let has_it = |member| of(member).complete_since >= change.begun_at;
            let lacks = members().filter(|&it| !has_it(it) && ring.must_fetch(it));
            (
                Due::Fetching(named(ring, lacks)),
                change::read_new(document),
            )
        }
        ChangePhase::ReadNew => {
            let follows: Vec<bool> = members()
                .map(|member| of(member).ring_version >= ring.version())
                .collect();
            let lacks = named(ring, still_read_old(ring, change, &follows));
            let is_dead = |id| dead_for_ms(id).is_some_and(|ms| ms >= NOT_HANDING_ON_AFTER_MS);
            let hands_on = |&member: &MemberIndex| {
                let id = &ring.member(member).id;
                let goes = document.is_leaving(id) && !document.is_stopped(id);
                // A hint may be a copy that an acknowledged write counts on, and no owner has.
                let is_missed = || !is_dead(id) || of(member).hints > 0;
                goes && of(member).settled_at < ring.version() && is_missed()
            };
            let waits = match lacks.is_empty() {
                false => Due::Following(lacks),
                true => Due::HandingOn(named(ring, members().filter(hands_on))),
            };
            (waits, change::finish(document))
        }
    };
    match next {
        Some(next) if waits.waits_for().is_empty() => Some(Due::Step(Box::new(next))),
        Some(_) | None => Some(waits),
    }
}

fn named(ring: &Ring, members: impl IntoIterator<Item = MemberIndex>) -> Vec<NodeId> {
    let members = members.into_iter();
    members
        .map(|member| ring.member(member).id.clone())
        .collect()
}

/// The old owners that do not follow the ring, of segments where they might still make a read quorum by themselves.
fn still_read_old(ring: &Ring, change: &Change, follows: &[bool]) -> Vec<MemberIndex> {
    debug_assert_eq!(change.phase, ChangePhase::ReadNew);
    let r = usize::from(ring.document().r);
    let mut waited_for = vec![false; ring.len()];
    for segment in (0..=u16::MAX).map(Segment) {
        let old = ring.others(segment);
        let readers = ring.readers(segment).len();
        if (ring.owners(segment).len(), old.clone().count()) == (readers, readers) {
            // The same owners in both: nobody reads anybody else.
            continue;
        }
        // Who is said to be gone and is not still answers reads: that it is, is the operator's word.
        let is_gone = |member: MemberIndex| ring.document().is_stopped(&ring.member(member).id);
        let lacks = |member: &MemberIndex| !follows[member.slot()] && !is_gone(*member);
        let lacking = || old.clone().filter(lacks);
        if lacking().count() >= r.min(old.clone().count()) {
            lacking().for_each(|member| waited_for[member.slot()] = true);
        }
    }
    let members = (0..ring.len() as u16).map(MemberIndex);
    members.filter(|member| waited_for[member.slot()]).collect()
}

/// For how long a member that goes may be dead before nobody waits any more for what it would hand on, in milliseconds.
/// What owners have acknowledged all new ones have fetched from others. One that keeps anything for others is waited for
/// until it is back, or gone by an operator's word.
pub const NOT_HANDING_ON_AFTER_MS: u64 = 60 * 1000;

/// For how long a member that is to fetch something may be dead before the change is given up, in milliseconds.
pub const GIVEN_UP_AFTER_MS: u64 = 5 * 60 * 1000;

/// The ring without a change that cannot go on by itself: one in which somebody has died before it had all that it is to
/// fetch. `dead_for_ms` is as for [`due`]. Who is only to give what it has is waited for: it comes back with that.
pub fn given_up(
    ring: &Ring,
    progress: impl Fn(&NodeId) -> Progress,
    dead_for_ms: impl Fn(&NodeId) -> Option<u64>,
) -> Option<RingDocument> {
    let change = ring.document().change()?;
    let mut members = (0..ring.len() as u16).map(MemberIndex);
    let is_lost = members.any(|member| {
        let id = &ring.member(member).id;
        let is_dead = || dead_for_ms(id).is_some_and(|ms| ms >= GIVEN_UP_AFTER_MS);
        progress(id).complete_since < change.begun_at && is_dead() && ring.must_fetch(member)
    });
    change::give_up(ring.document()).filter(|_| is_lost)
}

#[cfg(test)]
mod tests;
