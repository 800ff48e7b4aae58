//! One node with nothing but its defaults.

use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Node, PATIENCE};

/// A single node started without quorums serves: they are capped at the one owner there is. SIGTERM ends
/// it with exit code 0, and the next start has the data.
#[test]
fn one_node_serves_and_keeps_its_data_over_a_clean_stop() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start();
    node.wait_ready();
    let stats = node.run(&["stats", "--output", "json"]).exits(0).json();
    assert_eq!(
        (&stats["n"], &stats["w"], &stats["r"]),
        (&3.into(), &2.into(), &2.into())
    );
    assert_eq!(stats["ring"]["total_virtual_nodes"], 150);

    node.run(&["put", "kept", "value"]).exits(0);
    node.run(&["put", "deleted", "value"]).exits(0);
    node.run(&["delete", "deleted"]).exits(0);
    for _ in 0..2 {
        let status = node.terminate();
        assert_eq!(status.code(), Some(0), "SIGTERM is a clean stop");
        node.run(&["get", "kept"]).exits(1).says("cannot reach");
        node.start();
        node.wait_ready();
        assert_eq!(node.run(&["get", "kept"]).exits(0).text(), "value");
        node.run(&["get", "deleted"]).exits(3);
    }
    assert_eq!(node.stat("/total_keys"), Ok(1));
    node.run(&["status"]).exits(0);
}

/// A value that expires is gone by itself, for `stats` as for `get`.
#[test]
fn a_value_expires() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start();
    node.wait_ready();
    node.run(&["put", "lasting", "value", "--ttl", "1h"])
        .exits(0);
    node.run(&["put", "passing", "value", "--ttl", "10ms"])
        .exits(0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    node.run(&["get", "passing"]).exits(3);
    node.run(&["get", "lasting"]).exits(0);
}

/// Who is told to stop while it still starts stops, and says so by its exit code; told to read its settings again, it
/// goes on.
#[test]
fn signals_during_a_start_are_not_missed() {
    let root = TempDir::new().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    for attempt in 0..5 {
        node.start();
        let lock = node.data_dir().join("lock");
        let begun = Instant::now();
        // Without a pause: what is hit is the opening of the store.
        while !lock.exists() && begun.elapsed() < PATIENCE {}
        node.process_mut().signal(Signal::HUP);
        let code = node.terminate().code();
        assert_eq!(code, Some(0), "{attempt}: {}", node.process_mut().stderr());
        std::fs::remove_dir_all(node.data_dir()).unwrap();
    }
    node.start_ready();
    node.run(&["put", "key", "value"]).exits(0);
}
