//! Limits that differ from node to node, as they do while an operator changes them.

use crate::harness::{Cluster, Node, QUICK, block_on, client_of_one};

const MIB: usize = 1024 * 1024;

/// One node takes values already whose frames are longer than any that the others take from clients: it
/// must not lose its links over them, nor anything else that travels there.
#[test]
fn nodes_understand_each_other_while_the_largest_value_is_raised() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    for (id, value_bytes_max) in [("node-1", 8 * MIB), ("node-2", MIB), ("node-3", MIB)] {
        let value_bytes_max = value_bytes_max.to_string();
        let mut node = Node::new(root.path(), id)
            .with(&["-n", "3", "-w", "2", "-r", "2"])
            .with_settings(QUICK)
            .with_settings(&[("DYNAKV_VALUE_BYTES_MAX", &value_bytes_max)]);
        if let Some(first) = nodes.first() {
            node = node.with(&["--seed", &first.address()]);
        }
        node.start();
        nodes.push(node);
    }
    let cluster = Cluster::of(root, nodes);
    let value = |number: usize| vec![number as u8; 6 * MIB];
    block_on(async {
        let clients = [
            client_of_one(&cluster[0]).await,
            client_of_one(&cluster[1]).await,
        ];
        for number in 0..3 {
            let key = format!("large-{number}");
            // With a context any owner coordinates it.
            let context = clients[0].get(&key).await.unwrap().context;
            let large = clients[0].put(&key, value(number)).context(context);
            large.w(3).await.unwrap();
            // A read compares what all have, and a write through another node merges it.
            let fetched = clients[1].get(&key).r(3).await.unwrap();
            assert_eq!(fetched.siblings.len(), 1, "{key}");
            assert!(fetched.siblings[0].value == value(number), "{key}");
            let small = clients[1].put(&key, "small").context(fetched.context);
            small.w(3).await.unwrap();
            let fetched = clients[0].get(&key).r(3).await.unwrap();
            assert_eq!(fetched.siblings[0].value, "small", "{key}");
        }
    });
    for node in cluster.nodes() {
        let malformed = node.metric("dynakv_malformed_frames_total", "");
        assert_eq!(malformed, Ok(0), "{}", node.id);
    }
}
