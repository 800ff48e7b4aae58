//! All that a replica knows of one key.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{Clock, Dot, SiblingHead};
use crate::codec::{DecodeError, Reader, Wire, put_bytes, put_varint};
use crate::ids::WriteId;
use crate::limits::{CLOCK_ENTRIES_MAX, SIBLINGS_DECODED_MAX, VALUE_BYTES_MAX};

/// What a write stored: bytes, or the mark that it deleted the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Deleted. The mark stays until all owners agreed to drop it.
    Tombstone,
    /// The client's bytes, untouched.
    Bytes(Bytes),
}

impl Value {
    /// How many bytes the client stored.
    pub fn len(&self) -> usize {
        match self {
            Self::Tombstone => 0,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// True for a tombstone and for an empty value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One of a key's values that no other write is known to have replaced.
///
/// The order of the fields is the order in which two values under one dot are compared (that can only
/// come from damage; the larger is kept, so that all replicas agree).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sibling {
    /// The write that made it.
    pub dot: Dot,
    /// That write's random id; a retry has the same one.
    pub write_id: WriteId,
    /// Hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter. For expiry and
    /// last-write-wins only, never for causality.
    pub timestamp: u64,
    /// When it expires, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
    /// What was written.
    pub value: Value,
}

impl Sibling {
    /// The wall-clock part of the timestamp, in milliseconds since 1970.
    pub fn timestamp_ms(&self) -> u64 {
        self.timestamp >> 16
    }

    /// Whether a reader may see it: neither deleted nor expired.
    pub fn is_live(&self, now_unix_ms: u64) -> bool {
        matches!(self.value, Value::Bytes(_))
            && self.expires_at_ms.is_none_or(|at| at > now_unix_ms)
    }
}

/// A write that has no dot yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The client's random id for it.
    pub write_id: WriteId,
    /// Hybrid logical clock of the coordinator.
    pub timestamp: u64,
    /// When it expires, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
    /// What to store.
    pub value: Value,
}

/// All that a replica knows of one key: a clock, and the siblings that survived.
///
/// Every sibling's dot is covered by the clock; siblings stand in the order of their dots. So equal
/// states have equal encodings, and replicas can compare hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    clock: Clock,
    siblings: SmallVec<[Sibling; 1]>,
}

/// First byte of the encoding; another one means another form.
const FORMAT: u8 = 1;

impl Versions {
    /// The state of a key that was never written.
    pub fn new() -> Self {
        Self::default()
    }

    /// A state put together from its parts, held against the same rules as an encoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for a sibling whose dot the clock does not cover (merging such a state
    /// would drop values), and for siblings that are not in the order of their dots, each once.
    pub fn from_parts(
        clock: Clock,
        siblings: impl IntoIterator<Item = Sibling>,
    ) -> Result<Self, DecodeError> {
        let mut versions = Self {
            clock,
            siblings: SmallVec::new(),
        };
        for sibling in siblings {
            versions.push(sibling)?;
        }
        Ok(versions)
    }

    /// Adds the next sibling in the order of dots.
    fn push(&mut self, sibling: Sibling) -> Result<(), DecodeError> {
        if !self.clock.covers(sibling.dot) {
            let what = "dot beyond its clock";
            return Err(DecodeError::Invalid { what });
        }
        let last = self.siblings.last();
        if last.is_some_and(|last| last.dot >= sibling.dot) {
            let what = "sibling order";
            return Err(DecodeError::Invalid { what });
        }
        self.siblings.push(sibling);
        Ok(())
    }

    /// Which writes have been seen.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The values that no write seen here has replaced, tombstones among them.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// True when the key was never written, as far as this replica knows.
    pub fn is_empty(&self) -> bool {
        self.clock.is_empty()
    }

    /// Adds a write: drops every sibling that `context` covers, keeps the others, and takes note of
    /// the context and the new dot.
    ///
    /// The dot must be new: its counter above every one of its actor that the clock and the context
    /// hold. Callers mint it so (`engine/write/mint.rs`).
    pub fn write(&mut self, context: &Clock, dot: Dot, incoming: Incoming) {
        self.siblings.retain(|sibling| !context.covers(sibling.dot));
        self.clock.join(context);
        let sibling = Sibling {
            dot,
            write_id: incoming.write_id,
            timestamp: incoming.timestamp,
            expires_at_ms: incoming.expires_at_ms,
            value: incoming.value,
        };
        self.add(sibling);
    }

    /// Puts a sibling beside the others, and takes note of its dot.
    pub fn add(&mut self, sibling: Sibling) {
        self.clock.see(sibling.dot);
        match self
            .siblings
            .binary_search_by_key(&sibling.dot, |held| held.dot)
        {
            Ok(at) => self.siblings[at] = sibling,
            Err(at) => self.siblings.insert(at, sibling),
        }
    }

