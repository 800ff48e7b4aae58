//! What snapshots come to.

use metrics::{Counter, Gauge};

use super::registry::Registry;

/// What snapshots come to.
pub struct SnapshotMetrics {
    /// Those that were made.
    pub made: Counter,
    /// Those that were given up.
    pub failed: Counter,
    /// How far the last one is.
    pub keys_copied: Gauge,
    /// When the last one was made.
    pub last_unix_seconds: Gauge,
}

impl SnapshotMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        let counter = |name, help| make.counter_of(name, help, &[]);
        Self {
            made: counter("dynakv_snapshots_total", "Snapshots that were made."),
            failed: counter(
                "dynakv_snapshots_failed_total",
                "Snapshots that were given up; nothing is left of them.",
            ),
            keys_copied: gauge(
                "dynakv_snapshot_keys_copied",
                "Keys in the snapshot that is being made, or in the last one.",
            ),
            last_unix_seconds: gauge(
                "dynakv_snapshot_last_unix_seconds",
                "When this node made its last snapshot since it started, in seconds since 1970; 0 for none.",
            ),
        }
    }
}
