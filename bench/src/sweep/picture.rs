//! The result as a picture: latencies against operations per second, from step to step, with the knee. One SVG file
//! that fetches nothing.

use std::fmt::Write;

use super::{Step, SweepReport};
use crate::drawing::{LEFT, RIGHT, begin, name_line, scale};
use crate::grouped::grouped;
use crate::report::Latency;

const HEIGHT: f64 = 508.0;
const TOP: f64 = 128.0;
const BOTTOM: f64 = 448.0;
/// The part of the width that lies right of the most operations, for the numbers of the points there.
const MARGIN: f64 = 0.08;
/// At most so many numbers stand below.
const TICKS_MAX: f64 = 8.0;
/// How wide the name of a line is, at most.
const NAME_WIDTH: f64 = 64.0;
/// What lies outside is drawn at the edge, in milliseconds: no latency is that short or that long.
const LATENCY_MS: (f64, f64) = (1e-3, 1e7);
/// Where the names of the lines stand, above what is said of the knee.
const NAMES: f64 = 88.0;
/// Beside the knee so much room is needed for what is said of it.
const KNEE_WIDTH: f64 = 340.0;

/// Light and dark, as the reader's screen is.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:17px;font-weight:600}.small{font-size:12px;fill:#57606a}\
.strong{font-weight:600}.grid{stroke:#d0d7de;stroke-width:1}.fine{stroke:#d0d7de;stroke-width:1;stroke-opacity:.45}\
.paper{fill:#ffffff}.line{fill:none;stroke-width:2;stroke-linejoin:round}.knee{stroke:#57606a;stroke-width:1.5;stroke-dasharray:4 3}\
.bound{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:4 3}.ring{fill:#ffffff;stroke-width:2.5}\
.l0{stroke:#2da44e}.d0{fill:#2da44e}.l1{stroke:#0969da}.d1{fill:#0969da}.l2{stroke:#bf3989}.d2{fill:#bf3989}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}.grid,.fine{stroke:#30363d}\
.paper,.ring{fill:#0d1117}.knee{stroke:#8d96a0}.bound{stroke:#f85149}\
.l0{stroke:#3fb950}.d0{fill:#3fb950}.l1{stroke:#58a6ff}.d1{fill:#58a6ff}.l2{stroke:#db61a2}.d2{fill:#db61a2}}";

/// A percentile.
struct Line {
    name: &'static str,
    of: fn(&Latency) -> f64,
}

/// The lines, from the bottom up.
const LINES: [Line; 3] = [
    Line {
        name: "P50",
        of: |latency| latency.p50,
    },
    Line {
        name: "P99",
        of: |latency| latency.p99,
    },
    Line {
        name: "P99.9",
        of: |latency| latency.p999,
    },
];

/// Where values lie: operations per second to the right, latencies upwards by their logarithm.
struct Scales {
    ops_end: f64,
    ops_step: f64,
    /// Powers of ten, in milliseconds.
    decades: (i32, i32),
}

impl Scales {
    fn new(report: &SweepReport) -> Self {
        let most = report.steps.iter().map(|step| step.ops_per_second);
        let most = most.fold(1.0, f64::max).min(1e12);
        let latencies = report.steps.iter().flat_map(|step| {
            let latency = &step.latency_ms;
            LINES.map(|line| within((line.of)(latency)))
        });
        let latencies = latencies.chain(report.p99_below_ms.map(within));
        let ends = latencies.fold((f64::INFINITY, 0.0_f64), |(low, high), it| {
            (low.min(it), high.max(it))
        });
        let (low, high) = match ends {
            (low, high) if low <= high => (low, high),
            _ => (1.0, 10.0),
        };
        let low = low.log10().floor() as i32;
        let ops_end = most * (1.0 + MARGIN);
        Self {
            ops_end,
            ops_step: step(ops_end),
            decades: (low, (high.log10().ceil() as i32).max(low + 1)),
        }
    }

    fn x(&self, ops_per_second: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (ops_per_second / self.ops_end).clamp(0.0, 1.0)
    }

    fn y(&self, latency_ms: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        let share = (within(latency_ms).log10() - low) / (high - low);
        BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
    }

    fn frame(&self, out: &mut String) {
        for decade in self.decades.0..=self.decades.1 {
            for times in [1.0, 2.0, 5.0] {
                let value = times * 10_f64.powi(decade);
                if decade == self.decades.1 && times > 1.0 {
                    continue;
                }
                let y = self.y(value);
                let class = if times > 1.0 { "fine" } else { "grid" };
                // Writing to a string cannot fail, here and below.
                let _ = write!(
                    out,
                    "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                     <text class=\"small\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    LEFT - 8.0,
                    y + 4.0,
                    milliseconds(value)
                );
            }
        }
        let ticks = (self.ops_end / self.ops_step).floor() as u32;
        for tick in 0..=ticks {
            let value = f64::from(tick) * self.ops_step;
            let x = self.x(value);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{}\"/>\
                 <text class=\"small\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                BOTTOM + 5.0,
                BOTTOM + 20.0,
                scale(value)
            );
        }
        let _ = write!(
            out,
            "<text class=\"small\" x=\"{RIGHT}\" y=\"{}\" text-anchor=\"end\">operations per second</text>\
             <text class=\"small\" x=\"{LEFT}\" y=\"{}\">latency, ms</text>",
            BOTTOM + 42.0,
            NAMES
        );
    }
}

/// The picture.
pub fn picture(report: &SweepReport) -> String {
    let mut out = begin(HEIGHT, STYLE, &title(report), &under(report));
    let scales = Scales::new(report);
    scales.frame(&mut out);
    if let Some(bound) = report.p99_below_ms {
        let y = scales.y(bound);
        let _ = write!(
            out,
            "<line class=\"bound\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"small\" x=\"{}\" y=\"{:.1}\">P99 below {} ms</text>",
            LEFT + 6.0,
            y - 6.0,
            milliseconds(bound)
        );
    }
    let knee = report.knee.and_then(|knee| report.steps.get(knee.step));
    if let Some(step) = knee {
        draw_knee(&mut out, &scales, step);
    }
    for (number, Line { name, of }) in LINES.into_iter().enumerate() {
        let points = report.steps.iter();
        let points: Vec<_> = points
            .map(|step| {
                (
                    scales.x(step.ops_per_second),
                    scales.y(of(&step.latency_ms)),
                )
            })
            .collect();
        let path: Vec<_> = points
            .iter()
            .map(|(x, y)| format!("{x:.1} {y:.1}"))
            .collect();
        if !path.is_empty() {
            let path = path.join(" ");
            let _ = write!(out, "<path class=\"line l{number}\" d=\"M{path}\"/>");
        }
        for (x, y) in points {
            let _ = write!(
                out,
                "<circle class=\"d{number}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>"
            );
        }
        if let Some(step) = knee {
            let (x, y) = (
                scales.x(step.ops_per_second),
                scales.y(of(&step.latency_ms)),
            );
            let _ = write!(
                out,
                "<circle class=\"ring l{number}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5.5\"/>"
            );
        }
        let left = RIGHT - NAME_WIDTH * (LINES.len() - number) as f64;
        name_line(&mut out, number, name, left, NAMES);
    }
    for step in &report.steps {
        let (x, y) = (scales.x(step.ops_per_second), scales.y(step.latency_ms.p50));
        let _ = write!(
            out,
            "<text class=\"small\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 6.0,
            y + 15.0,
            load(step)
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"small\" x=\"{LEFT}\" y=\"{}\">at the points: {}</text></svg>",
        BOTTOM + 42.0,
        what_rises(report)
    );
    out
}

/// A line down the picture, and what the cluster did there.
fn draw_knee(out: &mut String, scales: &Scales, step: &Step) {
    let x = scales.x(step.ops_per_second);
    // Beside the line where there is room.
    let (at, anchor) = match x - LEFT > KNEE_WIDTH {
        true => (x - 8.0, "end"),
        false => (x + 8.0, "start"),
    };
    let _ = write!(
        out,
        "<line class=\"knee\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{BOTTOM}\"/>\
         <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"{anchor}\">\
         <tspan class=\"strong\">knee: {} per second</tspan>, P50 {:.1} ms, P99 {:.1} ms</text>",
        TOP - 20.0,
        TOP - 10.0,
        grouped(step.ops_per_second.round() as u64),
        step.latency_ms.p50,
        step.latency_ms.p99,
    );
}

/// How much was asked for.
fn load(step: &Step) -> String {
    match step.rate {
        Some(rate) => grouped(rate.round() as u64),
        None => grouped(step.in_flight as u64),
    }
}

fn what_rises(report: &SweepReport) -> &'static str {
    match report.steps.iter().any(|step| step.rate.is_some()) {
        true => "operations per second that were wanted",
        false => "requests in flight",
    }
}

fn title(report: &SweepReport) -> String {
    let nodes = report.servers.len();
    format!(
        "Latency of {nodes} {}, with more and more to do",
        if nodes == 1 { "node" } else { "nodes" }
    )
}

fn under(report: &SweepReport) -> String {
    let config = &report.config;
    format!(
        "workload {}, {} keys, values of {} B, {} s for each step; nodes and load share {} processors",
        config.workload,
        grouped(config.keys),
        config.value_bytes,
        config.duration_seconds,
        report.host.cores,
    )
}

fn within(latency_ms: f64) -> f64 {
    latency_ms.clamp(LATENCY_MS.0, LATENCY_MS.1)
}

/// A number of the scale: 0.05, 2, 1,000.
fn milliseconds(value: f64) -> String {
    match value < 1.0 {
        true => format!("{}", (value * 1e4).round() / 1e4),
        false => scale(value),
    }
}

/// So far are two numbers below apart: 1, 2 or 5 times a power of ten.
fn step(end: f64) -> f64 {
    let power = 10_f64.powf((end / TICKS_MAX).log10().floor());
    let fits = [1.0, 2.0, 5.0].map(|times| times * power);
    let fits = fits.into_iter().find(|step| end / step <= TICKS_MAX);
    fits.unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;
    use crate::drawing::{WIDTH, numbers};

    #[test]
    fn each_step_has_its_points_and_the_knee_is_marked() {
        let picture = picture(&report());
        // Five steps on three lines, the knee on each, and the three names.
        assert_eq!(numbers(&picture, "cx").len(), 3 * 5 + 3 + 3);
        assert!(picture.contains("knee: 50,000 per second"), "{picture}");
        for load in [">1<", ">10<", ">50<", ">100<", ">400<"] {
            assert!(picture.contains(load), "{load}: {picture}");
        }
        assert!(picture.contains("requests in flight"), "{picture}");
        assert!(!picture.contains("P99 below"), "{picture}");
    }

    #[test]
    fn a_bound_is_drawn_and_without_a_knee_there_is_none() {
        let mut report = report();
        report.p99_below_ms = Some(0.5);
        report.knee = None;
        report.steps[0].rate = Some(1000.0);
        let picture = picture(&report);
        assert!(picture.contains("P99 below 0.5 ms"), "{picture}");
        assert!(
            !picture.contains("knee:") && !picture.contains("class=\"ring"),
            "{picture}"
        );
        assert!(picture.contains("that were wanted"), "{picture}");
    }

    #[test]
    fn nothing_lies_outside_and_nothing_is_fetched() {
        let mut report = report();
        report.config.workload = "<write>".to_owned();
        for odd in [0.0, f64::MAX] {
            report.steps[1].latency_ms.p999 = odd;
            report.steps[2].latency_ms.p50 = odd;
            report.steps[3].ops_per_second = odd;
            let picture = picture(&report);
            for word in ["href", "url(", "@import", "NaN", "inf", "<write>"] {
                assert!(!picture.contains(word), "{word}");
            }
            for (name, end) in [("x", WIDTH), ("cx", WIDTH), ("cy", HEIGHT), ("y1", HEIGHT)] {
                let inside = |it: &f64| (0.0..=end).contains(it);
                assert!(
                    numbers(&picture, name).iter().all(inside),
                    "{name}: {picture}"
                );
            }
        }
        report.steps.clear();
        assert!(picture(&report).ends_with("</svg>\n"));
    }

    #[test]
    fn few_numbers_stand_below() {
        for (end, expected) in [(8.0, 1.0), (9.0, 2.0), (54_000.0, 10_000.0), (41.0, 10.0)] {
            assert_eq!(step(end), expected, "{end}");
        }
    }
}
