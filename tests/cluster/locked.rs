//! Keys whose versions are beyond a limit: nobody can make one, and one that an earlier version of dynakv stored is
//! named, keeps nothing else from its work, and is mended by an operator's word.

use bytes::Bytes;
use dynakv_client::{Context, ErrorCode};
use dynakv_protocol::causal::{Clock, Dot, Sibling, Value, Versions, context};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::limits::{
    CLOCK_ENTRIES_IMPORTED_MAX, CLOCK_ENTRIES_MAX, SIBLINGS_DECODED_MAX, SIBLINGS_IMPORTED_MAX,
    SIBLINGS_MAX,
};
use dynakv_protocol::{Actor, ClusterId, WriteId};
use dynakv_storage::{DiskOptions, DiskStore, Footprint, Mutation, Store};

use crate::harness::{Cluster, Node, block_on, client_of_one, eventually};

/// Nobody compares by itself for a long time, and a node that was killed is known to be dead soon.
const LEFT_ALONE: &[(&str, &str)] = &[
    ("DYNAKV_GOSSIP_INTERVAL", "200ms"),
    ("DYNAKV_SUSPECT_AFTER", "2s"),
    ("DYNAKV_DEAD_AFTER", "4s"),
    ("DYNAKV_ANTI_ENTROPY_INTERVAL", "1h"),
];

fn clock(actors: std::ops::RangeInclusive<u64>) -> Clock {
    let dot = |actor| Dot {
        actor: Actor(actor),
        counter: 1,
    };
    actors.map(dot).collect()
}

/// More siblings than any decoder takes, as versions before the limits of writers could merge them; the newest are those
/// with the highest counters.
fn too_many_siblings(count: u64) -> Versions {
    let sibling = |counter| Sibling {
        dot: Dot {
            actor: Actor(9),
            counter,
        },
        write_id: WriteId(counter.into()),
        timestamp: counter << 16,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from(counter.to_string())),
    };
    let clock = [Dot {
        actor: Actor(9),
        counter: count,
    }];
    Versions::from_parts(clock.into_iter().collect(), (1..=count).map(sibling)).unwrap()
}

/// Puts a state into the store of a node that does not run.
fn plant(node: &Node, key: &'static str, versions: &Versions) {
    let store = DiskStore::open(node.data_dir().join("store"), DiskOptions::default()).unwrap();
    let encoded = versions.to_bytes();
    let stored = store.get(key.as_bytes()).unwrap();
    let before = stored.map(|stored| {
        let known = Versions::from_bytes_of_any_size(&stored).unwrap();
        Footprint::of_encoded(key.as_bytes(), &known, &stored)
    });
    let mutation = Mutation {
        key: Bytes::from_static(key.as_bytes()),
        before: before.unwrap_or_default(),
        after: Footprint::of_encoded(key.as_bytes(), versions, &encoded),
        versions: encoded,
    };
    store.apply(&[mutation]).unwrap();
    store.sync().unwrap();
}

fn verdict(node: &Node) -> Result<String, String> {
    let status = node.run(&["status", "--output", "json"]);
    let verdict = status.json()["verdict"].as_str().map(str::to_owned);
    verdict.ok_or(format!("{status:?}"))
}

const COMMAND: &str = " repair --key locked --accept-loss";

