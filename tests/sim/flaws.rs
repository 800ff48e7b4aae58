//! Rules left out on purpose: a checker that does not notice would prove nothing.

use crate::chaos::{self, FAULTS_FROM, FAULTS_UNTIL, MACHINES};
use crate::machine::Flaw;
use crate::plan::Plan;
use crate::seeds::for_each_seed;
use crate::verdict::Verdict;

/// Within this many seeds a flaw must be noticed.
const SEEDS: u64 = 60;

/// Both flaws show where nodes forget, come back at once, and go on.
fn flickering(seed: u64, flaw: Flaw) -> Verdict {
    chaos::run_with(seed, flaw, |random| {
        Plan::flickering(MACHINES, FAULTS_FROM, FAULTS_UNTIL, random)
    })
}

/// The same runs without the flaw: what is noticed is the flaw and not the plan.
#[test]
fn without_a_flaw_a_flickering_power_loses_nothing() {
    for_each_seed(
        5,
        "without_a_flaw_a_flickering_power_loses_nothing",
        |seed| flickering(seed, Flaw::None).into_result(),
    );
}

/// A node that votes although it has lost its data lets reads miss what was acknowledged.
#[test]
fn voting_after_a_lost_disk_is_noticed() {
    for seed in 1..=SEEDS {
        let flaw = Flaw::ForgetsLoss;
        let violations = chaos::run_with(seed, flaw, with_lost_disk).violations;
        let stale = |v: &&crate::history::Violation| v.invariant != "bounded";
        if let Some(violation) = violations.iter().find(stale) {
            let (invariant, what) = (violation.invariant, &violation.what);
            println!("{flaw:?} noticed with seed {seed}: {invariant}: {what}");
            return;
        }
    }
    panic!("not noticed within {SEEDS} seeds");
}

fn with_lost_disk(random: &mut fastrand::Rng) -> Plan {
    Plan::with_lost_disk(MACHINES, FAULTS_FROM, FAULTS_UNTIL, random)
}

fn expect_lost_write(flaw: Flaw) {
    for seed in 1..=SEEDS {
        let violations = flickering(seed, flaw).violations;
        let lost = violations.iter().find(|v| v.invariant == "no_lost_write");
        if let Some(violation) = lost {
            println!("{flaw:?} noticed with seed {seed}: {}", violation.what);
            return;
        }
    }
    panic!("{flaw:?} was not noticed within {SEEDS} seeds");
}

#[test]
fn acknowledging_before_the_sync_is_noticed() {
    expect_lost_write(Flaw::SyncDoesNothing);
}

#[test]
fn keeping_an_actor_after_a_power_cut_is_noticed() {
    expect_lost_write(Flaw::KeepsActor);
}
