//! What is kept of one key, and its form on disk.

use std::collections::BTreeSet;

use bytes::{BufMut, BytesMut};
use dynakv_protocol::DecodeError;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::{Reader, Wire, put_bool, put_bytes, put_varint};
use dynakv_protocol::ids::NodeId;
use dynakv_protocol::ring_document::N_MAX;

/// The form of a hint on disk.
const FORMAT: u8 = 1;

/// What is kept of one key for owners that may not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The versions; `None` stands for what this node's own store has.
    pub versions: Option<Versions>,
    /// Who has not said yet that it has them.
    pub owed: BTreeSet<NodeId>,
    /// How many of those must have it, at one moment, before the hint may be dropped; 0 for one that counts
    /// for nothing, or for nothing any more.
    pub needed: u8,
    /// When it was kept, in milliseconds since 1970: only what counts for nothing ages.
    pub kept_at_ms: u64,
}

impl Hint {
    /// A reminder that these owners may lack what this node's own store has.
    pub fn reminder(owed: impl IntoIterator<Item = NodeId>, now_unix_ms: u64) -> Self {
        Self {
            versions: None,
            owed: owed.into_iter().collect(),
            needed: 0,
            kept_at_ms: now_unix_ms,
        }
    }

    /// Whether it is a replica that an acknowledged write counted on.
    pub fn counts(&self) -> bool {
        self.needed > 0
    }

    /// Whether it says nothing that an earlier one did not say; when it was kept does not matter.
    pub fn is_no_news_after(&self, earlier: &Self) -> bool {
        (self.needed, &self.owed) == (earlier.needed, &earlier.owed)
            && self.versions == earlier.versions
    }

    /// Adds another hint of the same key. An owner that has said that it has the former versions, and is
    /// owed the key again now, will be counted once more, so one more must say so: `needed` owners *besides
    /// those* have to have the former ones.
    pub fn absorb(&mut self, other: Self) {
        let again = other.owed.difference(&self.owed).count() as u8;
        if self.needed > 0 {
            self.needed = self.needed.saturating_add(again);
        }
        self.versions = match (self.versions.take(), other.versions) {
            (Some(mut ours), Some(theirs)) => {
                ours.merge(&theirs);
                Some(ours)
            }
            (ours, theirs) => ours.or(theirs),
        };
        self.owed.extend(other.owed);
        self.needed = self.needed.max(other.needed);
        self.kept_at_ms = self.kept_at_ms.max(other.kept_at_ms);
    }
}

impl Wire for Hint {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(FORMAT);
        out.put_u8(self.needed);
        out.put_u64(self.kept_at_ms);
        put_varint(out, self.owed.len() as u64);
        for node in &self.owed {
            node.encode(out);
        }
        put_bool(out, self.versions.is_some());
        if let Some(versions) = &self.versions {
            put_bytes(out, &versions.to_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.u8()? != FORMAT {
            return Err(DecodeError::Invalid {
                what: "format of a hint",
            });
        }
        let (needed, kept_at_ms) = (reader.u8()?, reader.u64()?);
        let mut owed = BTreeSet::new();
        for _ in 0..reader.count("owners", usize::from(N_MAX) * 2)? {
            owed.insert(NodeId::decode(reader)?);
        }
        let versions = match reader.bool("versions")? {
            // One that was kept before writers were held to limits is kept on: it may be a replica.
            true => Some(Versions::from_bytes_of_any_size(
                &reader.bytes("versions", usize::MAX)?,
            )?),
            false => None,
        };
        Ok(Self {
            versions,
            owed,
            needed,
            kept_at_ms,
        })
    }
}
