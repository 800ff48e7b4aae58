//! Opening sled, and what has to be put right before: what it would take for damage, and what it would not see.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::failure::failure;
use crate::error::StoreError;
use crate::witness;

/// sled cannot change it later. With 4 MiB a tree node of 17 of our largest items (each at most 8 KiB
/// with its key) is far from needing a file of its own, which sled would not sync.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;

/// The smallest cache, in bytes: sled panics without one.
const CACHE_BYTES_MIN: u64 = 1024 * 1024;

/// How long to wait for the threads of a store that this process has just closed.
const CLOSING_WAIT: Duration = Duration::from_secs(5);

/// Where sled writes down its parameters.
const PARAMETERS_FILE: &str = "conf";

/// What sled writes there for a tree of ours, the same in each: the text, and its crc32, little-endian.
fn parameters() -> Vec<u8> {
    let text = format!("segment_size: {SEGMENT_BYTES}\nuse_compression: false\nversion: 0.34\n");
    let sum = crc32fast::hash(text.as_bytes()).to_le_bytes();
    [text.as_bytes(), &sum].concat()
}

/// Opens sled. We hold our own lock, so that another holder of sled's can only be what is left of a
/// store that this process has closed: its threads end a moment later.
pub(super) fn open_sled(directory: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    if let Some(reason) = wrong_parameters(directory)? {
        return Err(StoreError::CorruptStore {
            path: directory.to_owned(),
            reason,
        });
    }
    remove_unfinished_snapshots(directory)?;
    let began = Instant::now();
    loop {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(cache_bytes.max(CACHE_BYTES_MIN))
            .segment_size(SEGMENT_BYTES)
            // Durability is asked for, by `complete`; a timer would only add writes.
            .flush_every_ms(None);
        match config.open() {
            Ok(db) => return Ok(db),
            Err(error) if is_lock(&error) => {
                if began.elapsed() > CLOSING_WAIT {
                    let path = directory.to_owned();
                    return Err(StoreError::Locked { path });
                }
                sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(failure(directory, "open", error)),
        }
    }
}

/// What is wrong with the file of parameters, which sled would read without holding it against its checksum, and
/// would write anew if it were gone.
///
/// sled writes it first and syncs it never. We do when a tree is opened, and so before its first checkpoint: until
/// then it may be torn, nothing is lost with it, and it is removed for sled to write it again.
fn wrong_parameters(directory: &Path) -> Result<Option<String>, StoreError> {
    let path = directory.join(PARAMETERS_FILE);
    let expected = parameters();
    let found = match fs::read(&path) {
        Ok(found) if found == expected => return Ok(None),
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let may_be_torn = found
        .as_ref()
        .is_none_or(|found| expected.starts_with(found) || found.iter().all(|&byte| byte == 0));
    if may_be_torn && !witness::was_complete(directory)? {
        if found.is_some() {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        return Ok(None);
    }
    let what = match found {
        Some(_) => "is damaged, or another tree's",
        None => "is missing",
    };
    Ok(Some(format!("the file sled/{PARAMETERS_FILE} {what}")))
}

/// Puts the right file of parameters in the place of a wrong one; says what was wrong. For a copy that is looked
/// at: there is no telling what else is another tree's.
pub(crate) fn mend_parameters(directory: &Path) -> Result<Option<String>, StoreError> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let wrong = wrong_parameters(directory)?;
    if wrong.is_some() {
        let path = directory.join(PARAMETERS_FILE);
        fs::write(&path, parameters()).map_err(StoreError::io("write", &path))?;
    }
    Ok(wrong)
}

/// The files in which sled began to write down what it had found when it was opened, and did not come to an end:
/// killed, or without room. sled would take the last of them for the newest of its finished ones, and find it
/// damaged (spacejam/sled#1527).
fn remove_unfinished_snapshots(directory: &Path) -> Result<(), StoreError> {
    for path in snapshots(directory)? {
        if path.extension().is_some_and(|it| it == "generating") {
            tracing::warn!(path = %path.display(), "an earlier start was cut short; what it left is removed");
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// The size of what sled wrote down when it was opened, in bytes: where each page of the tree lies.
pub(crate) fn snapshot_bytes(directory: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for path in snapshots(directory)? {
        let metadata = fs::metadata(&path).map_err(StoreError::io("look at", &path))?;
        bytes = metadata.len().max(bytes);
    }
    Ok(bytes)
}

/// The size of the file in which sled has everything, in bytes; 0 where there is none yet.
pub(crate) fn file_bytes(directory: &Path) -> Result<u64, StoreError> {
    let path = directory.join("db");
    match fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreError::io("look at", &path)(error)),
    }
}

fn snapshots(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = || StoreError::io("list", directory);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Waits for the threads of a tree that this process has just closed: until then they may write, also by
/// name.
pub(crate) fn wait_until_closed(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join("db");
    let began = Instant::now();
    loop {
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        // sled holds a lock on this file while it lives.
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            Err(TryLockError::WouldBlock) if began.elapsed() > CLOSING_WAIT => {
                let path = directory.to_owned();
                return Err(StoreError::Locked { path });
            }
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(5)),
        }
    }
}

/// sled has no kind of its own for it.
fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}
