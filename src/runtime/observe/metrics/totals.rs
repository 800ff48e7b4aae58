//! What this node has, and what it has lost.

use metrics::Gauge;

use super::registry::Registry;

/// What this node has, and what it has lost.
pub struct TotalMetrics {
    /// Keys with a live value.
    pub keys: Gauge,
    /// Live siblings.
    pub versions: Gauge,
    /// Keys in conflict.
    pub conflict_keys: Gauge,
    /// Bytes of live values.
    pub live_bytes: Gauge,
    /// Bytes on disk.
    pub disk_bytes: Gauge,
    /// Damaged values found.
    pub corrupt_keys: Gauge,
    /// Segments in which this node has lost versions.
    pub rebuilding_segments: Gauge,
    /// Damaged stores that were set aside and are still there.
    pub stores_set_aside: Gauge,
}

impl TotalMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        Self {
            keys: gauge(
                "dynakv_store_keys",
                "Keys with a live value in this node's store.",
            ),
            versions: gauge(
                "dynakv_store_versions",
                "Live siblings in this node's store.",
            ),
            conflict_keys: gauge(
                "dynakv_store_conflict_keys",
                "Keys with more than one live sibling in this node's store.",
            ),
            live_bytes: gauge("dynakv_store_live_bytes", "Bytes of live values."),
            disk_bytes: gauge(
                "dynakv_store_disk_bytes",
                "Bytes that the store occupies on disk.",
            ),
            corrupt_keys: gauge(
                "dynakv_store_corrupt_keys",
                "Damaged values that were met since the store was opened and not written anew.",
            ),
            rebuilding_segments: gauge(
                "dynakv_rebuilding_segments",
                "Segments of 65,536 in which this node has lost versions; its reads do not count there.",
            ),
            stores_set_aside: gauge(
                "dynakv_stores_set_aside",
                "Damaged stores that were set aside in the data directory.",
            ),
        }
    }
}
