//! Opening the store of a data directory, and what becomes of one that is damaged beyond opening.
//!
//! It is set aside whole, under a dated name, and the node begins again with an empty one, under a new
//! actor and with every segment to be rebuilt. What this costs is a copy of the data; so it is done only
//! where another node can have one.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

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

/// Why there is no store to run on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk refused, or the store is another version's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is damaged or gone, and no other node can have these data. Nothing was touched.
    #[error(
        "{reason}; no other node has these data: put back what you have of them, or start once with \
         --accept-loss, which begins with an empty store"
    )]
    NoOtherCopy {
        /// What is wrong with the store.
        reason: String,
    },
}

/// Opens the store of this data directory; sets a damaged one aside and opens an empty one in its place.
///
/// With `accept_loss` an empty store is one like any other: nothing is rebuilt.
///
/// # Errors
/// See [`OpenError`].
pub fn open_store(
    data_dir: &Path,
    files: &DirectoryFiles,
    options: DiskOptions,
    accept_loss: bool,
) -> Result<DiskStore, OpenError> {
    let directory = data_dir.join(STORE_DIRECTORY);
    // Gone: somebody has removed it, or the process ended while it was being set aside.
    let is_gone = Identity::exists(files)? && !DiskStore::exists(&directory);
    let reason = if is_gone {
        format!(
            "the store of this node is gone from {}",
            directory.display()
        )
    } else {
        match DiskStore::open(&directory, options) {
            Ok(store) => return Ok(store),
            Err(error) if error.is_corruption() => error.to_string(),
            Err(error) => return Err(error.into()),
        }
    };
    if !accept_loss && !has_other_members(files)? {
        return Err(OpenError::NoOtherCopy { reason });
    }
    forget(files, accept_loss)?;
    if is_gone {
        tracing::error!("{reason}: this node begins with an empty one");
    } else {
        let set_aside = set_aside(data_dir, &directory)?;
        tracing::error!(
            %reason,
            set_aside = %set_aside.display(),
            "the store is damaged and was set aside: this node begins with an empty one. \
             See what is damaged: dynakv store check {}",
            set_aside.display()
        );
    }
    Ok(DiskStore::open(directory, options)?)
}

/// Notes what an empty store means. Before anything is moved, so that a crash in between loses neither.
fn forget(files: &DirectoryFiles, accept_loss: bool) -> Result<(), StoreError> {
    // What was minted under the present actor is not here any more.
    Identity::retire_actor(files)?;
    if accept_loss {
        tracing::error!("the loss of this node's data is accepted: nothing will be rebuilt");
        return Rebuilding::note_none(files);
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
    // humantime knows no time before 1970.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = SystemTime::UNIX_EPOCH + since.unwrap_or_default();
    let stamp = humantime::format_rfc3339_seconds(now).to_string();
    let name = format!("{SET_ASIDE}{}", stamp.replace([':', '-'], ""));
    let mut path = data_dir.join(&name);
    let mut attempt = 0_u64;
    while path.exists() {
        attempt += 1;
        path = data_dir.join(format!("{name}-{attempt}"));
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use dynakv_protocol::ids::{ClusterId, DirectoryId, NodeId, RingVersion};
    use dynakv_protocol::ring_document::{Member, Step};
    use dynakv_storage::{Footprint, LastStop, Mutation, Started, Store, save_document};

    use super::*;

    /// A data directory that was stopped cleanly, with one key, in a ring of so many members.
    fn stopped(members: usize) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let files = DirectoryFiles::open(directory.path()).unwrap();
        let store = open(directory.path(), &files, false).unwrap();
        let mutation = Mutation {
            key: Bytes::from_static(b"k"),
            versions: Bytes::from_static(b"v"),
            before: Footprint::default(),
            after: Footprint::default(),
        };
        store.apply(&[mutation]).unwrap();
        store.sync().unwrap();
        drop(store);
        let ring = RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "c".to_owned(),
            version: RingVersion(1),
            step: Step::Final,
            n: 3,
            w: 2,
            r: 2,
            members: (0..members)
                .map(|number| Member {
                    id: NodeId::new(&format!("n-{number}")).unwrap(),
                    directory_id: DirectoryId(number as u64),
                    address: format!("127.0.0.1:{}", 1000 + number),
                    weight: 1,
                    zone: String::new(),
                })
                .collect(),
        };
        save_document(&files, RING, &ring.to_bytes()).unwrap();
        let identity = start(&files).identity;
        let actor = identity.actor;
        identity.mark_clean(&files, actor, 1).unwrap();
        directory
    }

    fn start(files: &DirectoryFiles) -> Started {
        let random = || fastrand::u64(1..);
        Identity::start(files, NodeId::new("n-0").unwrap(), random).unwrap()
    }

    fn open(
        data_dir: &Path,
        files: &DirectoryFiles,
        accept_loss: bool,
    ) -> Result<DiskStore, OpenError> {
        open_store(data_dir, files, DiskOptions::default(), accept_loss)
    }

    fn rebuilding(files: DirectoryFiles) -> u32 {
        Rebuilding::load(Arc::new(files)).unwrap().left()
    }

    fn ruin(store: &Path) {
        for entry in std::fs::read_dir(store.join("log")).unwrap() {
            std::fs::write(entry.unwrap().path(), "ruined").unwrap();
        }
    }

    fn empty(store: &Path) {
        std::fs::remove_dir_all(store).unwrap();
        std::fs::create_dir(store).unwrap();
    }

    fn remove(store: &Path) {
        std::fs::remove_dir_all(store).unwrap();
    }

    #[test]
    fn a_lost_store_is_replaced_under_a_new_actor_where_others_have_its_data() {
        for lose in [ruin, empty, remove] {
            let directory = stopped(2);
            lose(&directory.path().join(STORE_DIRECTORY));
            let files = DirectoryFiles::open(directory.path()).unwrap();
            let store = open(directory.path(), &files, false).unwrap();
            assert_eq!(store.get(b"k").unwrap(), None);
            assert_eq!(start(&files).last_stop, LastStop::Unclean);
            assert_eq!(rebuilding(files), 65_536);
        }
    }

    #[test]
    fn the_only_copy_is_given_up_on_demand_only() {
        for lose in [ruin, empty, remove] {
            let directory = stopped(1);
            lose(&directory.path().join(STORE_DIRECTORY));
            let files = DirectoryFiles::open(directory.path()).unwrap();
            let error = open(directory.path(), &files, false).unwrap_err();
            assert!(matches!(error, OpenError::NoOtherCopy { .. }), "{error}");
            assert!(Identity::ended_cleanly(&files).unwrap(), "touched");
            assert!(list_set_aside(directory.path()).is_empty(), "touched");
            drop(open(directory.path(), &files, true).unwrap());
            assert_eq!(start(&files).last_stop, LastStop::Unclean);
            assert_eq!(rebuilding(files), 0);
        }
    }

    #[test]
    fn stores_set_aside_in_one_second_have_names_of_their_own() {
        let directory = stopped(2);
        let files = DirectoryFiles::open(directory.path()).unwrap();
        for count in 1..=3 {
            ruin(&directory.path().join(STORE_DIRECTORY));
            drop(open(directory.path(), &files, false).unwrap());
            assert_eq!(list_set_aside(directory.path()).len(), count);
        }
    }
}
