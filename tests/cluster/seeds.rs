//! What nodes make of their seeds: who founds a cluster and who must not, seeds of another cluster, and a
//! cluster that has moved as a whole.

use std::net::ToSocketAddrs;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cluster, Finished, Node, QUICK, eventually, free_port};

/// `status`, whatever its exit code.
fn status(node: &Node) -> Result<(Option<i32>, Value), String> {
    let finished = node.run(&["status", "--output", "json"]);
    let document = serde_json::from_slice(&finished.stdout).map_err(|_| format!("{finished:?}"))?;
    Ok((finished.code, document))
}

#[track_caller]
fn cluster_id(node: &Node) -> String {
    eventually(&format!("{} tells its cluster", node.id), || {
        let (_, status) = status(node)?;
        let id = status["cluster_id"].as_str().map(str::to_owned);
        id.ok_or_else(|| status.to_string())
    })
}

/// How many lines of its log say this.
fn times_said(node: &mut Node, what: &str) -> usize {
    let log = node.process_mut().stderr();
    log.lines().filter(|line| line.contains(what)).count()
}

#[track_caller]
fn says(node: &mut Node, what: &str) {
    eventually(&format!("{} says {what:?}", node.id), || {
        let log = node.process_mut().stderr();
        match log.contains(what) {
            true => Ok(()),
            false => Err(log),
        }
    });
}

/// Three nodes of which the first has `--bootstrap`; each is given all three as seeds, itself among them.
fn bootstrapped(root: TempDir) -> Cluster {
    let ports = [free_port(), free_port(), free_port()];
    let seeds = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let node = |number: usize| {
        let node = Node::at_port(root.path(), &format!("node-{number}"), ports[number - 1]);
        let node = node
            .with_settings(QUICK)
            .with(&["-n", "3", "--seed", &seeds]);
        match number {
            1 => node.with(&["--bootstrap"]),
            _ => node,
        }
    };
    let mut nodes: Vec<Node> = (1..=3).map(node).collect();
    for node in &mut nodes {
        node.start();
    }
    Cluster::of(root, nodes)
}

/// The disk of the node that founded the cluster is lost, and `--bootstrap` is still in its settings: it comes back
/// into its cluster, and founds none while it cannot tell.
#[test]
fn a_founder_that_lost_its_disk_founds_no_second_cluster() {
    let mut cluster = bootstrapped(TempDir::new().unwrap());
    let id = cluster_id(&cluster[1]);
    cluster.seal("key", "value");
    cluster[0].run(&["put", "key", "value", "-w", "3"]).exits(0);
    for number in 0..3 {
        cluster[number].kill();
    }
    std::fs::remove_dir_all(cluster[0].data_dir()).unwrap();
    cluster[0].start();
    // Silent seeds may be in a cluster.
    says(&mut cluster[0], "founds no cluster while");
    let waiting = cluster[0].run(&["health"]).exits(6);
    assert!(waiting.text().contains("127.0.0.1:"), "{waiting:?}");
    assert_eq!(times_said(&mut cluster[0], "founds a NEW cluster"), 0);
    cluster[1].start();
    cluster[2].start();
    cluster.wait_healthy();
    assert_eq!(cluster_id(&cluster[0]), id);
    assert_eq!(times_said(&mut cluster[0], "founds a NEW cluster"), 0);
    assert_eq!(cluster[0].run(&["get", "key"]).exits(0).text(), "value");
}

