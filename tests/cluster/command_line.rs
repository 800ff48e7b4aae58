//! What is typed and what is printed to be typed: servers that are down, keys of any bytes, the wrong port.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

use serde_json::Value;

use crate::harness::{Cluster, Command, Finished, dynakv, free_port, http_get, in_shell};

/// Keys that a shell, a terminal or an option parser could take for something else, with their base64.
const KEYS: [(&[u8], &str); 16] = [
    (b"plain", "cGxhaW4="),
    (b"two words", "dHdvIHdvcmRz"),
    (b"it's", "aXQncw=="),
    (b"say \"hi\"", "c2F5ICJoaSI="),
    (b"$HOME `id` $(id)", "JEhPTUUgYGlkYCAkKGlkKQ=="),
    (b"a\\b", "YVxi"),
    (b"!! !x", "ISEgIXg="),
    (b"~", "fg=="),
    (b"*", "Kg=="),
    (b"a;b|c&d>e<f#g", "YTtifGMmZD5lPGYjZw=="),
    (b"-r", "LXI="),
    (b"--key", "LS1rZXk="),
    (b"new\nline", "bmV3CmxpbmU="),
    (b"\x1b[2J", "G1sySg=="),
    ("schön 雪".as_bytes(), "c2Now7ZuIOmbqg=="),
    (b"\xff\0\xfe", "/wD+"),
];

/// What a person pastes, run by a shell.
fn pasted(command: &str) -> Output {
    in_shell(command).output().unwrap()
}

/// The command after `next: `, which is on one line.
#[track_caller]
fn next_of(said: &str) -> &str {
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("next: "))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0]
}

/// A server that is down, one that takes connections and says nothing, and then one that runs: every command gets
/// its answer from that one, and none of them needs it to be named first.
#[test]
fn every_command_goes_on_to_the_next_server() {
    let cluster = Cluster::start(1);
    let port = cluster[0].port;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let refusing = free_port();
    let servers = format!("127.0.0.1:{refusing},{silent},127.0.0.1:{port}");
    let run = |words: &[&str], input: &[u8]| -> Finished {
        let arguments = [&["--server", &*servers][..], words].concat();
        let flag = Command::new(arguments).input(input).run();
        let variable = Command::new(words)
            .env("DYNAKV_SERVERS", &servers)
            .input(input)
            .run();
        assert_eq!(flag.code, variable.code, "{flag:?} {variable:?}");
        variable
    };
    run(&["put", "k", "v"], b"").exits(0);
    assert_eq!(run(&["get", "k"], b"").exits(0).text(), "v");
    for command in [
        &["stats"][..],
        &["health"],
        &["status"],
        &["ring"],
        &["repair"],
    ] {
        run(command, b"").exits(0);
    }
    let explained = run(&["explain", "k", "--output", "table"], b"").exits(0);
    let next = format!("dynakv --server 127.0.0.1:{port} get k");
    assert_eq!(next_of(explained.text()), next);
    let exported = run(&["export"], b"").exits(0).stdout;
    run(&["import"], &exported).exits(0);
    let exported = run(&["export", "--all"], b"").exits(0).stdout;
    run(&["import"], &exported).exits(0);
    run(&["delete", "k"], b"").exits(0);
    // Little time is shared, too.
    run(&["health", "--timeout", "2s"], b"").exits(0);
    // What fails names the one that was asked, and what none answers names all.
    run(&["get", "k", "-r", "9"], b"").exits(2);
    let other = free_port();
    let none = format!("127.0.0.1:{refusing},127.0.0.1:{other}");
    dynakv(["--server", &none, "stats"])
        .exits(1)
        .says(&format!("127.0.0.1:{refusing}"))
        .says(&format!("127.0.0.1:{other}"));
}

