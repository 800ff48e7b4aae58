//! What the processes take while a run lasts, second by second: CPU time, and how long the nodes' stores sync.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::host::process_cpu;
use super::servers::{CPU_METRIC, START_METRIC, metrics_pages, of_node, samples};
use crate::report::{NodeResources, ResourcePoint};

const SYNC_METRIC: &str = "dynakv_store_fsync_duration_seconds";

/// Asks at each tick, and does not wait for the answers: a node that hangs is missing and holds nothing up.
#[derive(Debug)]
pub(super) struct Sampler {
    start: Instant,
    metrics: Vec<String>,
    asked: JoinSet<Readings>,
    ticks: Vec<Tick>,
}

/// The end of a second.
#[derive(Debug)]
struct Tick {
    at: Duration,
    /// How much CPU time this process had used by then.
    client_cpu: Duration,
    /// What the nodes have said, by their ids.
    readings: BTreeMap<String, Reading>,
}

/// What the nodes said at a tick, counted from the first.
#[derive(Debug)]
struct Readings {
    tick: usize,
    by_node: BTreeMap<String, Reading>,
}

/// What a node said, and when.
#[derive(Debug, Clone, Default, PartialEq)]
struct Reading {
    at: Duration,
    started_at: Option<f64>,
    cpu_seconds: f64,
    syncs: Syncs,
}

/// The histogram of the store's syncs since the node's start.
#[derive(Debug, Clone, Default, PartialEq)]
struct Syncs {
    count: f64,
    seconds: f64,
    /// How many took at most so many seconds, by rising bound.
    up_to: Vec<(f64, f64)>,
}

impl Sampler {
    /// Begins with a reading, from which the first second counts.
    pub(super) fn new(start: Instant, metrics: &[String]) -> Self {
        let mut sampler = Self {
            start,
            metrics: metrics.to_vec(),
            asked: JoinSet::new(),
            ticks: Vec::new(),
        };
        sampler.tick(Duration::ZERO);
        sampler
    }

    /// A second is over.
    pub(super) fn tick(&mut self, at: Duration) {
        let (start, tick) = (self.start, self.ticks.len());
        self.ticks.push(Tick {
            at,
            client_cpu: process_cpu(),
            readings: BTreeMap::new(),
        });
        let metrics = self.metrics.clone();
        self.asked.spawn(async move {
            let mut by_node = BTreeMap::new();
            for (_, page) in metrics_pages(&metrics).await {
                let read = page.ok().and_then(|page| reading(&page, start.elapsed()));
                by_node.extend(read);
            }
            Readings { tick, by_node }
        });
    }

    /// What was taken between the ticks, as far as there are answers by now.
    pub(super) fn finish(mut self) -> Vec<ResourcePoint> {
        while let Some(joined) = self.asked.try_join_next() {
            // One that was not answered is like that of a node that hangs.
            if let Ok(answered) = joined {
                self.ticks[answered.tick].readings = answered.by_node;
            }
        }
        points(&self.ticks)
    }
}

fn points(ticks: &[Tick]) -> Vec<ResourcePoint> {
    let pairs = ticks.iter().zip(ticks.iter().skip(1));
    let point = |(before, after): (&Tick, &Tick)| {
        let seconds = after.at.saturating_sub(before.at).as_secs_f64();
        let used = after.client_cpu.saturating_sub(before.client_cpu);
        let by_node = after.readings.iter().filter_map(|(node, reading)| {
            let taken = reading.since(before.readings.get(node)?)?;
            Some((node.clone(), taken))
        });
        (seconds > 0.0).then(|| ResourcePoint {
            at_seconds: after.at.as_secs_f64(),
            client_cpu_cores: used.as_secs_f64() / seconds,
            by_node: by_node.collect(),
        })
    };
    pairs.filter_map(point).collect()
}

impl Reading {
    /// What was taken since an earlier reading; `None` when the process is another one.
    fn since(&self, before: &Self) -> Option<NodeResources> {
        let seconds = self.at.saturating_sub(before.at).as_secs_f64();
        let cpu = self.cpu_seconds - before.cpu_seconds;
        let syncs = self.syncs.since(&before.syncs);
        let is_same = self.started_at == before.started_at;
        // Counters that went back are those of a new process, too.
        if !is_same || seconds <= 0.0 || cpu < 0.0 || syncs.count < 0.0 {
            return None;
        }
        let some = syncs.count > 0.0;
        Some(NodeResources {
            cpu_cores: cpu / seconds,
            syncs_per_second: syncs.count / seconds,
            sync_mean_ms: some.then(|| 1000.0 * syncs.seconds.max(0.0) / syncs.count),
            sync_p99_ms: some.then(|| 1000.0 * syncs.quantile_seconds(0.99)),
        })
    }
}

