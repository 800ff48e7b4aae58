//! Settings: what `serve` would run with, said by `config check` without starting anything; what a setting may be;
//! and what becomes of one that changes, between two starts or while the node runs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use dynakv::settings::{Layer, Range};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::ring_document::RingDocument;
use dynakv_storage::{DirectoryFiles, load_document, save_document};
use rustix::process::Signal;

use crate::harness::{Command, Finished, Node, Process, binary, eventually, free_port};

fn check(root: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    let arguments = [&["config", "check"][..], arguments].concat();
    let mut command = Command::new(arguments).current_dir(root);
    for (name, value) in variables {
        command = command.env(name, value);
    }
    command.run()
}

/// Who looks for a setting looks there: under its names, and with what `config check` says is permitted.
#[test]
fn the_table_of_settings_is_what_config_check_tells() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
    let text = std::fs::read_to_string(path).unwrap();
    let root = tempfile::tempdir().unwrap();
    let document = check(root.path(), &["--id", "a", "--output", "json"], &[]);
    let document = document.exits(0).json();
    let mut lacking = Vec::new();
    for setting in document["settings"].as_array().unwrap() {
        let name = setting["name"].as_str().unwrap();
        let permitted = setting["permitted"].as_str().unwrap();
        let begin = format!("| `{name}` | `DYNAKV_{}` |", name.to_uppercase());
        let row = text.lines().find(|line| line.starts_with(&begin));
        let shown = row.and_then(|row| row.split('|').map(str::trim).nth(5));
        if shown != Some(permitted) {
            lacking.push(format!("{begin} … | {permitted} |: {row:?}"));
        }
    }
    assert!(
        lacking.is_empty(),
        "docs/settings.md:\n{}",
        lacking.join("\n")
    );
}

#[test]
fn every_setting_says_where_it_comes_from() {
    let root = tempfile::tempdir().unwrap();
    let file =
        "# ours\nid = \"node-1\"\nseed = [\"10.0.0.1:8080\"]\nport = 7000\nzone = \"east\"\n";
    std::fs::write(root.path().join("dynakv.toml"), file).unwrap();
    let arguments = ["--config", "dynakv.toml", "--weight", "4", "-w", "1"];
    let variables = [("DYNAKV_ZONE", "west"), ("DYNAKV_NONE", "1")];
    let json = [&arguments[..], &["--output", "json"]].concat();
    let document = check(root.path(), &json, &variables).exits(0).json();
    assert_eq!(document["valid"], true, "{document}");
    let settings = document["settings"].as_array().unwrap();
    let of = |name: &str| {
        let setting = settings.iter().find(|setting| setting["name"] == name);
        let setting = setting.unwrap_or_else(|| panic!("no {name}: {document}"));
        let text = |field: &str| setting[field].as_str().unwrap_or("null").to_owned();
        (text("value"), text("source"), text("origin"))
    };
    let text = |value: &str, source: &str, origin: &str| {
        (value.to_owned(), source.to_owned(), origin.to_owned())
    };
    assert_eq!(of("id"), text("node-1", "file", "dynakv.toml:2"));
    assert_eq!(of("port"), text("7000", "file", "dynakv.toml:4"));
    assert_eq!(of("http_port"), text("8000", "default", "default"));
    assert_eq!(of("zone"), text("west", "variable", "DYNAKV_ZONE"));
    assert_eq!(of("weight"), text("4", "flag", "--weight"));
    assert_eq!(of("w"), text("1", "flag", "-w"));
    assert_eq!(of("n"), text("null", "default", "default"));
    assert_eq!(document["warnings"].as_array().unwrap().len(), 1);
    let plain = check(root.path(), &arguments, &variables).exits(0);
    assert!(
        plain
            .text()
            .contains("zone\twest\tDYNAKV_ZONE\t0 to 64 bytes\n"),
        "{plain:?}"
    );
    plain.says("DYNAKV_NONE is ignored");
    let left = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 1, "nothing was made");
}

/// What `serve` refuses is refused with the same words and the same exit code.
#[test]
fn what_serve_refuses_is_refused_in_the_same_words() {
    let root = tempfile::tempdir().unwrap();
    let files = [
        ("unknown.toml", "id = \"a\"\nprot = 1\n"),
        ("kind.toml", "id = \"a\"\nport = \"eighty\"\n"),
        ("range.toml", "id = \"a\"\nweight = 1000\n"),
        ("broken.toml", "id = \n"),
    ];
    for (name, text) in files {
        std::fs::write(root.path().join(name), text).unwrap();
    }
    let cases: [&[&str]; 7] = [
        &["--config", "unknown.toml"],
        &["--config", "kind.toml"],
        &["--config", "range.toml"],
        &["--config", "broken.toml"],
        &["--config", "missing.toml"],
        &["--id", "a", "-n", "3", "-w", "4"],
        &[],
    ];
    for arguments in cases {
        let checked = check(root.path(), arguments, &[]).exits(2);
        assert!(checked.stdout.is_empty(), "{checked:?}");
        let serve = [&["serve"][..], arguments].concat();
        let served = Command::new(serve).current_dir(root.path()).run().exits(2);
        assert_eq!(checked.stderr, served.stderr, "{arguments:?}");
        assert!(checked.stderr.contains("next: "), "{checked:?}");
    }
    check(root.path(), &["--id", "a"], &[("DYNAKV_PORT", "eighty")])
        .exits(2)
        .says("DYNAKV_PORT=\"eighty\"");
}

