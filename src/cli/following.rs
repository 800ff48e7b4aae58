//! Following what a node does after it was asked to, by asking how far it is.

use std::io::{self, IsTerminal};
use std::time::Duration;

use dynakv_client::{Error, RepairProgress, SnapshotProgress};
use indicatif::{ProgressBar, ProgressStyle};

/// How often the node is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(250);

/// How many questions in a row may fail before it is given up: the node may be busy, or be restarted.
const FAILURES_MAX: u32 = 20;

/// How far something is.
pub(super) trait Progress {
    /// Tells one run of it from another, and whether it is under way.
    fn run(&self) -> (u64, bool);

    /// How long ago it was begun and ended, in milliseconds.
    fn ages_ms(&self) -> (Option<u64>, Option<u64>);

    /// How long it took, in milliseconds, if it has ended.
    fn took_ms(&self) -> Option<u64> {
        match self.ages_ms() {
            (Some(started), Some(finished)) => Some(started.saturating_sub(finished)),
            _ => None,
        }
    }
}

impl Progress for RepairProgress {
    fn run(&self) -> (u64, bool) {
        (self.run, self.running)
    }

    fn ages_ms(&self) -> (Option<u64>, Option<u64>) {
        (self.started_age_ms, self.finished_age_ms)
    }
}

impl Progress for SnapshotProgress {
    fn run(&self) -> (u64, bool) {
        (self.run, self.running)
    }

    fn ages_ms(&self) -> (Option<u64>, Option<u64>) {
        (self.started_age_ms, self.finished_age_ms)
    }
}

/// How something that was followed has ended.
pub(super) enum Followed<P> {
    Done(Box<P>),
    /// The user had enough of looking.
    Left(Box<P>),
    /// The node was restarted, and knows nothing of it.
    Forgotten,
}

/// Follows what was begun to its end, and shows each answer.
pub(super) async fn follow<P: Progress>(
    begun: P,
    look: impl AsyncFn() -> Result<P, Error>,
    mut show: impl FnMut(&P),
) -> Result<Followed<P>, Error> {
    let (run, _) = begun.run();
    let mut last = begun;
    let mut failures = 0;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        show(&last);
        if !last.run().1 {
            return Ok(Followed::Done(Box::new(last)));
        }
        tokio::select! {
            biased;
            _ = &mut interrupt => return Ok(Followed::Left(Box::new(last))),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        match look().await {
            Ok(progress) if progress.run().0 != run => return Ok(Followed::Forgotten),
            Ok(progress) => {
                failures = 0;
                last = progress;
            }
            Err(error) => {
                failures += 1;
                if failures >= FAILURES_MAX || !error.is_retryable() {
                    return Err(error);
                }
            }
        }
    }
}

/// A bar on standard error, if that is a terminal; gone when it is dropped.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn start() -> Self {
        Self(io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{bar:30} {percent:>3} % {msg} ({elapsed})";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        }))
    }

    /// Shows how much of how much is done. False where there is no terminal to show it on.
    pub(super) fn show(&self, (done, all): (u64, u64), message: impl FnOnce() -> String) -> bool {
        if let Some(bar) = &self.0 {
            bar.set_length(all);
            bar.set_position(done);
            bar.set_message(message());
        }
        self.0.is_some()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