    /// Drops the siblings that are not to be kept. The clock stays, so all others drop them too.
    pub fn retain(&mut self, keep: impl Fn(&Sibling) -> bool) {
        self.siblings.retain(|sibling| keep(sibling));
    }

    /// A write of which the two have different values, if there is one. It takes damage or two writers under one
    /// actor: whoever meets it raises an alarm, and [`merge`](Self::merge) keeps the larger value.
    pub fn contradiction(&self, other: &Self) -> Option<Dot> {
        let mut theirs = other.siblings.iter().peekable();
        for mine in &self.siblings {
            while theirs.next_if(|their| their.dot < mine.dot).is_some() {}
            if let Some(same) = theirs.next_if(|their| their.dot == mine.dot)
                && same != mine
            {
                return Some(mine.dot);
            }
        }
        None
    }

    /// Takes in all that another replica knows: a sibling stays when both have it, or when the one
    /// that lacks it has not seen its write.
    ///
    /// Commutative, associative and idempotent.
    pub fn merge(&mut self, other: &Self) {
        // Both lists are sorted by dot: one walk over them gives a sorted list again.
        let mine = std::mem::take(&mut self.siblings);
        let mut merged = SmallVec::new();
        let mut theirs = other.siblings.iter().peekable();
        for sibling in mine {
            while let Some(earlier) = theirs.next_if(|their| their.dot < sibling.dot) {
                if !self.clock.covers(earlier.dot) {
                    merged.push(earlier.clone());
                }
            }
            if let Some(same) = theirs.next_if(|their| their.dot == sibling.dot) {
                // Two values under one dot exist only after damage; all replicas keep the larger.
                merged.push(if *same > sibling {
                    same.clone()
                } else {
                    sibling
                });
            } else if !other.clock.covers(sibling.dot) {
                merged.push(sibling);
            }
        }
        merged.extend(
            theirs
                .filter(|their| !self.clock.covers(their.dot))
                .cloned(),
        );
        self.siblings = merged;
        self.clock.join(&other.clock);
    }
}

impl Wire for Versions {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(FORMAT);
        self.clock.encode(out);
        put_varint(out, self.siblings.len() as u64);
        for sibling in &self.siblings {
            sibling.encode(out);
        }
    }

    /// Refuses a sibling whose dot its clock does not cover: such a state would drop values when it
    /// is merged.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::decode_up_to(reader, CLOCK_ENTRIES_MAX, SIBLINGS_DECODED_MAX)
    }
}

impl Versions {
    /// Decodes a state that may be beyond the limits of every other decoder, as versions of dynakv before these limits
    /// bound writers could store it: to mend it. Takes no more memory than a few times its bytes.
    ///
    /// # Errors
    /// [`DecodeError`] for what is no state at all.
    pub fn from_bytes_of_any_size(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let versions = Self::decode_up_to(&mut reader, usize::MAX, usize::MAX)?;
        reader.finish()?;
        Ok(versions)
    }

    /// How many entries the clock of these encoded versions has, read off their beginning.
    pub fn clock_entries_of(encoded: &Bytes) -> Option<u64> {
        let mut reader = Reader::new(encoded);
        let is_known = reader.u8() == Ok(FORMAT);
        reader.varint().ok().filter(|_| is_known)
    }

    fn decode_up_to(
        reader: &mut Reader<'_>,
        entries_max: usize,
        siblings_max: usize,
    ) -> Result<Self, DecodeError> {
        if reader.u8()? != FORMAT {
            return Err(DecodeError::Invalid {
                what: "versions format",
            });
        }
        let clock = Clock::decode_up_to(reader, entries_max)?;
        let count = reader.count("siblings", siblings_max)?;
        let mut versions = Self {
            clock,
            siblings: SmallVec::new(),
        };
        for _ in 0..count {
            versions.push(Sibling::decode(reader)?)?;
        }
        Ok(versions)
    }
}

impl Wire for Sibling {
    fn encode(&self, out: &mut BytesMut) {
        let head = SiblingHead {
            dot: self.dot,
            write_id: self.write_id,
            timestamp: self.timestamp,
            expires_at_ms: self.expires_at_ms,
            is_tombstone: matches!(self.value, Value::Tombstone),
        };
        head.encode(out);
        if let Value::Bytes(bytes) = &self.value {
            put_bytes(out, bytes);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head = SiblingHead::decode(reader)?;
        let value = match head.is_tombstone {
            true => Value::Tombstone,
            false => Value::Bytes(reader.bytes("value", VALUE_BYTES_MAX)?),
        };
        Ok(Self {
            dot: head.dot,
            write_id: head.write_id,
            timestamp: head.timestamp,
            expires_at_ms: head.expires_at_ms,
            value,
        })
    }
}
