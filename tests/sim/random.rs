//! Random plans under random workloads: every invariant, many seeds.

use crate::chaos;
use crate::machine::Flaw;
use crate::seeds::for_each_seed;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 20;

#[test]
fn random_faults_lose_nothing() {
    for_each_seed(SEEDS, "random_faults_lose_nothing", |seed| {
        let verdict = chaos::run(seed, Flaw::None);
        let (acknowledged, reads) = (verdict.acknowledged, verdict.reads);
        println!("seed {seed}: {acknowledged} writes acknowledged, {reads} reads checked");
        verdict.into_result()?;
        // A run in which nothing succeeds would prove nothing.
        if acknowledged >= 50 && reads >= 100 {
            Ok(())
        } else {
            Err(format!(
                "only {acknowledged} writes and {reads} reads succeeded"
            ))
        }
    });
}
