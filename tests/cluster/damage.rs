//! A store that is damaged beyond opening: its node starts again with an empty one, and says so.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::harness::{Cluster, Node, QUICK, all_is_well, eventually, under_load};

const KEYS: usize = 60;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// The stores that were set aside in a node's directory.
fn set_aside(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data_dir()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_set_aside = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("store.damaged-")
    };
    let mut found: Vec<_> = paths.filter(is_set_aside).collect();
    found.sort();
    found
}

/// Overwrites the middle of a file.
fn ruin(path: &Path) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length / 3)).unwrap();
    let garbage = vec![0x5a; (length / 3) as usize + 1];
    file.write_all(&garbage).unwrap();
}

/// Ruins the log, and returns which file.
fn ruin_log(node: &Node) -> &'static str {
    let entries = fs::read_dir(node.data_dir().join("store/log")).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let largest = files.max_by_key(|path| fs::metadata(path).unwrap().len());
    ruin(&largest.unwrap());
    "log/00000000000000000001.log"
}

/// Ruins the tree, and returns which file.
fn ruin_tree(node: &Node) -> &'static str {
    let conf = node.data_dir().join("store/sled/conf");
    fs::write(&conf, b"this is no configuration").unwrap();
    "sled/conf"
}

/// The actor under which a node mints, as another one's `explain` tells.
fn actor_of(cluster: &Cluster, asked: usize, id: &str) -> Result<String, String> {
    let explained = cluster[asked].run(&["explain", &key(0), "--output", "json"]);
    let explained = explained.json();
    let owners = explained["owners"].as_array().cloned().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner["id"] == id);
    let actor = owner.and_then(|owner| owner["actor"].as_str());
    actor
        .map(str::to_owned)
        .ok_or(format!("no actor: {explained}"))
}

fn rebuilding_of(seen_by: &Node, id: &str) -> Result<u64, String> {
    let status = seen_by.run(&["status", "--output", "json"]).json();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let member = members.iter().find(|member| member["id"] == id);
    let segments = member.and_then(|member| member["rebuilding_segments"].as_u64());
    segments.ok_or(format!("not told: {status}"))
}

/// Waits until a node says that node-3 is rebuilding so many segments.
#[track_caller]
fn rebuilds(seen_by: &Node, expected: u64) {
    let what = format!("{} to tell of {expected} segments", seen_by.id);
    eventually(&what, || match rebuilding_of(seen_by, "node-3")? {
        segments if segments == expected => Ok(()),
        other => Err(format!("{other} segments")),
    });
}

