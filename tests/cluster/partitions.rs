//! The network broken between real processes: in two, in one direction, and in two halves that both see
//! one node.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::Duration;

use dynakv_bench::replicas::compare;
use dynakv_client::{Client, ErrorCode};
use dynakv_protocol::placement::Placement;

use crate::harness::{
    Cluster, MENDED_OFTEN, Proxy, Rule, all_is_well, become_same, block_on, client_of_one,
    read_all, stop_and_check, under_load,
};

const SEED: u64 = 20_261_125;

/// How often it is looked whether somebody is taken for dead: together longer than that takes.
const ROUNDS_BEYOND_DEAD: usize = 40;
const ROUND: Duration = Duration::from_millis(200);

/// Which nodes own a key, as indexes into the cluster.
struct Owners(Placement);

impl Owners {
    fn ask(cluster: &Cluster) -> Self {
        let document = block_on(async {
            let client = client_of_one(&cluster[0]).await;
            client.ring().await.unwrap().document
        });
        let members = document.members.iter().map(|member| member.id.as_str());
        let nodes = cluster.nodes().iter().map(|node| &*node.id);
        assert!(
            members.eq(nodes),
            "the ring and the cluster are in one order"
        );
        Self(Placement::new(&document))
    }

    /// How many owners a key has among these nodes.
    fn among(&self, nodes: &[usize], key: &str) -> usize {
        let owners = self.0.owners_of_key(key.as_bytes()).iter();
        owners.filter(|owner| nodes.contains(&owner.slot())).count()
    }
}

/// A cluster of five whose nodes 1 to 3 and 4 and 5 can be kept apart.
struct Split {
    proxy: Proxy,
    cluster: Cluster,
    owners: Owners,
}

const LEFT: &[usize] = &[0, 1, 2];
const RIGHT: &[usize] = &[3, 4];

impl Split {
    fn start() -> Self {
        println!("seed {SEED}");
        let proxy = Proxy::start(SEED);
        let cluster = Cluster::start_behind(&proxy, 5, MENDED_OFTEN);
        // The first write settles who owns what.
        cluster[0].run(&["put", "first", "value"]).exits(0);
        cluster[0].run(&["delete", "first"]).exits(0);
        let owners = Owners::ask(&cluster);
        Self {
            proxy,
            cluster,
            owners,
        }
    }

    /// Cuts the network in two, and waits until every node has noticed.
    fn cut(&self) {
        let id = |&node: &usize| &*self.cluster[node].id;
        let (left, right): (Vec<_>, Vec<_>) = (
            LEFT.iter().map(id).collect(),
            RIGHT.iter().map(id).collect(),
        );
        self.proxy.between(&left, &right, Rule::Cut);
        for side in [LEFT, RIGHT] {
            for &node in side {
                self.cluster[node].has_links(side.len() as u64 - 1);
            }
        }
    }

    /// Mends the network, and waits until all see all.
    fn heal(&mut self) {
        self.proxy.heal();
        self.cluster.wait_whole();
    }

    /// How many keys any node holds, deleted ones too; asked past the proxy, and without a read.
    fn keys(&self) -> usize {
        block_on(compare(&self.cluster.addresses())).unwrap().keys
    }
}

/// Writes a key through one node, blindly; `w` owners have to take it.
async fn write(
    through: &Client,
    key: &str,
    value: &str,
    w: u8,
) -> Result<(), dynakv_client::Error> {
    through.put(key, value.to_owned()).w(w).await.map(drop)
}

fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}-{number}"))
        .collect()
}

