//! Rules left out on purpose: a checker that does not notice would prove nothing.

use crate::chaos;
use crate::machine::Flaw;

/// Within this many seeds a flaw must be noticed.
const SEEDS: u64 = 30;

fn expect_lost_write(flaw: Flaw) {
    for seed in 1..=SEEDS {
        let violations = chaos::run(seed, flaw).violations;
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
