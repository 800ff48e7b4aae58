//! Who gets in, and who is told why not.

use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Cluster, Node, eventually, free_port};

/// Starts a node that must be refused: it ends by itself, with exit code 1, and gives its reason.
#[track_caller]
fn assert_refused(mut node: Node, reasons: &[&str]) {
    node.start();
    let (code, said) = node.ends_by_itself();
    assert_eq!(code, Some(1), "{said}");
    for reason in reasons {
        assert!(said.contains(reason), "not said: {reason:?}: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn founder(root: &Path) -> Node {
    let mut node = Node::new(root, "node-1").with(&["-n", "3"]);
    node.start();
    node.wait_ready();
    node
}

/// What a member is told to be in `status` of a node, and whether that can speak to it.
fn shown(status: &serde_json::Value, id: &str) -> (String, bool) {
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let member = members.into_iter().find(|member| member["id"] == id);
    let member = member.unwrap_or_else(|| panic!("no {id}: {status}"));
    let state = member["state"].as_str().unwrap_or_default().to_owned();
    (state, member["unreachable"] == true)
}

/// Gossip takes a while to suspect somebody. A write that fails meanwhile is nothing that `status` calls healthy: not
/// when the owners are gone, and not when they stand still.
#[test]
fn status_is_never_healthy_when_a_write_has_just_failed() {
    for signal in [Signal::KILL, Signal::STOP] {
        let mut cluster = Cluster::start(3);
        cluster.seal("key", "value");
        cluster.wait_healthy();
        for at in [1, 2] {
            cluster[at].process_mut().signal(signal);
        }
        let put = cluster[0].run(&["put", "key", "value", "--timeout", "3s"]);
        assert_eq!(put.code, Some(4), "{put:?}");
        let status = cluster[0].run(&["status", "--output", "json"]).exits(4);
        let status = status.json();
        assert_eq!(status["verdict"], "unavailable", "{status}");
        for id in ["node-2", "node-3"] {
            let (state, is_unreachable) = shown(&status, id);
            assert!(is_unreachable || state != "alive", "{status}");
        }
        // And as soon as they are back it says so, too.
        for at in [1, 2] {
            match signal {
                Signal::KILL => {
                    cluster[at].kill();
                    cluster[at].start();
                }
                _ => cluster[at].process_mut().signal(Signal::CONT),
            }
        }
        cluster.wait_healthy();
        let status = cluster[0].run(&["status", "--output", "json"]).exits(0);
        for id in ["node-2", "node-3"] {
            assert_eq!(shown(&status.json(), id), ("alive".to_owned(), false));
        }
        cluster[0].run(&["put", "key", "value"]).exits(0);
    }
}

/// A member that takes no connections is shown as what it is, with what to type.
#[test]
fn a_member_that_is_gone_is_unreachable_before_it_is_suspected() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    cluster.wait_healthy();
    cluster[2].process_mut().signal(Signal::KILL);
    let text = eventually("node-1 misses node-3", || {
        let status = cluster[0].run(&["status", "--output", "table"]);
        match status.code {
            Some(6) => Ok(status),
            _ => Err(format!("{status:?}")),
        }
    });
    // On a slow machine it may be suspected by now.
    let line = text.text().lines().find(|line| line.contains("  node-3  "));
    let line = line.unwrap_or_default();
    assert!(!line.starts_with("alive"), "{}", text.text());
    assert!(text.text().contains(": 2 of 3 members alive "), "{text:?}");
    let next = format!("next: dynakv --server {} health", cluster[2].address());
    text.says("node-3 does not answer node-1").says(&next);
}

/// Five nodes find each other before the first write; which seed each was given does not matter.
#[test]
fn five_nodes_join_before_data() {
    let cluster = Cluster::start(5);
    for node in cluster.nodes() {
        let stats = node.run(&["stats", "--output", "json"]).exits(0).json();
        assert_eq!(stats["ring"]["total_virtual_nodes"], 750, "{stats}");
        assert_eq!(stats["gossip"]["alive_nodes"], 5, "{stats}");
        assert_eq!(stats["n"], 3, "{stats}");
    }
    cluster[4].run(&["put", "key", "value"]).exits(0);
    for node in cluster.nodes() {
        assert_eq!(node.run(&["get", "key"]).exits(0).text(), "value");
    }
    let copies: u64 = cluster
        .nodes()
        .iter()
        .map(|node| node.stat("/total_keys").unwrap())
        .sum();
    assert!(
        (2..=3).contains(&copies),
        "n = 3 copies, w = 2 of them for sure: {copies}"
    );
    let owns: Vec<f64> = {
        let status = cluster[0]
            .run(&["status", "--output", "json"])
            .exits(0)
            .json();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members
            .iter()
            .filter_map(|member| member["owns_percent"].as_f64())
            .collect()
    };
    assert_eq!(owns.len(), 5);
    assert!((owns.iter().sum::<f64>() - 100.0).abs() < 0.1, "{owns:?}");
}

/// A node of another cluster name is refused by name, and one that keeps another number of copies by
/// that number.
#[test]
fn a_node_of_other_settings_is_refused() {
    let root = TempDir::new().unwrap();
    let founder = founder(root.path());
    let seed = founder.address();
    let other_name = Node::new(root.path(), "other").with(&["--seed", &seed, "--cluster", "blue"]);
    assert_refused(other_name, &["blue", "dynakv", "check --cluster"]);
    let other_n = Node::new(root.path(), "other-n").with(&["--seed", &seed, "-n", "5"]);
    assert_refused(other_n, &["n = 3", "-n 5"]);
    assert_eq!(founder.stat("/ring/total_nodes"), Ok(1));
}

/// Two processes cannot share a data directory, and the first one does not notice the attempt.
#[test]
fn a_second_process_in_one_directory_is_refused() {
    let root = TempDir::new().unwrap();
    let mut first = founder(root.path());
    first.run(&["put", "key", "value"]).exits(0);
    let mut second = Node::new(root.path(), "node-1").with(&["-n", "3"]);
    second.start();
    let (code, said) = second.ends_by_itself();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("another process uses this directory"),
        "{said}"
    );
    assert!(said.contains("its own --data-dir"), "{said}");
    assert!(first.runs());
    assert_eq!(first.run(&["get", "key"]).exits(0).text(), "value");
}

