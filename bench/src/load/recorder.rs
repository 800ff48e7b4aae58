//! What happened: latencies and failures, of the whole run and second by second.

use std::collections::BTreeMap;
use std::time::Duration;

use dynakv_client::Error;
use hdrhistogram::Histogram;

use crate::report::{
    DistributionPoint, Latency, LatencyCounts, OpReport, TimelineOp, TimelinePoint,
};

/// The largest latency that is told apart from longer ones, in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// What stands for all kinds of operations among their names.
const ALL_NAME: &str = "all";

const SIGNIFICANT_DIGITS: u8 = 3;

/// What is left after the last full second gets a point of its own from this length on.
const SHORT_REST: Duration = Duration::from_millis(500);

/// A kind of operation, as `Report::by_op` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// A get.
    Read,
    /// A put.
    Write,
}

impl Op {
    const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// The name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Counts operations.
#[derive(Debug)]
pub(super) struct Recorder {
    kinds: [Kind; 2],
    /// Those of all kinds: failures at once, latencies when a second ends.
    all: Kind,
    timeline: Vec<TimelinePoint>,
    /// The end of the last full second.
    ticked_at: Duration,
    absent_reads: u64,
}

#[derive(Debug)]
struct Kind {
    /// Up to the last tick.
    total: Histogram<u64>,
    /// Since the last tick.
    recent: Histogram<u64>,
    errors: BTreeMap<&'static str, u64>,
    recent_errors: u64,
}

/// Every kind with its name, and all of them together.
fn named<'a>(
    kinds: &'a mut [Kind; 2],
    all: &'a mut Kind,
) -> impl Iterator<Item = (&'static str, &'a mut Kind)> {
    let kinds = Op::ALL.map(Op::name).into_iter().zip(kinds);
    kinds.chain([(ALL_NAME, all)])
}

/// The result of a recorder.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Successes of all kinds.
    pub(super) successes: u64,
    /// Failures of all kinds.
    pub(super) failures: u64,
    /// Reads that succeeded and found nothing.
    pub(super) absent_reads: u64,
    /// By kind; those that did not occur are left out.
    pub(super) by_op: BTreeMap<String, OpReport>,
    /// All kinds together.
    pub(super) all_ops: OpReport,
    /// A point a second.
    pub(super) timeline: Vec<TimelinePoint>,
}

/// The last second, for the live line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Second {
    /// Its end, since the start.
    pub(super) at: Duration,
    /// Successes per second.
    pub(super) ops_per_second: f64,
    /// Failures.
    pub(super) errors: u64,
    /// The median of the slower kind, in milliseconds.
    pub(super) p50_ms: f64,
    /// The 99th percentile of the slower kind, in milliseconds.
    pub(super) p99_ms: f64,
}

