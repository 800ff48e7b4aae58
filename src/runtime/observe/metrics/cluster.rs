//! What this node knows of its cluster.

use metrics::{Counter, Gauge};

use super::registry::Registry;

/// What this node knows of its cluster.
pub struct ClusterMetrics {
    /// Members by state: alive, suspected, dead.
    pub members: [Gauge; 3],
    /// The ring the node follows.
    pub ring_version: Gauge,
    /// How far a change of the ring is: 0 for none, 1 while the old owners are read, 2 while the new ones are.
    pub ring_change_step: Gauge,
    /// How many members its next step waits for, as far as this node knows.
    pub ring_change_awaited: Gauge,
    /// How many segments this node has still to fetch or to hand on for it.
    pub ring_change_segments_left: Gauge,
    /// Writes that were in hand when it changed, and were counted anew.
    pub writes_rebased: Counter,
    /// Members of the ring.
    pub ring_nodes: Gauge,
    /// Virtual nodes of the whole ring.
    pub ring_virtual_nodes: Gauge,
    /// Virtual nodes of a member of weight 1.
    pub ring_virtual_nodes_per_node: Gauge,
    /// N, W and R.
    pub quorum: [Gauge; 3],
    /// Whether the node is ready.
    pub ready: Gauge,
}

impl ClusterMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let members = |state| {
            let help = "Members of the ring by what this node thinks of them.";
            make.gauge_of("dynakv_members", help, &[("state", state)])
        };
        let quorum = |setting| {
            let help = "Replicas of each key (n) and the default quorums (w, r).";
            make.gauge_of("dynakv_quorum", help, &[("setting", setting)])
        };
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        Self {
            members: ["alive", "suspected", "dead"].map(members),
            ring_version: gauge(
                "dynakv_ring_version",
                "The version of the ring this node follows.",
            ),
            ring_change_step: gauge(
                "dynakv_ring_change_step",
                "How far a change of the ring is: 0 for none, 1 while the old owners are read, 2 while the new ones are.",
            ),
            ring_change_awaited: gauge(
                "dynakv_ring_change_awaited",
                "Members that the next step of a change of the ring waits for; `dynakv cluster status` names them.",
            ),
            ring_change_segments_left: gauge(
                "dynakv_ring_change_segments_left",
                "Segments of 65,536 that this node has still to fetch or to hand on for a change of the ring.",
            ),
            writes_rebased: make.counter_of(
                "dynakv_writes_rebased_total",
                "Writes that were in hand when the ring changed, and were counted anew among its owners.",
                &[],
            ),
            ring_nodes: gauge("dynakv_ring_nodes", "Members of the ring."),
            ring_virtual_nodes: gauge(
                "dynakv_ring_virtual_nodes",
                "Virtual nodes of the whole ring.",
            ),
            ring_virtual_nodes_per_node: gauge(
                "dynakv_ring_virtual_nodes_per_node",
                "Virtual nodes of a member of weight 1.",
            ),
            quorum: ["n", "w", "r"].map(quorum),
            ready: gauge("dynakv_ready", "1 when this node can coordinate requests."),
        }
    }
}
