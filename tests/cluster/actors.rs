//! An actor never outlives doubt about its own past (the Dynamo-style stores' kv679).
//!
//! A node that forgot a write which others hold must not go on numbering as before: its next write would
//! claim to have seen the forgotten one, and the others would drop that as replaced. The forgetting is
//! made here by putting an earlier copy of the node's directory back; the others give back what it forgot.
//! That it would be noticed if it wrote before, the simulation shows (`KeepsActor`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dynakv_protocol::placement::Placement;
use serde_json::Value;

use crate::harness::{Cluster, Node, block_on, client_of_one, eventually};

/// A node that gossips five times a second and runs this long without being refused has been let in.
const UNREFUSED_FOR: Duration = Duration::from_secs(3);

/// Copies a directory with all that is in it.
pub(super) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a copy back in place of the present directory.
pub(super) fn restore_directory(copy: &Path, directory: &Path) {
    fs::remove_dir_all(directory).unwrap();
    copy_directory(copy, directory);
}

/// A key whose blind writes are coordinated by this node: its first owner.
fn key_first_owned_by(node: &Node) -> String {
    let document = block_on(async {
        let client = client_of_one(node).await;
        client
            .ring()
            .await
            .expect("a whole cluster has a ring")
            .document
    });
    let placement = Placement::new(&document);
    let is_first = |key: &String| {
        let first = placement.owners_of_key(key.as_bytes()).first();
        first.is_some_and(|first| document.members[first.slot()].id.as_str() == node.id)
    };
    let keys = (0..).map(|number| format!("key-{number}"));
    keys.take(1_000).find(is_first).expect("every third key is")
}

