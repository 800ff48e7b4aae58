//! The table of requests that this node coordinates or forwards.

use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::RingVersion;
use dynakv_protocol::frame::Frame;
use slab::Slab;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::engine::operation::{Operation, Purpose};
use crate::engine::placement::preference::NodeSlot;
use crate::engine::write::attempts::Attempts;
use crate::runtime::observe::metrics::Op;
use crate::runtime::shared::events::ConnectionId;

/// Whom an operation is for.
#[derive(Debug, Clone, Copy)]
pub struct Requester {
    /// Where the answer goes.
    pub connection: ConnectionId,
    /// Under which id.
    pub request_id: u64,
    /// What was asked.
    pub op: Op,
    /// When it arrived.
    pub arrived: Instant,
    /// When its sender stops waiting.
    pub deadline: Instant,
    /// Who was given it to coordinate and may have acted on it. While it is on its way to an owner the operation knows
    /// that better; this is brought up to date when it leaves the table.
    pub attempts: Attempts,
    /// When it may be minted at the latest, if there is such a time: see [`lateness`](crate::engine::write::lateness).
    pub begin_by: Option<Instant>,
}

impl Requester {
    /// Whether it is a client's write that somebody was given and may have acted on: the next attempt has
    /// to say that it is not the first. (An import is a merge, which is one and the same however often.)
    pub fn is_attempted(&self) -> bool {
        matches!(self.op, Op::Put | Op::Delete) && self.attempts.any()
    }

    /// Whether it is a write.
    pub fn is_write(&self) -> bool {
        match self.op {
            Op::Put | Op::Delete | Op::Import => true,
            Op::Get | Op::Explain => false,
        }
    }
}

/// An operation and what one message about it is for: a request id towards replicas and the store.
///
/// `purpose u8 ‖ generation u24 ‖ index u32`: an index is used again, with another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationId(u64);

/// How many answered writes are kept until their last owners have answered. A node that is silent leaves
/// each write of some seconds behind; anti-entropy finds what is forgotten.
const TAILS_MAX: usize = 16_384;

/// From so many bytes on an answered write lets go of its request at once; a copy of the key costs nothing
/// beside them.
const LARGE_REQUEST_BYTES: usize = 4096;

/// Answered writes that time is up for are ended this far apart, in one go.
const TAILS_TOGETHER: Duration = Duration::from_millis(250);

/// After how long all of them are looked at again at the latest.
const LOOK_MAX: Duration = Duration::from_secs(1);

const GENERATION_MASK: u64 = (1 << 24) - 1;

impl OperationId {
    fn new(index: usize, generation: u64) -> Self {
        Self((generation & GENERATION_MASK) << 32 | index as u64 & 0xffff_ffff)
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    /// The id of a message for this purpose.
    pub fn message(self, purpose: Purpose) -> u64 {
        self.0 | (purpose as u64) << 56
    }

    /// Takes a message's id apart. `None` when it is none of ours.
    pub fn parse(message: u64) -> Option<(Self, Purpose)> {
        let purpose = Purpose::from_number((message >> 56) as u8)?;
        Some((Self(message & !(0xff << 56)), purpose))
    }
}

/// One request in hand, with what the network and the clock have to do with it.
#[derive(Debug)]
pub struct InHand {
    /// Whom it is for.
    pub requester: Requester,
    /// Its key.
    pub key: Bytes,
    /// As it came, for forwarding it or beginning again.
    pub frame: Frame,
    /// The ring under which it is decided: what is asked for it is labelled with that.
    pub ring_version: RingVersion,
    /// Whether it has met a newer ring after it had its dot. Then its dot is no sign that it is in time: whoever was to
    /// have it may have refused it, and somebody else been given the write since.
    pub is_rebased: bool,
    /// What is decided about it.
    pub operation: Operation,
    /// When another node is to be tried besides; `None` when no other may be.
    slow_at: Option<Instant>,
    /// Whether its client has been answered: it only waits for the last owners.
    is_tail: bool,
    /// Whether its key is a slice of all that came with it.
    holds_request: bool,
    /// Bytes of versions that it holds.
    results: usize,
    /// Who was sent something last, and how many microseconds after the arrival.
    sent: SmallVec<[(NodeSlot, u32); 4]>,
    id: OperationId,
}

impl InHand {
    /// Copies the key, so that the rest of what it came with can go.
    fn let_go_of_request(&mut self) {
        self.key = Bytes::copy_from_slice(&self.key);
        self.holds_request = false;
    }

    /// Takes note that a node is sent something now.
    pub fn note_sent(&mut self, to: NodeSlot, now: Instant) {
        let after = now.saturating_duration_since(self.requester.arrived);
        // Deadlines are at most a minute away.
        let after_us = after.as_micros() as u32;
        match self.sent.iter_mut().find(|(node, _)| *node == to) {
            Some((_, at)) => *at = after_us,
            None => self.sent.push((to, after_us)),
        }
    }