/// A value below the bounds of a setting, and one above, as a variable would hold them.
fn outside(range: Range) -> [String; 2] {
    let around = |least: Duration, most: Duration, before: &str| {
        [least.as_nanos() - 1, most.as_nanos() + 1].map(|nanos| format!("{before}{nanos}ns"))
    };
    match range {
        Range::Number(least, most) | Range::Bytes(least, most) => [
            (i128::from(least) - 1).to_string(),
            (i128::from(most) + 1).to_string(),
        ],
        Range::Span(least, most) => around(least, most, ""),
        Range::Syncs(least, most) => around(least, most, "interval:"),
        Range::Text(least, most) => ["x".repeat(least.saturating_sub(1)), "x".repeat(most + 1)],
        Range::Count(_, most) => [String::new(), "a:1,".repeat(most + 1)],
        Range::Form(_) => [String::new(), "256.0.0.0".to_owned()],
    }
}

/// By the table of settings, so that none is forgotten: what is outside is refused before anything is made, and
/// `config check` shows what is permitted.
#[test]
fn every_setting_is_refused_outside_of_its_bounds() {
    let root = tempfile::tempdir().unwrap();
    for (&(name, variable), bounds) in Layer::NAMES.iter().zip(Layer::BOUNDS) {
        for value in outside(bounds.range) {
            let refused = |command: &[&str]| {
                let mut command = Command::new(command).current_dir(root.path());
                if name != "id" {
                    command = command.env("DYNAKV_ID", "node-1");
                }
                let refused = command.env(variable, &value).run().exits(2);
                let is_named = [name, variable]
                    .iter()
                    .any(|it| refused.stderr.contains(it));
                assert!(is_named, "{name}: {refused:?}");
                refused.stderr
            };
            assert_eq!(refused(&["serve"]), refused(&["config", "check"]), "{name}");
        }
    }
    let left = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was made");
    let json = ["--id", "a", "--output", "json"];
    let document = check(root.path(), &json, &[]).exits(0).json();
    let shown = document["settings"].as_array().unwrap();
    for (setting, bounds) in shown.iter().zip(Layer::BOUNDS) {
        assert_eq!(setting["permitted"], bounds.to_string(), "{setting}");
    }
}

/// Memory of nothing is what sled does not start with, and not damage: the store stays where it is.
#[test]
fn a_wrong_setting_leaves_a_healthy_store_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start_ready();
    node.run(&["put", "key", "value"]).exits(0);
    node.stop();
    let before = entries(&node.data_dir());
    for memory in ["0", "255", "65536"] {
        Command::new(["serve", "--id", "node-1"])
            .current_dir(root.path())
            .env("DYNAKV_MEMORY_BYTES", memory)
            .run()
            .exits(2)
            .says("1 MiB to 1 TiB");
        assert_eq!(entries(&node.data_dir()), before);
    }
    node.start_ready();
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "value");
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Runs `serve` and `config check` with the same settings: both refuse them in the same words.
fn both_refuse(root: &Path, arguments: &[&str]) -> Finished {
    let checked = check(root, arguments, &[]).exits(2);
    let serve = [&["serve"][..], arguments].concat();
    let served = Command::new(serve).current_dir(root).run().exits(2);
    assert_eq!(checked.stderr, served.stderr, "{arguments:?}");
    served
}

/// `--server` is a slip for `--seed`: ignored, it would found a second cluster.
#[test]
fn options_of_clients_are_refused_and_nothing_is_founded() {
    let root = tempfile::tempdir().unwrap();
    let first = free_port().to_string();
    let serve = ["serve", "--id", "a", "--port", &*first];
    for more in [&["--server", "127.0.0.1:1"][..], &["--timeout", "9s"]] {
        let refused = Command::new([&serve[..], more].concat());
        let refused = refused.current_dir(root.path()).run().exits(2);
        let refused = refused.says(more[0]).says("next: dynakv serve --help");
        assert_eq!(
            refused.stderr.contains("--seed 127.0.0.1:1"),
            more[0] == "--server",
            "{refused:?}"
        );
    }
    check(root.path(), &["--id", "a", "--server", "127.0.0.1:1"], &[])
        .exits(2)
        .says("--seed 127.0.0.1:1");
    let left = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was founded");
    // The variable is for the other commands of this shell.
    check(
        root.path(),
        &["--id", "a"],
        &[("DYNAKV_SERVERS", "127.0.0.1:1")],
    )
    .exits(0);
}

