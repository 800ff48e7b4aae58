//! What the writer does about states that are beyond a limit, or near one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::limits::{
    CLOCK_ENTRIES_SOFT_MAX, CLOCK_ENTRIES_WARN, SIBLINGS_DECODED_MAX, VERSIONS_ENCODED_BYTES_MAX,
};
use dynakv_protocol::{DecodeError, ErrorCode, ErrorReply};

use super::Writer;
use crate::engine::limits;
use crate::runtime::store::rebuilding::{Copy, Rebuilding};

/// How often at most the log warns of long clocks: a node that is killed again and again has many.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The smallest encoding of a sibling, in bytes: actor, counter, write id, timestamp, flags.
const SIBLING_BYTES_MIN: usize = 8 + 1 + 16 + 8 + 1;

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

/// Notes a key whose stored versions show that it is locked. Readers and scanners decode nothing, so this looks at the
/// beginning, and at all only where there are very many bytes.
pub(super) fn note_read(rebuilding: &Rebuilding, key: &[u8], encoded: &Bytes) {
    let entries = Versions::clock_entries_of(encoded).unwrap_or_default();
    if entries >= CLOCK_ENTRIES_SOFT_MAX as u64 {
        let why = format!("its clock has {entries} entries");
        rebuilding.locked().note(key, &why, Copy::Whole);
    } else if encoded.len() > VERSIONS_ENCODED_BYTES_MAX {
        let why = format!("its versions have {} bytes", encoded.len());
        rebuilding.locked().note(key, &why, Copy::Whole);
    } else if encoded.len() > SIBLINGS_DECODED_MAX * SIBLING_BYTES_MIN
        && let Err(error) = Versions::from_bytes(encoded)
        && limits::is_beyond(&error)
    {
        rebuilding
            .locked()
            .note(key, &error.to_string(), Copy::Whole);
    }
}

/// Decodes what another node sent.
pub(super) fn received(key: &[u8], versions: &Bytes) -> Result<Versions, ErrorReply> {
    Versions::from_bytes(versions).map_err(|error| match limits::is_beyond(&error) {
        true => limits::locked(key, &format!("what another node has of it: {error}")),
        false => ErrorReply::new(ErrorCode::BadRequest, format!("versions: {error}")),
    })
}