    /// Who was sent something, and how long ago.
    pub fn sent(&self, now: Instant) -> impl Iterator<Item = (NodeSlot, Duration)> + '_ {
        let since = now.saturating_duration_since(self.requester.arrived);
        let ago =
            move |after_us: u32| since - Duration::from_micros(u64::from(after_us)).min(since);
        self.sent.iter().map(move |&(node, at)| (node, ago(at)))
    }
}

/// All requests in hand.
#[derive(Debug)]
pub struct Operations {
    table: Slab<InHand>,
    generation: u64,
    results: usize,
    tails: usize,
    /// Before this nothing is due: looking at all of them costs, once thousands are in hand.
    due_at: Instant,
    started_at: Instant,
}

impl Operations {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self {
            table: Slab::new(),
            generation: 0,
            results: 0,
            tails: 0,
            due_at: now,
            started_at: now,
        }
    }

    /// How many are in hand; those that are answered do not count.
    pub fn len(&self) -> usize {
        self.table.len() - self.tails
    }

    /// True when nothing is in hand.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps an answered operation, without its request, until its last owners have answered too. False
    /// when so many are kept already that this one must be forgotten.
    pub fn begin_tail(&mut self, id: OperationId) -> bool {
        let has_room = self.tails < TAILS_MAX;
        let Some(in_hand) = self.get_mut(id).filter(|it| has_room && !it.is_tail) else {
            return false;
        };
        in_hand.is_tail = true;
        in_hand.slow_at = None;
        let request = std::mem::take(&mut in_hand.frame.body);
        if request.len() >= LARGE_REQUEST_BYTES {
            in_hand.let_go_of_request();
        }
        self.tails += 1;
        true
    }

    /// Bytes of versions that operations hold. Their requests are counted where they came in.
    pub fn results(&self) -> usize {
        self.results
    }

    /// An operation holds so many bytes of versions more, until it ends.
    pub fn gather(&mut self, id: OperationId, bytes: usize) {
        if let Some(in_hand) = self.get_mut(id) {
            in_hand.results += bytes;
            self.results += bytes;
        }
    }

    /// Takes an operation in.
    pub fn insert(
        &mut self,
        requester: Requester,
        key: Bytes,
        frame: Frame,
        (ring_version, operation): (RingVersion, Operation),
        slow_at: Instant,
    ) -> OperationId {
        self.generation += 1;
        let entry = self.table.vacant_entry();
        let id = OperationId::new(entry.key(), self.generation);
        let in_hand = InHand {
            requester,
            key,
            frame,
            ring_version,
            is_rebased: false,
            operation,
            slow_at: Some(slow_at),
            is_tail: false,
            holds_request: true,
            results: 0,
            sent: SmallVec::new(),
            id,
        };
        self.due_at = self.due_at.min(slow_at).min(requester.deadline);
        entry.insert(in_hand);
        id
    }

    /// Has an operation go on under another ring, and gives the id that it has from now on: what is answered to what was
    /// asked before finds it no more.
    pub fn rebase(&mut self, id: OperationId, version: RingVersion) -> Option<OperationId> {
        self.generation += 1;
        let next = OperationId::new(id.index(), self.generation);
        let in_hand = self.get_mut(id)?;
        in_hand.ring_version = version;
        in_hand.is_rebased = true;
        in_hand.id = next;
        Some(next)
    }

    /// Another node is to be tried at this time if an operation is still in hand.
    pub fn set_slow_at(&mut self, id: OperationId, slow_at: Instant) {
        if let Some(in_hand) = self.get_mut(id) {
            in_hand.slow_at = Some(slow_at);
            self.due_at = self.due_at.min(slow_at);
        }
    }

    /// Whether an operation is still in hand.
    pub fn contains(&self, id: OperationId) -> bool {
        let in_hand = self.table.get(id.index());
        in_hand.is_some_and(|in_hand| in_hand.id == id)
    }

    /// An operation that is still in hand.
    pub fn get_mut(&mut self, id: OperationId) -> Option<&mut InHand> {
        let in_hand = self.table.get_mut(id.index())?;
        (in_hand.id == id).then_some(in_hand)
    }

    /// Whether an operation only waits for its last owners.
    pub fn is_tail(&mut self, id: OperationId) -> bool {
        self.get_mut(id).is_some_and(|in_hand| in_hand.is_tail)
    }

    /// Takes an operation out; its requester knows by then who may have acted on it.
    pub fn remove(&mut self, id: OperationId) -> Option<InHand> {
        self.get_mut(id)?;
        let mut in_hand = self.table.remove(id.index());
        self.results -= in_hand.results;
        self.tails -= usize::from(in_hand.is_tail);
        if let Some(attempts) = in_hand.operation.attempts() {
            in_hand.requester.attempts = attempts;
        }
        Some(in_hand)
    }

    /// The ids of all operations, in the order of the table.
    pub fn ids(&self) -> Vec<OperationId> {
        self.table.iter().map(|(_, in_hand)| in_hand.id).collect()
    }

    /// The operations whose deadline has passed, and those that have become slow (which is then no
    /// longer due).
    pub fn due(&mut self, now: Instant) -> (Vec<OperationId>, Vec<OperationId>) {
        let (mut expired, mut slow) = (Vec::new(), Vec::new());
        if now < self.due_at {
            return (expired, slow);
        }
        // As far as anything that is there says; what comes says more.
        let mut next = now + LOOK_MAX;
        for (_, in_hand) in &mut self.table {
            let deadline = in_hand.requester.deadline;
            let ends_at = match in_hand.is_tail {
                true => together(self.started_at, deadline),
                false => deadline,
            };
            if ends_at <= now {
                expired.push(in_hand.id);
                continue;
            }
            // Most are gone long before somebody looks; the rest lets go of what it came with.
            if in_hand.is_tail && in_hand.holds_request {
                in_hand.let_go_of_request();
            }
            if in_hand.slow_at.is_some_and(|at| at <= now) {
                in_hand.slow_at = None;
                slow.push(in_hand.id);
            }
            next = next.min(in_hand.slow_at.unwrap_or(ends_at)).min(ends_at);
        }
        self.due_at = next;
        (expired, slow)
    }
}

