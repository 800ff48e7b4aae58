//! How reads are carried out: past an owner that hangs, without bytes that are here already, and with
//! stale owners mended before the answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use rustix::process::Signal;

use crate::harness::{Cluster, block_on, client, client_of_one, read_all, write_all};

fn data(count: usize) -> BTreeMap<String, String> {
    let pair = |number| (format!("key-{number}"), format!("value-{number}"));
    (0..count).map(pair).collect()
}

/// A node that hangs keeps its connections, so nothing tells of it but time. Reads through the others ask
/// one owner more and go on; the node is used again when it comes to itself.
#[test]
fn reads_go_on_while_an_owner_hangs() {
    let mut cluster = Cluster::start(3);
    let expected = data(200);
    let read = |cluster: &Cluster, through: usize| {
        let found = block_on(async {
            let client = client_of_one(&cluster[through]).await;
            read_all(&client, expected.keys().cloned(), 2).await
        });
        for (key, value) in &expected {
            assert_eq!(found[key], [value.as_str()], "{key}");
        }
    };
    block_on(async {
        let client = client(&cluster.addresses()).await;
        assert!(write_all(&client, expected.clone()).await.is_empty());
    });
    read(&cluster, 0);

    cluster[2].process_mut().signal(Signal::STOP);
    for through in [0, 1] {
        let counted = |name| cluster[through].metric(name, "").unwrap();
        let (hedged, won) = (
            counted("dynakv_reads_hedged_total"),
            counted("dynakv_read_hedges_won_total"),
        );
        read(&cluster, through);
        // At least the first that asked it had to ask another one.
        let more = counted("dynakv_reads_hedged_total") - hedged;
        assert!(more >= 1, "{more} reads were hedged");
        let helped = counted("dynakv_read_hedges_won_total") - won;
        assert!((1..=more).contains(&helped), "{helped} of {more}");
        read(&cluster, through);
    }

    cluster[2].process_mut().signal(Signal::CONT);
    cluster[1].process_mut().signal(Signal::STOP);
    read(&cluster, 0);
    cluster[1].process_mut().signal(Signal::CONT);
    read(&cluster, 2);
}

/// Of three copies of a large value one is read here and two are compared by their digests: next to
/// nothing travels between the nodes.
#[test]
fn equal_copies_of_a_large_value_do_not_travel() {
    const READS: usize = 20;
    const VALUE_BYTES: usize = 256 * 1024;
    let cluster = Cluster::start(3);
    let value = |fill: u8| Bytes::from(vec![fill; VALUE_BYTES]);
    block_on(async {
        let client = client(&cluster.addresses()).await;
        client.put("large", value(7)).w(3).await.unwrap();
    });
    let sum = |name| -> f64 {
        let nodes = cluster.nodes().iter();
        nodes
            .map(|node| node.metric(name, "").unwrap() as f64)
            .sum()
    };
    let before = sum("dynakv_peer_sent_bytes_total");
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        for _ in 0..READS {
            let fetched = client.get("large").r(3).await.unwrap();
            assert_eq!(fetched.value().unwrap(), Some(&value(7)));
        }
    });
    let travelled = sum("dynakv_peer_sent_bytes_total") - before;
    // Two copies for each byte of the answer if they all travelled.
    let copies = travelled / (READS * VALUE_BYTES) as f64;
    println!("{copies:.5} copies of the value travelled between nodes for each read");
    assert!(copies < 0.05, "{copies}");
    assert!(sum("dynakv_read_digests_total") >= 2.0 * READS as f64);
    assert_eq!(sum("dynakv_read_digest_misses_total"), 0.0);
}

/// An owner that missed a write has it once a read with `--repair-first` is answered, large or small.
#[test]
fn a_stale_owner_is_mended_before_the_answer() {
    const KEYS: usize = 60;
    let mut cluster = Cluster::start(3);
    let value = |number: usize, what: &str| match number % 2 {
        0 => Bytes::from(format!("{what}-{number}")),
        _ => Bytes::from(format!("{what}-{number}").repeat(2_000)),
    };
    let key = |number: usize| format!("key-{number}");
    block_on(async {
        let client = client(&cluster.addresses()).await;
        for number in 0..KEYS {
            let put = client.put(key(number), value(number, "old")).w(3);
            put.await.unwrap();
        }
    });
    cluster[2].kill();
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        for number in 0..KEYS {
            client.put(key(number), value(number, "new")).await.unwrap();
        }
    });
    cluster[2].start();
    // At once, before it is mended anyway.
    cluster[2].wait_ready();
    block_on(async {
        let reader = client_of_one(&cluster[0]).await;
        let stale = client_of_one(&cluster[2]).await;
        for number in 1..KEYS {
            let fetched = reader.get(key(number)).r(3).repair_first().await.unwrap();
            assert_eq!(fetched.value().unwrap(), Some(&value(number, "new")));
            // Its own copy, and nobody else's.
            let own = stale.get(key(number)).r(1).await.unwrap();
            assert_eq!(
                own.value().unwrap(),
                Some(&value(number, "new")),
                "{number}"
            );
        }
    });
    let mended = cluster[0].metric("dynakv_read_repairs_total", "").unwrap();
    println!("{mended} keys were mended by reads, the others before");
    let got = cluster[1]
        .run(&["get", "key-0", "-r", "3", "--repair-first"])
        .exits(0);
    assert_eq!(got.text(), "new-0");
    let own = cluster[2].run(&["get", "key-0", "-r", "1"]).exits(0);
    assert_eq!(own.text(), "new-0");
}
