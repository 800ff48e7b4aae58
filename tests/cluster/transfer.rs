//! `export` and `import` on real clusters: everything comes over, nothing that was acknowledged is
//! lost, nothing that was replaced comes back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use dynakv_protocol::causal::{Clock, Dot, Sibling, Value as Stored, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use serde_json::Value;

use crate::harness::{
    Cluster, Command, Finished, Node, block_on, client, client_of_one, eventually, read_all,
    write_all,
};

fn export(node: &Node, more: &[&str]) -> Finished {
    node.run(&[&["export"][..], more].concat())
}

fn import(node: &Node, file: &[u8]) -> Finished {
    node.command(&["import", "--output", "json"])
        .input(file)
        .run()
}

fn lines(file: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(file).expect("an export is UTF-8");
    let lines = text.lines().map(serde_json::from_str);
    lines.map(|line| line.expect("a line of JSON")).collect()
}

/// The entries of an export by key, without what is about the file.
fn entries(file: &[u8]) -> BTreeMap<String, Value> {
    let entries = lines(file).into_iter().filter_map(|line| {
        let entry = line.get("entry")?.clone();
        Some((entry["key"].to_string(), entry))
    });
    entries.collect()
}

fn context_of(finished: &Finished) -> String {
    let document = finished.json();
    document["context"].as_str().expect("a context").to_owned()
}

/// Makes one key of each sort: plain, in conflict, deleted, expiring, of odd bytes.
fn furnish(cluster: &Cluster) {
    let node = &cluster[0];
    node.run(&["put", "plain", "value", "-w", "3"]).exits(0);
    node.run(&["put", "gone", "value", "-w", "3"]).exits(0);
    node.run(&["delete", "gone", "-w", "3"]).exits(0);
    let expiring = ["put", "expiring", "value", "-w", "3", "--ttl", "1h"];
    node.run(&expiring).exits(0);
    node.command(&["put", "odd", "-", "-w", "3"])
        .input([0, 255, 10])
        .run()
        .exits(0);
    let get = ["get", "conflict", "--output", "json"];
    let context = context_of(&node.run(&get).exits(3));
    for (index, value) in [(1, "left"), (2, "right")] {
        let put = ["put", "conflict", value, "-w", "3", "--context", &context];
        cluster[index].run(&put).exits(0);
    }
}

/// Export, and import into a cluster that is new: siblings, clocks, tombstones and expiry come over as
/// they were, a second import changes nothing, and old contexts go on working.
#[test]
fn everything_comes_over_as_it_was() {
    let old = Cluster::start(3);
    furnish(&old);
    let of_one = export(&old[1], &[]).exits(0).says("exported 5 keys");
    let of_all = export(&old[1], &["--all"]).exits(0);
    assert_eq!(entries(&of_one.stdout), entries(&of_all.stdout));
    let file = of_all.stdout;
    let header = lines(&file)[0]["header"].clone();
    assert_eq!(header["nodes"].as_array().unwrap().len(), 3, "{header}");

    Command::new(["import", "--check"])
        .input(file.clone())
        .run()
        .exits(0);
    let new = Cluster::start(3);
    let imported = import(&new[2], &file).exits(0).json();
    assert_eq!(imported["keys"], 5, "{imported}");
    assert_eq!(imported["tombstones"], 1, "{imported}");
    let all_agree = |cluster: &Cluster| {
        eventually("all members hold what was imported", || {
            for node in cluster.nodes() {
                let held = entries(&export(node, &[]).exits(0).stdout);
                if held != entries(&file) {
                    return Err(format!("{}: {held:?}", node.id));
                }
            }
            Ok(())
        });
    };
    all_agree(&new);
    new[0].run(&["get", "conflict", "-r", "3"]).exits(5);
    new[0].run(&["get", "gone"]).exits(3);
    assert_eq!(new[0].run(&["get", "odd"]).exits(0).stdout, [0, 255, 10]);
    import(&new[0], &file).exits(0);
    all_agree(&new);
    // The new cluster writes over what came: nothing of it is in the way.
    new[1].run(&["put", "plain", "newer"]).exits(0);
    let get = ["get", "conflict", "--output", "json"];
    let context = context_of(&new[1].run(&get).exits(5));
    let put = ["put", "conflict", "both", "--context", &context];
    new[1].run(&put).exits(0);
    import(&new[0], &file).exits(0);
    assert_eq!(new[2].run(&["get", "plain"]).exits(0).text(), "newer");
    assert_eq!(new[2].run(&["get", "conflict"]).exits(0).text(), "both");
}

