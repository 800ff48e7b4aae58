//! All messages in one place: kind bytes, the two enums that hold what was decoded, and the kinds of requests, which
//! tell them apart before that.
//!
//! A response's kind is its request's with the top bit set; an [`ErrorReply`] may answer any request.

use bytes::{Bytes, BytesMut};

use crate::admin::{Explain, Explained, Export, Exported, Import, Imported};
use crate::change_ring::ChangeRing;
use crate::client::{
    Fetched, Get, HealthReply, RingReply, StatsReply, StatusReply, Write, Written,
};
use crate::codec::skip_tags;
use crate::codec::{DecodeError, Reader, Wire};
use crate::error::ErrorReply;
use crate::gossip::{Accept, Gossip, Join, Prepare, Probe, Probed, Vote};
use crate::handshake::{GoAway, Hello, Welcome};
use crate::mend::{Compare, Compared, List, Listed};
use crate::peer::{KeepHint, MergeVersions, Merged, ReadVersions, VersionsReply};
use crate::repair::{Repair, RepairProgress};
use crate::ring_document::RingDocument;
use crate::snapshot::{Snapshot, SnapshotProgress};
use crate::unlock::{Replace, Unlock, Unlocked};

/// The kind byte of every message.
pub mod kind {
    /// An error in place of any answer.
    pub const ERROR: u8 = 0x03;
    /// First message of the dialling side.
    pub const HELLO: u8 = 0x01;
    /// Is the connection alive?
    pub const PING: u8 = 0x05;
    /// The node takes no more requests over this connection. No answer to anything.
    pub const GOAWAY: u8 = 0x06;
    /// Read a key.
    pub const GET: u8 = 0x10;
    /// Store a value.
    pub const PUT: u8 = 0x11;
    /// Delete a key.
    pub const DELETE: u8 = 0x12;
    /// A node's statistics.
    pub const STATS: u8 = 0x13;
    /// Is the node ready?
    pub const HEALTH: u8 = 0x14;
    /// The cluster as the node sees it.
    pub const STATUS: u8 = 0x15;
    /// The ring.
    pub const RING: u8 = 0x16;
    /// How a key stands with each of its owners.
    pub const EXPLAIN: u8 = 0x17;
    /// A part of all that a node holds.
    pub const EXPORT: u8 = 0x18;
    /// Merge exported versions into a key.
    pub const IMPORT: u8 = 0x19;
    /// Compare all copies now, and how far that is.
    pub const REPAIR: u8 = 0x1a;
    /// Mend a key that is beyond a limit.
    pub const UNLOCK: u8 = 0x1c;
    /// Copy all that a node holds into a directory beside it, and how far that is.
    pub const SNAPSHOT: u8 = 0x1d;
    /// Change the members of the ring, or say which ring that would be.
    pub const CHANGE_RING: u8 = 0x1e;
    /// Merge versions (peers).
    pub const MERGE: u8 = 0x20;
    /// Read versions (peers).
    pub const READ: u8 = 0x21;
    /// Hashes of what two nodes both own (peers).
    pub const COMPARE: u8 = 0x22;
    /// The keys of a segment (peers).
    pub const LIST: u8 = 0x23;
    /// Keep versions for owners that cannot be reached (peers).
    pub const HINT: u8 = 0x24;
    /// Put versions in the place of others (peers).
    pub const REPLACE: u8 = 0x28;
    /// News of members (peers).
    pub const GOSSIP: u8 = 0x30;
    /// Try to reach a node (peers).
    pub const PROBE: u8 = 0x31;
    /// Ask to be taken into the ring (peers).
    pub const JOIN: u8 = 0x32;
    /// Fetch the ring document (peers).
    pub const FETCH_RING: u8 = 0x33;
    /// First phase of a ring decision (peers).
    pub const PREPARE: u8 = 0x34;
    /// Second phase of a ring decision (peers).
    pub const ACCEPT: u8 = 0x35;
    /// Set in the kind of every answer but [`ERROR`] and [`GOAWAY`].
    pub const ANSWER: u8 = 0x80;
}

