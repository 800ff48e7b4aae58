//! What can happen to nodes and to the network in the midst of a change of the ring.

use std::collections::BTreeMap;

use crate::harness::{
    Cluster, Node, Proxy, QUICK, Rule, all_become_members, all_is_well, ask_until_granted,
    become_members, become_same, block_on, client_of_one, ends_as_removed, eventually,
    hold_what_they_own, is_all_of_before_there, leaves, newcomer, nothing_is_lost, read_all,
    ring_of, under_load, write_before,
};

const SEED: u64 = 20_261_130;

fn step_of(node: &Node) -> &'static str {
    ring_of(node).document.step.name()
}

/// Waits until a node follows a ring of this step.
#[track_caller]
fn comes_to(node: &Node, step: &str) {
    eventually(&format!("{} follows a {step} ring", node.id), || {
        let now = step_of(node);
        (now == step).then_some(()).ok_or(now.to_owned())
    });
}

/// A newcomer whose traffic goes through the proxy.
fn newcomer_behind(proxy: &Proxy, cluster: &Cluster, number: usize) -> Node {
    let node = newcomer(cluster, number);
    let front = proxy.front(&node.id, node.port);
    node.with(&["--advertise", &front])
}

/// It would propose the next step, too, and is to get what node-4 has.
#[test]
#[ignore = "make changes"]
fn a_change_goes_on_without_the_one_that_began_it() {
    let mut cluster = Cluster::start_with(4, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        load.goes_on(200);
        ask_until_granted(&cluster[0], &[leaves(&cluster[3])]);
        cluster[0].kill();
        load.goes_on(200);
        cluster[0].start_ready();
        ends_as_removed(&mut cluster.take_out(3));
        all_become_members(cluster, 3);
        load.goes_on(200);
    });
    drop(load.take_failures());
    nothing_is_lost(&load, &mut cluster);
}

/// Whoever comes cannot be reached, in either step: nothing is decided without it, and nothing fails for long.
#[test]
#[ignore = "make changes"]
fn a_change_waits_while_the_network_is_cut_and_ends_when_it_is_whole() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        let node = newcomer_behind(&proxy, cluster, 4);
        cluster.add(node);
        cluster[3].start();
        comes_to(&cluster[0], "write-both");
        for cut in [&["node-4"][..], &["node-3"], &["node-1", "node-3"]] {
            let ids = ["node-1", "node-2", "node-3", "node-4"];
            let others = ids.iter().filter(|id| !cut.contains(*id));
            let others: Vec<&str> = others.copied().collect();
            proxy.between(cut, &others, Rule::Swallow);
            std::thread::sleep(std::time::Duration::from_secs(3));
            proxy.heal();
        }
        load.goes_on(100);
        cluster[3].wait_ready();
        all_become_members(cluster, 4);
        load.goes_on(200);
    });
    drop(load.take_failures());
    nothing_is_lost(&load, &mut cluster);
}

/// Each asks a member of another side. One side alone cannot decide; both are in in the end, in one order.
#[test]
#[ignore = "make changes"]
fn two_that_come_on_two_sides_of_a_cut_are_taken_in_by_one_ring_after_the_other() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, QUICK);
    write_before(&cluster);
    let (most, few) = (["node-1", "node-2", "node-4"], ["node-3", "node-5"]);
    // node-3 is the only one that this one can reach.
    let seed = cluster[2].address();
    let five = newcomer_behind(&proxy, &cluster, 5).with(&["--seed", &seed]);
    let mut nodes = [newcomer_behind(&proxy, &cluster, 4), five];
    proxy.between(&most, &few, Rule::Swallow);
    for node in &mut nodes {
        node.start();
    }
    nodes[0].wait_ready();
    assert_eq!(ring_of(&cluster[2]).document.members.len(), 3);
    proxy.heal();
    for mut node in nodes {
        node.wait_ready();
        cluster.add(node);
    }
    all_become_members(&cluster, 5);
    let rings: BTreeMap<u64, _> = cluster
        .nodes()
        .iter()
        .map(|node| ring_of(node).document)
        .map(|document| (document.version.0, document))
        .collect();
    assert_eq!(rings.len(), 1, "{rings:?}");
    is_all_of_before_there(&cluster);
    all_is_well(&mut cluster);
}

/// What it is to get it cannot keep: the change waits for it and says so, and goes on once there is room.
#[test]
#[ignore = "make changes"]
fn a_newcomer_without_room_is_waited_for_until_it_has_some() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let reserve = ("DYNAKV_DISK_RESERVE_BYTES", "10000000000000");
    let mut node = newcomer(&cluster, 4).with_settings(&[reserve]);
    node.start();
    node.wait_ready();
    let waits = "node-4 coming; step 1 of 2, waiting for node-4 (";
    eventually("status names node-4", || {
        let said = format!("{:?}", cluster[0].run(&["status"]));
        said.contains(waits).then_some(()).ok_or(said)
    });
    // Two old owners of three are enough, and a new one of each.
    cluster[1].run(&["put", "meanwhile", "value"]).exits(0);
    assert_eq!(step_of(&cluster[0]), "write-both");
    assert!(node.terminate().success());
    let mut node = node.with_settings(&[("DYNAKV_DISK_RESERVE_BYTES", "1000000")]);
    node.start();
    node.wait_ready();
    cluster.add(node);
    all_become_members(&cluster, 4);
    is_all_of_before_there(&cluster);
    all_is_well(&mut cluster);
}

/// It was away for the whole change, and still has what was deleted meanwhile, of segments that are no longer its own.
#[test]
fn who_was_away_and_lost_segments_brings_back_nothing_that_was_deleted() {
    const DELETED: usize = 300;
    let mut cluster = Cluster::start_with(4, QUICK);
    write_before(&cluster);
    let deleted = || (0..DELETED).map(|number| format!("deleted-{number}"));
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        for key in deleted() {
            client.put(&key, "old").await.unwrap();
        }
    });
    become_same(&cluster);
    cluster[2].kill();
    let mut node = newcomer(&cluster, 5);
    node.start();
    node.wait_ready();
    cluster.add(node);
    let there = [0, 1, 3, 4].map(|at| &cluster[at]);
    become_members(&there, 5);
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        for key in deleted() {
            let context = client.get(&key).await.unwrap().context;
            client.delete(&key).context(context).await.unwrap();
        }
    });
    cluster[2].start_ready();
    hold_what_they_own(&cluster);
    all_are_absent(&cluster, deleted().collect());
    is_all_of_before_there(&cluster);
    all_is_well(&mut cluster);
}

#[track_caller]
fn all_are_absent(cluster: &Cluster, keys: Vec<String>) {
    for node in cluster.nodes() {
        let found = block_on(async {
            let client = client_of_one(node).await;
            read_all(&client, keys.iter().cloned(), 2).await
        });
        let back: Vec<_> = found
            .iter()
            .filter(|(_, values)| !values.is_empty())
            .collect();
        assert!(back.is_empty(), "at {}: {back:?}", node.id);
    }
}
