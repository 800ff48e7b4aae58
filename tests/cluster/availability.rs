//! One node down: nothing fails. Two down: a clear refusal, and nothing lost.

use std::collections::BTreeMap;

use crate::harness::{
    Cluster, Node, QUICK, block_on, client, client_of_one, eventually, read_all, write_all,
};
use crate::observability::metric;

type Data = BTreeMap<String, String>;

fn data(prefix: &str, count: usize) -> Data {
    (0..count)
        .map(|number| {
            (
                format!("{prefix}-{number}"),
                format!("value of {prefix}-{number}"),
            )
        })
        .collect()
}

#[track_caller]
fn assert_written(failures: &[(String, dynakv_client::Error)]) {
    assert!(
        failures.is_empty(),
        "{} puts failed: {:?}",
        failures.len(),
        failures.first()
    );
}

/// Every key has exactly its value, through this node alone and with `r` owners asked.
#[track_caller]
fn assert_readable(node: &Node, expected: &Data, r: u8) {
    let found = block_on(async {
        let client = client_of_one(node).await;
        read_all(&client, expected.keys().cloned(), r).await
    });
    for (key, value) in expected {
        assert_eq!(
            found[key],
            [value.as_str()],
            "{key} through {} with r = {r}",
            node.id
        );
    }
}

/// The metrics count the members as alive, suspected and dead.
#[track_caller]
fn assert_members_counted(node: &Node, expected: [f64; 3]) {
    eventually(&format!("{} counts {expected:?}", node.id), || {
        let text = node.page("/metrics")?.body;
        let counted = ["alive", "suspected", "dead"].map(|state| {
            let label = format!("state=\"{state}\"");
            metric(&text, "dynakv_members", &label).unwrap_or(f64::NAN)
        });
        match counted == expected {
            true => Ok(()),
            false => Err(format!("{counted:?}")),
        }
    });
}

/// With one of three nodes killed, every put and every get through the others succeeds from the first
/// moment on, before anybody suspects anything. `status` tells of the loss, as suspected, then dead. Once
/// the node is back, reading through it mends it, and then it can stand in for both others.
#[test]
fn one_node_down_fails_no_request_and_comes_back() {
    let mut cluster = Cluster::start_with(3, QUICK);
    let mut expected = data("before", 100);
    block_on(async {
        let client = client(&cluster.addresses()).await;
        assert_written(&write_all(&client, expected.clone()).await);
    });

    cluster[2].kill();
    let meanwhile = data("meanwhile", 100);
    block_on(async {
        let through_first = client_of_one(&cluster[0]).await;
        let through_second = client_of_one(&cluster[1]).await;
        // Half of it replaces what the dead node has.
        let replaced = expected
            .keys()
            .take(50)
            .map(|key| (key.clone(), "newer".to_owned()));
        let replaced: Data = replaced.collect();
        assert_written(&write_all(&through_first, meanwhile.clone()).await);
        assert_written(&write_all(&through_second, replaced.clone()).await);
        expected.extend(meanwhile);
        expected.extend(replaced);
    });
    assert_readable(&cluster[0], &expected, 2);
    assert_readable(&cluster[1], &expected, 2);

    for state in ["suspected", "dead"] {
        eventually(&format!("node-3 is {state}"), || {
            let (opinion, exit) = cluster[0].opinion_of("node-3")?;
            if opinion == state && exit == Some(6) {
                Ok(())
            } else {
                Err(format!("{opinion}, exit {exit:?}"))
            }
        });
    }
    assert_eq!(cluster[0].stat("/gossip/known_nodes"), Ok(3));
    assert_eq!(cluster[0].stat("/gossip/alive_nodes"), Ok(2));
    assert_members_counted(&cluster[0], [2.0, 0.0, 1.0]);
    assert_readable(&cluster[1], &expected, 2);

    cluster[2].start();
    cluster.wait_whole();
    for node in cluster.nodes() {
        eventually(&format!("{} finds the cluster healthy", node.id), || {
            let finished = node.run(&["status"]);
            if finished.code == Some(0) {
                Ok(())
            } else {
                Err(format!("{finished:?}"))
            }
        });
    }
    assert_members_counted(&cluster[0], [3.0, 0.0, 0.0]);
    assert_members_counted(&cluster[2], [3.0, 0.0, 0.0]);
    assert_readable(&cluster[2], &expected, 2);
    for pointer in ["/total_keys", "/total_versions"] {
        eventually("node-3 is up to date", || {
            let (own, others) = (cluster[2].stat(pointer)?, cluster[0].stat(pointer)?);
            let all = expected.len() as u64;
            if own == others && own == all {
                Ok(())
            } else {
                Err(format!("{own}, {others} of {all}"))
            }
        });
    }
    cluster[0].kill();
    cluster[1].kill();
    assert_readable(&cluster[2], &expected, 1);
}