/// A second node of a name that is taken, with a directory of its own: as long as the first one lives it is
/// told so, before the first write as after it.
#[test]
fn a_name_that_is_taken_is_refused() {
    let root = TempDir::new().unwrap();
    let founder = founder(root.path());
    let mut first = Node::new(root.path(), "node-2").with(&["--seed", &founder.address()]);
    first.start();
    first.wait_ready();
    let elsewhere = TempDir::new().unwrap();
    for name in ["node-1", "node-2"] {
        let second = Node::new(elsewhere.path(), name).with(&["--seed", &founder.address()]);
        let told = format!("the id {name} ");
        assert_refused(second, &[&told, "another --id"]);
    }
    assert!(first.runs());
    assert_eq!(founder.stat("/gossip/alive_nodes"), Ok(2));
}

/// Two clusters have one name. A node of the second one is given a node of the first as a seed, by
/// mistake or in the hope of moving it there: it stays in its own, and neither hides what is wrong.
#[test]
fn a_seed_of_another_cluster_moves_nobody() {
    let root = TempDir::new().unwrap();
    let founder = founder(root.path());
    let mut other = Node::new(root.path(), "other");
    other.start();
    other.wait_ready();
    other.run(&["put", "key", "other's"]).exits(0);
    assert_eq!(other.terminate().code(), Some(0));
    let mut other = Node::new(root.path(), "other").with(&["--seed", &founder.address()]);
    other.start_ready();
    let told = eventually("its status says so", || {
        let status = other.run(&["status"]);
        match status.code {
            Some(6) => Ok(status.stderr),
            _ => Err(format!("{status:?}")),
        }
    });
    for reason in [
        "two clusters have the name",
        "Take it out of --seed",
        "empty --data-dir",
    ] {
        assert!(told.contains(reason), "not said: {reason:?}: {told}");
    }
    assert_eq!(founder.stat("/ring/total_nodes"), Ok(1));
    founder.run(&["get", "key"]).exits(3);
    assert_eq!(other.run(&["get", "key"]).exits(0).text(), "other's");
}

/// A directory belongs to one node id for ever.
#[test]
fn a_directory_of_another_node_is_refused() {
    let root = TempDir::new().unwrap();
    let mut first = founder(root.path());
    assert_eq!(first.terminate().code(), Some(0));
    let directory = first.data_dir();
    let directory = directory.to_str().unwrap();
    let other = Node::new(root.path(), "other").with(&["--data-dir", directory]);
    assert_refused(other, &["belongs to node node-1", "--id node-1"]);
}

/// A port that somebody else has is an error with the port in it.
#[test]
fn a_busy_port_is_named() {
    let root = TempDir::new().unwrap();
    let port = free_port();
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    assert_refused(
        Node::at_port(root.path(), "node-1", port),
        &[&port.to_string()],
    );
}

/// A node that comes back under its old address rejoins from its directory, without a seed.
#[test]
fn a_member_rejoins_without_seeds() {
    let mut cluster = Cluster::start(3);
    cluster[0].run(&["put", "key", "value", "-w", "3"]).exits(0);
    cluster[2].kill();
    let port = cluster[2].port;
    let mut again = Node::at_port(cluster.root(), "node-3", port);
    again.start();
    again.wait_ready();
    assert_eq!(again.stat("/ring/total_nodes"), Ok(3));
    assert_eq!(again.run(&["get", "key"]).exits(0).text(), "value");
    cluster[0].kill();
    assert_eq!(again.run(&["get", "key"]).exits(0).text(), "value");
}

/// Somebody starts a process under the name of a living node at the address of one that is down, where the
/// living one gossips: the living one stays what it is.
#[test]
fn a_name_that_is_taken_cannot_be_had_at_the_address_of_a_node_that_is_down() {
    let mut cluster = Cluster::start(3);
    cluster.seal("key", "value");
    cluster[2].kill();
    let elsewhere = TempDir::new().unwrap();
    let port = cluster[2].port;
    let nobody = format!("127.0.0.1:{}", free_port());
    // It is let in nowhere, and stays, so that gossip finds it.
    let mut other = Node::at_port(elsewhere.path(), "node-1", port).with(&["--seed", &nobody]);
    other.start();
    eventually("the other one to listen", || {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .map(drop)
            .map_err(|error| error.to_string())
    });
    for round in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(cluster[0].runs(), "node-1 has ended in round {round}");
        assert_eq!(cluster[0].stat("/ring/total_nodes"), Ok(3));
    }
    other.kill();
    let seed = cluster[1].address();
    let other = Node::at_port(elsewhere.path(), "node-1", port).with(&["--seed", &seed]);
    assert_refused(other, &["the id node-1 ", "another --id"]);
    assert!(cluster[0].runs());
    cluster[2].start();
    cluster.wait_whole();
    assert_eq!(cluster[0].run(&["get", "key"]).exits(0).text(), "value");
}