#[test]
fn a_quorum_beyond_the_cluster_to_be_founded_is_refused_and_nothing_is_founded() {
    let root = tempfile::tempdir().unwrap();
    for arguments in [
        &["--id", "a", "-w", "5"][..],
        &["--id", "a", "-r", "4"],
        &[
            "--id",
            "a",
            "-w",
            "5",
            "--seed",
            "127.0.0.1:1",
            "--bootstrap",
        ],
    ] {
        both_refuse(root.path(), arguments).says("a new cluster keeps 3");
    }
    let left = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was founded");
    // The cluster that it joins may keep five, and with -n it founds one that does.
    check(
        root.path(),
        &["--id", "a", "-w", "5", "--seed", "127.0.0.1:1"],
        &[],
    )
    .exits(0);
    check(root.path(), &["--id", "a", "-n", "5", "-w", "5"], &[]).exits(0);
}

/// Earlier versions founded clusters that wait for more copies than they keep. Their directories are read, and the
/// quorum is all copies.
#[test]
fn a_cluster_that_was_founded_with_too_large_a_quorum_starts_again() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), "node-1");
    node.start_ready();
    node.run(&["put", "key", "value"]).exits(0);
    node.stop();
    {
        let files = DirectoryFiles::open(node.data_dir()).unwrap();
        let ring = load_document(&files, "ring").unwrap().unwrap();
        let mut ring = RingDocument::from_bytes(&ring).unwrap();
        (ring.n, ring.w, ring.r) = (3, 5, 255);
        save_document(&files, "ring", &ring.to_bytes()).unwrap();
    }
    node.start_ready();
    assert_eq!(node.run(&["get", "key"]).exits(0).text(), "value");
    assert_eq!((node.stat("/w"), node.stat("/r")), (Ok(3), Ok(3)));
    node.stop();
    // As it was started then.
    let mut node = Node::new(root.path(), "node-1").with(&["-w", "5"]);
    node.start_ready();
    node.run(&["put", "key", "more"]).exits(0);
    node.stop();
}

/// The ring says where a node's copies are. Settings that say something else end no node, which says what counts and what
/// changes it.
#[test]
fn another_zone_or_weight_at_a_restart_changes_nothing_and_is_said() {
    let root = tempfile::tempdir().unwrap();
    let placed = ["--zone", "east", "--weight", "4"];
    let mut node = Node::new(root.path(), "node-1").with(&placed);
    node.start_ready();
    node.run(&["put", "key", "value"]).exits(0);
    let said = node.process_mut().stderr();
    assert!(
        !said.contains("cluster set"),
        "nothing else is said: {said}"
    );
    node.stop();
    for (other, advice) in [
        (
            &["--zone", "west", "--weight", "4"][..],
            "--weight 4 --zone west",
        ),
        (
            &["--zone", "east", "--weight", "5"],
            "--weight 5 --zone east",
        ),
        (&[], "--weight 1 --zone ''"),
    ] {
        let mut node = Node::new(root.path(), "node-1").with(other);
        node.start_ready();
        let advice = format!("dynakv cluster set node-1 {advice}");
        has(&mut node, &[&advice]).unwrap();
        let ring = node.run(&["ring", "--output", "json"]).exits(0).json();
        let member = &ring["members"][0];
        assert_eq!(
            (&member["zone"], &member["weight"]),
            (&"east".into(), &4.into())
        );
        assert_eq!(node.run(&["get", "key"]).exits(0).text(), "value");
        node.stop();
    }
    let other = ["--id", "node-1", "--cluster", "blue"];
    check(root.path(), &other, &[])
        .exits(2)
        .says("--cluster dynakv");
}

