//! Which seeds a test runs, and what is said when one fails.

/// The seeds to run: the one of `DYNAKV_SIM_SEED`, or the first `DYNAKV_SIM_SEEDS` ones, or the first
/// few.
pub(crate) fn seeds(few: u64) -> Vec<u64> {
    match replayed() {
        Some(seed) => vec![seed],
        None => (1..=number("DYNAKV_SIM_SEEDS").unwrap_or(few)).collect(),
    }
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

/// Runs a test for each seed; the first that fails is reported with how to replay it.
pub(crate) fn for_each_seed(few: u64, test: &str, run: impl Fn(u64) -> Result<(), String>) {
    for seed in seeds(few) {
        if let Err(failure) = run(seed) {
            panic!(
                "{failure}\n\nseed {seed} failed; replay it with\n  \
                 DYNAKV_SIM_SEED={seed} cargo test --test sim {test} -- --nocapture"
            );
        }
    }
}
