//! Nodes that come to a cluster which holds data, while clients go on.

use std::collections::BTreeSet;

use dynakv_protocol::NodeId;
use dynakv_protocol::hash::Position;
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::RingDocument;
use rustix::process::Signal;

use crate::harness::{
    Cluster, KEYS, Node, QUICK, all_become_members, all_is_well, ask_until_granted, become_members,
    become_same, eventually, hold_what_they_own, is_all_of_before_there, keys, leaves, newcomer,
    nothing_is_lost, ring_of, under_load, write_before,
};

#[test]
fn a_node_comes_to_a_cluster_under_load_and_no_request_fails() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        let mut node = newcomer(cluster, 4);
        node.start();
        node.wait_ready();
        cluster.add(node);
        all_become_members(cluster, 4);
        load.goes_on(500);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 2);
    is_all_of_before_there(&cluster);
    drop_what_has_moved(&cluster);
    all_is_well(&mut cluster);
}

/// Waits until what has moved away was dropped.
#[track_caller]
fn drop_what_has_moved(cluster: &Cluster) {
    let dropped = |node: &Node| {
        node.metric("dynakv_leftover_keys_dropped_total", "")
            .unwrap()
    };
    eventually("what has moved away is dropped", || {
        let dropped: u64 = cluster.nodes().iter().map(dropped).sum();
        // A fourth of three copies has moved.
        match dropped > KEYS as u64 / 2 {
            true => Ok(()),
            false => Err(format!("{dropped} keys")),
        }
    });
    hold_what_they_own(cluster);
}

#[test]
fn one_node_grows_to_three_and_each_has_every_key() {
    let mut cluster = Cluster::start_with(1, QUICK);
    write_before(&cluster);
    let before = cluster[0].stat("/ring/version").unwrap();
    let load = under_load(&mut cluster, |cluster, load| {
        for number in [2, 3] {
            let mut node = newcomer(cluster, number);
            node.start();
            cluster.add(node);
        }
        for number in [1, 2] {
            cluster[number].wait_ready();
        }
        all_become_members(cluster, 3);
        load.goes_on(500);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 2);
    // Both came by one change, and what belongs to one key moved once.
    assert_eq!(cluster[0].stat("/ring/version"), Ok(before + 3));
    is_all_of_before_there(&cluster);
    become_same(&cluster);
    let keys = |node: usize| cluster[node].stat("/total_keys").unwrap();
    assert_eq!(
        (keys(1), keys(2)),
        (keys(0), keys(0)),
        "every node has every key"
    );
    all_is_well(&mut cluster);
}

/// How many copies of keys come to owners that had none.
fn copies_gained(before: &RingDocument, after: &RingDocument) -> u64 {
    let owners = |ring: &RingDocument, placement: &Placement, key: &str| -> BTreeSet<NodeId> {
        let owners = placement.owners(Position::of_key(key.as_bytes()).segment());
        let ids = owners.iter().map(|it| ring.members[it.slot()].id.clone());
        ids.collect()
    };
    let (old, new) = (Placement::new(before), Placement::new(after));
    let gained = keys().map(|key| {
        let had = owners(before, &old, &key);
        owners(after, &new, &key).difference(&had).count() as u64
    });
    gained.sum()
}

/// How many copies of keys nodes were given by others, for whatever reason.
fn copies_moved(cluster: &Cluster) -> u64 {
    let moved = cluster.nodes().iter().map(|node| {
        let fetched = node.metric("dynakv_anti_entropy_keys_fetched_total", "");
        let sent = node.metric("dynakv_anti_entropy_keys_sent_total", "");
        let handed_on = node.metric("dynakv_leftover_keys_sent_total", "");
        fetched.unwrap() + sent.unwrap() + handed_on.unwrap()
    });
    moved.sum()
}

/// From further sources only what differs is fetched, and what goes away is known to be there already.
#[test]
fn no_more_moves_than_has_to() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    become_same(&cluster);
    let is_least = |cluster: &Cluster, before: &RingDocument, moved: u64| {
        let least = copies_gained(before, &ring_of(&cluster[0]).document);
        assert!(least > KEYS as u64 / 2, "{least}");
        assert!(
            (least..=least + least / 20).contains(&moved),
            "{moved} copies moved, and {least} had to"
        );
    };
    let (before, moved) = (ring_of(&cluster[0]).document, copies_moved(&cluster));
    let mut node = newcomer(&cluster, 4);
    node.start();
    node.wait_ready();
    cluster.add(node);
    all_become_members(&cluster, 4);
    is_least(&cluster, &before, copies_moved(&cluster) - moved);

    // What is still there would not have to move again.
    drop_what_has_moved(&cluster);
    let before = ring_of(&cluster[0]).document;
    let wishes = [leaves(&cluster[2])];
    let mut gone = cluster.take_out(2);
    let moved = copies_moved(&cluster);
    ask_until_granted(&cluster[0], &wishes);
    // It looks whether all of it is there, and sends nothing.
    let (code, said) = gone.ends_by_itself();
    assert_eq!(code, Some(8), "{said}");
    let handed_on = said
        .lines()
        .find(|it| it.contains("is with those that own it now"));
    let is_quiet = handed_on.is_some_and(|it| it.contains("\"sent\":0"));
    assert!(is_quiet, "{said}");
    all_become_members(&cluster, 3);
    is_least(&cluster, &before, copies_moved(&cluster) - moved);
    is_all_of_before_there(&cluster);
}

