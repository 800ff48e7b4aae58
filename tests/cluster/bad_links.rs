//! Links that carry damage, nothing at all, or everything late, between real processes under load.

use std::time::Duration;

use crate::harness::{
    CLIENTS, Cluster, MENDED_OFTEN, Proxy, Rule, all_is_well, eventually, under_load,
};

const SEED: u64 = 20_261_126;

/// Bits are flipped between two nodes, and between one of them and its clients. The receiver closes the
/// connection and counts it, a new one is made, nothing is served that was not written so, and nothing
/// that was acknowledged is lost.
#[test]
fn flipped_bits_on_the_wire_are_noticed_and_never_served() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, MENDED_OFTEN);
    let links = [("node-1", "node-2"), ("node-1", CLIENTS)];
    let load = under_load(&mut cluster, |cluster, load| {
        let connections = || {
            let flows = [("node-1", "node-2"), ("node-2", "node-1")];
            flows
                .map(|(from, to)| proxy.count(from, to).connections)
                .iter()
                .sum::<u64>()
        };
        let before = connections();
        for (one, other) in links {
            proxy.between(&[one], &[other], Rule::Corrupt { one_in: 50 });
        }
        load.goes_on(1000);
        for (from, to) in links.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            let what = format!("frames from {from} to {to} to be damaged");
            eventually(&what, || match proxy.count(from, to).corrupted_frames {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            });
        }
        for node in [0, 1] {
            let node = &cluster[node];
            eventually(
                &format!("{} to count damaged frames", node.id),
                || match node.metric("dynakv_malformed_frames_total", "")? {
                    0 => Err("none".to_owned()),
                    _ => Ok(()),
                },
            );
        }
        proxy.heal();
        for node in cluster.nodes() {
            node.has_links(2);
        }
        // One that waits for the rest of a frame whose length was changed is given up later.
        eventually("connections to be made anew", || match connections() {
            now if now > before => Ok(()),
            now => Err(format!("{now} in all")),
        });
        load.goes_on(500);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 2);
    assert_eq!(
        cluster[2].metric("dynakv_malformed_frames_total", ""),
        Ok(0),
        "nobody damaged what node-3 was sent"
    );
    all_is_well(&mut cluster);
}

/// Two nodes lose each other without a word, and one of them its clients: connections stay, and nothing
/// comes. The link is given up, what waits for it goes another way, and no request fails.
#[test]
fn half_open_links_fail_no_request() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, MENDED_OFTEN);
    let load = under_load(&mut cluster, |cluster, load| {
        proxy.between(&["node-1"], &["node-2", CLIENTS], Rule::Swallow);
        load.goes_on(500);
        for node in [0, 1] {
            cluster[node].has_links(1);
        }
        load.goes_on(500);
        proxy.heal();
        cluster[0].has_links(2);
        load.goes_on(500);
    });
    load.failed_nowhere();
    for (from, to) in [("node-1", "node-2"), (CLIENTS, "node-1")] {
        let count = proxy.count(from, to);
        assert!(count.swallowed_bytes > 0, "{from}, {to}: {count:?}");
    }
    load.is_all_there(&cluster, 2);
    all_is_well(&mut cluster);
}

/// One node is far away for the others and for clients: 200 ms and more each way. It is slow, not dead, and
/// no request fails.
#[test]
fn a_slow_node_fails_no_request_and_is_not_taken_for_dead() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, MENDED_OFTEN);
    let load = under_load(&mut cluster, |cluster, load| {
        let far = Rule::Delay {
            least: Duration::from_millis(200),
            jitter: Duration::from_millis(50),
        };
        proxy.between(&["node-3"], &["node-1", "node-2", CLIENTS], far);
        load.goes_on(1000);
        for node in cluster.nodes() {
            let dead = node.metric("dynakv_members", "state=\"dead\"");
            assert_eq!(dead, Ok(0), "{} takes a node for dead", node.id);
        }
        // A thin line besides.
        let thin = Rule::Throttle {
            bytes_per_second: 200_000,
        };
        proxy.between(&["node-3"], &["node-1", "node-2", CLIENTS], thin);
        load.goes_on(1000);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 2);
    proxy.heal();
    all_is_well(&mut cluster);
}
