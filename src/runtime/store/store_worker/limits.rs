//! What the writer does about states that are beyond a limit, or near one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::limits::CLOCK_ENTRIES_WARN;
use dynakv_protocol::{DecodeError, ErrorCode, ErrorReply};

use super::Writer;
use crate::engine::limits;
use crate::runtime::store::rebuilding::Copy;

/// How often at most the log warns of long clocks: a node that is killed again and again has many.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

impl Writer {
    /// Refuses what no node could read again, before anything changes.
    pub(super) fn check_limits(
        &self,
        key: &[u8],
        versions: &Versions,
        encoded: &Bytes,
    ) -> Result<(), ErrorReply> {
        let checked = limits::check(key, versions, encoded.len());
        checked.inspect_err(|error| self.note_locked(key, &error.message))
    }

    /// A client's write was refused: is that because its key is locked?
    pub(super) fn note_refused(&self, key: &[u8], current: &Versions, error: &ErrorReply) {
        if error.code == ErrorCode::TooLarge && limits::is_locked(current, 0) {
            self.note_locked(key, &error.message);
        }
    }

    /// Stored versions that cannot be decoded: beyond a limit that writers did not hold once, or damaged.
    pub(super) fn undecodable(&self, key: &[u8], error: &DecodeError) -> ErrorReply {
        if limits::is_beyond(error) {
            let why = error.to_string();
            self.note_locked(key, &why);
            return limits::locked(key, &why);
        }
        let message = format!("the stored versions of this key can't be read: {error}");
        ErrorReply::new(ErrorCode::Storage, message).retryable()
    }

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

    fn note_locked(&self, key: &[u8], why: &str) {
        self.rebuilding.locked().note(key, why, Copy::Whole);
    }
}
