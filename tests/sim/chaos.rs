//! One seed: a plan of faults under a random workload, then healing, then the verdict.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::blind_writer::BlindWriter;
use crate::history::History;
use crate::machine::Flaw;
use crate::operator::{Operator, Order};
use crate::plan::Plan;
use crate::settle::settle;
use crate::verdict::Verdict;
use crate::workload::{self, Workload};
use crate::world::World;

/// A small cluster, in which each machine owns every key, and a larger one, in which it does not.
pub(crate) const MACHINES: usize = 3;
pub(crate) const MANY_MACHINES: usize = 5;

/// How many clients work at once, and how many write keys of their own blindly, one write after the other.
const CLIENTS: usize = 4;
const BLIND_WRITERS: usize = 2;

/// When the cluster has long been formed, and when the last fault is over.
pub(crate) const FAULTS_FROM: Duration = Duration::from_secs(3);
pub(crate) const FAULTS_UNTIL: Duration = Duration::from_secs(23);

/// When clients end: after the last fault, so that they also meet the healing.
pub(crate) const WORK_UNTIL: Duration = Duration::from_secs(25);

/// How much longer all of that takes where an operator has the ring changed: a change takes its time.
const CHANGING_FOR: Duration = Duration::from_secs(20);
pub(crate) const CHANGING_UNTIL: Duration = FAULTS_UNTIL.saturating_add(CHANGING_FOR);
pub(crate) const CHANGED_FROM: Duration = SETTLE_FROM.saturating_add(CHANGING_FOR);

/// When the last word of each node is read.
pub(crate) const SETTLE_FROM: Duration = Duration::from_secs(28);

/// Runs one seed with faults of every kind.
pub(crate) fn run(machines: usize, seed: u64, flaw: Flaw) -> Verdict {
    run_with(machines, seed, flaw, |random| {
        Plan::random(machines, FAULTS_FROM, FAULTS_UNTIL, random)
    })
}

/// Runs one seed with faults of the caller's, all between [`FAULTS_FROM`] and [`FAULTS_UNTIL`].
pub(crate) fn run_with(
    machines: usize,
    seed: u64,
    flaw: Flaw,
    plan: impl FnOnce(&mut fastrand::Rng) -> Plan,
) -> Verdict {
    let mut world = World::new(seed, machines, flaw);
    let plan = plan(&mut world.fork());
    run_in(world, plan)
}

/// Runs a plan in a world that is about to begin.
pub(crate) fn run_in(world: World, plan: Plan) -> Verdict {
    run_operated(world, plan, Vec::new())
}

/// The same, while an operator has the ring changed.
pub(crate) fn run_operated(mut world: World, plan: Plan, orders: Vec<Order>) -> Verdict {
    let machines = world.machines.len();
    let (work_until, settle_from) = match orders.is_empty() {
        true => (WORK_UNTIL, SETTLE_FROM),
        false => (WORK_UNTIL + CHANGING_FOR, CHANGED_FROM),
    };
    let history = Rc::new(RefCell::new(History::default()));
    workload::promise(&mut history.borrow_mut(), CLIENTS, plan.loses_a_disk());
    let sloppy_percent = match (machines, plan.divides(machines)) {
        // There nobody can stand in.
        (MACHINES, _) => 0,
        (_, false) => 20,
        (_, true) => 70,
    };
    for number in 1..=CLIENTS {
        let (random, history) = (world.fork(), history.clone());
        world.add_client(&format!("client-{number}"), |client| {
            Workload {
                number,
                clients: CLIENTS,
                client,
                random,
                history,
                until: work_until,
                sloppy_percent,
                seen: BTreeMap::new(),
                once: 0,
                written: 0,
            }
            .run()
        });
    }
    for number in 1..=BLIND_WRITERS {
        let (random, history) = (world.fork(), history.clone());
        let name = format!("blind-{number}");
        world.add_client(&name.clone(), |client| {
            BlindWriter::new(&name, client, random, history, None).run(work_until)
        });
    }
    if !orders.is_empty() {
        let (random, history) = (world.fork(), history.clone());
        world.add_client("operator", |client| {
            Operator::new(client, random, history).run(orders)
        });
    }
    world.add_client("reader", |client| {
        settle(client, history.clone(), settle_from)
    });
    Verdict::of(world, &plan, &history)
}
