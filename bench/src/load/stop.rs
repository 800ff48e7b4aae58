//! Ctrl-C and its relatives: the first ends the measuring, the second everything.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whatever ends a program that runs in the foreground.
#[derive(Debug)]
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    has_come: bool,
}

impl StopSignals {
    /// Begins to listen; from then on the signals do not end this process any more.
    ///
    /// # Errors
    /// When the system does not permit it.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            has_come: false,
        })
    }

    /// Waits for the next of them.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
        self.has_come = true;
    }

    /// Whether one of them was received: what was measured then has ended early.
    pub(super) fn has_come(&self) -> bool {
        self.has_come
    }
}
