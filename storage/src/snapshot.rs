//! A snapshot: a copy of a store that is in use, in a directory of its own.
//!
//! The live store is walked page by page while others read and write it, and what is found goes into a new store
//! beside. Nothing is linked: sled writes over parts of its file in place, so a link would change with the original.
//!
//! **What is in it.** Each key is of one moment between the begin of the snapshot and its end. Everything that was
//! applied before the begin is in it, in that state or a newer one. Different keys may be of different moments.
//!
//! **What lies where.** It is made as `NAME.unfinished` and gets its name in the last step, when all of it is on the
//! disk. So whatever has a name is whole, and what was cut short is of no use: [`remove_unfinished`] takes it away.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::{Duration, Instant};

use dynakv_protocol::ids::{NODE_ID_BYTES_MAX, check_name};
use dynakv_protocol::shell::quoted;

use crate::ballast;
use crate::copying::{Beside, ReadPage, sync_all};
use crate::directory::sync_directory;
use crate::disk::{DirectoryFiles, create_directory, rename_directory};
use crate::disk_reserve::DiskSpace;
use crate::disk_store::{DiskOptions, DiskStore, TREE_DIRECTORY};
use crate::error::{ShownBytes, StoreError};
use crate::store::Store;
use crate::tree::wait_until_closed;

/// What the name of a snapshot that is being made ends with.
const UNFINISHED: &str = ".unfinished";

/// The store within it, as in a data directory.
const STORE: &str = "store";

/// What a store takes on disk for each byte of values, at most: versions, checksums, and what sled does not fill.
/// Measured, at the highest: 152 MiB with 300,000 keys of 24 bytes and values of 100 (277 MB are asked for), 325 MiB with
/// 300 values of 64 KiB to 1 MiB, 166 MB together (398 MB).
const BYTES_PER_VALUE_BYTE: u64 = 2;

/// What it takes for each key besides, in bytes: keys may have 4,096, and most have less than a hundredth of that.
const BYTES_PER_KEY: u64 = 512;

/// What a store takes whatever it holds, in bytes: log, ballast and segments of sled's while it is made.
const BYTES_BASE: u64 = 64 * 1024 * 1024;

/// So much more than the reserve is left free, in bytes: writers are not to be refused for a snapshot.
const BESIDE_RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// A snapshot that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMade {
    /// Where it lies.
    pub path: PathBuf,
    /// How many keys it has, deleted ones too.
    pub keys: u64,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
}

/// How far a snapshot is, after each page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPage {
    /// How many keys were copied, deleted ones too.
    pub keys_done: u64,
    /// About how many there are; never less than were copied.
    pub keys_total: u64,
    /// How much processor time the page took at most, the new store's own threads included.
    pub busy: Duration,
}

/// Why there is no snapshot. Nothing of it is left, and the store goes on as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The name cannot be.
    #[error(
        "{name:?} is no name of a snapshot: it has 1 to 64 letters, digits, \".\", \"_\" and \"-\", does not begin with \
         \".\" and does not end with \"{UNFINISHED}\"; try: dynakv snapshot before-upgrade"
    )]
    Name {
        /// What was asked for, cut off where it is too long.
        name: String,
    },
    /// There is one of this name.
    #[error(
        "there is a snapshot in {} already: take another name, or remove that one: rm -r {}",
        path.display(),
        quoted(&path.display().to_string())
    )]
    Exists {
        /// Where it lies.
        path: PathBuf,
    },
    /// Another one is being made.
    #[error(
        "this node makes the snapshot {name} at present, and one at a time: wait for it: dynakv snapshot {name}"
    )]
    Busy {
        /// Its name.
        name: String,
    },
    /// There is too little room for a second copy. Nothing was begun.
    #[error(
        "too little room for a snapshot in {}: {} are free, up to {} are needed, and {} are kept in reserve; remove \
         snapshots that are of no use any more, or free some space: df -h {}",
        path.display(),
        ShownBytes(*free_bytes),
        ShownBytes(*needed_bytes),
        ShownBytes(*reserve_bytes),
        quoted(&path.display().to_string())
    )]
    NoRoom {
        /// Where the snapshots lie.
        path: PathBuf,
        /// What is free, in bytes.
        free_bytes: u64,
        /// What may be needed, in bytes.
        needed_bytes: u64,
        /// What is kept free besides, in bytes.
        reserve_bytes: u64,
    },
    /// The disk was filled meanwhile, by the snapshot or by others. What was made of it is removed.
    #[error(
        "given up: only {} were left on the disk that holds {}, and {} are kept in reserve for the node; what was made \
         of the snapshot is removed. Free some space: df -h {}",
        ShownBytes(*free_bytes),
        path.display(),
        ShownBytes(*reserve_bytes),
        quoted(&path.display().to_string())
    )]
    RanOut {
        /// Where the snapshots lie.
        path: PathBuf,
        /// What was free, in bytes.
        free_bytes: u64,
        /// What is kept free, in bytes.
        reserve_bytes: u64,
    },
    /// The store cannot give everything that it held. A copy without that would pass for a whole one.
    #[error(
        "{0}. A snapshot without it would pass for a whole one, so none is made: wait until the node is rebuilt \
         (dynakv status), then give the command again"
    )]
    Damaged(StoreError),
    /// The node has lost data and is bringing them back.
    #[error(
        "this node is rebuilding {segments} segments: it lacks data there, and a snapshot would lack them too; wait until \
         it is done (dynakv status), then give the command again"
    )]
    Rebuilding {
        /// How many segments are left.
        segments: u32,
    },
    /// The node stops.
    #[error(
        "the node is being stopped, and its snapshot is given up: give the command again once it runs"
    )]
    Stopped,
    /// The disk refused, or the system did.
    #[error("the snapshot is given up and what was made of it is removed: {0}")]
    Store(StoreError),
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } | StoreError::CorruptRange { .. } => Self::Damaged(error),
            error => Self::Store(error),
        }
    }
}