macro_rules! messages {
    ($(#[$doc:meta])* $enum:ident, by kind $kinds:ident { $($rows:tt)* }) => {
        messages! { $(#[$doc])* $enum { $($rows)* } }
        kinds! { $enum, $kinds { $($rows)* } }
    };
    (
        $(#[$doc:meta])*
        $enum:ident {
            $($(#[$vdoc:meta])* $variant:ident $(($body:ty))? = $kind:expr,
                $decode:expr, $encode:expr;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $enum {
            $($(#[$vdoc])* $variant $(($body))?,)*
        }

        impl $enum {
            /// The kind byte it travels under.
            pub fn kind(&self) -> u8 {
                match self {
                    $(messages!(@pattern $variant $(($body))? _body) => $kind,)*
                }
            }

            /// Appends the body.
            pub fn encode(&self, out: &mut BytesMut) {
                match self {
                    $(messages!(@pattern $variant $(($body))? body) => {
                        messages!(@encode $encode, out $(, $body, body)?);
                    })*
                }
            }

            /// Decodes the body of a message of this kind.
            ///
            /// # Errors
            /// [`DecodeError`]: an unknown kind, or a body that is not of its form.
            pub fn decode(message_kind: u8, body: &Bytes) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(body);
                let message = match message_kind {
                    $(k if k == $kind => {
                        messages!(@decode $enum, $variant, $decode, reader $(, $body)?)
                    })*
                    kind => return Err(DecodeError::UnknownKind { kind }),
                };
                reader.finish()?;
                Ok(message)
            }
        }
    };
    (@pattern $variant:ident ($body:ty) $name:ident) => { Self::$variant($name) };
    (@pattern $variant:ident $name:ident) => { Self::$variant };
    (@encode $encode:expr, $out:ident, $body:ty, $name:ident) => { $encode($name, $out) };
    (@encode $encode:expr, $out:ident) => { let _: () = $encode; };
    (@decode $enum:ident, $variant:ident, $decode:expr, $reader:ident, $body:ty) => {
        $enum::$variant($decode(&mut $reader)?)
    };
    (@decode $enum:ident, $variant:ident, $decode:expr, $reader:ident) => {{
        let _: () = $decode;
        skip_tags(&mut $reader)?;
        $enum::$variant
    }};
}

/// The same rows as a type that knows the kind of a message and not its body.
macro_rules! kinds {
    (
        $enum:ident, $kinds:ident {
            $($(#[$doc:meta])* $variant:ident $(($body:ty))? = $kind:expr,
                $decode:expr, $encode:expr;)*
        }
    ) => {
        #[doc = concat!("What a kind byte says of a [`", stringify!($enum), "`] before its body is decoded.")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $kinds {
            $($(#[$doc])* $variant,)*
        }

        impl $kinds {
            /// The kind of this byte; `None` for bytes that this version does not know.
            pub fn of(message_kind: u8) -> Option<Self> {
                match message_kind {
                    $(k if k == $kind => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

messages! {
    /// Everything that one side can ask of another.
    Request, by kind RequestKind {
        /// First message of every connection.
        Hello(Hello) = kind::HELLO, Hello::decode, Hello::encode;
        /// Is the connection alive?
        Ping = kind::PING, (), ();
        /// Read a key.
        Get(Get) = kind::GET, Get::decode, Get::encode;
        /// Store a value.
        Put(Write) = kind::PUT, Write::decode_put, Write::encode;
        /// Delete a key.
        Delete(Write) = kind::DELETE, Write::decode_delete, Write::encode;
        /// A node's statistics.
        Stats = kind::STATS, (), ();
        /// Is the node ready?
        Health = kind::HEALTH, (), ();
        /// The cluster as the node sees it.
        Status = kind::STATUS, (), ();
        /// The ring.
        Ring = kind::RING, (), ();
        /// How a key stands with each of its owners.
        Explain(Explain) = kind::EXPLAIN, Explain::decode, Explain::encode;
        /// A part of all that a node holds.
        Export(Export) = kind::EXPORT, Export::decode, Export::encode;
        /// Merge exported versions into a key.
        Import(Import) = kind::IMPORT, Import::decode, Import::encode;
        /// Compare all copies now, and how far that is.
        Repair(Repair) = kind::REPAIR, Repair::decode, Repair::encode;
        /// Mend a key that is beyond a limit.
        Unlock(Unlock) = kind::UNLOCK, Unlock::decode, Unlock::encode;
        /// Copy all that a node holds into a directory beside it, and how far that is.
        Snapshot(Snapshot) = kind::SNAPSHOT, Snapshot::decode, Snapshot::encode;
        /// Change the members of the ring, or say which ring that would be.
        ChangeRing(ChangeRing) = kind::CHANGE_RING, ChangeRing::decode, ChangeRing::encode;
        /// Merge versions.
        Merge(MergeVersions) = kind::MERGE, MergeVersions::decode, MergeVersions::encode;
        /// Read versions.
        Read(ReadVersions) = kind::READ, ReadVersions::decode, ReadVersions::encode;
        /// Give the hashes of what both own.
        Compare(Compare) = kind::COMPARE, Compare::decode, Compare::encode;
        /// Give the keys of a segment.
        List(List) = kind::LIST, List::decode, List::encode;
        /// Keep versions for owners that cannot be reached.
        Hint(KeepHint) = kind::HINT, KeepHint::decode, KeepHint::encode;
        /// Put versions in the place of others.
        Replace(Replace) = kind::REPLACE, Replace::decode, Replace::encode;
        /// News of members.
        Gossip(Gossip) = kind::GOSSIP, Gossip::decode, Gossip::encode;
        /// Try to reach a node.
        Probe(Probe) = kind::PROBE, Probe::decode, Probe::encode;
        /// Ask to be taken into the ring.
        Join(Join) = kind::JOIN, Join::decode, Join::encode;
        /// Fetch the ring document.
        FetchRing = kind::FETCH_RING, (), ();
        /// First phase of a ring decision.
        Prepare(Prepare) = kind::PREPARE, Prepare::decode, Prepare::encode;
        /// Second phase of a ring decision.
        Accept(Accept) = kind::ACCEPT, Accept::decode, Accept::encode;
    }
}

messages! {
    /// Everything that can be answered.
    Response {
        /// The request was refused or failed.
        Error(ErrorReply) = kind::ERROR, ErrorReply::decode, ErrorReply::encode;
        /// The connection stands.
        Welcome(Welcome) = kind::HELLO | kind::ANSWER, Welcome::decode, Welcome::encode;
        /// No more requests over this connection.
        GoAway(GoAway) = kind::GOAWAY, GoAway::decode, GoAway::encode;
        /// The connection is alive.
        Pong = kind::PING | kind::ANSWER, (), ();
        /// A key's values.
        Fetched(Fetched) = kind::GET | kind::ANSWER, Fetched::decode, Fetched::encode;
        /// A put has met its quorum.
        Put(Written) = kind::PUT | kind::ANSWER, Written::decode, Written::encode;
        /// A delete has met its quorum.
        Deleted(Written) = kind::DELETE | kind::ANSWER, Written::decode, Written::encode;
        /// A node's statistics.
        Stats(StatsReply) = kind::STATS | kind::ANSWER, StatsReply::decode, StatsReply::encode;
        /// Whether the node is ready.
        Health(HealthReply) = kind::HEALTH | kind::ANSWER, HealthReply::decode, HealthReply::encode;
        /// The cluster as the node sees it.
        Status(StatusReply) = kind::STATUS | kind::ANSWER, StatusReply::decode, StatusReply::encode;
        /// The ring.
        Ring(RingReply) = kind::RING | kind::ANSWER, RingReply::decode, RingReply::encode;
        /// How a key stands with each of its owners.
        Explained(Explained) = kind::EXPLAIN | kind::ANSWER, Explained::decode, Explained::encode;
        /// A part of all that a node holds.
        Exported(Exported) = kind::EXPORT | kind::ANSWER, Exported::decode, Exported::encode;
        /// Exported versions are merged into their key.
        Imported(Imported) = kind::IMPORT | kind::ANSWER, Imported::decode, Imported::encode;
        /// How far a repair is.
        Repairing(RepairProgress) = kind::REPAIR | kind::ANSWER, RepairProgress::decode, RepairProgress::encode;
        /// The key can be read and written again.
        Unlocked(Unlocked) = kind::UNLOCK | kind::ANSWER, Unlocked::decode, Unlocked::encode;
        /// How far a snapshot is.
        Snapshotting(SnapshotProgress) = kind::SNAPSHOT | kind::ANSWER, SnapshotProgress::decode, SnapshotProgress::encode;
        /// The ring that was decided, or would be.
        RingChanged(RingDocument) = kind::CHANGE_RING | kind::ANSWER, RingDocument::decode, RingDocument::encode;
        /// Merged, and durable.
        Merged(Merged) = kind::MERGE | kind::ANSWER, Merged::decode, Merged::encode;
        /// What a replica has of a key.
        Versions(VersionsReply) = kind::READ | kind::ANSWER, VersionsReply::decode, VersionsReply::encode;
        /// The hashes of what both own.
        Compared(Compared) = kind::COMPARE | kind::ANSWER, Compared::decode, Compared::encode;
        /// The keys of a segment.
        Listed(Listed) = kind::LIST | kind::ANSWER, Listed::decode, Listed::encode;
        /// The versions are kept, durably.
        HintKept = kind::HINT | kind::ANSWER, (), ();
        /// The versions are in their place, durably.
        Replaced = kind::REPLACE | kind::ANSWER, (), ();
        /// News of members.
        Gossip(Gossip) = kind::GOSSIP | kind::ANSWER, Gossip::decode, Gossip::encode;
        /// What came of a probe.
        Probed(Probed) = kind::PROBE | kind::ANSWER, Probed::decode, Probed::encode;
        /// The ring that the newcomer is part of.
        Joined(RingDocument) = kind::JOIN | kind::ANSWER, RingDocument::decode, RingDocument::encode;
        /// The ring document.
        RingDocument(RingDocument) = kind::FETCH_RING | kind::ANSWER, RingDocument::decode, RingDocument::encode;
        /// The answer to a prepare.
        Promise(Vote) = kind::PREPARE | kind::ANSWER, Vote::decode, Vote::encode;
        /// The answer to an accept.
        Accepted(Vote) = kind::ACCEPT | kind::ANSWER, Vote::decode, Vote::encode;
    }
}
