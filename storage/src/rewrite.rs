//! Writes a store anew: only what is live, in ring order, without what sled has grown by.
//!
//! The new store is made beside the old one, held against it, and takes its place in one step of the file
//! system (an exchange of names). Whenever this is cut short, one whole store lies in the store's place:
//! until that step the old one, from then on the new one. What lies beside it is of no use then, and the
//! next rewrite removes it.

use std::path::Path;

use bytes::Bytes;
use dynakv_protocol::codec::Wire;

use crate::check::{Progress, Step, check_store};
use crate::copying::{Beside, ReadPage, size, sync_all};
use crate::directory::{exchange, parent_of, sync_directory};
use crate::disk::{DirectoryLock, LOCK_FILE};
use crate::disk_reserve::DiskSpace;
use crate::disk_store::{Compaction, DiskOptions, DiskStore, TREE_DIRECTORY};
use crate::error::StoreError;
use crate::run_note::RunNote;
use crate::store::Store;
use crate::tree::wait_until_closed;

/// What the name of the store that is being made ends with.
const BESIDE: &str = ".rewriting";

/// Room that must be left over, in bytes: for the log of the new store, and for what both are opened with.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// What a rewrite came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewritten {
    /// How many keys the store has, deleted ones too.
    pub keys: u64,
    /// What it took on disk before, in bytes.
    pub bytes_before: u64,
    /// What it takes now.
    pub bytes_after: u64,
}

/// Why a store was not written anew. The old one is in its place, unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// The store cannot be read, or the new one not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no room for a second one.
    #[error(
        "too little room beside the store: {free_bytes} bytes are free, up to {needed_bytes} are needed"
    )]
    NoRoom {
        /// How much is free.
        free_bytes: u64,
        /// How much may be needed.
        needed_bytes: u64,
    },
    /// The new store is not what the old one says it holds.
    #[error("{findings} findings, the first: {first}")]
    NotTheSame {
        /// How many differences there are.
        findings: u64,
        /// One of them.
        first: String,
    },
}

/// Writes the store in this directory anew. No process may have it open, and none may start on it
/// meanwhile: the caller holds the lock of the data directory.
///
/// # Errors
/// See [`RewriteError`]; the old store is then as it was.
pub fn rewrite_directory(
    directory: &Path,
    progress: Progress<'_>,
) -> Result<Rewritten, RewriteError> {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(BESIDE);
    let beside = directory.with_file_name(name);
    let parent = parent_of(directory);
    // What an earlier one left: either half made, or replaced.
    drop(Beside(beside.clone()));

    // The room was asked for as a whole.
    let options = DiskOptions {
        reserve_bytes: Some(0),
        compaction: Compaction::Never,
        ..DiskOptions::default()
    };
    check_room(parent, 0)?;
    let old = DiskStore::open(directory, options)?;
    let bytes_before = size(directory)?;
    // Where most is deleted, a full disk has room for what is left.
    check_room(parent, old.copy_bytes()?.min(bytes_before))?;
    let beside = Beside(beside);
    let new = DiskStore::open(&beside.0, DiskOptions::of_copy())?;
    copy(&old, &new, progress)?;
    new.checkpoint()?;
    let keys = compare(&old, &new, progress)?;
    // Its log begins anew, and it is the same store all the same.
    if let Some(note) = RunNote::of_store(&old)? {
        let holds = note.holds.max(old.found_end());
        new.note_run(&RunNote { holds, ..note }.to_bytes())?;
    }
    drop(new);
    drop(old);
    for store in [&*beside.0, directory] {
        wait_until_closed(&store.join(TREE_DIRECTORY))?;
    }
    let lock = DirectoryLock::take(directory, LOCK_FILE)?;
    let bytes_after = sync_all(&beside.0)?;
    exchange(&beside.0, directory)?;
    sync_directory(parent)?;
    drop(lock);
    // The old one lies there now.
    drop(beside);
    Ok(Rewritten {
        keys,
        bytes_before,
        bytes_after,
    })
}

fn check_room(parent: &Path, copy_bytes: u64) -> Result<(), RewriteError> {
    let free_bytes = DiskSpace::of(parent)?.free_bytes;
    let needed_bytes = copy_bytes.saturating_add(RESERVE_BYTES);
    if free_bytes < needed_bytes {
        return Err(RewriteError::NoRoom {
            free_bytes,
            needed_bytes,
        });
    }
    Ok(())
}

fn copy(old: &DiskStore, new: &DiskStore, progress: Progress<'_>) -> Result<(), RewriteError> {
    let total = old.totals().keys;
    let mut done = 0;
    let mut after: Option<Bytes> = None;
    loop {
        let page = ReadPage::from(old, after.as_deref())?;
        done += page.write_to(new)?;
        progress(Step::Copying, done, total.max(done));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// The new one is sound, and its hashes and totals are those that the old one kept as it was written.
/// Returns how many keys there are.
fn compare(old: &DiskStore, new: &DiskStore, progress: Progress<'_>) -> Result<u64, RewriteError> {
    let checked = check_store(new, progress)?;
    let mut differences: Vec<String> = checked
        .findings
        .iter()
        .map(|finding| format!("{}: {}", finding.place, finding.problem))
        .collect();
    let hashes = old.segment_hashes(0..=u16::MAX);
    let is_other = |(a, b): (u128, u128)| a != b;
    let others = hashes.into_iter().zip(new.segment_hashes(0..=u16::MAX));
    let others = others.filter(|pair| is_other(*pair)).count();
    if others > 0 {
        differences.push(format!(
            "{others} segments do not hold what was written into the old store"
        ));
    }
    match differences.first() {
        None => Ok(checked.keys),
        Some(first) => Err(RewriteError::NotTheSame {
            findings: differences.len() as u64,
            first: first.clone(),
        }),
    }
}
