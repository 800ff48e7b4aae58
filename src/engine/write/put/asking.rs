//! Whom a write asks: the owners in reach, then those in doubt, and others in their places where it may.

use smallvec::SmallVec;

use super::{Effect, Phase, Put};
use crate::engine::quorum::{Outcome, Place, bit};

impl Put {
    /// Lets the next node stand in for the owner at this place, if the quorum is sloppy and there is one.
    pub(super) fn engage(&mut self, place: Place, effects: &mut Vec<Effect>) {
        let Some(stand_in) = self.stand_ins.as_mut().and_then(SmallVec::pop) else {
            return;
        };
        self.acting.push((stand_in, place));
        match &self.phase {
            // Those that may stand in are in reach.
            Phase::Connecting => self.quorum.grant(place),
            Phase::Replicating { versions, .. } => {
                self.quorum.reopen(place);
                effects.push(Effect::Hint {
                    to: stand_in,
                    round: self.round,
                    versions: versions.clone(),
                });
            }
            Phase::Minting
            | Phase::Rebasing { .. }
            | Phase::CatchingUp { .. }
            | Phase::Tail
            | Phase::Over => {}
        }
    }

    /// Lets others stand in for owners that failed, or are not asked, until those asked can make the
    /// quorum.
    pub(super) fn fill(&mut self, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Replicating { .. }) {
            return;
        }
        for place in 0..self.owners.len() {
            if self.quorum.outcome() == Outcome::Met || self.quorum.lacking() == 0 {
                return;
            }
            if !self.quorum.has_granted(place) && !self.quorum.awaits(place) {
                self.engage(place, effects);
            }
        }
    }

    /// Silent owners are passed by where somebody may stand in for them, and so are silent stand-ins.
    pub(super) fn on_slow(&mut self, effects: &mut Vec<Effect>) {
        if !self.is_sloppy() {
            return;
        }
        if matches!(self.phase, Phase::Replicating { .. }) {
            for (place, _) in self.owners.clone().others(self.own, 0) {
                if self.quorum.awaits(place) {
                    self.engage(place, effects);
                }
            }
        }
    }

    /// Asks the doubtful owners too, once those in reach can no longer make the quorum.
    pub(super) fn widen(&mut self, effects: &mut Vec<Effect>) {
        let is_lacking = self.quorum.lacking() > 0 || self.votes.lacking() > 0;
        let Phase::Replicating { versions, .. } = &self.phase else {
            // Connecting has asked everyone; minting asks nobody yet.
            return;
        };
        if self.outcome() != Outcome::Pending || !is_lacking {
            return;
        }
        for (place, node) in self.owners.others(self.own, 0) {
            if self.quorum.is_untouched(place) {
                self.owners_awaited |= bit(place);
                effects.push(self.merge(node, versions));
                self.quorum.ask(place);
                self.votes.ask(place);
            }
        }
    }
}