impl Recorder {
    /// Without operations.
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            kinds: [Kind::new()?, Kind::new()?],
            all: Kind::new()?,
            timeline: Vec::new(),
            ticked_at: Duration::ZERO,
            absent_reads: 0,
        })
    }

    /// An operation succeeded.
    pub(super) fn success(&mut self, op: Op, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.kinds[op as usize].recent.saturating_record(latency_us);
    }

    /// A read succeeded and found nothing.
    pub(super) fn absent(&mut self) {
        self.absent_reads += 1;
    }

    /// An operation failed.
    pub(super) fn failure(&mut self, op: Op, error: &Error) {
        for kind in [&mut self.kinds[op as usize], &mut self.all] {
            *kind.errors.entry(error_kind(error)).or_default() += 1;
            kind.recent_errors += 1;
        }
    }

    /// Adds the latencies since the last tick to those of all kinds.
    fn gather(&mut self) {
        for kind in &self.kinds {
            // All have the same bounds, so that every value fits.
            let _always_fits = self.all.recent.add(&kind.recent);
        }
    }

    /// Ends a second (or the part of one at the end of the run) at this time since the start.
    pub(super) fn tick(&mut self, at: Duration) -> Second {
        let seconds = at.saturating_sub(self.ticked_at).as_secs_f64();
        self.ticked_at = at;
        self.gather();
        let mut point = TimelinePoint {
            at_seconds: at.as_secs_f64(),
            by_op: BTreeMap::new(),
            all_ops: Some(self.all.second(seconds)),
            latencies: BTreeMap::new(),
        };
        let mut second = Second {
            at,
            ops_per_second: 0.0,
            errors: 0,
            p50_ms: 0.0,
            p99_ms: 0.0,
        };
        for (name, kind) in named(&mut self.kinds, &mut self.all) {
            point.latencies.insert(name.to_owned(), kind.counts());
        }
        for (op, kind) in Op::ALL.into_iter().zip(&self.kinds) {
            let of_kind = kind.second(seconds);
            second.ops_per_second += of_kind.ops_per_second;
            second.errors += of_kind.errors;
            second.p50_ms = second.p50_ms.max(of_kind.p50_ms);
            second.p99_ms = second.p99_ms.max(of_kind.p99_ms);
            point.by_op.insert(op.name().to_owned(), of_kind);
        }
        self.fold();
        self.timeline.push(point);
        second
    }

    fn fold(&mut self) {
        for (_, kind) in named(&mut self.kinds, &mut self.all) {
            kind.fold();
        }
    }

    /// Adds what came after the last full second to its point. A few answers in a few milliseconds make
    /// no rate: as a point of their own they would be a peak that never was.
    fn extend_last(&mut self, end: Duration) {
        self.gather();
        let before = match self.timeline.as_slice() {
            [.., before, _last] => before.at_seconds,
            _ => 0.0,
        };
        let Some(last) = self.timeline.last_mut() else {
            return;
        };
        let length = last.at_seconds - before;
        last.at_seconds = end.as_secs_f64();
        let longer = last.at_seconds - before;
        for (name, kind) in named(&mut self.kinds, &mut self.all) {
            let point = match name {
                ALL_NAME => last.all_ops.get_or_insert_default(),
                name => last.by_op.entry(name.to_owned()).or_default(),
            };
            kind.extend(point, length, longer);
            let counts = last.latencies.entry(name.to_owned()).or_default();
            counts.add(&kind.counts());
        }
        self.fold();
    }

    /// The result of a run that took so long.
    pub(super) fn finish(mut self, duration: Duration) -> Recorded {
        let pending = |kind: &Kind| !kind.recent.is_empty() || kind.recent_errors > 0;
        if self.kinds.iter().any(pending) {
            let end = duration.max(self.ticked_at);
            if end - self.ticked_at < SHORT_REST && !self.timeline.is_empty() {
                self.extend_last(end);
            } else {
                self.tick(end);
            }
        }
        let seconds = duration.as_secs_f64();
        let mut recorded = Recorded {
            successes: 0,
            failures: 0,
            absent_reads: self.absent_reads,
            by_op: BTreeMap::new(),
            all_ops: self.all.report(seconds),
            timeline: self.timeline,
        };
        for (op, kind) in Op::ALL.into_iter().zip(&self.kinds) {
            let report = kind.report(seconds);
            if report.count + report.errors == 0 {
                for point in &mut recorded.timeline {
                    point.by_op.remove(op.name());
                    point.latencies.remove(op.name());
                }
                continue;
            }
            recorded.successes += report.count;
            recorded.failures += report.errors;
            recorded.by_op.insert(op.name().to_owned(), report);
        }
        recorded
    }
}

impl Kind {
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS)?;
        Ok(Self {
            total: histogram.clone(),
            recent: histogram,
            errors: BTreeMap::new(),
            recent_errors: 0,
        })
    }

    /// What happened since the last tick, so many seconds ago.
    fn second(&self, seconds: f64) -> TimelineOp {
        let recent = &self.recent;
        TimelineOp {
            ops_per_second: match seconds > 0.0 {
                true => recent.len() as f64 / seconds,
                false => 0.0,
            },
            errors: self.recent_errors,
            p50_ms: percentile_ms(recent, 50.0),
            p99_ms: percentile_ms(recent, 99.0),
            max_ms: milliseconds(recent.max()),
        }
    }

    /// Adds what happened since the last tick to a point that becomes longer by it.
    fn extend(&self, point: &mut TimelineOp, before_seconds: f64, after_seconds: f64) {
        let count = point.ops_per_second * before_seconds + self.recent.len() as f64;
        point.ops_per_second = count / after_seconds.max(f64::MIN_POSITIVE);
        point.errors += self.recent_errors;
        point.max_ms = point.max_ms.max(milliseconds(self.recent.max()));
    }

    /// The latencies since the last tick.
    fn counts(&self) -> LatencyCounts {
        let steps = self.recent.iter_recorded();
        steps
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect()
    }

    fn fold(&mut self) {
        if !self.recent.is_empty() {
            // As in `gather`.
            let _always_fits = self.total.add(&self.recent);
            self.recent.reset();
        }
        self.recent_errors = 0;
    }

    fn report(&self, seconds: f64) -> OpReport {
        let total = &self.total;
        let count = total.len();
        OpReport {
            count,
            ops_per_second: if seconds > 0.0 {
                count as f64 / seconds
            } else {
                0.0
            },
            errors: self.errors.values().sum(),
            errors_by_kind: self
                .errors
                .iter()
                .map(|(kind, count)| ((*kind).to_owned(), *count))
                .collect(),
            latency_ms: Latency {
                mean: if count == 0 {
                    0.0
                } else {
                    total.mean() / 1000.0
                },
                p50: percentile_ms(total, 50.0),
                p90: percentile_ms(total, 90.0),
                p99: percentile_ms(total, 99.0),
                p999: percentile_ms(total, 99.9),
                max: milliseconds(total.max()),
            },
            distribution: distribution(total),
        }
    }
}

