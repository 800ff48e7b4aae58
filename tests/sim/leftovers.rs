//! What a node has left of segments that it does not own any more goes to their owners, and then from here.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::ids::WriteId;
use dynakv_storage::{Footprint, MemoryDisk, Mutation, Store};
use tokio::time::sleep;

use crate::client::{Client, get, write};
use crate::clock;
use crate::history::History;
use crate::machine::Flaw;
use crate::plan::{Fault, Plan};
use crate::seeds::for_each_seed;
use crate::verdict::Verdict;
use crate::world::World;

/// Two more than own each key.
const MACHINES: usize = 5;

/// The one that has something left.
const LOSER: usize = 4;

/// How many copies a write takes.
const W: usize = 2;

/// So many machines are stopped meanwhile that some keys have one owner only.
const STOPPED: [usize; 2] = [1, 2];
const STOPPED_AT: Duration = Duration::from_secs(20);
const STARTED_AT: Duration = Duration::from_secs(110);

/// How long it may take from when there is nothing in its way.
const GONE_WITHIN: Duration = Duration::from_secs(120);

const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn what_is_left_over_goes_once_w_owners_have_it() {
    let test = "what_is_left_over_goes_once_w_owners_have_it";
    goes(test, &Plan::default(), Duration::ZERO);
}

/// What has too few owners in reach stays, and nothing else waits for it.
#[test]
fn what_is_left_over_stays_while_too_few_owners_are_there() {
    let test = "what_is_left_over_stays_while_too_few_owners_are_there";
    let mut plan = Plan::default();
    for node in STOPPED {
        plan.add(STOPPED_AT, Fault::Stop { node });
    }
    for node in STOPPED {
        plan.add(STARTED_AT, Fault::Start { node });
    }
    goes(test, &plan, STARTED_AT);
}

/// An owner lists what it has taken and not made durable yet.
#[test]
fn what_owners_have_already_goes_once_it_is_durable_there() {
    let test = "what_owners_have_already_goes_once_it_is_durable_there";
    for_each_seed(3, test, |seed| {
        let mut world = World::new(seed, MACHINES, Flaw::None);
        let history = Rc::new(RefCell::new(History::default()));
        let disks: Vec<_> = world.machines.iter().map(|it| it.disk.clone()).collect();
        world.add_client("script", move |client| unsynced(client, disks));
        Verdict::of(world, &Plan::default(), &history).into_result()
    });
}

fn goes(test: &str, plan: &Plan, all_there_at: Duration) {
    for_each_seed(3, test, |seed| {
        let mut world = World::new(seed, MACHINES, Flaw::None);
        let history = Rc::new(RefCell::new(History::default()));
        let disks: Vec<_> = world.machines.iter().map(|it| it.disk.clone()).collect();
        world.add_client("script", move |client| script(client, disks, all_there_at));
        Verdict::of(world, plan, &history).into_result()
    });
}

/// A write that nobody but the loser has.
fn lonely(key: &str, number: u64) -> (Versions, Dot) {
    let dot = Dot {
        actor: Actor(0x10_5e5),
        counter: 1 + number,
    };
    let mut versions = Versions::new();
    let incoming = Incoming {
        write_id: WriteId(1_000_000 + u128::from(number)),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from(format!("left of {key}"))),
    };
    versions.write(&Clock::new(), dot, incoming);
    (versions, dot)
}

fn leave(disk: &MemoryDisk, key: &str, versions: &Versions) {
    apply(disk, key, versions);
    disk.store().sync().expect("the disk is good");
}

fn apply(disk: &MemoryDisk, key: &str, versions: &Versions) {
    let mutation = Mutation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        versions: versions.to_bytes(),
        before: Footprint::default(),
        after: Footprint::of(key.as_bytes(), versions),
    };
    let applied = disk.store().apply(&[mutation]);
    applied.expect("the disk is good");
}

fn stored(disk: &MemoryDisk, key: &str) -> Option<Versions> {
    let stored = disk.store().get(key.as_bytes()).expect("the disk is good");
    stored.map(|bytes| Versions::from_bytes(&bytes).expect("what is stored can be decoded"))
}

/// Waits until the cluster takes writes, and gives keys that the loser does not own.
async fn foreign_keys(client: &mut Client, count: usize) -> Vec<String> {
    client.wait_for_cluster().await;
    let value = Some(Bytes::from_static(b"value"));
    let first = write("first", WriteId(1), value, TIMEOUT);
    client.write(0, first).await.expect("all are there");
    let keys = (0..).map(|number| format!("key-{number}"));
    let keys = keys.filter(|key| !client.is_owner(LOSER, key));
    keys.take(count).collect()
}

