//! Handing a request on to an owner of its key.
//!
//! One owner after the other is tried until one answers: those in reach first, this node itself when it
//! is an owner, the doubtful ones last. A write keeps its id on the way, so an owner that had taken it
//! without being able to say so does no harm.

use dynakv_protocol::frame::Frame;
use dynakv_protocol::message::{Response, kind};
use dynakv_protocol::{ErrorCode, ErrorReply};
use smallvec::SmallVec;

use super::attempts::Attempts;
use crate::engine::placement::preference::{NodeSlot, Preference, Reach, SELF};
use crate::engine::quorum::Place;

/// What the coordinator is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the request to this owner.
    Send(NodeSlot),
    /// Coordinate it here after all.
    TakeOver,
    /// Stand in for an owner: none can be reached, and the quorum may be sloppy.
    StandIn,
    /// Hand the owner's answer to the client as it came.
    PassOn(Frame),
    /// It failed.
    Answer(ErrorReply),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The owner has been sent it.
    Sent(NodeSlot),
    /// There is a link to this owner.
    LinkUp(NodeSlot),
    /// An owner has answered.
    Answered(NodeSlot, Frame),
    /// The owner is lost, and may have acted on the request before.
    Failed(NodeSlot),
    /// The owner has certainly not acted on it: it could not be reached at all, or says so.
    NotTaken(NodeSlot),
    /// It takes longer than it should: the next owner is tried.
    Slow,
    /// Time is up.
    Deadline,
}

/// How a request is handed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// How many owners the request needs, for the error: the W or R that was asked for.
    pub needed: u8,
    /// Whether it is a write.
    pub is_write: bool,
    /// Whether this node has no room on its disk for it, and so does not coordinate it in the end.
    pub is_full: bool,
    /// Whether this node's disk hangs, so that it does not coordinate it either.
    pub is_hanging: bool,
    /// Whether this node, which owns no copy, stands in for an owner when none in reach takes it: it is a
    /// sloppy write.
    pub may_stand_in: bool,
    /// Whether stand-ins may count for it.
    pub is_sloppy: bool,
    /// Who was given it before.
    pub attempts: Attempts,
}

/// One request on its way to an owner.
#[derive(Debug)]
pub struct Forward {
    needed: u8,
    is_write: bool,
    is_sloppy: bool,
    /// Whether this node, which owns no copy, may stand in at the end.
    may_stand_in: bool,
    /// Whether this node, or an owner, has no room for it.
    is_full: bool,
    attempts: Attempts,
    current: Option<NodeSlot>,
    /// Whether that one has been sent it. Where there is no link yet it waits for one: what is given up before
    /// there is one is better not sent at all.
    is_sent: bool,
    /// Whom to try next, the best last.
    spares: SmallVec<[NodeSlot; 4]>,
    is_answered: bool,
}