/// Points that halve the distance to 100 % with every two, up to the slowest operation.
fn distribution(histogram: &Histogram<u64>) -> Vec<DistributionPoint> {
    const TICKS_PER_HALF_DISTANCE: u32 = 2;
    let mut points: Vec<DistributionPoint> = Vec::new();
    if histogram.is_empty() {
        return points;
    }
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        let point = DistributionPoint {
            percentile: step.quantile_iterated_to() * 100.0,
            latency_ms: milliseconds(step.value_iterated_to().min(histogram.max())),
        };
        match points.last_mut() {
            Some(last) if last.percentile >= point.percentile => *last = point,
            _ => points.push(point),
        }
    }
    points
}

fn percentile_ms(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    if histogram.is_empty() {
        return 0.0;
    }
    // The upper end of a bucket may lie above the largest value in it.
    milliseconds(
        histogram
            .value_at_percentile(percentile)
            .min(histogram.max()),
    )
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

/// The code a node refused with, or what happened on the way.
fn error_kind(error: &Error) -> &'static str {
    match (error.code(), error) {
        (Some(code), _) => code.name(),
        (None, Error::Invalid { .. }) => "invalid",
        (None, Error::Unreachable { .. }) => "unreachable",
        (None, Error::ConnectionLost { .. }) => "connection_lost",
        (None, Error::Protocol { .. }) => "protocol",
        (None, Error::Timeout { .. }) => "client_timeout",
        (None, _) => "other",
    }
}

#[cfg(test)]
mod tests {
    use dynakv_client::{ErrorCode, ErrorReply};

    use super::*;

    fn unreachable() -> Error {
        Error::Unreachable {
            address: "10.0.0.1:8080".to_owned(),
            reason: "refused".into(),
            maybe_applied: false,
        }
    }

    #[test]
    fn latencies_become_percentiles() {
        let mut recorder = Recorder::new().unwrap();
        for latency_ms in 1..=1000 {
            recorder.success(Op::Write, Duration::from_millis(latency_ms));
        }
        let recorded = recorder.finish(Duration::from_secs(2));
        assert_eq!((recorded.successes, recorded.failures), (1000, 0));
        let write = &recorded.by_op["write"];
        assert_eq!((write.count, write.ops_per_second), (1000, 500.0));
        let near = |value: f64, expected: f64| (value - expected).abs() <= expected / 500.0;
        let latency = write.latency_ms;
        for (value, expected) in [
            (latency.mean, 500.5),
            (latency.p50, 500.0),
            (latency.p90, 900.0),
            (latency.p99, 990.0),
            (latency.p999, 999.0),
            (latency.max, 1000.0),
        ] {
            assert!(near(value, expected), "{value} is not {expected}");
        }
        // Kinds that did not occur are not there, in the timeline neither.
        assert!(!recorded.by_op.contains_key("read"));
        assert!(
            recorded
                .timeline
                .iter()
                .all(|point| !point.by_op.contains_key("read"))
        );
    }

    #[test]
    fn the_distribution_rises_to_the_slowest() {
        let mut recorder = Recorder::new().unwrap();
        for latency_us in 1..=100_000 {
            recorder.success(Op::Read, Duration::from_micros(latency_us));
        }
        let recorded = recorder.finish(Duration::from_secs(1));
        let read = &recorded.by_op["read"];
        let points = &read.distribution;
        assert!((10..100).contains(&points.len()), "{}", points.len());
        for pair in points.windows(2) {
            assert!(pair[0].percentile < pair[1].percentile, "{pair:?}");
            assert!(pair[0].latency_ms <= pair[1].latency_ms, "{pair:?}");
        }
        let last = points.last().unwrap();
        assert_eq!(
            (last.percentile, last.latency_ms),
            (100.0, read.latency_ms.max)
        );
    }

