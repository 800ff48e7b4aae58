//! A disk that fails to sync: the node acknowledges nothing more and ends with a code of its own.

use crate::harness::{BadDisks, Fault, Node};

#[test]
fn a_node_whose_disk_cannot_sync_ends_with_a_code_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let Some(disks) = BadDisks::build(root.path()) else {
        return;
    };
    let mut node = disks.under(Node::new(root.path(), "node-1"));
    node.start();
    node.wait_ready();
    node.run(&["put", "before", "kept"]).exits(0);
    disks.begin("node-1", Fault::Broken);
    let put = node.run(&["put", "after", "doubtful"]);
    assert_ne!(put.code, Some(0), "acknowledged without a sync: {put:?}");
    let (code, log) = node.ends_by_itself();
    assert_eq!(code, Some(7), "{log}");
    assert!(log.contains("the disk failed to sync"), "{log}");
    assert!(log.contains("dmesg"), "{log}");

    disks.end("node-1", Fault::Broken);
    node.start();
    node.wait_ready();
    let kept = node.run(&["get", "before"]).exits(0);
    assert_eq!(kept.text(), "kept");
}
