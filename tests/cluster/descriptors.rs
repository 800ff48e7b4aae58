//! Connections that say nothing, more of them than the node may have descriptors: it lives, its disk is well,
//! the other nodes and whoever has something to ask are served, and it works on when they are gone.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::harness::{Cluster, Node, block_on, client_of_one, dynakv, eventually};

/// How many descriptors the node has. The harness and the other nodes have as many as usual.
const LIMIT: u64 = 256;

/// More than that.
const SILENT: usize = 400;

/// This process needs one descriptor for each connection that it makes.
fn may_open_enough() {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("a process may raise its soft limit");
}

/// Three nodes, of which the first may have few descriptors.
fn cluster() -> Cluster {
    may_open_enough();
    let root = tempfile::tempdir().unwrap();
    let node =
        |id: &str| Node::new(root.path(), id).with_settings(&[("DYNAKV_GOSSIP_INTERVAL", "200ms")]);
    let mut nodes = vec![node("node-1").with_descriptors(LIMIT)];
    let seed = nodes[0].address();
    for id in ["node-2", "node-3"] {
        nodes.push(node(id).with(&["--seed", &seed]));
    }
    for node in &mut nodes {
        node.start();
    }
    let cluster = Cluster::of(root, nodes);
    cluster.seal("sealed", "yes");
    cluster
}

/// So many connections that say nothing, made one after the other. Some are closed by the node while others
/// are made.
fn silent(port: u16, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    (0..count).map(connect).collect()
}

fn is_served(cluster: &mut Cluster, round: &str) {
    let node = &cluster[0];
    node.run(&["health"]).exits(0);
    node.run(&["put", round, "through it"]).exits(0);
    assert_eq!(node.run(&["get", round]).exits(0).text(), "through it");
    assert_eq!(node.page("/health").unwrap().status, 200);
    // Through another node: this one is asked as an owner.
    let other = &cluster[1];
    other
        .run(&["put", round, "through another", "-w", "3"])
        .exits(0);
    assert_eq!(
        other.run(&["get", round, "-r", "3"]).exits(0).text(),
        "through another"
    );
    assert!(cluster[0].runs(), "{round}");
}

#[test]
fn more_silent_connections_than_descriptors_leave_the_node_as_it_was() {
    let mut cluster = cluster();
    let port = cluster[0].port;
    let silent_ones = silent(port, SILENT);
    is_served(&mut cluster, "while they stand");
    // As fast as they are closed others come.
    let flood = std::thread::spawn(move || {
        for _ in 0..20 {
            drop(silent(port, 50));
        }
    });
    for round in 0..5 {
        is_served(&mut cluster, &format!("flood {round}"));
    }
    flood.join().unwrap();
    drop(silent_ones);
    cluster.wait_healthy();
    is_served(&mut cluster, "when they are gone");
    let log = cluster[0].process_mut().stderr();
    assert!(
        log.contains("connections_max is 96 in place of 4096"),
        "{log}"
    );
    assert!(!log.contains("disk failed"), "{log}");
    assert!(cluster[0].terminate().success());
}

#[test]
fn silent_connections_to_the_http_port_do_not_lock_out_who_looks() {
    let mut cluster = cluster();
    let port = cluster[0].port + 1000;
    let silent_ones = silent(port, SILENT);
    for page in ["/health", "/ready", "/metrics"] {
        // Others that say nothing come all the time.
        let _more = silent(port, 64);
        assert_eq!(cluster[0].page(page).unwrap().status, 200, "{page}");
    }
    is_served(&mut cluster, "while they stand");
    drop(silent_ones);
    is_served(&mut cluster, "when they are gone");
}

/// The limit falls below what is open already, so that nothing more can be opened at all, for whatever reason.
#[test]
fn a_node_without_descriptors_goes_on_as_soon_as_there_are_some() {
    let mut cluster = cluster();
    let pid = cluster[0].process_mut().pid();
    let limit_to = |current: Option<u64>| {
        let pid = Pid::from_raw(pid as i32);
        let limits = Rlimit {
            current,
            maximum: Some(LIMIT),
        };
        prlimit(pid, Resource::Nofile, limits).expect("it is our child");
    };
    // Through a connection that stands already.
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        client.put("k", "before").await.unwrap();
        limit_to(Some(3));
        // In the order of their arrival it takes what it can, and nothing ends it.
        for round in 0..50 {
            client.put("k", format!("{round}")).await.unwrap();
        }
        let waiting = silent(cluster[0].port, 5);
        client.put("k", "after").await.unwrap();
        limit_to(Some(LIMIT));
        drop(waiting);
    });
    eventually("it is as before", || {
        let health = cluster[0].run(&["health"]);
        (health.code == Some(0))
            .then_some(())
            .ok_or_else(|| format!("{health:?}"))
    });
    assert_eq!(cluster[0].run(&["get", "k"]).exits(0).text(), "after");
    is_served(&mut cluster, "with descriptors");
    let log = cluster[0].process_mut().stderr();
    assert!(
        log.contains("Too many open files") || log.contains("cannot accept"),
        "{log}"
    );
    assert!(cluster[0].terminate().success());
}

#[test]
fn too_few_descriptors_are_named() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1").with_descriptors(64);
    node.start();
    let (code, log) = node.ends_by_itself();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("may open 64 files") && log.contains("ulimit -n"),
        "{log}"
    );
}

/// The usual soft limit is no limit: the node takes all that it may have.
#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1").with_soft_descriptors(LIMIT);
    node.start();
    node.wait_ready();
    let limit = || node.page("/metrics").unwrap().body;
    let page = limit();
    let line = page
        .lines()
        .find(|line| line.starts_with("process_max_fds{"));
    let limit: u64 = line
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(u64::MAX);
    assert!(limit > LIMIT, "{line:?}");
}

#[test]
fn what_is_lowered_is_said_by_config_check() {
    let check = crate::harness::Command::with_descriptors(LIMIT, ["config", "check", "--id", "a"]);
    let finished = check.run().exits(0);
    assert!(finished.text().contains("96"), "{finished:?}");
    finished.says("connections_max is 96 in place of 4096");
    let plenty = dynakv(["config", "check", "--id", "a"]).exits(0);
    let enough = getrlimit(Resource::Nofile)
        .maximum
        .is_none_or(|limit| limit > 8192);
    assert!(!enough || plenty.text().contains("4096"), "{plenty:?}");
}

/// One that begins a frame and never ends it is closed as one that says nothing.
#[test]
fn whoever_never_ends_its_hello_is_closed() {
    use std::io::{Read, Write};
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start();
    node.wait_ready();
    let mut half = TcpStream::connect(node.address()).unwrap();
    half.write_all(&[0, 0, 0, 32, 1, 2]).unwrap();
    half.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut said = Vec::new();
    half.read_to_end(&mut said)
        .expect("the node says why and closes");
    assert!(
        String::from_utf8_lossy(&said).contains("no hello"),
        "{said:?}"
    );
}
