//! The result as a picture: CPU per operation, CPU at rest and memory against the number of nodes. One SVG file that
//! fetches nothing.

use std::fmt::Write;

use super::{ClusterCost, ScaleReport};
use crate::drawing::{LEFT, Panel, RIGHT, begin, name_line, scale_end};
use crate::grouped::grouped;

const HEIGHT: f64 = 560.0;
const CPU: Panel = Panel {
    top: 104.0,
    bottom: 234.0,
};
const IDLE: Panel = Panel {
    top: 284.0,
    bottom: 384.0,
};
const MEMORY: Panel = Panel {
    top: 434.0,
    bottom: 514.0,
};
/// What a scale holds beside the largest value, so that its number has room below the panel's name.
const HEADROOM: f64 = 1.25;
/// How wide the name of a line is, at most.
const NAME_WIDTH: f64 = 90.0;

/// Light and dark, as the reader's screen is.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:17px;font-weight:600}.small{font-size:12px;fill:#57606a}\
.grid{stroke:#d0d7de;stroke-width:1}.paper{fill:#ffffff}.line{fill:none;stroke-width:2}\
.l0{stroke:#2da44e}.d0{fill:#2da44e}.l1{stroke:#0969da}.d1{fill:#0969da}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}.grid{stroke:#30363d}.paper{fill:#0d1117}\
.l0{stroke:#3fb950}.d0{fill:#3fb950}.l1{stroke:#58a6ff}.d1{fill:#58a6ff}}";

/// A line of a panel. A cluster without the figure has no point.
struct Line {
    name: &'static str,
    value: fn(&ClusterCost) -> Option<f64>,
}

/// The picture.
pub fn picture(report: &ScaleReport) -> String {
    let mut out = begin(HEIGHT, STYLE, &title(report), &under(report));
    let most = report.clusters.iter().map(|it| it.nodes).max().unwrap_or(1);
    // The last point keeps off the edge, so that its number has room.
    let x = |nodes: usize| LEFT + (RIGHT - LEFT) * 0.97 * (nodes as f64 / most as f64);
    let mut panel = |panel: Panel, what: &str, decimals: usize, lines: &[Line]| {
        let values = report.clusters.iter().flat_map(|cluster| {
            let values = lines.iter().filter_map(|line| (line.value)(cluster));
            values.collect::<Vec<_>>()
        });
        let end = scale_end(HEADROOM * values.fold(0.0, f64::max));
        panel.frame(&mut out, what, end);
        for (number, line) in lines.iter().enumerate() {
            let points = report.clusters.iter();
            let points = points.filter_map(|it| Some((x(it.nodes), (line.value)(it)?)));
            let points: Vec<_> = points.collect();
            draw(
                &mut out,
                number,
                &points,
                |value| panel.y(value, end),
                decimals,
            );
            let left = RIGHT - NAME_WIDTH * (lines.len() - number) as f64;
            name_line(&mut out, number, line.name, left, panel.top - 8.0);
        }
    };
    let line = |name, value| Line { name, value };
    panel(
        CPU,
        "CPU of all nodes per operation, µs",
        1,
        &[
            line("writes", |it| it.write.server_cpu_us_per_op),
            line("reads", |it| it.read.server_cpu_us_per_op),
        ],
    );
    panel(
        IDLE,
        "CPU of a node at rest, % of a core",
        2,
        &[
            line("largest", |it| Some(it.idle_core_percent.max)),
            line("mean", |it| Some(it.idle_core_percent.mean)),
        ],
    );
    panel(
        MEMORY,
        "resident memory of a node, MB",
        0,
        &[line("mean", |it| Some(it.memory_bytes.mean / 1e6))],
    );
    for cluster in &report.clusters {
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            out,
            "<text class=\"small\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(cluster.nodes),
            MEMORY.bottom + 20.0,
            cluster.nodes
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"small\" x=\"{LEFT}\" y=\"{}\">nodes</text></svg>",
        MEMORY.bottom + 20.0
    );
    out
}

/// Draws a line with its points and their numbers: those of the first line above it, those of others below.
fn draw(
    out: &mut String,
    number: usize,
    points: &[(f64, f64)],
    y: impl Fn(f64) -> f64,
    decimals: usize,
) {
    let path: Vec<_> = points
        .iter()
        .map(|(x, value)| format!("{x:.1} {:.1}", y(*value)))
        .collect();
    if !path.is_empty() {
        let path = path.join(" ");
        let _ = write!(out, "<path class=\"line l{number}\" d=\"M{path}\"/>");
    }
    let shift = if number == 0 { -9.0 } else { 18.0 };
    for (x, value) in points {
        let y = y(*value);
        let _ = write!(
            out,
            "<circle class=\"d{number}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>\
             <text class=\"small\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.decimals$}</text>",
            y + shift,
        );
    }
}

fn title(report: &ScaleReport) -> String {
    let numbers: Vec<_> = report
        .clusters
        .iter()
        .map(|it| it.nodes.to_string())
        .collect();
    match numbers.split_last() {
        Some((last, [])) => format!("A cluster of {last} nodes"),
        Some((last, others)) => format!("Clusters of {} and {last} nodes", others.join(", ")),
        None => "No cluster".to_owned(),
    }
}

fn under(report: &ScaleReport) -> String {
    let config = &report.config;
    format!(
        "{} keys in each cluster, {} operations in flight for each node; all nodes and the load share {} processors",
        grouped(config.keys),
        config.in_flight_per_node,
        report.host.cores,
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;
    use crate::drawing::{WIDTH, numbers};

    #[test]
    fn each_cluster_has_its_points_and_numbers() {
        let picture = picture(&report());
        assert!(picture.contains("Clusters of 3 and 20 nodes"));
        // Two clusters on five lines, and the five names of those.
        assert_eq!(numbers(&picture, "cx").len(), 2 * 5 + 5);
        for number in ["11.5", "23.0", "0.50", "0.75", "40", "80"] {
            assert!(picture.contains(&format!(">{number}</text>")), "{number}");
        }
    }

    #[test]
    fn nothing_lies_outside_and_nothing_is_fetched() {
        let mut report = report();
        for odd in [0.0, f64::MAX] {
            report.clusters[1].idle_core_percent.max = odd;
            report.clusters[1].write.server_cpu_us_per_op = Some(odd);
            report.clusters[0].read.server_cpu_us_per_op = None;
            let picture = picture(&report);
            for word in ["href", "url(", "@import", "NaN", "inf"] {
                assert!(!picture.contains(word), "{word}");
            }
            for name in ["x", "cx"] {
                let inside = |it: &f64| (0.0..=WIDTH).contains(it);
                assert!(numbers(&picture, name).iter().all(inside));
            }
            let inside = |it: &f64| (0.0..=HEIGHT).contains(it);
            assert!(numbers(&picture, "cy").iter().all(inside));
        }
        report.clusters.clear();
        assert!(picture(&report).ends_with("</svg>\n"));
    }
}
