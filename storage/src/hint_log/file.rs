//! A file that grows at its end, and the one on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::directory::{OpenDirectory, parent_of, sync_directory};
use crate::error::StoreError;

/// Gives the new content of a file piece by piece, `None` at its end.
pub type Pieces<'a> = &'a mut dyn FnMut() -> Result<Option<Bytes>, StoreError>;

/// A file that grows at its end. It has one user at a time.
pub trait AppendFile: Send + Sync + 'static {
    /// Where it lies, for messages.
    fn path(&self) -> PathBuf;

    /// How many bytes it has, those included that a power cut can still take away.
    ///
    /// # Errors
    /// What the disk says.
    fn len(&self) -> Result<u64, StoreError>;

    /// Whether it has none.
    ///
    /// # Errors
    /// What the disk says.
    fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// Reads `length` bytes from `at` on, fewer where the file ends before.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError>;

    /// Adds bytes at the end; durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// What the disk says. A part of the bytes may then be there: [`truncate`](Self::truncate) cuts it off.
    fn append(&self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes durable what is there.
    ///
    /// # Errors
    /// [`StoreError::SyncFailed`]: what is on the disk is unknown from then on.
    fn sync(&self) -> Result<(), StoreError>;

    /// Cuts off what is behind `length` bytes; durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// What the disk says.
    fn truncate(&self, length: u64) -> Result<(), StoreError>;

    /// Replaces the whole content, durably; at no time can half of it be seen. The pieces may read this
    /// file while they are made.
    ///
    /// # Errors
    /// Those of the pieces, and what the disk says: the old content is then there as before. After
    /// [`StoreError::SyncFailed`] it is unknown which of the two a power cut leaves.
    fn replace(&self, pieces: Pieces<'_>) -> Result<(), StoreError>;
}

/// The [`AppendFile`] on disk.
///
/// Its directory must have one user only: take it from [`DirectoryFiles`](crate::DirectoryFiles).
#[derive(Debug)]
pub struct DiskAppendFile {
    path: PathBuf,
    /// What [`replace`](AppendFile::replace) changes for another one.
    file: Mutex<Arc<File>>,
}

impl DiskAppendFile {
    /// Opens the file, and creates an empty one where there is none.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        remove_if_there(&beside(&path))?;
        let is_new = !path.exists();
        let file = open(&path, true)?;
        if is_new {
            sync_directory(parent_of(&path))?;
        }
        Ok(Self {
            file: Mutex::new(Arc::new(file)),
            path,
        })
    }

    /// Opens a file that is there, only to be read.
    pub(super) fn open_to_read(path: PathBuf) -> Result<Self, StoreError> {
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        Ok(Self {
            file: Mutex::new(Arc::new(file)),
            path,
        })
    }

    fn file(&self) -> Arc<File> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<File>> {
        // Nothing that could panic is done under the lock.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_beside(&self, beside: &Path, pieces: Pieces<'_>) -> Result<(), StoreError> {
        let mut file = File::create(beside).map_err(StoreError::io("create", beside))?;
        while let Some(piece) = pieces()? {
            file.write_all(&piece)
                .map_err(StoreError::io("write", beside))?;
        }
        // Should this fail the file is thrown away, and nothing rests on it.
        file.sync_all().map_err(StoreError::io("write", beside))
    }
}

/// What replaces the file, until it does. No permitted name begins with a dot.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn open(path: &Path, create: bool) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(create)
        .open(path)
        .map_err(StoreError::io("open", path))
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

impl AppendFile for DiskAppendFile {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn len(&self) -> Result<u64, StoreError> {
        let metadata = self.file().metadata();
        Ok(metadata.map_err(StoreError::io("read", &self.path))?.len())
    }

    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError> {
        let file = self.file();
        let mut content = BytesMut::zeroed(length);
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut content[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", &self.path)(error)),
            }
        }
        content.truncate(filled);
        Ok(content.freeze())
    }

    fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = (&*self.file()).write_all(bytes);
        written.map_err(StoreError::io("write", &self.path))
    }

    fn sync(&self) -> Result<(), StoreError> {
        let synced = self.file().sync_data();
        synced.map_err(StoreError::sync_failed(&self.path))
    }

    fn truncate(&self, length: u64) -> Result<(), StoreError> {
        let cut = self.file().set_len(length);
        cut.map_err(StoreError::io("cut off", &self.path))
    }

    fn replace(&self, pieces: Pieces<'_>) -> Result<(), StoreError> {
        let beside = beside(&self.path);
        let entries = OpenDirectory::open(parent_of(&self.path))?;
        // Opened before the names change: afterwards nothing may fail but the sync of the directory.
        let written = self
            .write_beside(&beside, pieces)
            .and_then(|()| open(&beside, false))
            .and_then(|file| {
                fs::rename(&beside, &self.path).map_err(StoreError::io("replace", &self.path))?;
                Ok(file)
            });
        match written {
            Ok(file) => {
                *self.lock() = Arc::new(file);
                entries.sync()
            }
            Err(error) => {
                if let Err(also) = remove_if_there(&beside) {
                    tracing::warn!(error = %also, "cannot remove a file that is of no use");
                }
                Err(error)
            }
        }
    }
}
