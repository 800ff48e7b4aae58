//! Bytes that a node holds for others, by what they are.

use metrics::{Counter, Gauge};

use super::registry::Registry;
use crate::runtime::shared::ledger::Kind;

/// Handles to what is shown of the node's books.
pub struct HeldMetrics {
    /// Bytes held, by kind.
    pub bytes: [Gauge; Kind::ALL.len()],
    /// Their bounds.
    pub bytes_max: [Gauge; Kind::ALL.len()],
    /// Connections hung up on because a frame did not get on.
    pub closed_stalled: Counter,
    /// The same while others waited for the room that it took.
    pub closed_displaced: Counter,
    /// Connections hung up on because their answers were not read.
    pub closed_unread: Counter,
}

impl HeldMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let bytes = |kind: Kind| {
            let help = "Bytes held for others, by what they are.";
            make.gauge_of("dynakv_held_bytes", help, &[("kind", kind.name())])
        };
        let bytes_max = |kind: Kind| {
            let help =
                "The bounds of dynakv_held_bytes; one request or answer of any size fits alone.";
            make.gauge_of("dynakv_held_bytes_max", help, &[("kind", kind.name())])
        };
        let closed = |reason| {
            let help = "Connections hung up on: a request or answer did not get on, in general or while others \
                        waited for its room, or answers were not read.";
            make.counter_of(
                "dynakv_connections_closed_total",
                help,
                &[("reason", reason)],
            )
        };
        Self {
            bytes: Kind::ALL.map(bytes),
            bytes_max: Kind::ALL.map(bytes_max),
            closed_stalled: closed("stalled"),
            closed_displaced: closed("displaced"),
            closed_unread: closed("unread"),
        }
    }
}
