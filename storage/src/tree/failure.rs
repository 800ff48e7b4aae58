//! What an error of sled's, or a panic, means for an operator.
//!
//! Only bytes that contradict their checksum are damage. Whatever the operating system refused is no word about
//! the bytes: not when sled unwraps it, nor when it is copied from one thread to another and only its text is
//! left.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::StoreError;

/// Says what an error of sled means for an operator.
pub(super) fn failure(directory: &Path, doing: &'static str, error: sled::Error) -> StoreError {
    let path = directory.to_owned();
    match error {
        sled::Error::Io(error) => match (refused_in(&error), error.kind()) {
            (Some(refused), _) => refusal(directory, doing, refused),
            // A file that ends too early or holds the wrong thing is no fault of the disk's.
            (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
                StoreError::CorruptStore {
                    path,
                    reason: error.to_string(),
                }
            }
            (None, _) => refusal(directory, doing, error),
        },
        sled::Error::Unsupported(reason) => StoreError::Unsupported { path, reason },
        // One of its threads has ended, say: another start may find everything in order.
        sled::Error::ReportableBug(reason) => StoreError::Io {
            doing,
            path,
            source: io::Error::other(format!("sled: {reason}")),
        },
        sled::Error::Corruption { .. } | sled::Error::CollectionNotFound(_) => {
            StoreError::CorruptStore {
                path,
                reason: error.to_string(),
            }
        }
    }
}

/// What the operating system refused.
fn refusal(directory: &Path, doing: &'static str, error: io::Error) -> StoreError {
    if sync_has_failed() {
        StoreError::sync_failed(directory)(error)
    } else {
        StoreError::io(doing, directory)(error)
    }
}

/// Whether a sync in sled has failed: even "no space left" is then no longer a matter of room.
fn sync_has_failed() -> bool {
    #[cfg(target_os = "linux")]
    return crate::flush_override::has_failed();
    #[cfg(not(target_os = "linux"))]
    false
}

/// Turns a panic of sled, its answer to much of what damage can do, into an error.
///
/// Unwind-safe in spirit: after an error a reader holds nothing of sled's, and a writer never writes
/// again.
pub(crate) fn guarded<T>(
    directory: &Path,
    f: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let reason = text_of(&*panic);
        Err(match number_in(reason) {
            Some(number) => {
                let error = io::Error::from_raw_os_error(number);
                refusal(directory, "use the files of", error)
            }
            None => StoreError::CorruptStore {
                path: directory.to_owned(),
                reason: format!("sled gave up: {reason}"),
            },
        })
    })
}

/// The error of the system itself, where this is one, or a copy of one.
fn refused_in(error: &io::Error) -> Option<io::Error> {
    let number = error
        .raw_os_error()
        .or_else(|| number_in(&error.to_string()));
    number.map(io::Error::from_raw_os_error)
}

/// The system's number of an error, in the two ways in which such an error is written out.
fn number_in(text: &str) -> Option<i32> {
    let after = ["Os { code: ", "(os error "]
        .into_iter()
        .find_map(|before| text.split_once(before));
    let digits = after?.1.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no reason given"
    }
}
