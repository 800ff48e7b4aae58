//! Versions that take the place of others that are beyond a limit: no merge, and only where what is stored is what an
//! operator's mending saw.

use bytes::Bytes;
use dynakv_protocol::peer::Digest;
use dynakv_protocol::{ErrorCode, ErrorReply};

use super::apply::{Change, Present, Refused, State, check_limits, received};
use super::mint::Minter;
use super::outcome::JobOutcome;

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// What the versions take the place of.
    pub before: Present,
    /// The key's state with them in it.
    pub change: Change,
}

/// Puts versions in the place of what is stored, which is to be as expected: of this digest, or nothing for `None`.
/// `rebuilding` is whether this node has lost versions around the key.
///
/// # Errors
/// When something else is stored, and when either of the two cannot be decoded or the new one is beyond a limit.
pub fn replace(
    key: &[u8],
    stored: Option<Bytes>,
    (expected, versions): (Option<Digest>, Bytes),
    minter: &mut Minter,
    rebuilding: bool,
) -> Result<Replacement, Refused> {
    let is_as_expected = match (&stored, expected) {
        (None, None) => true,
        (Some(stored), Some(expected)) => expected.is_of(stored),
        (None, Some(_)) | (Some(_), None) => false,
    };
    if !is_as_expected {
        let message = "this copy of the key has changed meanwhile";
        let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
        return Err(Refused::plain(error));
    }
    let state = State {
        versions: received(key, &versions)?,
        encoded: versions,
    };
    check_limits(key, &state)?;
    minter.heed(state.versions.clock());
    let before = Present::decode_of_any_size(key, stored)?;
    let mut change = Change {
        state: Some(state),
        at_once: None,
        once_durable: Some(JobOutcome::Durable {
            rebuilding,
            beside: None,
        }),
    };
    change.drop_what_is_stored(before.encoded.as_ref());
    Ok(Replacement { before, change })
}

#[cfg(test)]
mod tests;
