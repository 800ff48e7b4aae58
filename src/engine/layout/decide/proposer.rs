//! One attempt to decide the next ring.

use std::collections::BTreeSet;

use dynakv_protocol::gossip::{Accept, Ballot, Prepare, Vote};
use dynakv_protocol::ids::{NodeId, RingVersion};
use dynakv_protocol::ring_document::RingDocument;

use crate::engine::counters;
use crate::engine::layout::document::{InvalidStep, check_later, check_next};

/// Which of the two questions a vote answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// [`Prepare`]: promise to take nothing older.
    Prepare,
    /// [`Accept`]: take this document.
    Accept,
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask this member for its promise. It may be the node itself: its own acceptor answers, durably,
    /// like any other.
    SendPrepare {
        /// The member that is asked.
        to: NodeId,
        /// The question.
        prepare: Prepare,
    },
    /// Ask this member to accept; it may be the node itself.
    SendAccept {
        /// The member that is asked.
        to: NodeId,
        /// The proposal.
        accept: Accept,
    },
    /// This ring is decided: make it durable, adopt it, gossip it. It may be another's, or a later one:
    /// then the caller looks at its wish again and, if it still has it, tries for the version after.
    Decided(RingDocument),
    /// Outvoted by another proposer. Wait a little, a random time, so that two do not outvote each
    /// other for ever, and try again with this round. What was proposed may be decided all the same.
    Retry {
        /// Above every round that was seen.
        next_round: u64,
    },
    /// Too few members answered, or too many could not vote. Try again when more are alive. After phase
    /// 1 had succeeded, what was proposed may be decided all the same.
    NoMajority {
        /// How many votes a decision takes.
        needed: usize,
        /// How many were granted in the phase that failed.
        got: usize,
        /// The round to try again with.
        next_round: u64,
    },
}

#[derive(Debug)]
enum State {
    /// Before [`Proposer::start`].
    New,
    Preparing {
        /// The accepted document of the highest ballot among the promises so far.
        best: Option<(Ballot, RingDocument)>,
    },
    Accepting {
        document: RingDocument,
    },
    /// It has said how it ended, and says nothing more.
    Done,
}

/// One attempt to decide the ring after `current`.
///
/// It sends at most two rounds of questions and ends with exactly one of [`Effect::Decided`],
/// [`Effect::Retry`] and [`Effect::NoMajority`], or is dropped. A node runs one attempt at a time and
/// hands it only the answers to its own questions (the connection knows which answer belongs to which
/// question); an answer may come twice, late, or never.
#[derive(Debug)]
pub struct Proposer {
    slot: RingVersion,
    ballot: Ballot,
    current: RingDocument,
    wanted: RingDocument,
    state: State,
    /// Distinct voters that granted, in this phase.
    granted: BTreeSet<NodeId>,
    /// Distinct voters that refused, in this phase.
    refused: BTreeSet<NodeId>,
    /// The highest round of another's ballot that stood in the way.
    outvoted_by: Option<u64>,
}

impl Proposer {
    /// An attempt of `me` to decide `wanted` as the ring after `current`. Take the round from
    /// [`Acceptor::next_round`](super::Acceptor::next_round) at first, then from the effect that ended
    /// the attempt before.
    ///
    /// # Errors
    /// [`InvalidStep`] when `wanted` cannot follow `current`: no acceptor would take it.
    pub fn new(
        me: NodeId,
        current: RingDocument,
        wanted: RingDocument,
        round: u64,
    ) -> Result<Self, InvalidStep> {
        check_next(&current, &wanted)?;
        Ok(Self {
            slot: wanted.version,
            // Round 0 stands for "nothing promised" in a vote.
            ballot: Ballot {
                round: round.max(1),
                node: me,
            },
            current,
            wanted,
            state: State::New,
            granted: BTreeSet::new(),
            refused: BTreeSet::new(),
            outvoted_by: None,
        })
    }

    /// The ring version that this attempt is about.
    pub fn slot(&self) -> RingVersion {
        self.slot
    }

    /// Whether the attempt has ended.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Opens phase 1. A second call does nothing.
    pub fn start(&mut self, effects: &mut Vec<Effect>) {
        if !matches!(self.state, State::New) {
            return;
        }
        self.state = State::Preparing { best: None };
        let prepare = Prepare {
            slot: self.slot,
            ballot: self.ballot.clone(),
        };
        effects.extend(self.current.voters().map(|member| Effect::SendPrepare {
            to: member.id.clone(),
            prepare: prepare.clone(),
        }));
    }

