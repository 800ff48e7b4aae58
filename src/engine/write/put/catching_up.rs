//! A write with a context through an owner that lacks what the context names.
//!
//! Its client has read that elsewhere. Minted all the same, the write would take over the context's clock
//! without the marks that stand beside what it covers, and so drop them wherever it is merged: a second copy of
//! a write that was replaced long ago would be back. And a context that names what was never written would
//! cover what others write later. So the other owners are read first. Among N − W + 1 of them is one that has each
//! write that was acknowledged; what none of these has was never acknowledged, or is made up.

use dynakv_protocol::causal::{Clock, Versions};

use super::{Effect, NodeSlot, Outcome, Phase, Put, Quorum, Seen};

impl Put {
    /// This node has not seen what the context names. Nothing is written.
    pub(super) fn on_behind(&mut self, lacks: Clock, rebuilding: bool, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Minting {
            return;
        }
        self.phase = Phase::CatchingUp { lacks };
        // Where nothing is promised it takes all of them to know that nobody has it.
        let sides = self.owners.sides();
        let heard = match self.hears_at_least {
            0 => sides.readers,
            some => some,
        };
        self.votes = Quorum::of_readers(heard, sides);
        self.quorum.grant(self.own);
        if rebuilding {
            self.votes.fail(self.own);
        } else {
            self.votes.grant(self.own);
        }
        for node in self.usable.clone() {
            self.read(node, effects);
        }
        self.check(effects);
    }

    fn read(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        let place = self.owners.place_of(node);
        if let Some(place) = place.filter(|&place| self.votes.is_untouched(place)) {
            self.votes.ask(place);
            effects.push(Effect::Read(node));
        }
    }

    /// An owner's versions, before anything is written.
    pub(super) fn on_read_before(
        &mut self,
        from: NodeSlot,
        versions: Option<&Versions>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.owners.place_of(from) else {
            return;
        };
        match versions {
            Some(versions) => {
                self.votes.grant(place);
                self.quorum.grant(place);
                self.beside.get_or_insert_default().merge(versions);
            }
            None => self.votes.fail(place),
        }
        self.check(effects);
    }

    /// What was read, for the mint that follows it.
    pub(super) fn take_read(&mut self) -> Option<Seen> {
        match self.phase {
            Phase::CatchingUp { .. } => {
                let read = self.beside.take().unwrap_or_default();
                Some(Seen::Read(*read))
            }
            _ => None,
        }
    }

    /// Mints once all that the context names was seen, or decides what becomes of the write when it was not.
    pub(super) fn check_caught_up(&mut self, effects: &mut Vec<Effect>) {
        let Phase::CatchingUp { lacks } = &self.phase else {
            return;
        };
        let read = self.beside.as_deref().map(Versions::clock);
        if read.is_some_and(|read| read.dominates(lacks)) {
            return self.mint(effects);
        }
        if self.quorum.outcome() == Outcome::Impossible {
            return self.fail(self.unavailable(), effects);
        }
        if self.hears_at_least > 0 && self.votes.lacking() > 0 {
            for (_, node) in self.owners.clone().others(self.own, 0) {
                self.read(node, effects);
            }
        }
        if self.votes.outstanding() > 0 {
            return;
        }
        match (self.votes.outcome(), self.hears_at_least) {
            (Outcome::Met, _) => self.fail(self.made_up(), effects),
            // Nobody is waited for where nothing is promised.
            (_, 0) => self.mint(effects),
            (_, _) => self.fail(self.unavailable(), effects),
        }
    }
}
