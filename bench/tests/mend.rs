//! Nodes killed and restarted under load, again and again: every request succeeds, and then, before anybody
//! has read anything, all hints are handed over, all copies are the same, and every store is sound.

mod common;

use std::path::Path;
use std::process::Command;

/// The end of each log that is shown when an audit fails.
const LOG_LINES: usize = 40;

fn log_tails(directory: &Path, nodes: usize) -> String {
    let mut shown = String::new();
    for number in 1..=nodes {
        let name = format!("node-{number}.log");
        let log = std::fs::read(directory.join(&name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        shown.push_str(&format!("---- {name}\n{}\n", tail.join("\n")));
    }
    shown
}

/// Lets five nodes be killed, one every so often, and looks at what is left.
fn five_nodes_killed(every: &str, duration: &str, seed: &str, more: &[&str]) {
    const NODES: usize = 5;
    println!("seed {seed}");
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("cluster");
    let dynakv = common::dynakv();
    let audit = Command::new(env!("CARGO_BIN_EXE_dynakv-bench"))
        .args(["audit", "--nodes", &NODES.to_string(), "--seed", seed])
        .args(["--kill-every", every, "--duration", duration])
        .args(["--converge-within", "60s"])
        .args(more)
        .arg("--directory")
        .arg(&directory)
        .arg("--dynakv")
        .arg(&dynakv)
        .arg("--log")
        .arg(scratch.path().join("audit.log"))
        .env_remove("DYNAKV_SERVERS")
        .output()
        .expect("the binary was just built");
    let (said, told) = (
        String::from_utf8_lossy(&audit.stdout),
        String::from_utf8_lossy(&audit.stderr),
    );
    print!("{said}{told}");
    assert_eq!(
        audit.status.code(),
        Some(0),
        "the audit did not pass\n{}",
        log_tails(&directory, NODES)
    );
    assert!(told.contains("hold the same"), "nobody has compared");
    assert!(!said.contains(" 0 kills"), "nobody was killed");
    // Whoever was down has missed writes, and was reminded of them.
    assert!(said.contains(" hints handed over"), "nobody has looked");
    assert!(!said.contains(" 0 hints handed over"), "no hint was kept");
    for number in 1..=NODES {
        let store = directory.join(format!("node-{number}"));
        let check = Command::new(&dynakv)
            .args(["store", "check"])
            .arg(&store)
            .output()
            .expect("the binary was just built");
        assert!(
            check.status.success(),
            "{}: {}{}\n{}",
            store.display(),
            String::from_utf8_lossy(&check.stdout),
            String::from_utf8_lossy(&check.stderr),
            log_tails(&directory, NODES)
        );
    }
}

#[test]
fn copies_become_the_same_after_kills_without_a_read() {
    five_nodes_killed("2s", "12s", "20261127", &[]);
}

#[test]
fn sloppy_writes_reach_all_owners_after_kills_without_a_read() {
    five_nodes_killed("2s", "12s", "20261129", &["--sloppy"]);
}

#[test]
#[ignore = "make mend"]
fn copies_become_the_same_after_two_minutes_of_kills_without_a_read() {
    five_nodes_killed("3s", "2m", "20261128", &[]);
}

#[test]
#[ignore = "make mend"]
fn sloppy_writes_reach_all_owners_after_two_minutes_of_kills_without_a_read() {
    five_nodes_killed("3s", "2m", "20261130", &["--sloppy"]);
}
