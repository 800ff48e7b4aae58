//! `dynakv repair`, and what is told of rebuilding while it goes on.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Cluster, Node, QUICK, binary, eventually};

const KEYS: usize = 60;

/// Nobody compares by itself for a long time nor remembers what another one missed, and a node that is silent
/// stays a living one.
const LEFT_ALONE: &[(&str, &str)] = &[
    ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
    ("DYNAKV_SUSPECT_AFTER", "10m"),
    ("DYNAKV_DEAD_AFTER", "20m"),
    ("DYNAKV_ANTI_ENTROPY_INTERVAL", "1h"),
    ("DYNAKV_HINTS_BYTES_MAX", "0"),
];

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// How many keys this node has an old copy of, or none.
fn stale_at(asked: &Node, id: &str) -> Result<usize, String> {
    let mut stale = 0;
    for number in 0..KEYS {
        let explained = asked.run(&["explain", &key(number), "--output", "json"]);
        let explained = explained.json();
        let owners = explained["owners"].as_array().cloned().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner["id"] == id);
        match owner.map(|owner| owner["standing"].as_str().unwrap_or_default()) {
            Some("current") => {}
            Some("stale" | "lacks it") => stale += 1,
            _ => return Err(explained.to_string()),
        }
    }
    Ok(stale)
}

