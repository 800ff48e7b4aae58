//! Disks that hang for a while, in the midst of everything else.

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MACHINES, MANY_MACHINES};
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::random::enough;
use crate::seeds::for_each_seed;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 2;

#[test]
fn disks_that_hang_lose_nothing() {
    with_hanging_disks(MACHINES, "disks_that_hang_lose_nothing");
}

#[test]
fn disks_that_hang_lose_nothing_on_five_machines() {
    let test = "disks_that_hang_lose_nothing_on_five_machines";
    with_hanging_disks(MANY_MACHINES, test);
}

fn with_hanging_disks(machines: usize, test: &str) {
    for_each_seed(SEEDS, test, |seed| {
        let verdict = chaos::run_with(machines, seed, Flaw::None, |random| {
            Plan::hanging(machines, FAULTS_FROM, FAULTS_UNTIL, random)
        });
        enough(verdict)
    });
}
