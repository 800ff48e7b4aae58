//! Positions on the 64-bit ring, fixed for ever.
//!
//! Everything that two nodes must agree on about placement is derived here, from xxh3-64 (seed 0) and
//! never from a hasher that may change between compiler versions. Golden tests pin the values: a
//! change of any of them would orphan all stored data.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::ids::NodeId;

/// Into how many segments the ring is cut: the top 16 bits of a position.
pub const SEGMENTS: usize = 1 << 16;

/// How many virtual nodes a node of weight 1 has.
pub const VIRTUAL_NODES_PER_NODE: u32 = 150;

/// A point on the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// One of the 65,536 equal arcs of the ring: the unit of ownership, transfer and anti-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(pub u16);

impl Position {
    /// Where a key lies.
    pub fn of_key(key: &[u8]) -> Self {
        Self(xxh3_64(key))
    }

    /// Where virtual node `index` of a node lies: xxh3-64 of `id ‖ 0x00 ‖ index (u32, big-endian)`.
    pub fn of_virtual_node(id: &NodeId, index: u32) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(id.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(&index.to_be_bytes());
        Self(hasher.digest())
    }

    /// The segment that holds this position.
    pub fn segment(self) -> Segment {
        Segment((self.0 >> 48) as u16)
    }
}

impl Segment {
    /// The first position of the segment; the owners of this point own the whole segment.
    pub fn start(self) -> Position {
        Position(u64::from(self.0) << 48)
    }

    /// The segment of a key.
    pub fn of_key(key: &[u8]) -> Self {
        Position::of_key(key).segment()
    }
}

/// xxh3-64 (seed 0) of any bytes: tells damage and difference, nothing else.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_never_change() {
        assert_eq!(
            Position::of_key(b"user:123"),
            Position(0xe7fe_84ba_d891_3b52)
        );
        assert_eq!(Position::of_key(b""), Position(0x2d06_8005_38d3_94c2));
        let node = NodeId::new("node-1").unwrap();
        assert_eq!(
            Position::of_virtual_node(&node, 0),
            Position(0x8536_1ec1_1c8d_53d0)
        );
        assert_eq!(
            Position::of_virtual_node(&node, 149),
            Position(0xa1cf_1ea4_37dd_9fac)
        );
    }

    #[test]
    fn a_segment_is_the_top_sixteen_bits() {
        assert_eq!(Position(0xabcd_0000_0000_0001).segment(), Segment(0xabcd));
        assert_eq!(Segment(0xabcd).start(), Position(0xabcd_0000_0000_0000));
        assert_eq!(Position(u64::MAX).segment(), Segment(u16::MAX));
    }
}
