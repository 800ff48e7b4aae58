//! Who comes in, and who is not let in.

use metrics::{Counter, Gauge};

use super::registry::Registry;

/// Who comes in, and who is not let in.
pub struct DoorMetrics {
    /// Connections that came in.
    pub connections: Gauge,
    /// Connections refused, or closed in favour of others, because there were too many.
    pub refused: Counter,
    /// Hellos that were refused: of another cluster, another version, or somebody who may not come in.
    pub hellos_refused: Counter,
    /// Frames that were damaged or none at all, on connections of either direction: each ended its
    /// connection.
    pub malformed_frames: Counter,
    /// Links to other nodes that stand.
    pub links: Gauge,
}

impl DoorMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        let counter = |name, help| make.counter_of(name, help, &[]);
        Self {
            connections: gauge("dynakv_connections", "Connections of clients and nodes."),
            refused: counter(
                "dynakv_connections_refused_total",
                "Connections refused, or closed because they said nothing, as this node had as many as it takes.",
            ),
            hellos_refused: counter(
                "dynakv_hellos_refused_total",
                "Connections refused for what they said of themselves: another cluster, an unknown node.",
            ),
            malformed_frames: counter(
                "dynakv_malformed_frames_total",
                "Frames that were damaged or none at all; each ended its connection.",
            ),
            links: gauge("dynakv_links", "Data links to other nodes that stand."),
        }
    }
}
