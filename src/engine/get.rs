//! Coordinating one read.
//!
//! R owners are read in full, this node first when it is one; a spare is asked as soon as one fails
//! or is slow. What they have is merged; owners that lack some of it are mended, after the answer by
//! default. What happens after the answer is decided here too and comes as effects like the rest.

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{ErrorCode, ErrorReply};
use smallvec::SmallVec;

use super::preference::{NodeSlot, Preference, Reach};
use super::quorum::{Outcome, Place, Quorum};

/// What the coordinator is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read this owner's versions.
    Read(NodeSlot),
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
        /// Who.
        from: NodeSlot,
        /// What it has.
        versions: Bytes,
        /// It has lost data of this segment: what it has counts, its vote does not.
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
    Repairing { found: Found, waiting: u8 },
    Answered,
}

/// One read.
#[derive(Debug)]
pub struct Get {
    owners: Preference,
    own: Place,
    quorum: Quorum,
    repair_first: bool,
    phase: Phase,
    merged: Box<Versions>,
    /// What each owner answered, for comparing. Equal answers share the work of merging.
    replies: SmallVec<[(NodeSlot, Bytes); 3]>,
    /// Whom to ask next, the best last.
    spares: SmallVec<[(Place, NodeSlot); 4]>,
}

impl Get {
    /// Begins a read that this node coordinates at place `own`. `r` is capped at the number of owners;
    /// `turn` changes from read to read, so that the owners share the load.
    pub fn start(
        owners: Preference,
        own: Place,
        r: u8,
        repair_first: bool,
        turn: usize,
        reach: impl Fn(NodeSlot) -> Reach,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let mut spares: SmallVec<[_; 4]> = owners.others(own, turn).collect();
        // Stable: within each group the turn decides. Popped from the end.
        spares.sort_by_key(|&(_, node)| match reach(node) {
            Reach::Usable => 0,
            Reach::Doubtful => 1,
        });
        spares.reverse();
        let mut get = Self {
            quorum: Quorum::new(r.min(owners.len()), owners.len()),
            owners,
            own,
            repair_first,
            phase: Phase::Reading,
            merged: Box::default(),
            replies: SmallVec::new(),
            spares,
        };
        get.quorum.ask(own);
        effects.push(Effect::ReadLocal);
        get.ask_lacking(effects);
        get
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
            Event::Failed(node) => self.on_failed(node, effects),
            Event::Repaired(_) => self.on_repaired(effects),
            Event::Slow => {
                if self.phase == Phase::Reading {
                    self.ask_spare(effects);
                }
            }
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
        let Some(place) = self.owners.place_of(from) else {
            return;
        };
        if self.phase != Phase::Reading || self.replies.iter().any(|(node, _)| *node == from) {
            return;
        }
        let known = versions.is_empty() || self.replies.iter().any(|(_, seen)| *seen == versions);
        if !known {
            match Versions::from_bytes(&versions) {
                Ok(theirs) if self.merged.is_empty() => *self.merged = theirs,
                Ok(theirs) => self.merged.merge(&theirs),
                // Bytes that are no versions are worth as much as no answer.
                Err(_) => return self.on_failed(from, effects),
            }
        }
        self.replies.push((from, versions));
        if rebuilding {
            self.quorum.fail(place);
        } else {
            self.quorum.grant(place);
        }
        self.check(effects);
    }

    fn on_failed(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Repairing { .. }) {
            // What could not be mended now will be by another read or by anti-entropy.
            return self.on_repaired(effects);
        }
        if let Some(place) = self.owners.place_of(node) {
            self.quorum.fail(place);
        }
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
        while self.quorum.lacking() > 0 && self.ask_spare(effects) {}
    }

    fn ask_spare(&mut self, effects: &mut Vec<Effect>) -> bool {
        match self.spares.pop() {
            Some((place, node)) => {
                self.quorum.ask(place);
                effects.push(Effect::Read(node));
                true
            }
            None => false,
        }
    }

    fn conclude(&mut self, effects: &mut Vec<Effect>) {
        let found = Found {
            versions: std::mem::take(&mut self.merged),
            effective_r: self.quorum.needed(),
        };
        let repairs = self.repairs(&found.versions);
        if self.repair_first && !repairs.is_empty() {
            effects.extend(repairs.iter().cloned());
            self.phase = Phase::Repairing {
                found,
                waiting: repairs.len() as u8,
            };
            return;
        }
        self.phase = Phase::Answered;
        effects.push(Effect::Answer(Ok(found)));
        effects.extend(repairs);
    }

    /// Who lacks some of the merged state. When all answers were equal, nobody does, and nothing is
    /// encoded to find out.
    fn repairs(&self, merged: &Versions) -> SmallVec<[Effect; 2]> {
        let all_equal = self.replies.windows(2).all(|pair| pair[0].1 == pair[1].1);
        if all_equal {
            return SmallVec::new();
        }
        let versions = merged.to_bytes();
        self.replies
            .iter()
            .filter(|(_, theirs)| *theirs != versions)
            .map(|&(to, _)| Effect::Repair {
                to,
                versions: versions.clone(),
            })
            .collect()
    }

    fn on_repaired(&mut self, effects: &mut Vec<Effect>) {
        if let Phase::Repairing { found, waiting } = &mut self.phase {
            *waiting -= 1;
            if *waiting == 0 {
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
        let message = format!(
            "the read needs {needed} owners of the key, {got} answered. See `dynakv status`, or \
             read with a smaller -r"
        );
        let error = ErrorReply::new(ErrorCode::QuorumUnavailable, message);
        let error = error.with_quorum(needed, got).retryable();
        effects.push(Effect::Answer(Err(error)));
    }
}

#[cfg(test)]
mod tests;
