//! Positions on the 64-bit ring, fixed for ever.
//!
//! Everything that two nodes must agree on about placement is derived here, from xxh3-64 (seed 0) and
//! never from a hasher that may change between compiler versions. Golden tests pin the values: a
//! change of any of them would orphan all stored data.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed, xxh3_128, xxh3_128_with_seed};

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

/// Which state a key is in: a hash of the key and its encoded versions, clock, dots and values and all.
///
/// Equal states have equal encodings, and a value that expires is still encoded as before. The hash of a
/// [segment](Segment) is the XOR of these; 0 stands for a key that was never written. It tells
/// differences, not forgeries: but as each state holds dots of random actors, nobody can prepare two
/// states of one hash beforehand.
pub fn versions_hash(key: &[u8], versions: &[u8]) -> u128 {
    // Another seed than that of positions: keys made to share a position do not share this.
    xxh3_128_with_seed(versions, xxh3_64_with_seed(key, 1))
}

/// xxh3-128 (seed 0) of encoded versions: what a replica answers in their place.
pub fn digest(versions: &[u8]) -> u128 {
    xxh3_128(versions)
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
    fn hashes_of_states_never_change() {
        assert_eq!(
            versions_hash(b"k", b"v"),
            0x277a_34c6_7075_ee15_0f1d_769f_3ab7_20ba
        );
        assert_eq!(
            versions_hash(b"k", &[7; 1000]),
            0xd8f1_fafd_82e9_5bf0_0944_bc9f_627b_99db
        );
        assert_ne!(versions_hash(b"l", b"v"), versions_hash(b"k", b"v"));
    }

    #[test]
    fn digests_never_change() {
        assert_eq!(digest(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
        assert_eq!(
            digest(&[7; 1000]),
            0x2c00_f440_6d41_15f6_5d7e_9d56_3954_51ea
        );
    }

    #[test]
    fn a_segment_is_the_top_sixteen_bits() {
        assert_eq!(Position(0xabcd_0000_0000_0001).segment(), Segment(0xabcd));
        assert_eq!(Segment(0xabcd).start(), Position(0xabcd_0000_0000_0000));
        assert_eq!(Position(u64::MAX).segment(), Segment(u16::MAX));
    }
}
