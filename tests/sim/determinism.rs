//! The same seed gives the same run, and another seed another one.

use crate::chaos;
use crate::machine::Flaw;
use crate::seeds::for_each_seed;

#[test]
fn a_seed_replays() {
    for_each_seed(3, "a_seed_replays", |seed| {
        let first = chaos::run(seed, Flaw::None).trace;
        let second = chaos::run(seed, Flaw::None).trace;
        if let Some(difference) = first.first_difference(&second) {
            return Err(format!("two runs of one seed differ: {difference}"));
        }
        assert!(first.len() > 3_000, "only {} events happened", first.len());
        let other = chaos::run(seed + 1, Flaw::None).trace;
        let difference = first.first_difference(&other);
        assert!(difference.is_some(), "two seeds gave the same run");
        Ok(())
    });
}
