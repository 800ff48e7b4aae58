//! The owners of each segment while the ring changes: those of both sets of stakes in one list.

use std::collections::BTreeSet;

use dynakv_protocol::hash::{SEGMENTS, Segment};
use dynakv_protocol::placement::{MemberIndex, Placement};

use crate::engine::quorum::{Place, Places, bit};

/// One list for each segment: who is read, then who is written besides.
#[derive(Debug, Clone)]
pub(super) struct Joint {
    /// The owners that are written, though not all of them are read.
    also: Placement,
    /// Where the list of each segment begins, and where the last one ends.
    starts: Vec<u32>,
    owners: Vec<MemberIndex>,
    /// Who is in some list and not read there, in order.
    only_written: Vec<MemberIndex>,
}

impl Joint {
    /// Joins the owners that are read with those that are written as well.
    pub(super) fn new(read: &Placement, also: Placement) -> Self {
        let mut owners = Vec::with_capacity(SEGMENTS * (read.copies() + 1));
        let mut starts = Vec::with_capacity(SEGMENTS + 1);
        let mut only_written = BTreeSet::new();
        for segment in (0..=u16::MAX).map(Segment) {
            // Twice 32 for each of 65,536 segments at the most.
            starts.push(owners.len() as u32);
            let readers = read.owners(segment);
            owners.extend_from_slice(readers);
            let written = also.owners(segment).iter();
            let before = owners.len();
            owners.extend(written.filter(|owner| !readers.contains(owner)));
            only_written.extend(&owners[before..]);
        }
        starts.push(owners.len() as u32);
        Self {
            also,
            starts,
            owners,
            only_written: only_written.into_iter().collect(),
        }
    }

    /// The owners that are written, though not all of them are read.
    pub(super) fn also(&self, segment: Segment) -> &[MemberIndex] {
        self.also.owners(segment)
    }

    /// Whether there is a segment that is written to this member and not read from it.
    pub(super) fn is_anywhere_only_written(&self, member: MemberIndex) -> bool {
        self.only_written.contains(&member)
    }

    /// How many owners a segment has under the stakes that are not read.
    pub(super) fn copies(&self) -> usize {
        self.also.copies()
    }

    /// All owners of a segment, those that are read first.
    pub(super) fn owners(&self, segment: Segment) -> &[MemberIndex] {
        let at = usize::from(segment.0);
        // In bounds: there is one start more than segments.
        let (start, end) = (self.starts[at], self.starts[at + 1]);
        &self.owners[start as usize..end as usize]
    }

    /// Which places of that list are owners under the stakes that are not read.
    pub(super) fn others(&self, segment: Segment) -> Places {
        let also = self.also.owners(segment);
        let places = (0 as Place..).zip(self.owners(segment));
        places
            .filter(|(_, owner)| also.contains(owner))
            .fold(0, |places, (place, _)| places | bit(place))
    }
}
