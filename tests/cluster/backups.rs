//! A part of a data directory comes back from a backup, without the rest: the store alone, the identity
//! alone, the hints alone, another node's store. Each part looks whole by itself.

use std::fs::{self, File};
use std::path::Path;

use crate::actors::{Forgetful, copy_directory, restore_directory};
use crate::harness::{Node, eventually};

const STORE: &str = "store";
const HINTS: &str = "hints.log";
const UNSYNCED: &str = "unsynced-since-boot";

/// What becomes of node-1 between the copy of its store, and v1 of a key, and its next start.
#[derive(Clone, Copy, PartialEq)]
enum Copied {
    /// Copied after a clean stop, and stopped cleanly again.
    BeforeTheRun,
    /// Copied while it ran without writes, and stopped cleanly.
    DuringTheRun,
    /// Copied after a clean stop, and killed.
    BeforeTheRunThatWasKilled,
}

/// Puts an older copy of the store back, and nothing else. Its actor must not go on, and what it lacks must
/// come back before its reads count.
fn run_an_older_store(copied: Copied) {
    let mut one = Forgetful::founded();
    let (copy, store) = (one.copy(), one.node().data_dir().join(STORE));
    if copied == Copied::DuringTheRun {
        copy_directory(&store, &copy);
    } else {
        one.node().stop();
        copy_directory(&store, &copy);
        one.restart();
    }
    one.write_v1();
    match copied {
        Copied::BeforeTheRunThatWasKilled => one.node().kill(),
        _ => one.node().stop(),
    }
    restore_directory(&copy, &store);
    // The others know no newer run of this directory than its identity does.
    one.comes_back(0);
    eventually("all of node-1's segments to be rebuilt", || {
        match one.cluster[0].metric("dynakv_rebuilt_segments_total", "")? {
            65_536 => Ok(()),
            segments => Err(format!("{segments} are")),
        }
    });
    one.remembers_and_writes_on();
}

#[test]
fn a_store_alone_that_is_older_by_a_run_is_found_out() {
    run_an_older_store(Copied::BeforeTheRun);
}

/// Whose it is and which run wrote it are the same: only how far it reaches is not.
#[test]
fn a_store_alone_that_is_older_in_the_same_run_is_found_out() {
    run_an_older_store(Copied::DuringTheRun);
}

/// Without a marker the actor is a new one anyway, but nothing said that data are missing.
#[test]
fn an_older_store_after_a_kill_gives_no_votes_either() {
    run_an_older_store(Copied::BeforeTheRunThatWasKilled);
}

/// The store is the newest, so nothing is lost, but who minted last is forgotten. The store knows how often
/// the directory was started, so the others have no reason to refuse it.
#[test]
fn an_identity_alone_that_is_older_takes_a_new_actor_and_is_let_in() {
    let mut one = Forgetful::founded();
    let (copy, directory) = (one.copy(), one.node().data_dir());
    let identity = ["identity", "clean-stop"];
    one.node().stop();
    fs::create_dir(&copy).unwrap();
    for name in identity {
        fs::copy(directory.join(name), copy.join(name)).unwrap();
    }
    one.restart();
    one.write_v1();
    one.node().stop();
    for name in identity {
        fs::copy(copy.join(name), directory.join(name)).unwrap();
    }
    one.comes_back(0);
    one.remembers_and_writes_on();
}

/// Two clusters may well have nodes of one name: what says whose a store is is not that.
#[test]
fn the_store_of_another_directory_is_refused_and_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let (one, other) = (root.path().join("one"), root.path().join("other"));
    let mut nodes = [&one, &other].map(|root| {
        fs::create_dir(root).unwrap();
        let mut node = Node::new(root, "node-1");
        node.start_ready();
        node.run(&["put", "key", &root.display().to_string()])
            .exits(0);
        node.stop();
        node
    });
    let [node, stranger] = &mut nodes;
    let (store, aside) = (node.data_dir().join(STORE), root.path().join("aside"));
    fs::rename(&store, &aside).unwrap();
    copy_directory(&stranger.data_dir().join(STORE), &store);
    node.start();
    let (code, said) = node.ends_by_itself();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is of another data directory"), "{said}");
    // And with the right one nothing has changed.
    restore_directory(&aside, &store);
    node.start_ready();
    let got = node.run(&["get", "key"]).exits(0);
    assert_eq!(got.text(), one.display().to_string());
}

