//! The course of a run as a picture: what was done in each second, how long the slowest of a hundred took, and what
//! happened to the nodes meanwhile. One SVG file that fetches nothing.

use std::fmt::Write;

use crate::grouped::grouped;
use crate::report::{Report, TimelineOp, TimelinePoint};

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 430.0;
/// Where the panels begin and end.
const LEFT: f64 = 76.0;
const RIGHT: f64 = WIDTH - 20.0;
const RATE: Panel = Panel {
    top: 92.0,
    bottom: 262.0,
};
const LATENCY: Panel = Panel {
    top: 300.0,
    bottom: 380.0,
};
/// No scale ends higher: what lies above is drawn at its top.
const SCALE_MAX: f64 = 1e12;
/// Lines across a panel, besides its foot.
const LINES: u32 = 2;

/// Light and dark, as the reader's screen is.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:17px;font-weight:600}.small{font-size:12px;fill:#57606a}\
.grid{stroke:#d0d7de;stroke-width:1}.rate{fill:#2da44e33;stroke:#2da44e;stroke-width:2}\
.latency{fill:none;stroke:#0969da;stroke-width:2}.failed{fill:#cf222e}.event{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:4 3}\
.paper{fill:#ffffff}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}.grid{stroke:#30363d}.paper{fill:#0d1117}\
.latency{stroke:#58a6ff}.rate{fill:#3fb95033;stroke:#3fb950}.event{stroke:#f85149}.failed{fill:#f85149}}";

/// A part of the picture with a scale of its own.
#[derive(Debug, Clone, Copy)]
struct Panel {
    top: f64,
    bottom: f64,
}

impl Panel {
    fn y(self, value: f64, most: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * (value / most).clamp(0.0, 1.0)
    }
}

/// The picture. What came from the network is shown as text.
pub fn picture(report: &Report) -> String {
    let mut out = String::new();
    let end = report.timeline.last().map_or(1.0, |last| last.at_seconds);
    let x = |seconds: f64| LEFT + (RIGHT - LEFT) * (seconds / end).clamp(0.0, 1.0);
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
         <title>{title}</title><style>{STYLE}</style>\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\
         <text class=\"title\" x=\"20\" y=\"32\">{title}</text>\
         <text class=\"small\" x=\"20\" y=\"54\">{under}</text>",
        title = escape(&title(report)),
        under = escape(&under(report)),
    );
    let rates = |point: &TimelinePoint| point.by_op.values().map(|op| op.ops_per_second).sum();
    let p99 = |point: &TimelinePoint| slowest(point, |op| op.p99_ms);
    panel(&mut out, RATE, "operations per second", most(report, rates));
    panel(&mut out, LATENCY, "P99, ms", most(report, p99));
    for second in (0..=end as u64).step_by(step(end)) {
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

/// The frame of a panel, with its scale.
fn panel(out: &mut String, panel: Panel, what: &str, most: f64) {
    let _ = write!(
        out,
        "<text class=\"small\" x=\"{LEFT}\" y=\"{}\">{what}</text>",
        panel.top - 8.0
    );
    for line in 0..=LINES {
        let value = most * f64::from(line) / f64::from(LINES);
        let y = panel.y(value, most);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"small\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            scale(value)
        );
    }
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

/// The upper end of a scale: 1, 2 or 5 times a power of ten that is no less than all values.
fn most(report: &Report, value: impl Fn(&TimelinePoint) -> f64) -> f64 {
    let largest = report.timeline.iter().map(value).fold(0.0, f64::max);
    let largest = largest.min(SCALE_MAX);
    let power = 10_f64.powf(largest.max(1.0).log10().floor());
    let fits = [1.0, 2.0, 5.0].map(|times| times * power);
    let fits = fits.into_iter().find(|most| *most >= largest);
    fits.unwrap_or(10.0 * power)
}

/// So many seconds between two numbers below the picture.
fn step(end: f64) -> usize {
    let steps = [1, 2, 5, 10, 30, 60, 300];
    let fits = steps
        .into_iter()
        .find(|step| end / f64::from(*step) <= 12.0);
    fits.unwrap_or(3600) as usize
}

fn scale(value: f64) -> String {
    match value < 10.0 && value.fract() > 0.0 {
        true => format!("{value:.1}"),
        false => grouped(value as u64),
    }
}

fn escape(text: &str) -> String {
    crate::html::escape(text)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn scales_end_above_what_they_show() {
        let mut report = report();
        for (value, expected) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (37.0, 50.0),
            (60.0, 100.0),
        ] {
            for point in &mut report.timeline {
                for op in point.by_op.values_mut() {
                    op.p99_ms = value;
                }
            }
            let end = most(&report, |point| slowest(point, |op| op.p99_ms));
            assert_eq!(end, expected, "{value}");
        }
    }
}
