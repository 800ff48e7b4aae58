//! The commit log: what was applied, in the order of application, until the tree has it.
//!
//! ```text
//! log/
//!   00000000000000000007.log    one after the other; one file is written, the others are complete
//!   00000000000000000008.log
//!   synced                      how far the log was durable when this was written
//! ```
//!
//! A file belongs to one generation: when that is frozen, the next file begins. A
//! checkpoint that has carried a generation into the tree says so there, durably, and then the files
//! below are removed.
//!
//! Each record is what one group commit wrote, with its file, its place in it and a checksum, so that no
//! record of another file or place passes for it, and with how far the file was known to be durable.
//! Behind that point damage is a *torn tail*, which a crash leaves: it was never acknowledged, and is
//! cut. Before it, damage is damage.
//!
//! | Room | |
//! |---|---|
//! | `record` | the bytes of records and file headers |
//! | `writer` | appends, syncs, begins new files |
//! | `replay` | reads the files again when the store is opened |
//! | `mark` | the file `synced` |
//! | `inspect` | names all damage, for a report |

mod inspect;
mod mark;
mod record;
mod replay;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use crate::directory::sync_directory;
use crate::error::StoreError;

pub(crate) use inspect::{damaged_mark, inspect};
pub(crate) use replay::replay;
pub(crate) use writer::{FILE_BYTES, LogWriter};

/// What the name of a log file ends with.
const EXTENSION: &str = "log";

/// The number of the first log file of a store.
pub(crate) const FIRST_FILE: u64 = 1;

/// Where the log file of this number lies.
fn path_of(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("{id:020}.{EXTENSION}"))
}

/// The numbers of the log files that are there, in ascending order.
fn list(directory: &Path) -> Result<Vec<u64>, StoreError> {
    let failed = || StoreError::io("list", directory);
    let mut ids = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let id = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok())
            // Only a name that we would give, lest two names mean one number.
            .filter(|&id| path == path_of(directory, id));
        ids.extend(id);
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Removes the files below `first`, the oldest first: the tree has what is in them. Calls `rest` between two of them.
pub(crate) fn remove_below(
    directory: &Path,
    first: u64,
    mut rest: impl FnMut(),
) -> Result<(), StoreError> {
    let ids = list(directory)?;
    let old: Vec<_> = ids.into_iter().filter(|&id| id < first).collect();
    if old.is_empty() {
        return Ok(());
    }
    for (nth, id) in old.into_iter().enumerate() {
        if nth > 0 {
            rest();
        }
        let path = path_of(directory, id);
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    }
    sync_directory(directory)
}

#[cfg(test)]
mod tests;
