//! Writes without a context through owners that have missed the one before: the last one acknowledged is
//! all that is there, after a delete nothing.
//!
//! The first owner of some keys cannot be reached while they are set; it is back, and at once, before
//! anybody has mended its copies, they are set again or deleted, through any node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dynakv_client::Client;
use dynakv_protocol::placement::Placement;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::{
    Cluster, MENDED_OFTEN, PATIENCE, Proxy, QUICK, Rule, become_same, block_on, client_of_one,
    read_all, stop_and_check, write_all,
};

const SEED: u64 = 20_261_128;

/// So many keys for each node that is missing for a while.
const KEYS: usize = 120;

/// So many second writes are under way at once. More of them, and few would be early.
const AT_ONCE: usize = 16;

/// The pause before a write that was refused is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// What the last acknowledged write of a key was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Put,
    Delete,
    /// Nobody knows whether it was applied: nothing is expected of the key.
    InDoubt,
}

/// Keys whose first owner is this node.
fn keys_of(cluster: &Cluster, node: usize, prefix: &str, count: usize) -> Vec<String> {
    let document = block_on(async {
        let client = client_of_one(&cluster[0]).await;
        client.ring().await.unwrap().document
    });
    let id = &cluster[node].id;
    let is_it = |slot: usize| document.members[slot].id.as_str() == id;
    let placement = Placement::new(&document);
    let keys = (0..).map(|number| format!("{prefix}-{id}-{number}"));
    let first_is_it = |key: &String| is_it(placement.owners_of_key(key.as_bytes())[0].slot());
    keys.filter(first_is_it).take(count).collect()
}

async fn clients(cluster: &Cluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        clients.push(client_of_one(node).await);
    }
    clients
}

/// Sets or deletes a key, as often as it is refused.
async fn write_again(client: Client, key: String, is_delete: bool) -> (String, Last) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let written = match is_delete {
            true => client.delete(&key).await.map(drop),
            false => client.put(&key, "v2").await.map(drop),
        };
        let last = match written {
            Ok(()) if is_delete => Last::Delete,
            Ok(()) => Last::Put,
            Err(error) if error.maybe_applied() => Last::InDoubt,
            Err(error) if Instant::now() >= deadline => panic!("{key}: {error}"),
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        return (key, last);
    }
}

/// Sets one half of these again, and deletes the other, each through another node than the one before.
async fn write_all_again(clients: &[Client], keys: &[String]) -> BTreeMap<String, Last> {
    let (mut tasks, mut written) = (JoinSet::new(), BTreeMap::new());
    let mut take = |done: Option<Result<(String, Last), tokio::task::JoinError>>| {
        written.extend(done.map(|done| done.expect("a write ends")));
    };
    for (number, key) in keys.iter().enumerate() {
        if tasks.len() >= AT_ONCE {
            take(tasks.join_next().await);
        }
        let client = clients[number % clients.len()].clone();
        let is_delete = (number / clients.len()).is_multiple_of(2);
        tasks.spawn(write_again(client, key.clone(), is_delete));
    }
    while let Some(done) = tasks.join_next().await {
        take(Some(done));
    }
    written
}