/// A new cluster is founded in an empty directory only.
#[test]
fn a_store_without_an_identity_founds_no_cluster() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start_ready();
    node.run(&["put", "key", "value"]).exits(0);
    node.stop();
    let (identity, aside) = (node.data_dir().join("identity"), root.path().join("aside"));
    fs::rename(&identity, &aside).unwrap();
    node.start();
    let (code, said) = node.ends_by_itself();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no identity beside it"), "{said}");
    fs::rename(&aside, &identity).unwrap();
    node.start_ready();
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "value");
}

/// A node whose data nobody else has does not go on with less than it had, nor rebuild for ever.
#[test]
fn the_only_copy_is_not_replaced_by_an_older_one_without_a_word() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start_ready();
    node.run(&["put", "key", "old"]).exits(0);
    node.stop();
    let store = node.data_dir().join(STORE);
    let (older, newest) = (root.path().join("older"), root.path().join("newest"));
    copy_directory(&store, &older);
    node.start_ready();
    node.run(&["put", "key", "new"]).exits(0);
    node.stop();
    copy_directory(&store, &newest);

    restore_directory(&older, &store);
    node.start();
    let (code, said) = node.ends_by_itself();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--accept-loss"), "{said}");
    restore_directory(&newest, &store);
    node.start_ready();
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "new");
    node.stop();

    restore_directory(&older, &store);
    let mut node = Node::at_port(root.path(), "node-1", node.port).with(&["--accept-loss"]);
    node.start_ready();
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "old");
}

/// Nobody can bring back what it kept for others, so it is said and counted. A restart without that is none.
#[test]
fn hints_alone_that_are_older_or_gone_are_an_alarm() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    let hints = node.data_dir().join(HINTS);
    let copy = root.path().join("copy");
    let run = |node: &mut Node, damaged: u64, stop: &dyn Fn(&mut Node)| {
        node.start_ready();
        let counted = node.metric("dynakv_hints_damaged_total", "");
        assert_eq!(counted, Ok(damaged));
        stop(node);
    };
    let in_order = |node: &mut Node| node.stop();
    run(&mut node, 0, &in_order);
    fs::copy(&hints, &copy).unwrap();
    run(&mut node, 0, &|node| node.kill());
    run(&mut node, 0, &in_order);
    fs::copy(&copy, &hints).unwrap();
    run(&mut node, 1, &in_order);
    fs::remove_file(&hints).unwrap();
    run(&mut node, 1, &in_order);
    run(&mut node, 0, &in_order);
}

/// What a run with `interval` has left in the system's memory may still be lost when the node starts with
/// `sync`, until its log has been read and synced.
#[test]
fn a_node_that_syncs_again_forgets_that_it_did_not_only_once_its_log_is_synced() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1").with(&["--durability", "interval:60s"]);
    node.start_ready();
    node.run(&["put", "key", "value"]).exits(0);
    node.kill();
    let note = node.data_dir().join(UNSYNCED);
    assert!(note.exists());

    let mut node = Node::at_port(root.path(), "node-1", node.port);
    let lock = lock(&node.data_dir().join(STORE).join("lock"));
    node.start();
    let (code, said) = node.ends_by_itself();
    assert_ne!(code, Some(0), "{said}");
    assert!(note.exists(), "it has not read its log");
    drop(lock);
    node.start_ready();
    assert!(!note.exists(), "from now on nothing is lost any more");
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "value");
}

/// Keeps a node from opening its store.
fn lock(path: &Path) -> File {
    let file = File::options().write(true).open(path).unwrap();
    file.lock().unwrap();
    file
}
