//! Copies that differ become the same by themselves.

use crate::harness::{Cluster, Node, eventually};

const KEYS: usize = 200;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Waits until a node's own copy of each key lacks nothing that another one has.
#[track_caller]
fn is_current(node: &Node) {
    for number in 0..KEYS {
        let what = format!("{} to be current in {}", node.id, key(number));
        eventually(&what, || {
            let explained = node.run(&["explain", &key(number), "--output", "json"]);
            let explained = explained.json();
            let owners = explained["owners"].as_array().cloned().unwrap_or_default();
            let own = owners.iter().find(|owner| owner["id"] == *node.id);
            match own.is_some_and(|own| own["standing"] == "current") {
                true => Ok(()),
                false => Err(explained.to_string()),
            }
        });
    }
}

#[test]
fn a_node_that_missed_writes_gets_them_without_a_read() {
    let mut cluster = Cluster::start(3);
    for number in 0..KEYS / 2 {
        cluster[0].run(&["put", &key(number), "old"]).exits(0);
    }
    cluster[2].kill();
    for number in 0..KEYS {
        let value = format!("new-{number}");
        cluster[number % 2]
            .run(&["put", &key(number), &value])
            .exits(0);
    }
    cluster[0].run(&["delete", &key(0)]).exits(0);
    cluster[0].run(&["put", &key(0), "new-0"]).exits(0);
    cluster[2].start();
    cluster[2].wait_ready();
    is_current(&cluster[2]);
    // Nothing that a read could have mended is left: its own copies serve.
    cluster[0].kill();
    cluster[1].kill();
    for number in 0..KEYS {
        let got = cluster[2].run(&["get", &key(number), "-r", "1"]).exits(0);
        assert_eq!(got.text(), format!("new-{number}"));
    }
}
