//! Clusters of child processes: they come up, come back where they were, and leave nothing behind.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::block_on;
use dynakv_bench::cluster::{Cluster, ClusterError, ClusterOptions};
use dynakv_client::Client;
use rustix::process::{Pid, test_kill_process};

/// Far longer than anything takes on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(nodes: usize) -> ClusterOptions {
    ClusterOptions {
        nodes,
        dynakv: Some(common::dynakv()),
        ..ClusterOptions::default()
    }
}

fn is_running(pid: u32) -> bool {
    let pid = Pid::from_raw(pid as i32);
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Waits for the end of processes that were killed and not waited for.
fn expect_gone(pids: &[u32], directory: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| is_running(*pid)) {
        assert!(
            Instant::now() < deadline,
            "not within {PATIENCE:?}: {pids:?} end"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!directory.exists(), "{} is left", directory.display());
}

#[test]
fn a_killed_node_comes_back_where_it_was_with_its_data() {
    block_on(async {
        let mut cluster = Cluster::start(options(3)).await.expect("three nodes start");
        let (addresses, pids) = (cluster.addresses(), cluster.pids());
        let client = Client::builder().seeds(addresses.clone()).build().await;
        let client = client.expect("the nodes answer");
        let ring = client.ring().await.expect("a ring");
        assert_eq!(ring.document.members.len(), 3);
        client.put("key", "value").await.expect("a write");

        for index in 0..3 {
            cluster.kill(index).await.expect("kill -9");
        }
        assert_eq!(cluster.pids(), [None; 3]);
        for pid in pids.iter().copied().flatten() {
            assert!(!is_running(pid), "{pid} runs");
        }
        for index in 0..3 {
            let started = cluster.restart_without_waiting(index);
            started.expect("it starts again");
        }
        cluster.wait_whole().await.expect("all are back");
        assert_eq!(cluster.addresses(), addresses);
        assert_ne!(cluster.pids(), pids);
        let client = Client::builder().seeds(addresses).build().await;
        let fetched = client.expect("the nodes answer").get("key").r(3).await;
        let fetched = fetched.expect("a read");
        assert_eq!(
            fetched.value().expect("one value").map(|v| &v[..]),
            Some(&b"value"[..])
        );

        let directory = cluster.directory().to_owned();
        let pids: Vec<u32> = cluster.pids().into_iter().flatten().collect();
        cluster.stop().await.expect("they end in order");
        expect_gone(&pids, &directory);
    });
}

#[test]
fn a_dropped_cluster_leaves_nothing_behind() {
    let (pids, directory) = block_on(async {
        let cluster = Cluster::start(options(2)).await.expect("two nodes start");
        let pids: Vec<u32> = cluster.pids().into_iter().flatten().collect();
        assert_eq!(pids.len(), 2);
        // As a panic would.
        (pids, cluster.directory().to_owned())
    });
    expect_gone(&pids, &directory);
}

#[test]
fn a_node_that_cannot_start_is_an_error_with_its_log() {
    let mut options = options(1);
    options.serve_arguments = ["-n", "0"].map(str::to_owned).to_vec();
    let error = block_on(Cluster::start(options)).expect_err("0 replicas are none");
    assert!(matches!(error, ClusterError::Ended { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("node-1") && text.contains("exit status: 2"),
        "{text}"
    );
}
