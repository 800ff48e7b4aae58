//! Nodes that stand in for owners: what they acknowledged is handed over, whatever happens to them.

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MANY_MACHINES};
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::random::enough;
use crate::seeds::{for_each_seed, replayed};
use crate::verdict::Verdict;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 6;

#[test]
fn what_stand_ins_keep_is_handed_over_and_nothing_is_lost() {
    let test = "what_stand_ins_keep_is_handed_over_and_nothing_is_lost";
    let total = for_each_seed(SEEDS, test, |seed| enough(divided(seed, Flaw::None)));
    assert!(
        total.sloppy > 0 || replayed().is_some(),
        "nobody has stood in for anybody"
    );
}

/// Without the flaw that is looked for in such runs.
#[test]
fn stand_ins_that_stop_in_order_lose_nothing() {
    let test = "stand_ins_that_stop_in_order_lose_nothing";
    let total = for_each_seed(4, test, |seed| enough(stopping(seed, Flaw::None)));
    assert!(
        total.sloppy > 0 || replayed().is_some(),
        "nobody has stood in for anybody"
    );
}

/// Runs one seed with machines that do not see each other.
pub(crate) fn divided(seed: u64, flaw: Flaw) -> Verdict {
    chaos::run_with(MANY_MACHINES, seed, flaw, |random| {
        Plan::divided(MANY_MACHINES, FAULTS_FROM, FAULTS_UNTIL, random)
    })
}

/// Runs one seed in which the same two machines stand in and are stopped, again and again.
pub(crate) fn stopping(seed: u64, flaw: Flaw) -> Verdict {
    chaos::run_with(MANY_MACHINES, seed, flaw, |random| {
        Plan::stopping(MANY_MACHINES, FAULTS_FROM, FAULTS_UNTIL, random)
    })
}
