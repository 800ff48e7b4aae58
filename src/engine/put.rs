//! Coordinating one put or delete.
//!
//! ```text
//!            enough owners in reach?            stands in for a blind write?
//! start ───▶ Connecting ──────────────────────▶ ReadingFirst ──▶ Minting ──▶ Replicating ──▶ answered
//!     (only when in doubt: pings)    (only then: R reads)    (one step,     (own fsync and the
//!                                                             in memory)     others', side by side)
//! ```
//!
//! Nothing is written while it is in doubt whether W owners can be reached, so "quorum unavailable"
//! before minting means that nothing happened. After minting the outcome is unknown until W owners
//! have it on disk.

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::{ErrorCode, ErrorReply};
use smallvec::SmallVec;

use super::preference::{NodeSlot, Preference, Reach, SELF};
use super::quorum::{Outcome, Place, Quorum};

/// What the coordinator is to do. Places are those of the preference list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find out at once whether this owner can be reached.
    Ping(NodeSlot),
    /// Read this owner's versions.
    Read(NodeSlot),
    /// Read the own versions.
    ReadLocal,
    /// Merge these into the own versions, mint the dot, and make the result durable.
    Mint {
        /// What other owners had, when this node stands in.
        merge_first: Option<Box<Versions>>,
    },
    /// Have this owner merge the result.
    Merge {
        /// Who.
        to: NodeSlot,
        /// The encoded versions.
        versions: Bytes,
    },
    /// The client's answer. The operation is over.
    Answer(Result<Acknowledged, ErrorReply>),
}

/// A write that has met its quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The key's context with the write in it.
    pub context: Bytes,
    /// How many owners were needed.
    pub effective_w: u8,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An owner answered a ping.
    Reached(NodeSlot),
    /// An owner's versions; `None` means that it is rebuilding and has no say.
    Read(NodeSlot, Option<Box<Versions>>),
    /// The dot is minted.
    Minted {
        /// The merged versions, encoded: what is replicated.
        versions: Bytes,
        /// The context that stands for having seen them.
        context: Bytes,
    },
    /// The own versions are on disk.
    Durable,
    /// An owner has merged and synced.
    Merged(NodeSlot),
    /// An owner could not be reached, or refused.
    Failed(NodeSlot),
    /// This node's store refused or failed.
    Refused(ErrorReply),
    /// Time is up.
    Deadline,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Connecting,
    ReadingFirst { seen: Box<Versions> },
    Minting,
    Replicating { versions: Bytes, context: Bytes },
    Answered,
}

/// One put or delete.
#[derive(Debug)]
pub struct Put {
    owners: Preference,
    own: Place,
    stands_in: bool,
    r: u8,
    phase: Phase,
    /// Counts pings, then reads, then durable copies: each phase begins a new one.
    quorum: Quorum,
    w: u8,
    usable: SmallVec<[NodeSlot; 4]>,
}

impl Put {
    /// Begins a write that this node coordinates at place `own`. `w` and `r` are capped at the number
    /// of owners.
    pub fn start(
        owners: Preference,
        own: Place,
        stands_in: bool,
        (w, r): (u8, u8),
        reach: impl Fn(NodeSlot) -> Reach,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let n = owners.len();
        let usable = owners
            .others(own, 0)
            .map(|(_, node)| node)
            .filter(|&node| reach(node) == Reach::Usable)
            .collect();
        let mut put = Self {
            own,
            stands_in,
            r: r.min(n),
            w: w.min(n),
            phase: Phase::Connecting,
            quorum: Quorum::new(w.min(n), n),
            usable,
            owners,
        };
        put.connect(effects);
        put
    }

    /// Whether this write has put anything into a store.
    pub fn maybe_applied(&self) -> bool {
        matches!(self.phase, Phase::Minting | Phase::Replicating { .. })
    }

