//! `dynakv-bench` as a process, and what it leaves behind.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Far longer than anything takes on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// It with these arguments, and with no settings of somebody else's.
pub(crate) fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynakv-bench"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DYNAKV_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What it said, for the message of a test that fails.
pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// The node processes of a cluster whose directory lies in here.
pub(crate) fn nodes_in(directory: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("serve") && line.contains(directory.to_str().unwrap()) {
            found.push(pid);
        }
    }
    found
}

/// Waits until this holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// These processes are gone, and so is all that lay in the directory for temporary files.
#[track_caller]
pub(crate) fn leaves_nothing(temporary: &Path, pids: &[i32]) {
    eventually("the nodes are gone", || {
        let runs =
            |pid: &i32| Pid::from_raw(*pid).is_some_and(|pid| test_kill_process(pid).is_ok());
        nodes_in(temporary).is_empty() && !pids.iter().any(runs)
    });
    let left: Vec<_> = std::fs::read_dir(temporary).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Ctrl-C.
pub(crate) fn interrupt(child: &Child) {
    // It was not waited for, so the pid is still its own.
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}
