//! Small files that are written all or not at all, and the lock of a data directory.
//!
//! A file is replaced by writing a new one beside it, syncing it, renaming it over the old one and
//! syncing the directory: after a power cut either the old or the new content is there, whole (Pillai
//! et al., "All File Systems Are Not Created Equal", OSDI 2014).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::directory::{OpenDirectory, parent_of, sync_directory};
use crate::error::StoreError;
use crate::hint_log::DiskAppendFile;

/// The lock file of a data directory.
pub const LOCK_FILE: &str = "lock";

/// A handful of small named files: who a directory is, and the cluster's decisions.
///
/// Names are 1 to 64 ASCII letters, digits, `.`, `_` and `-`, and do not begin with a `.`.
pub trait SmallFiles: Send + Sync + 'static {
    /// The content of a file, `None` when there is none.
    ///
    /// # Errors
    /// What the disk says; a name that is not permitted.
    fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError>;

    /// Creates or replaces a file. Durable when it returns; at no time can half of it be seen.
    ///
    /// # Errors
    /// What the disk says; the old or the new content is then there. A name that is not permitted.
    fn write_durable(&self, name: &str, content: &[u8]) -> Result<(), StoreError>;

    /// Removes a file, if it is there. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says; a name that is not permitted.
    fn remove_durable(&self, name: &str) -> Result<(), StoreError>;
}

/// Small files in a directory that no other process uses.
#[derive(Debug)]
pub struct DirectoryFiles {
    directory: PathBuf,
    /// Held open, so that a change never lacks a descriptor after it was made.
    entries: OpenDirectory,
    _lock: DirectoryLock,
}

impl DirectoryFiles {
    /// Creates the directory if need be, and locks it until this value is dropped.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, otherwise what the disk says.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, StoreError> {
        let directory = directory.as_ref().to_owned();
        create_directory(&directory)?;
        let lock = DirectoryLock::take(&directory, LOCK_FILE)?;
        Ok(Self {
            entries: OpenDirectory::open(&directory)?,
            directory,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Opens a file that grows at its end, and creates an empty one where there is none. Take one of each
    /// name, and keep this value, which has the lock, as long.
    ///
    /// # Errors
    /// What the disk says; a name that is not permitted.
    pub fn append_file(&self, name: &str) -> Result<DiskAppendFile, StoreError> {
        DiskAppendFile::open(self.path(name)?)
    }

    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.directory.join(name);
        check_file_name(name).map_err(StoreError::io("use", &path))?;
        Ok(path)
    }
}

impl SmallFiles for DirectoryFiles {
    fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(name)?;
        match fs::read(&path) {
            Ok(content) => Ok(Some(Bytes::from(content))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    fn write_durable(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name)?;
        // No permitted name begins with a dot, so this one is nobody else's.
        let beside = self.directory.join(format!(".{name}.new"));
        File::create(&beside)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .map_err(StoreError::io("write", &beside))?;
        fs::rename(&beside, &path).map_err(StoreError::io("replace", &path))?;
        self.entries.sync()
    }

    fn remove_durable(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            // Synced all the same: an earlier removal may have failed between the two steps.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", &path)(error)),
        }
        self.entries.sync()
    }
}

/// Keeps other processes out of a directory, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, an advisory one on a file of this name in the directory.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when somebody else has it, otherwise what the disk says.
    pub fn take(directory: &Path, file_name: &str) -> Result<Self, StoreError> {
        let path = directory.join(file_name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
                path: directory.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
        }
    }
}

/// Refuses names that could leave the directory or collide with files of the implementation.
pub(crate) fn check_file_name(name: &str) -> io::Result<()> {
    let good = dynakv_protocol::ids::check_name(name).is_ok()
        && !name.starts_with('.')
        && name != LOCK_FILE;
    if good {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a permitted file name",
        ))
    }
}

/// Creates a directory and its parents, each durable in the one above it.
pub(crate) fn create_directory(directory: &Path) -> Result<(), StoreError> {
    let missing: Vec<&Path> = directory
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    fs::create_dir_all(directory).map_err(StoreError::io("create", directory))?;
    for created in missing {
        sync_directory(parent_of(created))?;
    }
    Ok(())
}

/// The file, if it is there and has a content that `is_good` does not take.
pub(crate) fn damaged_file(
    path: PathBuf,
    is_good: impl FnOnce(&[u8]) -> bool,
) -> Result<Option<PathBuf>, StoreError> {
    match fs::read(&path) {
        Ok(content) => Ok((!content.is_empty() && !is_good(&content)).then_some(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

/// Gives a directory another name beside the present one. Durable when it returns.
///
/// # Errors
/// What the disk says; it then has one of the two names.
pub fn rename_directory(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    sync_directory(parent_of(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("a/b");
        let files = DirectoryFiles::open(&nested).unwrap();
        assert_eq!(files.read("x").unwrap(), None);
        files.write_durable("x", b"one").unwrap();
        files.write_durable("x", b"two").unwrap();
        assert_eq!(files.read("x").unwrap().unwrap(), "two");
        files.remove_durable("x").unwrap();
        files.remove_durable("x").unwrap();
        assert_eq!(files.read("x").unwrap(), None);
    }

    #[test]
    fn a_write_that_died_half_way_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let files = DirectoryFiles::open(directory.path()).unwrap();
        files.write_durable("x", b"old").unwrap();
        fs::write(directory.path().join(".x.new"), b"ne").unwrap();
        assert_eq!(files.read("x").unwrap().unwrap(), "old");
        files.write_durable("x", b"new").unwrap();
        assert_eq!(files.read("x").unwrap().unwrap(), "new");
    }

    #[test]
    fn a_directory_has_one_user() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryFiles::open(directory.path()).unwrap();
        let second = DirectoryFiles::open(directory.path()).unwrap_err();
        assert!(matches!(second, StoreError::Locked { .. }), "{second:?}");
        assert!(
            second
                .to_string()
                .contains("another process uses this directory")
        );
        drop(first);
        DirectoryFiles::open(directory.path()).unwrap();
    }

    #[test]
    fn names_stay_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let files = DirectoryFiles::open(directory.path()).unwrap();
        for name in ["", ".", "..", "../x", "a/b", ".x.new", "lock"] {
            assert!(files.read(name).is_err(), "{name:?}");
            assert!(files.write_durable(name, b"").is_err(), "{name:?}");
            assert!(files.remove_durable(name).is_err(), "{name:?}");
        }
    }
}
