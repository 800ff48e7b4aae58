//! What nodes ask of each other about data.
//!
//! A forwarded client request has no message of its own: it is the client's, sent over a peer
//! connection with [`FLAG_FORWARDED`](crate::frame::FLAG_FORWARDED).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_bytes, put_tag_bytes, put_tag_u8, put_tag_u64,
    put_varint,
};
use crate::hash;
use crate::ids::{Actor, NodeId, RingVersion};
use crate::limits::KEY_BYTES_MAX;
use crate::limits::N_MAX;

/// Merge these versions into what you have and make it durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeVersions {
    /// The ring the sender followed.
    pub ring_version: RingVersion,
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// The key.
    pub key: Bytes,
    /// Encoded [`Versions`](crate::causal::Versions); the receiver decodes and checks them.
    pub versions: Bytes,
    /// Whether they are a write that saw only what its coordinator had: the receiver is to tell what it
    /// has beside them.
    pub tell_beside: bool,
}

/// It is merged, and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The replica has lost data of this segment and is fetching it back: it counts towards W only.
    pub rebuilding: bool,
    /// The answer to `tell_beside`: encoded [`Versions`](crate::causal::Versions) of the replica before the
    /// merge, if the write now stands beside a version that was not sent; else empty. Absent when it
    /// was not asked for, and from a replica that does not know of the question.
    pub beside: Option<Bytes>,
}

/// Give all that you have of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadVersions {
    /// The ring the sender followed.
    pub ring_version: RingVersion,
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// The key.
    pub key: Bytes,
    /// Whether the replica is to tell under which actor it mints.
    pub tell_actor: bool,
    /// Encoded versions of more bytes than this need not travel: their digest will do. A replica that
    /// does not know of digests sends them all the same.
    pub digest_above: Option<u32>,
}

/// All that a replica has of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionsReply {
    /// The replica has lost data of this segment: its answer is no vote for R.
    pub rebuilding: bool,
    /// Encoded [`Versions`](crate::causal::Versions); empty when the key was never written here.
    pub versions: Bytes,
    /// Under which actor the replica mints; only told when asked for.
    pub actor: Option<Actor>,
    /// What stands for the versions in their place, when that was asked for. `versions` is empty then,
    /// which says nothing about the key.
    pub digest: Option<Digest>,
}

/// Stands for encoded versions: equal states have equal encodings, and so equal digests.
///
/// It tells differences, not forgeries, as the hashes of anti-entropy do; each state holds dots of random
/// actors, so nobody can prepare two states of one digest beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// xxh3-128 (seed 0) of the encoded versions.
    pub hash: u128,
    /// How many bytes they have.
    pub bytes: u32,
}

impl Digest {
    /// Its size on the wire, in bytes.
    const BYTES: usize = 16 + 4;

    /// The digest of encoded versions.
    pub fn of(versions: &[u8]) -> Self {
        Self {
            hash: hash::digest(versions),
            // Versions travel in frames, whose length is a u32.
            bytes: versions.len() as u32,
        }
    }

    /// Whether it is the digest of these encoded versions. They are not hashed when their length
    /// differs already.
    pub fn is_of(self, versions: &[u8]) -> bool {
        self.bytes as usize == versions.len() && self.hash == hash::digest(versions)
    }
}

/// Keep these versions for owners that cannot be reached: make them durable, and hand them over when
/// the owners are back (DeCandia et al., 2007, § 4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepHint {
    /// The ring the sender followed.
    pub ring_version: RingVersion,
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// The key.
    pub key: Bytes,
    /// Encoded [`Versions`](crate::causal::Versions); the receiver decodes and checks them.
    pub versions: Bytes,
    /// The owners that are to be given them: at least one, at most
    /// [`N_MAX`].
    pub owed: Vec<NodeId>,
    /// How many owners must have them durably before the hint may be dropped: the W of the write that
    /// counts this hint. 0 for a hint that counts for nothing.
    pub needed: u8,
}

/// Of a merge.
const TAG_TELL_BESIDE: u8 = 1;
/// Of its answer.
const TAG_BESIDE: u8 = 1;
const TAG_TELL_ACTOR: u8 = 1;
const TAG_DIGEST_ABOVE: u8 = 2;
const TAG_ACTOR: u8 = 1;
const TAG_DIGEST: u8 = 2;

