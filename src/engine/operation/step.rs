//! What an event means to which operation.

use dynakv_protocol::message::Response;
use dynakv_protocol::peer::VersionsReply;
use dynakv_protocol::{Actor, ErrorCode, ErrorReply, RingVersion};

use super::exchange::{Effect, Effects, Event, Lost};
use super::{Operation, Purpose, translate};
use crate::engine::placement::preference::{NodeSlot, SELF};
use crate::engine::read::{explain, get};
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::put::{self, Said};
use crate::engine::write::{forward, import};

/// Why nobody answers who answers something else.
const NO_ANSWER: &str = "it cannot be asked";

impl Operation {
    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Effects) {
        match event {
            Event::Answered {
                from,
                purpose,
                response,
            } => self.on_answer(from, purpose, response, effects),
            Event::NewRing {
                owners,
                usable,
                stand_ins,
            } => {
                if let Self::Put { put, .. } = self {
                    put.rebase(owners, (usable, stand_ins), &mut effects.of_put);
                    self.tell(effects);
                }
            }
            Event::Coordinated { from, answer } => {
                self.step_forward(forward::Event::Answered(from, answer), effects);
            }
            Event::Stored {
                purpose,
                outcome,
                actor,
            } => self.on_stored(purpose, outcome, actor, effects),
            Event::HandedOn(to) => self.step_forward(forward::Event::Sent(to), effects),
            Event::NotTaken(by) => self.step_forward(forward::Event::NotTaken(by), effects),
            Event::LinkUp(node) => self.step_forward(forward::Event::LinkUp(node), effects),
            Event::Failed { node, reason } => self.on_failed(node, reason, effects),
            Event::Lost { node, how, reason } => self.on_lost(node, how, reason, effects),
            Event::OwnDiskHangs { in_reads } => {
                let waits_for_it = match self {
                    Self::Put { .. } | Self::Import { .. } => true,
                    Self::Get(_) => in_reads,
                    Self::Forward(_) | Self::Explain(_) => false,
                };
                if waits_for_it {
                    self.on_failed(SELF, NO_ANSWER, effects);
                }
            }
            Event::DiskHangs(node) => {
                let waits_for_it = match self {
                    Self::Put { put, .. } => put.maybe_applied(),
                    Self::Import { .. } => true,
                    Self::Get(_) | Self::Forward(_) | Self::Explain(_) => false,
                };
                if waits_for_it {
                    self.on_failed(node, NO_ANSWER, effects);
                }
            }
            Event::Slow => match self {
                Self::Put { .. } => self.step_put(put::Event::Slow, effects),
                Self::Get(_) => self.step_get(get::Event::Slow, effects),
                Self::Forward(_) => self.step_forward(forward::Event::Slow, effects),
                // They have asked everybody.
                Self::Explain(_) | Self::Import { .. } => {}
            },
            Event::Deadline => match self {
                Self::Put { .. } => self.step_put(put::Event::Deadline, effects),
                Self::Get(_) => self.step_get(get::Event::Deadline, effects),
                Self::Forward(_) => self.step_forward(forward::Event::Deadline, effects),
                Self::Explain(_) => self.step_explain(explain::Event::Deadline, effects),
                Self::Import { .. } => self.step_import(import::Event::Deadline, effects),
            },
        }
    }

    fn on_answer(
        &mut self,
        from: NodeSlot,
        purpose: Purpose,
        response: Response,
        effects: &mut Effects,
    ) {
        match (purpose, response) {
            (Purpose::Ping, Response::Pong) => {
                self.step_put(put::Event::Reached(from), effects);
            }
            (Purpose::Read, Response::Versions(reply)) => self.on_read(from, reply, effects),
            (Purpose::Write | Purpose::Rewrite, Response::Merged(merged)) => {
                self.on_copied(from, purpose, Said::of(&merged), effects);
            }
            (Purpose::Hint | Purpose::Rehint, Response::HintKept) => {
                self.on_copied(from, purpose, Said::Nothing, effects);
            }
            (Purpose::Repair, Response::Merged(_)) => {
                self.step_get(get::Event::Repaired(from), effects);
            }
            (_, Response::Error(error)) => self.on_declined(from, purpose, &error, effects),
            (_, _) => self.on_failed(from, NO_ANSWER, effects),
        }
    }

    /// This node's store has done its part.
    fn on_stored(
        &mut self,
        purpose: Purpose,
        outcome: JobOutcome,
        actor: Actor,
        effects: &mut Effects,
    ) {
        match outcome {
            JobOutcome::Minted {
                versions,
                context,
                rebuilding,
                replaced,
            } => {
                let minted = put::Event::Minted {
                    round: purpose.round(),
                    versions,
                    context,
                    rebuilding,
                    replaced,
                };
                self.step_put(minted, effects);
            }
            JobOutcome::Behind { lacks, rebuilding } => {
                self.step_put(put::Event::Behind { lacks, rebuilding }, effects);
            }
            JobOutcome::Durable { .. } => match (self as &Self, purpose) {
                (Self::Get(_), _) => self.step_get(get::Event::Repaired(SELF), effects),
                (Self::Put { .. }, _) => {
                    self.step_put(put::Event::Durable(purpose.round()), effects);
                }
                (Self::Import { .. }, _) => {
                    self.step_import(import::Event::Merged(SELF), effects);
                }
                (Self::Forward(_) | Self::Explain(_), _) => {}
            },
            JobOutcome::Refused(error) => self.on_own_refusal(purpose, error, effects),
            JobOutcome::Read {
                versions,
                digest,
                rebuilding,
            } => {
                let reply = VersionsReply {
                    rebuilding,
                    versions,
                    actor: Some(actor),
                    digest,
                };
                self.on_read(SELF, reply, effects);
            }
        }
    }

    /// What an owner has, this node or another one.
    fn on_read(&mut self, from: NodeSlot, reply: VersionsReply, effects: &mut Effects) {
        let VersionsReply {
            rebuilding,
            versions,
            actor,
            digest,
        } = reply;
        match (self as &Self, digest) {
            (Self::Get(_), Some(digest)) => {
                let event = get::Event::Digest {
                    from,
                    digest,
                    rebuilding,
                };
                self.step_get(event, effects);
            }
            (Self::Get(_), None) => {
                let event = get::Event::Read {
                    from,
                    versions,
                    rebuilding,
                };
                self.step_get(event, effects);
            }
            // Nobody else asked for one, and taken for versions it would mean "absent".
            (Self::Put { .. } | Self::Explain(_), Some(_)) => {
                self.on_failed(from, NO_ANSWER, effects);
            }
            (Self::Put { .. }, None) => {
                self.step_put(put::Event::read(from, &versions, rebuilding), effects);
            }
            (Self::Explain(_), None) => {
                let event = explain::Event::Read {
                    from,
                    versions,
                    rebuilding,
                    actor,
                };
                self.step_explain(event, effects);
            }
            (Self::Forward(_) | Self::Import { .. }, _) => {}
        }
    }

    /// A copy is on another node's disk.
    fn on_copied(&mut self, from: NodeSlot, purpose: Purpose, said: Said, effects: &mut Effects) {
        match self {
            Self::Put { .. } => {
                let round = purpose.round();
                self.step_put(put::Event::Merged { from, round, said }, effects);
            }
            Self::Import { .. } => self.step_import(import::Event::Merged(from), effects),
            Self::Get(_) | Self::Forward(_) | Self::Explain(_) => {}
        }
    }

    /// A node refused what it was asked.
    fn on_declined(
        &mut self,
        from: NodeSlot,
        purpose: Purpose,
        error: &ErrorReply,
        effects: &mut Effects,
    ) {
        if error.code == ErrorCode::StaleRing
            && let Some(version) = error.ring_version
        {
            effects.list.push(Effect::NewerRing(version));
            return self.on_stale(from, purpose, version, effects);
        }
        let round = purpose.round();
        match (self as &Self, purpose) {
            // What it has, beside the write or of what its context names, stays unknown.
            (Self::Put { .. }, Purpose::Read) => {
                self.step_put(put::Event::Read(from, None), effects);
            }
            (
                Self::Put { .. },
                Purpose::Write | Purpose::Rewrite | Purpose::Hint | Purpose::Rehint,
            ) => self.step_put(put::Event::Declined { from, round }, effects),
            (Self::Import { .. }, _) if error.code == ErrorCode::DiskFull => {
                self.step_import(import::Event::Full(from), effects);
            }
            (Self::Explain(_), _) => self.on_failed(from, &error.to_string(), effects),
            (Self::Put { .. } | Self::Get(_) | Self::Forward(_) | Self::Import { .. }, _) => {
                self.on_failed(from, NO_ANSWER, effects);
            }
        }
    }

    /// Somebody who was asked, perhaps this node's own store, follows a newer ring than this operation.
    fn on_stale(
        &mut self,
        from: NodeSlot,
        purpose: Purpose,
        version: RingVersion,
        effects: &mut Effects,
    ) {
        // What was read has its quorum: only the mending is late.
        let is_mending = matches!(self, Self::Get(_)) && purpose == Purpose::Repair;
        if !is_mending && self.may_begin_again(from == SELF) {
            return effects.list.push(Effect::BeginAgain(version));
        }
        match self {
            Self::Put { put, .. } if !put.is_answered() && !put.is_stand_in() => {
                let round = purpose.round();
                self.step_put(put::Event::Stale { round, version }, effects);
            }
            _ => self.on_failed(from, NO_ANSWER, effects),
        }
    }

    /// This node's store refused its part.
    fn on_own_refusal(&mut self, purpose: Purpose, error: ErrorReply, effects: &mut Effects) {
        if error.code == ErrorCode::StaleRing
            && let Some(version) = error.ring_version
        {
            return self.on_stale(SELF, purpose, version, effects);
        }
        match (self as &Self, purpose) {
            // Nothing is written anywhere: another owner may take it, with this one's copy missing.
            (Self::Put { put, .. }, Purpose::Write)
                if !put.is_stand_in()
                    && put.may_begin_again(true)
                    && matches!(error.code, ErrorCode::DiskFull | ErrorCode::Overloaded)
                    && !error.maybe_applied =>
            {
                effects.list.push(Effect::HandOver(error));
            }
            (Self::Put { .. }, Purpose::Write | Purpose::Rewrite) => {
                let round = purpose.round();
                self.step_put(put::Event::Refused { round, error }, effects);
            }
            (Self::Import { .. }, _) if error.code == ErrorCode::DiskFull => {
                self.step_import(import::Event::Full(SELF), effects);
            }
            (Self::Explain(_), _) => self.on_failed(SELF, &error.to_string(), effects),
            (Self::Put { .. } | Self::Get(_) | Self::Forward(_) | Self::Import { .. }, _) => {
                self.on_failed(SELF, NO_ANSWER, effects);
            }
        }
    }

    /// Whether it has put nothing anywhere yet, and so may begin anew under another ring.
    fn may_begin_again(&self, own_store_refused: bool) -> bool {
        match self {
            Self::Get(get) => !get.is_answered(),
            Self::Put { put, .. } => put.may_begin_again(own_store_refused),
            Self::Explain(explain) => !explain.is_answered(),
            // Merging twice is merging once.
            Self::Import { import, .. } => !import.is_answered(),
            Self::Forward(_) => false,
        }
    }

    /// What a node was asked for will not be answered.
    fn on_failed(&mut self, node: NodeSlot, reason: &str, effects: &mut Effects) {
        match self {
            Self::Get(_) => self.step_get(get::Event::Failed(node), effects),
            Self::Put { .. } => self.step_put(put::Event::Failed(node), effects),
            Self::Forward(_) => self.step_forward(forward::Event::Failed(node), effects),
            Self::Explain(_) => {
                let event = explain::Event::Failed(node, reason.to_owned());
                self.step_explain(event, effects);
            }
            Self::Import { .. } => self.step_import(import::Event::Failed(node), effects),
        }
    }

    /// The link to a node is gone, or in doubt.
    fn on_lost(&mut self, node: NodeSlot, how: Lost, reason: &str, effects: &mut Effects) {
        match (how, self as &Self) {
            (Lost::BeforeAny, Self::Forward(_)) => {
                self.step_forward(forward::Event::NotTaken(node), effects);
            }
            (Lost::InDoubt, Self::Forward(forward)) if forward.outlasts_silence() => {}
            (
                Lost::BeforeAny | Lost::InDoubt | Lost::WithRequests,
                Self::Put { .. }
                | Self::Get(_)
                | Self::Forward(_)
                | Self::Explain(_)
                | Self::Import { .. },
            ) => self.on_failed(node, reason, effects),
        }
    }

    fn step_put(&mut self, event: put::Event, effects: &mut Effects) {
        if let Self::Put { put, .. } = self {
            put.step(event, &mut effects.of_put);
            self.tell(effects);
        }
    }

    fn step_get(&mut self, event: get::Event, effects: &mut Effects) {
        if let Self::Get(get) = self {
            get.step(event, &mut effects.of_get);
            self.tell(effects);
        }
    }

    fn step_forward(&mut self, event: forward::Event, effects: &mut Effects) {
        if let Self::Forward(forward) = self {
            forward.step(event, &mut effects.of_forward);
            self.tell(effects);
        }
    }

    fn step_explain(&mut self, event: explain::Event, effects: &mut Effects) {
        if let Self::Explain(explain) = self {
            let mut out = Vec::new();
            explain.step(event, &mut out);
            let out = out.into_iter().map(translate::from_explain);
            effects.list.extend(out);
        }
    }

    fn step_import(&mut self, event: import::Event, effects: &mut Effects) {
        if let Self::Import { import, versions } = self {
            let mut out = Vec::new();
            import.step(event, &mut out);
            let out = out
                .into_iter()
                .map(|effect| translate::from_import(effect, versions));
            effects.list.extend(out);
        }
    }
}