#[test]
fn a_repair_mends_what_a_node_missed_and_counts_it() {
    let mut cluster = Cluster::start_with(3, LEFT_ALONE);
    for number in 0..KEYS / 2 {
        cluster[0].run(&["put", &key(number), "old"]).exits(0);
    }
    // A clean end of all comparisons that come by themselves: of each pair one is asked for.
    for node in 0..3 {
        cluster[node].run(&["repair"]).exits(0);
    }
    cluster[2].process_mut().signal(Signal::STOP);
    eventually("the links to the silent node to be given up", || {
        let put = cluster[0].run(&["put", "other", "value", "-w", "3"]);
        match put.code {
            Some(4) if put.stderr.contains("nothing was written") => Ok(()),
            _ => Err(format!("{put:?}")),
        }
    });
    for number in 0..KEYS {
        cluster[number % 2]
            .run(&["put", &key(number), "new"])
            .exits(0);
    }
    cluster[2].process_mut().signal(Signal::CONT);
    let stale = eventually("the node to answer again", || {
        stale_at(&cluster[0], "node-3")
    });
    assert!(stale > KEYS / 2, "{stale} of {KEYS}");

    let repaired = eventually("a repair that reaches all", || {
        let repaired = cluster[1].run(&["repair", "--output", "json"]);
        match repaired.code {
            Some(0) => Ok(repaired.json()),
            _ => Err(format!("{repaired:?}")),
        }
    });
    assert_eq!(repaired["node_id"], "node-2", "{repaired}");
    assert_eq!(repaired["state"], "done", "{repaired}");
    assert_eq!(repaired["pairs_total"], 2, "{repaired}");
    assert_eq!(repaired["pairs_done"], 2, "{repaired}");
    assert_eq!(repaired["pairs_failed"], 0, "{repaired}");
    assert_eq!(stale_at(&cluster[0], "node-3"), Ok(0));
    // One of the two may have done part of it for the other.
    let metric = |node: &Node, name: &str| -> u64 {
        let page = node.page("/metrics").unwrap().body;
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let sent: u64 = [0, 1]
        .map(|node| metric(&cluster[node], "dynakv_anti_entropy_keys_sent_total"))
        .iter()
        .sum();
    assert!(sent >= stale as u64, "{sent} of {stale}");
    let again = cluster[1].run(&["repair"]).exits(0);
    assert_eq!(
        again.text(),
        "node-2 compared with 2 of 2 members: 0 segments differed, 0 keys mended here, 0 at others\n"
    );
    cluster[2].process_mut().signal(Signal::STOP);
    who_stops_looking_leaves_it_running(&cluster[0]);
}

/// Ctrl-C ends the command, not what the node does: it waits for one that says nothing.
#[track_caller]
fn who_stops_looking_leaves_it_running(node: &Node) {
    eventually("the command to be interrupted in its midst", || {
        let mut child = binary();
        let child = child.args(["--server", &node.address(), "repair"]);
        let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| error.to_string())?;
        eventually("the node to compare", || {
            let page = node.page("/metrics")?.body;
            let line = "dynakv_anti_entropy_running{node=\"node-1\"} 1";
            match page.contains(line) {
                true => Ok(()),
                false => Err(page),
            }
        });
        // It was not waited for, so the pid is still its own.
        let _ended = kill_process(Pid::from_child(&child), Signal::INT);
        let output = child.wait_with_output().map_err(|it| it.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.signal().is_some() {
            return Err("it did not listen yet".to_owned());
        }
        match output.status.code() {
            Some(0) if said.contains("it goes on at node-1") => Ok(()),
            _ => Err(said),
        }
    });
}

fn rebuilding_of(seen_by: &Node, id: &str) -> Result<(u64, u64, f64), String> {
    let status = seen_by.run(&["status", "--output", "json"]).json();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let member = members.iter().find(|member| member["id"] == id);
    let numbers = member.and_then(|member| {
        Some((
            member["rebuilding_segments"].as_u64()?,
            member["rebuilding_of_segments"].as_u64()?,
            member["rebuilt_percent"].as_f64()?,
        ))
    });
    numbers.ok_or(format!("not told: {status}"))
}

/// With one owner of many dead, some segments come back and some cannot.
#[test]
fn rebuilding_shows_how_far_it_is_and_ends_by_an_operator_s_word() {
    let mut cluster = Cluster::start_with(5, QUICK);
    for number in 0..KEYS {
        cluster[number % 5]
            .run(&["put", &key(number), "value"])
            .exits(0);
    }
    cluster[1].kill();
    cluster[4].kill();
    std::fs::remove_dir_all(cluster[4].data_dir()).unwrap();
    cluster[4].start();
    cluster[4].wait_ready();
    for seen_by in [0, 4] {
        eventually("status to tell of a part", || {
            let (left, of, percent) = rebuilding_of(&cluster[seen_by], "node-5")?;
            match 0 < left && left < of && of < 65_536 && 0.0 < percent && percent < 100.0 {
                true => Ok(()),
                false => Err(format!("{left} of {of}, {percent} %")),
            }
        });
        let status = cluster[seen_by].run(&["status", "--output", "table"]);
        let mut lines = status.text().lines();
        let line = lines.find(|line| line.contains("  node-5  "));
        let line = line.unwrap_or_default();
        assert!(
            line.contains(", rebuilding ") && line.contains(" %  node-5 "),
            "{line}"
        );
        let ring = cluster[seen_by].run(&["ring", "--output", "json"]).json();
        let members = ring["members"].as_array().cloned().unwrap_or_default();
        let member = members.iter().find(|member| member["id"] == "node-5");
        assert!(
            member.unwrap()["rebuilding_segments"].as_u64() > Some(0),
            "{ring}"
        );
    }
    let explained = (0..KEYS).map(|number| {
        let explained = cluster[0].run(&["explain", &key(number), "--output", "json"]);
        explained.json()["owners"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    assert!(
        explained.flatten().any(|owner| owner["rebuilding"] == true),
        "explain names the owner that is rebuilding"
    );

    // A repair does not end it, nor does a word that nobody has confirmed.
    cluster[4]
        .run(&["repair"])
        .exits(6)
        .says("are still being rebuilt");
    cluster[4]
        .run(&["repair", "--accept-loss"])
        .exits(2)
        .says("Not in reach: node-2")
        .says(" repair --accept-loss --yes");
    assert!(rebuilding_of(&cluster[4], "node-5").unwrap().0 > 0);
    let accepted = eventually("the word to be heard, once node-2 is dead", || {
        let repaired = cluster[4].run(&["repair", "--accept-loss", "--yes", "--output", "json"]);
        let document = repaired.json();
        match document["rebuilding_segments"] == 0 {
            true => Ok(document),
            false => Err(format!("{repaired:?}")),
        }
    });
    assert!(
        accepted["accepted_segments"].as_u64() > Some(0),
        "{accepted}"
    );
    let log = cluster[4].process_mut().stderr();
    assert!(log.contains("by an operator's word"), "{log}");
    // A restart does not forget it.
    cluster[4].terminate();
    cluster[4].start();
    cluster[4].wait_ready();
    assert_eq!(rebuilding_of(&cluster[4], "node-5").unwrap().0, 0);
    cluster[1].start();
    cluster.wait_whole();
    for number in 0..KEYS {
        let got = cluster[4].run(&["get", &key(number)]).exits(0);
        assert_eq!(got.text(), "value");
    }
}

#[test]
fn a_node_in_no_cluster_repairs_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut alone = Node::new(root.path(), "node-1").with(&["--seed", "127.0.0.1:1"]);
    alone.start();
    eventually("the node to refuse", || {
        let repaired = alone.run(&["repair"]);
        match repaired.stderr.contains("has not joined a cluster yet") {
            true if repaired.code == Some(1) => Ok(()),
            _ => Err(format!("{repaired:?}")),
        }
    });
}
