//! What comparing, mending and rebuilding come to.

use metrics::{Counter, Gauge};

use super::registry::Registry;

/// What comparing, mending and rebuilding come to.
pub struct MendingMetrics {
    /// Comparisons with another node that came to their end.
    pub passes: Counter,
    /// Keys that were brought up to date here, found by comparing or while rebuilding.
    pub keys_fetched: Counter,
    /// Keys that were brought up to date at another node.
    pub keys_sent: Counter,
    /// The bytes of what others gave for all that.
    pub bytes_fetched: Counter,
    /// The bytes of what they were sent, also of what this node does not own any more.
    pub bytes_sent: Counter,
    /// Comparisons that did not come to their end, or not with all.
    pub failures: Counter,
    /// Segments that differed when they were compared.
    pub segments_differing: Counter,
    /// 1 while copies are compared or a repair is under way.
    pub running: Gauge,
    /// How long ago all members in reach had been compared with.
    pub age_seconds: Gauge,
    /// Segments that were rebuilt.
    pub segments_rebuilt: Counter,
    /// Of these, those that an operator's word ended.
    pub losses_accepted: Counter,
    /// Segments that are held and not owned any more.
    pub leftover_segments: Gauge,
    /// Keys of such segments that were sent to owners that lacked them, or had them differently.
    pub leftover_keys_sent: Counter,
    /// Keys of such segments that were removed.
    pub leftover_keys_dropped: Counter,
}

impl MendingMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        let counter = |name, help| make.counter_of(name, help, &[]);
        Self {
            passes: counter(
                "dynakv_anti_entropy_passes_total",
                "Comparisons of all copies with another node that came to their end.",
            ),
            keys_fetched: counter(
                "dynakv_anti_entropy_keys_fetched_total",
                "Keys whose copy here was brought up to date, by comparing or while rebuilding.",
            ),
            keys_sent: counter(
                "dynakv_anti_entropy_keys_sent_total",
                "Keys whose copy at another node was brought up to date, found by comparing.",
            ),
            bytes_fetched: counter(
                "dynakv_anti_entropy_fetched_bytes_total",
                "Bytes of the versions that other nodes gave, by comparing, while rebuilding or for a change of the ring.",
            ),
            bytes_sent: counter(
                "dynakv_anti_entropy_sent_bytes_total",
                "Bytes of the versions that other nodes were sent, found by comparing, or handed on to their owners.",
            ),
            failures: counter(
                "dynakv_anti_entropy_failures_total",
                "Comparisons with another node that could not be made in whole; they are tried again.",
            ),
            segments_differing: counter(
                "dynakv_anti_entropy_segments_differing_total",
                "Segments that differed when they were compared with another node.",
            ),
            running: gauge(
                "dynakv_anti_entropy_running",
                "1 while this node compares its copies with another node's.",
            ),
            age_seconds: gauge(
                "dynakv_anti_entropy_last_full_pass_age_seconds",
                "How long ago this node's copies had been compared with those of every living member.",
            ),
            segments_rebuilt: counter(
                "dynakv_rebuilt_segments_total",
                "Segments that this node had lost and that were brought back, or given up.",
            ),
            losses_accepted: counter(
                "dynakv_rebuilding_losses_accepted_total",
                "Segments whose rebuilding an operator ended although too few owners had everything.",
            ),
            leftover_segments: gauge(
                "dynakv_leftover_segments",
                "Segments of 65,536 of which this node has something left that it does not own any more.",
            ),
            leftover_keys_sent: counter(
                "dynakv_leftover_keys_sent_total",
                "Keys that this node does not own any more, and that an owner lacked or had differently and was sent.",
            ),
            leftover_keys_dropped: counter(
                "dynakv_leftover_keys_dropped_total",
                "Keys that this node does not own any more and removed, once enough owners had them.",
            ),
        }
    }
}
