//! A machine comes back with an empty disk, in the midst of everything else.

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MACHINES};
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::seeds::for_each_seed;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 20;

#[test]
fn a_lost_disk_is_rebuilt_and_nothing_is_lost_with_it() {
    let test = "a_lost_disk_is_rebuilt_and_nothing_is_lost_with_it";
    for_each_seed(SEEDS, test, |seed| {
        let verdict = chaos::run_with(seed, Flaw::None, |random| {
            Plan::with_lost_disk(MACHINES, FAULTS_FROM, FAULTS_UNTIL, random)
        });
        let (acknowledged, reads) = (verdict.acknowledged, verdict.reads);
        println!("seed {seed}: {acknowledged} writes acknowledged, {reads} reads checked");
        verdict.into_result()?;
        // A run in which nothing succeeds would prove nothing.
        assert!(acknowledged >= 50, "seed {seed}: {acknowledged} writes");
        Ok(())
    });
}
