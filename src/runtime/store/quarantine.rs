//! Opening the store of a data directory, and what becomes of one that is damaged beyond opening.
//!
//! It is set aside whole, under a dated name, and the node begins again with an empty one, under a new
//! actor and with every segment to be rebuilt. What this costs is a copy of the data; so it is done only
//! where another node can have one.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dynakv_protocol::NodeId;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::shell::quoted;
use dynakv_storage::{
    DirectoryFiles, DiskOptions, DiskStore, Identity, StoreError, StoreOrigin, load_document,
    rename_directory,
};

use super::rebuilding::Rebuilding;
use crate::runtime::shared::data_directory::{RING, SET_ASIDE, STORE_DIRECTORY};

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
    /// The store was put here from another directory. Nothing was touched.
    #[error(
        "the store in {store} is of another data directory, one of node {owner}: put this node's own back; \
         or move that one away (mv {store} {store}.other) and start again, and the other nodes give back \
         what they have"
    )]
    OtherDirectory {
        /// Where it lies.
        store: String,
        /// Whose it is.
        owner: NodeId,
    },
    /// There are data and nothing that says whose they are. Nothing was touched.
    #[error(
        "there is a store with data in {store}{owner}, and no identity beside it: put back the files that lay \
         around it; or move it away (mv {store} {store}.other) and start again, as a new node"
    )]
    NoIdentity {
        /// Where it lies.
        store: String,
        /// Whose it says that it is.
        owner: String,
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
    let is_gone = Identity::exists(files)? && !DiskStore::exists(&directory)?;
    let reason = if is_gone {
        format!(
            "the store of this node is gone from {}",
            directory.display()
        )
    } else {
        match DiskStore::open(&directory, options) {
            Ok(store) => return known(store, &directory, files, accept_loss),
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
            quoted(&set_aside.display().to_string())
        );
    }
    Ok(DiskStore::open(directory, options)?)
}

/// Holds a store that can be read against the identity beside it. One of this directory that is not the one
/// it left last is kept, and what it lacks is brought back.
fn known(
    store: DiskStore,
    directory: &Path,
    files: &DirectoryFiles,
    accept_loss: bool,
) -> Result<DiskStore, OpenError> {
    let path = || directory.display().to_string();
    match Identity::judge_store(files, &store, store.found_end())? {
        StoreOrigin::Own => Ok(store),
        StoreOrigin::OtherDirectory(owner) => Err(OpenError::OtherDirectory {
            store: path(),
            owner,
        }),
        StoreOrigin::Nobody(owner) => Err(OpenError::NoIdentity {
            store: path(),
            owner: owner.map_or_else(String::new, |owner| format!(", of node {owner}")),
        }),
        StoreOrigin::Other => {
            let reason = format!(
                "the store in {} is not the one that this node left when it ran last: it, or the identity \
                 beside it, came back from a backup",
                path()
            );
            if !accept_loss && !has_other_members(files)? {
                return Err(OpenError::NoOtherCopy { reason });
            }
            forget(files, accept_loss)?;
            tracing::error!(
                "{reason}; this node takes a new actor, and unless the loss is accepted all segments are to \
                 be rebuilt"
            );
            Ok(store)
        }
    }
}

