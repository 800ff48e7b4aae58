//! What follows the answer of a write: who lacks it is owed the key.

use super::{Effect, Phase, Put};
use crate::engine::placement::preference::SELF;
use crate::engine::quorum::Place;

impl Put {
    /// The client has its answer. Owners that were not asked, or have failed, are owed the key; those
    /// that may still answer are waited for.
    pub(super) fn begin_tail(&mut self, effects: &mut Vec<Effect>) {
        self.phase = Phase::Tail;
        for place in 0..self.owners.len() {
            if !self.quorum.has_granted(place) && !self.quorum.awaits(place) {
                self.remind(place, effects);
            }
        }
        if self.quorum.outstanding() == 0 {
            self.phase = Phase::Over;
        }
    }

    /// The owner at this place may lack the write. Whoever stands in has been told all owners.
    pub(super) fn remind(&self, place: Place, effects: &mut Vec<Effect>) {
        let owner = self.owners.at(place).filter(|&owner| owner != SELF);
        if let Some(owner) = owner
            && !self.stand_in_granted
            && !self.is_stand_in
        {
            effects.push(Effect::Remind(owner));
        }
    }

    pub(super) fn on_deadline(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Tail {
            for place in 0..self.owners.len() {
                if self.quorum.awaits(place) {
                    self.remind(place, effects);
                }
            }
            self.phase = Phase::Over;
        } else {
            self.fail(self.timeout(), effects);
        }
    }
}
