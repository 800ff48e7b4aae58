//! What is kept for other nodes.

use metrics::{Counter, Gauge};

use super::registry::Registry;

/// Handles to what is counted of hints.
pub struct HintMetrics {
    /// Keys kept for others.
    pub waiting: Gauge,
    /// Those of them that count towards the W of a write.
    pub waiting_counted: Gauge,
    /// Bytes of them.
    pub bytes: Gauge,
    /// The most bytes of them that are kept.
    pub bytes_max: Gauge,
    /// Bytes of the file they lie in.
    pub file_bytes: Gauge,
    /// Age of the oldest, in seconds.
    pub oldest_age: Gauge,
    /// Hints taken that count.
    pub kept_counted: Counter,
    /// Reminders taken, which count for nothing.
    pub kept_reminders: Counter,
    /// Hints that an owner has said it has.
    pub handed_over: Counter,
    /// Hints dropped because they were too old.
    pub dropped_for_age: Counter,
    /// Hints not taken because too many are kept or wait.
    pub dropped_at_bound: Counter,
    /// Hints that could not be read.
    pub damaged: Counter,
    /// Writes acknowledged with the help of stand-ins.
    pub sloppy_writes: Counter,
}

impl HintMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        let counter = |name, help| make.counter_of(name, help, &[]);
        let kept = |kind| {
            let help = "Hints taken for other nodes: as a replica that a sloppy write counts, or as a reminder \
                        that an owner missed a write.";
            make.counter_of("dynakv_hints_kept_total", help, &[("kind", kind)])
        };
        let dropped = |reason| {
            let help = "Hints dropped, all of which counted for nothing; anti-entropy takes over.";
            make.counter_of("dynakv_hints_dropped_total", help, &[("reason", reason)])
        };
        Self {
            waiting: gauge("dynakv_hints_waiting", "Keys kept here for other nodes."),
            waiting_counted: gauge(
                "dynakv_hints_waiting_counted",
                "Keys kept here for other nodes as replicas of sloppy writes: never dropped.",
            ),
            bytes: gauge(
                "dynakv_hints_bytes",
                "Bytes of what is kept here for other nodes, what their keys take in memory included.",
            ),
            bytes_max: gauge(
                "dynakv_hints_bytes_max",
                "The bound of dynakv_hints_bytes, at which sloppy writes are refused.",
            ),
            file_bytes: gauge(
                "dynakv_hints_file_bytes",
                "Size of the file of hints for other nodes.",
            ),
            oldest_age: gauge(
                "dynakv_hints_oldest_age_seconds",
                "How long the oldest hint has been waiting; 0 when there is none.",
            ),
            kept_counted: kept("counted"),
            kept_reminders: kept("reminder"),
            handed_over: counter(
                "dynakv_hints_handed_over_total",
                "Hints that an owner has taken and made durable, each owner counted.",
            ),
            dropped_for_age: dropped("age"),
            dropped_at_bound: dropped("bound"),
            damaged: counter(
                "dynakv_hints_damaged_total",
                "Hints that could not be read and were given up.",
            ),
            sloppy_writes: counter(
                "dynakv_sloppy_writes_total",
                "Writes coordinated here that were acknowledged with the help of stand-ins.",
            ),
        }
    }
}
