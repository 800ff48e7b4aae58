//! `config check`: what `serve` would run with, said without starting anything.

use crate::harness::{Command, Finished};

fn check(root: &std::path::Path, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    let arguments = [&["config", "check"][..], arguments].concat();
    let mut command = Command::new(arguments).current_dir(root);
    for (name, value) in variables {
        command = command.env(name, value);
    }
    command.run()
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
        plain.text().contains("zone\twest\tDYNAKV_ZONE\n"),
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
