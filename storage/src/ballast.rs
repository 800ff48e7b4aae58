//! The ballast: a file that holds the room which opening the store takes, for when something else has filled
//! the disk.
//!
//! Opening writes a segment of sled's, a log file and small ones, and where each page of the tree lies (sled's
//! snapshot, of which the old one goes only when the new one is whole). That last part grows with the store, and
//! so the ballast grows with it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::directory::sync_directory;
use crate::error::StoreError;
use crate::tree::{file_bytes, snapshot_bytes};

/// The ballast's file.
pub(crate) const FILE: &str = "ballast";

/// What opening takes whatever the store holds, in bytes.
const BASE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The part of the tree's file that its snapshot may have grown to since it was written last: one in so many
/// bytes. Measured: one in 33 with values of 20 bytes, the worst case (`a_snapshot_is_no_larger_than_expected`).
const SNAPSHOT_PARTS: u64 = 20;

/// It grows in steps of this, in bytes.
const STEP_BYTES: u64 = 4 * 1024 * 1024;

/// Never more than this part of the disk.
const DISK_PARTS: u64 = 8;

/// Keeps room for opening the store.
#[derive(Debug)]
pub(crate) struct Ballast {
    directory: PathBuf,
    tree: PathBuf,
    disk_bytes: u64,
    /// The last snapshot.
    snapshot_bytes: AtomicU64,
}

impl Ballast {
    /// Of the store in this directory, whose tree lies in `tree`, on a disk of this size.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn of(directory: &Path, tree: &Path, disk_bytes: u64) -> Result<Self, StoreError> {
        let ballast = Self {
            directory: directory.to_owned(),
            tree: tree.to_owned(),
            disk_bytes,
            snapshot_bytes: AtomicU64::new(0),
        };
        ballast.learn()?;
        Ok(ballast)
    }

    /// Looks again how large the snapshot is. It is another one after each opening of the tree.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn learn(&self) -> Result<(), StoreError> {
        let bytes = match snapshot_bytes(&self.tree) {
            Ok(bytes) => bytes,
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        self.snapshot_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// What opening takes of any store, in bytes.
    pub(crate) fn base_bytes(&self) -> u64 {
        (self.disk_bytes / DISK_PARTS).min(BASE_BYTES_MAX)
    }

    /// The most that the next snapshot takes, in bytes.
    pub(crate) fn snapshot_bytes_max(&self) -> u64 {
        let last = self.snapshot_bytes.load(Ordering::Relaxed);
        // A file that cannot be looked at just now is no reason to give up what is there.
        let tree = file_bytes(&self.tree).unwrap_or(0);
        snapshot_bytes_max(tree, last)
    }

    /// What it should have, in bytes.
    pub(crate) fn wanted_bytes(&self) -> u64 {
        let grown = self.snapshot_bytes_max().next_multiple_of(STEP_BYTES);
        // Small enough to be in the base: it has some to spare.
        let grown = if grown <= STEP_BYTES { 0 } else { grown };
        let wanted = self.base_bytes().saturating_add(grown);
        wanted.min((self.disk_bytes / DISK_PARTS).max(self.base_bytes()))
    }

    /// What it has, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |it| it.len())
    }

    /// Gives it up: something has met the end of the disk.
    pub(crate) fn give_up(&self) {
        let path = self.path();
        match fs::remove_file(&path) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), "the disk is full: the ballast is given up");
                let _ = sync_directory(&self.directory);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remove the ballast")
            }
        }
    }

    /// Takes what is missing of it, if there is twice as much to spare. Without one the store runs as well, until
    /// the disk is full.
    pub(crate) fn fill(&self, spare_bytes: u64) {
        let (bytes, wanted) = (self.bytes(), self.wanted_bytes());
        let missing = wanted.saturating_sub(bytes);
        if missing == 0 || spare_bytes < missing.saturating_mul(2) {
            return;
        }
        let path = self.path();
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let filled = opened.and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, wanted)
                .map_err(io::Error::from)
                .and_then(|()| file.sync_all())
                // What it had it keeps.
                .inspect_err(|_| drop(file.set_len(bytes)))
        });
        if let Err(error) = filled {
            tracing::debug!(path = %path.display(), %error, "no ballast, or a small one");
            if bytes == 0 {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }
}

/// The most that the next snapshot of a tree takes, by the size of its file and that of the last one, in bytes.
pub(crate) fn snapshot_bytes_max(tree: u64, last: u64) -> u64 {
    (tree / SNAPSHOT_PARTS).max(last / 4 * 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    #[test]
    fn it_grows_with_the_store_and_never_beyond_its_part_of_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("sled");
        let on = |disk_bytes| Ballast::of(directory.path(), &tree, disk_bytes).unwrap();
        assert_eq!(on(64 * MIB).wanted_bytes(), 8 * MIB);
        assert_eq!(on(100 * GIB).wanted_bytes(), 16 * MIB);
        fs::create_dir(&tree).unwrap();
        let db = fs::File::create(tree.join("db")).unwrap();
        db.set_len(40 * MIB).unwrap();
        assert_eq!(on(64 * MIB).wanted_bytes(), 8 * MIB);
        assert_eq!(on(100 * GIB).wanted_bytes(), 16 * MIB);
        db.set_len(40 * GIB).unwrap();
        let wanted = on(1000 * GIB).wanted_bytes();
        assert!(wanted >= 16 * MIB + 40 * GIB / SNAPSHOT_PARTS, "{wanted}");
        assert_eq!(on(8 * GIB).wanted_bytes(), GIB);
        // What the last one took, the next one takes as well.
        let snapshot = fs::File::create(tree.join("snap.0000000000000001")).unwrap();
        snapshot.set_len(4 * GIB).unwrap();
        assert!(on(1000 * GIB).wanted_bytes() >= 5 * GIB);
    }
}
