//! What `status` says first, and its exit code: whether every key has its quorums.

use dynakv_client::{MemberState, MemberStatus, RingReply, StatusReply};
use dynakv_protocol::NodeId;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::Member;
use serde::Serialize;

use super::others;
use crate::cli::exit::Exit;

/// What `status` says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Every member is alive.
    Healthy,
    /// A member is not alive or not in reach, or takes no writes, and every key has its quorums; or keys are locked, or a
    /// seed is of another cluster.
    Degraded,
    /// Some keys, or all, have no quorum.
    Unavailable,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        }
    }

    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Healthy => Exit::Ok,
            Self::Degraded => Exit::Degraded,
            Self::Unavailable => Exit::Unavailable,
        }
    }
}

/// Whether it is alive and can be spoken to, as far as the answering node knows.
pub(super) fn is_in_reach(member: &MemberStatus) -> bool {
    member.state == MemberState::Alive && !member.unreachable
}

/// Whose disk hangs or is full refuses them.
fn takes_writes(member: &MemberStatus) -> bool {
    is_in_reach(member) && !member.disk_hangs && !member.disk_full
}

/// Who is rebuilding takes writes, but its reads may not count. Whose disk hangs answers only those that need no disk.
fn answers_reads(member: &MemberStatus) -> bool {
    is_in_reach(member) && member.rebuilding_segments == 0 && !member.disk_hangs
}

/// What is so of the cluster, as far as the answering node knows.
pub(super) fn verdict(status: &StatusReply, ring: Option<&RingReply>) -> Verdict {
    let member_of = |id: &NodeId| status.members.iter().find(|member| member.id == *id);
    if status.ring_version.0 == 0 || status.members.is_empty() {
        return Verdict::Unavailable;
    }
    let mut members = status.members.iter();
    if members.all(|member| answers_reads(member) && takes_writes(member)) {
        return match status.locked_keys {
            0 if !others::is_astray(status) => Verdict::Healthy,
            _ => Verdict::Degraded,
        };
    }
    let (w, r) = (usize::from(status.w), usize::from(status.r));
    let served = match ring {
        Some(ring) => {
            let members = &ring.document.members;
            let able = |ability: fn(&MemberStatus) -> bool| -> Vec<bool> {
                let able = |it: &Member| member_of(&it.id).is_some_and(ability);
                members.iter().map(able).collect()
            };
            let (writable, readable) = (able(takes_writes), able(answers_reads));
            let is_met = |placement: &Placement, able: &[bool], needed: usize| {
                let needed = needed.min(placement.copies());
                (0..=u16::MAX).all(|segment| {
                    let owners = placement.owners(Segment(segment)).iter();
                    owners.filter(|it| able[it.slot()]).count() >= needed
                })
            };
            let read = Placement::new(&ring.document);
            // While the ring changes, who is written besides.
            let also = Placement::also_written(&ring.document);
            is_met(&read, &readable, r)
                && is_met(&read, &writable, w)
                && also.is_none_or(|also| is_met(&also, &writable, w))
        }
        None => {
            let members = || status.members.iter();
            let dead = members().filter(|member| !takes_writes(member));
            let mute = members().filter(|member| !answers_reads(member));
            let owners = usize::from(status.n).min(status.members.len());
            dead.count() <= owners - w.min(owners) && mute.count() <= owners - r.min(owners)
        }
    };
    if served {
        Verdict::Degraded
    } else {
        Verdict::Unavailable
    }
}
