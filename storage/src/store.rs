//! What a store is, whatever it stands on.

use std::ops::RangeInclusive;

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Segment;

use crate::disk_reserve::Change;
use crate::error::StoreError;
use crate::footprint::{Footprint, Totals};
use crate::items::{Mutation, Page, PageLimit, PositionRange};
use crate::log_place::LogPlace;
use crate::recount::Recounted;
use crate::status::StoreStatus;
use crate::tree::Loss;

/// A durable map from keys to encoded [`Versions`], in ring order.
///
/// One thread writes (`apply`, `sync`); any thread may read at the same time. The store does not merge:
/// the writer reads, merges and applies the outcome.
///
/// What lets others count on a state (an acknowledgement, also of a merge that changed nothing) must
/// wait for a [`sync`](Store::sync) that began after the state was applied.
pub trait Store: Send + Sync + 'static {
    /// What is stored under a key, checked against its checksum; `None` for a key never written.
    ///
    /// Sees everything applied, synced or not.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a damaged value: answer as a replica that lost the key, never as
    /// one that does not have it. Otherwise what the disk says.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The same, where it takes neither the disk nor a wait; `None` where it would, and where there may be nothing. Of
    /// small values only. For a thread that must not be held up.
    fn get_hot(&self, key: &[u8]) -> Option<Bytes> {
        let _ = key;
        None
    }

    /// Says that this key is read or written next, after some others. Does nothing but make that faster; never waits.
    fn touch(&self, key: &[u8]) {
        let _ = key;
    }

    /// Whether the disk has room for a change of so many bytes. To be asked before anything of it is
    /// decided: `apply` itself goes into the reserve. Cheap.
    ///
    /// # Errors
    /// [`StoreError::DiskReserve`] when it has not.
    fn admit(&self, bytes: usize, change: Change) -> Result<(), StoreError> {
        let _ = (bytes, change);
        Ok(())
    }

    /// Replaces what is stored under each key, or removes the key, in the order given. Visible at once, durable only after
    /// the next [`sync`](Store::sync).
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]: the last mutations, or all, were not applied; try again when there is
    /// room. Otherwise what the disk says. An unknown part of the batch is then visible, nothing of it
    /// may be counted on, and every further `apply` and `sync` is refused with [`StoreError::Stopped`].
    fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError>;

    /// Removes a key, if what is stored under it has this [`versions_hash`](dynakv_protocol::hash::versions_hash), as by
    /// [`Mutation::removal`]. Whether it has. Durable after the next [`sync`](Store::sync). To be called by whoever writes.
    ///
    /// # Errors
    /// As [`get`](Store::get) and [`apply`](Store::apply).
    fn remove(&self, key: &[u8], hash: u128) -> Result<bool, StoreError> {
        let Some(stored) = self.get(key)? else {
            return Ok(false);
        };
        let key = Bytes::copy_from_slice(key);
        let versions = Versions::from_bytes(&stored).map_err(|error| StoreError::Corrupt {
            key: key.clone(),
            damage: error.into(),
        })?;
        let before = Footprint::of_encoded(&key, &versions, &stored);
        let is_it = before.hash == hash;
        if is_it {
            self.apply(&[Mutation::removal(key, before)])?;
        }
        Ok(is_it)
    }

    /// Makes everything durable that was applied before this call. The caller batches: one sync for
    /// many applies is the group commit.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]: what was applied is still there, and durable after the next good sync.
    /// Otherwise what the disk says. Nothing since the last good sync may be counted on, and every
    /// further `apply` and `sync` is refused with [`StoreError::Stopped`].
    fn sync(&self) -> Result<(), StoreError>;

    /// As [`sync`](Store::sync), and on the disk whatever the store was told to count as durable: before
    /// a clean stop is noted.
    ///
    /// # Errors
    /// As [`sync`](Store::sync).
    fn sync_at_end(&self) -> Result<(), StoreError> {
        self.sync()
    }

    /// A number that changes whenever a sync that no caller waits for begins or ends, and is odd while
    /// one is under way: so whoever looks can tell a disk that hangs. Cheap, and never waits.
    fn sync_progress(&self) -> u64 {
        0
    }

    /// One page of a range, in ring order (by position, then by key), from behind `after_key` on.
    ///
    /// To walk a whole range, start with `None` and go on with [`Page::next`] until there is none.
    /// Keys written meanwhile may or may not be seen; all others are seen exactly once.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the first value of the page is damaged; a walk that can bear the
    /// gap goes on behind the key that the error names. [`StoreError::CorruptRange`] where it begins in a part in which
    /// keys may be lost, when all that is there was given; [`scan_past_losses`] goes on behind it. Otherwise what the
    /// disk says.
    fn scan(
        &self,
        range: PositionRange,
        after_key: Option<&[u8]>,
        limit: PageLimit,
    ) -> Result<Page, StoreError>;

    /// What is lost of these segments, as far as it was met: the parts in which keys may be lost, nobody can say which,
    /// and the keys whose values are damaged. None of these counts as absent.
    ///
    /// # Errors
    /// What the disk says.
    fn losses(&self, segments: &[Segment]) -> Result<Vec<Loss>, StoreError> {
        let _ = segments;
        Ok(Vec::new())
    }

    /// Nobody waits any more for what was lost of these, because all that others have of their segments was brought back
    /// since they were asked for, durably, or was given up: keys that are not here count as absent again, and damaged values
    /// are removed. Where something took the place of a loss, or more was lost since, it has no effect. A store that is
    /// opened again may have forgotten it. To be called beside whoever writes; the totals and hashes are to be counted
    /// anew.
    ///
    /// # Errors
    /// What the disk says; it can be said again.
    fn forgive(&self, losses: &[Loss]) -> Result<(), StoreError> {
        let _ = losses;
        Ok(())
    }

    /// How much the store holds. Cheap, except that the size on disk asks the file system.
    fn totals(&self) -> Totals;

    /// How it is doing. Cheap.
    fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }

    /// Counts a part of what is stored anew, from behind `after_key` on, while nobody writes; writes may
    /// come between parts. Begin with `None`, go on with [`Recounted::next`] until there is none: then the
    /// totals and the segments' hashes are those of all that can be read, durably. After what took the
    /// place of a damaged value they are not, because nobody knows what that one had added to them.
    ///
    /// # Errors
    /// [`StoreError::NotRecounting`] when another recount was begun meanwhile; otherwise what the disk
    /// says. Begin again.
    fn recount(&self, after_key: Option<&[u8]>, limit: PageLimit) -> Result<Recounted, StoreError> {
        let _ = (after_key, limit);
        Ok(Recounted::default())
    }

    /// What the last [`note_run`](Store::note_run) said; a store that keeps no notes has none.
    ///
    /// # Errors
    /// [`StoreError::DamagedFile`] for anything but what was noted; otherwise what the disk says.
    fn run_note(&self) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    /// Notes in the store, and not beside it, who writes it from now on. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says; the former note, or this one, is then there.
    fn note_run(&self, note: &[u8]) -> Result<(), StoreError> {
        let _ = note;
        Ok(())
    }

    /// How far its log is durable. It only ever grows.
    fn log_end(&self) -> LogPlace {
        LogPlace::default()
    }

    /// The hash of a segment: the XOR of the [footprints](crate::footprint::Footprint) of its keys, 0 when it has none.
    /// Equal for two stores that hold the same there. Sees everything applied; kept as it changes, so
    /// cheap. Exact once the writer rests.
    fn segment_hash(&self, segment: Segment) -> u128;

    /// The hashes of these segments, in order.
    fn segment_hashes(&self, segments: RangeInclusive<u16>) -> Vec<u128> {
        segments
            .map(|number| self.segment_hash(Segment(number)))
            .collect()
    }
}

/// One page of a range, and on behind each part in which keys may be lost; these are added to `lost`.
///
/// # Errors
/// As [`Store::scan`], but never [`StoreError::CorruptRange`].
pub fn scan_past_losses(
    store: &dyn Store,
    range: PositionRange,
    after_key: Option<&[u8]>,
    limit: PageLimit,
    lost: &mut Vec<PositionRange>,
) -> Result<Page, StoreError> {
    let scan = |range, after_key: Option<&[u8]>| store.scan(range, after_key, limit);
    past_losses(scan, range, after_key, lost)
}

/// The same with any way to scan.
pub(crate) fn past_losses(
    scan: impl Fn(PositionRange, Option<&[u8]>) -> Result<Page, StoreError>,
    mut range: PositionRange,
    mut after_key: Option<&[u8]>,
    lost: &mut Vec<PositionRange>,
) -> Result<Page, StoreError> {
    loop {
        match scan(range, after_key) {
            Err(StoreError::CorruptRange { range: part, .. }) => {
                lost.push(part);
                let Some(rest) = range.behind(part) else {
                    return Ok(Page::default());
                };
                (range, after_key) = (rest, None);
            }
            result => return result,
        }
    }
}