async fn unsynced(mut client: Client, disks: Vec<MemoryDisk>) -> turmoil::Result {
    let keys = foreign_keys(&mut client, 1).await;
    // All that came with the first write is durable by then.
    sleep(Duration::from_secs(10)).await;
    let (key, (versions, _)) = (&keys[0], lonely(&keys[0], 0));
    let owners = client.owners(key);
    for &owner in &owners {
        apply(&disks[owner], key, &versions);
    }
    leave(&disks[LOSER], key, &versions);
    let deadline = clock::now() + GONE_WITHIN;
    while stored(&disks[LOSER], key).is_some() {
        assert!(clock::now() < deadline, "{key} is left over");
        sleep(Duration::from_millis(1)).await;
    }
    let durable = owners.iter().filter(|&&it| disks[it].pending() == 0);
    let durable = durable.count();
    assert!(
        durable >= W,
        "it has gone, and {durable} owners have it durably"
    );
    for owner in owners {
        disks[owner].store().sync()?;
    }
    Ok(())
}

async fn script(
    mut client: Client,
    disks: Vec<MemoryDisk>,
    all_there_at: Duration,
) -> turmoil::Result {
    let keys = foreign_keys(&mut client, 30).await;
    // A third is where it belongs as well, a third is there otherwise, and a third nowhere else.
    let (there, alone) = keys.split_at(20);
    for (number, key) in there.iter().enumerate() {
        let value = Some(Bytes::from(format!("value of {key}")));
        let write = write(key, WriteId(2 + number as u128), value, TIMEOUT);
        client.write(0, write).await.expect("all are there");
    }
    while client.difference(there, false).is_some() {
        sleep(Duration::from_millis(100)).await;
    }
    let loser = &disks[LOSER];
    let numbered = (0..).zip(&keys[10..]);
    let dots: Vec<_> = numbered
        .map(|(number, key)| (key, lonely(key, number)))
        .collect();
    if all_there_at > Duration::ZERO {
        let stopped = STOPPED_AT + Duration::from_secs(1);
        sleep(stopped.saturating_sub(clock::now())).await;
    }
    for key in &there[..10] {
        let owner = client.owners(key)[0];
        let versions = stored(&disks[owner], key).expect("it was written");
        leave(loser, key, &versions);
    }
    for (key, (versions, _)) in &dots {
        leave(loser, key, versions);
    }
    client.line("something is left over");
    let waits = |key: &String| {
        let owners = client.owners(key);
        STOPPED.iter().all(|it| owners.contains(it))
    };
    let waiting: Vec<_> = keys.iter().filter(|key| waits(key)).collect();
    let others = keys.len() - waiting.len();
    assert!(!waiting.is_empty() && others > 0, "{waiting:?}");

    let mut gone_early = 0;
    let deadline = clock::now().max(all_there_at) + GONE_WITHIN;
    loop {
        let is_left = |key: &&String| stored(loser, key).is_some();
        let left = keys.iter().filter(is_left).count();
        for (key, (_, dot)) in &dots {
            if !is_left(key) {
                let owners = client.owners(key).into_iter();
                let copies = owners.filter_map(|owner| stored(&disks[owner], key));
                let copies = copies.filter(|it| it.clock().covers(*dot)).count();
                assert!(copies >= W, "{key} has gone, and {copies} owners have it");
            }
        }
        if clock::now() < all_there_at {
            let is_here = waiting.iter().all(is_left);
            assert!(is_here, "of {waiting:?} something has gone too early");
            gone_early = keys.len() - left;
        }
        if left == 0 {
            break;
        }
        assert!(clock::now() < deadline, "{left} keys are left over");
        sleep(Duration::from_millis(20)).await;
    }
    if all_there_at > Duration::ZERO {
        assert_eq!(gone_early, others, "one key waits for another");
    }
    for key in &keys {
        let segment = Segment::of_key(key.as_bytes());
        assert_eq!(loser.store().segment_hash(segment), 0, "{key}");
    }
    for key in alone {
        let fetched = client.get(0, get(key, TIMEOUT)).await.expect("it is there");
        assert_eq!(fetched.siblings[0].value, format!("left of {key}"));
    }
    for key in &there[..10] {
        let fetched = client.get(0, get(key, TIMEOUT)).await.expect("it is there");
        assert_eq!(fetched.siblings.len(), 1, "{key}");
    }
    while let Some(what) = client.difference(&keys, true) {
        assert!(clock::now() < deadline, "{what}");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
