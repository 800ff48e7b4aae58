//! What some blocks are typed at: clusters of other quorums, with owners down, with a damaged store.

use std::fmt::Write as _;

use super::{Reader, Typed};
use crate::harness::{Cluster, Node, in_shell};

/// Three nodes with N = 3 and these quorums, which see each other.
pub(super) fn cluster_of(w: &str, r: &str) -> Cluster {
    let root = tempfile::tempdir().expect("tests need a temporary directory");
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=3 {
        let mut node = Node::new(root.path(), &format!("node-{number}"))
            .with(&["-n", "3", "-w", w, "-r", r])
            .with_settings(&[("DYNAKV_GOSSIP_INTERVAL", "200ms")]);
        if let Some(first) = nodes.first() {
            node = node.with(&["--seed", &first.address()]);
        }
        node.start();
        nodes.push(node);
    }
    Cluster::of(root, nodes)
}

/// Five nodes, of which one owner of the key of the block is down.
pub(super) fn write_sloppily(block: &[Typed]) -> String {
    let cluster = Cluster::start(5);
    cluster.seal("first", "value");
    let explained = cluster[0].run(&["explain", "cart:7", "--output", "json"]);
    let owners = explained.json()["owners"].clone();
    let owners: Vec<String> = (owners.as_array().into_iter().flatten())
        .filter_map(|owner| owner["id"].as_str())
        .map(str::to_owned)
        .collect();
    assert_eq!(owners.len(), 3, "{explained:?}");
    let mut reader = Reader::of(cluster);
    let is_owner = |node: &Node| owners.contains(&node.id);
    let down: Vec<usize> = (1..5)
        .filter(|&at| is_owner(&reader.cluster[at]))
        .take(2)
        .collect();
    assert_eq!(down.len(), 2);
    for at in down {
        reader.cluster[at].kill();
    }
    reader.status_exits(4);
    reader.type_all(block);
    reader.surprises
}

/// A node that has set its store aside, because a file of it was lost.
pub(super) fn look_after_stores(block: &[Typed]) -> String {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    cluster[2].stop();
    let store = cluster[2].data_dir().join("store");
    std::fs::remove_file(store.join("format")).unwrap();
    cluster[2].start();
    cluster.wait_healthy();
    let set_aside = std::fs::read_dir(cluster[2].data_dir()).unwrap();
    let mut set_aside = set_aside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let set_aside = set_aside.find(|name| name.starts_with("store.damaged-"));
    let set_aside = set_aside.expect("the store was set aside");
    let mut reader = Reader::of(cluster);
    for typed in block {
        let mut typed = typed.clone();
        if let Some((before, _)) = typed.command.split_once("store.damaged-") {
            typed.command = format!("{before}{set_aside}");
        } else if reader.cluster[2].runs() {
            reader.cluster[2].stop();
        }
        let output = reader.run(&typed.command);
        // What they print is in no document, and so only how they end is.
        if output.status.code() != Some(typed.exit_code) {
            let _ = writeln!(reader.surprises, "$ {}\n{output:?}", typed.command);
        }
    }
    reader.surprises
}

/// What takes minutes, or a cluster of the reader's own: the options exist, and so do the targets.
pub(super) fn know_the_words(block: &[Typed]) -> String {
    let mut surprises = String::new();
    for typed in block {
        let command = if typed.command.starts_with("make ") {
            format!("{} --dry-run --silent", typed.command)
        } else {
            format!("{} --help", typed.command)
        };
        let mut shell = in_shell(&command);
        shell.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = shell.output().expect("there is a shell");
        if !output.status.success() {
            let _ = writeln!(surprises, "$ {command}\n{output:?}");
        }
    }
    surprises
}
