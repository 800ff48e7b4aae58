//! The table of requests that this node coordinates or forwards.

use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::frame::Frame;
use slab::Slab;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::events::ConnectionId;
use super::metrics::Op;
use crate::engine::explain::Explain;
use crate::engine::forward::Forward;
use crate::engine::get::Get;
use crate::engine::import::Import;
use crate::engine::mint::Intent;
use crate::engine::preference::NodeSlot;
use crate::engine::put::Put;

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
    /// How many owners were given it to coordinate and may have acted on it. What a later one says, or this node when it takes
    /// over, is no word about an earlier one: that may have written it and not be able to say so.
    pub handed_on: u8,
}

impl Requester {
    /// Whether it is a write.
    pub fn is_write(&self) -> bool {
        match self.op {
            Op::Put | Op::Delete | Op::Import => true,
            Op::Get | Op::Explain => false,
        }
    }
}

/// What a message about an operation is for. It travels in the request id, so that a late answer of
/// one phase is not taken for an answer of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Can the node be reached?
    Ping = 1,
    /// Read its versions.
    Read = 2,
    /// Write or merge, and be durable.
    Write = 3,
    /// Mend it.
    Repair = 4,
    /// Coordinate the request.
    Forward = 5,
    /// Keep it for an owner.
    Hint = 6,
}

/// An operation and what one message about it is for: a request id towards replicas and the store.
///
/// `purpose u8 ‖ generation u24 ‖ index u32`: an index is used again, with another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationId(u64);

/// How many answered writes are kept until their last owners have answered. A node that is silent leaves
/// each write of some seconds behind; anti-entropy finds what is forgotten.
const TAILS_MAX: usize = 16_384;

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
        let purpose = match message >> 56 {
            1 => Purpose::Ping,
            2 => Purpose::Read,
            3 => Purpose::Write,
            4 => Purpose::Repair,
            5 => Purpose::Forward,
            6 => Purpose::Hint,
            _ => return None,
        };
        Some((Self(message & !(0xff << 56)), purpose))
    }
}

/// What is being done.
#[derive(Debug)]
pub enum Work {
    /// A write coordinated here.
    Put {
        /// Its state.
        put: Put,
        /// The write, until the store takes it.
        intent: Option<Box<Intent>>,
    },
    /// A read coordinated here.
    Get(Get),
    /// A request handed on to an owner.
    Forward(Forward),
    /// A key explained.
    Explain(Explain),
    /// Versions merged into a key.
    Import {
        /// Its state.
        import: Import,
        /// What is merged, encoded.
        versions: Bytes,
    },
}

/// One request in hand.
#[derive(Debug)]
pub struct Operation {
    /// Whom it is for.
    pub requester: Requester,
    /// Its key.
    pub key: Bytes,
    /// As it came, for forwarding it or beginning again.
    pub frame: Frame,
    /// What is being done.
    pub work: Work,
    /// When another node is to be tried besides; `None` when no other may be.
    pub slow_at: Option<Instant>,
    /// Whether its client has been answered: it only waits for the last owners.
    is_tail: bool,
    /// Who was sent something last, and how many microseconds after the arrival.
    sent: SmallVec<[(NodeSlot, u32); 4]>,
    id: OperationId,
}

impl Operation {
    /// How much of the bounds it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.frame.body.len()
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
#[derive(Debug, Default)]
pub struct Operations {
    table: Slab<Operation>,
    generation: u64,
    bytes: usize,
    tails: usize,
}

impl Operations {
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
        let Some(operation) = self.get_mut(id).filter(|it| has_room && !it.is_tail) else {
            return false;
        };
        let bytes = operation.bytes();
        operation.is_tail = true;
        operation.frame.body = Bytes::new();
        // A key of its own: it is a slice of all that came with it.
        operation.key = Bytes::copy_from_slice(&operation.key);
        self.bytes -= bytes;
        self.tails += 1;
        true
    }

    /// Bytes of requests in hand.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an operation in.
    pub fn insert(
        &mut self,
        requester: Requester,
        key: Bytes,
        frame: Frame,
        work: Work,
        slow_at: Instant,
    ) -> OperationId {
        self.generation += 1;
        let entry = self.table.vacant_entry();
        let id = OperationId::new(entry.key(), self.generation);
        let operation = Operation {
            requester,
            key,
            frame,
            work,
            slow_at: Some(slow_at),
            is_tail: false,
            sent: SmallVec::new(),
            id,
        };
        self.bytes += operation.bytes();
        entry.insert(operation);
        id
    }

    /// Whether an operation is still in hand.
    pub fn contains(&self, id: OperationId) -> bool {
        let operation = self.table.get(id.index());
        operation.is_some_and(|operation| operation.id == id)
    }

    /// An operation that is still in hand.
    pub fn get_mut(&mut self, id: OperationId) -> Option<&mut Operation> {
        let operation = self.table.get_mut(id.index())?;
        (operation.id == id).then_some(operation)
    }

    /// Whether an operation only waits for its last owners.
    pub fn is_tail(&mut self, id: OperationId) -> bool {
        self.get_mut(id).is_some_and(|operation| operation.is_tail)
    }

    /// Takes an operation out.
    pub fn remove(&mut self, id: OperationId) -> Option<Operation> {
        self.get_mut(id)?;
        let operation = self.table.remove(id.index());
        self.bytes -= operation.bytes();
        self.tails -= usize::from(operation.is_tail);
        Some(operation)
    }

    /// The ids of all operations, in the order of the table.
    pub fn ids(&self) -> Vec<OperationId> {
        self.table
            .iter()
            .map(|(_, operation)| operation.id)
            .collect()
    }

    /// The operations whose deadline has passed, and those that have become slow (which is then no
    /// longer due).
    pub fn due(&mut self, now: Instant) -> (Vec<OperationId>, Vec<OperationId>) {
        let (mut expired, mut slow) = (Vec::new(), Vec::new());
        for (_, operation) in &mut self.table {
            if operation.requester.deadline <= now {
                expired.push(operation.id);
            } else if operation.slow_at.is_some_and(|at| at <= now) {
                operation.slow_at = None;
                slow.push(operation.id);
            }
        }
        (expired, slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_say_what_they_are_for() {
        let id = OperationId::new(77, 0xab_cdef);
        for purpose in [
            Purpose::Ping,
            Purpose::Read,
            Purpose::Write,
            Purpose::Repair,
            Purpose::Forward,
            Purpose::Hint,
        ] {
            assert_eq!(OperationId::parse(id.message(purpose)), Some((id, purpose)));
        }
        assert_eq!(OperationId::parse(0), None);
        assert_eq!(OperationId::parse(u64::MAX), None);
    }
}
