//! Properties of the codec and of the merge, each on ten thousand random cases.

mod generators;
mod limits;
mod merge_laws;
mod model;
mod round_trip;
mod total_decoding;

use proptest::test_runner::Config;

/// How every property here is run. A failure prints its smallest case; nothing is written to disk.
fn ten_thousand() -> Config {
    Config {
        cases: 10_000,
        failure_persistence: None,
        ..Config::default()
    }
}
