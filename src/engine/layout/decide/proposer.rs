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
        /// Whom.
        to: NodeId,
        /// What.
        prepare: Prepare,
    },
    /// Ask this member to accept; it may be the node itself.
    SendAccept {
        /// Whom.
        to: NodeId,
        /// What.
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
    /// Distinct members that granted, in this phase.
    granted: BTreeSet<NodeId>,
    /// Distinct members that refused, in this phase.
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
        effects.extend(
            self.current
                .members
                .iter()
                .map(|member| Effect::SendPrepare {
                    to: member.id.clone(),
                    prepare: prepare.clone(),
                }),
        );
    }

    /// Counts the answer of `from` to the question of `phase`.
    ///
    /// Votes count once per member of the ring; those of strangers, of another slot or of another
    /// ballot do not count.
    pub fn on_vote(&mut self, from: &NodeId, phase: Phase, vote: Vote, effects: &mut Vec<Effect>) {
        if self.current.member(from).is_none() || vote.slot != self.slot {
            return;
        }
        match self.state {
            State::New | State::Done => return,
            State::Preparing { .. } | State::Accepting { .. } => {}
        }
        if let Some(ring) = vote.decided {
            // Decided is decided, whichever question brought it to light.
            if ring.version >= self.slot && check_later(&self.current, &ring).is_ok() {
                self.finish(Effect::Decided(ring), effects);
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
        } else if self.current.members.len() - self.refused.len() < needed {
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
        effects.extend(
            self.current
                .members
                .iter()
                .map(|member| Effect::SendAccept {
                    to: member.id.clone(),
                    accept: accept.clone(),
                }),
        );
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
mod tests {
    use super::*;
    use crate::engine::counters::ROUND_MAX;
    use crate::engine::layout::decide::simulation::{ballot, id, join, ring};
    use crate::engine::layout::document::{admit, seal};
    use dynakv_protocol::ids::ClusterId;

    /// Members are named a, b, c, …; the proposer is a, in round 5.
    fn proposer(members: usize) -> (Proposer, RingDocument) {
        let current = ring(members);
        let wanted = seal(&current).unwrap();
        let proposer = Proposer::new(id("a"), current, wanted.clone(), 5).unwrap();
        (proposer, wanted)
    }

    fn started(members: usize) -> (Proposer, RingDocument) {
        let (mut proposer, wanted) = proposer(members);
        proposer.start(&mut Vec::new());
        (proposer, wanted)
    }

    fn vote(granted: bool, promised: Ballot) -> Vote {
        Vote {
            slot: RingVersion(2),
            granted,
            promised,
            accepted: None,
            decided: None,
        }
    }

    fn yes() -> Vote {
        vote(true, ballot(5, "a"))
    }

    fn no() -> Vote {
        vote(false, ballot(0, "a"))
    }

    fn outvoted(round: u64) -> Vote {
        vote(false, ballot(round, "c"))
    }

    /// Feeds votes in order and returns all effects.
    fn feed(proposer: &mut Proposer, phase: Phase, votes: &[(&str, Vote)]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (from, vote) in votes {
            proposer.on_vote(&id(from), phase, vote.clone(), &mut effects);
        }
        effects
    }

    fn accepts(to: &[&str], document: &RingDocument) -> Vec<Effect> {
        let accept = Accept {
            ballot: ballot(5, "a"),
            document: document.clone(),
        };
        to.iter()
            .map(|to| Effect::SendAccept {
                to: id(to),
                accept: accept.clone(),
            })
            .collect()
    }

    #[test]
    fn two_phases_of_a_majority_decide() {
        let (mut proposer, wanted) = proposer(3);
        let mut effects = Vec::new();
        proposer.start(&mut effects);
        proposer.start(&mut effects);
        let prepare = Prepare {
            slot: RingVersion(2),
            ballot: ballot(5, "a"),
        };
        let prepares: Vec<_> = ["a", "b", "c"]
            .map(|to| Effect::SendPrepare {
                to: id(to),
                prepare: prepare.clone(),
            })
            .into();
        assert_eq!(effects, prepares);

        assert_eq!(feed(&mut proposer, Phase::Prepare, &[("a", yes())]), []);
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &[("c", yes())]),
            accepts(&["a", "b", "c"], &wanted)
        );
        assert_eq!(feed(&mut proposer, Phase::Accept, &[("b", yes())]), []);
        assert_eq!(
            feed(&mut proposer, Phase::Accept, &[("c", yes())]),
            [Effect::Decided(wanted)]
        );
        // Said once.
        assert_eq!(feed(&mut proposer, Phase::Accept, &[("a", yes())]), []);
        let mut effects = Vec::new();
        proposer.on_timeout(&mut effects);
        assert_eq!(effects, []);
        assert!(proposer.is_done());
    }

    #[test]
    fn a_lone_founder_decides_by_itself() {
        let (mut proposer, wanted) = started(1);
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &[("a", yes())]),
            accepts(&["a"], &wanted)
        );
        assert_eq!(
            feed(&mut proposer, Phase::Accept, &[("a", yes())]),
            [Effect::Decided(wanted)]
        );
    }

    #[test]
    fn only_distinct_members_of_this_ballot_and_phase_count() {
        let (mut proposer, _) = started(5);
        let other_ballot = vote(true, ballot(4, "a"));
        let other_slot = Vote {
            slot: RingVersion(3),
            ..yes()
        };
        let votes = [
            ("b", yes()),
            ("b", yes()),
            ("b", no()),
            ("stranger", yes()),
            ("another", yes()),
            ("c", other_ballot),
            ("d", other_slot),
            ("e", yes()),
        ];
        assert_eq!(feed(&mut proposer, Phase::Prepare, &votes), []);
        assert_eq!(feed(&mut proposer, Phase::Accept, &[("d", yes())]), []);
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &[("d", yes())]).len(),
            5
        );
        // Promises are no acceptances.
        let late = [("a", yes()), ("c", yes())];
        assert_eq!(feed(&mut proposer, Phase::Prepare, &late), []);
        assert!(!proposer.is_done());
    }

    #[test]
    fn the_accepted_document_of_the_highest_ballot_is_proposed_again() {
        let (mut proposer, wanted) = started(5);
        let current = ring(5);
        let low = admit(&current, &join("x")).unwrap();
        let high = admit(&current, &join("y")).unwrap();
        let with = |round, name, document: &RingDocument| Vote {
            accepted: Some((ballot(round, name), document.clone())),
            ..yes()
        };
        let votes = [
            ("b", with(3, "b", &low)),
            ("c", with(3, "c", &high)),
            ("d", with(1, "e", &low)),
        ];
        let effects = feed(&mut proposer, Phase::Prepare, &votes);
        assert_eq!(effects, accepts(&["a", "b", "c", "d", "e"], &high));
        assert_ne!(high, wanted);
        let votes = [("b", yes()), ("c", yes()), ("d", yes())];
        assert_eq!(
            feed(&mut proposer, Phase::Accept, &votes),
            [Effect::Decided(high)]
        );
    }

    #[test]
    fn what_was_decided_meanwhile_ends_the_attempt_in_either_phase() {
        let mut later = seal(&ring(3)).unwrap();
        later.version = RingVersion(4);
        let told = Vote {
            decided: Some(later.clone()),
            ..no()
        };
        let mut foreign = told.clone();
        foreign.decided.as_mut().unwrap().cluster_id = ClusterId(9);
        for phase in [Phase::Prepare, Phase::Accept] {
            let (mut proposer, _) = started(3);
            if phase == Phase::Accept {
                feed(&mut proposer, Phase::Prepare, &[("a", yes()), ("b", yes())]);
            }
            assert_eq!(feed(&mut proposer, phase, &[("b", foreign.clone())]), []);
            assert_eq!(
                feed(&mut proposer, phase, &[("stranger", told.clone())]),
                []
            );
            assert_eq!(
                feed(&mut proposer, phase, &[("c", told.clone())]),
                [Effect::Decided(later.clone())]
            );
        }
    }

    #[test]
    fn it_gives_up_as_soon_as_no_majority_can_grant() {
        let (mut proposer, _) = started(3);
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &[("b", outvoted(9))]),
            []
        );
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &[("c", outvoted(7))]),
            [Effect::Retry { next_round: 10 }]
        );

        // One is outvoted, two grant: that is enough.
        let (mut proposer, wanted) = started(3);
        let votes = [("b", outvoted(9)), ("a", yes()), ("c", yes())];
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &votes),
            accepts(&["a", "b", "c"], &wanted)
        );

        // Voters that are behind are no rivals.
        let (mut proposer, _) = started(3);
        let votes = [("a", yes()), ("b", no()), ("c", no())];
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &votes),
            [Effect::NoMajority {
                needed: 2,
                got: 1,
                next_round: 6
            }]
        );
    }

    #[test]
    fn its_own_ballot_used_in_a_former_life_is_beaten_by_the_next() {
        let (mut proposer, _) = started(1);
        let used = vote(false, ballot(5, "a"));
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &[("a", used)]),
            [Effect::Retry { next_round: 6 }]
        );
    }

    #[test]
    fn a_timeout_says_how_many_were_missing() {
        let (mut proposer, _) = started(5);
        feed(&mut proposer, Phase::Prepare, &[("a", yes()), ("b", yes())]);
        let mut effects = Vec::new();
        proposer.on_timeout(&mut effects);
        proposer.on_timeout(&mut effects);
        assert_eq!(
            effects,
            [Effect::NoMajority {
                needed: 3,
                got: 2,
                next_round: 6
            }]
        );

        let (mut proposer, _) = started(3);
        feed(&mut proposer, Phase::Prepare, &[("a", yes()), ("b", yes())]);
        feed(
            &mut proposer,
            Phase::Accept,
            &[("a", yes()), ("c", outvoted(ROUND_MAX))],
        );
        let mut effects = Vec::new();
        proposer.on_timeout(&mut effects);
        assert_eq!(
            effects,
            [Effect::Retry {
                next_round: ROUND_MAX + 1
            }]
        );
    }

    /// A voter that was lied to by somebody is no rival: it just does not vote, and the round stays low.
    #[test]
    fn a_round_that_cannot_be_is_not_to_be_beaten() {
        let (mut proposer, _) = started(3);
        let votes = [("b", outvoted(u64::MAX)), ("c", outvoted(ROUND_MAX + 1))];
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &votes),
            [Effect::NoMajority {
                needed: 2,
                got: 0,
                next_round: 6
            }]
        );
        let (mut proposer, wanted) = started(3);
        let votes = [("b", outvoted(u64::MAX)), ("a", yes()), ("c", yes())];
        assert_eq!(
            feed(&mut proposer, Phase::Prepare, &votes),
            accepts(&["a", "b", "c"], &wanted)
        );
    }

    #[test]
    fn a_document_that_cannot_follow_is_not_proposed() {
        let current = ring(3);
        let same = current.clone();
        assert!(matches!(
            Proposer::new(id("a"), current, same, 1),
            Err(InvalidStep::WrongVersion { .. })
        ));
    }
}
