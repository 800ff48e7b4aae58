//! What is wrong with a command is said before anything happens, with exit code 2.

use crate::harness::{Cluster, Command, Process, dynakv, eventually};

/// A quorum that no key can have is a bad request, whichever side finds out.
#[test]
fn impossible_quorums_are_usage_errors() {
    let cluster = Cluster::start(3);
    let node = &cluster[0];
    node.run(&["put", "key", "value", "-w", "4"])
        .exits(2)
        .says("w = 4")
        .says("3 owners");
    node.run(&["put", "key", "value", "-w", "0"]).exits(2);
    node.run(&["get", "key", "-r", "4"]).exits(2).says("r = 4");
    node.run(&["delete", "key", "-w", "4"]).exits(2);
    node.run(&["get", ""]).exits(2).says("key");
    let long = "k".repeat(4097);
    node.run(&["get", &long]).exits(2).says("4096");
    node.run(&["get", &long[..4096]]).exits(3);
    node.run(&["get", "key"]).exits(3);
}

/// Settings that cannot be are refused before a directory is made.
#[test]
fn impossible_settings_are_usage_errors() {
    let root = tempfile::tempdir().unwrap();
    let cases: [&[&str]; 8] = [
        &["serve", "--id", "a", "--port", "65000"],
        &["serve", "--port", "8080"],
        &["serve", "--id", "a b"],
        &["serve", "--id", "a", "-n", "3", "-w", "4"],
        &["serve", "--id", "a", "--seed", "nowhere"],
        &[
            "serve",
            "--id",
            "a",
            "--port",
            "8080",
            "--http-port",
            "8080",
        ],
        &["serve", "--id", "a", "--durability", "never"],
        &["dev", "--base-port", "64999"],
    ];
    for arguments in cases {
        let finished = Command::new(arguments)
            .current_dir(root.path())
            .run()
            .exits(2);
        assert!(finished.stdout.is_empty(), "{finished:?}");
        assert!(!finished.stderr.is_empty(), "{finished:?}");
    }
    let finished = Command::new(cases[0]).current_dir(root.path()).run();
    finished.says("--http-port");
    let left = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was made");
}

/// A node that listens everywhere has to say where it is reached: it would announce 0.0.0.0.
#[test]
fn a_node_that_listens_everywhere_must_say_where_it_is_reached() {
    let root = tempfile::tempdir().unwrap();
    let serve = |more: &[&str]| {
        let arguments = [&["serve", "--id", "a"], more].concat();
        let refused = Command::new(arguments).current_dir(root.path()).run();
        refused
            .exits(2)
            .says("nobody can connect to")
            .says("--advertise HOST:PORT")
    };
    serve(&["--host", "0.0.0.0"]);
    serve(&["--host", "::"]);
    serve(&["--advertise", "0.0.0.0:8080"]);
    let left = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was made");
}

/// No server is an error, not a usage error, and says what to do.
#[test]
fn no_server_is_an_error() {
    let port = crate::harness::free_port();
    let server = format!("127.0.0.1:{port}");
    for command in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["stats"],
        &["health"],
        &["ring"],
    ] {
        let arguments = [&["--server", &*server], command].concat();
        dynakv(arguments)
            .exits(1)
            .says("cannot reach")
            .says("next: dynakv dev");
    }
}

/// With `--port 0` the node takes free ports and says which on its first line.
#[test]
fn free_ports_are_announced() {
    let root = tempfile::tempdir().unwrap();
    let arguments = ["serve", "--id", "node-1", "--port", "0"].map(str::to_owned);
    let mut process = Process::start("node-1", root.path(), &arguments, &[]).unwrap();
    let line = eventually("the ports are announced", || {
        if let Some(status) = process.ended() {
            return Err(format!("it has ended: {status}: {}", process.stderr()));
        }
        let said = process.stdout();
        let line = said.split_once('\n').map(|(line, _)| line.to_owned());
        line.ok_or(said)
    });
    let announced: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(announced["event"], "listening", "{line}");
    let port = announced["port"].as_u64().unwrap();
    let http_port = announced["http_port"].as_u64().unwrap();
    assert!(port > 0 && http_port > 0 && port != http_port, "{line}");
    assert!(
        line.starts_with(r#"{"event":"listening","port":"#),
        "{line}"
    );
    let server = format!("127.0.0.1:{port}");
    eventually("the node is ready", || {
        let health = dynakv(["--server", &server, "health"]);
        if health.code == Some(0) {
            Ok(())
        } else {
            Err(format!("{health:?}"))
        }
    });
    let page = crate::harness::http_get(http_port as u16, "/ready").unwrap();
    assert_eq!(page.status, 200, "{page:?}");
    dynakv(["--server", &server, "put", "key", "value"]).exits(0);
    process.kill();
}
