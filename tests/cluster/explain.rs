//! `explain` on real clusters: every owner is asked, and what it has is said.

use serde_json::Value;

use crate::harness::{Cluster, Finished, dynakv};

/// A node that is back stays without what it has missed: nobody compares by itself, nor remembers it.
const LEFT_STALE: &[(&str, &str)] = &[
    ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
    ("DYNAKV_SUSPECT_AFTER", "2s"),
    ("DYNAKV_DEAD_AFTER", "6s"),
    ("DYNAKV_ANTI_ENTROPY_INTERVAL", "1h"),
    ("DYNAKV_HINTS_BYTES_MAX", "0"),
];

fn explain(cluster: &Cluster, node: usize, key: &str) -> Finished {
    cluster[node].run(&["explain", key, "--output", "json"])
}

fn context_of(finished: &Finished) -> String {
    let document = finished.json();
    document["context"].as_str().expect("a context").to_owned()
}

fn owner<'a>(explained: &'a Value, id: &str) -> &'a Value {
    let owners = explained["owners"].as_array().expect("owners");
    let owner = owners.iter().find(|owner| owner["id"] == id);
    owner.unwrap_or_else(|| panic!("no owner {id}: {explained}"))
}

/// Through any node, owner or not, the same is said.
#[test]
fn every_node_explains_every_key() {
    let cluster = Cluster::start(4);
    cluster[0].run(&["put", "key", "value", "-w", "3"]).exits(0);
    let mut seen = Vec::new();
    for node in 0..4 {
        let explained = explain(&cluster, node, "key").exits(0).json();
        assert_eq!(explained["agree"], true, "{explained}");
        assert_eq!(explained["seen_by"], cluster[node].id, "{explained}");
        let owners = explained["owners"].as_array().unwrap();
        assert_eq!(owners.len(), 3, "{explained}");
        for owner in owners {
            assert_eq!(owner["standing"], "current", "{explained}");
            assert_ne!(owner["actor"], Value::Null, "{explained}");
        }
        let values = explained["values"].as_array().unwrap();
        assert_eq!(values.len(), 1, "{explained}");
        assert_eq!(values[0]["preview"]["value"], "value");
        assert_ne!(values[0]["node"], Value::Null, "its minter is known");
        seen.push((explained["owners"].clone(), explained["values"].clone()));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    explain(&cluster, 1, "absent").exits(3);
    cluster[1].run(&["explain", ""]).exits(2);
    let table = cluster[2].run(&["explain", "key", "--output", "table"]);
    let table = table.exits(0);
    assert!(table.text().contains("all 3 owners agree"), "{table:?}");
}

/// Two writers of one state, a delete, an expired value: each is told for what it is.
#[test]
fn a_conflict_says_who_wrote_what() {
    let cluster = Cluster::start(3);
    cluster[0]
        .run(&["put", "cart", "empty", "-w", "3"])
        .exits(0);
    let context = context_of(&cluster[0].run(&["get", "cart", "--output", "json"]));
    for (node, value) in [(1, "milk"), (2, "bread")] {
        let put = ["put", "cart", value, "-w", "3", "--context", &context];
        cluster[node].run(&put).exits(0);
    }
    let explained = explain(&cluster, 0, "cart").exits(0).json();
    assert_eq!(explained["conflict"], true, "{explained}");
    assert_eq!(explained["agree"], true, "{explained}");
    let said = explained["sentences"].to_string();
    for part in ["conflict: 2 values", "node-2", "node-3", "different nodes"] {
        assert!(said.contains(part), "{said}");
    }
    cluster[0].run(&["put", "gone", "x", "-w", "3"]).exits(0);
    cluster[0].run(&["delete", "gone", "-w", "3"]).exits(0);
    let explained = explain(&cluster, 2, "gone").exits(0).json();
    assert_eq!(explained["values"][0]["deleted"], true, "{explained}");
    let short = ["put", "short", "x", "-w", "3", "--ttl", "1ms"];
    cluster[0].run(&short).exits(0);
    crate::harness::eventually("the value has expired", || {
        let explained = explain(&cluster, 1, "short").exits(0).json();
        let live = explained["values"][0]["live"].clone();
        if live == false {
            Ok(())
        } else {
            Err(explained.to_string())
        }
    });
}

/// An owner that is down is part of the answer; one that missed a write is named as stale, with what it
/// lacks, until it is mended.
#[test]
fn owners_that_are_down_or_stale_are_named() {
    let mut cluster = Cluster::start_with(3, LEFT_STALE);
    cluster[0].run(&["put", "key", "old", "-w", "3"]).exits(0);
    cluster[2].kill();
    cluster[0].run(&["put", "key", "new"]).exits(0);
    let explained = explain(&cluster, 1, "key").exits(0).json();
    let down = owner(&explained, "node-3");
    assert_eq!(down["answered"], false, "{explained}");
    assert_eq!(down["standing"], "no answer", "{explained}");
    assert_ne!(down["reason"], "", "{explained}");
    assert_eq!(owner(&explained, "node-1")["standing"], "current");

    cluster[2].start();
    cluster.wait_whole();
    let explained = explain(&cluster, 2, "key").exits(0).json();
    let stale = owner(&explained, "node-3");
    assert_eq!(stale["standing"], "stale", "{explained}");
    assert_eq!(stale["missing"].as_array().unwrap().len(), 1, "{explained}");
    assert_eq!(explained["agree"], false, "{explained}");
    let said = explained["sentences"].to_string();
    assert!(said.contains("node-3 is stale"), "{said}");
    // Explaining mends nothing; the read that it proposes does.
    let explained = explain(&cluster, 2, "key").exits(0).json();
    assert_eq!(explained["agree"], false, "{explained}");
    cluster[2].run(&["get", "key", "-r", "3"]).exits(0);
    crate::harness::eventually("the owners agree after the read", || {
        let explained = explain(&cluster, 0, "key").exits(0).json();
        if explained["agree"] == true {
            Ok(())
        } else {
            Err(explained.to_string())
        }
    });
}

#[test]
fn with_no_owner_left_it_says_so() {
    let port = crate::harness::free_port();
    let server = format!("127.0.0.1:{port}");
    dynakv(["--server", &server, "explain", "key"])
        .exits(1)
        .says("next: ");
}
