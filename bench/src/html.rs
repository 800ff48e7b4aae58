//! A report as one self-contained page: figures as tables, pictures drawn by uPlot, which is inside it.
//!
//! The tables are plain HTML, so that they can be read (and copied, and searched) without scripts.

use std::fmt::Write;

use crate::report::{OpReport, Report};

const PAGE: &str = include_str!("../assets/page.html");
const PAGE_CSS: &str = include_str!("../assets/page.css");
const PAGE_JS: &str = include_str!("../assets/page.js");
const UPLOT_CSS: &str = include_str!("../assets/uPlot.min.css");
const UPLOT_JS: &str = include_str!("../assets/uPlot.iife.min.js");

/// The page. No part of it comes from the network, and what came from the network (addresses, versions,
/// error texts) is shown as text.
pub fn page(report: &Report) -> String {
    let config = &report.config;
    let title = format!(
        "dynakv-bench: workload {}, {} {}",
        config.workload,
        report.servers.len(),
        if report.servers.len() == 1 {
            "node"
        } else {
            "nodes"
        }
    );
    let when = format!(
        "{}, {:.1} s measured; dynakv-bench {}",
        report.started_at, report.duration_seconds, report.host.bench_version
    );
    // Inside a script element only "</" and "<!--" mean anything.
    let json = serde_json::to_string(report)
        .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
        .replace('<', "\\u003c");
    fill(
        PAGE,
        &[
            ("title", &escape(&title)),
            ("when", &escape(&when)),
            ("warnings", &warnings(report)),
            ("tiles", &tiles(report)),
            ("operations", &operations(report)),
            ("failures", &failures(report)),
            ("events", &events(report)),
            ("config", &settings(report)),
            ("host", &host(report)),
            ("servers", &servers(report)),
            ("uplot_css", UPLOT_CSS),
            ("page_css", PAGE_CSS),
            ("report", &json),
            ("uplot_js", UPLOT_JS),
            ("page_js", PAGE_JS),
        ],
    )
}

/// Puts values where the template says `{{name}}`, in one pass: a value that looks like a place stays
/// as it is.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut page = String::with_capacity(template.len() + UPLOT_JS.len() + PAGE_JS.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        let value = values.iter().find(|(known, _)| *known == name);
        page.push_str(value.map_or("", |(_, value)| value));
        rest = after;
    }
    page.push_str(rest);
    page
}

pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn warnings(report: &Report) -> String {
    let each = report.warnings.iter();
    each.map(|warning| {
        format!(
            "<p class=\"warning\" role=\"note\">{}</p>\n",
            escape(warning)
        )
    })
    .collect()
}

fn tiles(report: &Report) -> String {
    let mut tiles = String::new();
    let mut tile = |value: String, what: &str| {
        // Writing to a string cannot fail.
        let _infallible = write!(
            tiles,
            "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
            escape(&value),
            escape(what)
        );
    };
    tile(whole(report.ops_per_second), "operations per second");
    for (name, op) in &report.by_op {
        tile(
            milliseconds(op.latency_ms.p50),
            &format!("{name}: half took at most"),
        );
        tile(
            milliseconds(op.latency_ms.p99),
            &format!("{name}: 99 % took at most"),
        );
    }
    tile(
        microseconds(report.server_cpu_us_per_op),
        "CPU of all nodes per operation",
    );
    let errors: u64 = report.by_op.values().map(|op| op.errors).sum();
    tile(whole(errors as f64), "failed operations");
    tiles
}

/// A table; columns after the first are numbers when `numbers`.
fn table(heads: &[&str], rows: &[Vec<String>], numbers: bool) -> String {
    let class = |column: usize| {
        if numbers && column > 0 {
            " class=\"number\""
        } else {
            ""
        }
    };
    let mut table = String::from("<table>");
    if !heads.is_empty() {
        table.push_str("<thead><tr>");
        for (column, head) in heads.iter().enumerate() {
            let _infallible = write!(table, "<th{}>{}</th>", class(column), escape(head));
        }
        table.push_str("</tr></thead>");
    }
    table.push_str("<tbody>");
    for row in rows {
        table.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let tag = if heads.is_empty() && column == 0 {
                "th"
            } else {
                "td"
            };
            let _infallible = write!(table, "<{tag}{}>{}</{tag}>", class(column), escape(cell));
        }
        table.push_str("</tr>");
    }
    table.push_str("</tbody></table>");
    table
}

