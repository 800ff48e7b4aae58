//! The time of day on a simulated machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dynakv::runtime::shared::environment::WallClock;

/// When every simulation begins, in milliseconds since 1970: never the present, or no run could be
/// replayed.
const EPOCH_UNIX_MS: u64 = 1_700_000_000_000;

/// When every simulation begins.
pub(crate) fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(EPOCH_UNIX_MS)
}

/// How long the simulation has been running, as the present machine sees it.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().expect("called by a machine of the simulation")
}

/// Simulated time, wrong by as much as clocks are, and by as much as somebody set it wrong.
pub(crate) struct SkewedClock {
    /// Ahead of the others by this much, in milliseconds; negative when behind. The machine's, so that
    /// it outlives the node.
    pub(crate) ahead_ms: Arc<AtomicI64>,
}

impl WallClock for SkewedClock {
    fn unix_ms(&self) -> u64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        let right = EPOCH_UNIX_MS + elapsed.as_millis() as u64;
        right.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }
}
