//! Whether all owners of each key hold the same, found out without reading a key: a read would mend what
//! it finds.
//!
//! Each node is asked to export what it holds, and what it gives for a key is compared byte by byte (by a
//! hash of 128 bits) with what the key's other owners give. Equal states have equal encodings, and the hash
//! of a segment follows from them, so where nothing differs here the segments' hashes are equal, too, as
//! far as they are right: that is what `dynakv store check` looks at. While somebody writes, keys differ
//! that are on their way.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use dynakv_client::{Client, Error};
use dynakv_protocol::NodeId;
use dynakv_protocol::placement::Placement;
use xxhash_rust::xxh3::xxh3_128;

/// How many bytes are asked for at a time.
const PART_BYTES: u32 = 1024 * 1024;

/// How long one part may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why copies could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A node did not answer.
    #[error("{server} could not be asked what it holds: {source}")]
    Unreachable {
        /// The address of the server.
        server: String,
        /// What the client says.
        source: Error,
    },
    /// A member of the ring is none of the servers.
    #[error(
        "{id} is a member of the ring, and none of the servers that were given: name all of them"
    )]
    NotGiven {
        /// The node whose address is not given.
        id: NodeId,
    },
}

/// A key that its owners hold differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: Bytes,
    /// Each owner, and the hash of the versions it has.
    pub owners: Vec<(NodeId, Held)>,
}

/// What an owner has of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// Something damaged.
    Damaged,
    /// Versions with this hash of their encoding.
    Versions(u128),
}

/// What came of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// How many keys some node holds, deleted ones too.
    pub keys: usize,
    /// Those of which not all owners hold the same, in the order of the keys.
    pub differing: Vec<Difference>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.key.escape_ascii())?;
        for (id, held) in &self.owners {
            match held {
                Held::Nothing => write!(f, " {id} has nothing"),
                Held::Damaged => write!(f, " {id} has it damaged"),
                Held::Versions(hash) => write!(f, " {id} has {:08x}", (hash >> 96) as u32),
            }?;
        }
        Ok(())
    }
}

/// Compares what the nodes hold. `servers` are all members of the ring, `host:port` each. Takes memory in
/// proportion to the number of keys, not to their values.
///
/// # Errors
/// [`CompareError`].
pub async fn compare(servers: &[String]) -> Result<Compared, CompareError> {
    let mut placement = None;
    let mut holders: BTreeMap<Bytes, BTreeMap<NodeId, Held>> = BTreeMap::new();
    let mut asked = Vec::new();
    for server in servers {
        let unreachable = |source| CompareError::Unreachable {
            server: server.clone(),
            source,
        };
        let client = Client::builder()
            .seeds([server])
            .timeout(TIMEOUT)
            .ring_routing(false);
        let client = client.build().await.map_err(unreachable)?;
        if placement.is_none() {
            let document = client.ring().await.map_err(unreachable)?.document;
            placement = Some((Placement::new(&document), document));
        }
        let mut after = None;
        loop {
            let part = client
                .export(after, PART_BYTES)
                .await
                .map_err(unreachable)?;
            let id = part.node_id;
            for item in part.items {
                let held = Held::Versions(xxh3_128(&item.versions));
                let of_key = holders.entry(item.key).or_default();
                of_key.insert(id.clone(), held);
            }
            for key in part.damaged {
                let of_key = holders.entry(key).or_default();
                of_key.insert(id.clone(), Held::Damaged);
            }
            after = part.next;
            if after.is_none() {
                asked.push(id);
                break;
            }
        }
    }
    let Some((placement, document)) = placement else {
        return Ok(Compared::default());
    };
    if let Some(member) = document.members.iter().find(|it| !asked.contains(&it.id)) {
        let id = member.id.clone();
        return Err(CompareError::NotGiven { id });
    }
    let keys = holders.len();
    let mut differing = Vec::new();
    for (key, of_key) in holders {
        let owners = placement.owners_of_key(&key).iter();
        let owners = owners.map(|owner| {
            let id = document.members[owner.slot()].id.clone();
            let held = of_key.get(&id).copied().unwrap_or(Held::Nothing);
            (id, held)
        });
        let owners: Vec<_> = owners.collect();
        let is_same = |pair: &[(NodeId, Held)]| pair[0].1 == pair[1].1;
        let has_damage = owners.iter().any(|(_, held)| *held == Held::Damaged);
        if has_damage || !owners.windows(2).all(is_same) {
            differing.push(Difference { key, owners });
        }
    }
    Ok(Compared { keys, differing })
}
