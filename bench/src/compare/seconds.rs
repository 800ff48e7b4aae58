//! What each second of a side's runs came to, so that other runs can be put together of them.

use std::collections::{BTreeMap, BTreeSet};

use super::measure::{ALL, Measure, Subject};
use crate::report::{LatencyCounts, Report, ResourcePoint, TimelinePoint};

/// The readings of the processes belong to the second of the timeline that ends less than this away.
const SAME_SECOND: f64 = 0.5;

/// The seconds of all runs of a side.
#[derive(Debug)]
pub(super) struct Seconds {
    seconds: Vec<Second>,
    /// How many of them each run has, one run after the other.
    pub(super) run_lengths: Vec<usize>,
    /// By kind of operation: all latencies that occur, rising, in microseconds.
    latencies_us: BTreeMap<String, Vec<u64>>,
}

#[derive(Debug)]
struct Second {
    length: f64,
    ops: BTreeMap<String, f64>,
    /// By kind: where in `latencies_us`, and how many.
    counts: BTreeMap<String, Vec<(usize, u64)>>,
    /// Absent when it is not known of every node.
    server_cpu_seconds: Option<f64>,
    client_cpu_seconds: Option<f64>,
}

impl Seconds {
    /// Takes them out of the reports.
    pub(super) fn new(runs: &[Report]) -> Self {
        let mut all: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        let points = runs.iter().flat_map(|run| &run.timeline);
        for (kind, counts) in points.flat_map(|point| &point.latencies) {
            let known = all.entry(kind.clone()).or_default();
            known.extend(counts.iter().map(|(latency_us, _)| latency_us));
        }
        let latencies_us: BTreeMap<_, Vec<_>> = all
            .into_iter()
            .map(|(kind, latencies)| (kind, latencies.into_iter().collect()))
            .collect();
        let seconds = runs.iter().flat_map(|run| of_run(run, &latencies_us));
        Self {
            seconds: seconds.collect(),
            run_lengths: runs.iter().map(|run| run.timeline.len()).collect(),
            latencies_us,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.seconds.len()
    }

    /// What a run would have come to that has each second so often.
    pub(super) fn figures(&self, subjects: &[Subject], times: &[u32]) -> Vec<Option<f64>> {
        let kinds: BTreeSet<_> = subjects.iter().map(|subject| &subject.of).collect();
        let mut merged = BTreeMap::new();
        for kind in kinds {
            merged.insert(kind, self.merged(kind, times));
        }
        let figure = |subject: &Subject| {
            let ops = self.sum(times, |second| second.ops.get(&subject.of).copied());
            let per_op = |cpu: fn(&Second) -> Option<f64>| {
                // Both of the same seconds: those of which both are known.
                let of_all = |second: &Second| second.ops.get(ALL).copied();
                let ops = self.sum(times, |second| cpu(second).and(of_all(second)))?;
                Some(self.sum(times, cpu)? / ops * 1e6)
            };
            match subject.measure {
                Measure::OpsPerSecond => Some(ops? / self.sum(times, |it| Some(it.length))?),
                Measure::ServerCpu => per_op(|second| second.server_cpu_seconds),
                Measure::ClientCpu => per_op(|second| second.client_cpu_seconds),
                latency => {
                    let (latencies_us, counts) = merged.get(&subject.of)?.as_ref()?;
                    quantile(latencies_us, counts, latency.quantile()?)
                }
            }
        };
        subjects.iter().map(figure).collect()
    }

    /// Of the seconds that have it; `None` when that is nothing.
    fn sum(&self, times: &[u32], value: impl Fn(&Second) -> Option<f64>) -> Option<f64> {
        let parts = self.seconds.iter().zip(times);
        let sum: f64 = parts
            .filter_map(|(second, times)| Some(f64::from(*times) * value(second)?))
            .sum();
        (sum > 0.0).then_some(sum)
    }

    fn merged(&self, kind: &str, times: &[u32]) -> Option<(&[u64], Vec<u64>)> {
        let latencies_us = self.latencies_us.get(kind)?;
        let mut merged = vec![0; latencies_us.len()];
        for (second, times) in self.seconds.iter().zip(times).filter(|(_, it)| **it > 0) {
            for (index, count) in second.counts.get(kind).into_iter().flatten() {
                merged[*index] += u64::from(*times) * count;
            }
        }
        Some((latencies_us, merged))
    }
}

fn of_run(run: &Report, latencies_us: &BTreeMap<String, Vec<u64>>) -> Vec<Second> {
    let mut before = 0.0;
    let second = |point: &TimelinePoint| {
        let length = point.at_seconds - before;
        before = point.at_seconds;
        let mut ops: BTreeMap<_, _> = point
            .by_op
            .iter()
            .map(|(kind, op)| (kind.clone(), op.ops_per_second * length))
            .collect();
        ops.insert(ALL.to_owned(), ops.values().sum());
        let indices = |(kind, counts): (&String, &LatencyCounts)| {
            let known = latencies_us.get(kind)?;
            let indices = counts.iter().filter_map(|(latency_us, count)| {
                Some((known.binary_search(&latency_us).ok()?, count))
            });
            Some((kind.clone(), indices.collect()))
        };
        let is_same = |it: &&ResourcePoint| (it.at_seconds - point.at_seconds).abs() < SAME_SECOND;
        let resources = run.resources.iter().find(is_same);
        Second {
            length,
            ops,
            counts: point.latencies.iter().filter_map(indices).collect(),
            server_cpu_seconds: resources
                .and_then(|it| server_cpu_cores(run, it))
                .map(|it| it * length),
            client_cpu_seconds: resources.map(|it| it.client_cpu_cores * length),
        }
    };
    run.timeline.iter().map(second).collect()
}

/// Processors that all nodes kept busy; `None` when one is missing.
fn server_cpu_cores(run: &Report, point: &ResourcePoint) -> Option<f64> {
    let is_whole = !run.servers.is_empty() && point.by_node.len() == run.servers.len();
    is_whole.then(|| point.by_node.values().map(|node| node.cpu_cores).sum())
}

/// The latency that this part did not exceed, in milliseconds.
fn quantile(latencies_us: &[u64], counts: &[u64], quantile: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let rank = (quantile * all as f64).ceil().max(1.0) as u64;
    let mut counted = 0;
    let found = latencies_us.iter().zip(counts).find(|(_, count)| {
        counted += **count;
        counted >= rank
    });
    found.map(|(latency_us, _)| *latency_us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::measure::subjects;
    use super::*;
    use crate::report::NodeResources;

    /// Two seconds: 100 writes of 1 ms with two processors busy, and 300 of 3 ms with three.
    pub(in crate::compare) fn report() -> Report {
        let text = include_str!("../../tests/report.json");
        let mut report: Report = serde_json::from_str(text).expect("the sample is a report");
        report.by_op.remove("read");
        report.servers.truncate(1);
        report.resources.clear();
        report.timeline.truncate(2);
        for (index, point) in report.timeline.iter_mut().enumerate() {
            let (count, latency_us, cores) = [(100, 1_000, 2.0), (300, 3_000, 3.0)][index];
            point.at_seconds = (index + 1) as f64;
            point.by_op.remove("read");
            point.by_op.get_mut("write").unwrap().ops_per_second = count as f64;
            let counts: LatencyCounts = [(latency_us, count)].into_iter().collect();
            point.latencies = [("write".to_owned(), counts)].into();
            let node = NodeResources {
                cpu_cores: cores,
                ..NodeResources::default()
            };
            report.resources.push(ResourcePoint {
                at_seconds: point.at_seconds,
                client_cpu_cores: cores / 10.0,
                by_node: [(report.servers[0].node_id.clone(), node)].into(),
            });
        }
        report
    }

    /// Operations per second, P50, P99, P99.9, and CPU of the nodes and of the client.
    fn figures(report: &Report, times: &[u32]) -> Vec<Option<f64>> {
        let runs = [report.clone()];
        Seconds::new(&runs).figures(&subjects(runs.iter()), times)
    }

    #[test]
    fn seconds_are_put_together() {
        let near = |found: &[Option<f64>], expected: [f64; 6]| {
            for (found, expected) in found.iter().zip(expected) {
                let off = (found.unwrap() - expected).abs() / expected;
                assert!(off < 0.01, "{found:?} is not {expected}");
            }
        };
        let report = report();
        near(
            &figures(&report, &[1, 1]),
            [200.0, 3.0, 3.0, 3.0, 12_500.0, 1_250.0],
        );
        near(
            &figures(&report, &[2, 0]),
            [100.0, 1.0, 1.0, 1.0, 20_000.0, 2_000.0],
        );
        near(
            &figures(&report, &[8, 1]),
            [1100.0 / 9.0, 1.0, 3.0, 3.0, 17_272.7, 1_727.3],
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut report = report();
        report.resources[0].by_node.clear();
        let of_second = figures(&report, &[5, 1]);
        assert!(
            (of_second[4].unwrap() - 10_000.0).abs() < 1e-6,
            "{of_second:?}"
        );
        let none = figures(&report, &[1, 0]);
        assert_eq!(none[4], None);
        report
            .timeline
            .iter_mut()
            .for_each(|it| it.latencies.clear());
        let none = figures(&report, &[1, 1]);
        assert_eq!(none[1..4], [None; 3]);
        assert!(none[0].is_some());
    }
}
