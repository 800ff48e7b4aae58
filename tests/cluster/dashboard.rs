//! The dashboard and the rules of `deploy/`, asked of a real Prometheus that scrapes a real cluster.
//!
//! A panel that names a metric which no node has stays empty for ever, and nobody notices until the
//! night when it is needed. So every query of every panel and of every rule is put to a cluster that has
//! had its share of everything: conflicts, refusals, missing quorums, repairs, a node that died.

mod prometheus;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dynakv_client::{Client, ErrorCode};
use serde_json::Value;

use crate::harness::{Cluster, QUICK, block_on, client, client_of_one, eventually};
use prometheus::Prometheus;

/// The load ends by itself, also when nobody tells it to.
const LOAD_MAX: Duration = Duration::from_secs(240);

/// So few that a burst meets the bound.
const IN_FLIGHT_MAX: (&str, &str) = ("DYNAKV_REQUESTS_IN_FLIGHT_MAX", "32");

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files in a directory of `deploy/`.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(deploy().join(directory)).expect("it is in the repository");
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn dashboard() -> Value {
    let text = read(&deploy().join("grafana/dashboards/dynakv.json"));
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("it has panels");
    panels
        .iter()
        .filter(|panel| panel["type"] != "row")
        .collect()
}

/// Title and expression of every query, with Grafana's variables filled in.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in panels(dashboard) {
        let title = panel["title"].as_str().expect("a panel has a title");
        let targets = panel["targets"].as_array().expect("a panel has queries");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let expression = target["expr"].as_str().expect("a query has an expression");
            queries.push((title.to_owned(), filled_in(expression)));
        }
    }
    queries
}

fn filled_in(expression: &str) -> String {
    let filled = expression
        .replace("$__rate_interval", "15s")
        .replace("$job", "dynakv")
        .replace("$node", ".*");
    assert!(!filled.contains('$'), "an unknown variable: {expression}");
    filled
}

/// The metrics and recorded series that an expression names.
fn names(expression: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c| !is_part(c));
    let is_metric = |word: &&str| {
        word.starts_with("dynakv_") || word.starts_with("process_") || word.contains(":dynakv_")
    };
    words.filter(is_metric).map(str::to_owned).collect()
}

fn unknown(expression: &str, known: &BTreeSet<String>) -> Vec<String> {
    names(expression).difference(known).cloned().collect()
}

/// A number at least: an empty answer and one of undefined quotients are both an empty panel.
fn answered(prometheus: &Prometheus, expression: &str) -> Result<(), String> {
    let series = prometheus.query(expression)?;
    match series.iter().any(|(_, value)| !value.is_nan()) {
        true => Ok(()),
        false => Err(format!("{} series, no number", series.len())),
    }
}

/// Everything in `deploy/prometheus`, with the cluster's nodes as targets and a faster pace.
fn configuration(directory: &Path, cluster: &Cluster) {
    for path in files("prometheus/rules") {
        let to = directory.join("rules").join(path.file_name().unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
    let mut text = read(&deploy().join("prometheus/prometheus.yml"));
    let mut put = |from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "{from} in prometheus.yml");
        text = text.replace(from, to);
    };
    put("scrape_interval: 5s", "scrape_interval: 1s");
    put("evaluation_interval: 5s", "evaluation_interval: 1s");
    for node in cluster.nodes() {
        let target = format!("127.0.0.1:{}", node.port + 1000);
        put(&format!("{}:9080", node.id), &target);
    }
    fs::write(directory.join("prometheus.yml"), text).unwrap();
}

/// Requests of all kinds, one after the other, until dropped.
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(seeds: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || block_on(load(&seeds, &stopped)));
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the load failed");
        }
    }
}