fn operations(report: &Report) -> String {
    let row = |(name, op): (&str, &OpReport)| {
        let latency = &op.latency_ms;
        let times = [
            latency.mean,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max,
        ];
        let mut row = vec![
            name.to_owned(),
            whole(op.count as f64),
            whole(op.ops_per_second),
            whole(op.errors as f64),
        ];
        row.extend(times.map(milliseconds));
        row
    };
    let heads = [
        "Operation",
        "Succeeded",
        "Per second",
        "Failed",
        "Mean",
        "P50",
        "P90",
        "P99",
        "P99.9",
        "Max",
    ];
    let kinds = report.by_op.iter().map(|(name, op)| (name.as_str(), op));
    let all = report.all_ops.as_ref().filter(|_| report.by_op.len() > 1);
    let rows: Vec<_> = kinds.chain(all.map(|all| ("all", all))).map(row).collect();
    table(&heads, &rows, true)
}

fn events(report: &Report) -> String {
    let events = report.events.iter();
    let rows: Vec<_> = events
        .map(|event| vec![event.what.clone(), format!("{:.1} s", event.at_seconds)])
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>What was done to the nodes</h2>{}",
        table(&["What", "After"], &rows, true)
    )
}

fn failures(report: &Report) -> String {
    let rows: Vec<_> = report
        .by_op
        .iter()
        .flat_map(|(name, op)| {
            let kinds = op.errors_by_kind.iter();
            kinds.map(move |(kind, count)| vec![format!("{name}: {kind}"), whole(*count as f64)])
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>Failures</h2>{}",
        table(&["What was said", "How often"], &rows, true)
    )
}

fn settings(report: &Report) -> String {
    let config = &report.config;
    let quorum =
        |value: Option<u8>| value.map_or("the cluster's default".to_owned(), |q| q.to_string());
    let rows = [
        ("Workload", config.workload.clone()),
        ("Servers", config.servers.join(", ")),
        (
            "Callers",
            format!(
                "{}, each with {} in flight",
                config.clients, config.pipeline
            ),
        ),
        (
            "Rate",
            config
                .rate
                .map_or("as fast as it goes (closed loop)".to_owned(), |rate| {
                    format!("{} per second (open loop)", whole(rate))
                }),
        ),
        ("Duration", format!("{} s", config.duration_seconds)),
        (
            "Keys",
            format!(
                "{} of {} bytes, {}",
                whole(config.keys as f64),
                config.key_bytes,
                config.distribution
            ),
        ),
        ("Values", format!("{} bytes", config.value_bytes)),
        ("W of writes", quorum(config.w)),
        ("R of reads", quorum(config.r)),
        ("Seed", config.seed.to_string()),
        (
            "Loading",
            report.loading.map_or("skipped".to_owned(), |loading| {
                format!(
                    "{} keys in {:.1} s",
                    whole(loading.keys as f64),
                    loading.seconds
                )
            }),
        ),
    ];
    table(&[], &pairs(rows), false)
}

fn host(report: &Report) -> String {
    let host = &report.host;
    let rows = [
        ("System", host.system.clone()),
        ("Processor", host.cpu.clone()),
        ("Processors in use", host.cores.to_string()),
        (
            "Memory",
            format!("{:.1} GiB", host.memory_bytes as f64 / f64::from(1 << 30)),
        ),
        (
            "Load average before the run",
            format!("{:.2}", host.load_average),
        ),
        (
            "CPU of the generator per operation",
            microseconds(Some(report.client_cpu_us_per_op)),
        ),
    ];
    table(&[], &pairs(rows), false)
}

fn servers(report: &Report) -> String {
    let rows: Vec<_> = report
        .servers
        .iter()
        .map(|server| {
            vec![
                server.node_id.clone(),
                server.address.clone(),
                server.version.clone(),
                microseconds(server.cpu_us_per_op),
            ]
        })
        .collect();
    table(
        &["Node", "Address", "Version", "CPU per operation of the run"],
        &rows,
        false,
    )
}

fn pairs<const N: usize>(rows: [(&str, String); N]) -> Vec<Vec<String>> {
    rows.into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect()
}

/// A number without a fraction, its thousands apart.
fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut apart = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

fn milliseconds(value: f64) -> String {
    format!("{value:.2} ms")
}

fn microseconds(value: Option<f64>) -> String {
    value.map_or("not measured".to_owned(), |value| format!("{value:.1} µs"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::report::{Event, NodeResources, ResourcePoint, TimelineOp};

    /// A run of two kinds of operations with a second in which a node stood still.
    fn report() -> Report {
        let text = include_str!("../tests/report.json");
        serde_json::from_str(text).expect("the sample is a report")
    }

    /// The same as this version writes it, with a node that was killed.
    fn whole_report() -> Report {
        let mut report = report();
        let sum = |ops: &std::collections::BTreeMap<String, TimelineOp>| TimelineOp {
            ops_per_second: ops.values().map(|op| op.ops_per_second).sum(),
            ..ops.values().next().copied().unwrap_or_default()
        };
        for point in &mut report.timeline {
            point.all_ops = Some(sum(&point.by_op));
            let node = |number: u32| NodeResources {
                cpu_cores: 0.2 + 0.1 * f64::from(number),
                syncs_per_second: 300.0,
                sync_mean_ms: Some(0.4 * f64::from(number)),
                sync_p99_ms: Some(1.7 * f64::from(number)),
            };
            let nodes = (1..=3).map(|number| (format!("node-{number}"), node(number)));
            report.resources.push(ResourcePoint {
                at_seconds: point.at_seconds,
                client_cpu_cores: 0.6,
                by_node: nodes.collect(),
            });
        }
        report.all_ops = report.by_op.get("write").cloned();
        report.events = ["node-3 killed", "node-3 started again"]
            .into_iter()
            .zip([2.0, 5.0])
            .map(|(what, at_seconds)| Event {
                at_seconds,
                what: what.to_owned(),
            })
            .collect();
        report
    }

    #[test]
    fn all_kinds_together_and_what_was_done_stand_in_the_tables() {
        let before = page(&report());
        assert!(!before.contains("<td>all</td>") && !before.contains("done to the nodes</h2>"));
        let page = page(&whole_report());
        for cell in ["<td>all</td>", "<td>node-3 killed</td>", ">5.0 s</td>"] {
            assert!(page.contains(cell), "{cell}");
        }
    }

    #[test]
    fn every_place_of_the_template_is_filled() {
        let page = page(&report());
        let (page, _scripts) = page.split_once("<script").unwrap();
        assert!(!page.contains("{{"), "{page}");
        for figure in ["41,500", "12.30 ms", "44.0 µs", "node-2", "zipfian"] {
            assert!(page.contains(figure), "{figure} is missing in {page}");
        }
    }

    #[test]
    fn what_a_server_says_is_text_and_never_markup() {
        let mut report = report();
        report.servers[0].version = "</script><script>alert(1)</script>".to_owned();
        report.warnings = vec!["<b>{{report}}</b> & more".to_owned()];
        let page = page(&report);
        assert!(!page.contains("<script>alert"));
        assert!(page.contains("&lt;b&gt;{{report}}&lt;/b&gt; &amp; more"));
        let (_, json) = page.split_once("id=\"report\">").unwrap();
        let (json, _) = json.split_once("</script>").unwrap();
        let back: Report = serde_json::from_str(json).expect("the report inside is whole");
        assert_eq!(back.servers[0].version, report.servers[0].version);
    }

    #[test]
    fn nothing_is_fetched() {
        let page = page(&report());
        for word in ["src=", "href=", "@import", "url("] {
            assert!(!page.contains(word), "{word} fetches something");
        }
    }

    #[test]
    fn thousands_stand_apart() {
        let numbers = [0.0, 7.0, 999.0, 1_000.0, 1_234_567.4].map(whole);
        assert_eq!(numbers, ["0", "7", "999", "1,000", "1,234,567"]);
    }

    fn chromium() -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        let names = ["chromium", "chromium-browser", "google-chrome"];
        std::env::split_paths(&path)
            .flat_map(|folder| names.map(|name| folder.join(name)))
            .find(|file| file.is_file())
    }

    /// What a browser without network makes of a page; `None` where there is no browser.
    fn drawn(page: &str) -> Option<String> {
        let Some(chromium) = chromium() else {
            skipped!("no chromium here (Debian: apt-get install chromium)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.html");
        std::fs::write(&file, page).unwrap();
        let output = Command::new(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync"])
            .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg(format!("file://{}", file.display()))
            .output()
            .unwrap();
        let dom = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(dom.contains("data-plots="), "{errors}\n{dom}");
        Some(dom)
    }

    #[test]
    fn a_browser_without_network_draws_all_pictures() {
        // Throughput, latencies of all, of reads and of writes, processors, syncs, and the distribution.
        if let Some(dom) = drawn(&page(&whole_report())) {
            assert_eq!(dom.matches("<canvas").count(), 7, "{dom}");
            assert!(dom.contains("data-plots=\"7\""), "{dom}");
            assert!(dom.contains("all operations/s"), "{dom}");
            assert!(dom.contains("node-3 P99"), "{dom}");
        }
    }

    #[test]
    fn a_report_of_an_earlier_version_is_drawn_without_what_it_lacks() {
        if let Some(dom) = drawn(&page(&report())) {
            assert_eq!(dom.matches("<canvas").count(), 4, "{dom}");
            assert_eq!(dom.matches("class=\"empty\"").count(), 2, "{dom}");
            assert!(!dom.contains("all operations/s<"), "{dom}");
        }
    }
}
