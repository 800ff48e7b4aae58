//! Damaged values come back from the other owners, also those that nobody has read.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::ids::WriteId;
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
    for_each_seed(3, test, |seed| {
        let mut world = World::new(seed, MACHINES, Flaw::None);
        let history = Rc::new(RefCell::new(History::default()));
        world.add_client("script", |client| script(client, history.clone()));
        let mut plan = Plan::default();
        plan.add(DAMAGED_AT, Fault::DamageValues { node: DAMAGED });
        Verdict::of_damaged(world, &plan, &history).into_result()
    });
}

/// Two keys of one segment.
fn neighbours() -> Vec<String> {
    let mut seen = std::collections::BTreeMap::new();
    for number in 0.. {
        let key = format!("key-{number}");
        let segment = Segment::of_key(key.as_bytes()).0;
        if let Some(other) = seen.insert(segment, key.clone()) {
            return vec![other, key];
        }
    }
    unreachable!("there are more keys than segments")
}

async fn script(mut client: Client, history: Rc<RefCell<History>>) -> turmoil::Result {
    client.wait_for_cluster().await;
    let keys = neighbours();
    for (number, key) in keys.iter().enumerate() {
        let value = Some(Bytes::from(format!("value of {key}")));
        let write = write(key, WriteId(1 + number as u128), value, TIMEOUT);
        let written = client.write(0, write).await;
        assert!(written.is_ok(), "{key}: {written:?}");
    }
    let begin = Instant::now() + (DAMAGED_AT + TIMEOUT).saturating_sub(clock::now());
    sleep_until(begin).await;
    assert!(
        client.difference(&keys, false).is_some(),
        "nothing is damaged"
    );

    // This one is noticed, and its neighbour is not.
    let mut one = get(&keys[0], TIMEOUT);
    one.r = Some(3);
    // The damaged copy is no vote, so that three are too many.
    let read = client.get(DAMAGED, one).await;
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
        let mut all = get(key, TIMEOUT);
        all.r = Some(3);
        let value = loop {
            match client.get(DAMAGED, all.clone()).await {
                Ok(fetched) => break Some(fetched.siblings[0].value.clone()),
                Err(_) if clock::now() >= deadline => break None,
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        };
        assert_eq!(value, Some(Bytes::from(format!("value of {key}"))));
    }
    Ok(())
}
