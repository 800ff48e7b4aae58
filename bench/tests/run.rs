//! `dynakv-bench run` and `local` against real nodes, judged by their exit codes and files.

#[path = "common/command.rs"]
mod command;
mod common;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use command::{bench, eventually, interrupt, leaves_nothing, nodes_in, said};
use common::dynakv;
use dynakv_bench::cluster::{Cluster, ClusterOptions};
use dynakv_bench::report::{Latency, NodeResources, Report};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Small enough for a second of work.
const SMALL: [&str; 8] = [
    "--keys",
    "200",
    "--clients",
    "8",
    "--pipeline",
    "2",
    "--duration",
    "1s",
];

fn run(arguments: &[&str]) -> Output {
    bench(arguments)
        .output()
        .expect("the binary was just built")
}

/// Runs it with `--json` and gives what it wrote there.
#[track_caller]
fn json(arguments: &[&str]) -> (Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("result.json");
    let file_text = file.to_str().unwrap();
    let output = run(&[arguments, &["--json", file_text]].concat());
    let said = said(&output);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let document = std::fs::read(&file).unwrap_or_else(|error| panic!("{error}: {said}"));
    let document = serde_json::from_slice(&document);
    (
        document.unwrap_or_else(|error| panic!("{error}: {said}")),
        said,
    )
}

fn report(document: Value) -> Report {
    serde_json::from_value(document).expect("the file has the form of the report")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A cluster, and the option that names its nodes.
async fn cluster(nodes: usize) -> (Cluster, String) {
    let cluster = Cluster::start(ClusterOptions {
        nodes,
        dynakv: Some(dynakv()),
        ..ClusterOptions::default()
    });
    let cluster = cluster.await.unwrap();
    let servers = cluster.addresses().join(",");
    (cluster, servers)
}

fn number(document: &Value, pointer: &str) -> f64 {
    let number = document.pointer(pointer).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("no number at {pointer} in {document}"))
}

#[test]
fn the_json_file_has_every_stable_field() {
    runtime().block_on(async {
        let (cluster, servers) = cluster(3).await;
        let arguments = [
            "run",
            "--servers",
            &servers,
            "--workload",
            "a",
            "--seed",
            "9",
        ];
        let (document, said) = json(&[&arguments[..], &SMALL].concat());
        for pointer in [
            "/ops_per_second",
            "/server_cpu_us_per_op",
            "/client_cpu_us_per_op",
            "/duration_seconds",
        ] {
            assert!(number(&document, pointer) > 0.0, "{pointer}: {said}");
        }
        for op in ["write", "read"] {
            for field in [
                "count",
                "ops_per_second",
                "latency_ms/p50",
                "latency_ms/p99",
                "latency_ms/p999",
                "latency_ms/max",
            ] {
                let pointer = format!("/by_op/{op}/{field}");
                assert!(number(&document, &pointer) > 0.0, "{pointer}: {said}");
            }
            assert_eq!(
                number(&document, &format!("/by_op/{op}/errors")),
                0.0,
                "{said}"
            );
        }
        assert!(number(&document, "/all_ops/latency_ms/p99") > 0.0, "{said}");
        assert!(said.contains("\nall "), "{said}");
        assert_eq!(document["config"]["workload"], "a");
        assert_eq!(document["config"]["seed"], 9);
        assert_eq!(document["config"]["keys"], 200);
        assert_eq!(document["loading"]["keys"], 200);
        let report = report(document);
        assert_eq!(report.servers.len(), 3);
        for server in &report.servers {
            assert!(server.cpu_us_per_op.is_some(), "{server:?}: {said}");
            assert!(!server.version.is_empty(), "{server:?}");
            assert!(report.config.servers.contains(&server.address));
        }
        let sum: f64 = report.by_op.values().map(|op| op.ops_per_second).sum();
        assert!((sum - report.ops_per_second).abs() < 1e-6 * sum);
        let seconds: f64 = report
            .timeline
            .iter()
            .map(|point| point.at_seconds)
            .fold(0.0, f64::max);
        assert!(seconds <= report.duration_seconds + 1e-6, "{said}");
        cluster.stop().await.unwrap();
    });
}