/// An old export, imported into the cluster that went on: what was written since stays, what was
/// deleted since stays deleted, and siblings that were reconciled do not come back.
#[test]
fn an_old_export_takes_nothing_back() {
    let mut cluster = Cluster::start(3);
    furnish(&cluster);
    let old = export(&cluster[0], &["--all"]).exits(0).stdout;
    // A node with a new actor since, and one that went on under its old one.
    cluster[1].kill();
    assert!(cluster[2].terminate().success());
    cluster[1].start();
    cluster[2].start();
    cluster.wait_whole();
    cluster[1].run(&["put", "plain", "since"]).exits(0);
    cluster[2].run(&["delete", "expiring"]).exits(0);
    let get = ["get", "conflict", "--output", "json"];
    let context = context_of(&cluster[1].run(&get).exits(5));
    let put = ["put", "conflict", "both", "--context", &context];
    cluster[2].run(&put).exits(0);
    cluster[2].run(&["put", "fresh", "value"]).exits(0);
    for _ in 0..2 {
        import(&cluster[0], &old).exits(0);
        for node in cluster.nodes() {
            let get = |key: &str| node.run(&["get", key, "-r", "3"]);
            assert_eq!(get("plain").exits(0).text(), "since");
            assert_eq!(get("conflict").exits(0).text(), "both");
            assert_eq!(get("fresh").exits(0).text(), "value");
            get("expiring").exits(3);
            get("gone").exits(3);
        }
    }
    // All nodes go on writing, and what they write is seen.
    for number in 0..30 {
        let node = &cluster[number % 3];
        node.run(&["put", "plain", &number.to_string()]).exits(0);
        let read = cluster[(number + 1) % 3].run(&["get", "plain", "-r", "3"]);
        assert_eq!(read.exits(0).text(), number.to_string());
    }
}

/// Versions that name writes of a node which it never made: the node takes a new actor, so that its own
/// writes are neither taken for those nor refused, with a context or without.
#[test]
fn an_import_that_knows_more_of_a_node_than_the_node_itself() {
    let cluster = Cluster::start(3);
    cluster[0].run(&["put", "key", "value", "-w", "3"]).exits(0);
    let explain = ["explain", "key", "--output", "json"];
    let actors = |explained: &Value| -> Vec<u64> {
        let owners = explained["owners"].as_array().cloned().unwrap_or_default();
        let actors = owners.iter().map(|owner| {
            let actor = owner["actor"].as_str().expect("it is told");
            u64::from_str_radix(actor, 16).expect("it is hexadecimal")
        });
        actors.collect()
    };
    let before = actors(&cluster[0].run(&explain).exits(0).json());
    assert_eq!(before.len(), 3);
    let dots = before.iter().map(|&actor| Dot {
        actor: Actor(actor),
        counter: 1_000_000,
    });
    let clock: Clock = dots.collect();
    let foreign = clock.iter().map(|dot| Sibling {
        dot,
        write_id: WriteId(u128::from(dot.actor.0)),
        timestamp: 1,
        expires_at_ms: None,
        value: Stored::Bytes(format!("foreign {dot}").into()),
    });
    let versions = Versions::from_parts(clock.clone(), foreign.collect::<Vec<_>>());
    let versions = versions.expect("they are well formed").to_bytes();
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        let imported = client.import(&"key".into(), &versions, Some(3)).await;
        assert_eq!(imported.expect("all owners are up").effective_w, 3);
        let again = client.import(&"key".into(), &versions, Some(3)).await;
        again.expect("a second time changes nothing");
    });
    let after = actors(&cluster[0].run(&explain).exits(0).json());
    assert!(before.iter().all(|old| !after.contains(old)), "{after:?}");
    for number in 0..9 {
        let node = &cluster[number % 3];
        let value = format!("own {number}");
        let get = node.run(&["get", "key", "-r", "3", "--output", "json"]);
        let context = context_of(&get);
        let put = ["put", "key", &value, "-w", "3", "--context", &context];
        node.run(&put).exits(0);
        for node in cluster.nodes() {
            let read = node.run(&["get", "key", "-r", "3"]).exits(0);
            assert_eq!(read.text(), value, "through {}", node.id);
        }
        // Also for a key that the import said nothing of.
        node.run(&["put", "other", &value]).exits(0);
        let read = cluster[(number + 1) % 3].run(&["get", "other", "-r", "3"]);
        assert_eq!(read.exits(0).text(), value);
    }
}