/// Notes what a store means that lacks something. Before anything is moved, so that a crash in between loses neither.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
    use dynakv_protocol::ids::{ClusterId, DirectoryId, RingVersion, WriteId};
    use dynakv_protocol::ring_document::{Member, Step};
    use dynakv_storage::{
        Footprint, LastStop, LogPlace, Mutation, RunNote, Started, Store, save_document,
    };

    use super::*;
    use crate::runtime::shared::data_directory::list_set_aside;

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
        identity
            .mark_clean(&files, actor, 1, LogPlace::default())
            .unwrap();
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

    fn lose_format(store: &Path) {
        std::fs::remove_file(store.join("format")).unwrap();
    }

    fn ruin_parameters(store: &Path) {
        std::fs::write(store.join("sled/conf"), "this is no configuration").unwrap();
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
        for lose in [ruin, empty, remove, lose_format, ruin_parameters] {
            let directory = stopped(2);
            lose(&directory.path().join(STORE_DIRECTORY));
            let files = DirectoryFiles::open(directory.path()).unwrap();
            let store = open(directory.path(), &files, false).unwrap();
            assert_eq!(store.get(b"k").unwrap(), None);
            assert_eq!(start(&files).last_stop, LastStop::Unclean);
            assert_eq!(rebuilding(files), 65_536);
        }
    }

    /// Who cannot look, or looks through a link to a disk that is not mounted, does not know that it is gone.
    #[test]
    fn a_store_that_cannot_be_looked_at_is_not_gone() {
        for target in [STORE_DIRECTORY, "on-a-disk-that-is-not-mounted"] {
            let directory = stopped(2);
            let store = directory.path().join(STORE_DIRECTORY);
            let elsewhere = directory.path().join("elsewhere");
            std::fs::rename(&store, &elsewhere).unwrap();
            std::os::unix::fs::symlink(target, &store).unwrap();
            let files = DirectoryFiles::open(directory.path()).unwrap();
            for accept_loss in [false, true] {
                let error = open(directory.path(), &files, accept_loss).unwrap_err();
                assert!(matches!(error, OpenError::Store(_)), "{error:?}");
                assert!(error.to_string().contains("store"), "{error}");
                assert!(Identity::ended_cleanly(&files).unwrap(), "touched");
            }
            std::fs::remove_file(&store).unwrap();
            std::fs::rename(&elsewhere, &store).unwrap();
            let store = open(directory.path(), &files, false).unwrap();
            assert_eq!(store.get(b"k").unwrap().unwrap(), "v");
            assert_eq!(rebuilding(files), 0);
        }
    }

    #[test]
    fn the_only_copy_is_given_up_on_demand_only() {
        for lose in [ruin, empty, remove, lose_format, ruin_parameters] {
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

    /// Copies the store as it is on disk, while nobody has it open.
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &target),
                false => drop(std::fs::copy(entry.path(), target).unwrap()),
            }
        }
    }

    /// One run: opened, noted, `writes` written, stopped cleanly.
    fn run(data_dir: &Path, writes: u64) -> Result<LastStop, OpenError> {
        let files = DirectoryFiles::open(data_dir).unwrap();
        let store = open(data_dir, &files, false)?;
        let noted = RunNote::of_store(&store).unwrap();
        let id = NodeId::new("n-0").unwrap();
        let random = || fastrand::u64(1..);
        let started = Identity::start_noted(&files, id, noted.as_ref(), random, |run| {
            run.save_to(&store)
        });
        let started = started.unwrap();
        Identity::expect_notes(&files).unwrap();
        for number in 0..writes {
            let key = Bytes::from(format!("{}-{number}", started.identity.nonce));
            let mut versions = Versions::new();
            let dot = Dot {
                actor: started.identity.actor,
                counter: number + 1,
            };
            let incoming = Incoming {
                write_id: WriteId(u128::from(number)),
                timestamp: 1,
                expires_at_ms: None,
                value: Value::Bytes(Bytes::from_static(b"v")),
            };
            versions.write(&Clock::new(), dot, incoming);
            let encoded = versions.to_bytes();
            let mutation = Mutation {
                before: Footprint::default(),
                after: Footprint::of_encoded(&key, &versions, &encoded),
                versions: encoded,
                key,
            };
            store.apply(&[mutation]).unwrap();
            store.sync().unwrap();
        }
        let (identity, end) = (started.identity, store.log_end());
        identity.mark_clean(&files, identity.actor, 1, end).unwrap();
        Ok(started.last_stop)
    }

    #[test]
    fn a_store_that_is_not_the_last_one_costs_the_actor_and_all_segments() {
        let directory = stopped(2);
        let data_dir = directory.path();
        let (store, older) = (data_dir.join(STORE_DIRECTORY), data_dir.join("older"));
        // The first run of this version finds no note, and none is expected.
        for writes in [1, 0, 0, 5] {
            assert_eq!(run(data_dir, writes).unwrap(), LastStop::Clean);
        }
        copy(&store, &older);
        assert_eq!(run(data_dir, 1).unwrap(), LastStop::Clean);
        std::fs::remove_dir_all(&store).unwrap();
        copy(&older, &store);
        assert_eq!(run(data_dir, 1).unwrap(), LastStop::Unclean);
        assert_eq!(rebuilding(DirectoryFiles::open(data_dir).unwrap()), 65_536);
        // It is the right one from now on.
        assert_eq!(run(data_dir, 1).unwrap(), LastStop::Clean);
        // One from before there were notes.
        std::fs::remove_file(store.join("run")).unwrap();
        assert_eq!(run(data_dir, 1).unwrap(), LastStop::Unclean);
    }

    #[test]
    fn a_start_that_was_cut_short_loses_nothing() {
        let directory = stopped(2);
        let data_dir = directory.path();
        run(data_dir, 3).unwrap();
        for _ in 0..2 {
            let files = DirectoryFiles::open(data_dir).unwrap();
            let store = open(data_dir, &files, false).unwrap();
            let cut_short = Identity::start_noted(
                &files,
                NodeId::new("n-0").unwrap(),
                RunNote::of_store(&store).unwrap().as_ref(),
                || fastrand::u64(1..),
                |run| {
                    run.save_to(&store)?;
                    Err(StoreError::Stopped {
                        reason: "the power went".to_owned(),
                    })
                },
            );
            cut_short.unwrap_err();
        }
        assert_eq!(run(data_dir, 1).unwrap(), LastStop::Unclean);
        assert_eq!(rebuilding(DirectoryFiles::open(data_dir).unwrap()), 0);
    }

    #[test]
    fn a_store_that_was_written_anew_is_the_same_one() {
        let directory = stopped(1);
        let data_dir = directory.path();
        // What it holds is no versions.
        empty(&data_dir.join(STORE_DIRECTORY));
        let files = DirectoryFiles::open(data_dir).unwrap();
        drop(open(data_dir, &files, true).unwrap());
        drop(files);
        run(data_dir, 1).unwrap();
        for _ in 0..3 {
            run(data_dir, 200).unwrap();
        }
        let store = data_dir.join(STORE_DIRECTORY);
        dynakv_storage::rewrite_directory(&store, &mut |_, _, _| ()).unwrap();
        for _ in 0..2 {
            assert_eq!(run(data_dir, 1).unwrap(), LastStop::Clean);
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
