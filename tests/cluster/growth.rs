//! Nodes that come to a cluster which holds data, while clients go on.

use dynakv_client::RingReply;

use crate::harness::{
    Cluster, Node, QUICK, all_is_well, block_on, client, client_of_one, eventually, read_all,
    under_load, write_all,
};

fn ring_of(node: &Node) -> RingReply {
    block_on(async { client_of_one(node).await.ring().await.unwrap() })
}

/// Waits until these nodes follow a final ring of so many members.
#[track_caller]
fn become_members(nodes: &[&Node], count: usize) {
    eventually(&format!("a final ring of {count}"), || {
        for node in nodes {
            let document = ring_of(node).document;
            let (step, members) = (document.step.name(), document.members.len());
            if (step, members) != ("final", count) {
                return Err(format!("{}: {step}, {members} members", node.id));
            }
        }
        Ok(())
    });
}

/// A node that is to come to a cluster.
fn newcomer(cluster: &Cluster, number: usize) -> Node {
    Node::new(cluster.root(), &format!("node-{number}"))
        .with(&[
            "-n",
            "3",
            "-w",
            "2",
            "-r",
            "2",
            "--seed",
            &cluster[0].address(),
        ])
        .with_settings(QUICK)
}

/// So many keys lie in the cluster before anybody comes.
const KEYS: usize = 2_000;

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|number| format!("before-{number}"))
}

fn write_before(cluster: &Cluster) {
    block_on(async {
        let client = client(&cluster.addresses()).await;
        let failed = write_all(&client, keys().map(|key| (key, "before".to_owned()))).await;
        assert!(failed.is_empty(), "{failed:?}");
    });
}

/// Every key of before is read from each node, with one owner asked and with two.
#[track_caller]
fn is_all_of_before_there(cluster: &Cluster) {
    for node in cluster.nodes() {
        let found = block_on(async {
            let client = client_of_one(node).await;
            read_all(&client, keys(), 2).await
        });
        let lost = keys().filter(|key| found[key] != ["before"]);
        assert_eq!(
            lost.collect::<Vec<_>>(),
            Vec::<String>::new(),
            "at {}",
            node.id
        );
    }
}

#[test]
fn a_node_comes_to_a_cluster_under_load_and_no_request_fails() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        let mut node = newcomer(cluster, 4);
        node.start();
        node.wait_ready();
        cluster.add(node);
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        become_members(&nodes, 4);
        load.goes_on(500);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 2);
    is_all_of_before_there(&cluster);
    all_is_well(&mut cluster);
}
