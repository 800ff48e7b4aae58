//! The HTTP port: what scrapers and orchestrators see.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use std::io::Write;

use crate::harness::{Cluster, Node, QUICK, block_on, client_of_one, eventually, http_get};

/// The sum over all series of a metric that carry this label; an empty label is carried by all.
/// The sum of a metric's values with this label.
pub(crate) fn metric(text: &str, name: &str, label: &str) -> Option<f64> {
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
    };
    let values = text.lines().filter(is_it);
    let values = values.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum())
}

/// `/health` and `/ready` say 200, everything else 404, and the metrics agree with `stats`.
#[test]
fn metrics_agree_with_stats() {
    let cluster = Cluster::start(3);
    for number in 0..20 {
        let key = format!("key-{number}");
        cluster[number % 3]
            .run(&["put", &key, "value", "-w", "3"])
            .exits(0);
    }
    cluster[0].run(&["get", "key-1"]).exits(0);
    for node in cluster.nodes() {
        for path in ["/health", "/ready"] {
            let page = node.page(path).unwrap();
            assert_eq!(page.status, 200, "{path} of {}: {page:?}", node.id);
        }
        assert_eq!(node.page("/").unwrap().status, 404);
        assert_eq!(node.page("/stats").unwrap().status, 404);
        let named = [
            ("dynakv_store_keys", "", "/total_keys"),
            ("dynakv_store_versions", "", "/total_versions"),
            ("dynakv_store_conflict_keys", "", "/conflict_keys"),
            ("dynakv_quorum", "setting=\"n\"", "/n"),
            ("dynakv_quorum", "setting=\"w\"", "/w"),
            ("dynakv_quorum", "setting=\"r\"", "/r"),
            ("dynakv_ring_version", "", "/ring/version"),
            ("dynakv_ring_nodes", "", "/ring/total_nodes"),
            ("dynakv_ring_virtual_nodes", "", "/ring/total_virtual_nodes"),
            (
                "dynakv_ring_virtual_nodes_per_node",
                "",
                "/ring/virtual_nodes_per_node",
            ),
            ("dynakv_members", "", "/gossip/known_nodes"),
            ("dynakv_members", "state=\"alive\"", "/gossip/alive_nodes"),
        ];
        assert_eq!(
            named.len(),
            numbers_in(&node.stats().unwrap()),
            "every number of the statistics is a metric"
        );
        eventually("the metrics agree with the statistics", || {
            let text = node.page("/metrics")?.body;
            for (name, label, pointer) in named {
                let (metric, stat) = (metric(&text, name, label), node.stat(pointer)?);
                if metric != Some(stat as f64) {
                    return Err(format!("{name}{{{label}}}: {metric:?}, stats say {stat}"));
                }
            }
            Ok(())
        });
        let text = node.page("/metrics").unwrap().body;
        let node_label = format!("node=\"{}\"", node.id);
        assert!(text.contains(&node_label), "every metric names its node");
        assert!(
            text.contains("dynakv_members{") && text.contains("state=\"alive\""),
            "{text}"
        );
        assert!(!text.contains("key-1"), "no label holds a key");
        assert!(!text.contains("quantile="), "histograms, no summaries");
    }
    let puts: f64 = cluster.nodes().iter().map(puts_acknowledged).sum();
    assert!(puts >= 20.0, "{puts} puts were counted");
}

/// The rows of the document of metrics: name, kind, and what it means.
fn documented(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter_map(|row| {
        let (name, rest) = row.split_once("` | ")?;
        let (kind, means) = rest.split_once(" | ")?;
        let name = name.split('{').next()?;
        Some((name, (kind, means.trim_end_matches(" |"))))
    });
    rows.filter(|(name, _)| !name.starts_with('/')).collect()
}

/// Who looks for a metric looks there, and finds it told as the node itself tells it.
#[test]
fn the_document_of_metrics_names_every_metric() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let documented = documented(&document);
    let cluster = Cluster::start(1);
    let page = cluster[0].page("/metrics").unwrap().body;
    let about = |word: &str| {
        let lines = page.lines().filter_map(|line| line.strip_prefix(word));
        let pairs = lines.filter_map(|line| line.split_once(' '));
        pairs.collect::<BTreeMap<&str, &str>>()
    };
    let (kinds, helps) = (about("# TYPE "), about("# HELP "));
    assert!(kinds.len() > 50, "{kinds:?}");
    let mut wrong = Vec::new();
    for (name, kind) in &kinds {
        match documented.get(name) {
            None => wrong.push(format!("{name} is lacking")),
            Some((shown, means)) if shown != kind || !means.starts_with(helps[name]) => {
                wrong.push(format!("{name} is a {kind}: {}", helps[name]));
            }
            Some(_) => {}
        }
    }
    let invented = documented.keys().filter(|name| !kinds.contains_key(*name));
    wrong.extend(invented.map(|name| format!("there is no {name}")));
    assert!(wrong.is_empty(), "docs/metrics.md:\n{}", wrong.join("\n"));
}

