//! The client library's examples do what they say, against a cluster, and say so when there is none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use crate::harness::{Cluster, free_port};

/// Each with a line that it prints at its end only.
const EXAMPLES: &[(&str, &str)] = &[
    ("hello", "deleted; absent now: true"),
    ("conflict", "merged: bread, eggs, milk"),
    ("set_with_update", "the set has 10 members"),
    ("batch", "all of them are what was stored"),
    ("quorum_options", "expired"),
    ("errors_and_retries", "stored for sure"),
];

/// Where the examples are. `cargo test --workspace` has built them; when only this test was built, or
/// its own crate alone, they are built now.
fn executables() -> Vec<PathBuf> {
    let own = std::env::current_exe().expect("a test knows its file");
    let directory = own.parent().and_then(Path::parent).expect("target/debug");
    let paths = EXAMPLES
        .iter()
        .map(|(name, _)| directory.join("examples").join(name));
    let paths: Vec<PathBuf> = paths.collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rooms = ["clients/rust/examples", "clients/rust/src", "protocol/src"];
    let changed = rooms.iter().map(|room| newest(&root.join(room))).max();
    if !paths.iter().all(|path| modified(path) >= changed) {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(root)
            .args(["build", "--package", "dynakv-client", "--examples"])
            .args(["--locked", "--target-dir"])
            .arg(directory.parent().expect("the target directory"))
            .stdin(Stdio::null());
        let output = command.output().expect("cargo runs the tests");
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    paths
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}

/// When the newest file below a directory was written.
fn newest(directory: &Path) -> SystemTime {
    let entries = directory.read_dir().expect("the sources are there");
    let times = entries.map(|entry| {
        let path = entry.expect("the sources are there").path();
        if path.is_dir() {
            newest(&path)
        } else {
            modified(&path).unwrap_or(SystemTime::UNIX_EPOCH)
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn run(executable: &Path, address: &str) -> Output {
    let mut command = Command::new(executable);
    command.arg(address).stdin(Stdio::null());
    command.output().expect("the example was just built")
}

#[test]
fn every_example_of_the_client_works_and_fails_as_it_should() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/rust/examples");
    let sources = sources.read_dir().expect("the sources are there");
    let names: BTreeSet<String> = sources
        .map(|entry| entry.expect("the sources are there").path())
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let expected = EXAMPLES.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(names, expected.collect(), "each example has a line here");

    let executables = executables();
    let cluster = Cluster::start(3);
    let nobody = format!("127.0.0.1:{}", free_port());
    for ((name, last_words), executable) in EXAMPLES.iter().zip(&executables) {
        // Twice: an example must bear what it left behind itself.
        for address in &cluster.addresses()[..2] {
            let output = run(executable, address);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && said.contains(last_words),
                "{name} at {address}: {output:?}"
            );
        }
        let output = run(executable, &nobody);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        assert!(said.contains(&nobody), "{name} names the address: {said}");
    }
}
