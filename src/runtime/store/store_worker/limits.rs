//! What the writer does about states that are beyond a limit, or near one.

use std::time::{Duration, Instant};

use dynakv_protocol::causal::Versions;
use dynakv_protocol::limits::CLOCK_ENTRIES_WARN;

use super::Writer;
use crate::engine::limits;
use crate::runtime::store::rebuilding::Copy;

/// How often at most the log warns of long clocks: a node that is killed again and again has many.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

impl Writer {
    /// A state was stored: does it lock its key, or is it the end of that? Has its clock become long?
    pub(super) fn note_stored(
        &mut self,
        key: &[u8],
        entries_before: usize,
        versions: &Versions,
        encoded_bytes: usize,
    ) {
        let entries = versions.clock().len();
        match limits::is_locked(versions, encoded_bytes) {
            true => {
                let siblings = versions.siblings().len();
                let why = format!("it has {siblings} siblings, and its clock {entries} entries");
                self.note_locked(key, &why);
            }
            false => self.rebuilding.locked().forget(key),
        }
        if entries < CLOCK_ENTRIES_WARN || entries <= entries_before {
            return;
        }
        self.metrics.store.long_clocks.increment(1);
        let now = Instant::now();
        let is_due = |at: Instant| now.duration_since(at) >= WARN_INTERVAL;
        if self.warned_at.is_none_or(is_due) {
            self.warned_at = Some(now);
            tracing::warn!(
                key = %key.escape_ascii(),
                entries,
                "the clock of a key grows long, by one entry for each unclean start of an owner: are nodes killed \
                 again and again? Further keys are not named for a while"
            );
        }
    }

    /// A key shows to be locked.
    pub(super) fn note_locked(&self, key: &[u8], why: &str) {
        self.rebuilding.locked().note(key, why, Copy::Whole);
    }
}
