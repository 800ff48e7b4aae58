//! Power to nobody: all processes killed in the midst of writing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynakv_client::Client;
use tokio::task::JoinSet;

use crate::harness::{Cluster, block_on, client, read_all};

const ROUNDS: usize = 10;
const PUTS: usize = 2_000;
const WRITERS: usize = 16;

/// Between the first put of a round and the first kill.
const KILL_AFTER_MS: Range<u64> = 20..500;

/// Between one kill and the next: long enough for the others to go on without the dead.
const KILL_GAP_MS: Range<u64> = 0..40;

/// The seed of all rounds; another one is tried by changing it.
const SEED: u64 = 20_260_607;

fn value_of(key: &str) -> String {
    format!("{key} {}", "x".repeat(key.len() % 7 * 40))
}

/// What was acknowledged, as it was acknowledged.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Writes its share of the round's keys until the cluster is gone.
async fn write_share(client: Client, keys: Vec<String>, acknowledged: Acknowledged) {
    for key in keys {
        let put = client
            .put(&key, value_of(&key))
            .timeout(Duration::from_millis(500));
        if put.await.is_ok() {
            let mut acknowledged = acknowledged.lock().unwrap();
            acknowledged.push(key);
        }
    }
}

/// Ten times all three processes are killed, in random order, at a random moment under concurrent writes.
/// After each
/// restart every put that was ever acknowledged is there, with its value and no other; one that was not
/// acknowledged is there with its value, or not at all.
#[test]
fn every_acknowledged_put_survives_kills_of_all_nodes() {
    println!("seed {SEED}");
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut cluster = Cluster::start(3);
    let mut all_keys = Vec::new();
    let mut promised: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let kill_after = Duration::from_millis(random.u64(KILL_AFTER_MS));
        let keys: Vec<String> = (0..PUTS)
            .map(|put| format!("round-{round}-{put}"))
            .collect();
        all_keys.extend(keys.clone());
        let acknowledged = Acknowledged::default();
        block_on(async {
            let client = client(&cluster.addresses()).await;
            let mut writers = JoinSet::new();
            for share in keys.chunks(PUTS / WRITERS) {
                writers.spawn(write_share(
                    client.clone(),
                    share.to_vec(),
                    acknowledged.clone(),
                ));
            }
            tokio::time::sleep(kill_after).await;
            let mut order = [0, 1, 2];
            random.shuffle(&mut order);
            for node in order {
                cluster[node].kill();
                tokio::time::sleep(Duration::from_millis(random.u64(KILL_GAP_MS))).await;
            }
            // Without a node left the rest of the puts fails fast or is given up.
            writers.abort_all();
            while writers.join_next().await.is_some() {}
        });
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
        println!(
            "round {round}: killed after {kill_after:?}, {} acknowledged",
            acknowledged.len()
        );
        promised.extend(acknowledged);

        cluster.restart_all();
        let found = block_on(async {
            let client = client(&cluster.addresses()).await;
            // Earlier rounds once more at the end.
            let asked = if round + 1 == ROUNDS {
                all_keys.clone()
            } else {
                keys
            };
            read_all(&client, asked, 2).await
        });
        check(&found, &promised);
    }
    assert!(
        promised.len() > ROUNDS,
        "the rounds have written next to nothing: {}",
        promised.len()
    );
}

#[track_caller]
fn check(found: &BTreeMap<String, Vec<String>>, promised: &[String]) {
    for key in promised {
        if let Some(values) = found.get(key) {
            assert_eq!(*values, [value_of(key)], "{key} was acknowledged");
        }
    }
    for (key, values) in found {
        let good = values.is_empty() || *values == [value_of(key)];
        assert!(good, "{key} holds what nobody wrote: {values:?}");
    }
}
