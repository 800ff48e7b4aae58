//! Concurrent writes are kept side by side; writes that follow one another are not.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Dot, context};
use serde_json::Value;

use crate::harness::{Cluster, Finished, block_on, client_of_one};

fn context_of(finished: &Finished) -> String {
    let document = finished.json();
    document["context"]
        .as_str()
        .unwrap_or_else(|| panic!("{document}"))
        .to_owned()
}

fn values_of(finished: &Finished) -> BTreeSet<String> {
    let document = finished.json();
    let siblings = document["siblings"].as_array().cloned().unwrap_or_default();
    let texts = siblings
        .iter()
        .filter_map(|sibling| sibling["value"].as_str());
    texts.map(str::to_owned).collect()
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Two writers that read the same state and then write through different nodes conflict: both values
/// come back, with exit code 5 and a context. A write with that context settles it, for all nodes.
#[test]
fn writers_that_saw_the_same_state_become_siblings_until_reconciled() {
    let cluster = Cluster::start(3);
    let json = ["--output", "json"];
    let get = |node: usize| cluster[node].run(&[&["get", "cart", "-r", "3"][..], &json].concat());

    cluster[0].run(&["put", "cart", "empty"]).exits(0);
    let context = context_of(&get(0).exits(0));
    assert!(!context.starts_with('-'), "{context}");
    cluster[1]
        .run(&["put", "cart", "milk", "--context", &context])
        .exits(0);
    cluster[2]
        .run(&["put", "cart", "bread", "--context", &context])
        .exits(0);

    let plain = cluster[0].run(&["get", "cart", "-r", "3"]).exits(5);
    assert!(plain.stdout.is_empty(), "{plain:?}");
    let plain = plain.says("\"milk\"").says("\"bread\"").says("context: ");
    let server = cluster[0].address();
    plain.says(&format!(
        "next: dynakv --server {server} put cart MERGED --context "
    ));
    for node in 0..3 {
        assert_eq!(values_of(&get(node).exits(5)), set(&["bread", "milk"]));
    }
    let conflicts: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| node.stat("/conflict_keys"))
        .collect();
    assert!(conflicts.contains(&Ok(1)), "{conflicts:?}");

    let context = context_of(&get(1).exits(5));
    let merged = ["put", "cart", "milk and bread", "--context", &context];
    cluster[2]
        .run(&[&merged[..], &["-w", "3"]].concat())
        .exits(0);
    for node in 0..3 {
        assert_eq!(values_of(&get(node).exits(0)), set(&["milk and bread"]));
        assert_eq!(cluster[node].stat("/total_versions"), Ok(1));
        assert_eq!(cluster[node].stat("/conflict_keys"), Ok(0));
    }
}

/// A put that did not see a delete survives it, and a delete that did not see a put leaves that.
#[test]
fn a_put_beside_a_delete_survives() {
    let cluster = Cluster::start(3);
    let get = |node: usize| cluster[node].run(&["get", "k", "-r", "3", "--output", "json"]);
    cluster[0].run(&["put", "k", "old", "-w", "3"]).exits(0);
    let context = context_of(&get(0).exits(0));
    cluster[1]
        .run(&["put", "k", "new", "--context", &context])
        .exits(0);
    cluster[2]
        .run(&["delete", "k", "--context", &context])
        .exits(0);
    for node in 0..3 {
        assert_eq!(values_of(&get(node).exits(0)), set(&["new"]));
    }
    let context = context_of(&get(0).exits(0));
    cluster[1]
        .run(&["delete", "k", "--context", &context])
        .exits(0);
    let gone = get(2).exits(3);
    assert_eq!(gone.json()["found"], Value::Bool(false));
    assert!(
        !context_of(&gone).is_empty(),
        "an absent key has a context, too"
    );
}

/// Blind writes one after the other replace each other, through whichever nodes they come, also when
/// reads (and the repair after them) go on in between.
#[test]
fn blind_writes_in_a_row_leave_one_version() {
    let cluster = Cluster::start(3);
    for number in 0..100 {
        let node = &cluster[number % 3];
        node.run(&["put", "counter", &number.to_string()]).exits(0);
        if number % 10 == 9 {
            for node in cluster.nodes() {
                let got = node.run(&["get", "counter"]).exits(0);
                assert_eq!(got.text(), number.to_string(), "through {}", node.id);
            }
        }
    }
    for node in cluster.nodes() {
        let got = node
            .run(&["get", "counter", "-r", "3", "--output", "json"])
            .exits(0);
        assert_eq!(values_of(&got), set(&["99"]));
        assert_eq!(node.stat("/total_keys"), Ok(1));
        assert_eq!(node.stat("/total_versions"), Ok(1));
        assert_eq!(node.stat("/conflict_keys"), Ok(0));
    }
}

/// A context is worth nothing for another key, and one that was tampered with is refused: otherwise it
/// would erase what nobody saw.
#[test]
fn a_context_is_bound_to_its_key() {
    let cluster = Cluster::start(1);
    let node = &cluster[0];
    node.run(&["put", "one", "value"]).exits(0);
    node.run(&["put", "two", "value"]).exits(0);
    let context = context_of(&node.run(&["get", "one", "--output", "json"]).exits(0));
    node.run(&["put", "two", "other", "--context", &context])
        .exits(2)
        .says("context");
    let flipped: String = {
        let mut bytes = context.clone().into_bytes();
        let last = bytes.len() - 2;
        bytes[last] = if bytes[last] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    node.run(&["put", "one", "other", "--context", &flipped])
        .exits(2);
    for key in ["one", "two"] {
        assert_eq!(node.run(&["get", key]).exits(0).text(), "value");
    }
}

/// A context that names what another node's actor can never have counted would make all that this actor writes
/// from then on look as if it had been seen, and be dropped.
#[test]
fn a_context_that_no_node_can_have_given_is_refused_by_all() {
    let cluster = Cluster::start(3);
    cluster[0].run(&["put", "key", "v1", "-w", "3"]).exits(0);
    let json = ["--output", "json"];
    let got = cluster[0]
        .run(&[&["get", "key"][..], &json].concat())
        .json();
    let dot = got["siblings"][0]["dot"].as_str().unwrap().to_owned();
    let actor = dot.split_once(':').unwrap().0;
    let actor = Actor(u64::from_str_radix(actor, 16).unwrap());
    let cluster_id = block_on(async {
        let ring = client_of_one(&cluster[0]).await.ring().await;
        ring.unwrap().document.cluster_id
    });
    let counter = 1 << 63;
    let forged = [Dot { actor, counter }].into_iter().collect();
    let forged = context::seal(cluster_id, b"key", &forged);
    let forged = BASE64_URL_SAFE_NO_PAD.encode(&forged);
    for node in cluster.nodes() {
        let put = node.run(&["put", "key", "forged", "--context", &forged]);
        assert_ne!(put.code, Some(0), "{put:?}");
    }
    for (node, value) in [(0, "v2"), (1, "v3"), (2, "v4")] {
        cluster[node].run(&["put", "key", value]).exits(0);
        for node in cluster.nodes() {
            assert_eq!(node.run(&["get", "key", "-r", "3"]).exits(0).text(), value);
        }
    }
}
