//! The same seed gives the same run, and another seed another one.

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MACHINES, MANY_MACHINES};
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::seeds::for_each_seed;
use crate::trace::Trace;

#[test]
fn a_seed_replays() {
    expect_replays("a_seed_replays", |seed| run(MACHINES, seed));
}

#[test]
fn a_seed_replays_on_five_machines() {
    expect_replays("a_seed_replays_on_five_machines", |seed| {
        run(MANY_MACHINES, seed)
    });
}

/// With all kinds of faults, a lost disk among them.
fn run(machines: usize, seed: u64) -> Trace {
    let verdict = chaos::run_with(machines, seed, Flaw::None, |random| {
        Plan::with_lost_disk(machines, FAULTS_FROM, FAULTS_UNTIL, random)
    });
    verdict.trace
}

fn expect_replays(test: &str, run: impl Fn(u64) -> Trace) {
    for_each_seed(3, test, |seed| {
        let (first, second) = (run(seed), run(seed));
        if let Some(difference) = first.first_difference(&second) {
            return Err(format!("two runs of one seed differ: {difference}"));
        }
        assert_eq!(first.hash(), second.hash());
        assert!(first.len() > 3_000, "only {} events happened", first.len());
        let other = run(seed + 1);
        assert_ne!(first.hash(), other.hash(), "two seeds gave the same run");
        Ok(crate::verdict::Tally::default())
    });
}
