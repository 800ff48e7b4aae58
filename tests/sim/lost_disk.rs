//! A machine comes back with an empty disk, in the midst of everything else.

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MACHINES, MANY_MACHINES};
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::random::enough;
use crate::seeds::for_each_seed;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 5;

#[test]
fn a_lost_disk_is_rebuilt_and_nothing_is_lost_with_it() {
    let test = "a_lost_disk_is_rebuilt_and_nothing_is_lost_with_it";
    with_lost_disk(MACHINES, test);
}

#[test]
fn a_lost_disk_of_five_is_rebuilt_and_nothing_is_lost_with_it() {
    let test = "a_lost_disk_of_five_is_rebuilt_and_nothing_is_lost_with_it";
    with_lost_disk(MANY_MACHINES, test);
}

fn with_lost_disk(machines: usize, test: &str) {
    for_each_seed(SEEDS, test, |seed| {
        let verdict = chaos::run_with(machines, seed, Flaw::None, |random| {
            Plan::with_lost_disk(machines, FAULTS_FROM, FAULTS_UNTIL, random)
        });
        enough(verdict)
    });
}
