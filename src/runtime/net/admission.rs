//! Who is let in: the accepting side of the handshake.

use std::sync::Arc;

use dynakv_protocol::handshake::{Hello, Lane, PeerIdentity, Welcome};
use dynakv_protocol::{
    ClusterId, DirectoryId, ErrorCode, ErrorReply, Generation, NodeId, RingVersion,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::confirming::{Confirmer, Outcome};
use super::other_clusters::OtherClusters;
use crate::engine::counters::Impossible;
use crate::engine::membership::generations::{Finding, Process, Sighting};
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::view::View;

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
    /// Whether it founds a cluster unless its seeds are in one.
    pub may_found: bool,
}

/// Checks hellos against what this node is and knows.
#[derive(Debug)]
pub struct Admission {
    me: Myself,
    view: watch::Receiver<Arc<View>>,
    confirmer: Arc<Confirmer>,
    seen: Arc<KnownProcesses>,
    others: Arc<OtherClusters>,
    clients: CancellationToken,
}

impl Admission {
    /// Who this node is, where to look for its cluster, how to ask members about themselves, what was seen of them,
    /// where nodes of other clusters are noted, and what says that clients are to go on elsewhere.
    pub fn new(
        me: Myself,
        view: watch::Receiver<Arc<View>>,
        confirmer: Arc<Confirmer>,
        seen: Arc<KnownProcesses>,
        others: Arc<OtherClusters>,
        clients: CancellationToken,
    ) -> Self {
        Self {
            me,
            view,
            confirmer,
            seen,
            others,
            clients,
        }
    }

    /// Answers a hello.
    ///
    /// # Errors
    /// The refusal to send back: no common version, another cluster, a second process with one id.
    pub async fn admit(&self, hello: &Hello) -> Result<Welcome, ErrorReply> {
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
        self.check_cluster(hello, cluster_id).inspect_err(|error| {
            if let Some(peer) = hello
                .peer
                .as_ref()
                .filter(|_| error.code == ErrorCode::WrongCluster)
            {
                self.others.note(peer, &hello.cluster_name, Instant::now());
            }
        })?;
        // It would be sent away at once. Other nodes still decide with this one.
        if hello.peer.is_none() && self.clients.is_cancelled() {
            let message = "this node is shutting down, or leaves the cluster; ask another one";
            return Err(ErrorReply::new(ErrorCode::NotReady, message).retryable());
        }
        if let Some(peer) = &hello.peer {
            if peer.lane == Lane::Data && !self.is_member(peer) {
                return Err(self.view.borrow().no_member(peer));
            }
            self.check_peer(peer, cluster_id).await?;
        }
        Ok(self.welcome(version, cluster_id, ring_version))
    }

    /// Whether a node is a member now; who is none may ask to join.
    pub fn is_member(&self, peer: &PeerIdentity) -> bool {
        self.view.borrow().has_member(peer)
    }

    /// How many there are.
    pub fn members(&self) -> usize {
        self.view.borrow().members.len()
    }

    /// Says when [`is_member`](Self::is_member) may have changed.
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
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
            directory_id: self.me.directory_id,
            limits: None,
            may_found: self.me.may_found && cluster_id.is_none(),
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

    async fn check_peer(&self, peer: &PeerIdentity, own: ClusterId) -> Result<(), ErrorReply> {
        if peer.node_id == self.me.node_id && peer.nonce != self.me.nonce {
            return Err(self.namesake(peer, own));
        }
        let process = Process::from(peer);
        self.check_claim(&process).await?;
        match self.seen.see(&process) {
            Ok(Sighting::Known | Sighting::News) => Ok(()),
            Ok(Sighting::Outdated) => Err(duplicate(&peer.node_id, "another address")),
            Ok(Sighting::Impossible(impossible)) => Err(cannot_be(&peer.node_id, impossible)),
            Err(error) => {
                tracing::error!(%error, node = %peer.node_id, "could not note that it was started");
                let message = format!("this node cannot write to its disk: {error}");
                Err(ErrorReply::new(ErrorCode::NotReady, message).retryable())
            }
        }
    }

    /// Another process under this node's name. A refusal as a duplicate ends it, so that takes more than
    /// the name: a process that was started by mistake, at the address of a member that is down, would
    /// otherwise end the living node that gossips there, and then find its place free.
    fn namesake(&self, peer: &PeerIdentity, own: ClusterId) -> ErrorReply {
        let is_copy = peer.directory_id == self.me.directory_id;
        // Of two that both follow a ring one was replaced: it learns that from the others.
        let is_mine = !own.is_none() && peer.cluster_id.is_none();
        if is_copy || is_mine {
            return duplicate(&peer.node_id, &self.me.address);
        }
        let message = format!(
            "this process, at {}, has the id {} too, in another data directory; which of the two the cluster \
             knows, its other members say",
            self.me.address, peer.node_id
        );
        ErrorReply::new(ErrorCode::NotReady, message).retryable()
    }

    /// A member that says it has been started again, or that shows up for the first time. Where it is known to be it
    /// is asked whether that is so: who lives there as another run lives on its directory, and this one runs
    /// on a copy, or is not what it says. Where nobody is any more, it has moved.
    async fn check_claim(&self, claimed: &Process) -> Result<(), ErrorReply> {
        let id = &claimed.node_id;
        match self.confirmer.look_at(claimed).await {
            Outcome::Settled | Outcome::Found(Finding::Confirmed | Finding::Unopposed) => Ok(()),
            Outcome::Found(Finding::Contradicted) => {
                let known = self.view.borrow().address_of(id);
                Err(copied(id, &known.unwrap_or_default()))
            }
            Outcome::Found(Finding::Outdated) => Err(duplicate(id, "its former address")),
            Outcome::Found(Finding::Impossible(impossible)) => Err(cannot_be(id, impossible)),
            Outcome::Later => {
                let message = format!(
                    "it cannot be told yet whether this is {id}, as the node that is known by that name has no \
                     time to say so, or was spoken for by somebody else a moment ago: try again"
                );
                Err(ErrorReply::new(ErrorCode::NotReady, message).retryable())
            }
        }
    }
}