/// Two nodes that may both found a cluster, each with the other one as its seed: they come into one.
#[test]
fn two_that_may_found_come_into_one_cluster() {
    let root = TempDir::new().unwrap();
    for first in [0, 1] {
        let (a, b) = (format!("a-{first}"), format!("b-{first}"));
        let ports = [free_port(), free_port()];
        let node = |id: &str, mine: usize| {
            let seed = format!("127.0.0.1:{}", ports[1 - mine]);
            let node = Node::at_port(root.path(), id, ports[mine]).with_settings(QUICK);
            node.with(&["--bootstrap", "--seed", &seed])
        };
        let mut nodes = [node(&a, 0), node(&b, 1)];
        nodes[first].start();
        says(&mut nodes[first], "founds no cluster while");
        nodes[1 - first].start();
        for node in &mut nodes {
            node.wait_ready();
        }
        assert_eq!(cluster_id(&nodes[0]), cluster_id(&nodes[1]));
        assert_eq!(times_said(&mut nodes[0], "founds a NEW cluster"), 1);
        assert_eq!(times_said(&mut nodes[1], "founds a NEW cluster"), 0);
        for node in &nodes {
            assert_eq!(node.stat("/ring/total_nodes"), Ok(2));
        }
    }
}

/// Whoever is given no seed but itself has asked all there are.
#[test]
fn one_whose_only_seed_is_itself_founds() {
    let root = TempDir::new().unwrap();
    let port = free_port();
    let own = format!("localhost:{port}");
    let mut node =
        Node::at_port(root.path(), "node-1", port).with(&["--bootstrap", "--seed", &own]);
    node.start_ready();
    assert_eq!(times_said(&mut node, "founds a NEW cluster"), 1);
}

#[track_caller]
fn names_other_cluster(node: &Node, code: i32, is_seed: bool, parts: &[&str]) {
    eventually(
        &format!("status of {} names the other cluster", node.id),
        || {
            let (ended, status) = status(node)?;
            let others = status["other_clusters"].as_array().cloned();
            let mut others = others.unwrap_or_default().into_iter();
            let is_named = others.any(|other| {
                let text = other.to_string();
                other["is_seed"] == is_seed && parts.iter().all(|part| text.contains(part))
            });
            match is_named && ended == Some(code) {
                true => Ok(()),
                false => Err(format!("{ended:?}: {status}")),
            }
        },
    );
    // As a person reads it, too.
    let table: Finished = node.run(&["status", "--output", "table"]).exits(code);
    for part in parts {
        assert!(table.stderr.contains(part), "not said: {part:?}: {table:?}");
    }
}

/// A member of one cluster has a node of another one among its seeds, which comes up only later: both say so, and
/// both go on.
#[test]
fn a_seed_in_another_cluster_is_named_on_both_sides() {
    let root = TempDir::new().unwrap();
    let theirs = free_port();
    let theirs_at = format!("127.0.0.1:{theirs}");
    let mut own = Node::new(root.path(), "own");
    own.start_ready();
    own.run(&["put", "key", "own"]).exits(0);
    own.stop();
    let mut own = Node::at_port(root.path(), "own", own.port).with(&["--seed", &theirs_at]);
    own.start_ready();
    own.run(&["status"]).exits(0);
    let mut other = Node::at_port(root.path(), "other", theirs).with(&["-n", "1"]);
    other.start_ready();
    let (own_id, other_id) = (cluster_id(&own), cluster_id(&other));
    names_other_cluster(&own, 6, true, &[&theirs_at, &other_id, "--seed"]);
    names_other_cluster(&other, 0, false, &["own", &own.address(), &own_id]);
    // It has been asked more than once by now, or soon is.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(times_said(&mut own, "is in another cluster"), 1);
    assert_eq!(times_said(&mut other, "in another cluster"), 1);
    assert_eq!(own.run(&["get", "key"]).exits(0).text(), "own");
    // What was put right is not told any more.
    other.stop();
    own.stop();
    let mut own = Node::at_port(root.path(), "own", own.port);
    own.start_ready();
    own.run(&["status"]).exits(0);
}

