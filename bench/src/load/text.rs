//! The report for people.

use std::fmt::Write;

use super::recorder::Second;
use crate::aligned::aligned;
use crate::grouped::grouped;
use crate::report::{Event, OpReport, Report};

/// What stands on the screen at the end.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    let config = &report.config;
    let loop_kind = match config.rate {
        Some(rate) => format!("open loop at {} ops/s", grouped(rate.round() as u64)),
        None => "closed loop".to_owned(),
    };
    // Writing to a string can't fail, here and below.
    let _ = writeln!(
        out,
        "workload {}, {} clients x {} in flight, {loop_kind}, {:.1} s\n\
         {} keys of {} B, values {} B, {}, seed {}{}{}\n",
        config.workload,
        grouped(config.clients as u64),
        config.pipeline,
        report.duration_seconds,
        grouped(config.keys),
        config.key_bytes,
        config.value_bytes,
        config.distribution,
        config.seed,
        config.w.map(|w| format!(", W {w}")).unwrap_or_default(),
        config.r.map(|r| format!(", R {r}")).unwrap_or_default(),
    );
    out.push_str(&table(report));
    for (name, op) in &report.by_op {
        for (kind, count) in &op.errors_by_kind {
            let _ = writeln!(out, "{name} failed {} times: {kind}", grouped(*count));
        }
    }
    for Event { at_seconds, what } in &report.events {
        let _ = writeln!(out, "after {at_seconds:.1} s: {what}");
    }
    out.push('\n');
    let servers = match report.server_cpu_us_per_op {
        Some(us) => format!("{us:.1} us per operation"),
        None => "not known".to_owned(),
    };
    let _ = writeln!(out, "server CPU  {servers}");
    for server in &report.servers {
        if let Some(us) = server.cpu_us_per_op {
            let _ = writeln!(out, "  {:<10} {us:.1}", server.node_id);
        }
    }
    let _ = writeln!(
        out,
        "client CPU  {:.1} us per operation",
        report.client_cpu_us_per_op
    );
    out
}

/// One second of the run, while it runs.
pub(super) fn live_line(second: &Second) -> String {
    let errors = match second.errors {
        0 => String::new(),
        errors => format!("  {} errors", grouped(errors)),
    };
    format!(
        "{:>5.0} s  {:>9} ops/s  P50 {:>7} ms  P99 {:>7} ms{errors}\n",
        second.at.as_secs_f64(),
        grouped(second.ops_per_second.round() as u64),
        decimal(second.p50_ms),
        decimal(second.p99_ms),
    )
}

const HEADINGS: [&str; 10] = [
    "", "ops/s", "count", "errors", "mean ms", "P50 ms", "P90 ms", "P99 ms", "P99.9 ms", "max ms",
];

fn table(report: &Report) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(report.by_op.iter().map(|(name, op)| row(name, op)));
    let all = report.all_ops.as_ref().filter(|_| report.by_op.len() > 1);
    rows.extend(all.map(|all| row("all", all)));
    aligned(&rows)
}

fn row(name: &str, op: &OpReport) -> [String; HEADINGS.len()] {
    let latency = op.latency_ms;
    [
        name.to_owned(),
        grouped(op.ops_per_second.round() as u64),
        grouped(op.count),
        grouped(op.errors),
        decimal(latency.mean),
        decimal(latency.p50),
        decimal(latency.p90),
        decimal(latency.p99),
        decimal(latency.p999),
        decimal(latency.max),
    ]
}

/// As many decimals as are worth reading.
fn decimal(milliseconds: f64) -> String {
    let decimals = match milliseconds {
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    format!("{milliseconds:.decimals$}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_is_one_line() {
        let second = Second {
            at: Duration::from_millis(3001),
            ops_per_second: 98_412.4,
            errors: 0,
            p50_ms: 0.831,
            p99_ms: 12.34,
        };
        let line = live_line(&second);
        assert_eq!(
            line,
            "    3 s     98,412 ops/s  P50    0.83 ms  P99    12.3 ms\n"
        );
        let failing = live_line(&Second {
            errors: 7,
            ..second
        });
        assert!(failing.ends_with("  7 errors\n"), "{failing}");
    }
}
