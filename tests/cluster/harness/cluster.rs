//! Several nodes that form one cluster.

use std::ops::{Index, IndexMut};
use std::path::Path;

use tempfile::TempDir;

use super::node::Node;
use super::wait::eventually;

/// Settings under which a silent node is suspected after 2 s and dead after 6 s.
pub(crate) const QUICK: &[(&str, &str)] = &[
    ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
    ("DYNAKV_SUSPECT_AFTER", "2s"),
    ("DYNAKV_DEAD_AFTER", "6s"),
];

/// Gossip is fast, so that tests are; suspicion is as slow as by default, so that a slow machine makes
/// no false one.
const USUAL: &[(&str, &str)] = &[("DYNAKV_GOSSIP_INTERVAL", "200ms")];

/// Nodes named node-1, node-2, …; index 0 is node-1, which founds the cluster.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    // Dropped last: the nodes live in it.
    root: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until all nodes see all nodes.
    #[track_caller]
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, USUAL)
    }

    /// The same with other settings.
    #[track_caller]
    pub(crate) fn start_with(count: usize, settings: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().expect("tests need a temporary directory");
        let mut nodes: Vec<Node> = Vec::with_capacity(count);
        for number in 1..=count {
            let mut node = Node::new(root.path(), &format!("node-{number}"))
                .with(&["-n", "3", "-w", "2", "-r", "2"])
                .with_settings(settings);
            if let Some(founder) = nodes.first() {
                node = node.with(&["--seed", &founder.address()]);
            }
            node.start();
            nodes.push(node);
        }
        Self::of(root, nodes)
    }

    /// A cluster of nodes that the caller has started.
    #[track_caller]
    pub(crate) fn of(root: TempDir, nodes: Vec<Node>) -> Self {
        let mut cluster = Self { nodes, root };
        cluster.wait_whole();
        cluster
    }

    /// Where the nodes live.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts all again and waits until they are whole.
    #[track_caller]
    pub(crate) fn restart_all(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        self.wait_whole();
    }

    /// Waits until every node is ready, has all of them in its ring, and sees all of them alive.
    #[track_caller]
    pub(crate) fn wait_whole(&mut self) {
        let count = self.nodes.len() as u64;
        for node in &mut self.nodes {
            node.wait_ready();
            let what = format!("{} sees {count} members alive", node.id);
            eventually(&what, || {
                let stats = node.stats()?;
                let whole = stats["ring"]["total_nodes"] == count
                    && stats["gossip"]["alive_nodes"] == count;
                if whole {
                    Ok(())
                } else {
                    Err(stats.to_string())
                }
            });
        }
    }

    /// The addresses of all nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }
}
