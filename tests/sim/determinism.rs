//! The same seed gives the same run, and another seed another one.

use std::cell::Cell;

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MACHINES, MANY_MACHINES};
use crate::leaving;
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::seeds::for_each_seed;
use crate::sloppy;
use crate::verdict::Verdict;

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

#[test]
fn a_seed_replays_where_machines_stand_in_for_others() {
    let test = "a_seed_replays_where_machines_stand_in_for_others";
    expect_replays(test, |seed| sloppy::divided(seed, Flaw::None));
}

#[test]
fn a_seed_replays_where_machines_leave() {
    expect_replays("a_seed_replays_where_machines_leave", |seed| {
        leaving::shrink(MANY_MACHINES, MACHINES, seed, Flaw::None)
    });
}

/// With all kinds of faults, a lost disk among them.
fn run(machines: usize, seed: u64) -> Verdict {
    chaos::run_with(machines, seed, Flaw::None, |random| {
        Plan::with_lost_disk(machines, FAULTS_FROM, FAULTS_UNTIL, random)
    })
}

fn expect_replays(test: &str, run: impl Fn(u64) -> Verdict) {
    let former = Cell::new(None);
    for_each_seed(3, test, |seed| {
        let verdict = run(seed);
        let (first, second) = (verdict.trace.clone(), run(seed).trace);
        if let Some(difference) = first.first_difference(&second) {
            return Err(format!("two runs of one seed differ: {difference}"));
        }
        assert_eq!(first.hash(), second.hash());
        assert!(first.len() > 3_000, "only {} events happened", first.len());
        let former = former.replace(Some(first.hash()));
        assert_ne!(former, Some(first.hash()), "two seeds gave the same run");
        verdict.into_result()
    });
}