    /// Counts the answer of `from` to the question of `phase`.
    ///
    /// Votes count once per voter of the ring; those of strangers, of another slot or of another
    /// ballot do not count.
    pub fn on_vote(&mut self, from: &NodeId, phase: Phase, vote: Vote, effects: &mut Vec<Effect>) {
        if !self.current.is_voter(from) || vote.slot != self.slot {
            return;
        }
        match self.state {
            State::New | State::Done => return,
            State::Preparing { .. } | State::Accepting { .. } => {}
        }
        if let Some(ring) = vote.decided {
            // Decided is decided, whichever question brought it to light.
            if ring.version >= self.slot && check_later(&self.current, &ring).is_ok() {
                self.finish(Effect::Decided(*ring), effects);
            }
            return;
        }
        // A voter that says it has promised what cannot be is no rival; it only gives no vote.
        let is_possible = counters::check_round(&vote.promised).is_ok();
        if !vote.granted && is_possible && vote.promised >= self.ballot {
            // Its own ballot, when a former life of this node has used it.
            let round = vote.promised.round;
            self.outvoted_by = Some(self.outvoted_by.map_or(round, |seen| seen.max(round)));
        }
        match (&mut self.state, phase) {
            (State::Preparing { best }, Phase::Prepare) => {
                if vote.granted && vote.promised == self.ballot {
                    if !may_follow(&self.current, &vote.accepted) {
                        // It may be chosen, but it can't be proposed: the promise is of no use.
                        self.refused.insert(from.clone());
                    } else if self.granted.insert(from.clone()) {
                        keep_higher(best, vote.accepted);
                    }
                } else if !vote.granted {
                    self.refused.insert(from.clone());
                }
            }
            (State::Accepting { .. }, Phase::Accept) => {
                if vote.granted && vote.promised == self.ballot {
                    self.granted.insert(from.clone());
                } else if !vote.granted {
                    self.refused.insert(from.clone());
                }
            }
            // A late answer to phase 1, or an answer to a question not asked yet.
            (State::Accepting { .. }, Phase::Prepare)
            | (State::Preparing { .. }, Phase::Accept) => {
                return;
            }
            (State::New | State::Done, Phase::Prepare | Phase::Accept) => return,
        }
        // A duplicate of the refusal can arrive after the grant: the grant was made, and stands.
        self.refused.retain(|id| !self.granted.contains(id));
        self.advance(effects);
    }

    /// No more answers are waited for; the caller's deadline for the present phase has passed.
    pub fn on_timeout(&mut self, effects: &mut Vec<Effect>) {
        match self.state {
            State::New | State::Done => {}
            State::Preparing { .. } | State::Accepting { .. } => self.fail(effects),
        }
    }

    /// Goes on when a majority granted, and gives up when none can any more.
    fn advance(&mut self, effects: &mut Vec<Effect>) {
        let needed = self.current.majority();
        if self.granted.len() >= needed {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Preparing { best } => {
                    let document =
                        best.map_or_else(|| self.wanted.clone(), |(_, document)| document);
                    self.ask_to_accept(document, effects);
                }
                State::Accepting { document } => effects.push(Effect::Decided(document)),
                State::New | State::Done => {}
            }
        } else if self.current.voters().count() - self.refused.len() < needed {
            self.fail(effects);
        }
    }

    fn ask_to_accept(&mut self, document: RingDocument, effects: &mut Vec<Effect>) {
        self.granted.clear();
        self.refused.clear();
        let accept = Accept {
            ballot: self.ballot.clone(),
            document: document.clone(),
        };
        effects.extend(self.current.voters().map(|member| Effect::SendAccept {
            to: member.id.clone(),
            accept: accept.clone(),
        }));
        self.state = State::Accepting { document };
    }

    fn fail(&mut self, effects: &mut Vec<Effect>) {
        let highest = self.outvoted_by.unwrap_or(0).max(self.ballot.round);
        let next_round = highest.saturating_add(1);
        let effect = match self.outvoted_by {
            Some(_) => Effect::Retry { next_round },
            None => Effect::NoMajority {
                needed: self.current.majority(),
                got: self.granted.len(),
                next_round,
            },
        };
        self.finish(effect, effects);
    }

    fn finish(&mut self, effect: Effect, effects: &mut Vec<Effect>) {
        self.state = State::Done;
        effects.push(effect);
    }
}

/// Whether what a member reports as accepted is something that its acceptor should have accepted.
fn may_follow(current: &RingDocument, accepted: &Option<(Ballot, RingDocument)>) -> bool {
    match accepted {
        Some((_, document)) => check_next(current, document).is_ok(),
        None => true,
    }
}

/// Keeps the accepted document of the highest ballot: it may be chosen already, so nothing else may be
/// proposed under a higher one.
fn keep_higher(
    best: &mut Option<(Ballot, RingDocument)>,
    accepted: Option<(Ballot, RingDocument)>,
) {
    if let Some((ballot, document)) = accepted
        && best.as_ref().is_none_or(|(highest, _)| ballot > *highest)
    {
        *best = Some((ballot, document));
    }
}

#[cfg(test)]
mod tests;