/// With two of three nodes killed, a put that needs two owners is refused, says how many it needs and
/// has, and writes nothing. One that asks for a single owner goes through. Nothing that was acknowledged,
/// by two or by one, is missing when all are back.
#[test]
fn two_nodes_down_refuse_clearly_and_lose_nothing() {
    let mut cluster = Cluster::start_with(3, QUICK);
    let before = data("before", 60);
    block_on(async {
        let client = client(&cluster.addresses()).await;
        assert_written(&write_all(&client, before.clone()).await);
    });
    eventually("node-1 has them all", || {
        match cluster[0].stat("/total_keys")? {
            60 => Ok(()),
            fewer => Err(format!("{fewer}")),
        }
    });
    cluster[1].kill();
    cluster[2].kill();
    let survivor = &cluster[0];

    for key in ["a", "b", "c", "d", "e", "f"] {
        let refused = survivor.run(&["put", key, "value"]).exits(4);
        refused
            .says("1 of 2 replicas")
            .says("nothing was written")
            .says("next: dynakv");
        let json = survivor
            .run(&["put", key, "value", "--output", "json"])
            .exits(4);
        let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
        assert_eq!(error["error"]["code"], "quorum_unavailable", "{json:?}");
        assert_eq!(error["error"]["maybe_applied"], false, "{json:?}");
        survivor.run(&["get", key, "-r", "1"]).exits(3);
        survivor.run(&["get", key]).exits(4);
    }
    assert_eq!(survivor.stat("/total_keys"), Ok(60), "nothing was written");
    assert_readable(survivor, &before, 1);

    let alone = data("alone", 20);
    for (key, value) in &alone {
        // The context of a read makes it a write that any owner may take.
        let read = survivor
            .run(&["get", key, "-r", "1", "--output", "json"])
            .exits(3)
            .json();
        let context = read["context"].as_str().unwrap();
        survivor
            .run(&["put", key, value, "-w", "1", "--context", context])
            .exits(0);
    }
    assert_readable(survivor, &alone, 1);
    eventually("node-1 sees that no quorum is left", || {
        let finished = survivor.run(&["status"]);
        if finished.code == Some(4) {
            Ok(())
        } else {
            Err(format!("{finished:?}"))
        }
    });

    cluster[1].start();
    cluster[2].start();
    cluster.wait_whole();
    for node in cluster.nodes() {
        assert_readable(node, &before, 2);
        // Acknowledged by one owner: three must be asked to be sure of it.
        assert_readable(node, &alone, 3);
    }
}

/// A blind `-w 1` write through the only node left is taken for every key, whoever owns it first.
#[test]
fn a_single_node_left_takes_blind_writes_that_ask_for_one_owner() {
    let mut cluster = Cluster::start(3);
    let first = cluster[0].run(&["put", "sealed", "value"]);
    first.exits(0);
    cluster[1].kill();
    cluster[2].kill();
    let refused: Vec<String> = (0..20)
        .map(|number| format!("alone-{number}"))
        .map(|key| cluster[0].run(&["put", &key, "value", "-w", "1"]))
        .filter(|put| put.code != Some(0))
        .map(|put| put.stderr)
        .collect();
    assert!(
        refused.is_empty(),
        "{} of 20: {}",
        refused.len(),
        refused[0]
    );
}
