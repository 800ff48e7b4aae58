//! How latency rises with what a cluster is asked to do: the form of the JSON of `dynakv-bench sweep`, which scripts
//! depend on, and how it is shown.
//!
//! Fields are added, never renamed or removed.

use serde::{Deserialize, Serialize};

use crate::report::{Host, Latency, Loading, Report, RunConfig, Server};

mod picture;
mod table;

pub use picture::picture;
pub use table::table;

/// An open loop that reaches less than this share of its rate is past what the cluster does.
const RATE_REACHED: f64 = 0.98;

/// The result of `dynakv-bench sweep`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SweepReport {
    /// One after the other, each with more to do than the one before.
    pub steps: Vec<Step>,
    /// The step from which on more load does not pay. Absent when no step counts.
    pub knee: Option<Knee>,
    /// What 99 % of the operations were to take less than, in milliseconds, if that decides the knee.
    pub p99_below_ms: Option<f64>,
    /// What was asked for in the first step; the others differ in how much.
    pub config: RunConfig,
    /// The nodes that were measured.
    pub servers: Vec<Server>,
    /// The loading phase.
    pub loading: Option<Loading>,
    /// When the first step began: RFC 3339, UTC.
    pub started_at: String,
    /// What to keep in mind when reading the figures.
    pub warnings: Vec<String>,
    /// The machine that all ran on.
    pub host: Host,
}

/// One load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Requests in flight: in an open loop, as many as there may be.
    pub in_flight: usize,
    /// Operations per second that were intended; absent in a closed loop.
    pub rate: Option<f64>,
    /// Operations that succeeded, per second.
    pub ops_per_second: f64,
    /// How many succeeded.
    pub count: u64,
    /// How many failed.
    pub errors: u64,
    /// Latencies of all kinds of operations together.
    pub latency_ms: Latency,
    /// CPU time of all nodes together per operation, in microseconds. Absent when a node's was not known.
    pub server_cpu_us_per_op: Option<f64>,
    /// CPU time of the load generator per operation, in microseconds.
    pub client_cpu_us_per_op: f64,
}

/// The step from which on more load does not pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knee {
    /// Which of the steps, from 0 on.
    pub step: usize,
    /// What makes it the knee.
    pub rule: KneeRule,
}

/// What makes a step the knee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KneeRule {
    /// Operations per second divided by the mean latency are most: Kleinrock's power.
    Power,
    /// Operations per second are most, of the steps whose P99 is below a bound.
    P99Bound,
}

impl Step {
    /// What a run came to.
    pub fn new(run: &Report) -> Self {
        let all = run.all_ops.as_ref();
        Self {
            in_flight: run.config.clients * run.config.pipeline,
            rate: run.config.rate,
            ops_per_second: run.ops_per_second,
            count: all.map_or(0, |all| all.count),
            errors: all.map_or(0, |all| all.errors),
            latency_ms: all.map(|all| all.latency_ms).unwrap_or_default(),
            server_cpu_us_per_op: run.server_cpu_us_per_op,
            client_cpu_us_per_op: run.client_cpu_us_per_op,
        }
    }

    /// Operations per second, for each millisecond that they take.
    pub fn power(&self) -> f64 {
        match self.latency_ms.mean > 0.0 {
            true => self.ops_per_second / self.latency_ms.mean,
            false => 0.0,
        }
    }

    /// Whether it did what it was told: all, and as many as intended.
    fn counts(&self) -> bool {
        let reached = |rate: f64| self.ops_per_second >= RATE_REACHED * rate;
        self.count > 0 && self.errors == 0 && self.rate.is_none_or(reached)
    }
}

/// Finds the knee: by the bound of P99 in milliseconds, if there is one, and by the power otherwise. Steps in which
/// operations failed, or an open loop fell behind, do not count.
pub fn knee(steps: &[Step], p99_below_ms: Option<f64>) -> Option<Knee> {
    let (rule, worth): (_, fn(&Step) -> f64) = match p99_below_ms {
        Some(_) => (KneeRule::P99Bound, |step| step.ops_per_second),
        None => (KneeRule::Power, Step::power),
    };
    let within = |step: &Step| p99_below_ms.is_none_or(|bound| step.latency_ms.p99 < bound);
    let counting = steps.iter().enumerate();
    let counting = counting.filter(|(_, step)| step.counts() && within(step));
    let best = counting.max_by(|(_, a), (_, b)| worth(a).total_cmp(&worth(b)));
    best.map(|(step, _)| Knee { step, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A closed loop on a cluster that serves 1,000 a second for each request in flight up to 50, and no more.
    pub(super) fn report() -> SweepReport {
        let run: Report = serde_json::from_str(include_str!("../../tests/report.json")).unwrap();
        let step = |in_flight: usize| {
            let ops_per_second = 1000.0 * in_flight.min(50) as f64;
            let mean = 1000.0 * in_flight as f64 / ops_per_second;
            Step {
                in_flight,
                rate: None,
                ops_per_second,
                count: 1000,
                errors: 0,
                latency_ms: Latency {
                    mean,
                    p50: mean,
                    p90: 1.5 * mean,
                    p99: 2.0 * mean,
                    p999: 4.0 * mean,
                    max: 9.0 * mean,
                },
                server_cpu_us_per_op: Some(20.0),
                client_cpu_us_per_op: 4.0,
            }
        };
        let steps: Vec<_> = [1, 10, 50, 100, 400].map(step).into();
        SweepReport {
            knee: knee(&steps, None),
            steps,
            p99_below_ms: None,
            config: run.config,
            servers: run.servers,
            loading: None,
            started_at: run.started_at,
            warnings: Vec::new(),
            host: run.host,
        }
    }

    #[test]
    fn the_knee_is_where_more_load_brings_no_more_operations() {
        let report = report();
        let rule = KneeRule::Power;
        assert_eq!(report.knee, Some(Knee { step: 2, rule }));
        assert_eq!(knee(&[], None), None);
    }

    #[test]
    fn a_bound_of_p99_decides_instead() {
        let steps = report().steps;
        let at = |bound| knee(&steps, Some(bound)).map(|knee| knee.step);
        let rule = KneeRule::P99Bound;
        // 2 ms up to 50 in flight, and none is below that.
        assert_eq!(knee(&steps, Some(2.5)), Some(Knee { step: 2, rule }));
        assert_eq!(at(2.0), None);
        // Of steps that do as much the last one: the bound is all that is asked for.
        assert_eq!(at(1000.0), Some(4));
    }

    #[test]
    fn steps_that_failed_or_fell_behind_do_not_count() {
        let mut steps = report().steps;
        steps[2].errors = 1;
        assert_eq!(knee(&steps, None).unwrap().step, 3);
        steps[3].rate = Some(60_000.0);
        assert_eq!(knee(&steps, None).unwrap().step, 1);
        steps[3].rate = Some(50_500.0);
        assert_eq!(knee(&steps, None).unwrap().step, 3);
    }
}
