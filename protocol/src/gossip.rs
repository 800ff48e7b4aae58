//! What nodes tell each other about nodes: gossip, probes, joins and decisions about the ring.

use bytes::{BufMut, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_bytes, put_string, put_tag_bytes, put_tag_u8,
    put_tag_u64, put_varint,
};
use crate::ids::{DirectoryId, Generation, NAME_BYTES_MAX, NodeId, RingVersion};
use crate::limits::MEMBERS_MAX;
use crate::moving::Moving;
use crate::ring_document::{Member, RingDocument};

const TAG_RUN: u8 = 1;
const TAG_HINTS: u8 = 2;
const TAG_DISK_HANGS: u8 = 3;
const TAG_DISK_FULL: u8 = 4;
const TAG_RING: u8 = 5;
const TAG_MOVING: u8 = 6;
const TAG_ACCEPTED: u8 = 1;
const TAG_DECIDED: u8 = 2;

/// What is thought of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// There is news of its progress.
    Alive,
    /// No news for `suspect_after`, and nobody could reach it.
    Suspected,
    /// No news for `dead_after`.
    Dead,
}

/// What one node says of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEntry {
    /// Whom it is about.
    pub id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// How often its directory has been started. The order of news is that of
    /// (generation, incarnation, heartbeat).
    pub generation: Generation,
    /// Raised by the node itself to refute a suspicion.
    pub incarnation: u64,
    /// Raised by the node itself with every round of gossip: progress.
    pub heartbeat: u64,
    /// What the sender thinks of it.
    pub state: MemberState,
    /// Live keys in its store.
    pub keys: u64,
    /// Bytes on its disk.
    pub disk_bytes: u64,
    /// The version of dynakv it runs.
    pub software: String,
    /// In how many segments it lost data and has not got them back: there its reads do not count.
    pub rebuilding_segments: u32,
    /// How many keys it keeps for other nodes.
    pub hints_waiting: u64,
    /// Its disk does not come back with a sync or a read: it refuses writes until that ends.
    pub disk_hangs: bool,
    /// Its disk has no room beside its reserve, and it refuses writes that add a value.
    pub disk_full: bool,
    /// The ring that it follows: it executes nothing that was asked for under another one. 0 before it has one, and
    /// from versions that cannot read a ring that changes.
    pub ring_version: RingVersion,
    /// It has all that it gained by the change that began with this version, durably; 0 for none.
    pub complete_since: RingVersion,
    /// By this ring it is to go, and it has nothing left that the others need; 0 for none.
    pub settled_at: RingVersion,
    /// How many of the keys that it keeps for others an acknowledged write counts on.
    pub hints_counted: u64,
    /// What a change of the ring still has it move.
    pub moving: Option<Moving>,
    /// The directory that holds its data, which the generation counts the starts of: news of another one
    /// than the ring says is news of somebody else. 0 when the sender does not say.
    pub directory_id: DirectoryId,
    /// Random per process: two of one directory and one generation are a node and a copy of it. Means
    /// nothing without the directory.
    pub nonce: u64,
}

impl MemberEntry {
    /// Of a member of which nothing is known but who and where it is.
    pub fn new(id: NodeId, address: String, directory_id: DirectoryId) -> Self {
        Self {
            id,
            address,
            generation: Generation(0),
            incarnation: 0,
            heartbeat: 0,
            state: MemberState::Alive,
            keys: 0,
            disk_bytes: 0,
            software: String::new(),
            rebuilding_segments: 0,
            hints_waiting: 0,
            disk_hangs: false,
            disk_full: false,
            ring_version: RingVersion(0),
            complete_since: RingVersion(0),
            settled_at: RingVersion(0),
            hints_counted: 0,
            moving: None,
            directory_id,
            nonce: 0,
        }
    }
}

/// News, sent to a few peers each round; the answer has the same form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gossip {
    /// The newest ring its sender knows; whoever has an older one fetches it.
    pub ring_version: RingVersion,
    /// News of members, the sender among them.
    pub entries: Vec<MemberEntry>,
}

/// Try whether you can reach this node: asked before anyone is suspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whom to try.
    pub target: NodeId,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// Whom it was about.
    pub target: NodeId,
    /// Whether it answered.
    pub alive: bool,
}

/// Take me into the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Who wants in.
    pub member: Member,
    /// The N it was started with, when it was told one.
    pub n: Option<u8>,
    /// The W it was started with.
    pub w: Option<u8>,
    /// The R it was started with.
    pub r: Option<u8>,
    /// It has noted, durably, that all it may have had is lost and to be rebuilt: a member of the ring
    /// whose directory is another one than the ring says is let back in only with it.
    pub is_rebuilding: bool,
    /// It can read a ring that changes, and so be taken into one that holds data.
    pub knows_changes: bool,
    /// It is to be let into a ring with data only once an operator says so.
    pub waits: bool,
}

