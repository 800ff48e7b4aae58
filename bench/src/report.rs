//! What a run measured: the form of the JSON file, which scripts depend on, and what the page shows.
//!
//! Fields are added, never renamed or removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod counts;

pub use counts::LatencyCounts;

/// The result of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Operations that succeeded, per second of the measured time.
    pub ops_per_second: f64,
    /// By kind of operation: `write`, `read`.
    pub by_op: BTreeMap<String, OpReport>,
    /// All kinds of operations together. Absent in files of earlier versions.
    #[serde(default)]
    pub all_ops: Option<OpReport>,
    /// CPU time of all nodes together, user and system, per operation, in microseconds. Absent when
    /// their metrics could not be read.
    pub server_cpu_us_per_op: Option<f64>,
    /// CPU time of the load generator per operation, in microseconds.
    pub client_cpu_us_per_op: f64,
    /// What was asked for.
    pub config: RunConfig,
    /// When the measured part began: RFC 3339, UTC.
    pub started_at: String,
    /// How long the measured part took, in seconds.
    pub duration_seconds: f64,
    /// What to keep in mind when reading the figures: the client was the limit, for example.
    pub warnings: Vec<String>,
    /// The loading phase, unless it was skipped.
    pub loading: Option<Loading>,
    /// One point a second.
    pub timeline: Vec<TimelinePoint>,
    /// What the processes took meanwhile: one point for each full second.
    #[serde(default)]
    pub resources: Vec<ResourcePoint>,
    /// What was done to the nodes meanwhile.
    #[serde(default)]
    pub events: Vec<Event>,
    /// The machine the generator ran on.
    pub host: Host,
    /// The nodes that were measured.
    pub servers: Vec<Server>,
}

/// One kind of operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpReport {
    /// How many succeeded.
    pub count: u64,
    /// How many of them per second.
    pub ops_per_second: f64,
    /// How many failed.
    pub errors: u64,
    /// The failures by what they said, without addresses and numbers.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// From the intended moment of sending to the answer.
    pub latency_ms: Latency,
    /// Points of the cumulative distribution, by rising percentile up to 100.
    pub distribution: Vec<DistributionPoint>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90 % were faster.
    pub p90: f64,
    /// 99 % were faster.
    pub p99: f64,
    /// 99.9 % were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// A point of the cumulative distribution.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct DistributionPoint {
    /// 0 to 100.
    pub percentile: f64,
    /// This part of the operations took at most this long, in milliseconds.
    pub latency_ms: f64,
}

/// What happened in one second of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TimelinePoint {
    /// The end of the second, counted from the start of the measured part.
    pub at_seconds: f64,
    /// By kind of operation, those of `Report::by_op`.
    pub by_op: BTreeMap<String, TimelineOp>,
    /// All kinds together. Absent in files of earlier versions.
    #[serde(default)]
    pub all_ops: Option<TimelineOp>,
    /// By kind of operation, and `all`: every latency of this second, so that seconds can be put together.
    #[serde(default)]
    pub latencies: BTreeMap<String, LatencyCounts>,
}

/// What the processes took in one second.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ResourcePoint {
    /// The end of the second, counted from the start of the measured part.
    pub at_seconds: f64,
    /// Processors that the load generator kept busy: 0.5 is half of one.
    pub client_cpu_cores: f64,
    /// By node id. A node that did not answer, or was started anew in this second, is missing.
    pub by_node: BTreeMap<String, NodeResources>,
}

/// What one node took in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeResources {
    /// Processors that it kept busy: 0.5 is half of one.
    pub cpu_cores: f64,
    /// How often its store synced.
    pub syncs_per_second: f64,
    /// How long such a sync took, the mean; absent without syncs.
    pub sync_mean_ms: Option<f64>,
    /// 99 % of them took at most this long, as far as the buckets of its metrics tell; absent without syncs.
    pub sync_p99_ms: Option<f64>,
}

/// What was done to a node in the measured part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// When, counted from its start.
    pub at_seconds: f64,
    /// What: `node-3 killed`, `node-3 started again`.
    pub what: String,
}

/// One kind of operation in one second.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct TimelineOp {
    /// Successes per second.
    pub ops_per_second: f64,
    /// Failures in this second.
    pub errors: u64,
    /// Median latency in milliseconds; 0 without operations.
    pub p50_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
    /// The slowest, in milliseconds.
    pub max_ms: f64,
}

/// What a run was told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunConfig {
    /// The workload's name, as on the command line.
    pub workload: String,
    /// The nodes' addresses.
    pub servers: Vec<String>,
    /// Callers.
    pub clients: usize,
    /// Requests that each caller keeps in flight.
    pub pipeline: usize,
    /// Operations per second that were intended; absent in a closed loop.
    pub rate: Option<f64>,
    /// How long to measure, in seconds.
    pub duration_seconds: f64,
    /// Keys that were loaded.
    pub keys: u64,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// `zipfian`, `uniform` or `latest`.
    pub distribution: String,
    /// What decides the sequence of keys and operations.
    pub seed: u64,
    /// W of each write, when not the cluster's default.
    pub w: Option<u8>,
    /// R of each read, when not the cluster's default.
    pub r: Option<u8>,
}

/// The loading phase.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Loading {
    /// Keys that were written.
    pub keys: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The machine the generator ran on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// Operating system and kernel release.
    pub system: String,
    /// The processor's name, as the system tells it.
    pub cpu: String,
    /// Processors the generator may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Load average of the last minute when the measured part began: how quiet the machine was.
    pub load_average: f64,
    /// The generator's version.
    pub bench_version: String,
}

/// A node that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    /// Its id.
    pub node_id: String,
    /// Its address for clients.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Its CPU time per operation of the whole run, in microseconds; absent when its metrics could not
    /// be read.
    pub cpu_us_per_op: Option<f64>,
}
