//! Sloppy writes while owners are down, and hints that reach them when they are back.

use serde_json::Value;

use crate::harness::{Cluster, Node, QUICK, eventually, hints_drain};

/// The places in the cluster of a key's owners.
fn owners_of(cluster: &Cluster, key: &str) -> Vec<usize> {
    let explained = cluster[0].run(&["explain", key, "--output", "json"]).json();
    let owners = explained["owners"].as_array().cloned().unwrap_or_default();
    let place = |owner: &Value| {
        let nodes = cluster.nodes().iter();
        nodes.clone().position(|node| owner["id"] == *node.id)
    };
    owners.iter().filter_map(place).collect()
}

fn others(cluster: &Cluster, owners: &[usize]) -> Vec<usize> {
    (0..cluster.nodes().len())
        .filter(|place| !owners.contains(place))
        .collect()
}

/// Each owner's own copy of the key, as `explain` sees it.
#[track_caller]
fn all_owners_are_current(node: &Node, key: &str) {
    eventually(&format!("all owners of {key} to be current"), || {
        let explained = node.run(&["explain", key, "--output", "json"]).json();
        let owners = explained["owners"].as_array().cloned().unwrap_or_default();
        let is_current = |owner: &Value| owner["standing"] == "current";
        match owners.len() == 3 && owners.iter().all(is_current) {
            true => Ok(()),
            false => Err(explained.to_string()),
        }
    });
}

#[test]
fn with_all_owners_down_a_sloppy_write_is_kept_and_handed_over() {
    // Anti-entropy comes after a return as well: the metrics say who did it.
    let mut cluster = Cluster::start_with(5, QUICK);
    let key = "cart";
    let owners = owners_of(&cluster, key);
    let strangers = others(&cluster, &owners);
    cluster.seal(key, "before");
    for &owner in &owners {
        cluster[owner].kill();
    }
    let stranger = strangers[0];
    cluster[stranger].run(&["put", key, "strict"]).exits(4);
    let sloppy = ["put", key, "kept", "--sloppy", "--output", "json"];
    let answer = cluster[stranger].run(&sloppy).exits(0).json();
    assert_eq!(answer["sloppy"], true, "{answer}");
    // The same stand-in mints over what it has: one blind write after another leaves one version.
    let again = ["put", key, "kept again", "--sloppy", "--output", "json"];
    cluster[stranger].run(&again).exits(0);

    // What was acknowledged survives the death of all who keep it, and that of a store.
    for &stranger in &strangers {
        cluster[stranger].kill();
    }
    for &stranger in &strangers {
        cluster[stranger].start();
    }
    for &stranger in &strangers {
        cluster[stranger].wait_ready();
        let what = format!("{} to remember the hint", cluster[stranger].id);
        eventually(&what, || {
            match cluster[stranger].metric("dynakv_hints_waiting_counted", "")? {
                0 => Err("it keeps none".to_owned()),
                _ => Ok(()),
            }
        });
    }
    for &owner in &owners {
        cluster[owner].start();
    }
    cluster.wait_whole();
    hints_drain(&cluster);
    all_owners_are_current(&cluster[0], key);
    let get = ["get", key, "--output", "json"];
    // The owners' value, which no stand-in had seen, and theirs: concurrent, so both are there.
    let got = cluster[owners[0]].run(&get).exits(5).json();
    let siblings = got["siblings"].as_array().cloned().unwrap_or_default();
    let mut values: Vec<_> = siblings.iter().map(|it| it["value"].clone()).collect();
    values.sort_by_key(Value::to_string);
    assert_eq!(values, ["before", "kept again"], "{got}");
    let handed_over: u64 = strangers
        .iter()
        .map(|&it| {
            cluster[it]
                .metric("dynakv_hints_handed_over_total", "")
                .unwrap()
        })
        .sum();
    assert!(handed_over >= 3, "{handed_over}");
}

#[test]
fn with_one_owner_left_a_sloppy_write_counts_a_stand_in() {
    let mut cluster = Cluster::start_with(5, QUICK);
    let key = "cart";
    let owners = owners_of(&cluster, key);
    cluster.seal(key, "before");
    for &owner in &owners[1..] {
        cluster[owner].kill();
    }
    let left = owners[0];
    cluster[left].run(&["put", key, "strict"]).exits(4);
    let sloppy = ["put", key, "after", "--sloppy", "--output", "json"];
    let answer = cluster[left].run(&sloppy).exits(0).json();
    assert_eq!(answer["sloppy"], true, "{answer}");
    // The one owner that took it is lost; the stand-in has it.
    cluster[left].kill();
    std::fs::remove_dir_all(cluster[left].data_dir()).unwrap();
    for &owner in &owners[1..] {
        cluster[owner].start();
    }
    for &owner in &owners[1..] {
        cluster[owner].wait_ready();
    }
    cluster[left].start();
    cluster.wait_whole();
    hints_drain(&cluster);
    all_owners_are_current(&cluster[0], key);
    let got = cluster[owners[1]].run(&["get", key]).exits(0);
    assert_eq!(got.text(), "after");
}

/// Hints lie beside the store: they survive its loss.
#[test]
fn a_hint_survives_a_store_that_is_set_aside() {
    let mut cluster = Cluster::start_with(5, QUICK);
    let key = "cart";
    let owners = owners_of(&cluster, key);
    let strangers = others(&cluster, &owners);
    cluster.seal("seal", "the ring");
    for &owner in &owners {
        cluster[owner].kill();
    }
    let sloppy = ["put", key, "kept", "--sloppy"];
    cluster[strangers[0]].run(&sloppy).exits(0);
    for &stranger in &strangers {
        cluster[stranger].kill();
    }
    // One of the two loses its disk, the other one its store.
    std::fs::remove_dir_all(cluster[strangers[1]].data_dir()).unwrap();
    std::fs::remove_dir_all(cluster[strangers[0]].data_dir().join("store")).unwrap();
    cluster[strangers[0]].start();
    for &owner in &owners {
        cluster[owner].start();
    }
    cluster[strangers[1]].start();
    cluster.wait_whole();
    hints_drain(&cluster);
    all_owners_are_current(&cluster[0], key);
    let got = cluster[owners[0]].run(&["get", key]).exits(0);
    assert_eq!(got.text(), "kept");
}

#[test]
fn an_owner_that_missed_writes_is_given_them() {
    const KEYS: usize = 50;
    let mut cluster = Cluster::start_with(3, QUICK);
    cluster.seal("seal", "the ring");
    cluster[2].kill();
    for number in 0..KEYS {
        let key = format!("key-{number}");
        cluster[number % 2].run(&["put", &key, "v"]).exits(0);
    }
    let waiting = |cluster: &Cluster| -> Result<u64, String> {
        let [a, b] = [0, 1].map(|it| cluster[it].metric("dynakv_hints_waiting", ""));
        Ok(a? + b?)
    };
    eventually("a reminder of each key", || match waiting(&cluster)? {
        all if all >= KEYS as u64 => Ok(()),
        few => Err(format!("{few} wait")),
    });
    cluster[2].start();
    cluster.wait_whole();
    hints_drain(&cluster);
    for number in 0..KEYS {
        all_owners_are_current(&cluster[0], &format!("key-{number}"));
    }
    let handed_over: u64 = [0, 1]
        .map(|it| {
            cluster[it]
                .metric("dynakv_hints_handed_over_total", "")
                .unwrap()
        })
        .iter()
        .sum();
    assert!(handed_over >= KEYS as u64, "{handed_over}");
}
