//! Coordinating one put or delete.
//!
//! ```text
//!            enough owners in reach?            stands in for a blind write?
//! start ───▶ Connecting ──────────────────────▶ ReadingFirst ──▶ Minting ──▶ Replicating ──▶ Tail ──▶ over
//!     (only when in doubt: pings)    (only then: R reads)    (one step,     (own fsync and   (answered;
//!                                                             in memory)     the others',     who is
//!                                                                            side by side)    left?)
//! ```
//!
//! Nothing is written while it is in doubt whether W owners can be reached, so "quorum unavailable"
//! before minting means that nothing happened. After minting the outcome is unknown until W owners
//! have it on disk.
//!
//! With a *sloppy* quorum the next healthy nodes of the ring stand in for owners that cannot be reached,
//! and count in their places: what they keep is a hint (DeCandia et al., 2007, § 4.6). When no owner at
//! all can be reached, this node may itself stand in for one; it then mints over the hint it has of the
//! key. A strict write never counts a stand-in.
//!
//! Owners that have not said that they have a write when it is answered are waited for a little longer;
//! who fails then, or was never asked, is owed the key from here: a reminder, which counts for nothing.

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::{ErrorCode, ErrorReply};
use smallvec::SmallVec;

use super::preference::{NodeSlot, Preference, Reach, SELF};
use super::quorum::{Outcome, Place, Quorum, bit};

mod exchange;

pub use self::exchange::{Acknowledged, Effect, Event, Terms};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Connecting,
    ReadingFirst { seen: Box<Versions> },
    Minting,
    Replicating { versions: Bytes, context: Bytes },
    Tail,
    Over,
}

/// One put or delete.
#[derive(Debug)]
pub struct Put {
    owners: Preference,
    own: Place,
    is_stand_in: bool,
    reads_first: bool,
    r: u8,
    phase: Phase,
    /// Counts pings, then reads, then durable copies: each phase begins a new one.
    quorum: Quorum,
    w: u8,
    usable: SmallVec<[NodeSlot; 4]>,
    /// Who may still be asked to stand in, the nearest last; `None` for a strict quorum.
    stand_ins: Option<SmallVec<[NodeSlot; 4]>>,
    /// Who stands in, and in whose place. Rarely anybody.
    acting: SmallVec<[(NodeSlot, Place); 2]>,
    /// How many owners themselves have said that they have it.
    owners_granted: u8,
    /// Bit i: the i-th owner itself was given the result and has said nothing yet.
    owners_awaited: u32,
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
        let n = owners.len();
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
        let mut put = Self {
            own,
            is_stand_in: terms.is_stand_in,
            reads_first: terms.reads_first,
            r: terms.r.min(n),
            w: terms.w.min(n),
            phase: Phase::Connecting,
            quorum: Quorum::new(terms.w.min(n), n),
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
            Phase::Minting | Phase::Replicating { .. } | Phase::Tail
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

    /// The owners of the key.
    pub fn owners(&self) -> &Preference {
        &self.owners
    }

    /// How many owners must have it.
    pub fn w(&self) -> u8 {
        self.w
    }

    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Deadline => self.on_deadline(effects),
            // The dot is minted and the others have it: this is one copy less, no more.
            Event::Refused(_) if matches!(self.phase, Phase::Replicating { .. } | Phase::Tail) => {
                self.on_failed(SELF, effects);
            }
            Event::Refused(error) => self.fail(error, effects),
            Event::Reached(node) => self.on_reached(node, effects),
            Event::Read(node, versions) => self.on_read(node, versions, effects),
            Event::Minted { versions, context } => self.on_minted(versions, context, effects),
            Event::Durable => self.on_durable(SELF, effects),
            Event::Merged(node) => self.on_durable(node, effects),
            Event::Failed(node) => self.on_failed(node, effects),
            Event::Slow => self.on_slow(effects),
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
        if self.quorum.outcome() == Outcome::Met {
            self.read_first(effects);
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

    /// Lets the next node stand in for the owner at this place, if the quorum is sloppy and there is one.
    fn engage(&mut self, place: Place, effects: &mut Vec<Effect>) {
        let Some(stand_in) = self.stand_ins.as_mut().and_then(SmallVec::pop) else {
            return;
        };
        self.acting.push((stand_in, place));
        match &self.phase {
            // Those that may stand in are in reach.
            Phase::Connecting => self.quorum.grant(place),
            Phase::Replicating { versions, .. } => {
                self.quorum.reopen(place);
                effects.push(Effect::Hint {
                    to: stand_in,
                    versions: versions.clone(),
                });
            }
            Phase::ReadingFirst { .. } | Phase::Minting | Phase::Tail | Phase::Over => {}
        }
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
        if !self.reads_first {
            self.mint(None, effects);
            return;
        }
        self.phase = Phase::ReadingFirst {
            seen: Box::default(),
        };
        // A write content with few copies is content with few readers: with `-w 1` this node alone is
        // enough. Siblings may come of that, a loss never.
        let mut needed = self.r.min(self.w);
        if self.is_sloppy() {
            // Who cannot be reached is written without, so it is read without too.
            needed = needed.min(1 + self.usable.len() as u8);
        }
        self.quorum = Quorum::new(needed, self.owners.len());
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
                self.owners_awaited |= bit(place);
            }
            effects.push(Effect::Merge {
                to: node,
                versions: versions.clone(),
            });
        }
        for &(to, place) in &self.acting {
            self.quorum.ask(place);
            effects.push(Effect::Hint {
                to,
                versions: versions.clone(),
            });
        }
        self.phase = Phase::Replicating { versions, context };
        self.quorum.ask(self.own);
        self.fill(effects);
        self.widen(effects);
        self.check(effects);
    }