/// Whether a snapshot may have this name: 1 to 64 ASCII letters, digits, `.`, `_` and `-`, not beginning with a `.`, and
/// not ending as one that is being made does.
///
/// # Errors
/// [`SnapshotError::Name`].
pub fn check_snapshot_name(name: &str) -> Result<(), SnapshotError> {
    let is_good = check_name(name).is_ok() && !name.starts_with('.') && !name.ends_with(UNFINISHED);
    match is_good {
        true => Ok(()),
        // A hostile name must not flood a log line.
        false => Err(SnapshotError::Name {
            name: name.chars().take(NODE_ID_BYTES_MAX).collect(),
        }),
    }
}

/// Removes what was left of snapshots that were cut short, by a kill or a power cut. No snapshot may be under way in
/// this directory, the one that holds them.
///
/// # Errors
/// What the disk says. Where there is no such directory there is nothing to remove.
pub fn remove_unfinished(directory: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("list", directory)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", directory))?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .ends_with(UNFINISHED.as_bytes())
        {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
            tracing::info!(path = %path.display(), "a snapshot that was cut short is removed");
        }
    }
    sync_directory(directory)
}

/// Copies a store that others read and write meanwhile into `directory`/`name`, where it lies as in a data directory.
/// See the top of this file for what is in it. It is whole and durable when this returns.
///
/// `seal` puts what belongs beside the store there, as the last thing before the snapshot gets its name. `watch` hears of
/// each page, rests as long as it wants, and may end it all. The store is held only while a page is read, so that whoever
/// owns it need not wait for the snapshot.
///
/// What earlier ones left unfinished is removed first. Only one may be under way in a directory.
///
/// # Errors
/// See [`SnapshotError`]; nothing is left of it then. [`SnapshotError::Stopped`] where `watch` ended it, or the store was
/// closed.
pub fn make_snapshot(
    source: &Weak<dyn Store>,
    (directory, name): (&Path, &str),
    seal: impl FnOnce(&DirectoryFiles) -> Result<(), SnapshotError>,
    watch: &mut dyn FnMut(SnapshotPage) -> ControlFlow<()>,
) -> Result<SnapshotMade, SnapshotError> {
    check_snapshot_name(name)?;
    create_directory(directory)?;
    remove_unfinished(directory)?;
    let path = directory.join(name);
    let is_free = || match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("look at", &path)(error).into()),
        Ok(_) => Err(SnapshotError::Exists { path: path.clone() }),
    };
    is_free()?;
    let reserve_bytes = {
        let store = source.upgrade().ok_or(SnapshotError::Stopped)?;
        check_room(&*store, directory)?
    };
    let beside = Beside(directory.join(format!("{name}{UNFINISHED}")));
    let still_room = || still_room(directory, reserve_bytes);
    let (keys, bytes) = make_in(source, &beside.0, seal, watch, &still_room)?;
    is_free()?;
    rename_directory(&beside.0, &path)?;
    Ok(SnapshotMade { path, keys, bytes })
}

/// Makes all of it, durably, in the directory that it is made in. Gives how many keys and bytes there are.
fn make_in(
    source: &Weak<dyn Store>,
    directory: &Path,
    seal: impl FnOnce(&DirectoryFiles) -> Result<(), SnapshotError>,
    watch: &mut dyn FnMut(SnapshotPage) -> ControlFlow<()>,
    check_room: &dyn Fn() -> Result<(), SnapshotError>,
) -> Result<(u64, u64), SnapshotError> {
    let files = DirectoryFiles::open(directory)?;
    let keys = fill(source, &directory.join(STORE), watch, check_room)?;
    seal(&files)?;
    drop(files);
    Ok((keys, sync_all(directory)?))
}

