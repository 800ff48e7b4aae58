//! How far an export or import is, for people in front of a terminal.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::bytes_text;

/// How often the line is drawn anew.
const INTERVAL: Duration = Duration::from_millis(100);

/// A line on standard error that counts; nothing at all when that is no terminal.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    doing: &'static str,
    drawn_at: Instant,
    keys: u64,
    bytes: u64,
}

impl Progress {
    /// Begins to count; `doing` is a verb such as `exported`.
    pub(super) fn start(doing: &'static str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            doing,
            drawn_at: Instant::now(),
            keys: 0,
            bytes: 0,
        }
    }

    /// Counts one more key with this many bytes.
    pub(super) fn add(&mut self, bytes: usize) {
        self.keys += 1;
        self.bytes += bytes as u64;
        if let Some(bar) = &self.bar
            && self.drawn_at.elapsed() >= INTERVAL
        {
            self.drawn_at = Instant::now();
            let (keys, bytes) = (self.keys, bytes_text(self.bytes));
            bar.set_message(format!("{} {keys} keys, {bytes}", self.doing));
            bar.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