/// Twenty thousand keys come over while a writer goes on in both clusters; what was acknowledged before
/// the export is in it, what the new cluster acknowledged stays.
#[test]
fn many_keys_come_over_beside_a_writer() {
    const KEYS: usize = 20_000;
    let old = Cluster::start(3);
    let new = Cluster::start(3);
    let data: BTreeMap<String, String> = (0..KEYS)
        .map(|number| (format!("key-{number}"), format!("value-{number}")))
        .collect();
    block_on(async {
        let client = client(&old.addresses()).await;
        let failed = write_all(&client, data.clone()).await;
        assert!(failed.is_empty(), "{failed:?}");
    });
    // Keys that both clusters know, each with a value of its own.
    let both: Vec<String> = (0..100).map(|number| format!("both-{number}")).collect();
    for (cluster, value) in [(&old, "old"), (&new, "new")] {
        block_on(async {
            let client = client(&cluster.addresses()).await;
            let data = both.iter().map(|key| (key.clone(), value.to_owned()));
            let failed = write_all(&client, data).await;
            assert!(failed.is_empty(), "{failed:?}");
        });
    }
    let beside = |cluster: &Cluster, work: &mut dyn FnMut()| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                block_on(async {
                    let client = client(&cluster.addresses()).await;
                    let mut number = 0;
                    while !done.load(Ordering::Relaxed) {
                        let key = format!("beside-{}", number % 100);
                        let written = client.put(&key, number.to_string()).await;
                        written.expect("writes go on");
                        number += 1;
                    }
                    number
                })
            });
            work();
            done.store(true, Ordering::Relaxed);
            writer.join().expect("the writer ends")
        })
    };
    let mut file = Vec::new();
    let written = beside(&old, &mut || {
        file = export(&old[0], &["--all"]).exits(0).stdout;
    });
    assert!(written > 0, "the writer wrote meanwhile");
    let exported = entries(&file);
    for key in data.keys() {
        assert!(exported.contains_key(&format!("{key:?}")), "{key}");
    }
    let written = beside(&new, &mut || {
        import(&new[1], &file).exits(0);
    });
    assert!(written > 0, "the writer wrote meanwhile");
    block_on(async {
        let client = client(&new.addresses()).await;
        let read = read_all(&client, data.keys().cloned(), 2).await;
        for (key, value) in &data {
            assert_eq!(read[key].join("|"), *value, "{key}");
        }
        for (key, mut values) in read_all(&client, both.clone(), 2).await {
            values.sort();
            assert_eq!(values, ["new", "old"], "{key}");
        }
        // The last of its kind was acknowledged by the new cluster, whatever the old one had there.
        let last = format!("beside-{}", (written - 1) % 100);
        let values = client.get(&last).await.expect("it is there");
        let newest = (written - 1).to_string();
        let has_it = values.siblings.iter().any(|s| s.value == newest);
        assert!(has_it, "{last}: {values:?}");
    });
}

