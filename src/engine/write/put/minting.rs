//! From what is known of a key to the dot of the write, and to the owners with it.

use bytes::Bytes;

use super::{Beside, Effect, NodeSlot, Phase, Put, Quorum, Round, Seen};
use crate::engine::quorum::bit;

impl Put {
    pub(super) fn mint(&mut self, effects: &mut Vec<Effect>) {
        let read = self.take_read();
        let beside = self.beside.take().map(|beside| {
            let replaced = self.replaced.clone();
            Seen::Beside(Beside {
                beside: *beside,
                first: self.dots_sent(),
                replaced,
            })
        });
        // Only what is blind asks for votes on what it is minted over.
        let mut votes = match self.catches_up {
            true => 0,
            false => self.votes.needed(),
        };
        if beside.is_some() {
            if let Phase::Replicating { versions, context } = &mut self.phase {
                let first = (std::mem::take(versions), std::mem::take(context));
                self.first = Some(Box::new(first));
            }
            self.round = Round::Second;
            // Who had something has said it.
            (self.asks_beside, votes) = (false, 0);
        }
        self.phase = Phase::Minting;
        self.votes = Quorum::of_readers(votes, self.owners.sides());
        self.count_copies();
        effects.push(Effect::Mint(read.or(beside).map(Box::new)));
    }

    pub(super) fn on_minted(&mut self, versions: Bytes, context: Bytes, effects: &mut Vec<Effect>) {
        let context = match &mut self.phase {
            Phase::Minting => {
                self.sent_before = None;
                context
            }
            // Its client is told of what it has replaced and seen, and not of what was written besides since.
            Phase::Rebasing { context, .. } => {
                let context = std::mem::take(context);
                self.note_come_beside(&versions);
                context
            }
            _ => return,
        };
        self.first = None;
        for &node in &self.usable {
            if let Some(place) = self.owners.place_of(node) {
                self.quorum.ask(place);
                self.votes.ask(place);
                self.owners_awaited |= bit(place);
            }
            effects.push(self.merge(node, &versions));
        }
        for &(to, place) in &self.acting {
            self.quorum.ask(place);
            effects.push(Effect::Hint {
                to,
                round: self.round,
                versions: versions.clone(),
            });
        }
        self.phase = Phase::Replicating { versions, context };
        self.quorum.ask(self.own);
        self.fill(effects);
        self.widen(effects);
        self.check(effects);
    }

    /// Has an owner merge the result.
    pub(super) fn merge(&self, to: NodeSlot, versions: &Bytes) -> Effect {
        Effect::Merge {
            to,
            round: self.round,
            versions: versions.clone(),
            tell_beside: self.asks_beside,
        }
    }
}