/// Whatever a key holds, the command that is printed does what it says when it is pasted into a shell.
#[test]
fn printed_commands_can_be_pasted() {
    let cluster = Cluster::start(1);
    let node = &cluster[0];
    let server = format!("127.0.0.1:{}", node.port);
    for (key, base64) in KEYS {
        let run = |words: &[&str]| {
            let words = [
                &["--server", &*server][..],
                words,
                &["--key-base64", base64],
            ]
            .concat();
            dynakv(words)
        };
        // Where it can be typed at all, the key itself means the same.
        let typed = (!key.contains(&0)).then(|| {
            let words = ["--server", &server, "get", "--"].map(OsStr::new);
            dynakv(words.into_iter().chain([OsStr::from_bytes(key)]))
        });
        let absent = run(&["explain", "--output", "table"]).exits(3);
        let next = next_of(absent.text()).replace("VALUE", "first");
        let put = pasted(&next);
        assert!(put.status.success(), "{next}: {put:?}");
        assert!(typed.is_none_or(|typed| typed.code == Some(3)));
        let document = run(&["get", "--output", "json"]).exits(0).json();
        assert_eq!(document["siblings"][0]["value"], "first");
        match std::str::from_utf8(key) {
            Ok(text) => {
                assert_eq!(document["key"], text);
                assert_eq!(document.get("key_encoding"), None);
            }
            Err(_) => {
                assert_eq!(document["key"], base64);
                assert_eq!(document["key_encoding"], "base64");
            }
        }
        let context = document["context"].as_str().unwrap();
        for value in ["one", "two"] {
            run(&["put", value, "--context", context]).exits(0);
        }
        let conflict = run(&["get"]).exits(5);
        let next = next_of(&conflict.stderr).replace("MERGED", "merged");
        let put = pasted(&next);
        assert!(put.status.success(), "{next}: {put:?}");
        let explained = run(&["explain", "--output", "json"]).exits(0).json();
        let get = pasted(explained["next"].as_str().unwrap());
        assert_eq!(get.stdout, b"merged", "{explained} {get:?}");
        if !key.contains(&0) {
            let words = ["--server", &server, "get", "--"].map(OsStr::new);
            let typed = dynakv(words.into_iter().chain([OsStr::from_bytes(key)]));
            assert_eq!(typed.exits(0).text(), "merged");
        }
        // It is not locked, which the node finds out for the same key.
        run(&["repair", "--accept-loss"]).exits(2).says(" --yes");
        let repair = run(&["repair", "--accept-loss"]);
        let refused = pasted(next_of(&repair.stderr));
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.contains("the key is not locked"), "{refused}");
        run(&["delete"]).exits(0);
        run(&["get"]).exits(3).says("not found");
    }
}

/// Values that conflict are shown, not poured out.
#[test]
fn conflicts_print_a_line_for_each_value() {
    let cluster = Cluster::start(1);
    let node = &cluster[0];
    let context = node.run(&["get", "k", "--output", "json"]).exits(3).json();
    let context = context["context"].as_str().unwrap().to_owned();
    for letter in ["a\n", "b\n"] {
        let server = format!("127.0.0.1:{}", node.port);
        let words = ["--server", &server, "put", "k", "-", "--context", &context];
        let value = letter.repeat(500_000);
        Command::new(words).input(value).run().exits(0);
    }
    let conflict = node.run(&["get", "k"]).exits(5);
    assert!(conflict.stdout.is_empty());
    assert_eq!(conflict.stderr.lines().count(), 5, "{}", conflict.stderr);
    assert!(conflict.stderr.len() < 2000, "{}", conflict.stderr);
    conflict.says("977 KiB");
}

/// Each port knows the other.
#[test]
fn the_wrong_port_names_the_right_one() {
    let cluster = Cluster::start(1);
    let port = cluster[0].port;
    let http_port = port + 1000;
    for path in ["/metrics", "/"] {
        let page = http_get(port, path).unwrap();
        assert_eq!(page.status, 400, "{page:?}");
        assert!(page.body.contains(&http_port.to_string()), "{page:?}");
    }
    for command in [&["status"][..], &["get", "k"], &["put", "k", "v"]] {
        let server = format!("127.0.0.1:{http_port}");
        let refused = dynakv([&["--server", &*server], command].concat()).exits(1);
        let refused = refused.says("is the HTTP port of a dynakv node");
        let next = next_of(&refused.stderr);
        assert_eq!(next, format!("dynakv --server 127.0.0.1:{port} status"));
        assert!(pasted(next).status.success());
    }
    // With more servers it is passed over.
    let both = format!("127.0.0.1:{http_port},127.0.0.1:{port}");
    let health = dynakv(["--server", &both, "health", "--output", "json"]).exits(0);
    let health: Value = health.json();
    assert_eq!(health["ready"], true);
}
