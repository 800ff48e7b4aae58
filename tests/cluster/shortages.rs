//! A node that lacks something when it starts: it names that, and either starts or refuses; its store is as it
//! was, is never set aside, and serves all its data once the cause is gone.
//!
//! Some of these need root, or a tool; without it the test says so and passes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::full_disk::SmallDisk;
use crate::harness::{Cluster, Node, QUICK, dynakv, eventually};

const KEYS: usize = 30;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Three nodes with some keys; the third is stopped. Two others have its data, so that nothing but the truth
/// keeps it from beginning anew.
fn cluster() -> Cluster {
    let mut cluster = Cluster::start_with(3, QUICK);
    for number in 0..KEYS {
        cluster[number % 3]
            .run(&["put", &key(number), "value", "-w", "3"])
            .exits(0);
    }
    cluster[2].stop();
    // So that what is in its store is in sled, too.
    cluster[2].start_ready();
    cluster[2].stop();
    cluster
}

/// Every file below a directory, with its content.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

fn set_aside(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.data_dir()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with("store.damaged-"))
        .collect()
}

/// The cause is gone: all is there, under a store that was never set aside, and nothing is rebuilt.
#[track_caller]
fn starts_whole(cluster: &mut Cluster) {
    if !cluster[2].runs() {
        cluster[2].start();
    }
    cluster[2].wait_ready();
    assert_eq!(set_aside(&cluster[2]), Vec::<String>::new());
    cluster.wait_healthy();
    assert_eq!(rebuilding(cluster), Some(0));
    // From its own store alone.
    cluster[0].kill();
    cluster[1].kill();
    for number in 0..KEYS {
        let got = cluster[2].run(&["get", &key(number), "-r", "1"]).exits(0);
        assert_eq!(got.text(), "value", "{}", key(number));
    }
}

/// How many segments the third node is known to rebuild.
fn rebuilding(cluster: &Cluster) -> Option<u64> {
    let status = cluster[0].run(&["status", "--output", "json"]).json();
    let members = status["members"].as_array()?;
    let member = members.iter().find(|member| member["id"] == "node-3")?;
    member["rebuilding_segments"].as_u64()
}

/// It refuses to start, says why, and has touched nothing.
#[track_caller]
fn refuses(node: &mut Node, before: &BTreeMap<PathBuf, Vec<u8>>, why: &[&str]) {
    node.start();
    let (code, log) = node.ends_by_itself();
    assert!(matches!(code, Some(1 | 2)), "{code:?}: {log}");
    assert!(!log.contains("damaged"), "{log}");
    assert!(why.iter().any(|why| log.contains(why)), "{why:?}: {log}");
    assert!(*before == contents(&node.data_dir()), "touched: {log}");
}

/// As a start leaves it that was killed, or met the end of the disk.
#[test]
fn an_unfinished_snapshot_costs_nothing() {
    let mut cluster = cluster();
    let sled = cluster[2].data_dir().join("store/sled");
    let names = fs::read_dir(&sled)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let snapshot = names.into_iter().find(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("snap.")
    });
    let snapshot = snapshot.expect("sled was opened twice");
    let content = fs::read(&snapshot).unwrap();
    let unfinished = snapshot.with_extension(format!(
        "{}.generating",
        snapshot.extension().unwrap().to_string_lossy()
    ));
    fs::write(&unfinished, &content[..content.len() / 2]).unwrap();
    starts_whole(&mut cluster);
    assert!(!unfinished.exists());
}

#[test]
fn memory_of_an_absurd_size_costs_nothing() {
    for size in ["0", "1", "255", "18446744073709551615"] {
        let mut cluster = cluster();
        let before = contents(&cluster[2].data_dir().join("store"));
        let port = cluster[2].port;
        let mut wrong = Node::at_port(cluster.root(), "node-3", port)
            .with(&["--seed", &cluster[0].address()])
            .with_settings(QUICK)
            .with_settings(&[("DYNAKV_MEMORY_BYTES", size)]);
        wrong.start();
        // It may be refused as a setting, or be served as well as it can.
        let ended = eventually("it is refused, or starts", || {
            if !wrong.runs() {
                return Ok(true);
            }
            match wrong.run(&["health"]).code {
                Some(0) => Ok(false),
                other => Err(format!("{other:?}")),
            }
        });
        if ended {
            let (code, log) = wrong.ends_by_itself();
            assert_eq!(code, Some(2), "{size}: {log}");
            assert!(log.contains("memory_bytes"), "{log}");
            assert!(
                before == contents(&wrong.data_dir().join("store")),
                "{size}"
            );
        } else {
            wrong.stop();
        }
        assert_eq!(set_aside(&wrong), Vec::<String>::new(), "{size}");
        starts_whole(&mut cluster);
    }
}

