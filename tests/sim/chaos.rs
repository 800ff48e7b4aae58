//! One seed: a plan of faults under a random workload, then healing, then the verdict.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::history::History;
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::settle::settle;
use crate::verdict::Verdict;
use crate::workload::Workload;
use crate::world::World;

/// How many machines there are; each owns every key.
pub(crate) const MACHINES: usize = 3;

/// How many clients work at once.
const CLIENTS: usize = 4;

/// When the cluster has long been formed, and when the last fault is over.
pub(crate) const FAULTS_FROM: Duration = Duration::from_secs(3);
pub(crate) const FAULTS_UNTIL: Duration = Duration::from_secs(23);

/// When clients end: after the last fault, so that they also meet the healing.
const WORK_UNTIL: Duration = Duration::from_secs(25);

/// When the last word of each node is read.
const SETTLE_FROM: Duration = Duration::from_secs(28);

/// Runs one seed with faults of every kind.
pub(crate) fn run(seed: u64, flaw: Flaw) -> Verdict {
    run_with(seed, flaw, |random| {
        Plan::random(MACHINES, FAULTS_FROM, FAULTS_UNTIL, random)
    })
}

/// Runs one seed with faults of the caller's, all between [`FAULTS_FROM`] and [`FAULTS_UNTIL`].
pub(crate) fn run_with(
    seed: u64,
    flaw: Flaw,
    plan: impl FnOnce(&mut fastrand::Rng) -> Plan,
) -> Verdict {
    let mut world = World::new(seed, MACHINES, flaw);
    let plan = plan(&mut world.fork());
    let history = Rc::new(RefCell::new(History::default()));
    for number in 1..=CLIENTS {
        let (random, history) = (world.fork(), history.clone());
        world.add_client(&format!("client-{number}"), |client| {
            Workload::new(client, random, history, WORK_UNTIL).run()
        });
    }
    world.add_client("reader", |client| {
        settle(client, history.clone(), SETTLE_FROM)
    });
    Verdict::of(world, plan, &history)
}