#[test]
fn a_node_with_a_damaged_store_starts_empty_and_is_rebuilt_from_the_others() {
    for (ruin_store, what) in [
        (ruin_log as fn(&Node) -> &'static str, "its log"),
        (ruin_tree as fn(&Node) -> &'static str, "its tree"),
    ] {
        println!("damaged: {what}");
        let mut cluster = Cluster::start(3);
        for number in 0..KEYS {
            let value = format!("value-{number}");
            cluster[number % 3]
                .run(&["put", &key(number), &value])
                .exits(0);
        }
        let old_actor = eventually("the actor of node-3", || actor_of(&cluster, 0, "node-3"));
        // One other owner alone cannot give back what any two may have acknowledged.
        cluster[1].kill();
        cluster[2].kill();
        let ruined = ruin_store(&cluster[2]);
        let content = fs::read(cluster[2].data_dir().join("store").join(ruined)).unwrap();

        cluster[2].start();
        cluster[2].wait_ready();
        // It says so: in the log, in the metrics, and to everybody who asks about the cluster.
        let log = cluster[2].process_mut().stderr();
        assert!(log.contains("set aside"), "{log}");
        assert!(log.contains("dynakv store check"), "{log}");
        let aside = set_aside(&cluster[2]);
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert_eq!(
            fs::read(aside[0].join(ruined)).unwrap(),
            content,
            "{ruined}"
        );
        eventually("the metrics to tell", || {
            let page = cluster[2].page("/metrics")?.body;
            let says = |line: &str| page.lines().any(|it| it.starts_with(line));
            match says("dynakv_rebuilding_segments{node=\"node-3\"} 65536")
                && says("dynakv_stores_set_aside{node=\"node-3\"} 1")
            {
                true => Ok(()),
                false => Err(page),
            }
        });
        for seen_by in [2, 0] {
            rebuilds(&cluster[seen_by], 65_536);
            // With node-2 gone reads lack a quorum, and nobody waits for gossip to say so.
            let status = cluster[seen_by].run(&["status"]).exits(4);
            assert!(status.text().contains("rebuilding 100.0 %"), "{status:?}");
        }
        let new_actor = eventually("the new actor", || actor_of(&cluster, 0, "node-3"));
        assert_ne!(old_actor, new_actor);

        // It takes writes, and its copy counts for them; not for reads.
        for number in 0..KEYS {
            let got = cluster[0].run(&["get", &key(number), "-r", "1", "--output", "json"]);
            let context = got.json()["context"].as_str().unwrap().to_owned();
            let node = &cluster[number % 2 * 2];
            node.run(&["put", &key(number), "replaced", "--context", &context])
                .exits(0);
            // What a blind write replaces takes two who know, unless it asks for less.
            let blind = cluster[0].run(&["put", &key(number), "blind"]);
            blind.exits(4).says("lost nothing");
            node.run(&["put", &key(number), "blind", "-w", "1"])
                .exits(0);
            node.run(&["get", &key(number)])
                .exits(4)
                .says("replicas answered");
            let never = format!("never-{number}");
            node.run(&["get", &never]).exits(4);
        }
        // A restart does not make it forget.
        cluster[2].terminate();
        cluster[2].start();
        cluster[2].wait_ready();
        rebuilds(&cluster[2], 65_536);
        assert_eq!(set_aside(&cluster[2]).len(), 1);

        // With two others it gets everything back, without a single read.
        cluster[1].start();
        cluster[1].wait_ready();
        for seen_by in [2, 0] {
            rebuilds(&cluster[seen_by], 0);
        }
        eventually("the status to be well", || {
            let status = cluster[0].run(&["status"]);
            match status.code {
                Some(0) => Ok(()),
                _ => Err(status.text().to_owned()),
            }
        });
        let read = |cluster: &Cluster, number| {
            let got = cluster[2].run(&["get", &key(number)]).exits(0);
            assert!(
                ["replaced", "blind"].contains(&got.text()),
                "{}: {got:?}",
                key(number)
            );
        };
        for number in 0..KEYS {
            let got = cluster[2].run(&["get", &key(number), "-r", "1"]).exits(0);
            assert!(["replaced", "blind"].contains(&got.text()), "{got:?}");
        }
        cluster[0].kill();
        for number in 0..KEYS {
            read(&cluster, number);
        }
    }
}

/// Two others are needed, and are never there together: what each of them has given stays given.
#[test]
fn what_was_lost_comes_back_from_owners_that_are_there_one_after_the_other() {
    let mut cluster = Cluster::start_with(3, QUICK);
    for number in 0..KEYS {
        cluster[number % 3]
            .run(&["put", &key(number), "value"])
            .exits(0);
    }
    cluster[1].kill();
    cluster[2].kill();
    ruin_log(&cluster[2]);
    cluster[2].start();
    cluster[2].wait_ready();
    // Told of an attempt in which all who are there gave what they have, and node-2 was known to be dead.
    eventually("node-1 to have given all it has", || {
        let log = cluster[2].process_mut().stderr();
        match log.contains("too few other owners are there that have everything") {
            true => Ok(()),
            false => Err(log),
        }
    });
    rebuilds(&cluster[2], 65_536);
    cluster[0].kill();
    cluster[1].start();
    cluster[1].wait_ready();
    rebuilds(&cluster[2], 0);
    cluster[1].kill();
    for number in 0..KEYS {
        let got = cluster[2].run(&["get", &key(number), "-r", "1"]).exits(0);
        assert_eq!(got.text(), "value", "{}", key(number));
    }
}

/// Clients write and read while a node starts with a damaged store and rebuilds: no request fails, no read
/// misses what was acknowledged before it, no dot names two writes. The copies become the same without a
/// read, and the stores are sound.
#[test]
fn a_damaged_store_is_rebuilt_under_load_and_nobody_notices() {
    let mut cluster = Cluster::start(3);
    let load = under_load(&mut cluster, |cluster, load| {
        for ruin_store in [ruin_log as fn(&Node) -> &'static str, ruin_tree] {
            cluster[2].kill();
            println!("damaged: {}", ruin_store(&cluster[2]));
            load.goes_on(300);
            cluster[2].start();
            cluster[2].wait_ready();
            for seen_by in [2, 0] {
                rebuilds(&cluster[seen_by], 0);
            }
            load.goes_on(300);
        }
    });
    load.failed_nowhere();
    assert_eq!(set_aside(&cluster[2]).len(), 2);
    load.is_all_there(&cluster, 2);
    all_is_well(&mut cluster);
}

#[test]
fn a_lone_node_with_a_damaged_store_does_not_start_empty_by_itself() {
    let mut cluster = Cluster::start(1);
    cluster[0].run(&["put", "k", "v"]).exits(0);
    cluster[0].kill();
    ruin_log(&cluster[0]);
    cluster[0].start();
    let (code, log) = cluster[0].ends_by_itself();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("--accept-loss"), "{log}");
    assert_eq!(set_aside(&cluster[0]), Vec::<PathBuf>::new());

    // An operator may give up what is lost.
    let mut node =
        Node::at_port(cluster.root(), "node-1", cluster[0].port).with(&["--accept-loss"]);
    node.start();
    node.wait_ready();
    assert_eq!(set_aside(&node).len(), 1);
    node.run(&["get", "k"]).exits(3);
    node.run(&["put", "k", "again"]).exits(0);
    node.run(&["status"]).exits(0);
}
