//! The node's metrics: registered once, used through handles.
//!
//! Every node has a recorder of its own, so that several can live in one process. The unit is part of
//! each name; histograms get explicit buckets, because summaries can't be aggregated over nodes. Nothing
//! is looked up while requests are served: all series exist, at zero, before the first.

use std::path::Path;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::process;
use crate::runtime::shared::data_directory::list_set_aside;

mod cluster;
mod doors;
mod held;
mod hints;
mod mending;
mod reads;
mod registry;
mod snapshots;
mod store;
mod totals;

use cluster::ClusterMetrics;
use doors::DoorMetrics;
use held::HeldMetrics;
use hints::HintMetrics;
use mending::MendingMetrics;
use reads::ReadMetrics;
use registry::Registry;
use snapshots::SnapshotMetrics;
use store::StoreMetrics;
use totals::TotalMetrics;

const REQUEST_SECONDS: &str = "dynakv_request_duration_seconds";
const REPLICA_SECONDS: &str = "dynakv_replica_duration_seconds";
const FSYNC_SECONDS: &str = "dynakv_store_fsync_duration_seconds";
const WRITES_PER_SYNC: &str = "dynakv_store_writes_per_sync";
const SIBLINGS: &str = "dynakv_siblings_per_key";
const VALUE_BYTES: &str = "dynakv_value_size_bytes";

/// Steps of 1, 2 and 5, from below the fastest read to beyond the default deadline: a quantile is known
/// to a factor of 2.5 at worst.
const SECONDS_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
];
const SIBLINGS_BUCKETS: &[f64] = &[1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];
const WRITES_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
];
const BYTES_BUCKETS: &[f64] = &[
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// What a client asked for, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A read.
    Get,
    /// A write of a value.
    Put,
    /// A write of a tombstone.
    Delete,
    /// All owners of a key asked what they have.
    Explain,
    /// A merge of exported versions.
    Import,
}

/// How a request ended, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// Too few owners answered.
    Quorum,
    /// The deadline passed.
    Timeout,
    /// Refused: too much in hand, not ready, or a bad request.
    Refused,
    /// Anything else.
    Error,
}

/// What another owner was asked for, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaOp {
    /// Whether it can be reached.
    Ping,
    /// Its versions of a key.
    Read,
    /// To merge a write.
    Write,
    /// To merge what a read found it lacks.
    Repair,
    /// To keep a write for an owner.
    Hint,
}

/// The metrics of one operation.
#[derive(Debug)]
struct PerOp {
    by_outcome: [Counter; 5],
    seconds: Histogram,
}

/// Handles to everything a node counts.
pub struct Metrics {
    node: String,
    handle: PrometheusHandle,
    ops: [PerOp; 5],
    replica_seconds: [Histogram; 5],
    /// How long one sync of the store takes.
    pub fsync_seconds: Histogram,
    /// How many writes share one sync.
    pub writes_per_sync: Histogram,
    /// Siblings of a key after a write.
    pub siblings: Histogram,
    /// Bytes of a value that a client wrote.
    pub value_bytes: Histogram,
    /// Requests coordinated here that failed for want of owners.
    pub quorum_failures: Counter,
    /// Reads that found more than one sibling.
    pub conflicts: Counter,
    /// Owners that were mended after a read.
    pub read_repairs: Counter,
    /// Blind writes minted a second time.
    pub minted_again: Counter,
    /// Requests handed on to an owner.
    pub forwarded: Counter,
    /// Requests refused because too much was in hand.
    pub refused: Counter,
    /// Requests in hand.
    pub in_flight: Gauge,
    /// Bytes of requests in hand.
    pub in_flight_bytes: Gauge,
    /// Writes refused because only the reserve is left on the disk.
    pub refused_for_disk: Counter,
    /// How many requests may be in hand before clients are refused.
    pub in_flight_max: Gauge,
    /// How many bytes of them.
    pub in_flight_bytes_max: Gauge,
    /// What comparing, mending and rebuilding come to.
    pub mending: MendingMetrics,
    /// Who comes in, and who is not let in.
    pub doors: DoorMetrics,
    /// What this node knows of its cluster.
    pub cluster: ClusterMetrics,
    /// What this node has, and what it has lost.
    pub totals: TotalMetrics,
    /// Bytes that are held for others.
    pub held: HeldMetrics,
    /// What is kept for other nodes.
    pub hints: HintMetrics,
    /// What is under way in the store.
    pub store: StoreMetrics,
    /// How reads are carried out.
    pub reads: ReadMetrics,
    /// What snapshots come to.
    pub snapshots: SnapshotMetrics,
}