impl Syncs {
    fn since(&self, before: &Self) -> Self {
        let earlier = |bound: f64| {
            let same = before.up_to.iter().find(|(it, _)| *it == bound);
            same.map_or(0.0, |(_, count)| *count)
        };
        let bounds = self.up_to.iter();
        Self {
            count: self.count - before.count,
            seconds: self.seconds - before.seconds,
            up_to: bounds
                .map(|(bound, count)| (*bound, count - earlier(*bound)))
                .collect(),
        }
    }

    /// As Prometheus does it: within a bucket they are taken to be spread evenly, and beyond the last bound nothing
    /// is known.
    fn quantile_seconds(&self, quantile: f64) -> f64 {
        let rank = quantile * self.count;
        let (mut below, mut counted) = (0.0, 0.0);
        for (bound, count) in &self.up_to {
            if *count >= rank && *count > counted {
                return below + (bound - below) * (rank - counted) / (count - counted);
            }
            (below, counted) = (*bound, *count);
        }
        below
    }
}

/// The node's name and what its metrics say.
fn reading(page: &str, at: Duration) -> Option<(String, Reading)> {
    let (node, cpu_seconds) = of_node(page, CPU_METRIC)?;
    let value = |suffix: &str| {
        let metric = format!("{SYNC_METRIC}{suffix}");
        samples(page, &metric).map(|sample| sample.value).next()
    };
    let bucket = format!("{SYNC_METRIC}_bucket");
    let buckets = samples(page, &bucket).filter_map(|sample| {
        let bound: f64 = sample.label("le")?.parse().ok()?;
        bound.is_finite().then_some((bound, sample.value))
    });
    let reading = Reading {
        at,
        started_at: of_node(page, START_METRIC).map(|(_, seconds)| seconds),
        cpu_seconds,
        syncs: Syncs {
            count: value("_count").unwrap_or_default(),
            seconds: value("_sum").unwrap_or_default(),
            up_to: buckets.collect(),
        },
    };
    Some((node, reading))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
dynakv_store_fsync_duration_seconds_bucket{node=\"n\",le=\"0.001\"} 10
dynakv_store_fsync_duration_seconds_bucket{node=\"n\",le=\"0.002\"} 90
dynakv_store_fsync_duration_seconds_bucket{node=\"n\",le=\"0.005\"} 100
dynakv_store_fsync_duration_seconds_bucket{node=\"n\",le=\"+Inf\"} 100
dynakv_store_fsync_duration_seconds_sum{node=\"n\"} 0.25
dynakv_store_fsync_duration_seconds_count{node=\"n\"} 100
process_cpu_seconds_total{node=\"n\"} 1.5
process_start_time_seconds{node=\"n\"} 77.25
";

    fn read(page: &str, seconds: u64) -> BTreeMap<String, Reading> {
        reading(page, Duration::from_secs(seconds))
            .into_iter()
            .collect()
    }

    fn ticks(readings: Vec<BTreeMap<String, Reading>>) -> Vec<Tick> {
        let tick = |(readings, second)| Tick {
            at: Duration::from_secs(second),
            client_cpu: Duration::from_millis(250 * second),
            readings,
        };
        readings.into_iter().zip(0..).map(tick).collect()
    }

    #[test]
    fn a_second_is_what_two_readings_differ_by() {
        let later = PAGE
            .replace("} 90", "} 190")
            .replace("} 100", "} 300")
            .replace("0.25", "0.85")
            .replace("1.5", "2.1");
        let points = points(&ticks(vec![read(PAGE, 0), read(&later, 2)]));
        assert_eq!(points.len(), 1);
        assert_eq!(
            (points[0].at_seconds, points[0].client_cpu_cores),
            (1.0, 0.25)
        );
        let node = points[0].by_node["n"];
        // The answers were two seconds apart, whenever they were asked for.
        assert!((node.cpu_cores - 0.3).abs() < 1e-9, "{node:?}");
        assert_eq!(node.syncs_per_second, 100.0);
        assert!((node.sync_mean_ms.unwrap() - 3.0).abs() < 1e-9, "{node:?}");
        // 100 of 200 lie between 1 and 2 ms, the others up to 5 ms: 98 of these 100 are below P99.
        assert!((node.sync_p99_ms.unwrap() - 4.94).abs() < 1e-9, "{node:?}");
    }

    #[test]
    fn nodes_that_are_new_or_silent_are_missing_for_that_second() {
        // Its counters are past those of before already.
        let fresh = PAGE.replace("1.5", "1.6").replace("77.25", "79");
        let silent = BTreeMap::new();
        let readings = vec![
            read(PAGE, 0),
            silent,
            read(PAGE, 2),
            read(&fresh, 3),
            read(&fresh, 4),
        ];
        let points = points(&ticks(readings));
        let nodes: Vec<_> = points.iter().map(|it| it.by_node.len()).collect();
        assert_eq!(nodes, [0, 0, 0, 1]);
        let idle = NodeResources::default();
        assert_eq!(points[3].by_node["n"], idle);
        assert!(read("", 0).is_empty());
    }
}
