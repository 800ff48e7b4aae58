//! Damaged values come back from the other owners, also those that nobody has read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::client::{Fetched, Get};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::ids::WriteId;
use dynakv_storage::{Footprint, MemoryDisk, Mutation, Store};
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Client, get, write};
use crate::clock;
use crate::history::History;
use crate::invariants::convergence;
use crate::machine::Flaw;
use crate::plan::{Fault, Plan};
use crate::seeds::for_each_seed;
use crate::verdict::Verdict;
use crate::world::World;

const MACHINES: usize = 3;

/// The one whose disk goes bad.
const DAMAGED: usize = 1;

/// When: all is written and synced by then, and what is sent twice has come twice. It would be noticed too
/// soon otherwise.
const DAMAGED_AT: Duration = Duration::from_secs(12);

/// How long mending may take.
const MENDED_WITHIN: Duration = Duration::from_secs(60);

const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn what_is_damaged_beside_a_value_that_was_read_comes_back_with_it() {
    let test = "what_is_damaged_beside_a_value_that_was_read_comes_back_with_it";
    comes_back(test, Fault::DamageValues { node: DAMAGED });
}

/// Nothing there counts as absent meanwhile, and what nobody ever wrote does again at the end.
#[test]
fn what_was_lost_with_a_part_of_the_store_comes_back() {
    let test = "what_was_lost_with_a_part_of_the_store_comes_back";
    comes_back(test, Fault::LoseSegments { node: DAMAGED });
}

/// What nobody else has is absent in the end, and not damaged for ever.
#[test]
fn a_damaged_value_that_nobody_else_has_goes() {
    let test = "a_damaged_value_that_nobody_else_has_goes";
    for_each_seed(3, test, |seed| {
        let mut world = World::new(seed, MACHINES, Flaw::None);
        let history = Rc::new(RefCell::new(History::default()));
        let disk = world.machines[DAMAGED].disk.clone();
        world.add_client("script", |client| lonely(client, disk));
        Verdict::of_damaged(world, &Plan::default(), &history).into_result()
    });
}

/// Writes these keys, and waits until all is synced and nothing of it comes a second time any more.
async fn write_all(client: &mut Client, keys: &[String]) {
    for (number, key) in keys.iter().enumerate() {
        let value = Some(Bytes::from(format!("value of {key}")));
        let write = write(key, WriteId(1 + number as u128), value, TIMEOUT);
        let written = client.write(0, write).await;
        assert!(written.is_ok(), "{key}: {written:?}");
    }
    let begin = Instant::now() + (DAMAGED_AT + TIMEOUT).saturating_sub(clock::now());
    sleep_until(begin).await;
}

/// A read for which the damaged node has to vote.
fn of_all(key: &str) -> Get {
    let mut all = get(key, TIMEOUT);
    all.r = Some(3);
    all
}

/// An answer of all three owners, once there is one: they have a vote each again.
async fn read_of_all(client: &mut Client, key: &str, deadline: Duration) -> Fetched {
    loop {
        match client.get(DAMAGED, of_all(key)).await {
            Ok(fetched) => return fetched,
            Err(error) if clock::now() >= deadline => panic!("{key}: {error:?}"),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn lonely(mut client: Client, disk: MemoryDisk) -> turmoil::Result {
    client.wait_for_cluster().await;
    let (keys, alone) = neighbours();
    write_all(&mut client, &keys).await;
    // Before anybody has compared anything.
    let store = disk.store();
    let key = Bytes::from(alone.clone());
    store.apply(&[Mutation {
        key: key.clone(),
        versions: Bytes::from_static(b"any"),
        before: Footprint::default(),
        after: Footprint::default(),
    }])?;
    store.sync()?;
    disk.damage_values();
    let read = client.get(DAMAGED, of_all(&alone)).await;
    assert!(read.is_err(), "a damaged value has counted: {read:?}");
    let deadline = clock::now() + MENDED_WITHIN;
    let fetched = read_of_all(&mut client, &alone, deadline).await;
    assert!(fetched.siblings.is_empty());
    assert_eq!(store.get(&key)?, None);
    assert_eq!(client.difference(&keys, false), None);
    // It is counted out, too: two nodes with the same keys have the same hash.
    while let Some(what) = client.difference(&keys, true) {
        assert!(clock::now() < deadline, "{what}");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn comes_back(test: &str, fault: Fault) {
    for_each_seed(3, test, |seed| {
        let mut world = World::new(seed, MACHINES, Flaw::None);
        let history = Rc::new(RefCell::new(History::default()));
        let disk = world.machines[DAMAGED].disk.clone();
        world.add_client("script", |client| script(client, disk, history.clone()));
        let mut plan = Plan::default();
        plan.add(DAMAGED_AT, fault.clone());
        Verdict::of_damaged(world, &plan, &history).into_result()
    });
}

/// Two keys of one segment, and one more that nobody writes.
fn neighbours() -> (Vec<String>, String) {
    let mut seen: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for number in 0.. {
        let key = format!("key-{number}");
        let segment = Segment::of_key(key.as_bytes()).0;
        let of_segment: &mut Vec<String> = seen.entry(segment).or_default();
        of_segment.push(key);
        if let [one, other, unwritten] = &of_segment[..] {
            return (vec![one.clone(), other.clone()], unwritten.clone());
        }
    }
    unreachable!("there are more keys than segments")
}

async fn script(
    mut client: Client,
    disk: MemoryDisk,
    history: Rc<RefCell<History>>,
) -> turmoil::Result {
    client.wait_for_cluster().await;
    let (keys, unwritten) = neighbours();
    write_all(&mut client, &keys).await;
    assert!(
        client.difference(&keys, false).is_some(),
        "nothing is damaged"
    );

    // This one is noticed, and its neighbour is not.
    // The damaged copy is no vote, so that three are too many.
    let read = client.get(DAMAGED, of_all(&keys[0])).await;
    assert!(read.is_err(), "a damaged value has counted: {read:?}");
    let deadline = clock::now() + MENDED_WITHIN;
    while let Some(what) = client.difference(&keys, false) {
        if clock::now() >= deadline {
            let what = format!("{what}: it was damaged, and has not come back");
            history.borrow_mut().violate(convergence::NAME, what);
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    // The copies are the same a little before the reads of that node count again.
    for key in &keys {
        let fetched = read_of_all(&mut client, key, deadline).await;
        assert_eq!(fetched.siblings[0].value, format!("value of {key}"));
    }
    // Nobody waits for anything any more.
    let fetched = read_of_all(&mut client, &unwritten, deadline).await;
    assert!(fetched.siblings.is_empty());
    assert_eq!(disk.lost_segments(), 0);
    Ok(())
}
