//! Coordinating one put or delete.
//!
//! ```text
//!            enough owners in reach?                                 something beside it? once more
//! start ───▶ Connecting ──────────────▶ Minting ──▶ Replicating ──▶ Minting ──▶ Replicating ──▶ Tail ──▶ over
//!     (only when in doubt: pings)    (one step,    (own fsync and   (seldom: over what the      (answered;
//!                                     in memory)    the others',     owners had as well)         who is
//!                                                   side by side)                                left?)
//! ```
//!
//! Nothing is written while it is in doubt whether W owners can be reached, so "quorum unavailable"
//! before minting means that nothing happened. After minting the outcome is unknown until W owners
//! have it on disk.
//!
//! A *blind* write, one without a context, replaces what is there, and this node may have missed some of
//! it. So the owners say with their answers what they have beside the write. It is acknowledged only when
//! N − W + 1 of them have said so ([`votes_needed`]); if one has something, the same write is minted once
//! more, over that as well, and the second dot is what must reach W owners. It gets a new dot because two
//! coordinators that enlarged the context of one dot would erase each other's write.
//!
//! A write *with* a context replaces what its client has read, and a node that lacks some of that may hold what it
//! replaced, or lack what others remember of it ([`Mark`](dynakv_protocol::causal::Mark)). So an owner first catches
//! up (`catching_up.rs`): it reads the other owners until it has seen all that the context names, and mints over
//! that. Nothing is written before.
//!
//! With a *sloppy* quorum the next healthy nodes of the ring stand in for owners that cannot be reached,
//! and count in their places: what they keep is a hint (DeCandia et al., 2007, § 4.6). When no owner at
//! all can be reached, this node may itself stand in for one; it then mints over the hint it has of the
//! key. A strict write never counts a stand-in.
//!
//! Owners that have not said that they have a write when it is answered are waited for a little longer;
//! who fails then, or was never asked, is owed the key from here: a reminder, which counts for nothing.

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::causal::{Clock, Versions};
use smallvec::SmallVec;

use super::beside::votes_needed;
use crate::engine::placement::preference::{NodeSlot, Preference, Reach, SELF};
use crate::engine::quorum::{Outcome, Place, Places, Quorum, Sides, bit};

mod asking;
mod catching_up;
mod exchange;
mod minting;
mod rebase;
mod refusal;
mod tail;
mod votes;

pub use self::exchange::{
    Acknowledged, Beside, Effect, Event, Promised, Replaced, Round, Said, Seen, Terms,
};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Connecting,
    Minting,
    /// The context names these writes, which this node has not seen.
    CatchingUp {
        lacks: Clock,
    },
    Replicating {
        versions: Bytes,
        context: Bytes,
    },
    /// It was sent under a ring that is replaced, and is to be counted under the one that follows.
    Rebasing {
        versions: Bytes,
        context: Bytes,
    },
    Tail,
    Over,
}

/// One put or delete.
#[derive(Debug)]
pub struct Put {
    owners: Preference,
    own: Place,
    is_stand_in: bool,
    phase: Phase,
    round: Round,
    /// Counts pings, then durable copies: each phase begins a new one.
    quorum: Quorum,
    /// How many owners are asked for, however many there are.
    w: u8,
    /// What the ring promises.
    promised: Promised,
    /// The dot of the first round and its context, while that of the second is minted.
    first: Option<Box<(Bytes, Bytes)>>,
    /// As what the owners were given the write before the ring changed, if it has.
    sent_before: Option<Bytes>,
    /// Whether the owners are asked what they have beside the write.
    asks_beside: bool,
    /// Counts those that have said so. It is met from the start where nobody is waited for.
    votes: Quorum,
    /// What they have.
    beside: Option<Box<Versions>>,
    /// Whether nothing is minted before this node has seen what the context names.
    catches_up: bool,
    /// So many owners must be heard, besides a write with a context that this node lacks something of; 0 where
    /// nothing is promised.
    hears_at_least: u8,
    /// What it has replaced so far.
    replaced: Replaced,
    usable: SmallVec<[NodeSlot; 4]>,
    /// Who may still be asked to stand in, the nearest last; `None` for a strict quorum.
    stand_ins: Option<SmallVec<[NodeSlot; 4]>>,
    /// Who stands in, and in whose place. Rarely anybody.
    acting: SmallVec<[(NodeSlot, Place); 2]>,
    /// Bit i: the i-th owner itself has said that it has it.
    owners_granted: Places,
    /// Bit i: the i-th owner itself was given the result and has said nothing yet.
    owners_awaited: Places,
    /// Whether a stand-in has it durably: that one owes it to all owners.
    stand_in_granted: bool,
}

