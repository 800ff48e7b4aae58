//! Snapshots of nodes that serve, and nodes that begin in one.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::actors::copy_directory;
use crate::harness::{
    Cluster, Node, all_is_well, block_on, client, dynakv, eventually, read_all, under_load,
    write_all,
};

/// Keys that are written before the snapshot and not again.
const KEYS: usize = 2_000;

/// Keys that are written after it: every tenth of these, and as many new ones.
const CHANGED: usize = 2 * KEYS / 10;

/// More keys than the load of the harness has.
const LOAD_KEYS: u64 = 2_000;

fn first(number: usize) -> (String, String) {
    (format!("key-{number}"), format!("first-{number}"))
}

/// Writes what must be there at the end, and gives it: all of it, and what of it is written after the snapshot.
fn second(cluster: &Cluster) -> BTreeMap<String, String> {
    let changed = (0..KEYS).step_by(10);
    let changed = changed.map(|number| (format!("key-{number}"), format!("second-{number}")));
    let new = (0..KEYS / 10).map(|number| (format!("new-{number}"), format!("new-{number}")));
    let changed: Vec<_> = changed.chain(new).collect();
    assert_eq!(changed.len(), CHANGED);
    put(cluster, changed.clone());
    (0..KEYS).map(first).chain(changed).collect()
}

fn put(cluster: &Cluster, data: impl IntoIterator<Item = (String, String)>) {
    let failed = block_on(async {
        let client = client(&cluster.addresses()).await;
        write_all(&client, data).await
    });
    assert!(failed.is_empty(), "{failed:?}");
}

/// Has a node make a snapshot, which `store check` accepts while the node runs. Where it lies.
#[track_caller]
fn snapshot(node: &Node, name: &str) -> PathBuf {
    let made = node.run(&["snapshot", name, "--output", "json"]).exits(0);
    let made = made.json();
    assert_eq!(made["state"], "done", "{made}");
    let path = node.data_dir().join("snapshots").join(name);
    let told = PathBuf::from(made["path"].as_str().unwrap());
    assert_eq!(told.canonicalize().unwrap(), path.canonicalize().unwrap());
    let checked = dynakv([
        "store".as_ref(),
        "check".as_ref(),
        path.as_os_str(),
        "--output".as_ref(),
        "json".as_ref(),
    ]);
    let checked = checked.exits(0).json();
    assert_eq!(
        (&checked["clean"], &checked["keys"]),
        (&true.into(), &made["keys_done"])
    );
    path
}

/// The data directory of a node that stands still is lost, and a snapshot of it takes its place.
fn restore(cluster: &mut Cluster, index: usize, snapshot: &std::path::Path) {
    let (directory, aside) = (cluster[index].data_dir(), cluster.root().join("aside"));
    let _ = fs::remove_dir_all(&aside);
    copy_directory(snapshot, &aside);
    fs::remove_dir_all(&directory).unwrap();
    fs::rename(&aside, &directory).unwrap();
    cluster[index].start();
    cluster[index].wait_ready();
}

#[track_caller]
fn is_rebuilt(node: &Node) {
    eventually("all segments to be rebuilt", || {
        let rebuilt = node.metric("dynakv_rebuilt_segments_total", "")?;
        let left = node.metric("dynakv_rebuilding_segments", "")?;
        match (rebuilt, left) {
            (65_536, 0) => Ok(()),
            _ => Err(format!("{rebuilt} are, {left} are left")),
        }
    });
}

/// How many keys the other nodes have brought to others by themselves.
fn sent(cluster: &Cluster) -> u64 {
    let sent = |node: &Node| node.metric("dynakv_anti_entropy_keys_sent_total", "");
    cluster.nodes()[..2]
        .iter()
        .map(|node| sent(node).unwrap())
        .sum()
}

/// What the third node lacked, from so many keys to so many, was fetched by it or brought to it, by each of the others or by
/// one, or all of that at once; and nothing else.
#[track_caller]
fn moved(cluster: &Cluster, sent_before: u64, at_least: u64, at_most: u64) {
    let fetched = cluster[2].metric("dynakv_anti_entropy_keys_fetched_total", "");
    let (fetched, sent) = (fetched.unwrap(), sent(cluster) - sent_before);
    let is_no_more = fetched <= at_most && sent <= 2 * at_most;
    assert!(is_no_more, "{fetched} {sent}");
    assert!(fetched + sent >= at_least, "{fetched} {sent}");
}

#[track_caller]
fn is_all_there(cluster: &Cluster, expected: &BTreeMap<String, String>) {
    let found = block_on(async {
        let client = client(&cluster.addresses()).await;
        read_all(&client, expected.keys().cloned(), 3).await
    });
    for (key, value) in expected {
        assert_eq!(found[key], std::slice::from_ref(value), "{key}");
    }
}

