//! Requests that wait for the ring: for its sealing before the first write, or for a newer version.

use dynakv_protocol::RingVersion;
use dynakv_protocol::frame::Frame;
use dynakv_protocol::ring_document::Step;
use tokio::time::Instant;

use super::operations::Requester;
use crate::runtime::shared::view::View;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The first write waits until the ring is final.
    ForSealing,
    /// Another node follows this ring already.
    ForRing(RingVersion),
}

impl Wait {
    fn is_over(self, view: &View) -> bool {
        match self {
            Self::ForSealing => {
                let ring = view.ring.as_ref();
                ring.is_some_and(|ring| ring.document().step != Step::Open)
            }
            Self::ForRing(version) => view.ring_version() >= version,
        }
    }

    /// What to say when it took longer than the request could wait.
    pub fn too_long(self) -> &'static str {
        match self {
            Self::ForSealing => {
                "time is up: before the first write a majority of the members must agree that the \
                 ring is complete, and too few of them answered; nothing was written. See `dynakv \
                 status`"
            }
            Self::ForRing(_) => {
                "time is up: another node follows a newer ring, which could not be fetched; nothing \
                 was done. See `dynakv status`"
            }
        }
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct Parked {
    /// Whose it is.
    pub requester: Requester,
    /// As it came.
    pub frame: Frame,
    /// What has to happen before it goes on.
    pub waits: Wait,
}

/// All requests that wait. The coordinator counts them among those in hand.
#[derive(Debug, Default)]
pub struct Parking {
    waiting: Vec<Parked>,
}

impl Parking {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts a request aside.
    pub fn park(&mut self, requester: Requester, frame: Frame, waits: Wait) {
        self.waiting.push(Parked {
            requester,
            frame,
            waits,
        });
    }

    /// Those whose wait is over, in the order in which they came.
    pub fn released(&mut self, view: &View) -> Vec<Parked> {
        self.take(|parked| parked.waits.is_over(view))
    }

    /// Those whose deadline has passed.
    pub fn expired(&mut self, now: Instant) -> Vec<Parked> {
        self.take(|parked| parked.requester.deadline <= now)
    }

    fn take(&mut self, which: impl Fn(&Parked) -> bool) -> Vec<Parked> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.waiting
            .extract_if(.., |parked| which(parked))
            .collect()
    }
}
