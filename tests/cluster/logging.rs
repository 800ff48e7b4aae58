//! Diagnostics neither end nor block a node, wherever its log goes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dynakv_protocol::handshake::Hello;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::harness::{Node, binary, eventually};
use crate::strangers::connect;

/// Runs the binary with its standard error elsewhere.
fn with_stderr(root: &Path, place: &str) -> PathBuf {
    let script = root.join("with-stderr");
    let program = binary().get_program().to_owned();
    let program = program.to_str().unwrap();
    fs::write(
        &script,
        format!("#!/bin/sh\nexec '{program}' \"$@\" 2>'{place}'\n"),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn pipe(root: &Path) -> (PathBuf, File) {
    let path = root.join("log.pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    // Open for both, it waits for nobody.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(&path)
        .unwrap();
    (path, file)
}

/// A node that logs much, and nobody takes it.
fn node(root: &Path, place: &Path) -> Node {
    let script = with_stderr(root, place.to_str().unwrap());
    Node::new(root, "node-1")
        .with(&["-n", "1", "-w", "1", "-r", "1"])
        .with_settings(&[("DYNAKV_LOG", "trace")])
        .with_binary(Some(&script))
}

/// It serves, and counts what it could not log.
fn serves(node: &Node) {
    for number in 0..50 {
        let key = format!("key-{number}");
        node.run(&["put", &key, "value"]).exits(0);
        assert_eq!(node.run(&["get", &key]).exits(0).text(), "value");
    }
}

fn counts_what_it_drops(node: &Node) {
    eventually("lines were dropped", || {
        match node.metric("dynakv_log_lines_dropped_total", "")? {
            0 => Err("none so far".to_owned()),
            _ => Ok(()),
        }
    });
}

#[test]
fn a_log_on_a_full_disk_ends_no_node() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(root.path(), Path::new("/dev/full"));
    node.start_ready();
    serves(&node);
    counts_what_it_drops(&node);
    node.stop();
}

#[test]
fn a_log_whose_reader_has_gone_ends_no_node() {
    let root = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(root.path());
    let mut node = node(root.path(), &path);
    node.start_ready();
    drop(reader);
    serves(&node);
    counts_what_it_drops(&node);
    node.stop();
}

#[test]
fn a_log_that_nobody_reads_holds_no_node_up() {
    let root = tempfile::tempdir().unwrap();
    let (path, mut unread) = pipe(root.path());
    let full = loop {
        if let Err(error) = unread.write_all(b"\n") {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let mut node = node(root.path(), &path);
    node.start_ready();
    serves(&node);
    // It waits for nobody at its end either.
    node.stop();
    let mut kept = Vec::new();
    let _would_block = unread.read_to_end(&mut kept);
    assert!(
        kept.iter().all(|&byte| byte == b'\n'),
        "nothing else went in"
    );
}

/// Who may not come in can knock as often as it likes: the log stays small and the knocks are counted.
#[test]
fn refusals_fill_no_log() {
    const KNOCKS: u64 = 1000;
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start_ready();
    for _ in 0..KNOCKS {
        let refused = connect(&node, Hello::client("another-cluster", None));
        assert!(refused.is_err(), "it is of another cluster");
    }
    let log = node.process_mut().stderr();
    let lines = log.matches("connection refused").count() as u64;
    assert!(lines < KNOCKS / 2, "{lines} lines");
    assert!(log.contains("further ones are left out"), "{log}");
    let left_out = node.metric("dynakv_log_lines_left_out_total", "");
    assert!(left_out.unwrap() >= KNOCKS / 2);
    let refused = node.metric("dynakv_hellos_refused_total", "").unwrap();
    assert_eq!(refused, KNOCKS);
}