/// All siblings that any owner has, as (value, dot), sorted.
pub(super) fn siblings(node: &Node, key: &str) -> Vec<(String, String)> {
    let got = node
        .run(&["get", key, "-r", "3", "--output", "json"])
        .json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let siblings = got["siblings"].as_array().cloned().unwrap_or_default();
    let pairs = siblings
        .iter()
        .map(|sibling| (text(&sibling["value"]), text(&sibling["dot"])));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

fn actor_of(dot: &str) -> &str {
    dot.split_once(':').map_or(dot, |(actor, _)| actor)
}

/// A whole cluster whose first node is about to forget a write.
pub(super) struct Forgetful {
    pub(super) cluster: Cluster,
    /// Its blind writes are coordinated by that node.
    pub(super) key: String,
    v1_dot: String,
}

impl Forgetful {
    /// The ring is sealed, and each node has something to remember.
    pub(super) fn founded() -> Self {
        let cluster = Cluster::start(3);
        cluster[0]
            .run(&["put", "before", "value", "-w", "3"])
            .exits(0);
        let key = key_first_owned_by(&cluster[0]);
        let v1_dot = String::new();
        Self {
            cluster,
            key,
            v1_dot,
        }
    }

    pub(super) fn node(&mut self) -> &mut Node {
        &mut self.cluster[0]
    }

    /// Where a copy of what it has may lie.
    pub(super) fn copy(&self) -> PathBuf {
        self.cluster.root().join("copy")
    }

    /// Starts the node that does not run.
    pub(super) fn restart(&mut self) {
        self.cluster[0].start();
        self.cluster.wait_whole();
    }

    /// All have v1, by the first node.
    #[track_caller]
    pub(super) fn write_v1(&mut self) {
        let put = ["put", &self.key, "v1", "-w", "3"];
        self.cluster[0].run(&put).exits(0);
        let written = siblings(&self.cluster[1], &self.key);
        let [(_, dot)] = &written[..] else {
            panic!("one write, one sibling: {written:?}");
        };
        self.v1_dot.clone_from(dot);
    }

    /// The node that was stopped and has forgotten v1 starts, is refused so often, and let in.
    #[track_caller]
    pub(super) fn comes_back(&mut self, refusals: usize) {
        assert_eq!(start_until_let_in(&mut self.cluster[0]), refusals);
        self.cluster.wait_whole();
    }

    /// It goes on, and knows v1.
    #[track_caller]
    pub(super) fn remembers_and_writes_on(&self) {
        assert_remembers_and_writes_on(&self.cluster, &self.key, &self.v1_dot);
    }
}

/// Waits until a node that forgot v1 has got it back from the others, lets it write v2 over it, and checks
/// that it did so under an actor that has forgotten nothing.
#[track_caller]
fn assert_remembers_and_writes_on(cluster: &Cluster, key: &str, v1_dot: &str) {
    eventually("node-1 to have v1 again", || {
        let explained = cluster[1].run(&["explain", key, "--output", "json"]).json();
        let owners = explained["owners"].as_array().cloned().unwrap_or_default();
        let own = owners.iter().find(|owner| owner["id"] == "node-1");
        match own.is_some_and(|own| own["dots"].to_string().contains(v1_dot)) {
            true => Ok(()),
            false => Err(explained.to_string()),
        }
    });
    // Having v1 again is not the end of rebuilding: until its segment is whole, a read of three is refused.
    eventually("node-1 to have been rebuilt", || {
        let got = cluster[1].run(&["get", key, "-r", "3", "--output", "json"]);
        match got.code {
            Some(0) => Ok(()),
            _ => Err(got.stderr),
        }
    });
    cluster[0].run(&["put", key, "v2"]).exits(0);
    for node in cluster.nodes() {
        let left = siblings(node, key);
        let [(value, v2_dot)] = &left[..] else {
            panic!("v2 replaces v1, which its node knew: {left:?}");
        };
        assert_eq!(value, "v2", "v2 was acknowledged");
        assert_ne!(
            actor_of(v2_dot),
            actor_of(v1_dot),
            "the node numbers on as an actor whose past it had forgotten"
        );
    }
}

/// The copy was made after a kill: no marker of a clean stop is in it.
#[test]
fn a_node_that_forgot_a_write_gets_it_back_and_does_not_number_on() {
    let mut one = Forgetful::founded();
    let (copy, directory) = (one.copy(), one.node().data_dir());
    one.node().kill();
    copy_directory(&directory, &copy);
    one.restart();
    one.write_v1();
    one.node().kill();
    restore_directory(&copy, &directory);
    one.comes_back(1);
    one.remembers_and_writes_on();
}

/// Starts a node that runs on an old copy of its directory: it must be refused, with the reason, as often
/// as others have seen it start since, and then be let in. Gives how often it was refused.
#[track_caller]
fn start_until_let_in(node: &mut Node) -> usize {
    for refusals in 0..10 {
        node.start();
        let started = Instant::now();
        let is_let_in = eventually("the node is refused or let in", || {
            if !node.runs() {
                Ok(false)
            } else if started.elapsed() > UNREFUSED_FOR {
                Ok(true)
            } else {
                Err("neither yet".to_owned())
            }
        });
        if is_let_in {
            return refusals;
        }
        let (code, said) = node.ends_by_itself();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("a newer process with the id"), "{said}");
    }
    panic!("{} is never let in", node.id);
}

/// Runs a node cleanly stopped, copied, started `starts` times more, killed, and put back as copied, with
/// v1 of a key written in between and v2 afterwards.
fn run_an_old_copy(starts: usize) {
    let mut one = Forgetful::founded();
    let (copy, directory) = (one.copy(), one.node().data_dir());
    one.node().stop();
    copy_directory(&directory, &copy);
    for start in 0..starts {
        if start > 0 {
            one.node().kill();
        }
        one.restart();
    }
    // Each start but the first was unclean, so this is the actor of the copy only with one start.
    one.write_v1();
    one.node().kill();
    restore_directory(&copy, &directory);
    one.comes_back(starts);
    one.remembers_and_writes_on();
}

/// The copy was made after a clean stop, so the directory itself says that nothing is missing: only the
/// other nodes can know better. They have seen its generation, with another nonce.
#[test]
fn an_old_copy_of_a_cleanly_stopped_node_is_found_out() {
    run_an_old_copy(1);
}

/// Here the others have seen a later generation than the copy's next one.
#[test]
fn a_copy_that_is_older_by_several_starts_is_found_out() {
    run_an_old_copy(3);
}
