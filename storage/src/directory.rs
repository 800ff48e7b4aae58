//! What a directory holds: listing it, exchanging it, making it durable.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::StoreError;

/// The directory that a path lies in: for a relative path of one part the working directory.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        // The root lies in itself.
        None => path,
    }
}

/// A directory that is held open: what is created, renamed or removed in it can be made durable without
/// another descriptor, which may be lacking by then.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    file: File,
    path: PathBuf,
}

impl OpenDirectory {
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let file = File::open(directory).map_err(StoreError::io("open", directory))?;
        let path = directory.to_owned();
        Ok(Self { file, path })
    }

    /// Makes the creation, renaming and removal of its entries durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .map_err(StoreError::sync_failed(&self.path))
    }
}

/// Makes the creation, renaming and removal of a directory's entries durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    sync_path(directory)
}

/// Makes a file's content, or a directory's entries, durable.
pub(crate) fn sync_path(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    file.sync_all().map_err(StoreError::sync_failed(path))
}

/// All files below a directory, with their sizes.
pub(crate) fn list(directory: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<(), StoreError> {
    let failed = || StoreError::io("list", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let metadata = entry.metadata().map_err(failed())?;
        if metadata.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push((entry.path(), metadata.len()));
        }
    }
    Ok(())
}

/// Exchanges two directories in one step.
#[cfg(target_os = "linux")]
pub(crate) fn exchange(one: &Path, other: &Path) -> Result<(), StoreError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .map_err(|error| StoreError::io("exchange the directory with", one)(error.into()))
}

/// Other systems have no such step.
#[cfg(not(target_os = "linux"))]
pub(crate) fn exchange(one: &Path, _: &Path) -> Result<(), StoreError> {
    Err(StoreError::io("exchange the directory with", one)(
        std::io::Error::from(std::io::ErrorKind::Unsupported),
    ))
}
