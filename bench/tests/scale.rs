//! `dynakv-bench scale` with small numbers: which figures there are, and that nothing is left behind. How large they
//! are is a machine's own.

#[path = "common/command.rs"]
mod command;
mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use command::{bench, eventually, interrupt, leaves_nothing, nodes_in, said};
use common::dynakv;
use dynakv_bench::scale::{PerNode, PhaseCost, ScaleReport};

/// A few seconds of work, whose data and logs lie in here.
fn scale(temporary: &Path, more: &[&str]) -> Command {
    let dynakv = dynakv();
    let arguments = [
        "scale",
        "--dynakv",
        dynakv.to_str().unwrap(),
        "--keys",
        "300",
        "--duration",
        "500ms",
        "--settle",
        "200ms",
        "--in-flight-per-node",
        "4",
    ];
    let mut command = bench(&[&arguments[..], more].concat());
    command.env("TMPDIR", temporary);
    command
}

#[test]
fn every_node_of_every_cluster_is_measured() {
    let temporary = tempfile::tempdir().unwrap();
    let results = tempfile::tempdir().unwrap();
    let picture = results.path().join("scale.svg");
    let more = ["--nodes", "3,2", "--idle", "1500ms", "--output", "json"];
    let drawn = ["--picture", picture.to_str().unwrap()];
    let output = scale(temporary.path(), &[&more[..], &drawn].concat()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // Standard output is the JSON document and nothing else.
    let report: ScaleReport = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let sizes: Vec<_> = report.clusters.iter().map(|it| it.nodes).collect();
    assert_eq!(sizes, [2, 3]);
    for cluster in &report.clusters {
        let ids: Vec<_> = (1..=cluster.nodes).map(|it| format!("node-{it}")).collect();
        let each_has_some = |figure: &PerNode| {
            assert!(figure.by_node.keys().eq(&ids), "{figure:?}");
            assert!(figure.by_node.values().all(|it| *it > 0.0), "{figure:?}");
            assert!(figure.mean <= figure.max, "{figure:?}");
        };
        each_has_some(&cluster.memory_bytes);
        each_has_some(&cluster.idle_core_percent);
        // More would be more processors than this is ever tested on.
        assert!(
            cluster.idle_core_percent.max < 100.0 * 1024.0,
            "{cluster:?}"
        );
        // The program alone takes more.
        assert!(cluster.memory_bytes.max > 1e6, "{cluster:?}");
        assert_eq!(cluster.loading.keys, 300);
        let does_something = |phase: &PhaseCost| {
            assert_eq!(phase.in_flight, 4 * cluster.nodes);
            assert_eq!(phase.errors, 0, "{}", said(&output));
            assert!(phase.count > 0 && phase.ops_per_second > 0.0, "{phase:?}");
            assert!(phase.server_cpu_us_per_op.unwrap() > 0.0, "{phase:?}");
        };
        does_something(&cluster.write);
        does_something(&cluster.read);
    }
    let picture = std::fs::read_to_string(&picture).unwrap();
    assert!(picture.contains("Clusters of 2 and 3 nodes"), "{picture}");
    assert!(said(&output).contains("share this machine"));
    leaves_nothing(temporary.path(), &[]);
}

#[test]
fn a_signal_ends_it_with_what_was_measured_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = scale(temporary.path(), &["--nodes", "1,2", "--idle", "1s"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(log.path()).unwrap();
    eventually("the second cluster is at rest", || {
        log().contains("2 nodes: at rest")
    });
    let pids = nodes_in(temporary.path());
    assert_eq!(pids.len(), 2, "{}", log());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", log());
    let table = String::from_utf8(output.stdout).unwrap();
    let first_cells = table
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    assert_eq!(first_cells.collect::<Vec<_>>(), ["nodes", "1"], "{table}");
    leaves_nothing(temporary.path(), &pids);
}
