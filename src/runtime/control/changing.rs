//! Bringing a change of the ring on: what this node gains by it is noted, and the next step proposed once it is due.

use std::time::Duration;

use dynakv_protocol::client::AwaitedFor;
use dynakv_protocol::gossip::{Join, MemberState};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::moving::Moving;
use dynakv_protocol::ring_document::{ChangePhase, RingDocument};
use dynakv_protocol::{NodeId, RingVersion};
use dynakv_storage::StoreError;
use tokio::time::Instant;

use super::Control;
use super::state::{Changing, JoinWish};
use crate::engine::anti_entropy::rebuilding::SegmentSet;
use crate::engine::layout::change::{ChangeRefusal, Reads, begin};
use crate::engine::layout::force::epoch;
use crate::engine::layout::steps::{self, Due, Progress};
use crate::engine::layout::{JoinRefusal, admit};
use crate::engine::membership::MemberView;
use crate::engine::placement::ring::Ring;
use crate::runtime::store::rebuilding::Gain;

/// How often it is looked whether a step is due: that takes a walk over all segments.
const LOOK: Duration = Duration::from_millis(500);

/// How much later than the member before it each member proposes a step, so that they do not outvote each other.
const RANK_DELAY: Duration = Duration::from_secs(1);

/// How often the log says whom a change waits for.
const LINE: Duration = Duration::from_secs(60);

impl Control {
    /// Notes, durably, what this node gains by the change that this ring is about: before the ring is on disk, so that
    /// nobody takes what it lacks for what there is not.
    pub(super) fn note_gained(&self, document: &RingDocument) -> Result<(), StoreError> {
        self.mark_what_was_dropped(document)?;
        let Some(change) = document.change() else {
            return Ok(());
        };
        if self.rebuilding.has_met(change.begun_at) {
            return Ok(());
        }
        let ring = Ring::new(document.clone());
        let mut gained = Gain::default();
        if let Some(own) = ring.index_of(&self.me.node_id) {
            for segment in ring.gained_by(own) {
                gained.new.insert(segment);
            }
            for segment in ring.topped_up_by(own) {
                gained.to_top_up.insert(segment);
            }
        }
        self.rebuilding.begin_gained(change.begun_at, gained)
    }

    /// A ring that was forced need not go on from the one that this node followed last. What others gave it under that ring
    /// it may have dropped since, or never fetched, and no change gives it that: so it is marked as lost.
    fn mark_what_was_dropped(&self, document: &RingDocument) -> Result<(), StoreError> {
        let Some(own) = self.newest_ring() else {
            return Ok(());
        };
        if epoch(document.version) <= epoch(own.version) {
            return Ok(());
        }
        let id = &self.me.node_id;
        let is_read = |ring: &Ring, segment| {
            let me = ring.index_of(id);
            me.is_some_and(|me| ring.readers(segment).contains(&me))
        };
        let (before, after) = (Ring::new(own.clone()), Ring::new(document.clone()));
        let mut dropped = SegmentSet::default();
        for segment in (0..=u16::MAX).map(Segment) {
            if is_read(&after, segment) && !is_read(&before, segment) {
                dropped.insert(segment);
            }
        }
        match dropped.is_empty() {
            true => Ok(()),
            false => self.rebuilding.begin_all_of(&dropped),
        }
    }

    /// The ring that begins to take this node in, and whoever else wants in: one change moves less than one after the
    /// other does.
    pub(super) fn begin_change(
        &self,
        current: &RingDocument,
        wish: &JoinWish,
    ) -> Result<RingDocument, ChangeRefusal> {
        let members = self.membership.members();
        let joins = [&wish.join].into_iter();
        let others = self.decisions.joins.iter().map(|wish| &wish.join);
        let others = others.filter(|join| !self.is_for_operators(join));
        let joins: Vec<&Join> = joins.chain(others).collect();
        let reads = |id: &NodeId| {
            let join = joins.iter().find(|join| join.member.id == *id);
            match join.map(|join| join.knows_changes) {
                Some(true) => Reads::Changes,
                Some(false) => Reads::TooOld,
                None => self.reads(id, &members),
            }
        };
        let all: Vec<&Join> = joins
            .iter()
            .filter(|join| matches!(admit(current, join), Err(JoinRefusal::HoldsData)))
            .copied()
            .collect();
        let to = |joins: &[&Join]| {
            let joining = joins.iter().map(|join| &join.member);
            let target: Vec<_> = current.members.iter().chain(joining).cloned().collect();
            begin(current, &target, &[], reads)
        };
        // Where the others stand in the way it comes alone.
        to(&all).or_else(|_| to(&joins[..1]))
    }

    /// Whether an operator is to say that this node is let into a ring that holds data. One that cannot read a ring that
    /// changes is told that instead.
    pub(super) fn is_for_operators(&self, join: &Join) -> bool {
        join.knows_changes && (join.waits || !self.startup.auto_join)
    }

    /// What a member can read, as it says: one that does not tell which ring it follows runs a version that knows none
    /// that changes.
    pub(super) fn reads(&self, id: &NodeId, members: &[MemberView]) -> Reads {
        let member = members.iter().find(|member| member.id == *id);
        let known = member.filter(|member| !member.software.is_empty());
        match known.map(|member| member.ring_version > RingVersion(0)) {
            Some(true) => Reads::Changes,
            Some(false) => Reads::TooOld,
            None => Reads::Unheard,
        }
    }

