//! What the README and the document of commands promise to whoever types them.

use serde_json::json;

use crate::harness::{Cluster, Command, dynakv};

/// The largest value by default.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Three nodes, started with the documented commands and nothing else, are one cluster: what is written
/// through one is read through another, byte for byte, and every command shows that cluster.
#[test]
fn three_nodes_serve_as_documented() {
    let cluster = Cluster::start(3);
    let (first, second, third) = (&cluster[0], &cluster[1], &cluster[2]);

    let alice = r#"{"name":"Alice","age":30}"#;
    let put = Command::new(["put", "user:1", alice]).env("DYNAKV_SERVERS", first.address());
    let put = put.run().exits(0);
    assert!(put.stdout.is_empty(), "a put prints nothing: {put:?}");
    let got = third.run(&["get", "user:1"]).exits(0);
    assert_eq!(got.text(), alice, "exactly the bytes, without a newline");
    second.run(&["delete", "user:1"]).exits(0);
    let gone = third.run(&["get", "user:1"]).exits(3);
    assert!(gone.stdout.is_empty(), "{gone:?}");
    first.run(&["delete", "never-there"]).exits(0);

    let mut random = fastrand::Rng::with_seed(1);
    let large: Vec<u8> = (0..VALUE_BYTES_MAX).map(|_| random.u8(..)).collect();
    second
        .command(&["put", "large", "-"])
        .input(large.clone())
        .run()
        .exits(0);
    let got = first.run(&["get", "large"]).exits(0);
    assert!(
        got.stdout == large,
        "1 MiB of random bytes comes back as it was"
    );
    third.command(&["put", "empty", "-"]).run().exits(0);
    assert_eq!(first.run(&["get", "empty"]).exits(0).stdout, b"");

    let too_large = vec![0; 5 * VALUE_BYTES_MAX];
    let refused = first.command(&["put", "huge", "-"]).input(too_large).run();
    refused.exits(1).says("5242880 bytes").says("1048576");
    first.run(&["get", "huge"]).exits(3);
}

/// `stats`, `ring`, `status` and `health` of a fresh cluster have exactly the documented form.
#[test]
fn the_commands_show_the_cluster() {
    let cluster = Cluster::start(3);
    for node in cluster.nodes() {
        let stats = node.run(&["stats", "--output", "json"]).exits(0).json();
        let version = stats["ring"]["version"].as_u64().unwrap_or_default();
        assert!(version >= 1, "{stats}");
        let expected = json!({
            "node_id": node.id,
            "address": node.address(),
            "total_keys": 0,
            "total_versions": 0,
            "conflict_keys": 0,
            "n": 3,
            "w": 2,
            "r": 2,
            "ring": {
                "version": version,
                "total_nodes": 3,
                "total_virtual_nodes": 450,
                "virtual_nodes_per_node": 150,
            },
            "gossip": { "known_nodes": 3, "alive_nodes": 3 },
        });
        assert_eq!(stats, expected);

        let ring = node.run(&["--output", "json", "ring"]).exits(0).json();
        let ids: Vec<_> = ring["members"].as_array().into_iter().flatten().collect();
        let ids: Vec<_> = ids.iter().map(|member| member["id"].as_str()).collect();
        assert_eq!(
            ids,
            [Some("node-1"), Some("node-2"), Some("node-3")],
            "{ring}"
        );
        let table = node.run(&["--output", "table", "ring"]).exits(0);
        assert!(
            table.text().contains("3 nodes, 450 virtual nodes"),
            "{table:?}"
        );

        let status = node.run(&["--output", "json", "status"]).exits(0).json();
        assert_eq!(status["verdict"], "healthy", "{status}");
        let plain = node.run(&["status"]).exits(0);
        assert!(
            plain.text().starts_with("healthy\n"),
            "the verdict comes first: {plain:?}"
        );
        let health = node.run(&["health"]).exits(0);
        assert_eq!(health.text(), format!("ok {}\n", node.id));
    }
}

/// Whoever reads the document of commands knows of every command that there is.
#[test]
fn every_command_stands_in_the_document_of_commands() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    let document = std::fs::read_to_string(path).unwrap();
    let help = dynakv(["--help"]).exits(0);
    let help = help.text();
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.trim().is_empty());
    let names: Vec<&str> = commands
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.contains(&"repair") && names.len() > 10, "{help}");
    let is_named = |name: &str| {
        let forms = [
            format!("`{name}`"),
            format!("`{name} "),
            format!("dynakv {name}"),
        ];
        forms.iter().any(|form| document.contains(form))
    };
    let lacking: Vec<&str> = names.into_iter().filter(|name| !is_named(name)).collect();
    assert!(lacking.is_empty(), "docs/cli.md lacks {lacking:?}");
}
