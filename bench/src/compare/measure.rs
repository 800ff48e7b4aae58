//! What is compared: figures of a kind of operation, or of all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::report::{OpReport, Report};

/// What stands for all kinds of operations.
pub(super) const ALL: &str = "all";

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Operations per second.
    OpsPerSecond,
    /// The median latency.
    #[serde(rename = "latency_p50_ms")]
    P50,
    /// The latency that 99 % did not exceed.
    #[serde(rename = "latency_p99_ms")]
    P99,
    /// The latency that 99.9 % did not exceed.
    #[serde(rename = "latency_p999_ms")]
    P999,
    /// CPU time of all nodes per operation.
    #[serde(rename = "server_cpu_us_per_op")]
    ServerCpu,
    /// CPU time of the load generator per operation.
    #[serde(rename = "client_cpu_us_per_op")]
    ClientCpu,
}

impl Measure {
    /// Those that each kind of operation has.
    const OF_KINDS: [Self; 4] = [Self::OpsPerSecond, Self::P50, Self::P99, Self::P999];

    /// Those that are known of all kinds together only.
    const OF_ALL: [Self; 2] = [Self::ServerCpu, Self::ClientCpu];

    /// For people, with its unit.
    pub fn label(self) -> &'static str {
        match self {
            Self::OpsPerSecond => "ops/s",
            Self::P50 => "P50 ms",
            Self::P99 => "P99 ms",
            Self::P999 => "P99.9 ms",
            Self::ServerCpu => "server CPU us/op",
            Self::ClientCpu => "client CPU us/op",
        }
    }

    /// Whether a larger one is the better one.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::OpsPerSecond)
    }

    /// Which quantile of the latencies it is, if it is one.
    pub(super) fn quantile(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P99 => Some(0.99),
            Self::P999 => Some(0.999),
            Self::OpsPerSecond | Self::ServerCpu | Self::ClientCpu => None,
        }
    }
}

/// A figure of a kind of operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// A kind of operation, or `all`.
    pub(super) of: String,
    /// The figure.
    pub(super) measure: Measure,
}

impl Subject {
    /// What a run came to.
    pub(super) fn of_run(&self, run: &Report) -> Option<f64> {
        let op = match self.of.as_str() {
            ALL => run.all_ops.as_ref(),
            kind => run.by_op.get(kind),
        };
        let latency = |part: fn(&OpReport) -> f64| op.map(part);
        match self.measure {
            Measure::OpsPerSecond if self.of == ALL => Some(run.ops_per_second),
            Measure::OpsPerSecond => op.map(|op| op.ops_per_second),
            Measure::P50 => latency(|op| op.latency_ms.p50),
            Measure::P99 => latency(|op| op.latency_ms.p99),
            Measure::P999 => latency(|op| op.latency_ms.p999),
            Measure::ServerCpu => run.server_cpu_us_per_op,
            Measure::ClientCpu => Some(run.client_cpu_us_per_op),
        }
    }
}

/// What can be compared: the kinds of operations that every run has, and all together where these are several.
pub(super) fn subjects<'a>(runs: impl Iterator<Item = &'a Report>) -> Vec<Subject> {
    let kinds = runs.map(|run| run.by_op.keys().cloned().collect::<BTreeSet<_>>());
    let common = kinds.reduce(|all, of_run| all.intersection(&of_run).cloned().collect());
    let mut kinds: Vec<_> = common.unwrap_or_default().into_iter().collect();
    if kinds.len() > 1 {
        kinds.push(ALL.to_owned());
    }
    let subject = |of: &str, measure| Subject {
        of: of.to_owned(),
        measure,
    };
    let each = kinds.iter();
    let each = each.flat_map(|kind| Measure::OF_KINDS.map(|measure| subject(kind, measure)));
    let of_all = Measure::OF_ALL.map(|measure| subject(ALL, measure));
    each.chain(of_all).collect()
}
