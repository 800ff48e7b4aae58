//! Coordinating one read.
//!
//! R owners are read, this node first when it is one; a spare is asked as soon as one fails or is slow.
//! Large versions travel only where they differ: an owner may answer with their digest, which counts as
//! the versions of the same bytes that are here already, and is asked again in full when there are none.
//! What they have is merged; owners that lack some of it are mended, after the answer by default. What
//! happens after the answer is decided here too and comes as effects like the rest.

use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::peer::Digest;
use dynakv_protocol::{DecodeError, ErrorCode, ErrorReply};
use smallvec::SmallVec;

use super::pace::Pace;
use crate::engine::limits;
use crate::engine::placement::preference::{NodeSlot, Preference, Reach};
use crate::engine::quorum::{Outcome, Place, Places, Quorum, bit};

/// What the coordinator is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read this owner's versions; the digest of large ones will do.
    Read(NodeSlot),
    /// Read this owner's versions in full, however large they are.
    ReadFull(NodeSlot),
    /// The same, because its digest was of nothing that is here.
    ReadAgain(NodeSlot),
    /// Read the own versions.
    ReadLocal,
    /// Have this owner merge the result: it lacks some of it.
    Repair {
        /// Who; this node itself is one of them.
        to: NodeSlot,
        /// The encoded versions.
        versions: Bytes,
    },
    /// The client's answer.
    Answer(Result<Found, ErrorReply>),
}

/// What a quorum of owners has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Merged; empty when no owner has the key.
    pub versions: Box<Versions>,
    /// How many owners were needed.
    pub effective_r: u8,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An owner's encoded versions, empty for none.
    Read {
        /// The owner that answers.
        from: NodeSlot,
        /// What it has.
        versions: Bytes,
        /// It has lost data of this segment: what it has counts, its vote does not.
        rebuilding: bool,
    },
    /// What stands for an owner's encoded versions.
    Digest {
        /// The owner that answers.
        from: NodeSlot,
        /// Of what it has.
        digest: Digest,
        /// As in [`Event::Read`].
        rebuilding: bool,
    },
    /// An owner could not be reached, or refused.
    Failed(NodeSlot),
    /// An owner has been mended (only waited for when repairing before the answer).
    Repaired(NodeSlot),
    /// It takes longer than it should: ask one owner more.
    Slow,
    /// Time is up.
    Deadline,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Reading,
    /// With whoever has not said yet that it is mended.
    Repairing {
        found: Found,
        waiting: SmallVec<[NodeSlot; 4]>,
    },
    Answered,
}

/// How a read is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How many owners are needed; capped at how many there are.
    pub r: u8,
    /// Mend stale owners before the answer.
    pub repair_first: bool,
    /// No digests: there is nothing here to hold them against.
    pub in_full: bool,
    /// Changes from read to read, so that the owners share the load.
    pub turn: usize,
}

/// What hedging has done for a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hedge {
    /// Nobody was asked for slowness.
    None,
    /// Somebody was, and those asked before were faster all the same.
    Lost,
    /// Somebody was, and has answered in place of one that still owes its answer.
    Won,
}

/// One read.
#[derive(Debug)]
pub struct Get {
    owners: Preference,
    own: Place,
    quorum: Quorum,
    plan: Plan,
    phase: Phase,
    merged: Box<Versions>,
    /// What each owner answered, for comparing. Equal answers share the work of merging.
    replies: SmallVec<[(NodeSlot, Bytes); 3]>,
    /// Digests that wait for the own copy.
    digests: Vec<(NodeSlot, Digest, bool)>,
    /// Bit i: the owner at place i was asked in full, after a digest or from the start.
    in_full: Places,
    /// Bit i: the owner at place i was asked because others were slow.
    hedged: Places,
    /// Why an owner's copy cannot be read, where that is because it is beyond a limit.
    locked: Option<DecodeError>,
    /// Whom to ask next, the best last.
    spares: SmallVec<[(Place, NodeSlot); 4]>,
}

impl Get {
    /// Begins a read that this node coordinates at place `own`, at this time since the process started.
    pub fn start(
        owners: Preference,
        own: Place,
        plan: Plan,
        reach: impl Fn(NodeSlot) -> Reach,
        (pace, now): (&mut Pace, Duration),
        effects: &mut Vec<Effect>,
    ) -> Self {
        // Who is only written has nothing to say yet, or not for long.
        let owners = owners.into_readers();
        let mut spares: SmallVec<[_; 4]> = owners.others(own, plan.turn).collect();
        let is_doubtful = |&(_, node): &(Place, NodeSlot)| reach(node) == Reach::Doubtful;
        let usable = spares.iter().filter(|it| !is_doubtful(it)).count();
        if usable < spares.len() {
            // Stable: within each group the turn decides.
            spares.sort_by_key(is_doubtful);
        }
        let quorum = Quorum::of_readers(plan.r, owners.sides());
        // This node is one of those needed.
        let needed = usize::from(quorum.needed().saturating_sub(1));
        let is_trial = pace.order(&mut spares[..usable], needed, now);
        // Popped from the end.
        spares.reverse();
        let mut get = Self {
            quorum,
            owners,
            own,
            plan,
            phase: Phase::Reading,
            merged: Box::default(),
            replies: SmallVec::new(),
            digests: Vec::new(),
            in_full: 0,
            hedged: 0,
            locked: None,
            spares,
        };
        get.quorum.ask(own);
        effects.push(Effect::ReadLocal);
        get.ask_lacking(effects);
        if is_trial {
            get.ask_spare(effects);
        }
        get
    }