impl Forward {
    /// Begins with the owner at place `first`.
    pub fn start(
        owners: &Preference,
        first: Place,
        terms: Terms,
        reach: impl Fn(NodeSlot) -> Reach,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let Terms {
            needed,
            is_write,
            is_full,
            is_hanging,
            may_stand_in,
            is_sloppy,
            attempts,
        } = terms;
        let is_able = !is_full && !is_hanging;
        let first = owners.at(first);
        let mut spares: SmallVec<[NodeSlot; 4]> = owners
            .coordinators()
            .map(|(_, node)| node)
            .filter(|&node| Some(node) != first && (is_able || node != SELF))
            // Who may stand in does not wait for those that cannot be reached.
            .filter(|&node| !may_stand_in || reach(node) == Reach::Usable)
            .collect();
        spares.sort_by_key(|&node| {
            if node == SELF || reach(node) == Reach::Usable {
                0
            } else {
                1
            }
        });
        spares.reverse();
        let mut forward = Self {
            needed: owners.sides().most_needed(needed),
            is_write,
            is_sloppy,
            may_stand_in,
            is_full,
            attempts,
            current: None,
            is_sent: false,
            spares,
            is_answered: false,
        };
        match first {
            Some(first) => forward.send(first, effects),
            None => forward.next(effects),
        }
        forward
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Sent(node) if self.awaits(node) && !self.is_sent => {
                self.is_sent = true;
                self.attempts.begin();
            }
            Event::LinkUp(node) if self.awaits(node) && !self.is_sent => {
                effects.push(Effect::Send(node));
            }
            Event::Answered(from, frame) if self.hears(from) => {
                self.on_answer(from, frame, effects);
            }
            Event::Failed(node) if self.awaits(node) => self.next(effects),
            Event::NotTaken(node) if self.awaits(node) => self.on_not_taken(effects),
            Event::Sent(_)
            | Event::LinkUp(_)
            | Event::Answered(..)
            | Event::Failed(_)
            | Event::NotTaken(_) => {}
            Event::Slow if !self.may_go_elsewhere() => {}
            Event::Slow => self.next(effects),
            Event::Deadline => {
                let message = "time is up: no owner of the key answered. See `dynakv status`, or give \
                               it longer with --timeout";
                self.fail(ErrorCode::Timeout, message, effects);
            }
        }
    }

    /// Who was given it and may have acted on it.
    pub fn attempts(&self) -> Attempts {
        self.attempts
    }

    /// Whether the client has its answer.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Whether somebody else is given it when this owner is slow.
    pub fn may_go_elsewhere(&self) -> bool {
        !self.spares.is_empty() || self.may_stand_in
    }

    /// Whether it is left with an owner that has fallen silent, until that is slow: the owner may yet begin
    /// it, for as long as it was told. Others that took a sloppy write meanwhile may be out of its sight, and
    /// so may what replaced it. (Those of a strict one are not.)
    pub fn outlasts_silence(&self) -> bool {
        self.is_write && self.is_sloppy && self.may_go_elsewhere()
    }

    /// Whether what this owner answers is the answer. Of a write only the last one asked counts: that an
    /// owner which was given up has it says nothing of what the next one writes over. Any owner may answer a
    /// read.
    fn hears(&self, node: NodeSlot) -> bool {
        !self.is_write || self.awaits(node)
    }

    /// Whether this owner has the request at present, or is about to.
    fn awaits(&self, node: NodeSlot) -> bool {
        self.current == Some(node)
    }

    fn on_answer(&mut self, from: NodeSlot, frame: Frame, effects: &mut Vec<Effect>) {
        let error = match frame.header.kind {
            kind::ERROR => match Response::decode(kind::ERROR, &frame.body) {
                Ok(Response::Error(error)) => Some(error),
                Ok(_) | Err(_) => None,
            },
            _ => None,
        };
        let Some(error) = error else {
            return self.pass_on(frame, effects);
        };
        match (refusal(&error, self.is_write), self.awaits(from)) {
            (Refusal::OfTheRequest, _) => {
                // It speaks for itself only.
                if self.is_write && self.attempts.any_earlier() {
                    self.is_answered = true;
                    return effects.push(Effect::Answer(error.maybe_applied(true)));
                }
                self.pass_on(frame, effects);
            }
            // Another one has it by now.
            (_, false) => {}
            (Refusal::NotTaken, true) => self.on_not_taken(effects),
            (Refusal::Full, true) => {
                self.is_full = true;
                self.on_not_taken(effects);
            }
            (Refusal::InDoubt, true) => self.next(effects),
        }
    }

    /// The owner that has it has certainly not acted on it.
    fn on_not_taken(&mut self, effects: &mut Vec<Effect>) {
        if self.is_sent {
            self.attempts.take_back();
        }
        self.next(effects);
    }

    fn next(&mut self, effects: &mut Vec<Effect>) {
        match self.spares.pop() {
            Some(SELF) => {
                self.current = None;
                effects.push(Effect::TakeOver);
            }
            Some(node) => self.send(node, effects),
            None if self.may_stand_in => {
                self.current = None;
                self.may_stand_in = false;
                effects.push(Effect::StandIn);
            }
            None if self.is_full => {
                let message = "no owner of the key that can be reached has room on its disk: free some \
                               space there; reads go on";
                self.fail(ErrorCode::DiskFull, message, effects);
            }
            None => {
                let message = match self.is_write && !self.attempts.any() {
                    true => {
                        "no owner of the key can be reached; nothing was written. See `dynakv status`"
                    }
                    false => "no owner of the key can be reached. See `dynakv status`",
                };
                self.fail(ErrorCode::QuorumUnavailable, message, effects);
            }
        }
    }

    fn send(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        self.current = Some(node);
        self.is_sent = false;
        effects.push(Effect::Send(node));
    }

    fn pass_on(&mut self, frame: Frame, effects: &mut Vec<Effect>) {
        self.is_answered = true;
        effects.push(Effect::PassOn(frame));
    }

    fn fail(&mut self, code: ErrorCode, message: &str, effects: &mut Vec<Effect>) {
        self.is_answered = true;
        let error = ErrorReply::new(code, message)
            .with_quorum(self.needed, 0)
            .maybe_applied(self.is_write && self.attempts.any())
            .retryable();
        effects.push(Effect::Answer(error));
    }
}

/// What an owner's error says of the request.
enum Refusal {
    /// It has certainly not acted on it, and another one may take it.
    NotTaken,
    /// The same: its disk has no room.
    Full,
    /// It cannot take it now, and may have acted on it before.
    InDoubt,
    /// No owner would do otherwise, or it has acted on it.
    OfTheRequest,
}

fn refusal(error: &ErrorReply, is_write: bool) -> Refusal {
    match error.code {
        ErrorCode::NotOwner
        | ErrorCode::StaleRing
        | ErrorCode::NotReady
        | ErrorCode::Overloaded => match error.maybe_applied {
            true => Refusal::InDoubt,
            false => Refusal::NotTaken,
        },
        // It came too late there; there may be time left.
        ErrorCode::Timeout if !error.maybe_applied && is_write => Refusal::NotTaken,
        ErrorCode::DiskFull if !error.maybe_applied => Refusal::Full,
        _ => Refusal::OfTheRequest,
    }
}

#[cfg(test)]
mod tests;