/// On each side of a partition the keys are taken that have enough owners there, the others refused, at
/// once and without a trace. Afterwards, without a read, all copies are the same, and values stand beside
/// each other exactly where both sides have written.
#[test]
fn each_side_of_a_partition_takes_what_it_has_owners_for() {
    let split = Split::start();
    let keys_before = split.keys();
    split.cut();

    // W = 2: no key has two owners on both sides.
    let strict = keys("strict", 60);
    let sides = [(LEFT, "left"), (RIGHT, "right")];
    let mut taken = BTreeMap::new();
    for (side, name) in sides {
        let through = &split.cluster[side[0]];
        let refused: Vec<_> = strict
            .iter()
            .filter(|key| split.owners.among(side, key) < 2)
            .collect();
        block_on(async {
            let client = client_of_one(through).await;
            for key in &refused {
                let error = write(&client, key, name, 2).await.unwrap_err();
                assert_eq!(error.code(), Some(ErrorCode::QuorumUnavailable), "{error}");
                assert!(!error.maybe_applied(), "{key}: {error}");
            }
        });
        let refused = through.run(&["put", refused[0], name]).exits(4);
        refused.says("nothing was written").says("next: dynakv");
    }
    assert_eq!(split.keys(), keys_before, "what was refused is nowhere");
    for (side, name) in sides {
        block_on(async {
            let client = client_of_one(&split.cluster[side[0]]).await;
            for key in strict
                .iter()
                .filter(|key| split.owners.among(side, key) >= 2)
            {
                write(&client, key, name, 2).await.unwrap();
                taken.insert(key.clone(), BTreeSet::from([name.to_owned()]));
            }
        });
    }
    assert_eq!(taken.len(), strict.len(), "each key is taken on one side");

    // W = 1: both sides take what both own.
    for (side, name) in sides {
        block_on(async {
            let client = client_of_one(&split.cluster[*side.last().unwrap()]).await;
            for key in keys("lax", 40) {
                let written = write(&client, &key, name, 1).await;
                assert_eq!(
                    written.is_ok(),
                    split.owners.among(side, &key) >= 1,
                    "{key} on the {name}: {written:?}"
                );
                if written.is_ok() {
                    taken.entry(key).or_default().insert(name.to_owned());
                }
            }
        });
    }
    let apart = block_on(compare(&split.cluster.addresses())).unwrap();
    assert!(!apart.differing.is_empty(), "the halves have parted");
    let on_both = taken.values().filter(|values| values.len() == 2).count();
    assert!(on_both > 0, "no key was written on both sides");

    heals_and_has(split, keys_before, &taken);
}

/// Mends the network, and holds what is there then against what was taken.
#[track_caller]
fn heals_and_has(mut split: Split, keys_before: usize, taken: &BTreeMap<String, BTreeSet<String>>) {
    split.heal();
    assert_eq!(become_same(&split.cluster), keys_before + taken.len());
    let found = block_on(async {
        let client = client_of_one(&split.cluster[0]).await;
        read_all(&client, taken.keys().cloned(), 2).await
    });
    for (key, values) in taken {
        let found: BTreeSet<_> = found[key].iter().cloned().collect();
        assert_eq!(found, *values, "{key}");
    }
    stop_and_check(&mut split.cluster);
}

/// Looks for longer than it takes to be given up, and panics when any node takes another one for dead.
#[track_caller]
fn nobody_is_dead(cluster: &Cluster) {
    for _ in 0..ROUNDS_BEYOND_DEAD {
        for node in cluster.nodes() {
            let dead = node.metric("dynakv_members", "state=\"dead\"");
            assert_eq!(dead, Ok(0), "{} takes a node for dead", node.id);
        }
        sleep(ROUND);
    }
}

/// What node-1 sends to node-3 is lost, requests and answers, but nothing else: node-2 can speak for both,
/// so nobody dies, and no request of a client fails.
#[test]
fn a_link_that_carries_nothing_one_way_kills_nobody_and_fails_no_request() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, MENDED_OFTEN);
    let load = under_load(&mut cluster, |cluster, load| {
        proxy.set("node-1", "node-3", Rule::Swallow);
        nobody_is_dead(cluster);
        load.goes_on(500);
    });
    load.failed_nowhere();
    assert!(proxy.count("node-1", "node-3").swallowed_bytes > 0);
    load.is_all_there(&cluster, 2);
    proxy.heal();
    all_is_well(&mut cluster);
}

/// Nodes 1 and 2 do not reach 4 and 5, and node 3 reaches all. Each key has two owners that see each other,
/// so a client that sees all nodes is always served, and nobody dies, because node 3 can speak for all.
#[test]
fn a_bridge_between_two_halves_keeps_everybody_alive_and_every_request_served() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 5, MENDED_OFTEN);
    let load = under_load(&mut cluster, |cluster, load| {
        proxy.between(&["node-1", "node-2"], &["node-4", "node-5"], Rule::Cut);
        nobody_is_dead(cluster);
        load.goes_on(500);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 2);
    proxy.heal();
    all_is_well(&mut cluster);
}
