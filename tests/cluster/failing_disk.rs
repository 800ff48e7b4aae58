//! A disk that fails to sync: the node acknowledges nothing more and ends with a code of its own.
//!
//! The failure comes from a small library in C, loaded before the C library's own `fdatasync`. Without a
//! C compiler, or elsewhere than on Linux, the test says so and passes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Node;

const LIBRARY: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fdatasync(int fd) {
    const char *broken = getenv("TEST_DISK_IS_BROKEN_IF");
    if (broken && access(broken, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_fdatasync, fd);
}
"#;

/// Builds the library; why it cannot, when it cannot.
fn library(directory: &Path) -> Result<PathBuf, String> {
    if !cfg!(target_os = "linux") {
        return Err("this is not Linux".to_owned());
    }
    let source = directory.join("failing.c");
    let library = directory.join("libfailing.so");
    std::fs::write(&source, LIBRARY).map_err(|error| error.to_string())?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
    let output = compiler.arg(&source).output();
    let output = output.map_err(|error| format!("{compiler:?}: {error}"))?;
    match output.status.success() {
        true => Ok(library),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn a_node_whose_disk_cannot_sync_ends_with_a_code_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let library = match library(root.path()) {
        Ok(library) => library,
        Err(reason) => {
            println!("SKIPPED: no library can be built here: {reason}");
            return;
        }
    };
    let broken = root.path().join("broken");
    let mut node = Node::new(root.path(), "node-1").with_settings(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("TEST_DISK_IS_BROKEN_IF", broken.to_str().unwrap()),
    ]);
    node.start();
    node.wait_ready();
    node.run(&["put", "before", "kept"]).exits(0);
    std::fs::write(&broken, "").unwrap();
    let put = node.run(&["put", "after", "doubtful"]);
    assert_ne!(put.code, Some(0), "acknowledged without a sync: {put:?}");
    let (code, log) = node.ends_by_itself();
    assert_eq!(code, Some(7), "{log}");
    assert!(log.contains("the disk failed to sync"), "{log}");
    assert!(log.contains("dmesg"), "{log}");

    std::fs::remove_file(&broken).unwrap();
    node.start();
    node.wait_ready();
    let kept = node.run(&["get", "before"]).exits(0);
    assert_eq!(kept.text(), "kept");
}
