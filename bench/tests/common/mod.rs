//! What the tests of this crate share.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The `dynakv` binary of this build. `cargo test --workspace` has built it; where only this crate is
/// tested and it is missing, it is built here.
pub(crate) fn dynakv() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let executable = std::env::current_exe().expect("a test knows its own path");
        let profile = executable.parent().and_then(|deps| deps.parent());
        let binary = profile
            .expect("tests lie in TARGET/PROFILE/deps")
            .join("dynakv");
        if !binary.is_file() {
            let mut build = Command::new(env!("CARGO"));
            build.args([
                "build",
                "--locked",
                "--package",
                "dynakv",
                "--bin",
                "dynakv",
            ]);
            let status = build.status().expect("cargo runs");
            assert!(
                status.success() && binary.is_file(),
                "{} is missing: cargo build --bin dynakv",
                binary.display()
            );
        }
        binary
    };
    BINARY.get_or_init(find).clone()
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("tests need an event queue").block_on(future)
}