#[track_caller]
fn ring_version(node: &Node) -> u64 {
    let ring = node.run(&["ring", "--output", "json"]).exits(0).json();
    ring["version"].as_u64().unwrap()
}

/// Clients write and read all the time while it is made: no request fails, and no dot names two writes after a node went
/// on in it.
#[test]
fn a_node_comes_back_in_a_snapshot_and_fetches_what_it_lacks() {
    let mut cluster = Cluster::start(3);
    put(&cluster, (0..KEYS).map(first));
    let mut made = PathBuf::new();
    let load = under_load(&mut cluster, |cluster, load| {
        made = snapshot(&cluster[2], "under-load");
        load.goes_on(500);
    });
    load.failed_nowhere();
    let expected = second(&cluster);
    assert!(cluster[2].terminate().success());
    let version = ring_version(&cluster[0]);
    let sent = sent(&cluster);
    restore(&mut cluster, 2, &made);
    is_rebuilt(&cluster[2]);
    // It is a directory that was lost, to those who vote: the ring names another one.
    assert!(ring_version(&cluster[0]) > version);
    moved(&cluster, sent, CHANGED as u64, CHANGED as u64 + LOAD_KEYS);
    is_all_there(&cluster, &expected);
    load.is_all_there(&cluster, 3);
    all_is_well(&mut cluster);
}

/// The same snapshot twice: each time it is another directory, and no more comes back than was written since.
#[test]
fn a_snapshot_can_be_used_again() {
    let mut cluster = Cluster::start(3);
    put(&cluster, (0..KEYS).map(first));
    let made = snapshot(&cluster[2], "a");
    let kept = cluster.root().join("kept");
    copy_directory(&made, &kept);
    let expected = second(&cluster);
    let mut version = ring_version(&cluster[0]);
    for _ in 0..2 {
        cluster[2].kill();
        let sent = sent(&cluster);
        restore(&mut cluster, 2, &kept);
        is_rebuilt(&cluster[2]);
        let next = ring_version(&cluster[0]);
        assert!(next > version);
        version = next;
        moved(&cluster, sent, CHANGED as u64, CHANGED as u64);
        is_all_there(&cluster, &expected);
    }
    all_is_well(&mut cluster);
}

#[test]
fn names_are_used_once_and_what_was_cut_short_goes() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    let snapshots = node.data_dir().join("snapshots");
    fs::create_dir_all(snapshots.join("cut.unfinished/store")).unwrap();
    node.start_ready();
    assert!(!snapshots.join("cut.unfinished").exists());
    node.run(&["put", "key", "value"]).exits(0);
    snapshot(&node, "a");
    let again = node.run(&["snapshot", "a"]).exits(1);
    assert!(again.stderr.contains("already"), "{}", again.stderr);
    for bad in [".a", "a/b", "a.unfinished", ""] {
        let refused = node.run(&["snapshot", bad]).exits(2);
        assert!(refused.stderr.contains("next: "), "{}", refused.stderr);
    }
    assert_eq!(node.metric("dynakv_snapshots_total", ""), Ok(1));
    assert_eq!(node.metric("dynakv_snapshots_failed_total", ""), Ok(1));
    // Put over a directory that is in use it is neither.
    node.stop();
    copy_directory(&snapshots.join("a"), &node.data_dir());
    node.start();
    let (code, said) = node.ends_by_itself();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cp -r SNAPSHOT DATA_DIR"), "{said}");
}

/// Nobody else has its data or lets it in, so it keeps its place; and an operator says that what is not in it is lost.
#[test]
fn a_node_that_is_alone_goes_on_from_its_snapshot_by_an_operator_s_word() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start_ready();
    node.run(&["put", "key", "old"]).exits(0);
    let made = snapshot(&node, "a");
    node.run(&["put", "key", "new"]).exits(0);
    let cluster = node.run(&["ring", "--output", "json"]).json()["cluster_id"].clone();
    node.kill();
    let aside = root.path().join("aside");
    fs::rename(&made, &aside).unwrap();
    fs::remove_dir_all(node.data_dir()).unwrap();
    fs::rename(&aside, node.data_dir()).unwrap();
    node.start_ready();
    // It does not know what it has forgotten.
    node.run(&["get", "key"]).exits(4);
    node.stop();
    let mut node = Node::at_port(root.path(), "node-1", node.port).with(&["--accept-loss"]);
    node.start_ready();
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "old");
    let ring = node.run(&["ring", "--output", "json"]).json();
    assert_eq!(ring["cluster_id"], cluster);
    node.run(&["put", "key", "newer"]).exits(0);
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "newer");
}