/// A node that is not in a cluster yet has two seeds: one is of a cluster of another name, the other one silent. It
/// waits for that one, says once what is wrong, and both tell who asks.
#[test]
fn a_waiting_node_names_the_seed_of_another_cluster() {
    let root = TempDir::new().unwrap();
    let mut green = Node::new(root.path(), "green").with(&["--cluster", "green"]);
    green.start_ready();
    let silent = format!("127.0.0.1:{}", free_port());
    let seeds = format!("{},{silent}", green.address());
    let mut waiting =
        Node::new(root.path(), "waiting").with(&["--cluster", "blue", "--seed", &seeds]);
    waiting.start();
    says(&mut waiting, "is in another cluster");
    names_other_cluster(&green, 0, false, &["waiting", &waiting.address(), "blue"]);
    eventually("status of the waiting node tells why", || {
        let status = waiting.run(&["status"]);
        let is_told = status.code != Some(0)
            && [&green.address(), "green", &silent]
                .iter()
                .all(|part| status.stderr.contains(*part));
        match is_told {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    });
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(waiting.runs());
    assert_eq!(times_said(&mut waiting, "is in another cluster"), 1);
    let repeated = times_said(&mut waiting, "not in a cluster yet");
    assert!(repeated <= 6, "said at every retry: {repeated} times");
}

/// All nodes are stopped and started on other ports, with the new addresses as their seeds.
#[test]
fn a_cluster_that_moves_as_a_whole_finds_itself_by_its_seeds() {
    let mut cluster = Cluster::start_with(3, QUICK);
    cluster.seal("key", "value");
    cluster[0].run(&["put", "key", "value", "-w", "3"]).exits(0);
    let id = cluster_id(&cluster[0]);
    for number in 0..3 {
        cluster[number].stop();
    }
    let ports = [free_port(), free_port(), free_port()];
    // Each knows only the next one.
    let mut moved: Vec<Node> = (0..3)
        .map(|number| {
            let seed = format!("127.0.0.1:{}", ports[(number + 1) % 3]);
            let name = format!("node-{}", number + 1);
            let node = Node::at_port(cluster.root(), &name, ports[number]);
            node.with_settings(QUICK).with(&["--seed", &seed])
        })
        .collect();
    for node in &mut moved {
        node.start();
    }
    for node in &moved {
        eventually(&format!("{} finds the cluster healthy", node.id), || {
            let (code, status) = status(node)?;
            let members = status["members"].as_array().cloned().unwrap_or_default();
            let is_moved = |port: &u16| {
                let address = format!("127.0.0.1:{port}");
                members.iter().any(|member| member["address"] == *address)
            };
            match code == Some(0) && ports.iter().all(is_moved) {
                true => Ok(()),
                false => Err(format!("{code:?}: {status}")),
            }
        });
        assert_eq!(cluster_id(node), id);
        eventually(&format!("{} takes writes", node.id), || {
            let put = node.run(&["put", "key", &node.id, "-w", "3"]);
            match put.code {
                Some(0) => Ok(()),
                _ => Err(format!("{put:?}")),
            }
        });
    }
}

/// A name with an address of each family, of which a node listens on one.
#[test]
fn every_address_of_a_name_is_tried() {
    let found = ("localhost", 1).to_socket_addrs();
    let found: Vec<_> = found.map(Iterator::collect).unwrap_or_default();
    let both = found.iter().any(|it| it.is_ipv4()) && found.iter().any(|it| it.is_ipv6());
    if !both {
        eprintln!(
            "skipped: localhost has no two addresses here ({found:?}); /etc/hosts needs ::1 localhost"
        );
        return;
    }
    let root = TempDir::new().unwrap();
    for host in ["127.0.0.1", "::1"] {
        let port = free_port();
        let name = format!("localhost:{port}");
        let first_id = format!("first-{}", host.len());
        let mut first = Node::at_port(root.path(), &first_id, port).with(&[
            "--host",
            host,
            "--advertise",
            &name,
            "--bootstrap",
            "--seed",
            &name,
        ]);
        first.start();
        let health = || {
            let finished = crate::harness::dynakv(["--server", &name, "health"]);
            match finished.code {
                Some(0) => Ok(()),
                _ => Err(format!("{finished:?}")),
            }
        };
        eventually("the client reaches it by its name", health);
        let mut second =
            Node::new(root.path(), &format!("second-{}", host.len())).with(&["--seed", &name]);
        second.start_ready();
        assert_eq!(second.stat("/ring/total_nodes"), Ok(2));
        second.kill();
        first.kill();
    }
}
