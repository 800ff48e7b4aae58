//! Whether the power may have failed, or the system crashed, while this node acknowledged what its disk
//! did not have yet.
//!
//! With `durability = "interval:…"` the death of the process loses nothing, since the system has what was
//! written. What loses is a crash of the system; the next start then finds another boot of it. A node
//! that may have lost acknowledged writes so rebuilds all its segments.

use bytes::Bytes;
use dynakv_storage::{Durability, Identity, SmallFiles, StoreError, load_document, save_document};

use super::rebuilding::Rebuilding;

/// There while a node runs that does not sync each write: in which boot of the system.
const DOCUMENT: &str = "unsynced-since-boot";

/// Changes whenever the system starts. Linux; elsewhere every unclean stop counts as a power cut.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Before the store is opened: begins to rebuild when acknowledged writes may have been lost, and notes it
/// where this run will not sync each write. `boot` is [`boot_id`].
///
/// # Errors
/// What the disk says.
pub fn note_start(
    files: &dyn SmallFiles,
    durability: Durability,
    boot: Option<&str>,
) -> Result<(), StoreError> {
    let noted: Option<Bytes> = load_document(files, DOCUMENT)?;
    if let Some(noted) = noted
        && !Identity::ended_cleanly(files)?
        && boot.is_none_or(|boot| noted != boot.as_bytes())
    {
        tracing::error!(
            "the system has stopped while this node acknowledged writes before they were on the disk \
             (durability = \"interval\"): some may be lost here, so all segments are to be rebuilt"
        );
        Rebuilding::note_all(files)?;
    }
    match durability {
        // What an earlier run left is still to be synced.
        Durability::Sync => Ok(()),
        Durability::Interval(_) => {
            save_document(files, DOCUMENT, boot.unwrap_or_default().as_bytes())
        }
    }
}

/// Once the store is opened, and its log thereby synced to its end: from now on a run that syncs each write
/// has nothing that a crash of the system could take.
///
/// # Errors
/// What the disk says.
pub fn note_opened(files: &dyn SmallFiles, durability: Durability) -> Result<(), StoreError> {
    match durability {
        Durability::Sync => files.remove_durable(DOCUMENT),
        Durability::Interval(_) => Ok(()),
    }
}

/// Which boot of the system this is, where it says.
pub fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string(BOOT_ID).ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use dynakv_protocol::NodeId;
    use dynakv_storage::{LogPlace, MemoryDisk, MemoryFiles};

    use super::*;

    const INTERVAL: Durability = Durability::Interval(Duration::from_millis(100));

    struct Directory {
        files: Arc<MemoryFiles>,
        random: fastrand::Rng,
    }

    impl Directory {
        fn new() -> Self {
            Self {
                files: Arc::new(MemoryDisk::new().files()),
                random: fastrand::Rng::with_seed(1),
            }
        }

        /// Starts, and tells how many segments are then to be rebuilt.
        fn start(&mut self, durability: Durability, boot: Option<&str>) -> (Identity, u32) {
            note_start(&*self.files, durability, boot).unwrap();
            note_opened(&*self.files, durability).unwrap();
            let id = NodeId::new("n").unwrap();
            let started = Identity::start(&*self.files, id, || self.random.u64(1..)).unwrap();
            let rebuilding = Rebuilding::load(self.files.clone()).unwrap();
            (started.identity, rebuilding.left())
        }
    }

    /// It was killed, started with other settings, and the power went before its log was read.
    #[test]
    fn what_is_not_synced_yet_keeps_its_note_until_the_store_is_open() {
        let mut directory = Directory::new();
        directory.start(INTERVAL, Some("one"));
        note_start(&*directory.files, Durability::Sync, Some("one")).unwrap();
        assert_eq!(directory.start(Durability::Sync, Some("two")).1, 65_536);
    }

    #[test]
    fn only_a_new_boot_after_an_unclean_run_without_syncs_loses_data() {
        let mut directory = Directory::new();
        assert_eq!(directory.start(INTERVAL, Some("one")).1, 0, "a new one");
        assert_eq!(directory.start(INTERVAL, Some("one")).1, 0, "a kill");
        let (identity, _) = directory.start(INTERVAL, Some("one"));
        let actor = identity.actor;
        identity
            .mark_clean(&*directory.files, actor, 7, LogPlace::default())
            .unwrap();
        let after_clean = directory.start(Durability::Sync, Some("two"));
        assert_eq!(after_clean.1, 0, "a clean stop before the power went");
        assert_eq!(
            directory.start(INTERVAL, Some("three")).1,
            0,
            "it had synced"
        );
        assert_eq!(directory.start(Durability::Sync, Some("four")).1, 65_536);

        let mut directory = Directory::new();
        directory.start(INTERVAL, None);
        assert_eq!(directory.start(INTERVAL, None).1, 65_536, "nobody knows");
    }
}
