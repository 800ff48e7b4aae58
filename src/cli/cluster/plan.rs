//! What a change of the ring comes to: who owns how much after it, what moves, and what may fail meanwhile.

use std::collections::BTreeSet;

use dynakv_client::{MemberState, MemberStatus, StatusReply};
use dynakv_protocol::NodeId;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::placement::{MemberIndex, Placement};
use dynakv_protocol::ring_document::{ChangePhase, Member, RingDocument, Stake};
use serde::Serialize;

use crate::engine::anti_entropy::rebuild_sources;
use crate::engine::layout::change;
use crate::engine::layout::force::epoch;
use crate::engine::layout::steps::{self, Due, Progress};
use crate::engine::layout::wish::may_lose_writes;
use crate::engine::placement::ring::Ring;

/// What would be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A change begins.
    Begins,
    /// Of the change that is under way: nobody waits for some that go.
    StopsWaiting,
    /// The change that is under way is given up.
    GivesUp,
    /// One node decides by itself that the ring goes on without some.
    Forces,
}

/// What becomes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    Stays,
    Comes,
    Goes,
    IsGone,
}

/// What a member holds and is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) id: NodeId,
    pub(super) role: Role,
    pub(super) before: Stake,
    pub(super) after: Stake,
    pub(super) segments_before: u32,
    pub(super) segments_after: u32,
    pub(super) gained: u32,
    pub(super) lost: u32,
}

/// What a change comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    /// The ring that was looked at, and the one that would be decided.
    pub(super) present: RingDocument,
    pub(super) next: RingDocument,
    pub(super) shares: Vec<Share>,
    /// How many copies a key has, before and after.
    pub(super) copies: (usize, usize),
    /// About how many bytes a copy of a segment takes.
    pub(super) bytes_of_segment: f64,
    /// How many more nodes may fail, whichever they are, until some keys lack a quorum: while the ring changes, and
    /// afterwards. Below 0 some lack one with those that are down already.
    pub(super) may_fail: (i64, i64),
    /// Members that cannot be reached now, and are waited for.
    pub(super) held_up_by: Vec<NodeId>,
    /// How many of those that decide are there, and how many it takes, where that is more and nobody forces it.
    pub(super) too_few_decide: Option<(usize, usize)>,
    /// Of some keys too few copies are left without those that are gone to have every acknowledged write among them.
    pub(super) may_lose_writes: bool,
}

impl Plan {
    /// What becomes of the present ring if the next one is decided.
    pub(super) fn new(present: &RingDocument, next: &RingDocument, status: &StatusReply) -> Self {
        let kind = match (present.change().is_some(), next.change().is_some()) {
            _ if epoch(next.version) > epoch(present.version) => Kind::Forces,
            (_, false) => Kind::GivesUp,
            (true, true) => Kind::StopsWaiting,
            (false, true) => Kind::Begins,
        };
        let sides = Sides::of(next);
        let shares = shares(next, &sides);
        // Who comes in is not among the members yet, and has just been heard.
        let is_new = |id: &NodeId| present.member(id).is_none();
        let absent = |id: &NodeId| !member_of(status, id).map_or(is_new(id), is_in_reach);
        let is_up = |member: MemberIndex| {
            let id = &next.members[member.slot()].id;
            !next.is_stopped(id) && member_of(status, id).map_or(is_new(id), serves)
        };
        let afterwards = spare(next, &sides.after, is_up);
        Self {
            kind,
            bytes_of_segment: bytes_of_segment(&shares, status),
            copies: (sides.before.copies(), sides.after.copies()),
            may_fail: (
                spare(next, &sides.before, is_up).min(afterwards),
                afterwards,
            ),
            held_up_by: held_up_by(next, absent),
            too_few_decide: too_few_decide(present, status).filter(|_| kind != Kind::Forces),
            may_lose_writes: may_lose_writes(next),
            shares,
            present: present.clone(),
            next: next.clone(),
        }
    }

    /// How many members there are, before and after.
    pub(super) fn nodes(&self) -> (usize, usize) {
        let count = |stake: fn(&Share) -> &Stake| {
            let shares = self.shares.iter();
            shares.filter(|it| stake(it).weight > 0).count()
        };
        (count(|it| &it.before), count(|it| &it.after))
    }

    /// How many copies of segments are moved.
    pub(super) fn segments_moved(&self) -> u64 {
        self.shares.iter().map(|it| u64::from(it.gained)).sum()
    }

    /// With how few that could be done, if members are to hold as many as they will.
    pub(super) fn segments_least(&self) -> u64 {
        let more = |it: &Share| u64::from(it.segments_after.saturating_sub(it.segments_before));
        self.shares.iter().map(more).sum()
    }

    /// About how many bytes so many copies of segments take.
    pub(super) fn bytes(&self, segments: u64) -> u64 {
        (segments as f64 * self.bytes_of_segment) as u64
    }

    /// The members of this role.
    pub(super) fn of_role(&self, role: Role) -> Vec<NodeId> {
        let shares = self.shares.iter().filter(|it| it.role == role);
        shares.map(|it| it.id.clone()).collect()
    }
}

/// The owners before and after.
struct Sides {
    before: Placement,
    after: Placement,
}

impl Sides {
    fn of(ring: &RingDocument) -> Self {
        let (before, after) = Placement::before_and_after(ring).unwrap_or_else(|| {
            let always = Placement::new(ring);
            (always.clone(), always)
        });
        Self { before, after }
    }
}

fn segments() -> impl Iterator<Item = Segment> {
    (0..=u16::MAX).map(Segment)
}