    /// Whom [`Event::Slow`] would ask. None when it is too late, or when all were asked.
    pub fn next_spare(&self) -> Option<NodeSlot> {
        let next = self.spares.last().map(|&(_, node)| node);
        next.filter(|_| self.phase == Phase::Reading)
    }

    /// Whether this owner has told what it has.
    pub fn has_answered(&self, node: NodeSlot) -> bool {
        self.replies.iter().any(|(from, _)| *from == node)
    }

    /// What hedging has done for it, once it is answered.
    pub fn hedge(&self) -> Hedge {
        let won = |&(node, _): &(NodeSlot, Bytes)| {
            let place = self.owners.place_of(node);
            place.is_some_and(|place| self.hedged & bit(place) != 0)
        };
        match self.hedged {
            0 => Hedge::None,
            _ if self.quorum.outstanding() > 0 && self.replies.iter().any(won) => Hedge::Won,
            _ => Hedge::Lost,
        }
    }

    /// Whether the client has its answer.
    pub fn is_answered(&self) -> bool {
        self.phase == Phase::Answered
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Read {
                from,
                versions,
                rebuilding,
            } => self.on_read(from, versions, rebuilding, effects),
            Event::Digest {
                from,
                digest,
                rebuilding,
            } => self.on_digest(from, digest, rebuilding, effects),
            Event::Failed(node) => self.on_failed(node, effects),
            Event::Repaired(node) => self.on_repaired(node, effects),
            Event::Slow => self.on_slow(effects),
            Event::Deadline => self.on_deadline(effects),
        }
    }

    fn on_read(
        &mut self,
        from: NodeSlot,
        versions: Bytes,
        rebuilding: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.awaited(from) else {
            return;
        };
        let known =
            versions.is_empty() || self.replies.iter().any(|(_, seen)| same(seen, &versions));
        if !known {
            match Versions::from_bytes(&versions) {
                Ok(theirs) if self.merged.is_empty() => *self.merged = theirs,
                Ok(theirs) => self.merged.merge(&theirs),
                // Bytes that are no versions are worth as much as no answer.
                Err(error) => {
                    if limits::is_beyond(&error) {
                        self.locked = Some(error);
                    }
                    return self.on_failed(from, effects);
                }
            }
        }
        self.replies.push((from, versions));
        if rebuilding {
            self.quorum.fail(place);
        } else {
            self.quorum.grant(place);
        }
        self.check_digests(effects);
        self.check(effects);
    }

    /// The place of an owner whose answer still matters.
    fn awaited(&self, from: NodeSlot) -> Option<Place> {
        let place = self.owners.place_of(from)?;
        (self.phase == Phase::Reading && !self.has_answered(from)).then_some(place)
    }

    /// A digest counts as the versions of the same bytes, from whomever they came.
    fn on_digest(
        &mut self,
        from: NodeSlot,
        digest: Digest,
        rebuilding: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.awaited(from) else {
            return;
        };
        if self.in_full & bit(place) != 0 {
            // It was asked for the versions themselves and does not give them.
            return self.on_failed(from, effects);
        }
        let seen = self.replies.iter().find(|(_, seen)| digest.is_of(seen));
        if let Some((_, versions)) = seen {
            let versions = versions.clone();
            return self.on_read(from, versions, rebuilding, effects);
        }
        if self.quorum.awaits(self.own) {
            self.digests.push((from, digest, rebuilding));
            return;
        }
        if self.quorum.awaits(place) {
            self.in_full |= bit(place);
            effects.push(Effect::ReadAgain(from));
        }
    }

    /// The own copy has come, or will not come: what becomes of the digests that waited for it.
    fn check_digests(&mut self, effects: &mut Vec<Effect>) {
        if !self.quorum.awaits(self.own) {
            for (from, digest, rebuilding) in std::mem::take(&mut self.digests) {
                self.on_digest(from, digest, rebuilding, effects);
            }
        }
    }

    fn on_slow(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Reading {
            return;
        }
        if let Some(place) = self.ask_spare(effects) {
            self.hedged |= bit(place);
        }
    }

    fn on_failed(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Repairing { .. }) {
            // What could not be mended now will be by another read or by anti-entropy.
            return self.on_repaired(node, effects);
        }
        if let Some(place) = self.owners.place_of(node) {
            self.quorum.fail(place);
        }
        self.check_digests(effects);
        self.check(effects);
    }

    fn check(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Reading {
            return;
        }
        match self.quorum.outcome() {
            Outcome::Met => self.conclude(effects),
            Outcome::Pending => self.ask_lacking(effects),
            // The own store answers soon, and the error should count it.
            Outcome::Impossible if self.quorum.awaits(self.own) => {}
            Outcome::Impossible => self.fail(effects),
        }
    }

    fn ask_lacking(&mut self, effects: &mut Vec<Effect>) {
        while self.quorum.lacking() > 0 && self.ask_spare(effects).is_some() {}
    }

    fn ask_spare(&mut self, effects: &mut Vec<Effect>) -> Option<Place> {
        let (place, node) = self.spares.pop()?;
        self.quorum.ask(place);
        if self.plan.in_full {
            self.in_full |= bit(place);
            effects.push(Effect::ReadFull(node));
        } else {
            effects.push(Effect::Read(node));
        }
        Some(place)
    }

    fn conclude(&mut self, effects: &mut Vec<Effect>) {
        // What was merged here never passed a decoder.
        if let Err(exceeded) = limits::readable(&self.merged, 0) {
            self.phase = Phase::Answered;
            let refusal = limits::locked(&[], &exceeded.to_string());
            return effects.push(Effect::Answer(Err(refusal)));
        }
        let found = Found {
            versions: std::mem::take(&mut self.merged),
            effective_r: self.quorum.needed(),
        };
        let repairs = self.repairs(&found.versions);
        let repair = |(to, versions)| Effect::Repair { to, versions };
        if self.plan.repair_first && !repairs.is_empty() {
            let waiting = repairs.iter().map(|(to, _)| *to).collect();
            effects.extend(repairs.into_iter().map(repair));
            self.phase = Phase::Repairing { found, waiting };
            return;
        }
        self.phase = Phase::Answered;
        effects.push(Effect::Answer(Ok(found)));
        effects.extend(repairs.into_iter().map(repair));
    }

    /// Who lacks some of the merged state. When all answers were equal, nobody does, and nothing is
    /// encoded to find out.
    fn repairs(&self, merged: &Versions) -> SmallVec<[(NodeSlot, Bytes); 2]> {
        let all_equal = self
            .replies
            .windows(2)
            .all(|pair| same(&pair[0].1, &pair[1].1));
        if all_equal {
            return SmallVec::new();
        }
        let versions = merged.to_bytes();
        if limits::readable(merged, versions.len()).is_err() {
            // Nobody would take it.
            return SmallVec::new();
        }
        self.replies
            .iter()
            .filter(|(_, theirs)| *theirs != versions)
            .map(|&(to, _)| (to, versions.clone()))
            .collect()
    }

    fn on_repaired(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        if let Phase::Repairing { found, waiting } = &mut self.phase {
            waiting.retain(|waiting| *waiting != node);
            if waiting.is_empty() {
                let found = found.clone();
                self.phase = Phase::Answered;
                effects.push(Effect::Answer(Ok(found)));
            }
        }
    }

    fn on_deadline(&mut self, effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.phase, Phase::Answered) {
            Phase::Answered => {}
            // The read itself has met its quorum; the mending goes on without its reader.
            Phase::Repairing { found, .. } => effects.push(Effect::Answer(Ok(found))),
            Phase::Reading => {
                let (needed, got) = (self.quorum.needed(), self.quorum.got());
                let message = format!(
                    "time is up: the read needs {needed} owners of the key, {got} answered in time. \
                     See `dynakv status`, or give it longer with --timeout"
                );
                let error = ErrorReply::new(ErrorCode::Timeout, message);
                let error = error.with_quorum(needed, got).retryable();
                effects.push(Effect::Answer(Err(error)));
            }
        }
    }

    fn fail(&mut self, effects: &mut Vec<Effect>) {
        let (needed, got) = (self.quorum.needed(), self.quorum.got());
        self.phase = Phase::Answered;
        if let Some(error) = &self.locked {
            let refusal = limits::locked(&[], &error.to_string());
            return effects.push(Effect::Answer(Err(refusal)));
        }
        let message = format!(
            "the read needs {needed} owners of the key, {got} answered. See `dynakv status`, or \
             read with a smaller -r"
        );
        let error = ErrorReply::new(ErrorCode::QuorumUnavailable, message);
        let error = error.with_quorum(needed, got).retryable();
        effects.push(Effect::Answer(Err(error)));
    }
}

/// Whether two owners have the same. What a digest stands for shares its bytes with what it was held
/// against, and is not compared again.
fn same(a: &Bytes, b: &Bytes) -> bool {
    a.len() == b.len() && (a.as_ptr() == b.as_ptr() || a == b)
}

#[cfg(test)]
mod tests;
