//! Several nodes that form one cluster.

use std::ops::{Index, IndexMut};
use std::path::Path;

use tempfile::TempDir;

use super::bad_disk::BadDisks;
use super::node::Node;
use super::proxy::Proxy;
use super::wait::eventually;

/// Settings under which a silent node is suspected after 2 s and dead after 6 s.
pub(crate) const QUICK: &[(&str, &str)] = &[
    ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
    ("DYNAKV_SUSPECT_AFTER", "2s"),
    ("DYNAKV_DEAD_AFTER", "6s"),
];

/// The same, and copies are compared every 2 s, so that what nobody has noticed is mended soon, too.
pub(crate) const MENDED_OFTEN: &[(&str, &str)] = &[
    ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
    ("DYNAKV_SUSPECT_AFTER", "2s"),
    ("DYNAKV_DEAD_AFTER", "6s"),
    ("DYNAKV_ANTI_ENTROPY_INTERVAL", "2s"),
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
        Self::start_at(count, settings, |_| None, |node, _| node)
    }

    /// The same on disks that can be switched to misbehave.
    #[track_caller]
    pub(crate) fn start_on(disks: &BadDisks, count: usize) -> Self {
        Self::start_prepared(count, |node, _| disks.under(node))
    }

    /// The same with something done to each node before it starts, in the directory that all live in.
    #[track_caller]
    pub(crate) fn start_prepared(count: usize, prepare: impl FnMut(Node, &Path) -> Node) -> Self {
        Self::start_at(count, USUAL, |_| None, prepare)
    }

    /// The same, with all traffic between the nodes, and of clients that route by the ring, going through
    /// this proxy.
    #[track_caller]
    pub(crate) fn start_behind(proxy: &Proxy, count: usize, settings: &[(&str, &str)]) -> Self {
        let front = |node: &Node| Some(proxy.front(&node.id, node.port));
        Self::start_at(count, settings, front, |node, _| node)
    }

    #[track_caller]
    fn start_at(
        count: usize,
        settings: &[(&str, &str)],
        advertised: impl Fn(&Node) -> Option<String>,
        mut prepare: impl FnMut(Node, &Path) -> Node,
    ) -> Self {
        let root = tempfile::tempdir().expect("tests need a temporary directory");
        let mut nodes: Vec<Node> = Vec::with_capacity(count);
        let mut seed: Option<String> = None;
        for number in 1..=count {
            let mut node = Node::new(root.path(), &format!("node-{number}"))
                .with(&["-n", "3", "-w", "2", "-r", "2"])
                .with_settings(settings);
            let advertised = advertised(&node);
            if let Some(address) = &advertised {
                node = node.with(&["--advertise", address]);
            }
            match &seed {
                Some(seed) => node = node.with(&["--seed", seed]),
                None => seed = advertised.or_else(|| Some(node.address())),
            }
            node = prepare(node, root.path());
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

    /// Waits until each node finds the cluster healthy, without anybody's help.
    #[track_caller]
    pub(crate) fn wait_healthy(&mut self) {
        self.wait_whole();
        for node in &self.nodes {
            eventually(&format!("{} finds the cluster healthy", node.id), || {
                let status = node.run(&["status"]);
                match status.code {
                    Some(0) => Ok(()),
                    _ => Err(format!("{status:?}")),
                }
            });
        }
    }

    /// Makes the first write, and with it the ring that is final: everybody must know it before somebody
    /// goes away.
    #[track_caller]
    pub(crate) fn seal(&self, key: &str, value: &str) {
        self[0].run(&["put", key, value]).exits(0);
        let version = self[0].stat("/ring/version").expect("it answers");
        for node in &self.nodes {
            let what = format!("{} follows the final ring", node.id);
            eventually(&what, || match node.stat("/ring/version")? {
                followed if followed == version => Ok(()),
                older => Err(format!("it follows {older}")),
            });
        }
    }

    /// One more node, which was started or is going to be.
    pub(crate) fn add(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// One that is none of them any more.
    pub(crate) fn take_out(&mut self, index: usize) -> Node {
        self.nodes.remove(index)
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
