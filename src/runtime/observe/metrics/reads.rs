//! How reads are carried out: hedging and digests.

use metrics::Counter;

use super::registry::Registry;

/// Handles to what the coordinator counts of its reads.
pub struct ReadMetrics {
    /// Reads that asked one owner more because others took long.
    pub hedged: Counter,
    /// Those of them that the owner asked late has helped.
    pub hedges_won: Counter,
    /// Hedges that the budget did not allow.
    pub hedges_over_budget: Counter,
    /// Digests that came in place of large versions.
    pub digests: Counter,
    /// Digests of something else than is here.
    pub digest_misses: Counter,
    /// Bytes about data for other nodes, requests and answers.
    pub sent_bytes: Counter,
}

impl ReadMetrics {
    pub(super) fn register(make: &Registry<'_>) -> Self {
        let counter = |name, help| make.counter_of(name, help, &[]);
        Self {
            hedged: counter(
                "dynakv_reads_hedged_total",
                "Reads that asked one owner more because those asked before took long.",
            ),
            hedges_won: counter(
                "dynakv_read_hedges_won_total",
                "Reads answered with the owner that was asked late, while an earlier one owed its answer.",
            ),
            hedges_over_budget: counter(
                "dynakv_read_hedges_over_budget_total",
                "Reads that would have asked one owner more, had the budget not been spent.",
            ),
            digests: counter(
                "dynakv_read_digests_total",
                "Answers of other owners that were digests in place of large versions.",
            ),
            digest_misses: counter(
                "dynakv_read_digest_misses_total",
                "Digests of something else than this node has, so that the versions were fetched.",
            ),
            sent_bytes: counter(
                "dynakv_peer_sent_bytes_total",
                "Bytes about data that were sent to other nodes, requests and answers.",
            ),
        }
    }
}
