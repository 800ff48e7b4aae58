//! Counting anew what a store holds, while it is written.
//!
//! Totals and hashes are sums of differences, so what takes the place of a damaged value leaves them wrong
//! by that value, which nobody can read any more. A recount reads everything once, part by part; what is
//! written meanwhile is added to the parts that were read already, and is met by the walk in the others.
//! A segment's hash is put right when the walk leaves it, the totals at the end.

use std::cmp::Ordering;

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::{Position, Segment, versions_hash};

use crate::footprint::{Footprint, Sums, Tally};
use crate::items::{Item, Mutation};
use crate::segments::SegmentHashes;

/// What came of one part of a recount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recounted {
    /// Where the next part begins; `None` when all is counted.
    pub next: Option<Bytes>,
    /// A key whose value is damaged, and which is left out.
    pub damaged: Option<Bytes>,
    /// Segments in which keys may be lost, nobody can say which.
    pub lost_segments: Vec<Segment>,
    /// How many segments had a wrong hash, which is right now.
    pub corrected_segments: u32,
}

/// By what something kept was wrong, to be added to it. Wraps, as the sums do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Correction {
    pub(crate) segment: Segment,
    /// The XOR of the segment's hash and the right one.
    pub(crate) hash: u128,
    /// The right totals without those that were kept.
    pub(crate) sums: Sums,
}

/// A recount that is under way.
#[derive(Debug)]
pub(crate) struct Recount {
    /// Up to where everything is counted.
    reached: Option<(Position, Bytes)>,
    segment: Segment,
    /// The hash of what was met in this segment.
    hash: u128,
    sums: Sums,
}

impl Recount {
    /// At the beginning of the ring.
    pub(crate) fn begin() -> Self {
        Self {
            reached: None,
            segment: Segment(0),
            hash: 0,
            sums: Sums::default(),
        }
    }

    /// Whether the part behind this key comes next.
    pub(crate) fn is_at(&self, after_key: &[u8]) -> bool {
        let reached = self.reached.as_ref();
        reached.is_some_and(|(_, key)| key == after_key)
    }

    /// Takes note of a write.
    pub(crate) fn note(&mut self, position: Position, mutation: &Mutation) {
        let place = (position, &mutation.key[..]);
        let reached = self.reached.as_ref().map(|(at, key)| (*at, &key[..]));
        if reached.is_none_or(|reached| place.cmp(&reached) == Ordering::Greater) {
            return;
        }
        let (before, after) = (mutation.before, mutation.after);
        self.sums = self.sums.plus(Sums::between(before.tally, after.tally));
        // In those before it the hash that is kept is right, and was changed already.
        if position.segment() == self.segment {
            self.hash ^= before.hash ^ after.hash;
        }
    }

    /// Counts a part, in ring order, up to this key; `None` for the end of the ring. By what the hashes
    /// kept are wrong, of those segments that it leaves.
    pub(crate) fn count(
        &mut self,
        items: &[Item],
        up_to: Option<&Bytes>,
        kept: &SegmentHashes,
        corrections: &mut Vec<Correction>,
    ) {
        for item in items {
            let position = Position::of_key(&item.key);
            self.leave_segments_before(position.segment(), kept, corrections);
            let print = match Versions::from_bytes(&item.versions) {
                Ok(versions) => Footprint::of_encoded(&item.key, &versions, &item.versions),
                // No write of ours; it is named by who checks the store.
                Err(_) => Footprint {
                    tally: Tally::default(),
                    hash: versions_hash(&item.key, &item.versions),
                },
            };
            self.hash ^= print.hash;
            self.sums = self.sums.plus(Sums::between(Tally::default(), print.tally));
        }
        match up_to {
            Some(key) => {
                let position = Position::of_key(key);
                self.leave_segments_before(position.segment(), kept, corrections);
                self.reached = Some((position, key.clone()));
            }
            None => {
                self.leave_segments_before(Segment(u16::MAX), kept, corrections);
                self.leave(kept, corrections);
            }
        }
    }

    /// By what the totals kept are wrong, at the end.
    pub(crate) fn correct(self, kept: Sums) -> Correction {
        Correction {
            segment: Segment(0),
            hash: 0,
            sums: self.sums.minus(kept),
        }
    }

    fn leave_segments_before(
        &mut self,
        segment: Segment,
        kept: &SegmentHashes,
        corrections: &mut Vec<Correction>,
    ) {
        while self.segment < segment {
            self.leave(kept, corrections);
            self.segment = Segment(self.segment.0 + 1);
        }
    }

    fn leave(&mut self, kept: &SegmentHashes, corrections: &mut Vec<Correction>) {
        let hash = kept.get(self.segment) ^ std::mem::take(&mut self.hash);
        if hash != 0 {
            corrections.push(Correction {
                segment: self.segment,
                hash,
                sums: Sums::default(),
            });
        }
    }
}
