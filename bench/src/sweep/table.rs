//! The result for people: a line for each step.

use super::{KneeRule, Step, SweepReport};
use crate::aligned::aligned;
use crate::grouped::grouped;

const HEADINGS: [&str; 8] = [
    "in flight",
    "ops/s",
    "mean ms",
    "P50 ms",
    "P99 ms",
    "P99.9 ms",
    "server us/op",
    "",
];

/// Operations per second, latencies and CPU time of each step, and which one is the knee.
pub fn table(report: &SweepReport) -> String {
    let is_open = report.steps.iter().any(|step| step.rate.is_some());
    let mut headings = HEADINGS.map(str::to_owned);
    if is_open {
        headings[0] = "wanted/s".to_owned();
    }
    let mut rows = vec![headings];
    let knee = report.knee.map(|knee| knee.step);
    let steps = report.steps.iter().enumerate();
    rows.extend(steps.map(|(number, step)| row(step, knee == Some(number))));
    let mut out = aligned(&rows);
    out.push_str(&verdict(report));
    out
}

fn row(step: &Step, is_knee: bool) -> [String; HEADINGS.len()] {
    let whole = |number: f64| grouped(number.round() as u64);
    let latency = step.latency_ms;
    let note = match (is_knee, step.errors) {
        (true, _) => "knee".to_owned(),
        (false, 0) => String::new(),
        (false, errors) => format!("{} failed", grouped(errors)),
    };
    [
        step.rate
            .map_or_else(|| grouped(step.in_flight as u64), whole),
        whole(step.ops_per_second),
        format!("{:.2}", latency.mean),
        format!("{:.2}", latency.p50),
        format!("{:.2}", latency.p99),
        format!("{:.2}", latency.p999),
        step.server_cpu_us_per_op
            .map_or("-".to_owned(), |us| format!("{us:.1}")),
        note,
    ]
}

fn verdict(report: &SweepReport) -> String {
    let found = report
        .knee
        .and_then(|knee| Some((knee.rule, report.steps.get(knee.step)?)));
    match (found, report.p99_below_ms) {
        (Some((KneeRule::Power, step)), _) => format!(
            "\nknee: {} ops/s at a mean of {:.2} ms, the most operations for the time they take\n",
            grouped(step.ops_per_second.round() as u64),
            step.latency_ms.mean
        ),
        (Some((KneeRule::P99Bound, step)), bound) => format!(
            "\nknee: {} ops/s, the most with a P99 below {} ms\n",
            grouped(step.ops_per_second.round() as u64),
            bound.unwrap_or_default()
        ),
        (None, Some(bound)) => {
            format!("\nno knee: no step has a P99 below {bound} ms without failures\n")
        }
        (None, None) => {
            "\nno knee: in each step operations failed or the load was not kept up\n".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::knee;
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_step_is_one_line_and_the_knee_is_marked() {
        let mut report = report();
        report.steps.truncate(4);
        report.steps[3].server_cpu_us_per_op = None;
        report.steps[3].errors = 1234;
        assert_eq!(
            table(&report),
            "\
in flight   ops/s  mean ms  P50 ms  P99 ms  P99.9 ms  server us/op
1           1,000     1.00    1.00    2.00      4.00          20.0
10         10,000     1.00    1.00    2.00      4.00          20.0
50         50,000     1.00    1.00    2.00      4.00          20.0          knee
100        50,000     2.00    2.00    4.00      8.00             -  1,234 failed

knee: 50,000 ops/s at a mean of 1.00 ms, the most operations for the time they take
"
        );
    }

    #[test]
    fn it_says_what_decided() {
        let mut report = report();
        report.p99_below_ms = Some(2.5);
        report.knee = knee(&report.steps, report.p99_below_ms);
        assert!(table(&report).ends_with("50,000 ops/s, the most with a P99 below 2.5 ms\n"));
        report.knee = None;
        assert!(table(&report).contains("no step has a P99 below 2.5 ms"));
        report.steps[0].rate = Some(700.0);
        assert!(table(&report).starts_with("wanted/s"));
        assert!(table(&report).contains("\n700 "));
    }
}
