//! What lies beside the store of a snapshot, and how a node begins in a directory that is one.
//!
//! A snapshot has no identity. Whoever starts in it gets one: a new directory id, so that the other members take it for a
//! directory that was lost; a new actor; and the note that all segments are to be rebuilt. All of it is given at the start
//! and not when the snapshot is made: so two directories that were made of one snapshot, at once or one after the other,
//! are two, and neither remembers votes of the other. Neither the ring nor votes nor hints are in it.
//!
//! The exception is the snapshot of a node that is alone for ever
//! ([`keeps_its_place`](crate::engine::layout::copies::keeps_its_place)): it has the ring, and keeps its directory id.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use dynakv_protocol::codec::{DecodeError, Reader, Wire, put_bool};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_protocol::{DirectoryId, Generation, NodeId};
use dynakv_storage::{
    Damage, Identity, IdentityError, SmallFiles, StoreError, load_document, save_document,
};

use super::rebuilding::Rebuilding;
use crate::runtime::shared::data_directory::{ACCEPTOR, RING, SNAPSHOT};

/// The last time that has a date of four digits: 9999-12-31. humantime formats none behind it.
const DATE_MAX: Duration = Duration::from_secs(253_402_300_799);

/// The form of the note.
const FORMAT: u8 = 1;

/// Why no node starts in a directory that says that it is a snapshot. Nothing was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It is one of another node, or it cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There was a node in the directory before the snapshot was put there.
    #[error(
        "a snapshot was put into this data directory, and the files of an earlier run are still there: together they \
         are neither. Move the directory away, and put the snapshot into its place, alone: \
         cp -r SNAPSHOT DATA_DIR"
    )]
    NotAlone,
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Identity(error.into())
    }
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotNote {
    /// Whose data it has.
    pub node_id: NodeId,
    /// The directory that it goes on as, where it does, and the generation from which it goes on.
    pub former: Option<(DirectoryId, Generation)>,
    /// When it was begun, in milliseconds since 1970 by the node's clock: all that was applied before is in it.
    pub begun_unix_ms: u64,
    /// A start has begun to make it its own.
    pub is_taken: bool,
}

impl SnapshotNote {
    /// When it was begun, for people.
    pub fn begun(&self) -> impl std::fmt::Display {
        let since = Duration::from_millis(self.begun_unix_ms);
        // Before 1970 or far beyond our time there is no date, whoever wrote it.
        let at = SystemTime::UNIX_EPOCH.checked_add(since.min(DATE_MAX));
        humantime::format_rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// Puts it beside the store of a snapshot, and the ring with it where that is to be there. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn save(
        &self,
        files: &dyn SmallFiles,
        ring: Option<&Arc<RingDocument>>,
    ) -> Result<(), StoreError> {
        // Nobody takes it for a directory without the note, which comes last.
        Rebuilding::note_all(files)?;
        if let Some(ring) = ring {
            save_document(files, RING, &ring.to_bytes())?;
        }
        save_document(files, SNAPSHOT, &self.to_bytes())
    }
}

/// Before the store of a data directory is opened: where the directory is a snapshot, makes it one of this node. What it
/// said of itself, where it was one. Durable when it returns; one that is cut short is made again, differently.
///
/// # Errors
/// See [`RestoreError`].
pub fn take_over(
    files: &dyn SmallFiles,
    node_id: &NodeId,
    random: impl FnMut() -> u64,
) -> Result<Option<SnapshotNote>, RestoreError> {
    let Some(document) = load_document(files, SNAPSHOT)? else {
        return Ok(None);
    };
    let note = SnapshotNote::from_bytes(&document).map_err(|error| StoreError::DamagedFile {
        name: SNAPSHOT.to_owned(),
        damage: Damage::Undecodable(error),
    })?;
    if note.node_id != *node_id {
        let (found, asked) = (note.node_id, node_id.clone());
        return Err(IdentityError::OtherNode { found, asked }.into());
    }
    if !note.is_taken {
        if Identity::exists(files)? {
            return Err(RestoreError::NotAlone);
        }
        let is_taken = true;
        let taken = SnapshotNote {
            is_taken,
            ..note.clone()
        };
        save_document(files, SNAPSHOT, &taken.to_bytes())?;
    }
    // It is in the snapshot already, and all depends on it.
    Rebuilding::note_all(files)?;
    files.remove_durable(ACCEPTOR)?;
    Identity::found_copy(files, note.node_id.clone(), note.former, random)?;
    files.remove_durable(SNAPSHOT)?;
    Ok(Some(note))
}