impl Metrics {
    /// Registers all metrics with a recorder of their own; `node` becomes a label of each.
    ///
    /// # Errors
    /// [`BuildError`] for buckets that are none: a defect.
    pub fn new(node: &str) -> Result<Self, BuildError> {
        let full = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .add_global_label("node", node)
            .set_buckets_for_metric(full(REQUEST_SECONDS), SECONDS_BUCKETS)?
            .set_buckets_for_metric(full(REPLICA_SECONDS), SECONDS_BUCKETS)?
            .set_buckets_for_metric(full(FSYNC_SECONDS), SECONDS_BUCKETS)?
            .set_buckets_for_metric(full(WRITES_PER_SYNC), WRITES_BUCKETS)?
            .set_buckets_for_metric(full(SIBLINGS), SIBLINGS_BUCKETS)?
            .set_buckets_for_metric(full(VALUE_BYTES), BYTES_BUCKETS)?
            .build_recorder();
        Ok(Self::register(node, &recorder))
    }

    fn register(node: &str, recorder: &PrometheusRecorder) -> Self {
        let make = Registry { recorder };
        let help = "Always 1; its label says which version runs.";
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        make.gauge_of("dynakv_build_info", help, &version).set(1.0);
        let per_op = |op: &'static str| {
            let requests = "dynakv_requests_total";
            let help =
                "Requests by operation and result; one that was handed on counts at both nodes.";
            let outcome =
                |result| make.counter_of(requests, help, &[("op", op), ("result", result)]);
            PerOp {
                by_outcome: ["ok", "quorum", "timeout", "refused", "error"].map(outcome),
                seconds: make.histogram(
                    REQUEST_SECONDS,
                    Unit::Seconds,
                    "From a request's arrival to its answer, at the coordinator.",
                    &[("op", op)],
                ),
            }
        };
        let replica = |op| {
            let help =
                "From the sending of a request to another owner to its answer, at the coordinator.";
            make.histogram(REPLICA_SECONDS, Unit::Seconds, help, &[("op", op)])
        };
        let gauge = |name, help| make.gauge_of(name, help, &[]);
        let counter = |name, help| make.counter_of(name, help, &[]);
        let histogram = |name, unit, help| make.histogram(name, unit, help, &[]);
        Self {
            node: node.to_owned(),
            handle: recorder.handle(),
            ops: ["get", "put", "delete", "explain", "import"].map(per_op),
            replica_seconds: ["ping", "read", "write", "repair", "hint"].map(replica),
            fsync_seconds: histogram(
                FSYNC_SECONDS,
                Unit::Seconds,
                "How long one sync of the store takes.",
            ),
            writes_per_sync: histogram(
                WRITES_PER_SYNC,
                Unit::Count,
                "How many writes share one sync of the store.",
            ),
            siblings: histogram(SIBLINGS, Unit::Count, "Siblings of a key after a write."),
            value_bytes: histogram(VALUE_BYTES, Unit::Bytes, "Sizes of written values."),
            quorum_failures: counter(
                "dynakv_quorum_failures_total",
                "Requests coordinated here that failed because too few owners answered.",
            ),
            conflicts: counter(
                "dynakv_conflicts_total",
                "Reads that found more than one sibling.",
            ),
            read_repairs: counter(
                "dynakv_read_repairs_total",
                "Stale owners that were mended after a read.",
            ),
            minted_again: counter(
                "dynakv_writes_minted_again_total",
                "Writes without a context that another owner had something beside.",
            ),
            forwarded: counter(
                "dynakv_requests_forwarded_total",
                "Requests handed on to an owner of their key.",
            ),
            refused_for_disk: counter(
                "dynakv_disk_writes_refused_total",
                "Writes refused because only the reserve is left on the disk.",
            ),
            refused: counter(
                "dynakv_requests_refused_total",
                "Requests refused because this node had too much in hand.",
            ),
            in_flight: gauge("dynakv_requests_in_flight", "Requests in hand."),
            in_flight_bytes: gauge(
                "dynakv_requests_in_flight_bytes",
                "Bytes of requests in hand.",
            ),
            in_flight_max: gauge(
                "dynakv_requests_in_flight_max",
                "How many requests may be in hand before clients are refused.",
            ),
            in_flight_bytes_max: gauge(
                "dynakv_requests_in_flight_bytes_max",
                "How many bytes of requests may be in hand before clients are refused.",
            ),
            mending: MendingMetrics::register(&make),
            doors: DoorMetrics::register(&make),
            cluster: ClusterMetrics::register(&make),
            totals: TotalMetrics::register(&make),
            held: HeldMetrics::register(&make),
            hints: HintMetrics::register(&make),
            store: StoreMetrics::register(&make),
            reads: ReadMetrics::register(&make),
            snapshots: SnapshotMetrics::register(&make),
        }
    }

    /// Counts a client's request that has ended.
    pub fn ended(&self, op: Op, outcome: Outcome, took: Duration) {
        let op = &self.ops[op as usize];
        op.by_outcome[outcome as usize].increment(1);
        op.seconds.record(took.as_secs_f64());
    }

    /// Counts the answer of another owner.
    pub fn replica_answered(&self, op: ReplicaOp, took: Duration) {
        self.replica_seconds[op as usize].record(took.as_secs_f64());
    }

    /// All metrics in Prometheus' text form, those of the process and of the disk of its data directory
    /// included.
    pub fn render(&self, data_dir: &Path) -> String {
        let set_aside = list_set_aside(data_dir).len();
        self.totals.stores_set_aside.set(set_aside as f64);
        self.handle.render() + &process::render(&self.node, data_dir)
    }

    /// Keeps histograms small; call it every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first line that begins like this.
    fn line<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
        text.lines().find(|line| line.starts_with(begin))
    }

    #[test]
    fn every_series_is_there_before_the_first_request() {
        let text = Metrics::new("node-1").unwrap().render(Path::new("."));
        for op in ["get", "put", "delete"] {
            let count =
                format!("dynakv_request_duration_seconds_count{{node=\"node-1\",op=\"{op}\"}} 0");
            assert_eq!(line(&text, &count), Some(&*count), "{text}");
            for result in ["ok", "quorum", "timeout", "refused", "error"] {
                let labels = format!("node=\"node-1\",op=\"{op}\",result=\"{result}\"");
                let count = format!("dynakv_requests_total{{{labels}}} 0");
                assert_eq!(line(&text, &count), Some(&*count), "{text}");
            }
        }
        let build = format!(
            "dynakv_build_info{{node=\"node-1\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(line(&text, &build), Some(&*build), "{text}");
    }

    #[test]
    fn labels_follow_what_is_counted() {
        let metrics = Metrics::new("node-1").unwrap();
        let took = Duration::from_micros(1500);
        metrics.ended(Op::Delete, Outcome::Timeout, took);
        for (op, times) in [
            (ReplicaOp::Ping, 1),
            (ReplicaOp::Read, 2),
            (ReplicaOp::Write, 3),
            (ReplicaOp::Repair, 4),
        ] {
            for _ in 0..times {
                metrics.replica_answered(op, took);
            }
        }
        let text = metrics.render(Path::new("."));
        for expected in [
            "dynakv_requests_total{node=\"node-1\",op=\"delete\",result=\"timeout\"} 1",
            "dynakv_request_duration_seconds_bucket{node=\"node-1\",op=\"delete\",le=\"0.001\"} 0",
            "dynakv_request_duration_seconds_bucket{node=\"node-1\",op=\"delete\",le=\"0.002\"} 1",
            "dynakv_request_duration_seconds_count{node=\"node-1\",op=\"get\"} 0",
            "dynakv_replica_duration_seconds_count{node=\"node-1\",op=\"ping\"} 1",
            "dynakv_replica_duration_seconds_count{node=\"node-1\",op=\"read\"} 2",
            "dynakv_replica_duration_seconds_count{node=\"node-1\",op=\"write\"} 3",
            "dynakv_replica_duration_seconds_count{node=\"node-1\",op=\"repair\"} 4",
        ] {
            assert_eq!(line(&text, expected), Some(expected), "{text}");
        }
    }

    #[test]
    fn every_metric_is_described_and_carries_its_node() {
        let text = Metrics::new("node-1").unwrap().render(Path::new("."));
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let name = family.split(' ').next().unwrap_or_default();
                assert!(text.contains(&format!("# HELP {name} ")), "{line}");
            } else if !line.starts_with('#') {
                assert!(line.contains("node=\"node-1\""), "{line}");
            }
        }
    }
}