    #[test]
    fn seconds_are_told_apart() {
        let mut recorder = Recorder::new().unwrap();
        recorder.success(Op::Read, Duration::from_millis(1));
        recorder.success(Op::Read, Duration::from_millis(1));
        let first = recorder.tick(Duration::from_secs(1));
        assert_eq!((first.ops_per_second, first.errors), (2.0, 0));
        recorder.success(Op::Write, Duration::from_millis(50));
        recorder.failure(Op::Write, &unreachable());
        let second = recorder.tick(Duration::from_secs(2));
        assert_eq!((second.ops_per_second, second.errors), (1.0, 1));
        assert!((49.0..51.0).contains(&second.p99_ms));
        recorder.success(Op::Write, Duration::from_millis(3));
        // The last piece is half a second long.
        let recorded = recorder.finish(Duration::from_millis(2500));
        let points = &recorded.timeline;
        assert_eq!(points.len(), 3);
        assert_eq!(points[0].by_op["read"].ops_per_second, 2.0);
        assert_eq!(points[1].by_op["write"].errors, 1);
        assert_eq!(points[2].at_seconds, 2.5);
        assert_eq!(points[2].by_op["write"].ops_per_second, 2.0);
        assert_eq!(recorded.by_op["read"].count, 2);
        assert_eq!(recorded.by_op["write"].count, 2);
    }

    #[test]
    fn all_kinds_together_are_counted_too() {
        let mut recorder = Recorder::new().unwrap();
        for latency_ms in 1..=50 {
            recorder.success(Op::Read, Duration::from_millis(latency_ms));
            recorder.success(Op::Write, Duration::from_millis(50 + latency_ms));
        }
        recorder.failure(Op::Write, &unreachable());
        recorder.tick(Duration::from_secs(1));
        recorder.failure(Op::Read, &unreachable());
        let recorded = recorder.finish(Duration::from_secs(2));
        let all = &recorded.all_ops;
        assert_eq!((all.count, all.errors, all.ops_per_second), (100, 2, 50.0));
        assert!((49.9..50.1).contains(&all.latency_ms.p50), "{all:?}");
        assert!((98.9..99.2).contains(&all.latency_ms.p99), "{all:?}");
        let first = &recorded.timeline[0];
        let second = first.all_ops.unwrap();
        assert_eq!((second.ops_per_second, second.errors), (100.0, 1));
        assert_eq!(second.max_ms, first.by_op["write"].max_ms);
        assert_eq!(first.latencies["read"].count(), 50);
        assert_eq!(first.latencies["all"].count(), 100);
        assert_eq!(recorded.timeline[1].all_ops.unwrap().errors, 1);
    }

    #[test]
    fn failures_are_counted_by_kind_and_not_as_latencies() {
        let mut recorder = Recorder::new().unwrap();
        let overloaded = Error::Refused {
            address: "a:1".to_owned(),
            reply: Box::new(ErrorReply::new(ErrorCode::Overloaded, "17 too many")),
        };
        recorder.failure(Op::Read, &overloaded);
        recorder.failure(Op::Read, &overloaded);
        recorder.failure(Op::Read, &unreachable());
        let recorded = recorder.finish(Duration::from_secs(1));
        let read = &recorded.by_op["read"];
        assert_eq!((read.count, read.errors), (0, 3));
        assert_eq!(read.errors_by_kind["overloaded"], 2);
        assert_eq!(read.errors_by_kind["unreachable"], 1);
        assert_eq!(read.latency_ms.max, 0.0);
    }

    #[test]
    fn what_is_off_the_scale_is_recorded_at_its_end() {
        let mut recorder = Recorder::new().unwrap();
        recorder.success(Op::Read, Duration::MAX);
        recorder.success(Op::Read, Duration::ZERO);
        let recorded = recorder.finish(Duration::from_secs(1));
        assert_eq!(recorded.by_op["read"].count, 2);
        assert!(recorded.by_op["read"].latency_ms.max >= 3_600_000.0);
    }

    #[test]
    fn a_short_rest_belongs_to_the_last_second_and_makes_no_peak() {
        let mut recorder = Recorder::new().unwrap();
        for second in 1..=2 {
            for _ in 0..100 {
                recorder.success(Op::Write, Duration::from_millis(1));
            }
            recorder.tick(Duration::from_secs(second));
        }
        for _ in 0..10 {
            recorder.success(Op::Write, Duration::from_millis(7));
        }
        let recorded = recorder.finish(Duration::from_millis(2_001));
        assert_eq!(recorded.by_op["write"].count, 210);
        assert_eq!(recorded.all_ops.count, 210);
        let points = recorded.timeline;
        assert_eq!(points[1].latencies["all"].count(), 110);
        assert_eq!(points[1].latencies["all"], points[1].latencies["write"]);
        assert_eq!(points.len(), 2);
        let last = points[1].by_op["write"];
        assert!((109.0..110.0).contains(&last.ops_per_second), "{last:?}");
        assert!(last.max_ms > 6.9, "{last:?}");
        assert!((points[1].at_seconds - 2.001).abs() < 1e-9);
    }
}
