//! The network broken between real processes: in two, in one direction, and in two halves that both see
//! one node.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dynakv_bench::replicas::compare;
use dynakv_client::{Client, ErrorCode};
use dynakv_protocol::placement::Placement;

use crate::harness::{
    Cluster, MENDED_OFTEN, Proxy, Rule, all_is_well, become_same, block_on, client_of_one,
    hints_drain, read_all, stop_and_check, under_load,
};

const SEED: u64 = 20_261_125;

/// How often it is looked whether somebody is taken for dead: together longer than that takes.
const ROUNDS_BEYOND_DEAD: usize = 40;
const ROUND: Duration = Duration::from_millis(200);

/// A sloppy write stands in for owners that are silent for half a second, as on a busy machine they may
/// be: of writes that took less it is known who counted.
const SURELY_NOBODY_WAS_SLOW: Duration = Duration::from_millis(400);

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
        cluster.seal("first", "value");
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

/// Writes all of these keys on one side, sloppily, and strictly where that is refused: what is taken, and
/// how the answers say it was.
fn write_sloppily(split: &Split, side: &[usize], name: &str, keys: &[String]) {
    let mut by_owners_alone = 0;
    block_on(async {
        let client = client_of_one(&split.cluster[side[0]]).await;
        for key in keys {
            let owners = split.owners.among(side, key);
            if owners < 2 {
                let error = write(&client, key, "strict", 2).await.unwrap_err();
                assert_eq!(error.code(), Some(ErrorCode::QuorumUnavailable), "{error}");
                assert!(!error.maybe_applied(), "{key}: {error}");
            }
            let began = Instant::now();
            let put = client.put(key, name.to_owned()).w(2).sloppy();
            let written = put.await;
            let took = began.elapsed();
            let written = written.unwrap_or_else(|error| {
                panic!("{key} on the {name}, where {owners} owners are: {error}")
            });
            assert_eq!(written.effective_w, 2, "{key}");
            if owners < 2 {
                assert!(written.sloppy, "{key}: {owners} owners made W = 2");
            } else if took < SURELY_NOBODY_WAS_SLOW {
                assert!(!written.sloppy, "{key}: {owners} owners were enough");
                by_owners_alone += 1;
            }
        }
    });
    if keys.iter().any(|key| split.owners.among(side, key) >= 2) {
        assert!(by_owners_alone > 0, "no write on the {name} was quick");
    }
}

/// On each side of a partition every key is taken sloppily, also where none of its owners is; what has only
/// stand-ins outlives their death in mid-partition. Afterwards, without a read, the owners have all of it,
/// and nobody keeps anything for anybody.
#[test]
fn each_side_of_a_partition_takes_every_key_sloppily() {
    let mut split = Split::start();
    let keys_before = split.keys();
    split.cut();
    let (left, right, both) = (keys("left", 30), keys("right", 60), keys("both", 60));
    let again = keys("again", 30);
    let mut taken: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let sides = [
        (LEFT, "left", [&left, &both]),
        (RIGHT, "right", [&right, &both]),
    ];
    for (side, name, keys) in sides {
        for key in keys.into_iter().flatten() {
            taken
                .entry(key.clone())
                .or_default()
                .insert(name.to_owned());
        }
        for keys in keys {
            write_sloppily(&split, side, name, keys);
        }
    }

    // Of these there is nothing but two hints. All who keep them die at once.
    let without_owner = right
        .iter()
        .chain(&both)
        .filter(|key| split.owners.among(RIGHT, key) == 0)
        .count() as u64;
    assert!(without_owner > 0, "each key has an owner on the right");
    for &node in RIGHT {
        split.cluster[node].kill();
    }
    for &node in RIGHT {
        split.cluster[node].start();
    }
    for &node in RIGHT {
        split.cluster[node].wait_ready();
        split.cluster[node].has_links(RIGHT.len() as u64 - 1);
    }
    for &node in RIGHT {
        let kept = split.cluster[node].metric("dynakv_hints_waiting_counted", "");
        let kept = kept.unwrap();
        assert!(kept >= without_owner, "{kept} of {without_owner} are left");
    }
    write_sloppily(&split, RIGHT, "right", &again);
    for key in again {
        taken.insert(key, BTreeSet::from(["right".to_owned()]));
    }

    split.heal();
    hints_drain(&split.cluster);
    let handed_over = |node| {
        split.cluster[node]
            .metric("dynakv_hints_handed_over_total", "")
            .unwrap()
    };
    let handed_over: u64 = LEFT.iter().chain(RIGHT).copied().map(handed_over).sum();
    assert!(handed_over >= without_owner, "{handed_over} handed over");
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