impl Wire for SnapshotNote {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(FORMAT);
        self.node_id.encode(out);
        out.put_u64(self.begun_unix_ms);
        put_bool(out, self.is_taken);
        put_bool(out, self.former.is_some());
        if let Some((directory_id, generation)) = &self.former {
            directory_id.encode(out);
            generation.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.u8()? != FORMAT {
            let what = "format of the note of a snapshot";
            return Err(DecodeError::Invalid { what });
        }
        Ok(Self {
            node_id: NodeId::decode(reader)?,
            begun_unix_ms: reader.u64()?,
            is_taken: reader.bool("taken")?,
            former: match reader.bool("former")? {
                true => Some((DirectoryId::decode(reader)?, Generation::decode(reader)?)),
                false => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use dynakv_storage::{LastStop, MemoryDisk, MemoryFiles, Started};

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn note(former: Option<(DirectoryId, Generation)>) -> SnapshotNote {
        SnapshotNote {
            node_id: id("n-1"),
            former,
            begun_unix_ms: 1_700_000_000_000,
            is_taken: false,
        }
    }

    fn restored(note: &SnapshotNote) -> MemoryFiles {
        let files = MemoryDisk::new().files();
        note.save(&files, None).unwrap();
        files
    }

    fn start(files: &MemoryFiles) -> Started {
        let random = || fastrand::u64(1..);
        let note = take_over(files, &id("n-1"), random).unwrap();
        assert_eq!(note.unwrap().begun_unix_ms, 1_700_000_000_000);
        assert_eq!(take_over(files, &id("n-1"), random).unwrap(), None);
        Identity::start(files, id("n-1"), random).unwrap()
    }

    #[test]
    fn each_start_in_a_copy_of_one_snapshot_is_another_directory_that_rebuilds_all() {
        let [one, other] = [(); 2].map(|()| {
            let files = restored(&note(None));
            let started = start(&files);
            assert_eq!(started.last_stop, LastStop::Unclean, "a new actor");
            let rebuilding = Rebuilding::load(Arc::new(files)).unwrap();
            assert!(rebuilding.is_all());
            started.identity
        });
        assert_ne!(one.directory_id, other.directory_id);
        assert_ne!(one.actor, other.actor);
    }

    #[test]
    fn who_is_alone_goes_on_as_its_directory_under_a_new_actor() {
        let former = (DirectoryId(7), Generation(41));
        let started = start(&restored(&note(Some(former))));
        let identity = started.identity;
        assert_eq!(identity.directory_id, DirectoryId(7));
        assert_eq!(identity.generation, Generation(42));
        assert_eq!(started.last_stop, LastStop::Unclean);
    }

    #[test]
    fn a_snapshot_of_another_node_or_over_another_directory_is_refused() {
        let files = restored(&note(None));
        let error = take_over(&files, &id("n-2"), || 1).unwrap_err();
        assert!(error.to_string().contains("n-1"), "{error}");
        Identity::start(&files, id("n-1"), || fastrand::u64(1..)).unwrap();
        let error = take_over(&files, &id("n-1"), || 1).unwrap_err();
        assert!(matches!(error, RestoreError::NotAlone), "{error}");
        // That was the start of an earlier version, say. One that was cut short is no such thing.
        let cut_short = SnapshotNote {
            is_taken: true,
            ..note(None)
        };
        cut_short.save(&files, None).unwrap();
        start(&files);
    }

    #[test]
    fn a_note_is_read_as_it_was_written_or_not_at_all() {
        let far = SnapshotNote {
            begun_unix_ms: u64::MAX,
            ..note(None)
        };
        assert_eq!(far.begun().to_string(), "9999-12-31T23:59:59Z");
        for note in [far, note(Some((DirectoryId(1), Generation(2))))] {
            let bytes = note.to_bytes();
            assert_eq!(SnapshotNote::from_bytes(&bytes), Ok(note));
            for end in 0..bytes.len() {
                assert!(SnapshotNote::from_bytes(&bytes.slice(..end)).is_err());
            }
        }
    }
}
