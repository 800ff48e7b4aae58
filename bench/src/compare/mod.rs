//! Two builds, or two settings, beside each other: the form of the JSON of `dynakv-bench compare`, which scripts
//! depend on, and how it is shown.
//!
//! Every figure is a ratio, B to A, with the 95 % interval in which it lies. Where both sides have several runs, these
//! are compared with each other (Welch's t interval over the logarithms of what each run came to), so that the interval
//! holds what runs differ by. With a single run on a side only its seconds are left to draw from (a block bootstrap,
//! as seconds near each other are alike), and the interval says nothing of what another run would come to.
//!
//! Fields are added, never renamed or removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::grouped::grouped;
use crate::report::{Report, RunConfig};

mod bootstrap;
mod interval;
mod measure;
mod seconds;
mod table;
mod welch;

use interval::LogInterval;
pub use measure::Measure;
use measure::Subject;
use seconds::Seconds;
pub use table::table;

/// The result of `dynakv-bench compare`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// What was compared, the ratios.
    pub figures: Vec<FigureRatio>,
    /// Whether any of them is worse by more than was allowed.
    pub worse: bool,
    /// The share by which a figure may be worse: 0.05 is 5 %. Absent when everything was.
    pub allow: Option<f64>,
    /// What the intervals come from.
    pub method: Method,
    /// What the ratios divide by.
    pub a: Side,
    /// What they divide.
    pub b: Side,
    /// What to keep in mind when reading them.
    pub warnings: Vec<String>,
}

/// Where an interval comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Several runs of each side.
    Runs,
    /// The seconds of one run, on one side at least: what runs differ by is not in it.
    Seconds,
}

/// One side of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Side {
    /// How many runs.
    pub runs: usize,
    /// The versions of the nodes that were measured, each once.
    pub versions: Vec<String>,
    /// Operations that failed in all of its runs.
    pub errors: u64,
}

/// A figure of both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FigureRatio {
    /// A kind of operation, or `all`.
    pub of: String,
    /// Which figure.
    pub figure: Measure,
    /// That of A: the geometric mean of its runs.
    pub a: f64,
    /// That of B.
    pub b: f64,
    /// B divided by A.
    pub ratio: f64,
    /// Where the 95 % interval of the ratio begins; absent when there is too little to tell.
    pub low: Option<f64>,
    /// Where it ends.
    pub high: Option<f64>,
    /// What the interval says.
    pub verdict: Verdict,
    /// Whether the whole interval is worse than was allowed.
    pub beyond_allowed: bool,
}

/// Which side is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval says that B is.
    Better,
    /// The whole interval says that A is.
    Worse,
    /// The interval holds 1, or there is none.
    Unclear,
}

/// Runs of two builds that were measured in turns, and what they come to: the file of `local --against`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Turns {
    /// In which order they ran: `a`, `b`, `b`, `a`, and so on.
    pub order: Vec<String>,
    /// The runs of the build that is compared with.
    pub a: Vec<Report>,
    /// Those of the present one.
    pub b: Vec<Report>,
    /// What they come to.
    pub comparison: Comparison,
}

/// Compares runs. A figure that a run lacks is left out.
pub fn compare(a: &[Report], b: &[Report], allow: Option<f64>) -> Comparison {
    let subjects = measure::subjects(a.iter().chain(b));
    let method = match a.len() > 1 && b.len() > 1 {
        true => Method::Runs,
        false => Method::Seconds,
    };
    let mut warnings = warnings(a, b);
    let intervals = match method {
        Method::Runs => welch_intervals(&subjects, a, b),
        Method::Seconds => {
            let (a, b) = (Seconds::new(a), Seconds::new(b));
            let intervals = bootstrap::intervals(&subjects, &a, &b);
            warnings.push(match intervals {
                Some(_) => "one run on a side: the intervals come from its seconds, and what runs differ by is not in \
                            them"
                    .to_owned(),
                None => format!(
                    "one run on a side, of less than {} s: that is too short for intervals",
                    bootstrap::SECONDS_MIN
                ),
            });
            intervals.unwrap_or_else(|| vec![None; subjects.len()])
        }
    };
    let figures = subjects.iter().zip(intervals);
    let figures = figures.filter_map(|(subject, interval)| figure(subject, a, b, interval, allow));
    let figures: Vec<_> = figures.collect();
    Comparison {
        worse: figures.iter().any(|figure| figure.beyond_allowed),
        figures,
        allow,
        method,
        a: side(a),
        b: side(b),
        warnings,
    }
}

fn welch_intervals(subjects: &[Subject], a: &[Report], b: &[Report]) -> Vec<Option<LogInterval>> {
    let interval = |subject: &Subject| {
        let (a, b) = (logarithms(subject, a)?, logarithms(subject, b)?);
        welch::interval(&a, &b)
    };
    subjects.iter().map(interval).collect()
}

