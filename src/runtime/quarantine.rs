//! Opening the store of a data directory, and what becomes of one that is damaged beyond opening.
//!
//! It is set aside whole, under a dated name, and the node begins again with an empty one, under a new
//! actor and with every segment to be rebuilt. What this costs is a copy of the data; so it is done only
//! where another node can have one.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dynakv_protocol::codec::Wire;
use dynakv_protocol::ring_document::RingDocument;
use dynakv_storage::{
    DirectoryFiles, DiskOptions, DiskStore, Identity, StoreError, load_document, rename_directory,
};

use super::control::RING;
use super::rebuilding::Rebuilding;

/// Where the store lives in the data directory.
pub const STORE_DIRECTORY: &str = "store";

/// What the name of a store that was set aside begins with; a time follows.
const SET_ASIDE: &str = "store.damaged-";

/// Opens the store of this data directory; sets a damaged one aside and opens an empty one in its place.
///
/// With `accept_loss` an empty store is one like any other: nothing is rebuilt.
///
/// # Errors
/// What the disk says. [`StoreError::CorruptStore`] and [`StoreError::CorruptLog`] when the store is
/// damaged and there is no other node to rebuild it from: nothing was touched then.
pub fn open_store(
    data_dir: &Path,
    files: &DirectoryFiles,
    options: DiskOptions,
    accept_loss: bool,
) -> Result<DiskStore, StoreError> {
    let directory = data_dir.join(STORE_DIRECTORY);
    if !directory.exists() && Identity::exists(files)? {
        // Somebody has removed it, or the process ended while it was being set aside.
        tracing::error!(
            directory = %directory.display(),
            "the store of this node is gone"
        );
        forget(files, accept_loss)?;
        return DiskStore::open(directory, options);
    }
    let error = match DiskStore::open(&directory, options) {
        Err(error) if error.is_corruption() => error,
        opened => return opened,
    };
    if !accept_loss && !has_other_members(files)? {
        tracing::error!(
            "no other node has these data: move {} aside yourself, or start once with --accept-loss",
            directory.display()
        );
        return Err(error);
    }
    forget(files, accept_loss)?;
    let set_aside = set_aside(data_dir, &directory)?;
    tracing::error!(
        %error,
        set_aside = %set_aside.display(),
        "the store is damaged and was set aside: this node begins with an empty one. \
         See what is damaged: dynakv store check {}",
        set_aside.display()
    );
    DiskStore::open(directory, options)
}

/// Notes what an empty store means. Before anything is moved, so that a crash in between loses neither.
fn forget(files: &DirectoryFiles, accept_loss: bool) -> Result<(), StoreError> {
    // What was minted under the present actor is not here any more.
    Identity::retire_actor(files)?;
    if accept_loss {
        tracing::error!("the loss of this node's data is accepted: nothing will be rebuilt");
        return Ok(());
    }
    Rebuilding::note_all(files)
}

/// Whether the ring that this directory knows has more than one member.
fn has_other_members(files: &DirectoryFiles) -> Result<bool, StoreError> {
    let document = load_document(files, RING)?;
    let ring = document.and_then(|bytes| RingDocument::from_bytes(&bytes).ok());
    Ok(ring.is_some_and(|ring| ring.members.len() > 1))
}

/// Moves the store to a name that is free, and returns that.
fn set_aside(data_dir: &Path, store: &Path) -> Result<PathBuf, StoreError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.unwrap_or_default().as_secs();
    let stamp =
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let stamp = stamp.to_string().replace([':', '-'], "");
    let named = |attempt: u32| match attempt {
        0 => data_dir.join(format!("{SET_ASIDE}{stamp}")),
        _ => data_dir.join(format!("{SET_ASIDE}{stamp}-{attempt}")),
    };
    let free = (0..).map(named).find(|path| !path.exists());
    // The attempts do not end before a name is free.
    let path = free.unwrap_or_else(|| named(u32::MAX));
    rename_directory(store, &path)?;
    Ok(path)
}

/// The names of the stores that were set aside in this data directory.
pub fn list_set_aside(data_dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(data_dir) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(SET_ASIDE)).collect();
    names.sort();
    names
}
