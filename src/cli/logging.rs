//! Where log lines go: standard error, as text on a terminal and as JSON otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The variables that say what is logged; the first that is set counts.
const FILTER_VARIABLES: [&str; 2] = ["DYNAKV_LOG", "RUST_LOG"];

/// Installs the log for the whole process; later calls do nothing.
///
/// # Errors
/// A message when the filter of `DYNAKV_LOG` or `RUST_LOG` cannot be read.
pub(crate) fn init() -> Result<(), String> {
    let mut filters = FILTER_VARIABLES.iter().filter_map(|variable| {
        let filter = std::env::var(variable).ok()?;
        (!filter.is_empty()).then_some((variable, filter))
    });
    let filter = match filters.next() {
        Some((variable, filter)) => EnvFilter::try_new(&filter)
            .map_err(|error| format!("{variable}={filter:?} is no log filter: {error}"))?,
        None => EnvFilter::new("info"),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let installed = if io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    // Only a log that is there already can refuse another one.
    let _there_already = installed;
    Ok(())
}
