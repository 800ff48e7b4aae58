//! Where log lines go: standard error, as text on a terminal and as JSON otherwise, and never in anybody's way.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env::VarError;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::runtime::observe::log_lines::{Form, LogLines, Paced};
use crate::settings::LOG_DEFAULT;

/// Says what is logged where the settings don't.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// How long an ending process waits for whoever reads its log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the process has installed: for [`reload()`] and [`say`].
static INSTALLED: OnceLock<(LogLines, reload::Handle<EnvFilter, Registry>)> = OnceLock::new();

/// Installs the log for the whole process, with what the settings say is logged; later calls do nothing.
///
/// # Errors
/// A message when that, or what `RUST_LOG` says instead, cannot be read, or the system gives no thread.
pub(crate) fn init(asked: Option<&str>) -> Result<(), String> {
    let filter = filter(asked)?;
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    let form = match io::stderr().is_terminal() {
        true => Form::Text,
        false => Form::Json,
    };
    let lines = LogLines::to_stderr(form)
        .map_err(|error| format!("the operating system gives no thread for the log: {error}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    // An error of the writer would be printed to the very place that has failed.
    let written = tracing_subscriber::fmt::layer()
        .with_writer(lines.clone())
        .log_internal_errors(false);
    let written = match form {
        Form::Text => written.boxed(),
        Form::Json => written.json().flatten_event(true).boxed(),
    };
    let log = tracing_subscriber::registry()
        .with(filter)
        .with(Paced::new(lines.clone()))
        .with(written);
    // Only a log that is there already can refuse another one.
    if log.try_init().is_ok() && INSTALLED.set((lines.clone(), handle)).is_ok() {
        log_panics(lines);
    }
    Ok(())
}

/// Logs from now on what [`init`] would log if it were called with this.
///
/// # Errors
/// A message when it cannot be read; the log goes on as it was.
pub(crate) fn reload(asked: Option<&str>) -> Result<(), String> {
    let filter = filter(asked)?;
    match INSTALLED.get() {
        Some((_, handle)) => handle.reload(filter).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

fn filter(asked: Option<&str>) -> Result<EnvFilter, String> {
    let read = |name: &str, text: &str| {
        EnvFilter::try_new(text)
            .map_err(|error| format!("{name}={text:?} is no log filter: {error}"))
    };
    if let Some(asked) = asked {
        return read("log", asked);
    }
    match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => read(FILTER_VARIABLE, &text),
        Ok(_) | Err(VarError::NotPresent) => Ok(EnvFilter::new(LOG_DEFAULT)),
        Err(VarError::NotUnicode(_)) => Err(format!("{FILTER_VARIABLE} is no UTF-8")),
    }
}

/// Writes a last word to standard error, after all that was logged, if somebody takes it: an end must not wait
/// for that.
pub(crate) fn say(text: &str) {
    match INSTALLED.get() {
        Some((lines, _)) => {
            lines.push(text.as_bytes());
            lines.flush(FLUSH_TIMEOUT);
        }
        None => {
            let _nowhere_to_say_so = io::stderr().write_all(text.as_bytes());
        }
    }
}

/// The report of a panic is a line of the log: written at once, it would wait where the log does not.
fn log_panics(lines: LogLines) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => backtrace.to_string(),
            _ => String::new(),
        };
        tracing::error!(
            thread = thread.name().unwrap_or_default(),
            backtrace,
            "{panic}"
        );
        lines.flush(FLUSH_TIMEOUT);
    }));
}
