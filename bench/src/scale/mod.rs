//! What clusters of several sizes cost on one machine: the form of the JSON of `dynakv-bench scale`, which scripts
//! depend on, and how it is shown.
//!
//! Fields are added, never renamed or removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::{Host, Loading};

mod picture;
mod table;

pub use picture::picture;
pub use table::table;

/// The result of `dynakv-bench scale`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScaleReport {
    /// One cluster after the other, by rising number of nodes.
    pub clusters: Vec<ClusterCost>,
    /// What was asked for.
    pub config: ScaleConfig,
    /// When the first cluster was started: RFC 3339, UTC.
    pub started_at: String,
    /// What to keep in mind when reading the figures.
    pub warnings: Vec<String>,
    /// The machine that all ran on.
    pub host: Host,
}

/// What the clusters were told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScaleConfig {
    /// Keys that were loaded into each cluster.
    pub keys: u64,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Operations in flight for each node.
    pub in_flight_per_node: usize,
    /// How long each cluster was written to, and then read from, in seconds.
    pub duration_seconds: f64,
    /// How long each rested after it was loaded, before it was looked at, in seconds.
    pub settle_seconds: f64,
    /// How long each was looked at while it rested, in seconds.
    pub idle_seconds: f64,
}

/// What one cluster cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterCost {
    /// How many nodes it had.
    pub nodes: usize,
    /// The loading phase.
    pub loading: Loading,
    /// Resident memory of each node after the loading, in bytes.
    pub memory_bytes: PerNode,
    /// CPU time of each node at rest, in percent of one processor.
    pub idle_core_percent: PerNode,
    /// Writes only.
    pub write: PhaseCost,
    /// Reads only.
    pub read: PhaseCost,
}

/// A figure that each node has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PerNode {
    /// The mean of all nodes.
    pub mean: f64,
    /// The largest.
    pub max: f64,
    /// Each node's own, by its id.
    pub by_node: BTreeMap<String, f64>,
}

impl PerNode {
    /// From each node's own.
    pub fn new(by_node: BTreeMap<String, f64>) -> Self {
        Self {
            mean: by_node.values().sum::<f64>() / by_node.len().max(1) as f64,
            max: by_node.values().copied().fold(0.0, f64::max),
            by_node,
        }
    }
}

/// A time of one kind of operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseCost {
    /// Operations in flight.
    pub in_flight: usize,
    /// How many succeeded.
    pub count: u64,
    /// How many failed.
    pub errors: u64,
    /// Successes per second: of a machine that all nodes share.
    pub ops_per_second: f64,
    /// CPU time of all nodes together, user and system, per success, in microseconds. Absent when a node's was not
    /// known.
    pub server_cpu_us_per_op: Option<f64>,
    /// CPU time of the load generator per operation, in microseconds.
    pub client_cpu_us_per_op: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clusters of 3 and 20 nodes, the second twice as dear as the first.
    pub(super) fn report() -> ScaleReport {
        let cluster = |nodes: usize, times: f64| {
            let per_node = |mean: f64| PerNode {
                mean: mean * times,
                max: 1.5 * mean * times,
                by_node: BTreeMap::new(),
            };
            let phase = |us: f64| PhaseCost {
                in_flight: 10 * nodes,
                count: 1000,
                errors: 0,
                ops_per_second: 12_345.6 / times,
                server_cpu_us_per_op: Some(us * times),
                client_cpu_us_per_op: 2.0,
            };
            ClusterCost {
                nodes,
                loading: Loading {
                    keys: 7,
                    seconds: 0.5,
                },
                memory_bytes: per_node(40e6),
                idle_core_percent: per_node(0.25),
                write: phase(11.5),
                read: phase(4.25),
            }
        };
        ScaleReport {
            clusters: vec![cluster(3, 1.0), cluster(20, 2.0)],
            config: ScaleConfig {
                keys: 50_000,
                key_bytes: 24,
                value_bytes: 100,
                in_flight_per_node: 10,
                duration_seconds: 5.0,
                settle_seconds: 5.0,
                idle_seconds: 10.0,
            },
            started_at: "1970-01-01T00:00:00.000Z".to_owned(),
            warnings: Vec::new(),
            host: Host {
                system: "Linux".to_owned(),
                cpu: "<fast>".to_owned(),
                cores: 2,
                memory_bytes: 1,
                load_average: 0.5,
                bench_version: "0.1.0".to_owned(),
            },
        }
    }

    #[test]
    fn a_figure_of_nodes_has_its_mean_and_its_largest() {
        let by_node = [("a", 1.0), ("b", 4.0)].map(|(id, it)| (id.to_owned(), it));
        let figure = PerNode::new(by_node.into());
        assert_eq!((figure.mean, figure.max), (2.5, 4.0));
        let none = PerNode::new(BTreeMap::new());
        assert_eq!((none.mean, none.max), (0.0, 0.0));
    }
}
