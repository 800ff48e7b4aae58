//! How far it is that what a node does not own any more goes.

use std::time::Duration;

use tokio::time::Instant;

use super::misses::Misses;
use crate::engine::anti_entropy::leftovers::{Leftovers, Purpose};
use crate::runtime::store::store_worker::Dropped;

/// What is still to be gone through, in this pass, and when the next one begins.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) leftovers: Leftovers,
    /// When the next pass begins; nothing for at once.
    pub(super) due: Option<Instant>,
    /// How long after the present one, if that leaves something.
    pub(super) pause: Duration,
    /// How many segments a pass has left, as it was last told.
    pub(super) told: u32,
    pub(super) pass: Pass,
}

/// What a pass came to so far.
pub(super) struct Pass {
    pub(super) purpose: Purpose,
    /// Something could not be handed on.
    pub(super) is_partial: bool,
    pub(super) dropped: Dropped,
    pub(super) sent: u64,
    pub(super) misses: Misses,
    pub(super) last_error: String,
}

impl Pass {
    pub(super) fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            is_partial: false,
            dropped: Dropped::default(),
            sent: 0,
            misses: Misses::default(),
            last_error: String::new(),
        }
    }
}

impl Default for Pass {
    fn default() -> Self {
        Self::new(Purpose::Drop)
    }
}

impl Pending {
    /// Whether a pass is under way.
    pub(super) fn is_under_way(&self) -> bool {
        !self.leftovers.is_over()
    }

    /// Somebody came, or went: who came may be an owner that was missing.
    pub(super) fn look_within(&mut self, pause: Duration) {
        self.due = self.due.map(|due| due.min(Instant::now() + pause));
        self.pause = pause;
    }
}