async fn load(seeds: &[String], stop: &AtomicBool) {
    let client = client(seeds).await;
    let begun = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < LOAD_MAX {
        number += 1;
        let key = format!("key-{}", number % 100);
        // Some fail while nodes come and go: that is what is looked at.
        let _ = client.put(&key, vec![b'x'; number % 2000]).await;
        let _ = client.get(&key).await;
        let _ = client.get("cart").await;
        if number % 10 == 0 {
            let _ = client.delete(&key).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Two writes from one context: siblings, which every later read of the load finds.
async fn make_conflict(client: &Client) {
    let context = client.get("cart").await.unwrap().context;
    for item in ["milk", "bread"] {
        let put = client.put("cart", item).context(context.clone());
        put.await.unwrap();
    }
    assert_eq!(client.get("cart").r(3).await.unwrap().siblings.len(), 2);
}

/// More at once than the node takes, until it has refused some.
fn make_refusals(cluster: &Cluster) {
    eventually("a burst meets the bound", || {
        block_on(async {
            let client = client_of_one(&cluster[0]).await;
            let put = |number: usize| {
                let client = client.clone();
                tokio::spawn(async move {
                    let value = vec![0; 10_000];
                    client.put(format!("burst-{number}"), value).await.is_ok()
                })
            };
            let puts: Vec<_> = (0..300).map(put).collect();
            for put in puts {
                put.await.unwrap();
            }
        });
        let text = cluster[0].page("/metrics")?.body;
        let line = text
            .lines()
            .find(|line| line.starts_with("dynakv_requests_refused_total{"));
        match line {
            Some(line) if !line.ends_with(" 0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// With a node missing: writes that it lacks, and one that cannot have its quorum.
async fn write_without_one(cluster: &Cluster) {
    let client = client_of_one(&cluster[0]).await;
    for number in 0..50 {
        client.put(format!("missed-{number}"), "v").await.unwrap();
    }
    let refused = client.put("all", "value").w(3).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Some(ErrorCode::QuorumUnavailable),
        "{refused}"
    );
}

/// Every panel shows something and every rule can be evaluated, over all that can happen to a cluster.
#[test]
fn every_panel_and_every_rule_finds_its_metrics() {
    let settings = [QUICK, &[IN_FLIGHT_MAX]].concat();
    let mut cluster = Cluster::start_with(3, &settings);
    let directory = tempfile::tempdir().unwrap();
    configuration(directory.path(), &cluster);
    let Some(prometheus) = Prometheus::start(directory.path()) else {
        skipped!("prometheus is not in PATH (on Debian: apt-get install prometheus)");
        return;
    };
    let _load = Load::start(cluster.addresses());
    block_on(async {
        let client = client(&cluster.addresses()).await;
        make_conflict(&client).await;
        let brief = client.put("brief", "v").ttl(Duration::from_millis(1));
        brief.await.unwrap();
    });
    make_refusals(&cluster);
    let all_seen = "count(dynakv_build_info) == 3";
    eventually(all_seen, || answered(&prometheus, all_seen));

    cluster[2].kill();
    block_on(write_without_one(&cluster));
    cluster[2].start();
    cluster.wait_whole();
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        for number in 0..50 {
            let fetched = client.get(format!("missed-{number}")).r(3).await.unwrap();
            assert_eq!(fetched.siblings.len(), 1, "missed-{number}");
        }
    });
    // It must not go again before the first one was asked what it owes: hints are looked at every half second.
    eventually("hints are handed over", || {
        match cluster[0].metric("dynakv_hints_handed_over_total", "")? {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        }
    });
    cluster[2].kill();

    // What happened is counted, and has been scraped.
    for happened in [
        "sum(dynakv_conflicts_total) > 0",
        "sum(dynakv_read_repairs_total) > 0",
        "sum(dynakv_hints_kept_total{kind=\"reminder\"}) > 0",
        "sum(dynakv_hints_handed_over_total) > 0",
        "sum(dynakv_quorum_failures_total) > 0",
        "sum(dynakv_requests_refused_total) > 0",
        "sum(dynakv_requests_forwarded_total) > 0",
        "sum(dynakv_requests_total{op=\"delete\",result=\"ok\"}) > 0",
        "sum(dynakv_requests_total{op=\"put\",result=\"quorum\"}) > 0",
        "max(dynakv_store_conflict_keys) > 0",
        "max(dynakv_members{state=~\"suspected|dead\"}) > 0",
        "sum(up{job=\"dynakv\"}) == 2",
    ] {
        eventually(happened, || answered(&prometheus, happened));
    }

    let recorded = prometheus.rules().unwrap();
    let recorded = recorded.iter().filter(|rule| rule["type"] == "recording");
    let recorded: Vec<_> = recorded.filter_map(|rule| rule["name"].as_str()).collect();
    assert!(recorded.len() >= 5, "{recorded:?}");
    for name in &recorded {
        eventually(name, || answered(&prometheus, name));
    }
    let known = prometheus.label_values("__name__", None).unwrap();

    // The checks below can fail.
    let misspelt = filled_in("sum(rate(dynakv_no_such_total{job=\"$job\"}[$__rate_interval]))");
    assert_eq!(unknown(&misspelt, &known), ["dynakv_no_such_total"]);
    answered(&prometheus, &misspelt).unwrap_err();
    answered(&prometheus, "dynakv_members{state=\"missing\"}").unwrap_err();

    let dashboard = dashboard();
    for (title, expression) in queries(&dashboard) {
        let unknown = unknown(&expression, &known);
        assert!(unknown.is_empty(), "{title}: {expression}: no {unknown:?}");
        eventually(&format!("{title}: {expression}"), || {
            answered(&prometheus, &expression)
        });
    }
    check_variables(&dashboard, &prometheus);
    check_rules(&prometheus, &known);
}

/// The dashboard's drop-down lists are those of the cluster.
fn check_variables(dashboard: &Value, prometheus: &Prometheus) {
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let mut found = Vec::new();
    for variable in variables
        .iter()
        .filter(|variable| variable["type"] == "query")
    {
        let query = variable["query"]["query"].as_str().unwrap();
        let inner = query.strip_prefix("label_values(").unwrap();
        let (selector, label) = inner
            .trim_end_matches(')')
            .rsplit_once(", ")
            .unwrap_or_else(|| panic!("{query}"));
        let values = prometheus.label_values(label, Some(&filled_in(selector)));
        found.push((variable["name"].as_str().unwrap(), values.unwrap()));
    }
    let set = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    let expected = [
        ("job", set(&["dynakv"])),
        ("node", set(&["node-1", "node-2", "node-3"])),
    ];
    assert_eq!(found, expected);
}

/// Every rule has been evaluated without an error, names only metrics that exist, and those that this
/// cluster gives reason for are about to fire.
fn check_rules(prometheus: &Prometheus, known: &BTreeSet<String>) {
    let rules = eventually("all rules have been evaluated", || {
        let rules = prometheus.rules()?;
        match rules.iter().find(|rule| rule["health"] != "ok") {
            None => Ok(rules),
            Some(rule) => Err(rule.to_string()),
        }
    });
    let mut alerts = 0;
    for rule in &rules {
        let expression = rule["query"].as_str().unwrap();
        let unknown = unknown(expression, known);
        assert!(unknown.is_empty(), "{expression}: no {unknown:?}");
        alerts += usize::from(rule["type"] == "alerting");
    }
    assert!(alerts >= 15, "{alerts} alerts");
    for alert in [
        "DynakvNodeDown",
        "DynakvMemberNotAlive",
        "DynakvQuorumFailures",
    ] {
        eventually(&format!("{alert} is about to fire"), || {
            let rules = prometheus.rules()?;
            let rule = rules.into_iter().find(|rule| rule["name"] == alert);
            match rule {
                Some(rule) if rule["state"] != "inactive" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

/// What Grafana needs to load the dashboard, and what keeps it readable there.
#[test]
fn the_dashboard_is_well_formed() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "dynakv-overview", "links point at it");
    assert_eq!(dashboard["id"], Value::Null, "Grafana gives it its own");
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = all
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), all.len(), "each panel has its own id");
    let mut taken = BTreeSet::new();
    for panel in all {
        let title = panel["title"].as_str().unwrap();
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} is beside the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies over another panel");
        }
    }
    for panel in panels(&dashboard) {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{target}");
        }
    }
    assert!(queries(&dashboard).len() >= 30);
}

/// Prometheus' own checks of the configuration and the rules, and the tests of the rules.
#[test]
fn promtool_accepts_configuration_and_rules() {
    let tests = files("prometheus/tests");
    let rules = files("prometheus/rules");
    let all_tests: String = tests.iter().map(|path| read(path)).collect();
    for rule in &rules {
        for line in read(rule).lines() {
            if let Some(alert) = line.trim().strip_prefix("- alert: ") {
                let named = all_tests.matches(alert).count();
                assert!(
                    named > 0,
                    "{alert} is in no test of deploy/prometheus/tests"
                );
            }
        }
    }
    let config = vec![deploy().join("prometheus/prometheus.yml")];
    for (arguments, files) in [
        (["check", "config"], config),
        (["check", "rules"], rules),
        (["test", "rules"], tests),
    ] {
        let output = match Command::new("promtool")
            .args(arguments)
            .args(&files)
            .output()
        {
            Ok(output) => output,
            Err(error) => {
                skipped!("promtool (part of Prometheus) is not in PATH: {error}");
                return;
            }
        };
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        assert!(said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
}
