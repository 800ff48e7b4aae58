//! A comparison for people.

use std::fmt::Write;

use super::{Comparison, FigureRatio, Method, Side, Verdict};
use crate::aligned::aligned;
use crate::grouped::grouped;

/// A line for each figure, and below what the intervals come from.
pub fn table(comparison: &Comparison) -> String {
    let headings = ["", "A", "B", "B/A", "95 % interval", ""];
    let mut rows = vec![headings.map(str::to_owned)];
    rows.extend(comparison.figures.iter().map(row));
    let mut out = aligned(&rows);
    let has_some = comparison.figures.iter().any(|figure| figure.low.is_some());
    let from = match comparison.method {
        _ if !has_some => "none, as there is too little to tell",
        Method::Runs => "Welch's t over the logarithms of what each run came to",
        Method::Seconds => "a block bootstrap over the seconds of these runs",
    };
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        out,
        "\nA: {}\nB: {}\nintervals: {from}",
        side(&comparison.a),
        side(&comparison.b)
    );
    if let Some(allow) = comparison.allow {
        let percent = allow * 100.0;
        let _ = match comparison.worse {
            true => writeln!(out, "B is worse than A by more than {percent} %"),
            false => writeln!(
                out,
                "B is not shown to be worse than A by more than {percent} %"
            ),
        };
    }
    out
}

fn row(figure: &FigureRatio) -> [String; 6] {
    let verdict = match (figure.beyond_allowed, figure.verdict) {
        (true, _) => "worse than allowed",
        (false, Verdict::Worse) => "worse",
        (false, Verdict::Better) => "better",
        (false, Verdict::Unclear) => "",
    };
    let interval = figure.low.zip(figure.high);
    [
        format!("{} {}", figure.of, figure.figure.label()),
        number(figure.a),
        number(figure.b),
        format!("{:.3}", figure.ratio),
        interval.map_or("-".to_owned(), |(low, high)| {
            format!("{low:.3} to {high:.3}")
        }),
        verdict.to_owned(),
    ]
}

fn side(side: &Side) -> String {
    let runs = match side.runs {
        1 => "1 run".to_owned(),
        runs => format!("{runs} runs"),
    };
    match side.versions.is_empty() {
        true => runs,
        false => format!("{runs} of {}", side.versions.join(" and ")),
    }
}

/// As many digits as are worth reading.
fn number(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 1000.0 => format!("{middle:.1}"),
        large => grouped(large.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Measure;
    use super::*;

    fn comparison() -> Comparison {
        let side = |runs| Side {
            runs,
            versions: vec!["0.1.0".to_owned()],
            errors: 0,
        };
        let figure = |figure, a: f64, b: f64, verdict| FigureRatio {
            of: "write".to_owned(),
            figure,
            a,
            b,
            ratio: b / a,
            low: Some(0.98 * b / a),
            high: Some(1.02 * b / a),
            verdict,
            beyond_allowed: false,
        };
        Comparison {
            figures: vec![
                figure(Measure::OpsPerSecond, 40_000.4, 50_000.0, Verdict::Better),
                figure(Measure::P50, 4.0, 4.0, Verdict::Unclear),
                figure(Measure::P999, 100.0, 120.0, Verdict::Worse),
            ],
            worse: false,
            allow: None,
            method: Method::Runs,
            a: side(3),
            b: side(1),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_figure_is_one_line() {
        assert_eq!(
            table(&comparison()),
            "                     A       B    B/A   95 % interval
write ops/s     40,000  50,000  1.250  1.225 to 1.275  better
write P50 ms      4.00    4.00  1.000  0.980 to 1.020
write P99.9 ms   100.0   120.0  1.200  1.176 to 1.224   worse

A: 3 runs of 0.1.0
B: 1 run of 0.1.0
intervals: Welch's t over the logarithms of what each run came to
"
        );
    }

    #[test]
    fn the_verdict_is_said_where_one_was_asked_for() {
        let mut comparison = comparison();
        comparison.allow = Some(0.05);
        assert!(table(&comparison).ends_with("not shown to be worse than A by more than 5 %\n"));
        comparison.worse = true;
        comparison.figures[2].beyond_allowed = true;
        comparison.figures[1].low = None;
        let said = table(&comparison);
        assert!(
            said.ends_with("B is worse than A by more than 5 %\n"),
            "{said}"
        );
        assert!(said.contains("worse than allowed\n"), "{said}");
        for figure in &mut comparison.figures {
            figure.low = None;
        }
        assert!(table(&comparison).contains("intervals: none"), "{said}");
        let no_interval = said.lines().find(|line| line.starts_with("write P50"));
        assert!(no_interval.unwrap().ends_with(" -"), "{said}");
    }
}