/// The newcomer, and a source of what it fetches, are killed as soon as the ring changes.
#[test]
fn a_change_ends_though_who_comes_and_a_source_are_killed() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        let mut node = newcomer(cluster, 4);
        node.start();
        node.wait_ready();
        node.kill();
        cluster.add(node);
        load.goes_on(200);
        cluster[3].start();
        cluster[3].wait_ready();
        cluster[1].kill();
        let there = [0, 2, 3].map(|at| &cluster[at]);
        become_members(&there, 4);
        load.goes_on(200);
        cluster[1].start();
        cluster[1].wait_ready();
    });
    drop(load.take_failures());
    nothing_is_lost(&load, &mut cluster);
}

/// What it had fetched is gone with its disk: the change is given up, and it is taken in anew. So is another one that was
/// coming in with it, and has lost nothing.
#[test]
fn a_newcomer_that_loses_its_disk_on_the_way_comes_in_anew_and_so_does_another() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let load = under_load(&mut cluster, |cluster, load| {
        let mut nodes = [4, 5].map(|number| newcomer(cluster, number));
        for node in &mut nodes {
            node.start();
        }
        for node in &mut nodes {
            node.wait_ready();
        }
        let [wiped, other] = &mut nodes;
        wiped.kill();
        std::fs::remove_dir_all(wiped.data_dir()).unwrap();
        // It hears of what becomes of the change only when it is back.
        other.kill();
        wiped.start();
        load.goes_on(200);
        other.start();
        for node in nodes {
            cluster.add(node);
        }
        all_become_members(cluster, 5);
        load.goes_on(200);
    });
    nothing_is_lost(&load, &mut cluster);
}

fn signal_all(cluster: &mut Cluster, signal: Signal) {
    for at in 0..cluster.nodes().len() {
        cluster[at].process_mut().signal(signal);
    }
}

/// Of a node that comes to stay it is said how far it is.
#[test]
fn status_says_that_the_ring_changes_and_whom_it_waits_for() {
    let mut cluster = Cluster::start_with(3, QUICK);
    write_before(&cluster);
    let mut node = newcomer(&cluster, 4);
    node.start();
    node.wait_ready();
    // Those that it fetches from stand still, and it says how much is left.
    signal_all(&mut cluster, Signal::STOP);
    eventually("it says what it has still to fetch", || {
        let json = node.run(&["status", "--output", "json"]).json();
        let change = &json["change"];
        let left = change["awaited"][0]["segments_left"].as_u64();
        let is_told = change["awaited_for"] == "fetching" && left > Some(0);
        is_told.then_some(()).ok_or(json.to_string())
    });
    node.kill();
    signal_all(&mut cluster, Signal::CONT);
    let status = || cluster[0].run(&["status"]);
    eventually("status names who is waited for", || {
        let said = format!("{:?}", status());
        let is_said = said.contains("the ring changes (ring ")
            && said.contains("node-4 coming; step 1 of 2, waiting for node-4 (dead");
        is_said.then_some(()).ok_or(said)
    });
    let json = cluster[0].run(&["status", "--output", "json"]).json();
    assert_eq!(json["change"]["coming"][0], "node-4", "{json}");
    // Nobody else is touched by that.
    cluster[1].run(&["put", "meanwhile", "value"]).exits(0);
    node.start();
    node.wait_ready();
    become_members(&[&cluster[0], &node], 4);
    let json = cluster[0].run(&["status", "--output", "json"]).json();
    assert!(json["change"].is_null(), "{json}");
}