/// Reads all of these through each node, and says which show something else than the last write.
#[track_caller]
fn expect_last(cluster: &Cluster, written: &BTreeMap<String, Last>, when: &str) {
    let certain = written.iter().filter(|(_, last)| **last != Last::InDoubt);
    let certain: BTreeMap<_, _> = certain.collect();
    assert!(
        certain.len() * 2 > written.len(),
        "{when}: of {} writes most are in doubt",
        written.len()
    );
    let mut wrong = Vec::new();
    for node in cluster.nodes() {
        let found = block_on(async {
            let client = client_of_one(node).await;
            read_all(&client, certain.keys().map(|key| (*key).clone()), 2).await
        });
        for (key, last) in &certain {
            let is_right = match last {
                Last::Delete => found[*key].is_empty(),
                _ => found[*key] == ["v2"],
            };
            if !is_right {
                let (id, values) = (&node.id, &found[*key]);
                wrong.push(format!("{key}, {last:?}, read at {id}: {values:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{when}: {} of {} reads are wrong:\n{}",
        wrong.len(),
        certain.len() * cluster.nodes().len(),
        wrong.join("\n")
    );
}

/// One node after the other misses first writes of keys whose first owner it is.
fn each_misses_some(
    cluster: &mut Cluster,
    goes: impl Fn(&mut Cluster, usize),
    comes_back: impl Fn(&mut Cluster, usize),
) {
    for missing in 0..cluster.nodes().len() {
        let keys = keys_of(cluster, missing, "blind", KEYS);
        goes(cluster, missing);
        let other = (missing + 1) % cluster.nodes().len();
        block_on(async {
            let client = client_of_one(&cluster[other]).await;
            let first = keys.iter().map(|key| (key.clone(), "v1".to_owned()));
            let refused = write_all(&client, first).await;
            assert!(
                refused.is_empty(),
                "two of three owners take it: {refused:?}"
            );
        });
        comes_back(cluster, missing);
        let written = block_on(async {
            let clients = clients(cluster).await;
            write_all_again(&clients, &keys).await
        });
        let id = cluster[missing].id.clone();
        expect_last(
            cluster,
            &written,
            &format!("{id} had missed the first writes"),
        );
        become_same(cluster);
        expect_last(cluster, &written, &format!("{id} is mended"));
        cluster.wait_whole();
    }
}

fn three_nodes() -> Cluster {
    let cluster = Cluster::start_with(3, QUICK);
    cluster.seal("first", "value");
    cluster
}

#[test]
fn an_owner_that_was_killed_replaces_what_it_has_missed() {
    let mut cluster = three_nodes();
    each_misses_some(
        &mut cluster,
        |cluster, node| cluster[node].kill(),
        |cluster, node| {
            cluster[node].start();
            cluster[node].wait_ready();
        },
    );
    stop_and_check(&mut cluster);
}

#[test]
fn an_owner_that_was_stopped_replaces_what_it_has_missed() {
    let mut cluster = three_nodes();
    each_misses_some(
        &mut cluster,
        |cluster, node| {
            let status = cluster[node].terminate();
            assert!(status.success(), "{status}");
        },
        |cluster, node| {
            cluster[node].start();
            cluster[node].wait_ready();
        },
    );
    stop_and_check(&mut cluster);
}

#[test]
fn an_owner_whose_links_were_broken_replaces_what_it_has_missed() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, MENDED_OFTEN);
    cluster.seal("first", "value");
    each_misses_some(
        &mut cluster,
        |cluster, node| {
            let id = |node: usize| cluster[node].id.clone();
            let (alone, others) = (id(node), [id((node + 1) % 3), id((node + 2) % 3)]);
            let others: Vec<&str> = others.iter().map(|it| &**it).collect();
            proxy.between(&[&alone], &others, Rule::Cut);
            cluster[node].has_links(0);
            for other in [(node + 1) % 3, (node + 2) % 3] {
                cluster[other].has_links(1);
            }
        },
        |_, _| proxy.heal(),
    );
    stop_and_check(&mut cluster);
}

/// A node hands puts on to their first owner, hears nothing, and hands them on to the next one. The first
/// one has them all the same, and cannot tell anybody. What is acknowledged is deleted through the first
/// owner, and then everybody hears everybody.
#[test]
fn a_put_that_was_handed_on_twice_can_be_deleted() {
    println!("seed {SEED}");
    let proxy = Proxy::start(SEED);
    let mut cluster = Cluster::start_behind(&proxy, 3, MENDED_OFTEN);
    cluster.seal("first", "value");
    for mute in 0..3 {
        let keys = keys_of(&cluster, mute, "handed-on", 8);
        let others = [(mute + 1) % 3, (mute + 2) % 3];
        for other in others {
            proxy.set(&cluster[mute].id, &cluster[other].id, Rule::Hold);
        }
        let written = block_on(async {
            let (through, first) = (
                client_of_one(&cluster[others[0]]).await,
                client_of_one(&cluster[mute]).await,
            );
            let first_writes = keys.iter().map(|key| (key.clone(), "v1".to_owned()));
            let refused = write_all(&through, first_writes).await;
            let refused: Vec<_> = refused.into_iter().map(|(key, _)| key).collect();
            let mut deletes = JoinSet::new();
            for key in keys.iter().filter(|key| !refused.contains(key)) {
                deletes.spawn(write_again(first.clone(), key.clone(), true));
            }
            // They are on their way, and cannot end before this.
            sleep(PAUSE).await;
            proxy.heal();
            let deleted = deletes.join_all().await;
            deleted.into_iter().collect::<BTreeMap<_, _>>()
        });
        let id = cluster[mute].id.clone();
        expect_last(&cluster, &written, &format!("{id} had been given up"));
        cluster.wait_whole();
        become_same(&cluster);
        expect_last(&cluster, &written, &format!("{id} is mended"));
    }
    stop_and_check(&mut cluster);
}