/// A proposal's number: a later round wins, then the greater node id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Counts up from 1.
    pub round: u64,
    /// Who proposes; makes ballots distinct.
    pub node: NodeId,
}

/// First phase of a decision: promise to accept nothing older than this ballot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// Which ring version is to be decided.
    pub slot: RingVersion,
    /// The proposal's number.
    pub ballot: Ballot,
}

/// Second phase: accept this document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// The proposal's number.
    pub ballot: Ballot,
    /// What is proposed; its version is the slot.
    pub document: RingDocument,
}

/// The answer to [`Prepare`] and [`Accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// Which ring version it is about.
    pub slot: RingVersion,
    /// Whether the promise was made or the document accepted.
    pub granted: bool,
    /// The highest ballot promised so far in this slot; round 0, with the asker's name, when nothing was.
    pub promised: Ballot,
    /// What was accepted before, to be proposed again instead of one's own.
    pub accepted: Option<(Ballot, RingDocument)>,
    /// The voter's ring, when it is at this slot already or beyond.
    pub decided: Option<Box<RingDocument>>,
}

impl Wire for MemberState {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self {
            Self::Alive => 1,
            Self::Suspected => 2,
            Self::Dead => 3,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            1 => Ok(Self::Alive),
            2 => Ok(Self::Suspected),
            3 => Ok(Self::Dead),
            _ => Err(DecodeError::Invalid {
                what: "member state",
            }),
        }
    }
}

impl Wire for MemberEntry {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        put_string(out, &self.address);
        self.generation.encode(out);
        put_varint(out, self.incarnation);
        put_varint(out, self.heartbeat);
        self.state.encode(out);
        put_varint(out, self.keys);
        put_varint(out, self.disk_bytes);
        put_string(out, &self.software);
        put_varint(out, u64::from(self.rebuilding_segments));
        if (self.directory_id, self.nonce) != (DirectoryId::default(), 0) {
            let mut run = BytesMut::with_capacity(16);
            self.directory_id.encode(&mut run);
            run.put_u64(self.nonce);
            put_tag_bytes(out, TAG_RUN, &run);
        }
        if self.hints_waiting > 0 {
            put_tag_u64(out, TAG_HINTS, self.hints_waiting);
        }
        if self.disk_hangs {
            put_tag_u8(out, TAG_DISK_HANGS, 1);
        }
        if self.disk_full {
            put_tag_u8(out, TAG_DISK_FULL, 1);
        }
        if self.ring_version > RingVersion(0) {
            let mut ring = BytesMut::with_capacity(16);
            self.ring_version.encode(&mut ring);
            self.complete_since.encode(&mut ring);
            self.settled_at.encode(&mut ring);
            put_varint(&mut ring, self.hints_counted);
            put_tag_bytes(out, TAG_RING, &ring);
        }
        if let Some(moving) = self.moving {
            put_tag_bytes(out, TAG_MOVING, &moving.to_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entry = Self {
            id: NodeId::decode(reader)?,
            address: reader.string("address", NAME_BYTES_MAX)?.to_owned(),
            generation: Generation::decode(reader)?,
            incarnation: reader.varint()?,
            heartbeat: reader.varint()?,
            state: MemberState::decode(reader)?,
            keys: reader.varint()?,
            disk_bytes: reader.varint()?,
            software: reader.string("software", NAME_BYTES_MAX)?.to_owned(),
            // No ring has more segments than 32 bits can count.
            rebuilding_segments: u32::try_from(reader.varint()?).unwrap_or(u32::MAX),
            hints_waiting: 0,
            disk_hangs: false,
            disk_full: false,
            ring_version: RingVersion(0),
            complete_since: RingVersion(0),
            settled_at: RingVersion(0),
            hints_counted: 0,
            moving: None,
            directory_id: DirectoryId::default(),
            nonce: 0,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_RUN => {
                    entry.directory_id = DirectoryId::decode(&mut field)?;
                    entry.nonce = field.u64()?;
                }
                TAG_HINTS => entry.hints_waiting = field.u64()?,
                TAG_DISK_HANGS => entry.disk_hangs = field.bool("disk hangs")?,
                TAG_DISK_FULL => entry.disk_full = field.bool("disk full")?,
                TAG_RING => {
                    entry.ring_version = RingVersion::decode(&mut field)?;
                    entry.complete_since = RingVersion::decode(&mut field)?;
                    // Versions that nobody leaves do not say it.
                    if field.left() > 0 {
                        entry.settled_at = RingVersion::decode(&mut field)?;
                        entry.hints_counted = field.varint()?;
                    }
                }
                TAG_MOVING => entry.moving = Some(Moving::decode(&mut field)?),
                _ => {}
            }
        }
        Ok(entry)
    }
}

