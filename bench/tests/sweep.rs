//! `dynakv-bench sweep` with small numbers: which steps there are, and that nothing is left behind. How much a cluster
//! does is a machine's own.

#[path = "common/command.rs"]
mod command;
mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use command::{bench, eventually, interrupt, leaves_nothing, nodes_in, said};
use common::dynakv;
use dynakv_bench::sweep::{KneeRule, SweepReport};

/// Steps on a cluster whose data and logs lie in here.
fn sweep(temporary: &Path, more: &[&str]) -> Command {
    let dynakv = dynakv();
    let dynakv = dynakv.to_str().unwrap();
    let arguments = ["sweep", "--dynakv", dynakv, "--nodes", "2", "--keys", "200"];
    let mut command = bench(&[&arguments[..], more].concat());
    command.env("TMPDIR", temporary);
    command
}

#[test]
fn each_step_is_measured_on_the_same_cluster_and_drawn() {
    let temporary = tempfile::tempdir().unwrap();
    let results = tempfile::tempdir().unwrap();
    let picture = results.path().join("sweep.svg");
    let drawn = ["--picture", picture.to_str().unwrap()];
    let more = [
        "--in-flight",
        "8,1,4",
        "--duration",
        "1s",
        "--output",
        "json",
    ];
    let mixed = ["--workload", "a"];
    let more = [&more[..], &drawn, &mixed].concat();
    let output = sweep(temporary.path(), &more).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: SweepReport = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let in_flight: Vec<_> = report.steps.iter().map(|step| step.in_flight).collect();
    assert_eq!(in_flight, [1, 4, 8]);
    for step in &report.steps {
        assert!(step.count > 0 && step.ops_per_second > 0.0, "{step:?}");
        assert_eq!(step.errors, 0, "{}", said(&output));
        assert!(step.latency_ms.p50 > 0.0, "{step:?}");
        assert!(step.latency_ms.p50 <= step.latency_ms.p999, "{step:?}");
        assert!(step.server_cpu_us_per_op.unwrap() > 0.0, "{step:?}");
    }
    let knee = report.knee.expect("no step failed");
    assert_eq!(knee.rule, KneeRule::Power);
    let most = report.steps.iter().map(|step| step.power());
    assert_eq!(report.steps[knee.step].power(), most.fold(0.0, f64::max));
    assert_eq!((report.servers.len(), report.config.keys), (2, 200));
    let log = said(&output);
    assert!(log.contains("step 3 of 3: 8 in flight"), "{log}");
    assert!(!log.contains("found no value"), "{log}");
    let picture = std::fs::read_to_string(&picture).unwrap();
    assert!(picture.contains("Latency of 2 nodes") && picture.contains("knee: "));
    leaves_nothing(temporary.path(), &[]);
}

#[test]
fn a_bound_of_p99_is_held_to_in_an_open_loop() {
    let temporary = tempfile::tempdir().unwrap();
    let more = ["--rates", "50,25", "--duration", "1s", "--p99-below", "1us"];
    let output = sweep(temporary.path(), &more).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let first_cells = table
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let first_cells: Vec<_> = first_cells.take(3).collect();
    assert_eq!(first_cells, ["wanted/s", "25", "50"], "{table}");
    // Nothing comes back over a network that soon.
    assert!(
        table.contains("no step has a P99 below 0.001 ms"),
        "{table}"
    );
    leaves_nothing(temporary.path(), &[]);
}

#[test]
fn a_signal_ends_it_with_the_steps_that_are_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let more = ["--in-flight", "1,2", "--duration", "3s"];
    let child = sweep(temporary.path(), &more)
        .stdout(Stdio::piped())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(log.path()).unwrap();
    eventually("the second step is under way", || {
        let second = log().split("step 2 of 2").nth(1).map(str::to_owned);
        second.is_some_and(|second| second.contains(" ops/s "))
    });
    let pids = nodes_in(temporary.path());
    assert_eq!(pids.len(), 2, "{}", log());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", log());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("\n1 ") && !table.contains("\n2 "), "{table}");
    leaves_nothing(temporary.path(), &pids);
}