    /// Whether the client has its answer.
    pub fn is_answered(&self) -> bool {
        self.phase == Phase::Answered
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Deadline => self.fail(self.timeout(), effects),
            // The dot is minted and the others have it: this is one copy less, no more.
            Event::Refused(_) if matches!(self.phase, Phase::Replicating { .. }) => {
                self.on_failed(SELF, effects);
            }
            Event::Refused(error) => self.fail(error, effects),
            Event::Reached(node) => self.on_reached(node, effects),
            Event::Read(node, versions) => self.on_read(node, versions, effects),
            Event::Minted { versions, context } => self.on_minted(versions, context, effects),
            Event::Durable => self.on_durable(SELF, effects),
            Event::Merged(node) => self.on_durable(node, effects),
            Event::Failed(node) => self.on_failed(node, effects),
        }
    }

    fn connect(&mut self, effects: &mut Vec<Effect>) {
        self.quorum.grant(self.own);
        for node in self.usable.clone() {
            self.grant(node);
        }
        if self.quorum.outcome() == Outcome::Met {
            self.read_first(effects);
            return;
        }
        for (place, node) in self.owners.others(self.own, 0) {
            if !self.usable.contains(&node) {
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

    fn read_first(&mut self, effects: &mut Vec<Effect>) {
        if !self.stands_in {
            self.mint(None, effects);
            return;
        }
        self.phase = Phase::ReadingFirst {
            seen: Box::default(),
        };
        // A write content with few copies is content with few readers: with `-w 1` this node alone is
        // enough. Siblings may come of that, a loss never.
        self.quorum = Quorum::new(self.r.min(self.w), self.owners.len());
        self.quorum.ask(self.own);
        effects.push(Effect::ReadLocal);
        for &node in &self.usable {
            if let Some(place) = self.owners.place_of(node) {
                self.quorum.ask(place);
            }
            effects.push(Effect::Read(node));
        }
    }

    fn on_read(
        &mut self,
        node: NodeSlot,
        versions: Option<Box<Versions>>,
        effects: &mut Vec<Effect>,
    ) {
        if let Phase::ReadingFirst { seen } = &mut self.phase {
            let Some(versions) = versions else {
                self.on_failed(node, effects);
                return;
            };
            seen.merge(&versions);
            self.grant(node);
            self.check(effects);
        }
    }

    fn mint(&mut self, merge_first: Option<Box<Versions>>, effects: &mut Vec<Effect>) {
        self.phase = Phase::Minting;
        self.quorum = Quorum::new(self.w, self.owners.len());
        effects.push(Effect::Mint { merge_first });
    }

    fn on_minted(&mut self, versions: Bytes, context: Bytes, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Minting {
            return;
        }
        for &node in &self.usable {
            if let Some(place) = self.owners.place_of(node) {
                self.quorum.ask(place);
            }
            effects.push(Effect::Merge {
                to: node,
                versions: versions.clone(),
            });
        }
        self.phase = Phase::Replicating { versions, context };
        self.quorum.ask(self.own);
        self.widen(effects);
        self.check(effects);
    }

    fn on_durable(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Replicating { .. }) {
            self.grant(node);
            self.check(effects);
        }
    }

    fn on_failed(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        self.usable.retain(|usable| *usable != node);
        if let Some(place) = self.owners.place_of(node) {
            self.quorum.fail(place);
        }
        self.widen(effects);
        self.check(effects);
    }

    /// Asks the doubtful owners too, once those in reach can no longer make the quorum.
    fn widen(&mut self, effects: &mut Vec<Effect>) {
        if self.quorum.outcome() != Outcome::Pending || self.quorum.lacking() == 0 {
            return;
        }
        for (place, node) in self.owners.others(self.own, 0) {
            if !self.quorum.is_untouched(place) {
                continue;
            }
            match &self.phase {
                Phase::ReadingFirst { .. } => effects.push(Effect::Read(node)),
                Phase::Replicating { versions, .. } => effects.push(Effect::Merge {
                    to: node,
                    versions: versions.clone(),
                }),
                // Connecting has asked everyone; minting asks nobody yet.
                Phase::Connecting | Phase::Minting | Phase::Answered => continue,
            }
            self.quorum.ask(place);
        }
    }

    fn grant(&mut self, node: NodeSlot) {
        if let Some(place) = self.owners.place_of(node) {
            self.quorum.grant(place);
        }
    }

    fn check(&mut self, effects: &mut Vec<Effect>) {
        let outcome = self.quorum.outcome();
        match (&mut self.phase, outcome) {
            (Phase::Answered | Phase::Minting, _) | (_, Outcome::Pending) => {}
            // The own store answers soon, and the error should count it.
            (Phase::ReadingFirst { .. } | Phase::Replicating { .. }, Outcome::Impossible)
                if self.quorum.awaits(self.own) => {}
            (Phase::Connecting, Outcome::Met) => self.read_first(effects),
            (Phase::ReadingFirst { seen }, Outcome::Met) => {
                let seen = std::mem::take(seen);
                self.mint(Some(seen), effects);
            }
            (Phase::Replicating { context, .. }, Outcome::Met) => {
                let acknowledged = Acknowledged {
                    context: std::mem::take(context),
                    effective_w: self.w,
                };
                self.phase = Phase::Answered;
                effects.push(Effect::Answer(Ok(acknowledged)));
            }
            (
                Phase::Connecting | Phase::ReadingFirst { .. } | Phase::Replicating { .. },
                Outcome::Impossible,
            ) => self.fail(self.unavailable(), effects),
        }
    }

    fn fail(&mut self, error: ErrorReply, effects: &mut Vec<Effect>) {
        if !self.is_answered() {
            self.phase = Phase::Answered;
            effects.push(Effect::Answer(Err(error)));
        }
    }

    fn unavailable(&self) -> ErrorReply {
        let (needed, got) = (self.quorum.needed(), self.quorum.got());
        let message = match self.phase {
            Phase::ReadingFirst { .. } => format!(
                "the first owner of the key is down, and of the {needed} owners that must be read in \
                 its place {got} answered; nothing was written. See `dynakv status`"
            ),
            Phase::Connecting | Phase::Minting | Phase::Replicating { .. } | Phase::Answered => {
                let so = if self.maybe_applied() {
                    "the write may have been applied"
                } else {
                    "nothing was written"
                };
                format!(
                    "the write needs {needed} owners of the key, {got} answered; {so}. See \
                     `dynakv status`, or write with a smaller -w"
                )
            }
        };
        ErrorReply::new(ErrorCode::QuorumUnavailable, message)
            .with_quorum(needed, got)
            .maybe_applied(self.maybe_applied())
            .retryable()
    }

    fn timeout(&self) -> ErrorReply {
        let (needed, got) = (self.quorum.needed(), self.quorum.got());
        let message = format!(
            "time is up: the write needs {needed} owners of the key, {got} answered in time. See \
             `dynakv status`, or give it longer with --timeout"
        );
        ErrorReply::new(ErrorCode::Timeout, message)
            .with_quorum(needed, got)
            .maybe_applied(self.maybe_applied())
            .retryable()
    }
}

#[cfg(test)]
mod tests;
