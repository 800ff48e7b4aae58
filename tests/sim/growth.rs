//! Machines come to a cluster that holds data, in the midst of everything else.

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL};
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::random::enough;
use crate::seeds::for_each_seed;
use crate::verdict::Verdict;
use crate::world::World;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 8;

/// Runs one seed in which so many machines become more.
fn run(founders: usize, machines: usize, seed: u64, flaw: Flaw) -> Verdict {
    let mut world = World::growing(seed, founders, machines, flaw);
    let faults = (FAULTS_FROM, FAULTS_UNTIL);
    let plan = Plan::growing(founders, machines, faults, &mut world.fork());
    chaos::run_in(world, plan)
}

#[test]
fn three_machines_become_five_and_nothing_is_lost() {
    for_each_seed(
        SEEDS,
        "three_machines_become_five_and_nothing_is_lost",
        |seed| enough(run(3, 5, seed, Flaw::None)),
    );
}

#[test]
fn one_machine_becomes_three_and_nothing_is_lost() {
    for_each_seed(
        SEEDS,
        "one_machine_becomes_three_and_nothing_is_lost",
        |seed| enough(run(1, 3, seed, Flaw::None)),
    );
}
