//! Random plans under random workloads: every invariant, many seeds.

use crate::chaos::{self, MACHINES, MANY_MACHINES};
use crate::machine::Flaw;
use crate::seeds::{for_each_seed, replayed};
use crate::verdict::{Tally, Verdict};

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 12;

#[test]
fn random_faults_lose_nothing() {
    let total = for_each_seed(SEEDS, "random_faults_lose_nothing", |seed| {
        enough(chaos::run(MACHINES, seed, Flaw::None))
    });
    assert!(
        total.resent > 0 || replayed().is_some(),
        "nothing was sent twice"
    );
}

#[test]
fn random_faults_on_five_machines_lose_nothing() {
    let test = "random_faults_on_five_machines_lose_nothing";
    for_each_seed(SEEDS, test, |seed| {
        enough(chaos::run(MANY_MACHINES, seed, Flaw::None))
    });
}

/// A run in which nothing succeeds would prove nothing.
pub(crate) fn enough(verdict: Verdict) -> Result<Tally, String> {
    let tally = verdict.into_result()?;
    if tally.acknowledged >= 50 && tally.reads >= 100 {
        Ok(tally)
    } else {
        Err(format!("not enough came of it: {tally}"))
    }
}
