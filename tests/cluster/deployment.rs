//! The files of `deploy/`, held against the program that they start: a flag or a setting that is gone
//! must not stay in them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dynakv::config::Config;
use dynakv::settings::{self, Layer};

use crate::harness::{Command, Node, dynakv, eventually, free_ports};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The JSON list of texts behind a word: how commands are written in all of these files.
fn list_after(line: &str, word: &str) -> Option<Vec<String>> {
    let list = line.trim().strip_prefix(word)?.trim();
    list.starts_with('[')
        .then(|| match serde_json::from_str(list) {
            Ok(list) => list,
            Err(error) => panic!("{error}: {line}"),
        })
}

/// The commands of the nodes in the compose file, without the program's name.
fn compose_commands() -> Vec<Vec<String>> {
    let text = read("deploy/compose.yaml");
    let commands = text
        .lines()
        .filter_map(|line| list_after(line, "command:"))
        .filter(|command| command[0] == "serve");
    commands.collect()
}

/// Every command line that starts `dynakv`, without the program's name.
fn all_commands() -> Vec<Vec<String>> {
    let mut commands = compose_commands();
    let checks = read("deploy/compose.yaml") + &read("deploy/Dockerfile");
    for line in checks.lines() {
        let check = list_after(line, "test:").or_else(|| list_after(line, "CMD"));
        if let Some(mut check) = check {
            check.retain(|word| word != "CMD");
            if check[0] == "dynakv" {
                check.remove(0);
            } else if check[0] != "serve" {
                continue;
            }
            commands.push(check);
        }
    }
    for line in read("deploy/systemd/dynakv.service").lines() {
        if let Some(command) = line.strip_prefix("ExecStart=") {
            let words = command.split_whitespace().skip(1);
            commands.push(words.map(str::to_owned).collect());
        }
    }
    commands
}

/// Whether the program knows these flags. It reads them up to `--help`, and then does nothing.
fn is_understood(command: &[String]) -> Result<(), String> {
    let help = ["--help".to_owned()];
    let finished = dynakv(command.iter().chain(&help));
    match finished.code {
        Some(0) => Ok(()),
        _ => Err(format!("{finished:?}")),
    }
}

/// Image, compose file and unit start the program with flags that it has.
#[test]
fn every_command_of_the_deployment_is_understood() {
    let commands = all_commands();
    let of = |name: &str| {
        commands
            .iter()
            .filter(|c| c.iter().any(|w| w == name))
            .count()
    };
    // Three nodes, the unit and the image; the checks of image and compose file.
    assert_eq!((of("serve"), of("health")), (5, 2), "{commands:?}");
    for command in &commands {
        is_understood(command).unwrap();
    }
    let wrong = ["serve", "--idd", "node-1"].map(str::to_owned);
    is_understood(&wrong).unwrap_err();
}

/// The image sets only variables that are settings.
#[test]
fn every_variable_of_the_image_is_a_setting() {
    let text = read("deploy/Dockerfile");
    let words = text.lines().filter(|line| !line.starts_with('#'));
    let words = words.flat_map(str::split_whitespace);
    let variables = words.filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        name.starts_with("DYNAKV_")
            .then_some((name.to_owned(), value.to_owned()))
    });
    let variables: Vec<_> = variables.collect();
    assert!(variables.len() >= 3, "{variables:?}");
    let (layer, warnings) = settings::read_environment(variables).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(layer.http_host, Some(IpAddr::from([0, 0, 0, 0])));
}