#[test]
fn a_key_that_an_earlier_version_locked_is_named_passed_over_and_mended() {
    let mut cluster = Cluster::start_with(3, LEFT_ALONE);
    cluster[0]
        .run(&["put", "locked", "value", "-w", "3"])
        .exits(0);
    cluster[0]
        .run(&["put", "other", "value", "-w", "3"])
        .exits(0);
    for node in 0..3 {
        cluster[node].kill();
    }
    // The copies differ, and none can be decoded.
    let most = SIBLINGS_DECODED_MAX as u64;
    for (node, count) in [(0, most + 1), (1, most + 1), (2, most + 5)] {
        plant(&cluster[node], "locked", &too_many_siblings(count));
    }
    for node in 0..3 {
        cluster[node].start();
    }
    cluster.wait_healthy();

    // Whoever asks is told what is wrong and what mends it; nothing is served, and nothing is damaged.
    let get = cluster[0].run(&["get", "locked"]).exits(1);
    assert!(get.stderr.contains("the key is locked"), "{get:?}");
    assert!(get.stderr.contains("dynakv repair --key"), "{get:?}");
    let put = cluster[0].run(&["put", "locked", "new"]);
    assert_ne!(put.code, Some(0), "{put:?}");
    assert_eq!(cluster[0].run(&["get", "other"]).exits(0).text(), "value");
    // Whoever met it knows.
    eventually("some node to say that a key is locked", || {
        let healthy = cluster.nodes().iter().map(verdict);
        let healthy: Vec<_> = healthy.collect();
        match healthy.iter().any(|it| it.as_deref() == Ok("degraded")) {
            true => Ok(()),
            false => Err(format!("{healthy:?}")),
        }
    });
    let knows = |node: &&Node| verdict(node).as_deref() == Ok("degraded");
    let knows = cluster.nodes().iter().find(knows).expect("one does");
    knows.run(&["status"]).exits(6).says(COMMAND);
    eventually("its metric to say so", || {
        match knows.metric("dynakv_locked_keys", "")? {
            1 => Ok(()),
            other => Err(format!("{other}")),
        }
    });

    // An export has all the rest, and says what it has not.
    let export = cluster[1].run(&["export", "--all"]).exits(6);
    assert!(
        export.stderr.contains("locked and left out: locked"),
        "{export:?}"
    );
    assert!(export.stderr.contains(COMMAND), "{export:?}");
    let lines = String::from_utf8(export.stdout).unwrap();
    assert!(
        lines.contains(r#"{"entry":{"key":"other""#) && lines.contains("trailer"),
        "{lines}"
    );

    // A repair ends, and names it.
    let repaired = cluster[0]
        .run(&["repair", "--output", "json"])
        .exits(6)
        .json();
    assert_eq!(repaired["state"], "done", "{repaired}");
    assert_eq!(repaired["pairs_failed"], 0, "{repaired}");
    assert!(repaired["keys_locked"].as_u64() >= Some(1), "{repaired}");

    // It is mended with all of its owners, by word, and only where it is locked.
    let unlock = ["repair", "--key", "locked", "--accept-loss", "--yes"];
    let unsaid = cluster[0].run(&unlock[..4]).exits(2);
    assert!(unsaid.stderr.contains("has to be confirmed"), "{unsaid:?}");
    let other = ["repair", "--key", "other", "--accept-loss", "--yes"];
    let other = cluster[0].run(&other).exits(2);
    assert!(other.stderr.contains("is not locked"), "{other:?}");
    cluster[2].kill();
    eventually("a node that was killed not to count as alive", || {
        let refused = cluster[0].run(&unlock);
        match refused.code == Some(4) && refused.stderr.contains("node-3") {
            true => Ok(()),
            false => Err(format!("{refused:?}")),
        }
    });
    cluster[2].start();
    cluster.wait_whole();
    let mended = eventually("the key to be mended", || {
        let mended =
            cluster[1].run(&[&unlock[..], &["--output", "json", "--timeout", "30s"]].concat());
        match mended.code {
            Some(0) => Ok(mended.json()),
            _ => Err(format!("{mended:?}")),
        }
    });
    assert_eq!(mended["owners"], 3, "{mended}");
    assert_eq!(mended["values"], SIBLINGS_MAX as u64, "{mended}");
    let given_up = most + 5 - SIBLINGS_MAX as u64;
    assert_eq!(mended["values_given_up"], given_up, "{mended}");

    // It is a key like any other again, at all nodes, after restarts too.
    let newest = (most + 5).to_string();
    for node in 0..3 {
        let get = cluster[node]
            .run(&["get", "locked", "-r", "3", "--output", "json"])
            .exits(5);
        assert!(
            get.text().contains(&newest),
            "the newest value stays: {get:?}"
        );
    }
    cluster[0]
        .run(&["put", "locked", "new", "-w", "3"])
        .exits(0);
    for node in 0..3 {
        let get = cluster[node].run(&["get", "locked", "-r", "3"]).exits(0);
        assert_eq!(get.text(), "new");
    }
    cluster[0].run(&["export", "--all"]).exits(0);
    cluster[0].run(&["repair"]).exits(0);
    eventually("all nodes to be content", || {
        for node in cluster.nodes() {
            let verdict = verdict(node)?;
            if verdict != "healthy" {
                return Err(format!("{}: {verdict}", node.id));
            }
        }
        Ok(())
    });
}

/// A copy that cannot be taken over keeps no node from being whole again in all else.
#[test]
fn a_locked_key_does_not_keep_a_node_from_being_rebuilt() {
    let mut cluster = Cluster::start_with(3, LEFT_ALONE);
    for number in 0..50 {
        cluster[0]
            .run(&["put", &format!("key-{number}"), "value", "-w", "3"])
            .exits(0);
    }
    cluster[0]
        .run(&["put", "locked", "value", "-w", "3"])
        .exits(0);
    for node in 0..3 {
        cluster[node].kill();
    }
    let locked = too_many_siblings(SIBLINGS_DECODED_MAX as u64 + 1);
    for node in 0..2 {
        plant(&cluster[node], "locked", &locked);
    }
    // It has lost everything but its name.
    let conf = cluster[2].data_dir().join("store/sled/conf");
    std::fs::write(conf, b"this is no configuration").unwrap();
    for node in 0..3 {
        cluster[node].start();
    }
    eventually("the node to be whole again", || {
        match cluster[2].metric("dynakv_rebuilding_segments", "")? {
            0 => Ok(()),
            left => Err(format!("{left} segments left")),
        }
    });
    for number in 0..50 {
        let get = ["get", &format!("key-{number}"), "-r", "3"];
        assert_eq!(cluster[2].run(&get).exits(0).text(), "value");
    }
    // What it could not take over is not "absent", not even for who asks it alone.
    let get = cluster[2].run(&["get", "locked", "-r", "1"]);
    assert_eq!(get.code, Some(1), "{get:?}");
    cluster[2].run(&["status"]).exits(6).says(COMMAND);
    let unlock = [
        "repair",
        "--key",
        "locked",
        "--accept-loss",
        "--yes",
        "--timeout",
        "30s",
    ];
    cluster[2].run(&unlock).exits(0);
    cluster[2]
        .run(&["put", "locked", "new", "-w", "3"])
        .exits(0);
    assert_eq!(
        cluster[2]
            .run(&["get", "locked", "-r", "1"])
            .exits(0)
            .text(),
        "new"
    );
}

/// The ways in which clients made such keys: an import onto an acknowledged key, and a context of their own making.
#[test]
fn no_client_can_lock_a_key() {
    let cluster = Cluster::start_with(3, LEFT_ALONE);
    let node = &cluster[0];
    node.run(&["put", "k", "value", "-w", "3"]).exits(0);
    block_on(async {
        // Every node stands in its clock: with a context any owner writes it.
        for node in cluster.nodes() {
            let client = client_of_one(node).await;
            let context = client.get("k").await.unwrap().context;
            let put = client.put("k", "value").context(context);
            put.w(3).await.unwrap();
        }
        let client = client_of_one(node).await;
        let key = Bytes::from_static(b"k");
        let versions = |clock: Clock| Versions::from_parts(clock, []).unwrap().to_bytes();
        // What no cluster comes to is refused.
        let most = CLOCK_ENTRIES_IMPORTED_MAX as u64;
        let refused = client
            .import(&key, &versions(clock(1..=most + 1)), Some(3))
            .await;
        assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::TooLarge));
        let refused = client
            .import(
                &key,
                &too_many_siblings(SIBLINGS_IMPORTED_MAX as u64 + 1).to_bytes(),
                Some(3),
            )
            .await;
        assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::TooLarge));
        // A forged context is, with as many entries as a decoder takes.
        let cluster_id = ClusterId(client.ring().await.unwrap().document.cluster_id.0);
        let forged = context::seal(cluster_id, b"k", &clock(1..=CLOCK_ENTRIES_MAX as u64));
        let refused = client
            .put("k", "forged")
            .context(Context::from(forged))
            .await;
        let error = refused.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::TooLarge));
        assert!(error.to_string().contains("dynakv repair --key"), "{error}");
        assert_eq!(client.get("k").r(3).await.unwrap().siblings.len(), 1);
        assert_eq!(verdict(node).as_deref(), Ok("healthy"));
        // What a cluster can come to is taken, also several times, and the key is read as before.
        for import in 0..3 {
            let from = 1 + (1 + import) * (1 << 20);
            let imported = versions(clock(from..=from + most - 1));
            client.import(&key, &imported, Some(3)).await.unwrap();
            let read = client.get("k").r(3).await.unwrap();
            assert_eq!(read.siblings[0].value, "value");
            // Its context works: nothing is added that does not stand there.
            client
                .put("k", "value")
                .context(read.context)
                .w(3)
                .await
                .unwrap();
        }
    });
    assert_eq!(
        verdict(node).as_deref(),
        Ok("degraded"),
        "new actors cannot write it"
    );
    let unlock = [
        "repair",
        "--key",
        "k",
        "--accept-loss",
        "--yes",
        "--output",
        "json",
    ];
    let mended = node.run(&unlock).exits(0).json();
    assert_eq!(mended["values_given_up"], 0, "{mended}");
    assert_eq!(mended["clock_entries"], 1, "{mended}");
    for node in cluster.nodes() {
        assert_eq!(node.run(&["get", "k", "-r", "3"]).exits(0).text(), "value");
        assert_eq!(verdict(node).as_deref(), Ok("healthy"));
    }
}
