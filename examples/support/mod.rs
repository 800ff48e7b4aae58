//! A small cluster inside the process, for the examples.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

use dynakv::embedded::Fetched;
use dynakv::{Config, Node, NodeId};
use tempfile::TempDir;

/// Far longer than anything here takes on a machine that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long the others are given to see that a node has closed its connections.
const NOTICE: Duration = Duration::from_millis(500);

/// What an example gives back: the first thing that went wrong, which makes its exit code 1.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// Three nodes of one cluster, each with a directory and free ports of its own.
pub(crate) struct Cluster {
    nodes: Vec<Option<Node>>,
    configs: Vec<Config>,
    _directory: TempDir,
}

impl Cluster {
    /// Founds a cluster of three nodes that keeps `n` copies, and waits until all see each other.
    pub(crate) async fn start(n: u8, w: u8, r: u8) -> Result<Self, Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let (mut nodes, mut configs) = (Vec::new(), Vec::<Config>::new());
        for number in 1..=3 {
            let id = NodeId::new(&format!("node-{number}"))?;
            let data_dir = directory.path().join(id.as_str());
            let mut config = Config {
                n: Some(n),
                w: Some(w),
                r: Some(r),
                ..Config::embedded(id, data_dir)
            };
            // The first node founds the cluster; the others ask it to be let in.
            config.seeds = configs.iter().take(1).map(address).collect();
            let node = Node::start(config.clone()).await?;
            // From now on the node keeps its ports, so that it comes back where others look for it.
            config.port = node.address().port();
            config.http_port = node.http_address().map(|address| address.port());
            nodes.push(Some(node));
            configs.push(config);
        }
        let cluster = Self {
            nodes,
            configs,
            _directory: directory,
        };
        // The first write closes the ring, so everybody must be in it by then.
        for number in 1..=3 {
            cluster.node(number).wait_for_members(3, PATIENCE).await?;
        }
        println!("Three nodes run in this process: N = {n}, W = {w}, R = {r}.");
        Ok(cluster)
    }

    /// A node that runs, by its number from 1.
    pub(crate) fn node(&self, number: usize) -> &Node {
        let node = self.nodes[number - 1].as_ref();
        node.unwrap_or_else(|| panic!("node-{number} is stopped at this point of the story"))
    }

    /// Stops a node.
    pub(crate) async fn stop(&mut self, number: usize) {
        if let Some(node) = self.nodes[number - 1].take() {
            node.shutdown().await;
        }
        tokio::time::sleep(NOTICE).await;
        println!("node-{number} is stopped.");
    }

    /// Starts a stopped node again, in its directory.
    #[allow(dead_code, reason = "not every example brings a node back")]
    pub(crate) async fn restart(&mut self, number: usize) -> Outcome {
        let node = Node::start(self.configs[number - 1].clone()).await?;
        node.ready(PATIENCE).await?;
        self.nodes[number - 1] = Some(node);
        println!("node-{number} is back, with the directory it had.");
        Ok(())
    }

    /// Stops all nodes that run.
    pub(crate) async fn end(self) {
        for node in self.nodes.into_iter().flatten() {
            node.shutdown().await;
        }
    }
}

fn address(config: &Config) -> String {
    format!("{}:{}", config.host, config.port)
}

/// The values of a key as texts, in order.
pub(crate) fn texts(fetched: &Fetched) -> BTreeSet<String> {
    let texts = fetched.siblings.iter();
    texts
        .map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned())
        .collect()
}

/// Ends the example with exit code 1 when it does not hold.
pub(crate) fn claim(holds: bool, what: &str) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(format!("this should have been so: {what}").into())
    }
}

/// Tries until it holds: what a cluster does after the answer takes its moment.
#[allow(dead_code, reason = "not every example waits")]
pub(crate) async fn eventually(what: &str, mut attempt: impl AsyncFnMut() -> bool) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while !attempt().await {
        if Instant::now() > deadline {
            return claim(false, what);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
