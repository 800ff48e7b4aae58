//! The first two messages of every connection: who is there, which versions, which cluster.

use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, Wire, put_string, put_tag_bytes, put_tag_u8, skip_tags};
use crate::frame::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use crate::ids::{ClusterId, DirectoryId, Generation, NAME_BYTES_MAX, NodeId, RingVersion};

/// The first bytes of a hello's body.
pub const MAGIC: [u8; 6] = *b"DYNAKV";

const ROLE_CLIENT: u8 = 1;
const ROLE_PEER: u8 = 2;
const TAG_PEER: u8 = 1;
const TAG_CLUSTER_ID: u8 = 2;
const TAG_GOAWAY: u8 = 3;
const TAG_DIRECTORY_ID: u8 = 1;
const TAG_LIMITS: u8 = 2;
const TAG_MAY_FOUND: u8 = 3;

/// The longest reason of a [`GoAway`], in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// What a connection between nodes is for. Gossip never waits behind data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Gossip, probes, joins and ring changes.
    Control,
    /// Replication, replica reads and forwarded requests.
    Data,
}

/// What a node says of itself when it dials another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its name.
    pub node_id: NodeId,
    /// The directory that holds its data.
    pub directory_id: DirectoryId,
    /// Its cluster; [`ClusterId::is_none`] while it has not joined.
    pub cluster_id: ClusterId,
    /// How often its directory has been started.
    pub generation: Generation,
    /// Random per process: tells two processes with one id and one generation apart.
    pub nonce: u64,
    /// Where others reach it.
    pub address: String,
    /// What the connection is for.
    pub lane: Lane,
}

/// The dialling side's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version it speaks.
    pub version_min: u8,
    /// The newest.
    pub version_max: u8,
    /// The name of the cluster it wants; a client may leave it empty for "whichever this is".
    pub cluster_name: String,
    /// The cluster a client has pinned from an earlier answer.
    pub cluster_id: Option<ClusterId>,
    /// Whether it knows [`GoAway`]; it is sent to nobody else.
    pub knows_goaway: bool,
    /// Set by nodes, absent for clients.
    pub peer: Option<PeerIdentity>,
}

/// What a node takes of one client. A client that keeps to it meets no refusal for size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// The largest value, in bytes.
    pub value_bytes_max: u32,
    /// The largest frame, in bytes (the length field's value). A longer one is passed over and refused.
    pub frame_bytes_max: u32,
    /// The most items of a batch.
    pub batch_items_max: u32,
    /// How many requests the node takes in hand at once, from all of its clients together.
    pub requests_in_flight_max: u32,
}

/// The node takes no more requests over this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoAway {
    /// The id of the last request that it took, in the order of the stream; 0 for none. Whatever was sent behind it
    /// is certainly not carried out.
    pub last_id: u64,
    /// How long the node waits for what it took, in milliseconds; then it ends the connection.
    pub drain_ms: u32,
    /// For people: why.
    pub reason: String,
}

/// The accepting side's answer when it agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version of everything that follows.
    pub version: u8,
    /// Who answers.
    pub node_id: NodeId,
    /// The generation of its directory.
    pub generation: Generation,
    /// Random per process.
    pub nonce: u64,
    /// The name of its cluster.
    pub cluster_name: String,
    /// Its cluster; [`ClusterId::is_none`] while it has not joined.
    pub cluster_id: ClusterId,
    /// The newest ring it knows.
    pub ring_version: RingVersion,
    /// The directory that holds its data; 0 when it does not say.
    pub directory_id: DirectoryId,
    /// What it takes of a client; older nodes do not say.
    pub limits: Option<ClientLimits>,
    /// It is in no cluster, and founds one unless one of its seeds is in one or founds one.
    pub may_found: bool,
}

impl Hello {
    /// A client's hello with the versions of this crate.
    pub fn client(cluster_name: &str, cluster_id: Option<ClusterId>) -> Self {
        Self {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            cluster_name: cluster_name.to_owned(),
            cluster_id,
            knows_goaway: false,
            peer: None,
        }
    }

    /// The same, of one that knows [`GoAway`].
    #[must_use]
    pub fn knowing_goaway(self) -> Self {
        Self {
            knows_goaway: true,
            ..self
        }
    }

    /// A node's hello with the versions of this crate.
    pub fn peer(cluster_name: &str, peer: PeerIdentity) -> Self {
        Self {
            peer: Some(peer),
            ..Self::client(cluster_name, None)
        }
    }

    /// The highest version both sides speak, if there is one.
    pub fn common_version(&self) -> Option<u8> {
        let highest = self.version_max.min(PROTOCOL_VERSION);
        let lowest = self.version_min.max(PROTOCOL_VERSION_MIN);
        (highest >= lowest).then_some(highest)
    }
}