#[test]
fn rows_of_the_document_of_metrics_are_read() {
    let text = "| Metric | Kind | Means |\n|---|---|---|\n| `/metrics` | text | x |\n\
                | `dynakv_a{op}` | counter | How many. op: `get`. |\nprose `dynakv_b` | x";
    let expected = [("dynakv_a", ("counter", "How many. op: `get`."))];
    assert_eq!(documented(text), expected.into());
}

fn numbers_in(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Number(_) => 1,
        serde_json::Value::Object(fields) => fields.values().map(numbers_in).sum(),
        _ => 0,
    }
}

fn puts_acknowledged(node: &Node) -> f64 {
    let text = node.page("/metrics").unwrap().body;
    let is_it = |line: &&str| {
        line.starts_with("dynakv_requests_total{")
            && line.contains("op=\"put\"")
            && line.contains("result=\"ok\"")
    };
    let line = text
        .lines()
        .find(is_it)
        .expect("it is there from the first scrape on");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A request that is handed on and fails has its true result at the node that the client asked, and is one
/// failure in the cluster, not two.
#[test]
fn a_failure_at_another_node_is_counted_once_and_by_its_name() {
    let mut cluster = Cluster::start_with(3, QUICK);
    cluster[0].run(&["put", "sealed", "value"]).exits(0);
    cluster[2].kill();
    // From now on nobody hands anything to it.
    for node in &cluster.nodes()[..2] {
        eventually("node-3 is missed", || match node.opinion_of("node-3")? {
            (state, _) if state == "alive" => Err(state),
            _ => Ok(()),
        });
    }
    block_on(async {
        let client = client_of_one(&cluster[0]).await;
        for number in 0..30 {
            let put = client.put(format!("key-{number}"), "value").w(3);
            put.await.unwrap_err();
        }
    });
    let texts: Vec<String> = cluster.nodes()[..2]
        .iter()
        .map(|node| node.page("/metrics").unwrap().body)
        .collect();
    let of = |at: usize, name: &str, label: &str| metric(&texts[at], name, label).unwrap();
    let puts = |result: &str| {
        let labels = format!("op=\"put\",result=\"{result}\"");
        of(0, "dynakv_requests_total", &labels)
    };
    let handed_on = of(0, "dynakv_requests_forwarded_total", "");
    assert!(handed_on > 0.0, "node-1 is not the first owner of all keys");
    assert_eq!(puts("error"), 0.0, "{}", texts[0]);
    assert!(puts("quorum") >= 30.0, "{}", texts[0]);
    let failures = |at| of(at, "dynakv_quorum_failures_total", "");
    assert!(failures(0) > 0.0 && failures(1) > 0.0, "{texts:?}");
    assert_eq!(failures(0) + failures(1), puts("quorum"), "{texts:?}");
}

/// Prometheus' own linter has nothing to say against the metrics.
#[test]
fn promtool_accepts_the_metrics() {
    let mut cluster = Cluster::start(1);
    cluster[0].run(&["put", "key", "value"]).exits(0);
    cluster[0].run(&["get", "key"]).exits(0);
    let text = cluster[0].page("/metrics").unwrap().body;
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "no sample: {line:?}");
    }
    let mut command = Command::new("promtool");
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut promtool = match command.stdout(Stdio::piped()).spawn() {
        Ok(promtool) => promtool,
        Err(error) => {
            skipped!("promtool (part of Prometheus) is not in PATH: {error}");
            return;
        }
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(cluster[0].runs());
}

/// A node whose seeds are silent lives, is not ready, says why, and founds nothing. Once a seed answers
/// it joins that one's cluster.
#[test]
fn a_node_without_an_answering_seed_waits() {
    let root = tempfile::tempdir().unwrap();
    let mut seed = Node::new(root.path(), "seed");
    // Takes connections and never answers: worse than a refusal.
    let silent = TcpListener::bind(("127.0.0.1", seed.port)).unwrap();
    let mut node = Node::new(root.path(), "node").with(&["--seed", &seed.address()]);
    node.start();
    let health_page = eventually("the HTTP port answers", || {
        http_get(node.port + 1000, "/health")
    });
    assert_eq!(health_page.status, 200);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let page = node.page("/ready").unwrap();
    assert_eq!(page.status, 503, "{page:?}");
    assert!(!page.body.trim().is_empty(), "it says why");
    let health = node.run(&["health"]).exits(6);
    assert!(health.text().starts_with("not ready node: "), "{health:?}");
    node.run(&["put", "key", "value"]).exits(1);
    node.run(&["ring"]).exits(1);
    assert!(node.runs(), "it waits, it does not give up");

    drop(silent);
    seed.start();
    seed.wait_ready();
    node.wait_ready();
    assert_eq!(node.page("/ready").unwrap().status, 200);
    for member in [&seed, &node] {
        eventually("both are in one ring", || {
            match member.stat("/ring/total_nodes")? {
                2 => Ok(()),
                other => Err(format!("{other} members")),
            }
        });
    }
}