/// Values of 1 MiB, several beside each other, larger than any part of an export.
#[test]
fn large_values_come_over() {
    let old = Cluster::start(1);
    let new = Cluster::start(1);
    let value = |byte: u8| vec![byte; 1024 * 1024];
    block_on(async {
        let client = client_of_one(&old[0]).await;
        let context = client.get("large").await.expect("absent").context;
        for byte in [b'a', 0, 0xff] {
            let put = client.put("large", value(byte)).context(context.clone());
            put.await.expect("it fits");
        }
        client.put("small", "value").await.expect("it fits");
    });
    let file = export(&old[0], &[]).exits(0).stdout;
    import(&new[0], &file).exits(0);
    block_on(async {
        let client = client_of_one(&new[0]).await;
        let fetched = client.get("large").await.expect("it is there");
        let mut values: Vec<_> = fetched.siblings.into_iter().map(|s| s.value).collect();
        values.sort();
        assert!(values == [value(0), value(b'a'), value(0xff)], "all three");
        let fetched = client.get("small").await.expect("it is there");
        assert_eq!(fetched.siblings[0].value, "value");
    });
    let explained = new[0].run(&["explain", "large", "--output", "json"]);
    let explained = explained.exits(0).json();
    assert_eq!(explained["values"].as_array().unwrap().len(), 3);
    assert_eq!(explained["values"][0]["bytes"], 1024 * 1024);
    // A cluster that takes smaller values only refuses the line and says what to do.
    let mut small =
        Node::new(new.root(), "small").with_settings(&[("DYNAKV_VALUE_BYTES_MAX", "524288")]);
    small.start();
    small.wait_ready();
    import(&small, &file).exits(1).says("value_bytes_max");
}

/// A file that was cut off or changed is noticed where that is, and nothing behind it is imported.
#[test]
fn a_damaged_file_is_refused_at_its_line() {
    let old = Cluster::start(1);
    block_on(async {
        let client = client_of_one(&old[0]).await;
        let data = (0..50).map(|number| (format!("key-{number}"), "v".repeat(100)));
        let failed = write_all(&client, data).await;
        assert!(failed.is_empty(), "{failed:?}");
    });
    let file = export(&old[0], &[]).exits(0).stdout;
    let text = String::from_utf8(file.clone()).expect("an export is UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 52);
    let new = Cluster::start(1);
    let cut_off = lines[..20].join("\n");
    import(&new[0], cut_off.as_bytes())
        .exits(1)
        .says("line 20")
        .says("cut off")
        .says("19 keys were imported")
        .says(" export");
    let within = &text[..text.len() / 2];
    import(&new[0], within.as_bytes())
        .exits(1)
        .says("keys were imported");
    let changed = text.replacen("vvv", "vwv", 10);
    import(&new[0], changed.as_bytes())
        .exits(1)
        .says("line 2:")
        .says("checksum")
        .says("0 keys were imported");
    let missing = [&lines[..10], &lines[11..]].concat().join("\n");
    import(&new[0], missing.as_bytes()).exits(1).says("missing");
    let beyond = lines[30].replacen("\"clock\":{\"", "\"clock\":{\"f", 1);
    let beyond = text.replace(lines[30], &beyond);
    import(&new[0], beyond.as_bytes()).exits(1).says("line 31");
    import(&new[0], b"key,value\n").exits(1).says("line 1");
    import(&new[0], b"").exits(1).says("empty");
    Command::new(["import", "--check"])
        .input(within.as_bytes())
        .run()
        .exits(1)
        .says("nothing was sent");
    import(&new[0], &file).exits(0);
    assert_eq!(new[0].stat("/total_keys"), Ok(50));
}

/// With a member down the others are exported, and the exit code tells; an import needs W owners.
#[test]
fn a_member_that_is_down_is_missing_from_the_export() {
    let mut cluster = Cluster::start(3);
    furnish(&cluster);
    let whole = export(&cluster[0], &["--all"]).exits(0).stdout;
    cluster[2].kill();
    let part = export(&cluster[0], &["--all"])
        .exits(6)
        .says("missing: node-3")
        .says("next: ");
    assert_eq!(entries(&part.stdout), entries(&whole));
    import(&cluster[1], &whole).exits(0);
    cluster[1].kill();
    import(&cluster[0], &whole)
        .exits(4)
        .says("line 2")
        .says("next");
    let one = ["import", "-w", "1"];
    cluster[0].command(&one).input(whole).run().exits(0);
}