/// Makes the new store, and closes it. Gives how many keys there are.
fn fill(
    source: &Weak<dyn Store>,
    directory: &Path,
    watch: &mut dyn FnMut(SnapshotPage) -> ControlFlow<()>,
    check_room: &dyn Fn() -> Result<(), SnapshotError>,
) -> Result<u64, SnapshotError> {
    let new = DiskStore::open(directory, DiskOptions::of_copy())?;
    let copied = copy(source, &new, watch, check_room);
    let copied = copied.and_then(|keys| {
        new.checkpoint()?;
        Ok(keys)
    });
    drop(new);
    // Also where it is given up: else it could come back as it is removed.
    let closed = wait_until_closed(&directory.join(TREE_DIRECTORY));
    let keys = copied?;
    closed?;
    // It is of use to a store that is written, which takes it anew.
    let ballast = directory.join(ballast::FILE);
    match fs::remove_file(&ballast) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", &ballast)(error).into())
        }
        _ => Ok(keys),
    }
}

fn copy(
    source: &Weak<dyn Store>,
    new: &DiskStore,
    watch: &mut dyn FnMut(SnapshotPage) -> ControlFlow<()>,
    check_room: &dyn Fn() -> Result<(), SnapshotError>,
) -> Result<u64, SnapshotError> {
    let mut keys_done = 0;
    let mut after = None;
    let mut cpu_before = Duration::ZERO;
    loop {
        let began = Instant::now();
        let store = source.upgrade().ok_or(SnapshotError::Stopped)?;
        let total = store.totals().keys;
        let page = ReadPage::from(&*store, after.as_deref())?;
        // Writing may wait, and whoever owns the store is not to wait with it.
        drop(store);
        keys_done += page.write_to(new)?;
        let cpu = new.status().checkpoints_cpu_time;
        let watched = watch(SnapshotPage {
            keys_done,
            keys_total: total.max(keys_done),
            busy: began.elapsed() + cpu.saturating_sub(cpu_before),
        });
        cpu_before = cpu;
        if watched.is_break() {
            return Err(SnapshotError::Stopped);
        }
        check_room()?;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(keys_done),
        }
    }
}

/// Whether there is room for a second copy besides the reserve. Gives that.
fn check_room(store: &dyn Store, directory: &Path) -> Result<u64, SnapshotError> {
    let reserve_bytes = store.status().disk_reserve_bytes;
    let free_bytes = DiskSpace::of(directory)?.free_bytes;
    let totals = store.totals();
    let values = totals.live_bytes.saturating_mul(BYTES_PER_VALUE_BYTE);
    let keys = totals.keys.saturating_mul(BYTES_PER_KEY);
    let needed_bytes = BYTES_BASE.saturating_add(values).saturating_add(keys);
    if free_bytes < needed_bytes.saturating_add(reserve_bytes) {
        return Err(SnapshotError::NoRoom {
            path: directory.to_owned(),
            free_bytes,
            needed_bytes,
            reserve_bytes,
        });
    }
    Ok(reserve_bytes)
}

fn still_room(directory: &Path, reserve_bytes: u64) -> Result<(), SnapshotError> {
    let free_bytes = DiskSpace::of(directory)?.free_bytes;
    if free_bytes < reserve_bytes.saturating_add(BESIDE_RESERVE_BYTES) {
        return Err(SnapshotError::RanOut {
            path: directory.to_owned(),
            free_bytes,
            reserve_bytes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::memory_store::MemoryDisk;

    /// The disk is never filled for real: who else uses it would feel it, and be felt.
    #[test]
    fn it_is_given_up_when_the_room_runs_out() {
        let root = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryDisk::new().store());
        let source = Arc::downgrade(&store);
        let path = root.path().join("a.unfinished");
        let looks = AtomicU32::new(0);
        let ran_out = || {
            looks.fetch_add(1, Ordering::Relaxed);
            still_room(root.path(), u64::MAX)
        };
        let go_on = &mut |_: SnapshotPage| ControlFlow::Continue(());
        let beside = Beside(path.clone());
        let made = make_in(&source, &beside.0, |_| Ok(()), go_on, &ran_out);
        let error = made.unwrap_err();
        assert!(matches!(error, SnapshotError::RanOut { .. }), "{error}");
        assert!(error.to_string().contains("df -h"), "{error}");
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        assert!(path.exists());
        drop(beside);
        assert!(!path.exists());
        still_room(root.path(), 0).unwrap();
    }
}
