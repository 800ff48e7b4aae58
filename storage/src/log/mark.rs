//! How far the log was durable when it was last synced: a file of 20 bytes beside the log.
//!
//! A record vouches for those before it. This vouches for the last one, too, and so notices when the end
//! of a file, or the last file, has vanished. It is written after each sync and not synced itself: after
//! the death of the process it is exact; after a power cut it may be some seconds old, and then vouches
//! for all that is older.
//!
//! ```text
//! file (u64)  position (u64)  crc32 of these (u32)
//! ```

use std::path::{Path, PathBuf};

use crate::disk::damaged_file;
use crate::error::StoreError;
use crate::rewritten::{Rewritten, is_believable};

const FILE: &str = "synced";

/// How many numbers a place is.
const NUMBERS: usize = 2;

/// A place in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of a log file; 0 for none.
    pub(super) id: u64,
    /// A position in it.
    pub(super) position: u64,
}

/// The file that holds the place up to which the log is durable.
#[derive(Debug)]
pub(super) struct Mark(Rewritten<NUMBERS>);

impl Mark {
    /// Opens it, or creates it; the place is what an earlier process wrote there.
    pub(super) fn open(directory: &Path) -> Result<(Self, Place), StoreError> {
        let (file, numbers) = Rewritten::open(directory.join(FILE), "the log")?;
        let place = numbers.map(|[id, position]| Place { id, position });
        Ok((Self(file), place.unwrap_or_default()))
    }

    /// Takes note that the log is durable up to here.
    pub(super) fn write(&self, place: Place) -> Result<(), StoreError> {
        self.0.write([place.id, place.position])
    }
}

/// The file, if it is there and says nothing that can be believed.
pub(super) fn damaged(directory: &Path) -> Result<Option<PathBuf>, StoreError> {
    damaged_file(directory.join(FILE), is_believable::<NUMBERS>)
}
