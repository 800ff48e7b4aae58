//! Machines come to a cluster that holds data, in the midst of everything else.

use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::ids::WriteId;

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL};
use crate::client::write;
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::seeds::{for_each_seed, replayed};
use crate::verdict::{Tally, Verdict};
use crate::world::World;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 8;

/// Runs one seed in which so many machines become more. Something is written before any fault: whoever comes before that
/// comes into an empty ring, which does not change.
pub(crate) fn run(founders: usize, machines: usize, seed: u64, flaw: Flaw) -> Verdict {
    let mut world = World::growing(seed, founders, machines, flaw);
    world.add_client("first", async |mut client| {
        client.wait_for_cluster().await;
        let value = Some(Bytes::from_static(b"value"));
        let seals = write("first", WriteId(1), value, Duration::from_secs(2));
        client.write(0, seals).await.expect("all are there");
        Ok(())
    });
    let faults = (FAULTS_FROM, FAULTS_UNTIL);
    let plan = Plan::growing(founders, machines, faults, &mut world.fork());
    chaos::run_in(world, plan)
}

/// The founders come one after the other, the first write seals, and a change is three rings.
fn has_changed(founders: usize, verdict: Verdict) -> Result<Tally, String> {
    let (version, least) = (verdict.ring_version, founders as u64 + 1 + 3);
    let tally = verdict.into_result()?;
    match version >= least {
        true => Ok(tally),
        false => Err(format!("ring {version} is no ring that has changed")),
    }
}

#[test]
fn three_machines_become_five_and_nothing_is_lost() {
    let test = "three_machines_become_five_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        let verdict = run(3, 5, seed, Flaw::None);
        let tally = has_changed(3, verdict)?;
        match tally.acknowledged >= 50 && tally.reads >= 100 {
            true => Ok(tally),
            false => Err(format!("not enough came of it: {tally}")),
        }
    });
}

#[test]
fn one_machine_becomes_three_and_nothing_is_lost() {
    let test = "one_machine_becomes_three_and_nothing_is_lost";
    // While the only machine is off nothing is done.
    let total = for_each_seed(SEEDS, test, |seed| {
        has_changed(1, run(1, 3, seed, Flaw::None))
    });
    assert!(total.acknowledged > 50 || replayed().is_some(), "{total}");
}