impl Wire for MergeVersions {
    fn encode(&self, out: &mut BytesMut) {
        self.ring_version.encode(out);
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
        put_bytes(out, &self.versions);
        if self.tell_beside {
            put_tag_u8(out, TAG_TELL_BESIDE, 1);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut merge = Self {
            ring_version: RingVersion::decode(reader)?,
            timeout_ms: reader.u32()?,
            key: reader.bytes("key", KEY_BYTES_MAX)?,
            versions: reader.bytes("versions", usize::MAX)?,
            tell_beside: false,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_TELL_BESIDE {
                merge.tell_beside = field.bool("tell beside")?;
            }
        }
        Ok(merge)
    }
}

impl Wire for KeepHint {
    fn encode(&self, out: &mut BytesMut) {
        self.ring_version.encode(out);
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
        put_bytes(out, &self.versions);
        out.put_u8(self.needed);
        put_varint(out, self.owed.len() as u64);
        for node in &self.owed {
            node.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut hint = Self {
            ring_version: RingVersion::decode(reader)?,
            timeout_ms: reader.u32()?,
            key: reader.bytes("key", KEY_BYTES_MAX)?,
            versions: reader.bytes("versions", usize::MAX)?,
            needed: reader.u8()?,
            owed: Vec::new(),
        };
        for _ in 0..reader.count("owners", usize::from(N_MAX))? {
            hint.owed.push(NodeId::decode(reader)?);
        }
        if hint.owed.is_empty() {
            return Err(DecodeError::Invalid { what: "owners" });
        }
        skip_tags(reader)?;
        Ok(hint)
    }
}

impl Wire for Merged {
    fn encode(&self, out: &mut BytesMut) {
        put_bool(out, self.rebuilding);
        if let Some(beside) = &self.beside {
            put_tag_bytes(out, TAG_BESIDE, beside);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut merged = Self {
            rebuilding: reader.bool("rebuilding")?,
            beside: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_BESIDE {
                merged.beside = Some(field.rest());
            }
        }
        Ok(merged)
    }
}

impl Wire for ReadVersions {
    fn encode(&self, out: &mut BytesMut) {
        self.ring_version.encode(out);
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
        if self.tell_actor {
            put_tag_u8(out, TAG_TELL_ACTOR, 1);
        }
        if let Some(bytes) = self.digest_above {
            put_tag_bytes(out, TAG_DIGEST_ABOVE, &bytes.to_be_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut read = Self {
            ring_version: RingVersion::decode(reader)?,
            timeout_ms: reader.u32()?,
            key: reader.bytes("key", KEY_BYTES_MAX)?,
            tell_actor: false,
            digest_above: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_TELL_ACTOR => read.tell_actor = field.bool("tell actor")?,
                TAG_DIGEST_ABOVE => read.digest_above = Some(field.u32()?),
                _ => {}
            }
        }
        Ok(read)
    }
}

impl Wire for VersionsReply {
    fn encode(&self, out: &mut BytesMut) {
        put_bool(out, self.rebuilding);
        put_bytes(out, &self.versions);
        if let Some(actor) = self.actor {
            put_tag_u64(out, TAG_ACTOR, actor.0);
        }
        if let Some(digest) = self.digest {
            let mut field = [0; Digest::BYTES];
            field[..16].copy_from_slice(&digest.hash.to_be_bytes());
            field[16..].copy_from_slice(&digest.bytes.to_be_bytes());
            put_tag_bytes(out, TAG_DIGEST, &field);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut reply = Self {
            rebuilding: reader.bool("rebuilding")?,
            versions: reader.bytes("versions", usize::MAX)?,
            actor: None,
            digest: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_ACTOR => reply.actor = Some(Actor(field.u64()?)),
                TAG_DIGEST => {
                    reply.digest = Some(Digest {
                        hash: field.u128()?,
                        bytes: field.u32()?,
                    });
                }
                _ => {}
            }
        }
        if reply.digest.is_some() && !reply.versions.is_empty() {
            let what = "versions beside their digest";
            return Err(DecodeError::Invalid { what });
        }
        Ok(reply)
    }
}
