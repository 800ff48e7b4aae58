//! Who is let in: the accepting side of the handshake.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use dynakv_protocol::handshake::{Hello, PeerIdentity, Welcome};
use dynakv_protocol::{
    ClusterId, DirectoryId, ErrorCode, ErrorReply, Generation, NodeId, RingVersion,
};
use tokio::sync::watch;

use super::view::View;

/// Who this process is; settled when it starts.
#[derive(Debug, Clone)]
pub struct Myself {
    /// Its name.
    pub node_id: NodeId,
    /// Its data directory.
    pub directory_id: DirectoryId,
    /// How often that has been started.
    pub generation: Generation,
    /// Random per process.
    pub nonce: u64,
    /// The name of its cluster.
    pub cluster_name: String,
    /// Where others reach it.
    pub address: String,
}

/// Checks hellos against what this node is and knows.
#[derive(Debug)]
pub struct Admission {
    me: Myself,
    view: watch::Receiver<Arc<View>>,
    /// The newest process seen of each node: an older one is not let back in.
    newest: Mutex<BTreeMap<NodeId, (Generation, u64)>>,
}

/// How many names are remembered; beyond the most members a ring can have nobody is a member.
const NEWEST_MAX: usize = 4 * dynakv_protocol::limits::MEMBERS_MAX;

impl Admission {
    /// Who this node is, and where to look for its cluster.
    pub fn new(me: Myself, view: watch::Receiver<Arc<View>>) -> Self {
        let newest = Mutex::default();
        Self { me, view, newest }
    }

    /// Answers a hello.
    ///
    /// # Errors
    /// The refusal to send back: no common version, another cluster, a second process with one id.
    pub fn admit(&self, hello: &Hello) -> Result<Welcome, ErrorReply> {
        let (cluster_id, ring_version) = {
            let view = self.view.borrow();
            (view.cluster_id, view.ring_version())
        };
        let Some(version) = hello.common_version() else {
            let message = format!(
                "no common protocol version: you speak {} to {}, this node {} to {}; upgrade the \
                 older side",
                hello.version_min,
                hello.version_max,
                dynakv_protocol::frame::PROTOCOL_VERSION_MIN,
                dynakv_protocol::frame::PROTOCOL_VERSION,
            );
            return Err(ErrorReply::new(ErrorCode::VersionMismatch, message));
        };
        self.check_cluster(hello, cluster_id)?;
        if let Some(peer) = &hello.peer {
            self.check_peer(peer)?;
        }
        Ok(self.welcome(version, cluster_id, ring_version))
    }

    fn welcome(&self, version: u8, cluster_id: ClusterId, ring_version: RingVersion) -> Welcome {
        Welcome {
            version,
            node_id: self.me.node_id.clone(),
            generation: self.me.generation,
            nonce: self.me.nonce,
            cluster_name: self.me.cluster_name.clone(),
            cluster_id,
            ring_version,
        }
    }

    fn check_cluster(&self, hello: &Hello, own: ClusterId) -> Result<(), ErrorReply> {
        let name = &hello.cluster_name;
        let unnamed_client = name.is_empty() && hello.peer.is_none();
        if *name != self.me.cluster_name && !unnamed_client {
            let message = format!(
                "this node belongs to the cluster {:?}, not to {name:?}; check --cluster and the \
                 address",
                self.me.cluster_name
            );
            return Err(ErrorReply::new(ErrorCode::WrongCluster, message));
        }
        let theirs = match &hello.peer {
            Some(peer) => peer.cluster_id,
            None => hello.cluster_id.unwrap_or_default(),
        };
        if !theirs.is_none() && !own.is_none() && theirs != own {
            let message = format!(
                "two clusters have the name {:?}: this node belongs to {own}, you to {theirs}; a node \
                 or client of one can't speak to the other. Check the address",
                self.me.cluster_name
            );
            return Err(ErrorReply::new(ErrorCode::WrongCluster, message));
        }
        Ok(())
    }

    fn check_peer(&self, peer: &PeerIdentity) -> Result<(), ErrorReply> {
        if peer.node_id == self.me.node_id && peer.nonce != self.me.nonce {
            return Err(duplicate(&peer.node_id, &self.me.address));
        }
        let mut newest = self.lock();
        match newest.get(&peer.node_id) {
            Some((generation, _)) if *generation > peer.generation => {
                Err(duplicate(&peer.node_id, "another address"))
            }
            known => {
                if known.is_some() || newest.len() < NEWEST_MAX {
                    newest.insert(peer.node_id.clone(), (peer.generation, peer.nonce));
                }
                Ok(())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Generation, u64)>> {
        // The map is whole between any two operations.
        self.newest
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn duplicate(id: &NodeId, place: &str) -> ErrorReply {
    let message = format!(
        "a newer process with the id {id} runs at {place}; stop one of them, or give this one another \
         --id and --data-dir"
    );
    ErrorReply::new(ErrorCode::DuplicateNode, message)
}