impl Put {
    /// Begins a write that this node coordinates.
    pub fn start(
        owners: Preference,
        terms: Terms,
        reach: impl Fn(NodeSlot) -> Reach,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let sides = owners.sides();
        let own = terms.own;
        let usable = owners
            .others(own, 0)
            .map(|(_, node)| node)
            .filter(|&node| reach(node) == Reach::Usable)
            .collect();
        let stand_ins = terms.stand_ins.map(|mut stand_ins| {
            stand_ins.reverse();
            stand_ins
        });
        // Who stands in mints over hints, and a sloppy quorum promises nothing to later writes.
        let asks_beside = terms.is_blind && !terms.is_stand_in;
        let promised = terms.promised;
        let hears_at_least = hears_at_least(promised, sides, terms.w);
        let votes = match asks_beside && stand_ins.is_none() {
            true => hears_at_least,
            false => 0,
        };
        let is_strict = !terms.is_stand_in && stand_ins.is_none();
        let catches_up = is_strict && !terms.is_blind;
        // Who has lost versions has no vote.
        let in_reach = match votes > 0 && terms.is_rebuilding {
            true => votes + 1,
            false => votes,
        };
        let mut put = Self {
            own,
            is_stand_in: terms.is_stand_in,
            w: terms.w,
            promised,
            first: None,
            sent_before: None,
            phase: Phase::Connecting,
            round: Round::First,
            quorum: Quorum::of_writers(terms.w, sides).with_readers(in_reach),
            asks_beside,
            votes: Quorum::of_readers(votes, sides),
            beside: None,
            catches_up,
            hears_at_least,
            replaced: Replaced::new(),
            usable,
            owners,
            stand_ins,
            acting: SmallVec::new(),
            owners_granted: 0,
            owners_awaited: 0,
            stand_in_granted: false,
        };
        put.connect(effects);
        put
    }

    /// Whether this write has put anything into a store.
    pub fn maybe_applied(&self) -> bool {
        matches!(
            self.phase,
            Phase::Minting | Phase::Replicating { .. } | Phase::Rebasing { .. } | Phase::Tail
        )
    }

    /// Whether the client has its answer.
    pub fn is_answered(&self) -> bool {
        matches!(self.phase, Phase::Tail | Phase::Over)
    }

    /// Whether it does without owners that are silent.
    pub fn passes_by(&self) -> bool {
        self.is_sloppy() && !self.is_answered()
    }

    /// Whether this node is no owner and mints over the hint it has.
    pub fn is_stand_in(&self) -> bool {
        self.is_stand_in
    }

    /// Whether it is minted only once this node has seen what its context names.
    pub fn catches_up(&self) -> bool {
        self.catches_up
    }

    /// The owners of the key.
    pub fn owners(&self) -> &Preference {
        &self.owners
    }

