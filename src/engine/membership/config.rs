//! The settings of gossip and failure detection.

/// How often to gossip, and how long silence is borne. All times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipConfig {
    /// How often a node gossips. Shorter finds failures no sooner than `suspect_after_ms`, but
    /// spreads them faster.
    pub gossip_interval_ms: u64,
    /// How long without progress, and without an answer to a probe, before a node is suspected. At
    /// least three gossip intervals; raise it where pauses of several seconds are normal.
    pub suspect_after_ms: u64,
    /// How long without either before a node counts as dead. More than `suspect_after_ms`.
    pub dead_after_ms: u64,
    /// To how many random live members a node gossips in each round. News needs about
    /// log(members) / log(1 + 2 × `fanout`) rounds to reach everybody.
    pub fanout: usize,
    /// Through how many other members a silent one is probed.
    pub probe_through: usize,
    /// The most entries of one gossip message, 2 or more. Clusters of more members than this rotate
    /// through them; raise it beyond a few hundred members, as heartbeats then spread too slowly.
    pub message_entries_max: usize,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            gossip_interval_ms: 1_000,
            suspect_after_ms: 10_000,
            dead_after_ms: 30_000,
            fanout: 3,
            probe_through: 3,
            message_entries_max: 64,
        }
    }
}
