//! An actor never outlives doubt about its own past (the Dynamo-style stores' kv679).
//!
//! A node that forgot a write which others hold must not go on numbering as before: its next write would
//! claim to have seen the forgotten one, and the others would drop that as replaced. The forgetting is
//! made here by putting an earlier copy of the node's directory back.

use std::fs;
use std::path::Path;

use dynakv_client::routing::Routing;
use serde_json::Value;

use crate::harness::{Cluster, Node, block_on, client_of_one};

/// Copies a directory with all that is in it.
fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a copy back in place of the present directory.
fn restore_directory(copy: &Path, directory: &Path) {
    fs::remove_dir_all(directory).unwrap();
    copy_directory(copy, directory);
}

/// A key whose blind writes are coordinated by this node: its first owner.
fn key_first_owned_by(node: &Node) -> String {
    let document = block_on(async {
        let client = client_of_one(node).await;
        client.ring().await.expect("a whole cluster has a ring").document
    });
    let routing = Routing::new(&document);
    let is_first = |key: &String| {
        let first = routing.owners(key.as_bytes()).first();
        first.is_some_and(|first| document.members[usize::from(*first)].id.as_str() == node.id)
    };
    let keys = (0..).map(|number| format!("key-{number}"));
    keys.take(1_000).find(is_first).expect("every third key is")
}

/// All siblings that any owner has, as (value, dot), sorted.
fn siblings(node: &Node, key: &str) -> Vec<(String, String)> {
    let got = node.run(&["get", key, "-r", "3", "--output", "json"]).json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let siblings = got["siblings"].as_array().cloned().unwrap_or_default();
    let pairs = siblings.iter().map(|sibling| (text(&sibling["value"]), text(&sibling["dot"])));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

fn actor_of(dot: &str) -> &str {
    dot.split_once(':').map_or(dot, |(actor, _)| actor)
}

/// Checks what is left of v1 after the node that coordinated it forgot it and wrote v2.
#[track_caller]
fn assert_nothing_vanished(cluster: &Cluster, key: &str, v1_dot: &str) {
    for node in cluster.nodes() {
        let left = siblings(node, key);
        let v2 = left.iter().find(|(value, _)| value == "v2");
        let (_, v2_dot) = v2.unwrap_or_else(|| panic!("v2 was acknowledged: {left:?}"));
        assert_ne!(
            actor_of(v2_dot),
            actor_of(v1_dot),
            "the node numbers on as an actor whose past it has forgotten"
        );
        // The node had no copy of v1 and read nobody's, so it cannot have replaced it.
        let has_v1 = left.iter().any(|(value, dot)| value == "v1" && dot == v1_dot);
        assert!(has_v1, "v1 was acknowledged and has vanished: {left:?}");
    }
}

/// The copy was made after a kill: no marker of a clean stop is in it.
#[test]
fn a_node_that_forgot_a_write_does_not_erase_it() {
    let mut cluster = Cluster::start(3);
    let copy = cluster.root().join("copy");
    // Seals the ring, and gives node-1 something to remember.
    cluster[0].run(&["put", "before", "value", "-w", "3"]).exits(0);
    let key = key_first_owned_by(&cluster[0]);

    cluster[0].kill();
    copy_directory(&cluster[0].data_dir(), &copy);
    cluster[0].start();
    cluster.wait_whole();
    cluster[0].run(&["put", &key, "v1", "-w", "3"]).exits(0);
    let written = siblings(&cluster[1], &key);
    let [(_, v1_dot)] = &written[..] else {
        panic!("one write, one sibling: {written:?}");
    };

    cluster[0].kill();
    restore_directory(&copy, &cluster[0].data_dir());
    cluster[0].start();
    cluster.wait_whole();
    assert_eq!(cluster[0].stat("/total_keys"), Ok(1), "node-1 has forgotten v1");
    cluster[0].run(&["put", &key, "v2"]).exits(0);
    assert_nothing_vanished(&cluster, &key, v1_dot);
}

/// The copy was made after a clean stop, so the directory itself says that nothing is missing: only the
/// other nodes can know better, by the generation that they have seen since.
#[test]
fn an_old_copy_of_a_cleanly_stopped_node_is_found_out() {
    let mut cluster = Cluster::start(3);
    let copy = cluster.root().join("copy");
    cluster[0].run(&["put", "before", "value", "-w", "3"]).exits(0);
    let key = key_first_owned_by(&cluster[0]);

    assert_eq!(cluster[0].terminate().code(), Some(0));
    copy_directory(&cluster[0].data_dir(), &copy);
    cluster[0].start();
    cluster.wait_whole();
    cluster[0].run(&["put", &key, "v1", "-w", "3"]).exits(0);
    let written = siblings(&cluster[1], &key);
    let [(_, v1_dot)] = &written[..] else {
        panic!("one write, one sibling: {written:?}");
    };

    cluster[0].kill();
    restore_directory(&copy, &cluster[0].data_dir());
    cluster[0].start();
    cluster.wait_whole();
    cluster[0].run(&["put", &key, "v2"]).exits(0);
    let left = siblings(&cluster[1], &key);
    let (_, v2_dot) = left.iter().find(|(value, _)| value == "v2").expect("v2 was acknowledged");
    assert_ne!(v2_dot, v1_dot, "one dot names two values");
    assert_ne!(actor_of(v2_dot), actor_of(v1_dot), "{left:?}");
}