    fn on_durable(&mut self, node: NodeSlot, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Replicating { .. } | Phase::Tail) {
            self.grant(node);
            self.check(effects);
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
                self.fill(effects);
                self.widen(effects);
            }
        }
        self.check(effects);
    }

    /// Lets others stand in for owners that failed, or are not asked, until those asked can make the
    /// quorum.
    fn fill(&mut self, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Replicating { .. }) {
            return;
        }
        for place in 0..self.owners.len() {
            if self.quorum.outcome() == Outcome::Met || self.quorum.lacking() == 0 {
                return;
            }
            if !self.quorum.has_granted(place) && !self.quorum.awaits(place) {
                self.engage(place, effects);
            }
        }
    }

    /// Silent owners are passed by where somebody may stand in for them, and so are silent stand-ins.
    fn on_slow(&mut self, effects: &mut Vec<Effect>) {
        if !self.is_sloppy() {
            return;
        }
        match &mut self.phase {
            // What has answered is enough to mint over: siblings may come of it, a loss never.
            Phase::ReadingFirst { seen } if !self.quorum.awaits(self.own) => {
                let seen = std::mem::take(seen);
                self.mint(Some(seen), effects);
            }
            Phase::Replicating { .. } => {
                for (place, _) in self.owners.clone().others(self.own, 0) {
                    if self.quorum.awaits(place) {
                        self.engage(place, effects);
                    }
                }
            }
            Phase::Connecting
            | Phase::ReadingFirst { .. }
            | Phase::Minting
            | Phase::Tail
            | Phase::Over => {}
        }
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
                Phase::Replicating { versions, .. } => {
                    self.owners_awaited |= bit(place);
                    effects.push(Effect::Merge {
                        to: node,
                        versions: versions.clone(),
                    });
                }
                // Connecting has asked everyone; minting asks nobody yet.
                Phase::Connecting | Phase::Minting | Phase::Tail | Phase::Over => continue,
            }
            self.quorum.ask(place);
        }
    }

    fn grant(&mut self, node: NodeSlot) {
        if let Some(place) = self.place_of(node) {
            let is_owner = match node {
                SELF => !self.is_stand_in,
                node => self.owners.place_of(node).is_some(),
            };
            match (is_owner, &self.phase) {
                (true, Phase::Replicating { .. }) if !self.quorum.has_granted(place) => {
                    self.owners_granted += 1;
                }
                (false, Phase::Replicating { .. } | Phase::Tail) => self.stand_in_granted = true,
                _ => {}
            }
            self.quorum.grant(place);
        }
    }

    fn check(&mut self, effects: &mut Vec<Effect>) {
        let outcome = self.quorum.outcome();
        match (&mut self.phase, outcome) {
            (Phase::Tail, _) if self.quorum.outstanding() == 0 => self.phase = Phase::Over,
            (Phase::Tail | Phase::Over | Phase::Minting, _) | (_, Outcome::Pending) => {}
            // The own store answers soon, and the error should count it.
            (Phase::ReadingFirst { .. } | Phase::Replicating { .. }, Outcome::Impossible)
                if self.quorum.awaits(self.own) => {}
            (Phase::Connecting, Outcome::Met) => self.read_first(effects),
            (Phase::ReadingFirst { seen }, Outcome::Met) => {
                let seen = std::mem::take(seen);
                self.mint(Some(seen), effects);
            }
            (Phase::ReadingFirst { seen }, Outcome::Impossible) if self.stand_ins.is_some() => {
                let seen = std::mem::take(seen);
                self.mint(Some(seen), effects);
            }
            (Phase::Replicating { context, .. }, Outcome::Met) => {
                let acknowledged = Acknowledged {
                    context: std::mem::take(context),
                    effective_w: self.w,
                    is_sloppy: self.owners_granted < self.w,
                };
                effects.push(Effect::Answer(Ok(acknowledged)));
                self.begin_tail(effects);
            }
            (
                Phase::Connecting | Phase::ReadingFirst { .. } | Phase::Replicating { .. },
                Outcome::Impossible,
            ) => self.fail(self.unavailable(), effects),
        }
    }

    /// The client has its answer. Owners that were not asked, or have failed, are owed the key; those
    /// that may still answer are waited for.
    fn begin_tail(&mut self, effects: &mut Vec<Effect>) {
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
    fn remind(&self, place: Place, effects: &mut Vec<Effect>) {
        let owner = self.owners.at(place).filter(|&owner| owner != SELF);
        if let Some(owner) = owner
            && !self.stand_in_granted
            && !self.is_stand_in
        {
            effects.push(Effect::Remind(owner));
        }
    }

    fn on_deadline(&mut self, effects: &mut Vec<Effect>) {
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

    fn fail(&mut self, error: ErrorReply, effects: &mut Vec<Effect>) {
        if !self.is_answered() {
            self.phase = Phase::Over;
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
            Phase::Connecting
            | Phase::Minting
            | Phase::Replicating { .. }
            | Phase::Tail
            | Phase::Over => {
                let so = if self.maybe_applied() {
                    "the write may have been applied"
                } else {
                    "nothing was written"
                };
                let who = self.who();
                format!(
                    "the write needs {needed} {who}, {got} answered; {so}. See `dynakv status`, or write \
                     with a smaller -w"
                )
            }
        };
        ErrorReply::new(ErrorCode::QuorumUnavailable, message)
            .with_quorum(needed, got)
            .maybe_applied(self.maybe_applied())
            .retryable()
    }

    /// Who counts, in words.
    fn who(&self) -> &'static str {
        match self.is_sloppy() {
            true => "owners of the key or nodes that stand in for them",
            false => "owners of the key",
        }
    }

    fn timeout(&self) -> ErrorReply {
        let (needed, got) = (self.quorum.needed(), self.quorum.got());
        let who = self.who();
        let message = format!(
            "time is up: the write needs {needed} {who}, {got} answered in time. See `dynakv status`, or \
             give it longer with --timeout"
        );
        ErrorReply::new(ErrorCode::Timeout, message)
            .with_quorum(needed, got)
            .maybe_applied(self.maybe_applied())
            .retryable()
    }
}

#[cfg(test)]
mod tests;
