//! Coordinating reads: whom to ask, when to ask one more, and what is learnt from the answers.

use dynakv_protocol::message::kind;

use super::{
    Bytes, Coordinator, Duration, ErrorCode, ErrorReply, Frame, Hedging, Instant, Kind, NodeSlot,
    OperationId, Preference, Requester, SELF,
};
use crate::engine::operation::{Effect, Event, Operation};
use crate::engine::placement::preference::Reach;
use crate::engine::read::get::{Get, Hedge, Plan};
use crate::engine::read::hedge::LATE;

/// Encoded versions of more bytes than this are first asked for as a digest. Hashing them at both ends
/// costs less than sending them from here on, and a second question is seldom.
pub(super) const DIGEST_ABOVE_BYTES: u32 = 4096;

impl Coordinator {
    /// The time since this coordinator began, as the engine counts it.
    pub(super) fn uptime(&self) -> Duration {
        self.now - self.started
    }

    /// Begins a read whose key this node owns.
    pub(super) fn read(
        &mut self,
        requester: Requester,
        frame: Frame,
        key: Bytes,
        (owners, place): (Preference, u8),
        (r, repair_first): (u8, bool),
    ) {
        self.turn = self.turn.wrapping_add(1);
        self.hedging.earn();
        let plan = Plan {
            r,
            repair_first,
            in_full: self.rebuilding.covers(&key),
            turn: self.turn,
        };
        let now = self.uptime();
        let mut effects = std::mem::take(&mut self.effects);
        let reach = |node| self.links.reach(node);
        let pace = (&mut self.pace, now);
        let operation = Operation::get(owners, place, plan, reach, pace, &mut effects);
        let spare = operation.as_get().and_then(Get::next_spare);
        let asked = effects.iter().filter_map(|effect| match effect {
            Effect::Read { from, .. } if *from != SELF => Some(self.pace.expects(*from)),
            _ => None,
        });
        let slowest = asked.max();
        let late_at = self.now + LATE;
        let id = self.take_in(requester, (frame, key), operation, late_at, effects);
        if let Some(expected) = slowest
            && spare.is_some()
        {
            self.hedges.push(Hedging::step(expected), self.now, id);
        }
    }

    /// Asks one owner more for each read that has waited long enough, as far as the budget goes. An owner
    /// in doubt is not worth it; it is asked when the read is late.
    pub(super) fn hedge(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.hedges.take_due(self.now, &mut due);
        for id in due.drain(..) {
            let spare = self.next_spare(id);
            if spare.is_none_or(|spare| self.links.reach(spare) == Reach::Doubtful) {
                continue;
            }
            if self.hedging.spend() {
                self.ask_one_more(id);
            } else {
                self.metrics.reads.hedges_over_budget.increment(1);
            }
        }
        self.due = due;
    }

    /// When [`hedge`](Self::hedge) has something to do.
    pub(super) fn next_hedge_at(&mut self) -> Option<Instant> {
        let operations = &self.operations;
        self.hedges.next_at(|id| operations.contains(id))
    }

    /// A read has taken as long as no read should: asks one more without a budget, unless that one would
    /// take as long.
    pub(super) fn on_late_read(&mut self, id: OperationId) {
        let Some(spare) = self.next_spare(id) else {
            return;
        };
        let expected = self.pace.expects(spare);
        let Some(in_hand) = self.operations.get_mut(id) else {
            return;
        };
        let begun = in_hand.requester.arrived;
        match Hedging::is_late(self.now - begun, expected) {
            Ok(()) => self.ask_one_more(id),
            Err(late) => self.operations.set_slow_at(id, begun + late),
        }
    }

    fn next_spare(&mut self, id: OperationId) -> Option<NodeSlot> {
        self.read_in_hand(id).and_then(Get::next_spare)
    }

    /// An operation, where that is a read.
    fn read_in_hand(&mut self, id: OperationId) -> Option<&Get> {
        self.operations.get_mut(id)?.operation.as_get()
    }

    fn ask_one_more(&mut self, id: OperationId) {
        self.note_overdue(id);
        if self.read_in_hand(id).map(Get::hedge) == Some(Hedge::None) {
            self.metrics.reads.hedged.increment(1);
        }
        // With many owners there may be another one after this.
        self.operations.set_slow_at(id, self.now + LATE);
        self.step(id, Event::Slow);
    }

    /// A read is about to be answered.
    pub(super) fn on_read_ends(&mut self, id: OperationId) {
        self.note_overdue(id);
        if self.read_in_hand(id).map(Get::hedge) == Some(Hedge::Won) {
            self.metrics.reads.hedges_won.increment(1);
        }
    }

    /// Owners that have not answered yet take at least as long as that.
    fn note_overdue(&mut self, id: OperationId) {
        let now = self.now;
        if let Some(in_hand) = self.operations.get_mut(id)
            && let Some(get) = in_hand.operation.as_get()
        {
            for (node, waited) in in_hand.sent(now) {
                if !get.has_answered(node) {
                    self.pace.overdue(node, waited);
                }
            }
        }
    }

    /// An owner has answered a read, perhaps one that has ended before.
    pub(super) fn on_read_answer(&mut self, from: NodeSlot, took: Option<Duration>, kind: u8) {
        if kind == kind::READ | kind::ANSWER {
            let now = self.uptime();
            self.pace.answered(from, took, now);
        } else {
            self.pace.refused(from);
        }
    }

    /// An operation is given versions to hold. False when so much is gathered for clients that it ends
    /// here, refused; what writes is never given up for that.
    pub(super) fn gather(&mut self, id: OperationId, bytes: usize) -> bool {
        let results = self.operations.results();
        let is_over = results > 0 && results + bytes > self.ledger.bytes_max(Kind::Results);
        let in_hand = self.operations.get_mut(id);
        if is_over && in_hand.is_some_and(|it| it.operation.may_be_given_up()) {
            self.metrics.refused.increment(1);
            let message = "what this node has gathered of keys for its clients takes as much memory as it \
                           may; try again in a moment, or at another node";
            let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
            if let Some(in_hand) = self.operations.remove(id) {
                self.end(in_hand.requester, Err(error));
            }
            return false;
        }
        self.operations.gather(id, bytes);
        true
    }
}