/// What is answered to a member that is none any more, by a view that is newer than the last one looked at.
pub(crate) fn no_more(
    member: &PeerIdentity,
    views: &mut watch::Receiver<Arc<View>>,
) -> Option<ErrorReply> {
    if !views.has_changed().unwrap_or(false) {
        return None;
    }
    let view = views.borrow_and_update();
    (!view.has_member(member)).then(|| view.no_member(member))
}

fn cannot_be(id: &NodeId, impossible: Impossible) -> ErrorReply {
    let message = format!(
        "{id} says what cannot be: {impossible}. If its data directory is damaged, start it with an empty one: it \
         is rebuilt from the others"
    );
    ErrorReply::new(ErrorCode::BadRequest, message)
}

fn copied(id: &NodeId, address: &str) -> ErrorReply {
    let message = format!(
        "the node {id} is running at {address}, and this process runs on a copy of its data directory; stop \
         that one first, or give this one another --id and an empty --data-dir"
    );
    ErrorReply::new(ErrorCode::DuplicateNode, message)
}

/// The refusal of a process that is older than another one of its node.
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
    use std::io;
    use std::net::SocketAddr;

    use dynakv_storage::MemoryDisk;

    use super::*;
    use crate::runtime::net::frame_reader::Intake;
    use crate::runtime::net::outgoing::Outgoing;
    use crate::runtime::shared::environment::{BoxFuture, Listener, Network, ReadHalf, WriteHalf};
    use crate::runtime::shared::ledger::Ledger;

    /// What a test does not need.
    struct NoNetwork;

    impl Network for NoNetwork {
        fn dial<'a>(
            &'a self,
            _address: &'a str,
        ) -> BoxFuture<'a, io::Result<(ReadHalf, WriteHalf)>> {
            Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
        }

        fn listen(&self, _address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
            Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
        }
    }

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

    fn admission(disk: &MemoryDisk) -> Admission {
        in_cluster(disk, ClusterId::default())
    }

    fn in_cluster(disk: &MemoryDisk, cluster_id: ClusterId) -> Admission {
        let me = Myself {
            node_id: "a".parse().unwrap(),
            directory_id: DirectoryId(1),
            generation: Generation(1),
            nonce: 1,
            cluster_name: "blue".to_owned(),
            address: "127.0.0.1:2".to_owned(),
            may_found: false,
        };
        let now = View {
            cluster_id,
            ..View::default()
        };
        let (_, view) = watch::channel(Arc::new(now));
        let seen = Arc::new(KnownProcesses::load(Arc::new(disk.files())).unwrap());
        let intake = Intake {
            malformed: metrics::Counter::noop(),
            ledger: Arc::new(Ledger::new(1 << 20)),
        };
        let outgoing = Outgoing {
            network: Arc::new(NoNetwork),
            view: view.clone(),
            seen: seen.clone(),
            intake,
        };
        let confirmer = Confirmer::new(outgoing, me.cluster_name.clone());
        let (others, draining) = (Arc::default(), CancellationToken::new());
        Admission::new(me, view, Arc::new(confirmer), seen, others, draining)
    }

    #[tokio::test]
    async fn an_older_run_and_a_copy_are_refused() {
        let admission = admission(&MemoryDisk::new());
        for (generation, nonce, expected) in [
            (5, 50, None),
            // Another connection of the same run.
            (5, 50, None),
            (4, 40, Some(ErrorCode::DuplicateNode)),
            (5, 51, Some(ErrorCode::DuplicateNode)),
            // It was started again.
            (6, 60, None),
            (5, 50, Some(ErrorCode::DuplicateNode)),
        ] {
            let answer = admission.admit(&hello(7, generation, nonce)).await;
            let code = answer.err().map(|error| error.code);
            assert_eq!(code, expected, "{generation} {nonce}");
        }
    }

    /// Who refuses as a duplicate ends the other one, so a stranger under a member's name must not.
    #[tokio::test]
    async fn a_name_alone_ends_nobody_who_is_a_member() {
        let (joined, apart) = (ClusterId(9), ClusterId::default());
        for (own, theirs, directory, expected) in [
            // A process that has not joined answers where a member gossips.
            (apart, joined, 7, ErrorCode::NotReady),
            (apart, apart, 7, ErrorCode::NotReady),
            // The former holder of the name: it is replaced, and may not know it yet.
            (joined, joined, 7, ErrorCode::NotReady),
            // A member is asked to let its own name in.
            (joined, apart, 7, ErrorCode::DuplicateNode),
            // A copy of this directory.
            (joined, joined, 1, ErrorCode::DuplicateNode),
        ] {
            let admission = in_cluster(&MemoryDisk::new(), own);
            let mut hello = hello(directory, 1, 2);
            if let Some(peer) = &mut hello.peer {
                peer.node_id = admission.me.node_id.clone();
                peer.cluster_id = theirs;
            }
            let answer = admission.admit(&hello).await;
            let code = answer.err().map(|error| error.code);
            assert_eq!(code, Some(expected), "{own} {theirs} {directory}");
        }
    }
}