/// Those of what each run came to; `None` unless all of them have the figure.
fn logarithms(subject: &Subject, runs: &[Report]) -> Option<Vec<f64>> {
    let of_run = |run| subject.of_run(run).filter(|it| *it > 0.0).map(f64::ln);
    runs.iter().map(of_run).collect()
}

fn figure(
    subject: &Subject,
    a: &[Report],
    b: &[Report],
    interval: Option<LogInterval>,
    allow: Option<f64>,
) -> Option<FigureRatio> {
    let geometric_mean = |runs| {
        let logarithms = logarithms(subject, runs)?;
        let sum: f64 = logarithms.iter().sum();
        (!logarithms.is_empty()).then(|| (sum / logarithms.len() as f64).exp())
    };
    let (a, b) = (geometric_mean(a)?, geometric_mean(b)?);
    let ratio = b / a;
    // Latencies of seconds are kept less exactly than those of runs: no ratio lies outside of its own interval.
    let interval = interval.map(|(low, high)| (low.exp().min(ratio), high.exp().max(ratio)));
    let more_is_better = subject.measure.more_is_better();
    let verdict = match interval {
        Some((low, _)) if low > 1.0 && more_is_better => Verdict::Better,
        Some((low, _)) if low > 1.0 => Verdict::Worse,
        Some((_, high)) if high < 1.0 && more_is_better => Verdict::Worse,
        Some((_, high)) if high < 1.0 => Verdict::Better,
        _ => Verdict::Unclear,
    };
    let beyond = |allow: f64| match interval {
        Some((_, high)) if more_is_better => high < 1.0 - allow,
        Some((low, _)) => low > 1.0 + allow,
        None => false,
    };
    Some(FigureRatio {
        of: subject.of.clone(),
        figure: subject.measure,
        a,
        b,
        ratio,
        low: interval.map(|(low, _)| low),
        high: interval.map(|(_, high)| high),
        verdict,
        beyond_allowed: allow.is_some_and(beyond),
    })
}

fn side(runs: &[Report]) -> Side {
    let servers = runs.iter().flat_map(|run| &run.servers);
    let mut versions: Vec<_> = servers.map(|server| server.version.clone()).collect();
    versions.sort();
    versions.dedup();
    Side {
        runs: runs.len(),
        versions,
        errors: errors(runs),
    }
}

fn errors(runs: &[Report]) -> u64 {
    let kinds = runs.iter().flat_map(|run| run.by_op.values());
    kinds.map(|op| op.errors).sum()
}

/// What distorts a comparison: other work, failures, and what the runs themselves have to say.
fn warnings(a: &[Report], b: &[Report]) -> Vec<String> {
    let mut warnings = Vec::new();
    let all: Vec<_> = a.iter().chain(b).collect();
    let configs: Vec<_> = all.iter().map(|run| work(&run.config)).collect();
    if let Some((first, others)) = configs.split_first() {
        for (name, value) in first {
            let differs = others.iter().find(|it| it.get(name) != Some(value));
            if let Some(other) = differs.and_then(|it| it.get(name)) {
                warnings.push(format!(
                    "the runs did not do the same work: {name} is {value} and {other}"
                ));
            }
        }
    }
    for (name, runs) in [("A", a), ("B", b)] {
        let failed = errors(runs);
        if failed > 0 {
            warnings.push(format!("{} operations of {name} failed", grouped(failed)));
        }
    }
    // Once each, however many runs say so.
    let mut said: BTreeMap<&str, usize> = BTreeMap::new();
    for warning in all.iter().flat_map(|run| &run.warnings) {
        *said.entry(warning).or_default() += 1;
    }
    let said = said.into_iter().map(|(warning, runs)| match runs {
        every if every == all.len() => warning.to_owned(),
        some => format!("{some} of {} runs: {warning}", all.len()),
    });
    warnings.extend(said);
    warnings
}

