//! Running what waits for a node, on this thread.

use std::future::Future;
use std::io;

use super::exit::Exit;
use super::output::{Format, Report};

/// Runs a future on a runtime of one thread.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

/// What is said when that cannot be.
pub(super) fn runtime_error(format: Format, error: &io::Error) -> Report {
    let what = format!("the operating system gives this process no event queue: {error}");
    Report::error(Exit::Error, format, &what, "ulimit -n")
}
