//! Looks for all damage in a log, without changing anything: for the report about a store that does not
//! open.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::record::{self, FILE_HEADER_BYTES, FileHeader};
use super::{list, mark, path_of};
use crate::error::{Damage, StoreError};

/// The mark of the log, if it is damaged.
pub(crate) fn damaged_mark(directory: &Path) -> Result<Option<PathBuf>, StoreError> {
    mark::damaged(directory)
}

/// Names every place at which a file's header or a record cannot be read. The torn end that a crash
/// leaves is among them: only opening tells it from damage.
pub(crate) fn inspect(
    directory: &Path,
    found: &mut dyn FnMut(&Path, u64, Damage),
) -> Result<(), StoreError> {
    let is_there = directory.try_exists();
    if !is_there.map_err(StoreError::io("look at", directory))? {
        return Ok(());
    }
    for id in list(directory)? {
        let path = path_of(directory, id);
        let content = Bytes::from(fs::read(&path).map_err(StoreError::io("read", &path))?);
        match FileHeader::decode(&content) {
            Ok(header) if header.id == id => {}
            Ok(_) => found(&path, 0, Damage::Misplaced),
            Err(damage) => found(&path, 0, damage),
        }
        let mut at = FILE_HEADER_BYTES;
        while at < content.len() {
            match record::decode(&content, at, id) {
                Ok(record) => {
                    if let Err(error) = record::each_change(&record.changes, |_| ()) {
                        found(&path, at as u64, Damage::from(error));
                    }
                    at = record.end;
                }
                Err(damage) => {
                    found(&path, at as u64, damage);
                    // On to the next whole record, wherever it begins.
                    at += 1;
                    while at < content.len()
                        && !(record::may_begin(&content, at, id)
                            && record::decode(&content, at, id).is_ok())
                    {
                        at += 1;
                    }
                }
            }
        }
    }
    Ok(())
}