#[test]
fn every_workload_runs_without_errors() {
    runtime().block_on(async {
        let (cluster, servers) = cluster(3).await;
        for workload in [
            "write", "read", "a", "b", "c", "d", "f", "hot-key", "large", "siblings",
        ] {
            let arguments = ["run", "--servers", &servers, "--workload", workload];
            let (document, said) = json(&[&arguments[..], &SMALL].concat());
            let report = report(document);
            let writes = !matches!(workload, "read" | "c");
            assert_eq!(
                report.by_op.contains_key("write"),
                writes,
                "{workload}: {said}"
            );
            assert_eq!(
                report.by_op.contains_key("read"),
                workload != "write",
                "{workload}: {said}"
            );
            for (name, op) in &report.by_op {
                assert!(op.count > 0, "{workload} {name}: {said}");
                assert_eq!(op.errors, 0, "{workload} {name}: {said}");
            }
            assert!(!said.contains("found no value"), "{workload}: {said}");
        }
        // Those of the last workload: a blind put would have replaced them.
        let client = dynakv_client::Client::builder()
            .seeds(cluster.addresses())
            .build();
        let stats = client.await.unwrap().stats().await.unwrap();
        assert!(
            stats.conflict_keys > 0,
            "siblings have been made: {stats:?}"
        );
        cluster.stop().await.unwrap();
    });
}

#[test]
fn an_open_loop_keeps_its_rate() {
    runtime().block_on(async {
        let (cluster, servers) = cluster(1).await;
        let arguments = [
            "run",
            "--servers",
            &servers,
            "--workload",
            "b",
            "--rate",
            "200",
            "--keys",
            "100",
            "--duration",
            "3s",
        ];
        let (document, said) = json(&arguments);
        let report = report(document);
        let count: u64 = report.by_op.values().map(|op| op.count).sum();
        // The schedule decides it, however slow the machine is.
        assert!((595..=601).contains(&count), "{count}: {said}");
        assert_eq!(report.config.rate, Some(200.0));
        let nodes = report.resources.iter().map(|point| &point.by_node);
        let nodes: Vec<_> = nodes.flat_map(|nodes| nodes.get("node-1")).collect();
        assert!(nodes.iter().any(|node| node.cpu_cores > 0.0), "{said}");
        // One in 20 is a write, ten a second.
        let has_synced = |node: &&&NodeResources| node.sync_p99_ms.is_some();
        assert!(nodes.iter().any(|node| has_synced(&node)), "{said}");
        let timeline = report.timeline.iter();
        let told_apart: u64 = timeline.map(|it| it.latencies["all"].count()).sum();
        assert_eq!(told_apart, count, "{said}");
        let unsent = |warning: &String| warning.contains("not sent");
        assert!(!report.warnings.iter().any(unsent), "{said}");
        cluster.stop().await.unwrap();
    });
}

/// Runs for 4 s and stops the only node for 1 s of it.
async fn stalled(cluster: &Cluster, servers: &str, stall: bool, more: &[&str]) -> Latency {
    let pid = cluster.pids()[0].and_then(|pid| Pid::from_raw(pid as i32));
    let pid = pid.expect("the node runs");
    let servers = servers.to_owned();
    let more: Vec<String> = more.iter().map(|argument| (*argument).to_owned()).collect();
    let measuring = tokio::task::spawn_blocking(move || {
        let arguments = [
            "run",
            "--servers",
            &servers,
            "--workload",
            "read",
            "--keys",
            "50",
            "--clients",
            "2",
            "--pipeline",
            "1",
            "--duration",
            "4s",
        ];
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        json(&[&arguments[..], &more].concat())
    });
    if stall {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        kill_process(pid, Signal::STOP).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        kill_process(pid, Signal::CONT).unwrap();
    }
    let (document, said) = measuring.await.unwrap();
    let report = report(document);
    let read = &report.by_op["read"];
    assert_eq!(read.errors, 0, "{said}");
    read.latency_ms
}