/// When what ends at this time is ended, together with all that ends at about then.
fn together(since: Instant, deadline: Instant) -> Instant {
    let steps = deadline.saturating_duration_since(since).as_nanos() / TAILS_TOGETHER.as_nanos();
    // Deadlines are at most a minute away; 2^32 steps are 30 years.
    since + TAILS_TOGETHER * (steps as u32).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::frame::Header;

    use super::*;
    use crate::engine::operation::Effects;
    use crate::engine::placement::preference::{Preference, Reach};
    use crate::engine::write::forward::Terms;

    fn insert(table: &mut Operations, now: Instant, slow_ms: u64, deadline_ms: u64) -> OperationId {
        let requester = Requester {
            connection: ConnectionId(1),
            request_id: 1,
            op: Op::Put,
            arrived: now,
            deadline: now + Duration::from_millis(deadline_ms),
            attempts: Attempts::default(),
            begin_by: None,
        };
        let terms = Terms {
            needed: 2,
            is_write: true,
            ..Terms::default()
        };
        let owners = Preference::new([NodeSlot(1)]);
        let effects = &mut Effects::default();
        let operation = Operation::forward(&owners, 0, terms, |_| Reach::Usable, effects);
        let body = Bytes::from_static(b"a request with a key");
        let key = body.slice(17..);
        let header = Header::new(1, 1);
        let slow_at = now + Duration::from_millis(slow_ms);
        let frame = Frame { header, body };
        let operation = (RingVersion(1), operation);
        table.insert(requester, key, frame, operation, slow_at)
    }

    #[test]
    fn each_is_slow_and_expires_when_it_is_due_and_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut table = Operations::new(start);
        let first = insert(&mut table, start, 500, 5000);
        let none = (Vec::new(), Vec::new());
        assert_eq!(table.due(at(499)), none);
        // What comes later may be due earlier.
        let second = insert(&mut table, start, 20, 600);
        assert_eq!(table.due(at(19)), none);
        assert_eq!(table.due(at(20)), (vec![], vec![second]));
        assert_eq!(table.due(at(30)), none);
        table.set_slow_at(second, at(40));
        assert_eq!(table.due(at(39)), none);
        assert_eq!(table.due(at(41)), (vec![], vec![second]));
        assert_eq!(table.due(at(510)), (vec![], vec![first]));
        assert_eq!(table.due(at(600)), (vec![second], vec![]));
        table.remove(second);
        assert_eq!(table.due(at(4999)), none);
        assert_eq!(table.due(at(5000)), (vec![first], vec![]));
    }

    #[test]
    fn answered_writes_end_together_and_a_little_late() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut table = Operations::new(start);
        let ids = [1010, 1100, 1240].map(|ms| insert(&mut table, start, 500, ms));
        for id in ids {
            assert!(table.begin_tail(id) && !table.begin_tail(id));
        }
        assert_eq!(table.len(), 0);
        for ms in [500, 1010, 1100, 1249] {
            assert_eq!(table.due(at(ms)), (vec![], vec![]), "{ms}");
        }
        assert_eq!(table.due(at(1250)), (ids.to_vec(), vec![]));
    }

    #[test]
    fn message_ids_say_what_they_are_for() {
        let id = OperationId::new(77, 0xab_cdef);
        for purpose in Purpose::ALL {
            assert_eq!(OperationId::parse(id.message(purpose)), Some((id, purpose)));
        }
        assert_eq!(OperationId::parse(0), None);
        assert_eq!(OperationId::parse(u64::MAX), None);
    }
}
