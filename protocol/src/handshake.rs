//! The first two messages of every connection: who is there, which versions, which cluster.

use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, Wire, put_string, put_tag_bytes};
use crate::frame::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use crate::ids::{ClusterId, DirectoryId, Generation, NAME_BYTES_MAX, NodeId, RingVersion};

/// The first bytes of a hello's body.
pub const MAGIC: [u8; 6] = *b"DYNAKV";

const ROLE_CLIENT: u8 = 1;
const ROLE_PEER: u8 = 2;
const TAG_PEER: u8 = 1;
const TAG_CLUSTER_ID: u8 = 2;
const TAG_DIRECTORY_ID: u8 = 1;

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
    /// Set by nodes, absent for clients.
    pub peer: Option<PeerIdentity>,
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
}

impl Hello {
    /// A client's hello with the versions of this crate.
    pub fn client(cluster_name: &str, cluster_id: Option<ClusterId>) -> Self {
        Self {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            cluster_name: cluster_name.to_owned(),
            cluster_id,
            peer: None,
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
            peer: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_PEER => hello.peer = Some(PeerIdentity::decode(&mut field)?),
                TAG_CLUSTER_ID => hello.cluster_id = Some(ClusterId::decode(&mut field)?),
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
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_DIRECTORY_ID {
                welcome.directory_id = DirectoryId::decode(&mut field)?;
            }
        }
        Ok(welcome)
    }
}

/// Steps over tagged fields that a newer version has added.
///
/// # Errors
/// [`DecodeError`] when what is left is no row of tagged fields.
pub(crate) fn skip_tags(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    while reader.tag()?.is_some() {}
    Ok(())
}
