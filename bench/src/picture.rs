//! The course of a run as a picture: what was done in each second, how long the slowest of a hundred took, and what
//! happened to the nodes meanwhile. One SVG file that fetches nothing.

use std::fmt::Write;

use crate::drawing::{LEFT, Panel, RIGHT, begin, scale_end};
use crate::grouped::grouped;
use crate::html::escape;
use crate::report::{Report, TimelineOp, TimelinePoint};

const HEIGHT: f64 = 430.0;
const RATE: Panel = Panel {
    top: 92.0,
    bottom: 262.0,
};
const LATENCY: Panel = Panel {
    top: 300.0,
    bottom: 380.0,
};

/// Light and dark, as the reader's screen is.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:17px;font-weight:600}.small{font-size:12px;fill:#57606a}\
.grid{stroke:#d0d7de;stroke-width:1}.rate{fill:#2da44e33;stroke:#2da44e;stroke-width:2}\
.latency{fill:none;stroke:#0969da;stroke-width:2}.failed{fill:#cf222e}.event{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:4 3}\
.paper{fill:#ffffff}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}.grid{stroke:#30363d}.paper{fill:#0d1117}\
.latency{stroke:#58a6ff}.rate{fill:#3fb95033;stroke:#3fb950}.event{stroke:#f85149}.failed{fill:#f85149}}";

/// The picture. What came from the network is shown as text.
pub fn picture(report: &Report) -> String {
    let mut out = begin(HEIGHT, STYLE, &title(report), &under(report));
    let end = report.timeline.last().map_or(1.0, |last| last.at_seconds);
    let x = |seconds: f64| LEFT + (RIGHT - LEFT) * (seconds / end).clamp(0.0, 1.0);
    let rates = |point: &TimelinePoint| point.by_op.values().map(|op| op.ops_per_second).sum();
    let p99 = |point: &TimelinePoint| slowest(point, |op| op.p99_ms);
    RATE.frame(&mut out, "operations per second", most(report, rates));
    LATENCY.frame(&mut out, "P99, ms", most(report, p99));
    for second in (0..=end as u64).step_by(step(end)) {
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            out,
            "<text class=\"small\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
            x(second as f64),
            LATENCY.bottom + 20.0
        );
    }
    let foot = RATE.bottom;
    let line = course(report, RATE, most(report, rates), x, rates);
    let _ = write!(
        out,
        "<path class=\"rate\" d=\"M{LEFT} {foot}L{line}L{RIGHT} {foot}Z\"/>"
    );
    let line = course(report, LATENCY, most(report, p99), x, p99);
    let _ = write!(out, "<path class=\"latency\" d=\"M{line}\"/>");
    for point in &report.timeline {
        let failed: u64 = point.by_op.values().map(|op| op.errors).sum();
        if failed > 0 {
            let _ = write!(
                out,
                "<circle class=\"failed\" cx=\"{:.1}\" cy=\"{foot}\" r=\"4\"><title>{failed} failed</title></circle>",
                x(point.at_seconds)
            );
        }
    }
    for (number, event) in report.events.iter().enumerate() {
        let at = x(event.at_seconds);
        // One above the other, so that none is written over.
        let y = RATE.top + 4.0 + 18.0 * (number % 2) as f64;
        let _ = write!(
            out,
            "<line class=\"event\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{y}\">{}</text>",
            RATE.top - 12.0,
            LATENCY.bottom,
            at + 6.0,
            escape(&event.what)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn title(report: &Report) -> String {
    let count = |part: fn(&crate::report::OpReport) -> u64| report.by_op.values().map(part).sum();
    let (done, failed): (u64, u64) = (count(|op| op.count), count(|op| op.errors));
    let under_way = match report.events.first() {
        Some(event) => format!("{} under load", event.what),
        None => format!("workload {}", report.config.workload),
    };
    let done = grouped(done + failed);
    match failed {
        0 => format!("{under_way}: none of {done} requests failed"),
        failed => format!("{under_way}: {} of {done} requests failed", grouped(failed)),
    }
}

fn under(report: &Report) -> String {
    let config = &report.config;
    let quorum =
        |name: &str, value: Option<u8>| value.map_or(String::new(), |it| format!(", {name} {it}"));
    let load = match config.rate {
        Some(rate) => format!("{} per second wanted", grouped(rate as u64)),
        None => "as fast as it goes".to_owned(),
    };
    format!(
        "{} nodes, workload {}, {load}{}{}; {} processors shared with the load",
        report.servers.len(),
        config.workload,
        quorum("W", config.w),
        quorum("R", config.r),
        report.host.cores,
    )
}

/// The points of a line, from edge to edge.
fn course(
    report: &Report,
    panel: Panel,
    most: f64,
    x: impl Fn(f64) -> f64,
    value: impl Fn(&TimelinePoint) -> f64,
) -> String {
    let mut points = String::new();
    for (number, point) in report.timeline.iter().enumerate() {
        let y = panel.y(value(point), most);
        if number == 0 {
            let _ = write!(points, "{LEFT} {y:.1}");
        }
        let _ = write!(points, " {:.1} {y:.1}", x(point.at_seconds));
    }
    points
}

fn slowest(point: &TimelinePoint, value: impl Fn(&TimelineOp) -> f64) -> f64 {
    point.by_op.values().map(value).fold(0.0, f64::max)
}

/// The upper end of the scale of these values.
fn most(report: &Report, value: impl Fn(&TimelinePoint) -> f64) -> f64 {
    scale_end(report.timeline.iter().map(value).fold(0.0, f64::max))
}

/// So many seconds between two numbers below the picture.
fn step(end: f64) -> usize {
    let steps = [1, 2, 5, 10, 30, 60, 300];
    let fits = steps
        .into_iter()
        .find(|step| end / f64::from(*step) <= 12.0);
    fits.unwrap_or(3600) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::WIDTH;
    use crate::report::Event;

    fn report() -> Report {
        let text = include_str!("../tests/report.json");
        serde_json::from_str(text).expect("the sample is a report")
    }

    fn killed() -> Report {
        let mut report = report();
        report.events = vec![Event {
            at_seconds: 1.5,
            what: "<node-3> killed".to_owned(),
        }];
        report
    }

    #[test]
    fn it_says_what_happened_and_how_many_failed() {
        let mut report = killed();
        for op in report.by_op.values_mut() {
            op.errors = 0;
        }
        for point in &mut report.timeline {
            for op in point.by_op.values_mut() {
                op.errors = 0;
            }
        }
        let whole = picture(&report);
        assert!(whole.contains("&lt;node-3&gt; killed under load: none of "));
        assert!(!whole.contains("<circle"));
        report.by_op.values_mut().next().unwrap().errors = 3;
        let point = report.timeline[0].by_op.values_mut().next();
        point.unwrap().errors = 3;
        let some_failed = picture(&report);
        assert!(some_failed.contains(": 3 of ") && some_failed.contains("<circle"));
        report.events.clear();
        assert!(picture(&report).contains("workload "));
    }

    #[test]
    fn no_point_lies_outside_and_nothing_is_fetched() {
        let mut report = killed();
        for odd in [0.0, f64::MAX] {
            for point in &mut report.timeline {
                for op in point.by_op.values_mut() {
                    op.p99_ms = odd;
                }
            }
            let picture = picture(&report);
            for word in ["href", "url(", "@import", "NaN", "inf"] {
                assert!(!picture.contains(word), "{word}");
            }
            let path = picture.split("class=\"latency\" d=\"M").nth(1).unwrap();
            let numbers = path.split('"').next().unwrap().split(' ');
            for number in numbers.map(|it| it.parse::<f64>().unwrap()) {
                assert!((0.0..=WIDTH).contains(&number), "{number}");
            }
        }
        report.timeline.clear();
        assert!(picture(&report).starts_with("<svg"));
    }
}
