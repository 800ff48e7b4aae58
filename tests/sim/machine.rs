//! One machine: what outlives the node that runs on it, and how that node is started.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynakv::config::Config;
use dynakv::node::Node;
use dynakv::runtime::environment::{Disk, Environment, StoreThreads};
use dynakv_protocol::NodeId;
use dynakv_protocol::codec::Wire;
use dynakv_storage::{
    Identity, MemoryDisk, MemoryStore, Mutation, Page, PageLimit, PositionRange, Store, StoreError,
    Totals, load_document,
};
use tokio_util::sync::CancellationToken;

use crate::clock::SkewedClock;
use crate::network::SimulatedNetwork;
use crate::trace::Trace;

/// Where every node listens.
pub(crate) const PORT: u16 = 8080;

/// A rule of safety that is left out on purpose, to see that the checkers notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// All rules are kept.
    None,
    /// The disk says "synced" and has not: acknowledged before durable.
    SyncDoesNothing,
    /// A node goes on with its actor after a power cut, at counters that it has never used: its dots
    /// are unique, and cover what it has forgotten.
    KeepsActor,
    /// A node does not notice that it has lost its data: it votes "absent" where it has forgotten.
    ForgetsLoss,
}

/// A machine, with or without a running node.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) disk: MemoryDisk,
    flaw: Flaw,
    seed: u64,
    sync_us: u64,
    clock_ahead_ms: u64,
    seeds: Vec<String>,
    /// How often a node was started here.
    lives: Cell<u64>,
    is_on: Cell<bool>,
    /// How often it was switched off.
    outages: Cell<u64>,
    /// Tells the node of this life to stop.
    stop: RefCell<CancellationToken>,
    trace: Trace,
}

/// The name of a machine, by its number.
pub(crate) fn machine_name(number: usize) -> String {
    format!("node-{}", number + 1)
}

/// Where the node of a machine is reached.
pub(crate) fn address(number: usize) -> String {
    format!("{}:{PORT}", machine_name(number))
}

impl Machine {
    /// Machine 0 founds the cluster, the others join it.
    pub(crate) fn new(number: usize, flaw: Flaw, random: &mut fastrand::Rng, trace: Trace) -> Self {
        Self {
            name: machine_name(number),
            disk: MemoryDisk::new(),
            flaw,
            seed: random.u64(..),
            // Some disks are slower than the network, so that others acknowledge first.
            sync_us: random.u64(500..=40_000),
            clock_ahead_ms: random.u64(..2000),
            seeds: match number {
                0 => Vec::new(),
                _ => vec![address(0)],
            },
            lives: Cell::new(0),
            is_on: Cell::new(true),
            outages: Cell::new(0),
            stop: RefCell::default(),
            trace,
        }
    }

    /// Runs a node until it is told to stop. A node that ends by itself is an error.
    pub(crate) async fn run(&self) -> turmoil::Result {
        let life = self.lives.get();
        self.lives.set(life + 1);
        let stop = CancellationToken::new();
        self.stop.replace(stop.clone());
        self.trace.line(&self.name, "starts");
        let mut node = Node::start_in(self.config()?, self.environment(life)).await?;
        tokio::select! {
            biased;
            error = node.failed() => return Err(format!("{} ended by itself: {error}", self.name).into()),
            () = stop.cancelled() => {}
        }
        node.shutdown().await;
        self.trace.line(&self.name, "has stopped in order");
        Ok(())
    }

    /// Tells the node to stop in order.
    pub(crate) fn stop(&self) {
        self.stop.borrow().cancel();
    }

    /// Cuts the power: of what was not synced, `kept` mutations stay.
    pub(crate) fn cut_power(&self, kept: usize) {
        self.disk.crash_keeping(kept);
        if self.flaw == Flaw::KeepsActor {
            self.pretend_a_clean_stop();
        }
    }

    /// The disk is replaced by an empty one. The power is off.
    pub(crate) fn lose_disk(&self) {
        match self.flaw {
            Flaw::ForgetsLoss => self.disk.wipe_store(),
            Flaw::None | Flaw::KeepsActor | Flaw::SyncDoesNothing => self.disk.wipe(),
        }
    }

    /// Whether it has power.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// Switches it on or off.
    pub(crate) fn set_on(&self, on: bool) {
        self.is_on.set(on);
        if !on {
            self.outages.set(self.outages.get() + 1);
        }
    }

    /// How often it was switched off.
    pub(crate) fn outages(&self) -> u64 {
        self.outages.get()
    }

    /// What is stored under a key, synced or not; nothing for a damaged value.
    pub(crate) fn stored(&self, key: &str) -> Option<Bytes> {
        match self.disk.store().get(key.as_bytes()) {
            Ok(stored) => stored,
            Err(error) if error.is_corruption() => None,
            Err(error) => panic!("a disk in memory can be read: {error}"),
        }
    }

    fn config(&self) -> Result<Config, Box<dyn std::error::Error>> {
        let mut config = Config::new(NodeId::new(&self.name)?);
        config.host = [0, 0, 0, 0].into();
        config.http_host = config.host;
        config.port = PORT;
        config.advertise = Some(format!("{}:{PORT}", self.name));
        config.seeds.clone_from(&self.seeds);
        // Faster than on real networks, so that a run sees nodes die and come back.
        config.gossip_interval = Duration::from_millis(500);
        config.suspect_after = Duration::from_secs(2);
        config.dead_after = Duration::from_secs(6);
        config.anti_entropy_interval = Duration::from_secs(5);
        Ok(config)
    }

    fn environment(&self, life: u64) -> Environment {
        let store = self.disk.store();
        Environment {
            network: Arc::new(SimulatedNetwork::new(&self.name, self.trace.clone())),
            clock: Arc::new(SkewedClock {
                ahead_ms: self.clock_ahead_ms,
            }),
            seed: self.seed.wrapping_add(life),
            disk: Disk {
                store: match self.flaw {
                    Flaw::None | Flaw::KeepsActor | Flaw::ForgetsLoss => Arc::new(store),
                    Flaw::SyncDoesNothing => Arc::new(LyingStore(store)),
                },
                hints: self.disk.hints(),
                files: Arc::new(self.disk.files()),
                threads: StoreThreads::Simulated {
                    sync_us: self.sync_us,
                },
            },
        }
    }

    fn pretend_a_clean_stop(&self) {
        let files = self.disk.files();
        let document = load_document(&files, "identity").expect("a disk in memory can be read");
        let Some(document) = document else {
            return;
        };
        let identity = Identity::from_bytes(&document).expect("the identity is of this version");
        let ceiling = identity.counter_floor + 1_000_000;
        let marked = identity.mark_clean(&files, identity.actor, ceiling);
        marked.expect("a disk in memory can be written");
    }
}

/// A store whose `sync` keeps nothing.
struct LyingStore(MemoryStore);

impl Store for LyingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(key)
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        self.0.apply(mutations)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.0.scan(range, after_key, limit)
    }

    fn totals(&self) -> Totals {
        self.0.totals()
    }

    fn segment_hash(&self, segment: dynakv_protocol::hash::Segment) -> u128 {
        self.0.segment_hash(segment)
    }
}
