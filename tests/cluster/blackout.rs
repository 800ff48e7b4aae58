//! All nodes at once switched off and on again: nothing is lost, and nobody has to help.

use std::collections::BTreeMap;

use crate::harness::{
    Cluster, all_is_well, become_same, block_on, client, read_all, under_load, write_all,
};

const KEYS: usize = 200;

fn data() -> BTreeMap<String, String> {
    let entry = |number| (format!("key-{number}"), format!("value-{number}"));
    (0..KEYS).map(entry).collect()
}

#[track_caller]
fn has_all(cluster: &Cluster) {
    let found = block_on(async {
        let client = client(&cluster.addresses()).await;
        read_all(&client, data().into_keys(), 2).await
    });
    for (key, value) in data() {
        assert_eq!(found[&key], [value], "{key}");
    }
}

#[test]
fn a_cluster_whose_nodes_all_went_off_comes_back_healthy_with_everything() {
    let mut cluster = Cluster::start(3);
    let failures = block_on(async {
        let client = client(&cluster.addresses()).await;
        write_all(&client, data()).await
    });
    assert!(failures.is_empty(), "{failures:?}");

    // In the midst of writing, all at once.
    let load = under_load(&mut cluster, |cluster, _| {
        for node in 0..3 {
            cluster[node].kill();
        }
    });
    drop(load.take_failures());
    cluster.restart_all();
    cluster.wait_healthy();
    become_same(&cluster);
    has_all(&cluster);
    load.is_all_there(&cluster, 2);

    // In order, one after the other.
    for node in 0..3 {
        assert!(cluster[node].terminate().success());
    }
    cluster.restart_all();
    cluster.wait_healthy();
    has_all(&cluster);
    load.is_all_there(&cluster, 2);
    all_is_well(&mut cluster);
}
