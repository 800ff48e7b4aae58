//! The table of requests that this node coordinates or forwards.

use bytes::Bytes;
use dynakv_protocol::frame::Frame;
use slab::Slab;
use tokio::time::Instant;

use super::events::ConnectionId;
use super::metrics::Op;
use crate::engine::explain::Explain;
use crate::engine::forward::Forward;
use crate::engine::get::Get;
use crate::engine::import::Import;
use crate::engine::mint::Intent;
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
}

/// An operation and what one message about it is for: a request id towards replicas and the store.
///
/// `purpose u8 ‖ generation u24 ‖ index u32`: an index is used again, with another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationId(u64);

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
    /// When another owner is to be tried besides; `None` once that has happened.
    pub slow_at: Option<Instant>,
    id: OperationId,
}

impl Operation {
    /// How much of the bounds it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.frame.body.len()
    }
}

/// All requests in hand.
#[derive(Debug, Default)]
pub struct Operations {
    table: Slab<Operation>,
    generation: u64,
    bytes: usize,
}

impl Operations {
    /// How many are in hand.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True when nothing is in hand.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
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
            id,
        };
        self.bytes += operation.bytes();
        entry.insert(operation);
        id
    }

    /// An operation that is still in hand.
    pub fn get_mut(&mut self, id: OperationId) -> Option<&mut Operation> {
        let operation = self.table.get_mut(id.index())?;
        (operation.id == id).then_some(operation)
    }

    /// Takes an operation out.
    pub fn remove(&mut self, id: OperationId) -> Option<Operation> {
        self.get_mut(id)?;
        let operation = self.table.remove(id.index());
        self.bytes -= operation.bytes();
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
        ] {
            assert_eq!(OperationId::parse(id.message(purpose)), Some((id, purpose)));
        }
        assert_eq!(OperationId::parse(0), None);
        assert_eq!(OperationId::parse(u64::MAX), None);
    }
}