fn shares(ring: &RingDocument, sides: &Sides) -> Vec<Share> {
    let share = |(slot, member): (usize, &Member)| {
        let before = Stake {
            weight: member.weight,
            zone: member.zone.clone(),
        };
        let target = ring.change().and_then(|change| change.target.get(slot));
        let after = target.unwrap_or(&before).clone();
        let role = match (before.weight, after.weight) {
            (0, _) => Role::Comes,
            (_, 0) if ring.is_stopped(&member.id) => Role::IsGone,
            (_, 0) => Role::Goes,
            _ => Role::Stays,
        };
        Share {
            id: member.id.clone(),
            role,
            before,
            after,
            segments_before: 0,
            segments_after: 0,
            gained: 0,
            lost: 0,
        }
    };
    let mut shares: Vec<Share> = ring.members.iter().enumerate().map(share).collect();
    for segment in segments() {
        let (before, after) = (sides.before.owners(segment), sides.after.owners(segment));
        for owner in before {
            let share = &mut shares[owner.slot()];
            share.segments_before += 1;
            share.lost += u32::from(!after.contains(owner));
        }
        for owner in after {
            let share = &mut shares[owner.slot()];
            share.segments_after += 1;
            share.gained += u32::from(!before.contains(owner));
        }
    }
    shares
}

fn member_of<'a>(status: &'a StatusReply, id: &NodeId) -> Option<&'a MemberStatus> {
    status.members.iter().find(|member| member.id == *id)
}

fn is_in_reach(member: &MemberStatus) -> bool {
    member.state == MemberState::Alive && !member.unreachable
}

/// Whether it counts for reads and for writes.
fn serves(member: &MemberStatus) -> bool {
    let has_trouble = member.disk_hangs || member.disk_full || member.rebuilding_segments > 0;
    is_in_reach(member) && !has_trouble
}

/// What the disks of all members hold, shared out to the copies that they hold.
fn bytes_of_segment(shares: &[Share], status: &StatusReply) -> f64 {
    let (mut bytes, mut copies) = (0, 0);
    for share in shares.iter().filter(|share| share.segments_before > 0) {
        // One that was not heard of since the answering node was started says nothing.
        let disk_bytes = member_of(status, &share.id).map_or(0, |member| member.disk_bytes);
        if disk_bytes > 0 {
            bytes += disk_bytes;
            copies += u64::from(share.segments_before);
        }
    }
    bytes as f64 / copies.max(1) as f64
}

/// How many more of its owners each key could do without.
fn spare(ring: &RingDocument, owners: &Placement, is_up: impl Fn(MemberIndex) -> bool) -> i64 {
    let needed = usize::from(ring.w.max(ring.r)).min(owners.copies());
    let up = segments().map(|segment| {
        let owners = owners.owners(segment).iter();
        owners.filter(|owner| is_up(**owner)).count()
    });
    up.min().unwrap_or(0) as i64 - needed as i64
}

/// How many of those that decide about the ring are there, and how many it takes. `None` where enough are.
fn too_few_decide(present: &RingDocument, status: &StatusReply) -> Option<(usize, usize)> {
    let is_there = |id| member_of(status, id).is_some_and(|it| it.state != MemberState::Dead);
    let there = present
        .voters()
        .filter(|member| is_there(&member.id))
        .count();
    let needed = present.majority();
    (there < needed).then_some((there, needed))
}

/// Who is waited for and cannot be reached, nor is gone for good.
fn held_up_by(next: &RingDocument, absent: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
    let Some(change) = next.change() else {
        return Vec::new();
    };
    let mut awaited = BTreeSet::new();
    if change.phase == ChangePhase::WriteBoth {
        awaited.extend(not_fetching(next, &absent));
    }
    let then = match change.phase {
        ChangePhase::WriteBoth => change::read_new(next),
        ChangePhase::ReadNew => Some(next.clone()),
    };
    if let Some(then) = then {
        let ring = Ring::new(then);
        let progress = |id: &NodeId| match absent(id) {
            true => Progress::default(),
            false => Progress {
                ring_version: ring.version(),
                complete_since: change.begun_at,
                settled_at: ring.version(),
                hints: 0,
            },
        };
        // What one that is dead would hand on is waited for for a minute, unless it keeps hints: that is not known here.
        if let Some(Due::Following(ids)) = steps::due(&ring, progress, |_| None) {
            awaited.extend(ids);
        }
    }
    awaited.into_iter().collect()
}

/// Who is to fetch something, or to give it, and cannot.
fn not_fetching(next: &RingDocument, absent: &impl Fn(&NodeId) -> bool) -> BTreeSet<NodeId> {
    let ring = Ring::new(next.clone());
    let id_of = |member: MemberIndex| &ring.member(member).id;
    let is_absent: Vec<bool> = next
        .members
        .iter()
        .map(|member| absent(&member.id))
        .collect();
    let mut awaited = BTreeSet::new();
    // 1,024 members at most.
    for member in (0..ring.len() as u16).map(MemberIndex) {
        if !ring.must_fetch(member) {
            continue;
        }
        if is_absent[member.slot()] {
            awaited.insert(id_of(member).clone());
            continue;
        }
        let gained = ring.gained_by(member).chain(ring.topped_up_by(member));
        for segment in gained {
            let needed = rebuild_sources::needed(&ring, member, segment, false).unwrap_or(0);
            let others = || ring.readers(segment).iter().filter(|it| **it != member);
            let others = || others().filter(|it| !next.is_stopped(id_of(**it)));
            if others().filter(|it| !is_absent[it.slot()]).count() < needed {
                let absent = others().filter(|it| is_absent[it.slot()]);
                awaited.extend(absent.map(|it| id_of(*it).clone()));
            }
        }
    }
    awaited
}
