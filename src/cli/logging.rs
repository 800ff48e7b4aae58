//! Where log lines go: standard error, as text on a terminal and as JSON otherwise.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Puts another filter into the log that was installed.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

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
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = if io::stderr().is_terminal() {
        lines.boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    let installed = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    // Only a log that is there already can refuse another one, and its filter is the one to change.
    if installed.is_ok() {
        let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        let _first = SET_FILTER.set(Box::new(set));
    }
    Ok(())
}

/// Logs by another filter from now on.
///
/// # Errors
/// A message when it cannot be read, or no log was installed.
pub(crate) fn reload(filter: &str) -> Result<(), String> {
    let read = EnvFilter::try_new(filter)
        .map_err(|error| format!("{filter:?} is no log filter: {error}"))?;
    let set = SET_FILTER.get().ok_or("there is no log to filter")?;
    set(read)
}
