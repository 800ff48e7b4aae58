//! The typed refusal that travels back in place of an answer.

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_string, put_tag_bytes, put_tag_u8, put_tag_u64,
};
use crate::ids::RingVersion;
use crate::ring_document::RingDocument;

/// The longest message of an error, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

const TAG_NEEDED: u8 = 1;
const TAG_GOT: u8 = 2;
const TAG_RING_VERSION: u8 = 3;
const TAG_RING_DOCUMENT: u8 = 4;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What went wrong, as a number that never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
            /// A code that this version does not know; its sender is newer.
            Other(u16),
        }

        impl ErrorCode {
            /// All codes that this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// The code of a number on the wire.
            pub fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Other(number),
                }
            }

            /// A short name for logs and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "other",
                }
            }
        }
    };
}

error_codes! {
    /// The request itself is wrong; sending it again cannot help.
    BadRequest = 1, "bad_request";
    /// A key, value, batch or frame is over its limit.
    TooLarge = 2, "too_large";
    /// The key has too many siblings for another client write: read, reconcile, write with context.
    TooManySiblings = 3, "too_many_siblings";
    /// Fewer replicas answered than were needed (`needed`, `got`).
    QuorumUnavailable = 4, "quorum_unavailable";
    /// The deadline passed first.
    Timeout = 5, "timeout";
    /// The node has as much work in hand as it takes; try again, later or elsewhere.
    Overloaded = 6, "overloaded";
    /// The receiver does not own the key under its ring (`ring_version`).
    NotOwner = 7, "not_owner";
    /// The sender's ring is older than the receiver's (`ring_version`): follow that one (`ring_document`), or fetch it.
    StaleRing = 8, "stale_ring";
    /// The node is not (or no longer) ready: joining, or shutting down.
    NotReady = 9, "not_ready";
    /// The message kind is not known to this version.
    UnknownKind = 10, "unknown_kind";
    /// No common protocol version.
    VersionMismatch = 11, "version_mismatch";
    /// The other side belongs to another cluster.
    WrongCluster = 12, "wrong_cluster";
    /// Another process already runs under this node id.
    DuplicateNode = 13, "duplicate_node";
    /// The join was refused; the message says why.
    JoinRefused = 14, "join_refused";
    /// The store could not read or write.
    Storage = 15, "storage";
    /// The bytes are no frame of this protocol; the connection closes.
    Malformed = 16, "malformed";
    /// A defect of the node. Please report it.
    Internal = 17, "internal";
    /// Only the reserve is left on the node's disk: it writes no values, other nodes may. It reads.
    DiskFull = 18, "disk_full";
    /// The ring knows the node with another directory: it has lost what it had, and must say that it
    /// rebuilds it before it is let in again.
    DirectoryLost = 19, "directory_lost";
    /// The key has several concurrent values, and the write was to replace one at most.
    Conflict = 20, "conflict";
    /// The members of the ring cannot be changed so; the message says why, and what to do.
    ChangeRefused = 21, "change_refused";
}

/// A typed refusal: what, whether the write may have happened all the same, whether a retry may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    /// What went wrong.
    pub code: ErrorCode,
    /// Whether the write may have been applied on some replica all the same.
    pub maybe_applied: bool,
    /// Whether the same request may succeed when it is sent again.
    pub retryable: bool,
    /// For people: what happened and what to do.
    pub message: String,
    /// How many replicas were needed.
    pub needed: Option<u8>,
    /// How many answered.
    pub got: Option<u8>,
    /// The ring version of the sender of this error.
    pub ring_version: Option<RingVersion>,
    /// That ring, where its sender has not told it over this connection yet.
    pub ring_document: Option<Box<RingDocument>>,
}

impl ErrorReply {
    /// A refusal that applied nothing and that a retry cannot mend.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            maybe_applied: false,
            retryable: false,
            message: message.into(),
            needed: None,
            got: None,
            ring_version: None,
            ring_document: None,
        }
    }

    /// The same, worth a retry.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The same, after which the write may or may not exist.
    #[must_use]
    pub fn maybe_applied(mut self, maybe: bool) -> Self {
        self.maybe_applied = maybe;
        self
    }

    /// The same with the sender's ring version.
    #[must_use]
    pub fn with_ring_version(mut self, version: RingVersion) -> Self {
        self.ring_version = Some(version);
        self
    }

    /// The same with what was needed and what answered.
    #[must_use]
    pub fn with_quorum(mut self, needed: u8, got: u8) -> Self {
        self.needed = Some(needed);
        self.got = Some(got);
        self
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.name())
    }
}

impl std::error::Error for ErrorReply {}

impl Wire for ErrorReply {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.code.number());
        put_bool(out, self.maybe_applied);
        put_bool(out, self.retryable);
        // A message is cut at a character, never in the middle of one.
        let mut end = self.message.len().min(MESSAGE_BYTES_MAX);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        put_string(out, &self.message[..end]);
        if let Some(needed) = self.needed {
            put_tag_u8(out, TAG_NEEDED, needed);
        }
        if let Some(got) = self.got {
            put_tag_u8(out, TAG_GOT, got);
        }
        if let Some(version) = self.ring_version {
            put_tag_u64(out, TAG_RING_VERSION, version.0);
        }
        if let Some(document) = &self.ring_document {
            put_tag_bytes(out, TAG_RING_DOCUMENT, &document.to_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let code = ErrorCode::from_number(reader.u16()?);
        let maybe_applied = reader.bool("maybe_applied")?;
        let retryable = reader.bool("retryable")?;
        let message = reader.string("error message", MESSAGE_BYTES_MAX)?;
        let mut error = Self {
            code,
            maybe_applied,
            retryable,
            message: message.to_owned(),
            needed: None,
            got: None,
            ring_version: None,
            ring_document: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_NEEDED => error.needed = Some(field.u8()?),
                TAG_GOT => error.got = Some(field.u8()?),
                TAG_RING_VERSION => error.ring_version = Some(RingVersion(field.u64()?)),
                TAG_RING_DOCUMENT => {
                    // One of a newer version is fetched, and the reason is told then.
                    error.ring_document = RingDocument::decode(&mut field).ok().map(Box::new);
                }
                _ => {}
            }
        }
        Ok(error)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A node of a newer version refuses, and sends a ring that this one does not know the form of, or half of one.
    #[test]
    fn a_refusal_is_read_also_where_its_ring_cannot_be() {
        let message = "you follow ring 4, this node ring 5: follow that one";
        let refusal = ErrorReply::new(ErrorCode::StaleRing, message);
        let refusal = refusal.retryable().with_ring_version(RingVersion(5));
        for ring in [&b""[..], b"\xff", &[0xff; 300]] {
            let mut bytes = BytesMut::from(&refusal.to_bytes()[..]);
            put_tag_bytes(&mut bytes, TAG_RING_DOCUMENT, ring);
            // What stands behind it is read, too.
            put_tag_u8(&mut bytes, TAG_GOT, 1);
            let read = ErrorReply::from_bytes(&Bytes::from(bytes)).unwrap();
            let expected = ErrorReply {
                got: Some(1),
                ..refusal.clone()
            };
            assert_eq!(read, expected, "{ring:?}");
        }
    }
}