/// The nodes of the compose file are one cluster, started as they are there but for names and addresses.
#[test]
fn the_nodes_of_the_compose_file_are_one_cluster() {
    let commands = compose_commands();
    let root = tempfile::tempdir().unwrap();
    // At most as many nodes as a row of ports holds.
    let first_port = free_ports(commands.len() as u16);
    let port_of = |at: usize| first_port + at as u16;
    let mut nodes = Vec::new();
    for (at, command) in commands.iter().enumerate() {
        let [serve, flag, id, rest @ ..] = &command[..] else {
            panic!("{command:?}");
        };
        assert_eq!((&**serve, &**flag), ("serve", "--id"), "{command:?}");
        assert_eq!(*id, format!("node-{}", at + 1));
        let local = |word: &String| {
            let mut word = word.replace("0.0.0.0", "127.0.0.1");
            for other in 0..commands.len() {
                let address = format!("127.0.0.1:{}", port_of(other));
                word = word.replace(&format!("node-{}:8080", other + 1), &address);
            }
            word
        };
        let rest: Vec<_> = rest.iter().map(local).collect();
        let rest: Vec<_> = rest.iter().map(String::as_str).collect();
        let mut node = Node::at_port(root.path(), id, port_of(at)).with(&rest);
        node.start();
        nodes.push(node);
    }
    for node in &mut nodes {
        node.wait_ready();
        eventually("all are members", || {
            match node.stat("/gossip/alive_nodes")? {
                3 => Ok(()),
                fewer => Err(format!("{fewer} are alive")),
            }
        });
    }
    nodes[0].run(&["put", "greeting", "hello"]).exits(0);
    let got = nodes[2].run(&["get", "greeting"]).exits(0);
    assert_eq!(got.text(), "hello");
}

/// The example of a settings file is one, names every setting, and shows the defaults as they are.
#[test]
fn the_example_of_a_settings_file_is_complete_and_true() {
    let path = repository().join("deploy/dynakv.toml");
    let as_shipped = settings::check(settings::read_file(&path).unwrap().0).unwrap();
    let data_dir = PathBuf::from("/var/lib/dynakv");
    let defaults = || Config::new("node-1".parse().unwrap());
    let shipped = Config {
        data_dir: data_dir.clone(),
        ..defaults()
    };
    assert_eq!(as_shipped, shipped);

    let is_setting = |line: &str| line.contains(" = ") && line.starts_with(char::is_lowercase);
    let text = read("deploy/dynakv.toml");
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if is_setting(setting) => setting,
        _ => line,
    });
    let all: Vec<_> = lines.collect();
    let layer: Layer = toml::from_str(&all.join("\n")).unwrap();
    let shown = Config {
        // What has no default, or one that follows from another setting.
        advertise: Some("10.0.0.1:8080".to_owned()),
        http_port: Some(9080),
        seeds: vec!["10.0.0.2:8080".to_owned(), "10.0.0.3:8080".to_owned()],
        data_dir,
        n: Some(3),
        w: Some(2),
        r: Some(2),
        zone: "east".to_owned(),
        disk_reserve_bytes: Some(1024 * 1024 * 1024),
        ..defaults()
    };
    assert_eq!(settings::check(layer).unwrap(), shown);

    let known: BTreeSet<_> = Layer::NAMES.iter().map(|(name, _)| *name).collect();
    let named = all.iter().filter(|line| is_setting(line));
    let named: BTreeSet<_> = named.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(named, known);
}

/// The unit's settings file is accepted by the program itself, too: it starts with it, from a directory
/// that it may write to.
#[test]
fn a_node_starts_from_the_example() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("dynakv.toml");
    std::fs::write(&path, read("deploy/dynakv.toml")).unwrap();
    let data = root.path().join("data");
    let mut node = Node::new(root.path(), "node-1").with(&[
        "--config",
        path.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    node.start();
    node.wait_ready();
    assert!(node.terminate().success());

    let misspelt = read("deploy/dynakv.toml").replace("#zone", "zones");
    std::fs::write(&path, misspelt).unwrap();
    let refused = Command::new(["serve", "--config", path.to_str().unwrap()]).run();
    refused.exits(2).says("zones");
}

/// The builder gets every crate of the workspace, and a compiler that is new enough for them.
#[test]
fn the_image_can_build_the_workspace() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let ignored = read(".dockerignore");
    let sent: BTreeSet<_> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members = members.iter().filter_map(toml::Value::as_str);
    for needed in members.chain(["Cargo.toml", "Cargo.lock", "src"]) {
        assert!(
            sent.contains(needed),
            "{needed} is kept from the builder by .dockerignore"
        );
    }
    let version = |text: &str| -> Vec<u32> {
        let numbers = text.trim().split('.').map(str::parse);
        numbers.collect::<Result<_, _>>().unwrap()
    };
    let least = manifest["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap();
    let dockerfile = read("deploy/Dockerfile");
    let used = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("ARG RUST_VERSION="));
    assert!(
        version(used.unwrap()) >= version(least),
        "{used:?}, {least} is needed"
    );
}
