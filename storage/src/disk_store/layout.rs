//! What a store's directory holds, and in which format.

use std::path::Path;

use bytes::Buf;

use super::{LOG_DIRECTORY, TREE_DIRECTORY};
use crate::disk::DirectoryFiles;
use crate::document::{load_document, save_document};
use crate::error::StoreError;
use crate::store::Mutation;

/// The document that says whose the store is, and who wrote it last.
pub(super) const RUN_DOCUMENT: &str = "run";

/// The longest versions, in bytes: far above what the protocol lets through, and within 32 bits.
pub(super) const VERSIONS_BYTES_MAX: usize = 1 << 30;

/// The layout of the directory and the formats in it. Still 1: no store was released before the
/// segments' hashes came into it.
pub(super) const FORMAT: u32 = 1;
/// The document that says so.
pub(super) const FORMAT_DOCUMENT: &str = "format";

/// Whether there is a store in this directory, whatever state it is in.
pub(super) fn exists(directory: &Path) -> bool {
    directory.join(FORMAT_DOCUMENT).exists() || part_in(directory).is_some()
}

/// A part of a store in this directory, other than the document of its format, which is written first.
fn part_in(directory: &Path) -> Option<&'static str> {
    let parts = ["db", "conf", LOG_DIRECTORY, TREE_DIRECTORY];
    parts.into_iter().find(|name| directory.join(name).exists())
}

/// Refuses a directory of another version; writes the format down in an empty one.
pub(super) fn check_format(directory: &Path, files: &DirectoryFiles) -> Result<(), StoreError> {
    let unsupported = |reason: String| {
        Err(StoreError::Unsupported {
            path: directory.to_owned(),
            reason,
        })
    };
    match load_document(files, FORMAT_DOCUMENT)? {
        Some(content) => match content.as_ref().try_get_u32() {
            Ok(FORMAT) => Ok(()),
            Ok(other) => unsupported(format!(
                "its format is {other}, this version knows format {FORMAT}"
            )),
            Err(_) => unsupported("its format is not stated in a way that we know".to_owned()),
        },
        None => match part_in(directory) {
            Some(name) => unsupported(format!(
                "there is {name:?} in it, but not the file {FORMAT_DOCUMENT:?} which says in what format"
            )),
            None => save_document(files, FORMAT_DOCUMENT, &FORMAT.to_be_bytes()),
        },
    }
}

/// Refuses what the formats cannot hold, before anything of it is applied.
pub(super) fn check_lengths(mutations: &[Mutation]) -> Result<(), StoreError> {
    let too_long = |mutation: &&Mutation| mutation.versions.len() > VERSIONS_BYTES_MAX;
    match mutations.iter().find(too_long) {
        Some(mutation) => Err(StoreError::TooLarge {
            bytes: mutation.versions.len(),
            bytes_max: VERSIONS_BYTES_MAX,
        }),
        None => Ok(()),
    }
}