#[test]
fn an_open_loop_shows_a_pause_of_the_server_that_a_closed_one_hides() {
    runtime().block_on(async {
        let (cluster, servers) = cluster(1).await;
        let open = ["--rate", "200"];
        let quiet = stalled(&cluster, &servers, false, &open).await;
        let paused = stalled(&cluster, &servers, true, &open).await;
        // A quarter of all operations were due in the second in which nothing was answered.
        assert!(paused.max >= 500.0, "{paused:?}");
        assert!(paused.p99 >= 500.0, "{paused:?}");
        assert!(
            paused.p99 > 3.0 * quiet.p99,
            "{paused:?} and without a pause {quiet:?}"
        );
        // Two callers who send when they have their answers met the pause once each.
        let naive = stalled(&cluster, &servers, true, &[]).await;
        assert!(naive.max >= 500.0, "{naive:?}");
        assert!(naive.p99 < 500.0, "{naive:?}");
        cluster.stop().await.unwrap();
    });
}

#[test]
fn what_cannot_be_is_a_usage_error() {
    for (arguments, part) in [
        (&["run", "--workload", "scan"][..], "hot-key"),
        (&["run", "--workload", "e"], "no order to scan"),
        (&["run", "--rate", "0"], "--rate"),
        (&["run", "--servers", "nowhere"], "HOST:PORT"),
        (&["run", "--clients", "0"], "--clients"),
        (
            &["run", "--json", "/nowhere/at/all.json"],
            "/nowhere/at/all.json",
        ),
        (&["local", "--nodes", "0"], "--nodes"),
        (&["local", "--value-size", "1"], "--value-size"),
        (&["run", "local"], "local"),
    ] {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains(part),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    let help = run(&["help", "run"]);
    assert!(help.status.success(), "{}", said(&help));
}

#[test]
fn without_a_server_it_says_what_to_type_next() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let output = run(&["run", "--servers", &address]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains(&address) && text.contains("next: dynakv dev"),
        "{text}"
    );
    let output = run(&["local", "--dynakv", "/nowhere/dynakv"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("cargo build"), "{}", said(&output));
}

#[test]
fn failures_are_counted_and_the_run_goes_on_unless_all_fail() {
    runtime().block_on(async {
        let (mut cluster, servers) = cluster(3).await;
        let (_, _) = json(&[&["run", "--servers", &servers][..], &SMALL].concat());
        cluster.kill(1).await.unwrap();
        cluster.kill(2).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("r.json");
        let json_option = ["--no-load", "--json", file.to_str().unwrap()];
        // W 2 of 3 with one node left: every write is refused.
        let arguments = ["run", "--servers", &servers, "--workload", "write"];
        let output = run(&[&arguments[..], &SMALL, &json_option].concat());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let failed: Report = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let write = &failed.by_op["write"];
        assert_eq!(write.count, 0);
        assert!(
            write.errors > 0 && write.errors_by_kind["quorum_unavailable"] > 0,
            "{write:?}"
        );
        // Reads of one copy go on; the nodes that are gone have no CPU time.
        let arguments = [
            "run",
            "--servers",
            &servers,
            "--workload",
            "read",
            "-r",
            "1",
        ];
        let output = run(&[&arguments[..], &SMALL, &json_option].concat());
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let report: Report = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert!(report.by_op["read"].count > 0, "{}", said(&output));
        assert_eq!(report.server_cpu_us_per_op, None);
        let about_cpu = |warning: &String| warning.contains("CPU time of");
        assert!(
            report.warnings.iter().any(about_cpu),
            "{:?}",
            report.warnings
        );
        cluster.stop().await.unwrap();
    });
}

fn local_command(temporary: &Path, more: &[&str]) -> Command {
    let dynakv = dynakv();
    let arguments = [
        "local",
        "--nodes",
        "2",
        "--dynakv",
        dynakv.to_str().unwrap(),
    ];
    let mut command = bench(&[&arguments[..], more].concat());
    command.env("TMPDIR", temporary);
    command
}

#[test]
fn a_local_cluster_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let results = tempfile::tempdir().unwrap();
    let page = results.path().join("page.html");
    let more = ["--html", page.to_str().unwrap()];
    let mut command = local_command(temporary.path(), &[&SMALL[..], &more].concat());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(page.is_file(), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("ops/s") && text.contains("server CPU"),
        "{text}"
    );
    leaves_nothing(temporary.path(), &[]);
}

