//! What the owners have beside a blind write.

use bytes::Bytes;
use dynakv_protocol::causal::{Dot, Versions};
use dynakv_protocol::codec::Wire;

use smallvec::SmallVec;

use super::{Effect, NodeSlot, Outcome, Phase, Place, Put, Said};
use crate::engine::write::beside::stands_beside;

impl Put {
    /// An owner, or a stand-in, has a durable copy and says what it had.
    pub(super) fn on_merged(&mut self, from: NodeSlot, said: Said, effects: &mut Vec<Effect>) {
        if let (true, Some(place)) = (self.asks_beside, self.owners.place_of(from)) {
            match said {
                Said::Beside(beside) => self.vote(place, beside),
                Said::Rebuilding => {
                    self.votes.fail(place);
                    self.widen(effects);
                }
                Said::Nothing if self.votes.outcome() == Outcome::Pending => {
                    effects.push(Effect::Read(from));
                }
                Said::Nothing => {}
            }
        }
        self.on_durable(from, effects);
    }

    /// An owner has been read: before anything was written, or because it cannot say what it has beside the write.
    pub(super) fn on_read(
        &mut self,
        from: NodeSlot,
        versions: Option<&Versions>,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(self.phase, Phase::CatchingUp { .. }) {
            return self.on_read_before(from, versions, effects);
        }
        let Phase::Replicating { versions: sent, .. } = &self.phase else {
            return;
        };
        let Some(place) = self.owners.place_of(from).filter(|_| self.asks_beside) else {
            return;
        };
        match (versions, Versions::from_bytes(sent)) {
            (Some(versions), Ok(sent)) => {
                let beside = stands_beside(&sent, versions).then(|| Box::new(versions.clone()));
                self.vote(place, beside);
            }
            (None, _) | (_, Err(_)) => {
                self.votes.fail(place);
                self.widen(effects);
            }
        }
        self.check(effects);
    }

    /// Under which dots the owners were given the write.
    pub(super) fn dots_sent(&self) -> SmallVec<[Dot; 1]> {
        match &self.phase {
            Phase::Replicating { versions, .. } | Phase::Rebasing { versions, .. } => {
                // What was sent after a change of the ring may have others beside it.
                dots_of(self.sent_before.as_ref().unwrap_or(versions))
            }
            _ => SmallVec::new(),
        }
    }

    fn vote(&mut self, place: Place, beside: Option<Box<Versions>>) {
        self.votes.grant(place);
        match (&mut self.beside, beside) {
            (Some(known), Some(beside)) => known.merge(&beside),
            (known @ None, beside) => *known = beside,
            (Some(_), None) => {}
        }
    }

    /// How copies and votes stand together.
    pub(super) fn outcome(&self) -> Outcome {
        match (&self.phase, self.quorum.outcome(), self.votes.outcome()) {
            (Phase::Replicating { .. }, Outcome::Met, Outcome::Met) => Outcome::Met,
            (Phase::Replicating { .. }, _, Outcome::Impossible) => Outcome::Impossible,
            (Phase::Replicating { .. }, Outcome::Met, Outcome::Pending) => Outcome::Pending,
            (_, copies, _) => copies,
        }
    }
}

fn dots_of(versions: &Bytes) -> SmallVec<[Dot; 1]> {
    let versions = Versions::from_bytes(versions).unwrap_or_default();
    versions.written().map(|sibling| sibling.dot).collect()
}