    /// The next ring of a change, once it is due and this node's turn has come to propose it.
    pub(super) fn next_step(&mut self, now: Instant) -> Option<RingDocument> {
        let ring = self.ring.clone()?;
        if ring.document().change().is_none() {
            self.decisions.changing = Changing::default();
            return None;
        }
        let look_due = &mut self.decisions.changing.look_due;
        if look_due.is_some_and(|due| due > now) {
            return None;
        }
        *look_due = Some(now + LOOK);
        let members = self.membership.members();
        self.watch_the_dead(&members, now);
        let of = |id: &NodeId| members.iter().find(|member| member.id == *id);
        let progress = |id: &NodeId| of(id).map_or(Progress::default(), progress_of);
        let dead_since = self.decisions.changing.dead_since.clone();
        let dead_for_ms = |id: &NodeId| {
            let since = dead_since.get(id)?;
            Some(now.duration_since(*since).as_millis() as u64)
        };
        let next = match steps::due(&ring, progress, dead_for_ms)? {
            Due::Step(next) => {
                self.decisions.changing.waits_for = None;
                Some(*next)
            }
            waits => {
                self.tell_waiting(waits, now);
                steps::given_up(&ring, progress, dead_for_ms)
            }
        };
        let Some(next) = next else {
            self.decisions.changing.due_since = None;
            return None;
        };
        let since = match self.decisions.changing.due_since {
            Some((version, since)) if version == ring.version() => since,
            _ => now,
        };
        self.decisions.changing.due_since = Some((ring.version(), since));
        let before_me = members
            .iter()
            .filter(|it| it.id < self.me.node_id && it.state == MemberState::Alive)
            .count();
        (now >= since + RANK_DELAY * before_me as u32).then_some(next)
    }

    /// Whom the next step of the change waits for that is under way, as it was last looked at.
    pub(super) fn awaited(&self) -> Vec<NodeId> {
        let waits_for = self.decisions.changing.waits_for.as_ref();
        waits_for.map_or(Vec::new(), |waits| waits.waits_for().to_vec())
    }

    /// What those are to do whom the next step waits for.
    pub(super) fn awaited_for(&self) -> Option<AwaitedFor> {
        match self.decisions.changing.waits_for.as_ref()? {
            Due::Step(_) => None,
            Due::Fetching(_) => Some(AwaitedFor::Fetching),
            Due::Following(_) => Some(AwaitedFor::Following),
            Due::HandingOn(_) => Some(AwaitedFor::HandingOn),
        }
    }

    /// What the change that is under way still has this node move. Once a second.
    pub(super) fn look_at_moving(&mut self) -> Option<Moving> {
        let ring = self.ring.as_ref();
        let phase = ring.and_then(|ring| ring.document().change().map(|change| change.phase));
        let segments_left = match phase {
            Some(ChangePhase::WriteBoth) => self.rebuilding.left_to_fetch(),
            Some(ChangePhase::ReadNew) if self.goes_by().is_some() => self.settling.to_hand_on(),
            Some(ChangePhase::ReadNew) | None => 0,
        };
        let (now_ms, bytes) = (self.now_ms(), self.settling.bytes_moved());
        self.moving_pace.look(now_ms, segments_left, bytes)
    }

    /// For how long each member is dead, in milliseconds, as far as this node has watched it without a break: who did not
    /// run itself for a while has seen nothing.
    fn watch_the_dead(&mut self, members: &[MemberView], now: Instant) {
        let changing = &mut self.decisions.changing;
        let has_watched = changing.watched_at.is_some_and(|at| now < at + LOOK * 10);
        if !has_watched {
            changing.dead_since.clear();
        }
        changing.watched_at = Some(now);
        let dead = members.iter().filter(|it| it.state == MemberState::Dead);
        let dead: Vec<&NodeId> = dead.map(|member| &member.id).collect();
        changing.dead_since.retain(|id, _| dead.contains(&id));
        for id in dead {
            changing.dead_since.entry(id.clone()).or_insert(now);
        }
    }

    fn tell_waiting(&mut self, waits: Due, now: Instant) {
        let changing = &mut self.decisions.changing;
        let is_news = changing.waits_for.as_ref() != Some(&waits);
        if is_news || changing.told.is_none_or(|told| now >= told + LINE) {
            match &waits {
                Due::Fetching(ids) => {
                    tracing::info!(?ids, "the ring changes once these have got what they gain");
                }
                Due::Following(ids) => {
                    tracing::info!(?ids, "the change of the ring ends once these follow it");
                }
                Due::HandingOn(ids) => {
                    tracing::info!(
                        ?ids,
                        "the change of the ring ends once these have handed on what they have"
                    );
                }
                Due::Step(_) => {}
            }
            changing.told = Some(now);
        }
        changing.waits_for = Some(waits);
    }
}

fn progress_of(member: &MemberView) -> Progress {
    Progress {
        ring_version: member.ring_version,
        complete_since: member.complete_since,
        settled_at: member.settled_at,
        hints: member.hints_counted,
    }
}