/// A local run of an hour that is under way, with the ids of its nodes.
fn long_run(temporary: &Path) -> (Child, Vec<i32>) {
    let more = ["--keys", "100", "--duration", "1h", "--json", "-"];
    let mut command = local_command(temporary, &more);
    let log = std::fs::File::create(temporary.join("log")).unwrap();
    let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let log = || std::fs::read_to_string(temporary.join("log")).unwrap();
    eventually("the run is under way", || log().contains("ops/s  P50"));
    let pids = nodes_in(temporary);
    assert_eq!(pids.len(), 2, "{}", log());
    std::fs::remove_file(temporary.join("log")).unwrap();
    (child, pids)
}

#[test]
fn an_interrupted_run_still_reports_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let (child, pids) = long_run(temporary.path());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // Standard output is the JSON document and nothing else.
    let report: Report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    assert!(report.ops_per_second > 0.0 && report.duration_seconds < 3600.0);
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("signal"))
    );
    leaves_nothing(temporary.path(), &pids);
}

#[test]
fn a_node_that_is_started_anew_is_marked_and_its_processor_time_is_not_made_up() {
    let temporary = tempfile::tempdir().unwrap();
    let results = tempfile::tempdir().unwrap();
    let file = results.path().join("killed.json");
    let more = ["--keys", "100", "--duration", "6s", "--rate", "200"];
    let outage = ["--kill-at", "1s", "--restart-after", "1s"];
    let to_file = ["--json", file.to_str().unwrap()];
    let mut command = local_command(temporary.path(), &[&more[..], &outage, &to_file].concat());
    let output = command.output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    let document = std::fs::read_to_string(&file).unwrap();
    let report: Report = serde_json::from_str(&document).unwrap();
    let whats: Vec<_> = report
        .events
        .iter()
        .map(|event| event.what.as_str())
        .collect();
    assert_eq!(whats, ["node-2 killed", "node-2 started again"], "{said}");
    // Its counters began again, and are past what they were before soon.
    assert_eq!(report.server_cpu_us_per_op, None, "{said}");
    assert!(
        said.contains("the CPU time of node-2 is not known"),
        "{said}"
    );
    let seconds = report.resources.iter();
    let seconds: Vec<_> = seconds
        .map(|point| point.by_node.contains_key("node-2"))
        .collect();
    assert!(seconds.contains(&false), "{seconds:?} {said}");
    leaves_nothing(temporary.path(), &[]);
}

#[test]
fn a_signal_while_loading_ends_it_without_a_report() {
    let temporary = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = local_command(temporary.path(), &["--keys", "100000000"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(log.path()).unwrap();
    eventually("keys are being loaded", || log().contains("loading:"));
    let pids = nodes_in(temporary.path());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", log());
    assert!(output.stdout.is_empty(), "{}", said(&output));
    leaves_nothing(temporary.path(), &pids);
}

#[test]
fn a_second_signal_ends_it_even_when_the_nodes_hang() {
    let temporary = tempfile::tempdir().unwrap();
    let (child, pids) = long_run(temporary.path());
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        kill_process(pid, Signal::STOP).unwrap();
    }
    interrupt(&child);
    // Two of one kind that come together would be one.
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(output.stdout.is_empty(), "{}", said(&output));
    leaves_nothing(temporary.path(), &pids);
}

#[test]
fn the_nodes_die_with_a_run_that_is_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut child, pids) = long_run(temporary.path());
    child.kill().unwrap();
    child.wait().unwrap();
    // Where the system can do it: setpriv of util-linux.
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join("setpriv").is_file()) {
        eventually("the nodes are gone", || {
            nodes_in(temporary.path()).is_empty()
        });
    } else {
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
}