impl Wire for Gossip {
    fn encode(&self, out: &mut BytesMut) {
        self.ring_version.encode(out);
        put_varint(out, self.entries.len() as u64);
        for entry in &self.entries {
            // Each is counted, so that a newer version may add to it.
            put_bytes(out, &entry.to_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ring_version = RingVersion::decode(reader)?;
        let count = reader.count("gossip entries", MEMBERS_MAX)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let length = reader.count("gossip entry", usize::MAX)?;
            entries.push(MemberEntry::decode(&mut reader.part(length)?)?);
        }
        skip_tags(reader)?;
        Ok(Self {
            ring_version,
            entries,
        })
    }
}

impl Wire for Probe {
    fn encode(&self, out: &mut BytesMut) {
        self.target.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let target = NodeId::decode(reader)?;
        skip_tags(reader)?;
        Ok(Self { target })
    }
}

impl Wire for Probed {
    fn encode(&self, out: &mut BytesMut) {
        self.target.encode(out);
        put_bool(out, self.alive);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let target = NodeId::decode(reader)?;
        let alive = reader.bool("alive")?;
        skip_tags(reader)?;
        Ok(Self { target, alive })
    }
}

const TAG_IS_REBUILDING: u8 = 1;
const TAG_KNOWS_CHANGES: u8 = 2;
const TAG_WAITS: u8 = 3;

impl Wire for Join {
    fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, &self.member.to_bytes());
        for quorum in [self.n, self.w, self.r] {
            // 0 stands for "not told": no quorum can be 0.
            out.put_u8(quorum.unwrap_or(0));
        }
        if self.is_rebuilding {
            put_tag_u8(out, TAG_IS_REBUILDING, 1);
        }
        if self.knows_changes {
            put_tag_u8(out, TAG_KNOWS_CHANGES, 1);
        }
        if self.waits {
            put_tag_u8(out, TAG_WAITS, 1);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = reader.count("member", usize::MAX)?;
        let member = Member::decode(&mut reader.part(length)?)?;
        let mut quorum = || reader.u8().map(|q| (q > 0).then_some(q));
        let (n, w, r) = (quorum()?, quorum()?, quorum()?);
        let (mut is_rebuilding, mut knows_changes, mut waits) = (false, false, false);
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_IS_REBUILDING => is_rebuilding = field.bool("is rebuilding")?,
                TAG_KNOWS_CHANGES => knows_changes = field.bool("knows changes")?,
                TAG_WAITS => waits = field.bool("waits")?,
                _ => {}
            }
        }
        Ok(Self {
            member,
            n,
            w,
            r,
            is_rebuilding,
            knows_changes,
            waits,
        })
    }
}

impl Wire for Ballot {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.round);
        self.node.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            round: reader.varint()?,
            node: NodeId::decode(reader)?,
        })
    }
}

impl Wire for Prepare {
    fn encode(&self, out: &mut BytesMut) {
        self.slot.encode(out);
        self.ballot.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let prepare = Self {
            slot: RingVersion::decode(reader)?,
            ballot: Ballot::decode(reader)?,
        };
        skip_tags(reader)?;
        Ok(prepare)
    }
}

impl Wire for Accept {
    fn encode(&self, out: &mut BytesMut) {
        self.ballot.encode(out);
        put_bytes(out, &self.document.to_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ballot = Ballot::decode(reader)?;
        let length = reader.count("ring document", usize::MAX)?;
        let document = RingDocument::decode(&mut reader.part(length)?)?;
        skip_tags(reader)?;
        Ok(Self { ballot, document })
    }
}

impl Wire for Vote {
    fn encode(&self, out: &mut BytesMut) {
        self.slot.encode(out);
        put_bool(out, self.granted);
        self.promised.encode(out);
        if let Some((ballot, document)) = &self.accepted {
            let mut field = BytesMut::new();
            ballot.encode(&mut field);
            document.encode(&mut field);
            put_tag_bytes(out, TAG_ACCEPTED, &field);
        }
        if let Some(document) = &self.decided {
            put_tag_bytes(out, TAG_DECIDED, &document.to_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut vote = Self {
            slot: RingVersion::decode(reader)?,
            granted: reader.bool("granted")?,
            promised: Ballot::decode(reader)?,
            accepted: None,
            decided: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_ACCEPTED => {
                    let ballot = Ballot::decode(&mut field)?;
                    vote.accepted = Some((ballot, RingDocument::decode(&mut field)?));
                }
                TAG_DECIDED => vote.decided = Some(Box::new(RingDocument::decode(&mut field)?)),
                _ => {}
            }
        }
        Ok(vote)
    }
}
