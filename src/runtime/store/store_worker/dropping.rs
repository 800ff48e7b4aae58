//! Removing what this node has left of segments that it does not own any more: a job of the writer like any other, and
//! done under the ring that it was asked for under only. Should the next ring make this node an owner again, what it
//! then takes part in is not undone by what was decided before.

use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::hash::{Segment, checksum};
use dynakv_protocol::{ErrorReply, RingVersion};
use dynakv_storage::{Change, Mutation, Store};
use tokio::sync::{mpsc, oneshot};

use super::Writer;
use super::applying::footprint;
use super::jobs::Queued;
use super::trouble::{is_damaged_value, note_damage, refusal};
use crate::engine::anti_entropy::rebuilding::SegmentSet;
use crate::engine::write::apply::Present;

/// The most keys of one job: writers wait for it.
const KEYS_PER_JOB_MAX: usize = 256;

/// Keys to be removed, each with the [`checksum`] of what is to be stored under it.
#[derive(Debug)]
pub(super) struct DropJob {
    ring_version: RingVersion,
    keys: Vec<(Bytes, u64)>,
    /// Told once it is durable.
    done: oneshot::Sender<Result<Dropped, ErrorReply>>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Keys that were removed.
    pub removed: u64,
    /// Keys that were kept, because their versions are others or cannot be read.
    pub kept: u64,
}

/// A job that is done and waits for the sync that it shares with others.
pub(super) struct WaitingDrop {
    done: oneshot::Sender<Result<Dropped, ErrorReply>>,
    result: Result<Dropped, ErrorReply>,
}

impl WaitingDrop {
    /// It is as durable as it will be, or that failed.
    pub(super) fn tell(self, synced: Result<(), ErrorReply>) {
        // Who does not wait any more has no use for it.
        let _ = self.done.send(synced.and(self.result));
    }
}

/// How anti-entropy learns where the store holds keys, and has some removed. Does not keep the store's threads from
/// ending.
#[derive(Clone)]
pub struct Dropper {
    store: Arc<dyn Store>,
    writes: mpsc::WeakUnboundedSender<Queued>,
}

impl std::fmt::Debug for Dropper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dropper").finish_non_exhaustive()
    }
}

impl Dropper {
    pub(super) fn new(store: Arc<dyn Store>, writes: &mpsc::UnboundedSender<Queued>) -> Self {
        let writes = writes.downgrade();
        Self { store, writes }
    }

    /// The segments in which the store holds keys.
    pub fn held(&self) -> SegmentSet {
        held(&*self.store)
    }

    /// Removes keys, each only if the [`checksum`] of what is stored under it is this one. In small jobs, one after the
    /// other, so that no write waits for long. Durable when it returns; nothing when the store has ended.
    ///
    /// # Errors
    /// When the store follows another ring, or does not take it; some may be removed then.
    pub async fn remove(
        &self,
        ring_version: RingVersion,
        keys: &[(Bytes, u64)],
    ) -> Option<Result<Dropped, ErrorReply>> {
        let mut all = Dropped::default();
        for keys in keys.chunks(KEYS_PER_JOB_MAX) {
            let (done, is_done) = oneshot::channel();
            let job = DropJob {
                ring_version,
                keys: keys.to_vec(),
                done,
            };
            self.writes.upgrade()?.send(Queued::Drop(job)).ok()?;
            match is_done.await.ok()? {
                Ok(Dropped { removed, kept }) => {
                    all.removed += removed;
                    all.kept += kept;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(all))
    }
}

/// The segments in which a store holds keys: cheap, by their hashes.
pub fn held(store: &dyn Store) -> SegmentSet {
    let hashes = store.segment_hashes(0..=u16::MAX);
    let segments = (0..=u16::MAX).map(Segment).zip(hashes);
    let mut held = SegmentSet::default();
    for (segment, _) in segments.filter(|(_, hash)| *hash != 0) {
        held.insert(segment);
    }
    held
}

impl Writer {
    /// Does a job, unless it was asked for under another ring. Returns how many bytes it wrote.
    pub(super) fn drop_keys(&mut self, job: DropJob) -> usize {
        let DropJob {
            ring_version,
            keys,
            done,
        } = job;
        let mut dropped = Dropped::default();
        let result = self.fence.check(ring_version).and_then(|()| {
            keys.iter()
                .try_for_each(|key| self.drop_key(key, &mut dropped))
        });
        let removed = &self.metrics.mending.leftover_keys_dropped;
        removed.increment(dropped.removed);
        self.dropped.push(WaitingDrop {
            done,
            result: result.map(|()| dropped),
        });
        keys.iter().map(|(key, _)| key.len()).sum()
    }

    fn drop_key(
        &mut self,
        (key, expected): &(Bytes, u64),
        dropped: &mut Dropped,
    ) -> Result<(), ErrorReply> {
        let stored = match self.store.get(key) {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(()),
            Err(error) if is_damaged_value(&error) => {
                note_damage(&self.rebuilding, key, &error)?;
                dropped.kept += 1;
                return Ok(());
            }
            Err(error) => return Err(refusal(&error)),
        };
        // What is beyond a limit goes as well, where owners have it.
        let present = match checksum(&stored) == *expected {
            true => Present::decode_of_any_size(key, Some(stored)).ok(),
            false => None,
        };
        let Some(present) = present else {
            dropped.kept += 1;
            return Ok(());
        };
        let admitted = self.store.admit(key.len(), Change::Removal);
        admitted.map_err(|error| refusal(&error))?;
        self.forget_dots(Segment::of_key(key));
        let removal = Mutation::removal(key.clone(), footprint(key, &present));
        if let Err(error) = self.store.apply(std::slice::from_ref(&removal)) {
            let passes = error.passes();
            let refusal = refusal(&error).maybe_applied(!passes);
            self.failed = (!passes).then_some(error);
            return Err(refusal);
        }
        self.rebuilding.locked().forget(key);
        dropped.removed += 1;
        Ok(())
    }

    /// A clock with dots of the present actor is about to be forgotten: the next dot under that actor would cover them
    /// wherever they are known, should this node own the segment again. An actor is on disk with the marker of a clean
    /// stop only, which is written last, and any other start takes a new one: so this one is given up for good.
    ///
    /// Once per ring as a rule and not with each job, because every actor stands in the clocks of what it writes: this
    /// node mints in segments that it owns, and what it drops is in others.
    fn forget_dots(&mut self, segment: Segment) {
        if self.minted_in.contains(segment) {
            self.minter.renew();
            self.minted_in = SegmentSet::default();
            self.show_actor();
        }
    }
}

/// Where the actor of a minter that begins may have dots.
pub(super) fn minted_before(minter: &crate::engine::write::mint::Minter) -> SegmentSet {
    match minter.position().1 {
        0 => SegmentSet::default(),
        // Those of an earlier run, anywhere.
        _ => SegmentSet::all(),
    }
}