    /// How many owners must have it: while the ring changes, on the side that has more of them.
    pub fn w(&self) -> u8 {
        self.owners.sides().most_needed(self.w)
    }

    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Deadline => self.on_deadline(effects),
            Event::Refused { round, error } => self.on_refused(round, error, effects),
            Event::Reached(node) => self.on_reached(node, effects),
            Event::Read(node, versions) => self.on_read(node, versions.as_deref(), effects),
            Event::Behind { lacks, rebuilding } => self.on_behind(lacks, rebuilding, effects),
            Event::Minted {
                round,
                versions,
                context,
                rebuilding,
                replaced,
            } if round == self.round => {
                if self.phase == Phase::Minting {
                    self.replaced = replaced;
                }
                if rebuilding {
                    self.votes.fail(self.own);
                } else {
                    self.votes.grant(self.own);
                }
                self.on_minted(versions, context, effects);
            }
            Event::Durable(round) if round == self.round => self.on_durable(SELF, effects),
            Event::Merged { from, round, said } if round == self.round => {
                self.on_merged(from, said, effects);
            }
            Event::Declined { from, round } if round == self.round => {
                self.on_failed(from, effects);
            }
            // It is about a dot that another one has replaced.
            Event::Minted { .. }
            | Event::Durable(_)
            | Event::Merged { .. }
            | Event::Declined { .. } => {}
            Event::Failed(node) => self.on_failed(node, effects),
            Event::Slow => self.on_slow(effects),
            Event::Stale { round, version } if round == self.round => {
                self.on_stale(version, effects);
            }
            Event::Stale { .. } => {}
        }
    }

    fn is_sloppy(&self) -> bool {
        self.stand_ins.is_some()
    }

    /// The place that a node fills, its own or another's.
    fn place_of(&self, node: NodeSlot) -> Option<Place> {
        if node == SELF {
            return Some(self.own);
        }
        self.owners.place_of(node).or_else(|| {
            let acting = self.acting.iter().find(|(it, _)| *it == node);
            acting.map(|&(_, place)| place)
        })
    }

    fn connect(&mut self, effects: &mut Vec<Effect>) {
        self.quorum.grant(self.own);
        for node in self.usable.clone() {
            self.grant(node);
        }
        for place in 0..self.owners.len() {
            if self.quorum.outcome() != Outcome::Met && !self.quorum.has_granted(place) {
                self.engage(place, effects);
            }
        }
        if self.quorum.outcome() != Outcome::Pending {
            self.check(effects);
            return;
        }
        for (place, node) in self.owners.others(self.own, 0) {
            if !self.quorum.has_granted(place) {
                self.quorum.ask(place);
                effects.push(Effect::Ping(node));
            }
        }
        self.check(effects);
    }

    fn on_reached(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Connecting {
            if !self.usable.contains(&node) {
                self.usable.push(node);
            }
            self.grant(node);
            self.check(effects);
        }
    }

    fn on_durable(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Replicating { .. } | Phase::Tail) {
            self.grant(node);
            self.check(effects);
        }
    }

    fn on_refused(&mut self, round: Round, error: ErrorReply, effects: &mut Vec<Effect>) {
        match (&self.phase, self.round) {
            // The dot is minted and the others have it: this is one copy less, no more.
            (Phase::Replicating { .. } | Phase::Tail, current) if round == current => {
                self.on_failed(SELF, effects);
            }
            (Phase::Rebasing { .. }, _) => self.fail(error.maybe_applied(true), effects),
            (_, Round::First) => self.fail(error, effects),
            (Phase::Minting, Round::Second) if round == Round::Second => {
                self.fail(error.maybe_applied(true), effects);
            }
            // The first dot need not become durable here.
            (_, Round::Second) => {}
        }
    }

    fn on_failed(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        self.usable.retain(|usable| *usable != node);
        let Some(place) = self.place_of(node) else {
            return;
        };
        let is_owner = self.owners.place_of(node).is_some();
        // This node fills the place of an owner that it did not ask.
        if self.is_stand_in && is_owner && place == self.own {
            return;
        }
        if is_owner {
            self.owners_awaited &= !bit(place);
        }
        self.acting.retain(|(acting, _)| *acting != node);
        // Whoever else fills the place may still answer.
        let is_filled = self.acting.iter().any(|&(_, filled)| filled == place);
        match self.phase {
            Phase::Tail if is_filled || self.owners_awaited & bit(place) != 0 => {}
            Phase::Tail => {
                if self.quorum.awaits(place) {
                    self.remind(place, effects);
                }
                self.quorum.fail(place);
            }
            _ if is_filled => {}
            _ => {
                self.quorum.fail(place);
                self.votes.fail(place);
                self.fill(effects);
                self.widen(effects);
            }
        }
        self.check(effects);
    }

    fn grant(&mut self, node: NodeSlot) {
        if let Some(place) = self.place_of(node) {
            let is_owner = match node {
                SELF => !self.is_stand_in,
                node => self.owners.place_of(node).is_some(),
            };
            match (is_owner, &self.phase) {
                (true, Phase::Replicating { .. }) if !self.quorum.has_granted(place) => {
                    self.owners_granted |= bit(place);
                }
                (false, Phase::Replicating { .. } | Phase::Tail) => self.stand_in_granted = true,
                _ => {}
            }
            self.quorum.grant(place);
        }
    }

    fn check(&mut self, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::CatchingUp { .. }) {
            return self.check_caught_up(effects);
        }
        let outcome = self.outcome();
        let sees_enough = self.votes.outcome() == Outcome::Met;
        match &mut self.phase {
            Phase::Tail if self.quorum.outstanding() == 0 => self.phase = Phase::Over,
            Phase::Tail
            | Phase::Over
            | Phase::Minting
            | Phase::Rebasing { .. }
            | Phase::CatchingUp { .. } => {}
            // What it replaces is known: copies of the first dot need not be waited for.
            Phase::Replicating { .. } if self.beside.is_some() && sees_enough => {
                self.mint(effects);
            }
            Phase::Connecting if outcome == Outcome::Met => self.mint(effects),
            Phase::Replicating { context, .. } if outcome == Outcome::Met => {
                let acknowledged = Acknowledged {
                    context: std::mem::take(context),
                    effective_w: self.owners.sides().most_needed(self.w),
                    is_sloppy: !self.quorum.is_met_by(self.owners_granted),
                    replaced: self.replaced.len(),
                };
                effects.push(Effect::Answer(Ok(acknowledged)));
                self.begin_tail(effects);
            }
            // The own store answers soon, and the error should count it.
            Phase::Replicating { .. } if self.quorum.awaits(self.own) => {}
            Phase::Connecting | Phase::Replicating { .. } if outcome == Outcome::Impossible => {
                self.fail(self.unavailable(), effects);
            }
            Phase::Connecting | Phase::Replicating { .. } => {}
        }
    }

    /// Begins to count copies anew.
    fn count_copies(&mut self) {
        self.quorum = Quorum::of_writers(self.w, self.owners.sides());
        (self.owners_granted, self.owners_awaited) = (0, 0);
        self.stand_in_granted = false;
    }

    fn fail(&mut self, error: ErrorReply, effects: &mut Vec<Effect>) {
        if !self.is_answered() {
            self.phase = Phase::Over;
            effects.push(Effect::Answer(Err(error)));
        }
    }
}

/// How many of the owners that are read must be heard, so that one has each write that was acknowledged before.
fn hears_at_least(promised: Promised, sides: Sides, w: u8) -> u8 {
    let n = sides.readers;
    votes_needed(n, (promised.w, promised.r), w.min(n))
}

#[cfg(test)]
mod tests;