/// What decides how much work a run is. The seed does not, nor do the addresses.
fn work(config: &RunConfig) -> BTreeMap<String, serde_json::Value> {
    let fields = match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let decides = |name: &String| !matches!(name.as_str(), "servers" | "seed");
    fields
        .into_iter()
        .filter(|(name, _)| decides(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let text = include_str!("../../tests/report.json");
        serde_json::from_str(text).expect("the sample is a report")
    }

    /// Runs that came to so many times what the sample did: operations, and latencies and CPU the other way round.
    fn runs(times: &[f64]) -> Vec<Report> {
        let run = |times: &f64| {
            let mut run = report();
            run.warnings.clear();
            for op in run.by_op.values_mut() {
                op.errors = 0;
                op.ops_per_second *= times;
                op.latency_ms.p50 /= times;
                op.latency_ms.p99 /= times;
                op.latency_ms.p999 /= times;
            }
            run.ops_per_second *= times;
            run.client_cpu_us_per_op /= times;
            run.server_cpu_us_per_op = run.server_cpu_us_per_op.map(|it| it / times);
            run
        };
        times.iter().map(run).collect()
    }

    #[test]
    fn runs_that_differ_by_more_than_noise_are_told_apart() {
        let a = runs(&[1.0, 1.01, 0.99]);
        let b = runs(&[0.9, 0.905, 0.895]);
        let comparison = compare(&a, &b, Some(0.05));
        assert_eq!(comparison.method, Method::Runs);
        assert!(comparison.worse);
        assert_eq!(comparison.warnings, [""; 0]);
        for figure in &comparison.figures {
            let expected = match figure.figure {
                Measure::OpsPerSecond => 0.9,
                _ => 1.0 / 0.9,
            };
            assert!((figure.ratio - expected).abs() < 1e-3, "{figure:?}");
            assert!(figure.low.unwrap() < figure.ratio, "{figure:?}");
            assert!(figure.ratio < figure.high.unwrap(), "{figure:?}");
            assert_eq!(figure.verdict, Verdict::Worse, "{figure:?}");
            assert!(figure.beyond_allowed, "{figure:?}");
        }
        let back = compare(&b, &a, Some(0.05));
        assert!(!back.worse);
        let verdicts = back.figures.iter().map(|figure| figure.verdict);
        assert!(verdicts.into_iter().all(|it| it == Verdict::Better));
    }

    #[test]
    fn only_an_interval_that_is_wholly_worse_than_allowed_counts() {
        let a = runs(&[1.0, 1.01, 0.99]);
        let worse = |b: &[f64], allow| compare(&a, &runs(b), allow).worse;
        assert!(!worse(&[0.9, 0.905, 0.895], Some(0.2)));
        assert!(!worse(&[0.9, 0.905, 0.895], None));
        // Ten percent less, and nobody knows.
        assert!(!worse(&[0.6, 1.2, 0.9], Some(0.05)));
        assert!(worse(&[0.9, 0.905, 0.895], Some(0.0)));
    }

    #[test]
    fn each_kind_has_its_figures_and_processors_are_told_once() {
        let comparison = compare(&runs(&[1.0, 1.1]), &runs(&[1.0, 1.2]), None);
        let of = |kind: &str| {
            let figures = comparison.figures.iter().filter(|it| it.of == kind);
            figures.map(|it| it.figure).collect::<Vec<_>>()
        };
        let each = [
            Measure::OpsPerSecond,
            Measure::P50,
            Measure::P99,
            Measure::P999,
        ];
        assert_eq!(of("read"), each);
        assert_eq!(of("write"), each);
        // The sample is of a version that did not count latencies of all kinds together.
        let all = [
            Measure::OpsPerSecond,
            Measure::ServerCpu,
            Measure::ClientCpu,
        ];
        assert_eq!(of("all"), all);
        let lacking = |mut runs: Vec<Report>| {
            runs[1].server_cpu_us_per_op = None;
            runs
        };
        let lacks = compare(&lacking(runs(&[1.0, 1.1])), &runs(&[1.0, 1.2]), None);
        assert!(
            lacks
                .figures
                .iter()
                .all(|it| it.figure != Measure::ServerCpu)
        );
    }

    #[test]
    fn other_work_and_failures_are_said() {
        let mut a = runs(&[1.0, 1.0]);
        a[0].config.clients = 7;
        a[0].config.seed = 99;
        a[1].warnings = vec!["busy".to_owned()];
        let mut b = runs(&[1.0, 1.0]);
        b[1].by_op.values_mut().for_each(|op| op.errors = 600);
        let said = compare(&a, &b, None).warnings.join("\n");
        assert!(said.contains("clients is 7 and "), "{said}");
        assert!(said.contains("1,200 operations of B failed"), "{said}");
        assert!(said.contains("1 of 4 runs: busy"), "{said}");
        assert_eq!(said.lines().count(), 3, "{said}");
    }

    #[test]
    fn one_run_a_side_is_compared_by_its_seconds_or_not_at_all() {
        let comparison = compare(&runs(&[1.0]), &runs(&[1.0]), Some(0.0));
        assert_eq!(comparison.method, Method::Seconds);
        assert!(!comparison.worse);
        let mut short = runs(&[1.0]);
        short[0].timeline.truncate(3);
        let unknown = compare(&short, &runs(&[0.1]), Some(0.0));
        assert!(
            unknown.figures.iter().all(|it| it.low.is_none()),
            "{unknown:?}"
        );
        assert!(!unknown.worse);
        assert!(unknown.warnings[0].contains("too short"), "{unknown:?}");
    }
}