/// SIGHUP takes the log filter of the settings file, names what has changed besides, and ends no node: not while it
/// runs, not over a file that is wrong.
#[test]
fn a_hang_up_reads_the_settings_again_and_ends_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("dynakv.toml");
    let file = |text: &str| std::fs::write(&path, text).unwrap();
    file("log = \"warn\"\n");
    let mut node = Node::new(root.path(), "node-1").with(&["--config", path.to_str().unwrap()]);
    node.start_ready();
    let said = node.process_mut().stderr();
    assert!(
        !said.contains("listening"),
        "the filter of the file: {said}"
    );

    let read_again = "the settings were read again";
    file("log = \"info\"\nconnections_max = 99\n");
    node.process_mut().signal(Signal::HUP);
    eventually("the new filter is taken", || has(&mut node, &[read_again]));
    has(&mut node, &["restart it", "connections_max", "99"]).unwrap();

    file("log = \"error\"\nprot = 1\n");
    node.process_mut().signal(Signal::HUP);
    let wrong = ["nothing changes", "did you mean"];
    eventually("the file is wrong", || has(&mut node, &wrong));

    // Nothing has changed: what is said at the level of the file before is said still.
    file("log = \"info\"\n");
    let times = node.process_mut().stderr().matches(read_again).count();
    node.process_mut().signal(Signal::HUP);
    eventually("the filter is as it was", || {
        let said = node.process_mut().stderr();
        let more = said.matches(read_again).count() > times;
        more.then_some(()).ok_or(said)
    });
    node.run(&["put", "key", "value"]).exits(0);
    node.stop();
}

fn has(node: &mut Node, parts: &[&str]) -> Result<(), String> {
    if !node.runs() {
        panic!("it has ended: {}", node.process_mut().stderr());
    }
    let said = node.process_mut().stderr();
    match parts.iter().find(|part| !said.contains(**part)) {
        Some(part) => Err(format!("not said: {part}: {said}")),
        None => Ok(()),
    }
}

/// Variables are judged by what they hold, by one rule: what Kubernetes says of services is passed over with a
/// warning, and what is empty or no text is no value.
#[test]
fn variables_are_judged_by_their_form() {
    let root = tempfile::tempdir().unwrap();
    let id = ["--id", "a"];
    let service = [
        ("DYNAKV_PORT", "tcp://10.0.0.1:8080"),
        ("DYNAKV_HTTP_PORT", "tcp://10.0.0.1:9080"),
        ("DYNAKV_HTTP_SERVICE_HOST", "10.0.0.1"),
        ("DYNAKV_DATADIR", "/data"),
    ];
    check(root.path(), &id, &service)
        .exits(0)
        .says("DYNAKV_HTTP_PORT=tcp://10.0.0.1:9080 is ignored")
        .says("DYNAKV_HTTP_SERVICE_HOST=10.0.0.1 is ignored")
        .says("did you mean DYNAKV_DATA_DIR?");
    let no_text = OsStr::from_bytes(b"d\xff");
    for variable in [
        "DYNAKV_DATA_DIR",
        "DYNAKV_SEED",
        "DYNAKV_LOG",
        "DYNAKV_CONFIG",
    ] {
        let serve = Command::new(["serve", "--id", "a"]).current_dir(root.path());
        serve.env(variable, "").run().exits(2);
    }
    for variable in ["DYNAKV_ZONE", "DYNAKV_SEED", "DYNAKV_LOG"] {
        let serve = Command::new(["serve", "--id", "a"]).current_dir(root.path());
        let refused = serve.env(variable, no_text).run().exits(2);
        refused.says(variable).says("UTF-8");
    }
    let left = std::fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was made");
}

/// A path is bytes, and what is no text names a directory or a file all the same.
#[test]
fn a_path_that_is_no_text_works() {
    let root = tempfile::tempdir().unwrap();
    let named = |name: &[u8]| root.path().join(OsStr::from_bytes(name));
    let file = named(b"f\xff.toml");
    std::fs::write(&file, "id = \"from-the-file\"\n").unwrap();
    let checked = Command::new(["config", "check"]).env("DYNAKV_CONFIG", &file);
    let checked = checked.run().exits(0);
    assert!(checked.text().contains("from-the-file"), "{checked:?}");

    let ways: [(&[u8], bool); 2] = [(b"v\xff", true), (b"a\xff", false)];
    for (name, is_variable) in ways {
        let mut command = binary();
        if is_variable {
            command.env("DYNAKV_DATA_DIR", OsStr::from_bytes(name));
        } else {
            // Arguments of its own come before those of the harness.
            command
                .args(["serve", "--data-dir"])
                .arg(OsStr::from_bytes(name));
        }
        let port = free_port().to_string();
        let arguments = ["serve", "--id", "a", "--port", &*port];
        let arguments = &arguments[usize::from(!is_variable)..];
        let arguments: Vec<_> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let mut process = Process::start_as(command, "a", root.path(), &arguments, &[]).unwrap();
        let ring = named(name).join("ring");
        eventually("the node lives in the directory that was named", || {
            let ended = process.ended();
            assert!(ended.is_none(), "{ended:?}: {}", process.stderr());
            ring.exists().then_some(()).ok_or_else(|| process.stderr())
        });
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code(), Some(0));
    }
    assert!(!root.path().join("dynakv-data").exists());
}
