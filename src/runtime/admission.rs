//! Who is let in: the accepting side of the handshake.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use dynakv_protocol::handshake::{Hello, Lane, PeerIdentity, Welcome};
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

/// One run of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    directory_id: DirectoryId,
    generation: Generation,
    nonce: u64,
}

impl Process {
    /// Whether this one has run after `other`, or beside it. Each start raises the directory's
    /// generation, so that the same one with another nonce is a second run on a copy of it: it has
    /// forgotten what the first has written since. Another directory counts from 1 again; whether
    /// that one may come in is for the ring to say.
    fn outdates(self, other: Self) -> bool {
        let is_copy = self.generation == other.generation && self.nonce != other.nonce;
        self.directory_id == other.directory_id && (self.generation > other.generation || is_copy)
    }
}

/// Checks hellos against what this node is and knows.
#[derive(Debug)]
pub struct Admission {
    me: Myself,
    view: watch::Receiver<Arc<View>>,
    /// The newest process seen of each node: an older one is not let back in.
    newest: Mutex<BTreeMap<NodeId, Process>>,
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
        let wants_data = hello
            .peer
            .as_ref()
            .is_some_and(|peer| peer.lane == Lane::Data);
        if wants_data && theirs.is_none() {
            let message = "a node exchanges data only once it has joined the cluster";
            return Err(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        }
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
        let process = Process {
            directory_id: peer.directory_id,
            generation: peer.generation,
            nonce: peer.nonce,
        };
        let mut newest = self.lock();
        match newest.get(&peer.node_id) {
            Some(known) if known.outdates(process) => {
                Err(duplicate(&peer.node_id, "another address"))
            }
            known => {
                if known.is_some() || newest.len() < NEWEST_MAX {
                    newest.insert(peer.node_id.clone(), process);
                }
                Ok(())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Process>> {
        // The map is whole between any two operations.
        self.newest
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn duplicate(id: &NodeId, place: &str) -> ErrorReply {
    let message = format!(
        "a newer process with the id {id} runs at {place}, or has run; stop one of them, or give this \
         one another --id and --data-dir. If its data directory is an old copy, start it again until \
         it is let in: it then knows that it has forgotten something"
    );
    ErrorReply::new(ErrorCode::DuplicateNode, message)
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::handshake::Lane;

    use super::*;

    fn hello(directory: u64, generation: u64, nonce: u64) -> Hello {
        let peer = PeerIdentity {
            node_id: "b".parse().unwrap(),
            directory_id: DirectoryId(directory),
            cluster_id: ClusterId::default(),
            generation: Generation(generation),
            nonce,
            address: "127.0.0.1:1".to_owned(),
            lane: Lane::Control,
        };
        Hello::peer("blue", peer)
    }

    fn admission() -> Admission {
        let me = Myself {
            node_id: "a".parse().unwrap(),
            directory_id: DirectoryId(1),
            generation: Generation(1),
            nonce: 1,
            cluster_name: "blue".to_owned(),
            address: "127.0.0.1:2".to_owned(),
        };
        let (_, view) = watch::channel(Arc::default());
        Admission::new(me, view)
    }

    #[test]
    fn an_older_run_and_a_copy_are_refused() {
        let admission = admission();
        let code = |hello| admission.admit(&hello).err().map(|error| error.code);
        assert_eq!(code(hello(7, 5, 50)), None);
        assert_eq!(
            code(hello(7, 5, 50)),
            None,
            "another connection of the same run"
        );
        assert_eq!(code(hello(7, 4, 40)), Some(ErrorCode::DuplicateNode));
        assert_eq!(code(hello(7, 5, 51)), Some(ErrorCode::DuplicateNode));
        assert_eq!(code(hello(7, 6, 60)), None, "it was started again");
        assert_eq!(code(hello(7, 5, 50)), Some(ErrorCode::DuplicateNode));
    }
}