impl Wire for Lane {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self {
            Self::Control => 1,
            Self::Data => 2,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            1 => Ok(Self::Control),
            2 => Ok(Self::Data),
            _ => Err(DecodeError::Invalid { what: "lane" }),
        }
    }
}

impl Wire for PeerIdentity {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        self.directory_id.encode(out);
        self.cluster_id.encode(out);
        self.generation.encode(out);
        out.put_u64(self.nonce);
        put_string(out, &self.address);
        self.lane.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node_id: NodeId::decode(reader)?,
            directory_id: DirectoryId::decode(reader)?,
            cluster_id: ClusterId::decode(reader)?,
            generation: Generation::decode(reader)?,
            nonce: reader.u64()?,
            address: reader.string("address", NAME_BYTES_MAX)?.to_owned(),
            lane: Lane::decode(reader)?,
        })
    }
}

impl Wire for Hello {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&MAGIC);
        out.put_u8(self.version_min);
        out.put_u8(self.version_max);
        out.put_u8(if self.peer.is_some() {
            ROLE_PEER
        } else {
            ROLE_CLIENT
        });
        put_string(out, &self.cluster_name);
        if let Some(peer) = &self.peer {
            put_tag_bytes(out, TAG_PEER, &peer.to_bytes());
        }
        if let Some(id) = self.cluster_id {
            put_tag_bytes(out, TAG_CLUSTER_ID, &id.to_bytes());
        }
        if self.knows_goaway {
            put_tag_u8(out, TAG_GOAWAY, 1);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.slice(MAGIC.len())? != MAGIC {
            return Err(DecodeError::Invalid { what: "magic" });
        }
        let version_min = reader.u8()?;
        let version_max = reader.u8()?;
        let role = reader.u8()?;
        let cluster_name = reader.string("cluster name", NAME_BYTES_MAX)?.to_owned();
        let mut hello = Self {
            version_min,
            version_max,
            cluster_name,
            cluster_id: None,
            knows_goaway: false,
            peer: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_PEER => hello.peer = Some(PeerIdentity::decode(&mut field)?),
                TAG_CLUSTER_ID => hello.cluster_id = Some(ClusterId::decode(&mut field)?),
                TAG_GOAWAY => hello.knows_goaway = field.bool("knows goaway")?,
                _ => {}
            }
        }
        match (role, &hello.peer) {
            (ROLE_CLIENT, None) | (ROLE_PEER, Some(_)) => Ok(hello),
            _ => Err(DecodeError::Invalid { what: "role" }),
        }
    }
}

impl Wire for Welcome {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.version);
        self.node_id.encode(out);
        self.generation.encode(out);
        out.put_u64(self.nonce);
        put_string(out, &self.cluster_name);
        self.cluster_id.encode(out);
        self.ring_version.encode(out);
        if self.directory_id != DirectoryId::default() {
            put_tag_bytes(out, TAG_DIRECTORY_ID, &self.directory_id.to_bytes());
        }
        if let Some(limits) = &self.limits {
            put_tag_bytes(out, TAG_LIMITS, &limits.to_bytes());
        }
        if self.may_found {
            put_tag_u8(out, TAG_MAY_FOUND, 1);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut welcome = Self {
            version: reader.u8()?,
            node_id: NodeId::decode(reader)?,
            generation: Generation::decode(reader)?,
            nonce: reader.u64()?,
            cluster_name: reader.string("cluster name", NAME_BYTES_MAX)?.to_owned(),
            cluster_id: ClusterId::decode(reader)?,
            ring_version: RingVersion::decode(reader)?,
            directory_id: DirectoryId::default(),
            limits: None,
            may_found: false,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_DIRECTORY_ID => welcome.directory_id = DirectoryId::decode(&mut field)?,
                TAG_LIMITS => welcome.limits = Some(ClientLimits::decode(&mut field)?),
                TAG_MAY_FOUND => welcome.may_found = field.bool("may found")?,
                _ => {}
            }
        }
        Ok(welcome)
    }
}

impl Wire for ClientLimits {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.value_bytes_max);
        out.put_u32(self.frame_bytes_max);
        out.put_u32(self.batch_items_max);
        out.put_u32(self.requests_in_flight_max);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            value_bytes_max: reader.u32()?,
            frame_bytes_max: reader.u32()?,
            batch_items_max: reader.u32()?,
            requests_in_flight_max: reader.u32()?,
        })
    }
}

impl Wire for GoAway {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.last_id);
        out.put_u32(self.drain_ms);
        put_string(out, &self.reason);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let goaway = Self {
            last_id: reader.u64()?,
            drain_ms: reader.u32()?,
            reason: reader.string("reason", REASON_BYTES_MAX)?.to_owned(),
        };
        skip_tags(reader)?;
        Ok(goaway)
    }
}
