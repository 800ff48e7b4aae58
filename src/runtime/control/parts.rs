//! What the control task is given.

use std::path::PathBuf;
use std::sync::Arc;

use dynakv_protocol::ring_document::Member;
use dynakv_storage::{SmallFiles, Store};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::membership::MembershipConfig;
use crate::runtime::anti_entropy::repairs::Repairs;
use crate::runtime::anti_entropy::unlocking::UnlockJob;
use crate::runtime::net::admission::Myself;
use crate::runtime::net::calls::Calls;
use crate::runtime::net::confirming::Confirmer;
use crate::runtime::net::other_clusters::OtherClusters;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::{StoreThreads, WallClock};
use crate::runtime::shared::events::ControlEvent;
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::settling::Settling;
use crate::runtime::shared::unreachable::Unreachable;
use crate::runtime::shared::view::View;
use crate::runtime::store::fences::Fences;
use crate::runtime::store::hint_worker::HintHandle;
use crate::runtime::store::rebuilding::Rebuilding;

/// N, W and R where they were given.
pub type Quorums = (Option<u8>, Option<u8>, Option<u8>);

/// What a node was told about its cluster when it was started.
#[derive(Debug, Clone)]
pub struct Startup {
    /// Nodes to ask.
    pub seeds: Vec<String>,
    /// N, W and R where they were given.
    pub quorums: Quorums,
    /// The node's own entry in the ring.
    pub member: Member,
    /// Whether the directory has never been part of a cluster.
    pub is_new_directory: bool,
    /// Whether nodes come into a ring with data without an operator's word: this one, and those that ask this one.
    pub auto_join: bool,
}

/// What the control task is given.
pub struct Parts {
    /// Who this node is.
    pub me: Myself,
    /// How it was started.
    pub startup: Startup,
    /// Gossip and failure detection.
    pub membership: MembershipConfig,
    /// Calls to other nodes.
    pub calls: Arc<Calls>,
    /// Asks members about themselves.
    pub confirmer: Arc<Confirmer>,
    /// What was seen of them.
    pub seen: Arc<KnownProcesses>,
    /// Nodes of other clusters that have called.
    pub others: Arc<OtherClusters>,
    /// Who cannot be spoken to.
    pub unreachable: Arc<Unreachable>,
    /// Requests and hints.
    pub events: mpsc::Receiver<ControlEvent>,
    /// Where views go.
    pub view: watch::Sender<Arc<View>>,
    /// Where the node's data lie.
    pub data_dir: PathBuf,
    /// Whether they really lie there.
    pub threads: StoreThreads,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// Small durable state.
    pub files: Arc<dyn SmallFiles>,
    /// For its totals.
    pub store: Arc<dyn Store>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where this node has lost versions.
    pub rebuilding: Arc<Rebuilding>,
    /// What operators want of anti-entropy.
    pub repairs: Arc<Repairs>,
    /// What is kept for other nodes.
    pub hints: HintHandle,
    /// Has the store, and who keeps hints, follow another ring.
    pub fences: Fences,
    /// Whether the disk hangs.
    pub disk: Arc<DiskProgress>,
    /// Where locked keys are mended.
    pub unlocks: mpsc::Sender<UnlockJob>,
    /// All randomness.
    pub random: fastrand::Rng,
    /// Not ready from now on.
    pub draining: CancellationToken,
    /// Cancelled once clients are to go on elsewhere.
    pub clients: CancellationToken,
    /// How far a node that goes has handed on what it holds.
    pub settling: Arc<Settling>,
    /// Ends the task.
    pub shutdown: CancellationToken,
}