/// A script that starts the node in other surroundings.
fn wrapped(cluster: &mut Cluster, script: &str) {
    let path = cluster.root().join("wrapped");
    let binary = env!("CARGO_BIN_EXE_dynakv");
    fs::write(
        &path,
        format!("#!/bin/bash\n{script}\nexec $AS {binary} \"$@\"\n"),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    cluster[2].set_binary(Some(&path));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory or a file that the node may not read or write. Root may everything, so it runs as somebody else.
#[test]
fn no_rights_cost_nothing() {
    const NOBODY: u32 = 65534;
    let mut cluster = cluster();
    let data_dir = cluster[2].data_dir();
    if is_root() {
        wrapped(
            &mut cluster,
            &format!("AS='setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups'"),
        );
        let chown = |path: &Path| {
            let mut chown = Command::new("chown");
            let status = chown.arg("-R").arg(NOBODY.to_string()).arg(path).status();
            assert!(status.unwrap().success());
        };
        chown(cluster.root());
        let may = Command::new("setpriv")
            .args(["--reuid", &NOBODY.to_string(), "--clear-groups"])
            .arg(env!("CARGO_BIN_EXE_dynakv"))
            .arg("--version")
            .output();
        if !may.is_ok_and(|output| output.status.success()) {
            skipped!("nobody else may run the binary here");
            return;
        }
    }
    // What is refused before anything of the store was opened is left as it is to the byte. The others may have
    // been started by then, and some need what is not permitted only later, or not at all.
    for (path, mode, is_refused_at_once) in [
        ("store", 0o000, true),
        ("store/sled", 0o000, true),
        ("store/sled/db", 0o000, true),
        ("store/sled/db", 0o400, true),
        ("store/sled/conf", 0o000, true),
        ("store/format", 0o000, true),
        ("identity", 0o000, true),
        ("store/log", 0o000, false),
        ("store", 0o500, false),
        ("store/sled", 0o500, false),
        ("store/log", 0o500, false),
        ("", 0o500, false),
    ] {
        println!("{path:?} with {mode:o}");
        let path = data_dir.join(path);
        let rights = fs::metadata(&path).unwrap().permissions();
        let before = contents(&data_dir);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        cluster[2].start();
        let is_refused = is_refused(&mut cluster[2]);
        if is_refused {
            let (code, log) = cluster[2].ends_by_itself();
            assert_eq!(code, Some(1), "{log}");
            assert!(log.to_lowercase().contains("permission denied"), "{log}");
            // Of sled's files it may be the directory that is named.
            let named = path.strip_prefix(data_dir.join("store")).unwrap_or(&path);
            let named = named.components().next().unwrap_or(Component::CurDir);
            let named = named.as_os_str().to_string_lossy();
            assert!(log.contains(&*named), "{named}: {log}");
        } else {
            cluster[2].kill();
        }
        fs::set_permissions(&path, rights).unwrap();
        let log = cluster[2].process_mut().stderr();
        assert_eq!(set_aside(&cluster[2]), Vec::<String>::new(), "{log}");
        if is_refused_at_once {
            assert!(is_refused, "{log}");
            let now = contents(&data_dir);
            let differs = |path: &PathBuf| before.get(path) != now.get(path);
            let changed: Vec<_> = before
                .keys()
                .chain(now.keys())
                .filter(|it| differs(it))
                .collect();
            assert!(changed.is_empty(), "{changed:?}: {log}");
        }
    }
    starts_whole(&mut cluster);
}

/// Whether a node that was just started ends by itself; false once it listens. It can be in such want that it takes
/// no connection.
#[track_caller]
fn is_refused(node: &mut Node) -> bool {
    eventually("it refuses, or starts", || {
        let log = node.process_mut().stderr();
        match (node.runs(), log.contains(r#""message":"listening""#)) {
            (false, _) => Ok(true),
            (true, true) => Ok(false),
            (true, false) => Err(log),
        }
    })
}

/// All but a few descriptors are taken when the node starts: wherever it finds none, it says so.
#[test]
fn no_descriptors_cost_nothing() {
    const LIMIT: usize = 180;
    let mut cluster = cluster();
    let mut refused = 0;
    for left in (8..60).step_by(3) {
        let held = LIMIT - left;
        wrapped(
            &mut cluster,
            &format!(
                "for ((i = 3; i < {held}; i++)); do eval \"exec $i</dev/null\"; done; ulimit -n {LIMIT}; AS="
            ),
        );
        cluster[2].start();
        let ended = is_refused(&mut cluster[2]);
        if ended {
            let (code, log) = cluster[2].ends_by_itself();
            assert_eq!(code, Some(1), "{left}: {log}");
            assert!(
                log.contains("Too many open files") || log.contains("ulimit"),
                "{left}: {log}"
            );
            refused += 1;
        } else {
            cluster[2].kill();
        }
        assert_eq!(set_aside(&cluster[2]), Vec::<String>::new(), "{left}");
    }
    assert!(refused > 0, "there were always enough");
    cluster[2].set_binary(None);
    starts_whole(&mut cluster);
}

/// Another program has taken all room, and the ballast is gone.
#[test]
fn a_full_disk_at_the_start_costs_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes: Vec<_> = (1..=3)
        .map(|number| Node::new(root.path(), &format!("node-{number}")).with_settings(QUICK))
        .collect();
    let disk = match SmallDisk::mount(&nodes[2].data_dir()) {
        Ok(disk) => disk,
        Err(reason) => {
            skipped!("no disk of its own here ({reason}); run it as root");
            return;
        }
    };
    let seed = nodes[0].address();
    nodes = nodes
        .into_iter()
        .enumerate()
        .map(|(number, node)| match number {
            0 => node,
            _ => node.with(&["--seed", &seed]),
        })
        .collect();
    for node in &mut nodes {
        node.start();
    }
    let mut cluster = Cluster::of(root, nodes);
    for number in 0..KEYS {
        cluster[0]
            .run(&["put", &key(number), "value", "-w", "3"])
            .exits(0);
    }
    cluster[2].kill();
    let ballast = cluster[2].data_dir().join("store/ballast");
    let _ = fs::remove_file(ballast);
    disk.take(usize::MAX);
    for _ in 0..3 {
        cluster[2].start();
        let (code, log) = cluster[2].ends_by_itself();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("no space left on the disk"), "{log}");
        assert!(log.contains("df -h"), "{log}");
        assert_eq!(set_aside(&cluster[2]), Vec::<String>::new(), "{log}");
    }
    disk.clear();
    starts_whole(&mut cluster);
}

/// The disk came up read-only, as after an error or with a wrong option.
#[test]
fn a_read_only_disk_costs_nothing() {
    let mut cluster = cluster();
    let data_dir = cluster[2].data_dir();
    let mount = |arguments: &[&str]| {
        let mut mount = Command::new("mount");
        let output = mount.args(arguments).arg(&data_dir).output();
        output.is_ok_and(|output| output.status.success())
    };
    let text = data_dir.display().to_string();
    if !is_root() || !mount(&["--bind", &text]) {
        skipped!("nothing can be mounted here; run it as root");
        return;
    }
    let is_read_only = mount(&["-o", "remount,bind,ro"]);
    if is_read_only {
        let before = contents(&data_dir);
        refuses(
            &mut cluster[2],
            &before,
            &["Read-only file system", "read-only"],
        );
    }
    let mut umount = Command::new("umount");
    assert!(
        umount
            .arg("--lazy")
            .arg(&data_dir)
            .status()
            .unwrap()
            .success()
    );
    assert!(
        is_read_only,
        "it was mounted, and could not be made read-only"
    );
    starts_whole(&mut cluster);
}

/// What is set aside is looked at while the node, which has begun anew, runs; and what was lost is named.
#[test]
fn what_was_lost_of_a_store_is_named_while_its_node_runs() {
    for lost in ["format", "sled/conf"] {
        let mut cluster = cluster();
        let store = cluster[2].data_dir().join("store");
        match lost {
            "format" => fs::remove_file(store.join(lost)).unwrap(),
            _ => fs::write(
                store.join(lost),
                "segment_size: 524288\nuse_compression: false\nversion: 0.34\n????",
            )
            .unwrap(),
        }
        cluster[2].start_ready();
        let aside = set_aside(&cluster[2]);
        assert_eq!(aside.len(), 1, "{lost}");
        let aside = cluster[2].data_dir().join(&aside[0]);
        let checked = dynakv(["store", "check", &aside.display().to_string()]).exits(1);
        assert!(checked.text().contains(lost), "{checked:?}");
        assert!(!checked.text().contains("version"), "{checked:?}");
        assert!(cluster[2].runs());
        cluster.wait_healthy();
        cluster[0].kill();
        cluster[1].kill();
        for number in 0..KEYS {
            let got = cluster[2].run(&["get", &key(number), "-r", "1"]).exits(0);
            assert_eq!(got.text(), "value", "{}", key(number));
        }
    }
}
