//! Names: of nodes, clusters, writers and writes.
//!
//! Each is a type of its own, so that a generation can't be passed where a ring version belongs.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, Wire, put_string};

/// The longest node id, cluster name, zone or address, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest node id, in bytes.
pub const NODE_ID_BYTES_MAX: usize = 64;

/// The name an operator gives a node (`--id node-1`). Cheap to clone.
///
/// 1 to 64 bytes of ASCII letters, digits, `.`, `_` and `-`; the ring position of every virtual
/// node is derived from it, so it never changes during a node's life.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// Why a text is no node id or cluster name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a valid name: use 1 to {NODE_ID_BYTES_MAX} ASCII letters, digits, '.', '_' or '-'"
)]
pub struct InvalidName {
    name: String,
}

/// Checks a node id, cluster name or zone: 1 to 64 bytes of letters, digits, `.`, `_`, `-`.
///
/// # Errors
/// [`InvalidName`] for anything else.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=NODE_ID_BYTES_MAX).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        // A hostile name must not flood a log line.
        let name = name.chars().take(NODE_ID_BYTES_MAX).collect();
        Err(InvalidName { name })
    }
}

impl NodeId {
    /// Checks and keeps a node's name.
    ///
    /// # Errors
    /// [`InvalidName`] when the name is empty, longer than 64 bytes or has other characters than
    /// ASCII letters, digits, `.`, `_` and `-`.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check_name(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for NodeId {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl Wire for NodeId {
    fn encode(&self, out: &mut BytesMut) {
        put_string(out, &self.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = reader.string("node id", NODE_ID_BYTES_MAX)?;
        Self::new(name).map_err(|_| DecodeError::Invalid { what: "node id" })
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $put:ident, $take:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl Wire for $name {
            fn encode(&self, out: &mut BytesMut) {
                out.$put(self.0);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(reader.$take()?))
            }
        }
    };
}

number_id! {
    /// The identity of a cluster: random, made once when the cluster is founded.
    ///
    /// Zero means "none yet": a node that has not joined sends it in its handshake.
    ClusterId(u128), put_u128, u128
}

number_id! {
    /// Who mints dots: a random id of a node's present generation.
    ///
    /// An actor never outlives doubt about its own past (docs/design/causality.md, "Actors"): a node takes a new one
    /// after every unclean start, so two values can never share a dot.
    Actor(u64), put_u64, u64
}

number_id! {
    /// The id of one client write. The same id twice is one sibling, so a retry is safe.
    ///
    /// Its upper half is a client's, random; its lower half counts that client's writes, in the order in
    /// which they begin. Nothing but the order of one client's writes hangs on that: an id that is random
    /// throughout is as good, for whoever sends no write twice.
    WriteId(u128), put_u128, u128
}

number_id! {
    /// The identity of a data directory: random, made once with it. A wiped directory has another one,
    /// so a node that lost everything can't pass for the one that was there.
    DirectoryId(u64), put_u64, u64
}

number_id! {
    /// How often a node's data directory has been started: persisted and raised at every start.
    Generation(u64), put_u64, u64
}

number_id! {
    /// The number of a [ring document](crate::ring_document::RingDocument); 0 means "no ring yet".
    RingVersion(u64), put_u64, u64
}

impl WriteId {
    /// The id of a client's write by its number.
    pub fn new(client: u64, number: u64) -> Self {
        Self(u128::from(client) << 64 | u128::from(number))
    }

    /// Whether both are one client's, and this one is the earlier.
    pub fn precedes(self, other: Self) -> bool {
        self.0 >> 64 == other.0 >> 64 && self.0 < other.0
    }
}

impl ClusterId {
    /// True for the id a node carries before it has joined a cluster.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for RingVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_ids_of_one_client_have_an_order() {
        let id = WriteId::new;
        assert_eq!(id(1, 2), WriteId(1 << 64 | 2));
        assert!(id(1, 2).precedes(id(1, 3)));
        assert!(!id(1, 3).precedes(id(1, 3)) && !id(1, 3).precedes(id(1, 2)));
        assert!(!id(1, 2).precedes(id(2, 3)) && !id(2, 3).precedes(id(1, 2)));
    }

    #[test]
    fn node_ids_are_checked() {
        for good in ["a", "node-1", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(NodeId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "ä", "a\0", &"x".repeat(65)] {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
    }
}
