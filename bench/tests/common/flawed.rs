//! Nodes inside the test's process, whose stores can lose writes on purpose.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv::config::Config;
use dynakv::node::Node;
use dynakv::runtime::net::tcp::TcpNetwork;
use dynakv::runtime::shared::environment::{Disk, Environment, StoreThreads, SystemClock};
use dynakv_client::Client;
use dynakv_protocol::NodeId;
use dynakv_protocol::causal::{Value, Versions};
use dynakv_protocol::codec::{Reader, Wire};
use dynakv_storage::{
    Footprint, MemoryDisk, MemoryStore, Mutation, Page, PageLimit, PositionRange, Store,
    StoreError, Totals,
};
use tokio::sync::oneshot;

/// Far longer than anything takes on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which writes all stores say yes to and drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// None.
    None,
    /// About one put in so many.
    DropsPuts(u128),
    /// About one delete in so many.
    DropsDeletes(u128),
    /// None; but about one write in so many leaves what it has replaced beside it.
    KeepsReplaced(u128),
}

/// The values of the puts that were dropped.
pub(crate) type Dropped = Arc<Mutex<BTreeSet<Bytes>>>;

/// Three nodes that end with this.
pub(crate) struct FlawedCluster {
    pub(crate) addresses: Vec<String>,
    pub(crate) dropped: Dropped,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FlawedCluster {
    /// Starts them and waits until they see each other.
    pub(crate) fn start(flaw: Flaw) -> Self {
        let dropped = Dropped::default();
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let of_thread = Arc::clone(&dropped);
        let thread = std::thread::spawn(move || {
            super::block_on(async {
                let mut nodes: Vec<Node> = Vec::new();
                let mut addresses: Vec<String> = Vec::new();
                for number in 1..=3 {
                    let node = start_node(number, &addresses, flaw, &of_thread).await;
                    addresses.push(node.address().to_string());
                    nodes.push(node);
                }
                wait_whole(&addresses).await;
                tell.send(addresses).expect("the test waits for this");
                let _either_way = stopped.await;
                for node in nodes {
                    node.shutdown().await;
                }
            });
        });
        let addresses = told.recv().expect("the nodes start");
        Self {
            addresses,
            dropped,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for FlawedCluster {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ended = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a node panicked");
        }
    }
}

async fn start_node(number: u64, seeds: &[String], flaw: Flaw, dropped: &Dropped) -> Node {
    let id = NodeId::new(&format!("node-{number}")).expect("a good name");
    let mut config = Config::new(id);
    config.host = IpAddr::from(Ipv4Addr::LOCALHOST);
    config.port = 0;
    config.seeds = seeds.to_vec();
    config.gossip_interval = Duration::from_millis(200);
    let disk = MemoryDisk::new();
    let store = FlawedStore {
        inner: disk.store(),
        flaw,
        dropped: Arc::clone(dropped),
    };
    let environment = Environment {
        network: Arc::new(TcpNetwork),
        clock: Arc::new(SystemClock),
        seed: number,
        disk: Disk {
            store: Arc::new(store),
            hints: disk.hints(),
            files: Arc::new(disk.files()),
            threads: StoreThreads::Own,
        },
    };
    let node = Node::start_in(config, environment).await;
    node.expect("a node starts on a free port")
}

async fn wait_whole(addresses: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    for address in addresses {
        loop {
            let client = Client::builder().seeds([address]).ring_routing(false);
            let stats = match client.build().await {
                Ok(client) => client.stats().await,
                Err(error) => Err(error),
            };
            match stats {
                Ok(stats) if (stats.total_nodes, stats.alive_nodes) == (3, 3) => break,
                other => assert!(
                    Instant::now() < deadline,
                    "not within {PATIENCE:?}: {address} sees three nodes: {other:?}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A store that drops some of what it is given.
struct FlawedStore {
    inner: MemoryStore,
    flaw: Flaw,
    dropped: Dropped,
}

impl FlawedStore {
    /// What is stored in the place of this: the same, or with what was there before beside it.
    fn changed(&self, mutation: &Mutation) -> Result<Mutation, StoreError> {
        let Flaw::KeepsReplaced(one_in) = self.flaw else {
            return Ok(mutation.clone());
        };
        let decode = |bytes: &Bytes| {
            let mut reader = Reader::new(bytes);
            Versions::decode(&mut reader).expect("a node stores what it can read")
        };
        let new = decode(&mutation.versions);
        let is_meant = |versions: &Versions| {
            let mut ids = versions.siblings().iter().map(|it| it.write_id.0);
            ids.any(|id| id % one_in == 0)
        };
        let before = self.inner.get(&mutation.key)?;
        let Some(before) = before.filter(|_| is_meant(&new)) else {
            return Ok(mutation.clone());
        };
        let mut siblings = new.siblings().to_vec();
        let known: BTreeSet<_> = siblings.iter().map(|it| it.dot).collect();
        let before = decode(&before);
        let replaced = before.siblings().iter();
        let replaced = replaced.filter(|it| !known.contains(&it.dot));
        siblings.extend(replaced.cloned());
        siblings.sort_by_key(|it| it.dot);
        let both = Versions::from_parts(new.clock().clone(), siblings);
        let both = both.expect("the clock covers what it has replaced");
        let encoded = both.to_bytes();
        let after = Footprint::of_encoded(&mutation.key, &both, &encoded);
        Ok(Mutation {
            versions: encoded,
            after,
            ..mutation.clone()
        })
    }

    /// All nodes judge the same write alike, so what is dropped is nowhere.
    fn drops(&self, mutation: &Mutation) -> bool {
        let mut reader = Reader::new(&mutation.versions);
        let versions = Versions::decode(&mut reader).expect("a node stores what it can read");
        let mut siblings = versions.siblings().iter();
        siblings.any(|sibling| match (self.flaw, &sibling.value) {
            (Flaw::DropsPuts(one_in), Value::Bytes(value)) => {
                let drops = sibling.write_id.0 % one_in == 0;
                if drops {
                    self.dropped.lock().unwrap().insert(value.clone());
                }
                drops
            }
            (Flaw::DropsDeletes(one_in), Value::Tombstone) => sibling.write_id.0 % one_in == 0,
            _ => false,
        })
    }
}

impl Store for FlawedStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key)
    }

    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        let kept = mutations.iter().filter(|mutation| !self.drops(mutation));
        for mutation in kept {
            self.inner.apply(&[self.changed(mutation)?])?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.inner.scan(range, after_key, limit)
    }

    fn totals(&self) -> Totals {
        self.inner.totals()
    }

    fn segment_hash(&self, segment: dynakv_protocol::hash::Segment) -> u128 {
        self.inner.segment_hash(segment)
    }
}
