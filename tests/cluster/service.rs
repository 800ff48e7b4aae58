//! A node under a service manager: what it reports over `NOTIFY_SOCKET`.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::{Node, PATIENCE};

/// The next news, in full.
#[track_caller]
fn news(manager: &UnixDatagram, expected: &str) -> String {
    let mut buffer = [0; 4096];
    let wait = Some(PATIENCE);
    manager.set_read_timeout(wait).unwrap();
    match manager.recv(&mut buffer) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(error) => panic!("no news within {PATIENCE:?}, expected {expected}: {error}"),
    }
}

/// A node is reported ready when it takes requests and no earlier, and stopping when it is told to stop.
#[test]
fn a_service_manager_hears_when_a_node_is_ready_and_when_it_stops() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let mut seed = Node::new(root.path(), "seed");
    let mut node = Node::new(root.path(), "node")
        .with(&["--seed", &seed.address()])
        .with_settings(&[("NOTIFY_SOCKET", socket.to_str().unwrap())]);
    node.start();
    let listening = news(&manager, "STATUS=listening");
    assert!(listening.starts_with("STATUS=listening"), "{listening}");
    // Its seed does not run, so it is not ready, however long it is waited for.
    manager
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let early = manager.recv(&mut [0; 4096]);
    assert!(
        early.is_err(),
        "{early:?} bytes of news before it has joined"
    );

    seed.start();
    let ready = news(&manager, "READY=1");
    assert!(ready.lines().any(|line| line == "READY=1"), "{ready}");
    node.run(&["health"]).exits(0);

    let status = node.terminate();
    assert!(status.success(), "{status}");
    let stopping = news(&manager, "STOPPING=1");
    assert!(
        stopping.lines().any(|line| line == "STOPPING=1"),
        "{stopping}"
    );
}

/// A manager that cannot be reached is no reason not to run.
#[test]
fn a_node_runs_without_its_service_manager() {
    let root = tempfile::tempdir().unwrap();
    let gone = root.path().join("gone");
    let mut node =
        Node::new(root.path(), "node").with_settings(&[("NOTIFY_SOCKET", gone.to_str().unwrap())]);
    node.start();
    node.wait_ready();
    assert!(node.terminate().success());
}
