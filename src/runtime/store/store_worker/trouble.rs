//! What the store's threads say and note of errors, of damage and of keys beyond a limit.

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::limits::{
    CLOCK_ENTRIES_SOFT_MAX, SIBLINGS_DECODED_MAX, VERSIONS_ENCODED_BYTES_MAX,
};
use dynakv_protocol::{ErrorCode, ErrorReply};
use dynakv_storage::StoreError;

use crate::engine::limits;
use crate::runtime::store::rebuilding::{Copy, Rebuilding};

/// The smallest encoding of a sibling, in bytes: actor, counter, write id, timestamp, flags.
const SIBLING_BYTES_MIN: usize = 8 + 1 + 16 + 8 + 1;

/// Whether it is this one value that cannot be read, and not the store.
pub(super) fn is_damaged_value(error: &StoreError) -> bool {
    matches!(error, StoreError::Corrupt { .. })
}

/// From now on, and after every restart, this node's reads around the key do not count.
pub(super) fn note_damage(
    rebuilding: &Rebuilding,
    key: &[u8],
    error: &StoreError,
) -> Result<(), ErrorReply> {
    match rebuilding.begin(key) {
        Ok(true) => {
            tracing::error!(
                key = %key.escape_ascii(),
                %error,
                "a stored value is damaged: its segment is to be rebuilt from the other owners"
            );
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(error) => Err(refusal(&error)),
    }
}

/// The same of a segment in which keys may be lost, nobody can say which.
pub(super) fn note_loss(rebuilding: &Rebuilding, segment: Segment) -> Result<(), StoreError> {
    if rebuilding.begin_segment(segment)? {
        tracing::error!(
            segment = %format_args!("{:04x}", segment.0),
            "a part of the store is damaged: its segment is to be rebuilt from the other owners"
        );
    }
    Ok(())
}

/// What is said of a store that does not take something.
pub(crate) fn refusal(error: &StoreError) -> ErrorReply {
    let code = match error {
        error if error.is_disk_full() => ErrorCode::DiskFull,
        // It goes away by itself, and another node may have what this one lacks.
        error if error.is_shortage() => ErrorCode::Overloaded,
        StoreError::TooLarge { .. } => ErrorCode::TooLarge,
        _ => ErrorCode::Storage,
    };
    let refusal = ErrorReply::new(code, error.to_string());
    match code {
        // The next time it is as large.
        ErrorCode::TooLarge => refusal,
        _ => refusal.retryable(),
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
