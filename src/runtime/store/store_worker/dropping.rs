//! Removing what this node has left of segments that it does not own any more: a job of the writer like any other, and
//! done under the ring that it was asked for under only. Should the next ring make this node an owner again, what it
//! then takes part in is not undone by what was decided before.

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::hash::{Segment, checksum};
use dynakv_storage::{Change, Mutation};

use super::Writer;
use super::applying::footprint;
use super::jobs::{DropJob, Dropped, WaitingDrop};
use super::trouble::{is_damaged_value, note_damage, refusal};
use crate::engine::anti_entropy::rebuilding::SegmentSet;
use crate::engine::write::apply::Present;

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
    /// wherever they are known, should this node own the segment again. A later run goes on with an actor only by the
    /// marker of a clean stop, which is written last, and takes a new one otherwise: so this one is given up for good.
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
