//! Which seeds a test runs, and what is said meanwhile, at the end, and when one fails.

use crate::verdict::Tally;

/// After so many seeds it is said how far a long run is.
const PROGRESS_EVERY: usize = 20;

/// The seeds to run: the one of `DYNAKV_SIM_SEED`, or `DYNAKV_SIM_SEEDS` of them, or a few, from
/// `DYNAKV_SIM_FROM` on, or from the first.
fn seeds(few: u64) -> Vec<u64> {
    if let Some(seed) = replayed() {
        return vec![seed];
    }
    let first = number("DYNAKV_SIM_FROM").unwrap_or(1);
    let count = number("DYNAKV_SIM_SEEDS").unwrap_or(few);
    (first..first + count).collect()
}

/// The one seed that is replayed.
pub(crate) fn replayed() -> Option<u64> {
    number("DYNAKV_SIM_SEED")
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs a test for each seed; the first that fails is reported with how to replay it. Gives what happened
/// in all of them.
pub(crate) fn for_each_seed(
    few: u64,
    test: &str,
    run: impl Fn(u64) -> Result<Tally, String>,
) -> Tally {
    let (seeds, mut total) = (seeds(few), Tally::default());
    for (done, &seed) in (1..).zip(&seeds) {
        if replayed().is_some() {
            println!("{test}, seed {seed}");
        }
        match run(seed) {
            Ok(tally) => total += tally,
            Err(failure) => panic!(
                "{failure}\n\nseed {seed} failed; replay it with\n  make sim SEED={seed} TEST={test}"
            ),
        }
        if done % PROGRESS_EVERY == 0 && done < seeds.len() {
            println!("{test}: {done} of {} seeds: {total}", seeds.len());
        }
    }
    println!("{test}: {} seeds, no violation: {total}", seeds.len());
    total
}
