//! What a store's directory holds, and in which format.

use std::fs;
use std::path::Path;

use bytes::Buf;

use crate::disk::DirectoryFiles;
use crate::document::{load_document, save_document};
use crate::error::StoreError;
use crate::items::Mutation;
use crate::tree::mend_parameters;

/// Where the commit log lies in it.
pub(crate) const LOG_DIRECTORY: &str = "log";
/// Where the tree lies in it.
pub(crate) const TREE_DIRECTORY: &str = "sled";

/// The document that says whose the store is, and who wrote it last.
pub(super) const RUN_DOCUMENT: &str = "run";

/// The longest key, in bytes: far above what the protocol lets through, and within 16 bits.
pub(super) const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// The longest versions, in bytes: far above what the protocol lets through, and within 32 bits.
pub(super) const VERSIONS_BYTES_MAX: usize = 1 << 30;

/// The layout of the directory and the formats in it. Format 2 has blocks in the tree. One of format 1 has all its
/// records in items of their own, which is how a segment lies in format 2 until something of it is written: so it
/// is taken over as it is.
pub(super) const FORMAT: u32 = 2;

/// The first one, which is taken over.
const FORMAT_OF_ITEMS: u32 = 1;

/// The document that says so.
pub(super) const FORMAT_DOCUMENT: &str = "format";

/// Whether there is a store in this directory, whatever state it is in.
///
/// # Errors
/// Where that cannot be told: no rights, or a link that leads nowhere, to a disk that is not mounted, say.
pub(super) fn exists(directory: &Path) -> Result<bool, StoreError> {
    if directory.is_symlink() {
        fs::metadata(directory).map_err(StoreError::io("follow the link", directory))?;
    }
    Ok(is_there(directory, FORMAT_DOCUMENT)? || part_in(directory)?.is_some())
}

/// A part of a store in this directory, other than the document of its format, which is written first.
fn part_in(directory: &Path) -> Result<Option<&'static str>, StoreError> {
    for name in [LOG_DIRECTORY, TREE_DIRECTORY, "db", "conf"] {
        if is_there(directory, name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// What cannot be looked at is not what is not there.
fn is_there(directory: &Path, name: &str) -> Result<bool, StoreError> {
    let path = directory.join(name);
    path.try_exists().map_err(StoreError::io("look at", &path))
}

/// Refuses a directory of another version, and one that has lost the document of its format; writes that down in
/// an empty one. True when it is taken over from an earlier format.
pub(super) fn check_format(directory: &Path, files: &DirectoryFiles) -> Result<bool, StoreError> {
    let unsupported = |reason: String| {
        Err(StoreError::Unsupported {
            path: directory.to_owned(),
            reason,
        })
    };
    match load_document(files, FORMAT_DOCUMENT)? {
        Some(content) => match content.as_ref().try_get_u32() {
            Ok(FORMAT) => Ok(false),
            // Before anything is written that an earlier version would not find.
            Ok(FORMAT_OF_ITEMS) => {
                save_document(files, FORMAT_DOCUMENT, &FORMAT.to_be_bytes())?;
                Ok(true)
            }
            Ok(other) => unsupported(format!(
                "its format is {other}, this version knows format {FORMAT}"
            )),
            Err(_) => unsupported("its format is not stated in a way that we know".to_owned()),
        },
        None => match part_in(directory)? {
            Some(part @ (LOG_DIRECTORY | TREE_DIRECTORY)) => Err(StoreError::CorruptStore {
                path: directory.to_owned(),
                reason: format!(
                    "the file {FORMAT_DOCUMENT} is missing, which is written before {part}"
                ),
            }),
            Some(part) => unsupported(format!("there is {part:?} in it, which is no part of it")),
            None => {
                save_document(files, FORMAT_DOCUMENT, &FORMAT.to_be_bytes())?;
                Ok(false)
            }
        },
    }
}

/// Puts back what is the same in every store, where it is lost or wrong, and says what it was. For a copy that is
/// looked at: what else is there can then be read.
pub(crate) fn mend_constants(directory: &Path) -> Result<Vec<(&'static str, String)>, StoreError> {
    let mut mended = Vec::new();
    let files = DirectoryFiles::open(directory)?;
    match check_format(directory, &files) {
        Err(error) if error.is_corruption() => {
            save_document(&files, FORMAT_DOCUMENT, &FORMAT.to_be_bytes())?;
            mended.push((FORMAT_DOCUMENT, error.to_string()));
        }
        result => drop(result?),
    }
    if let Some(wrong) = mend_parameters(&directory.join(TREE_DIRECTORY))? {
        mended.push((TREE_DIRECTORY, wrong));
    }
    Ok(mended)
}

/// Refuses what the formats, or a record in memory, cannot hold, before anything of it is applied.
pub(super) fn check_lengths(mutations: &[Mutation]) -> Result<(), StoreError> {
    let lengths = mutations.iter().flat_map(|mutation| {
        [
            (mutation.key.len(), KEY_BYTES_MAX),
            (mutation.versions.len(), VERSIONS_BYTES_MAX),
        ]
    });
    let mut too_long = lengths.filter(|(bytes, bytes_max)| bytes > bytes_max);
    match too_long.next() {
        Some((bytes, bytes_max)) => Err(StoreError::TooLarge { bytes, bytes_max }),
        None => Ok(()),
    }
}
