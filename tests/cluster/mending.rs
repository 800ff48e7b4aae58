//! Copies that differ become the same by themselves.

use std::path::PathBuf;

use crate::harness::{Cluster, Node, all_is_well, eventually, under_load};

const KEYS: usize = 200;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Waits until a node's own copy of each key lacks nothing that another one has.
#[track_caller]
fn is_current(node: &Node) {
    for number in 0..KEYS {
        let what = format!("{} to be current in {}", node.id, key(number));
        eventually(&what, || {
            let explained = node.run(&["explain", &key(number), "--output", "json"]);
            let explained = explained.json();
            let owners = explained["owners"].as_array().cloned().unwrap_or_default();
            let own = owners.iter().find(|owner| owner["id"] == *node.id);
            match own.is_some_and(|own| own["standing"] == "current") {
                true => Ok(()),
                false => Err(explained.to_string()),
            }
        });
    }
}

#[test]
fn a_node_that_missed_writes_gets_them_without_a_read() {
    let mut cluster = Cluster::start(3);
    for number in 0..KEYS / 2 {
        cluster[0].run(&["put", &key(number), "old"]).exits(0);
    }
    cluster[2].kill();
    for number in 0..KEYS {
        let value = format!("new-{number}");
        cluster[number % 2]
            .run(&["put", &key(number), &value])
            .exits(0);
    }
    cluster[0].run(&["delete", &key(0)]).exits(0);
    cluster[0].run(&["put", &key(0), "new-0"]).exits(0);
    cluster[2].start();
    cluster[2].wait_ready();
    is_current(&cluster[2]);
    // Nothing that a read could have mended is left: its own copies serve.
    cluster[0].kill();
    cluster[1].kill();
    for number in 0..KEYS {
        let got = cluster[2].run(&["get", &key(number), "-r", "1"]).exits(0);
        assert_eq!(got.text(), format!("new-{number}"));
    }
}

/// Waits until a node says that nobody is rebuilding.
#[track_caller]
fn is_whole(node: &Node) {
    let what = format!("{} to see nobody rebuilding", node.id);
    eventually(&what, || {
        let status = node.run(&["status", "--output", "json"]).json();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        match members.len() >= 3 && members.iter().all(|it| it["rebuilding_segments"] == 0) {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
}

/// Reads each key from this node's own copy, with the others off.
#[track_caller]
fn serves_alone(cluster: &mut Cluster, alone: usize, expected: impl Fn(usize) -> String) {
    cluster[alone].start();
    cluster[alone].wait_ready();
    for number in 0..KEYS {
        let got = cluster[alone]
            .run(&["get", &key(number), "-r", "1"])
            .exits(0);
        assert_eq!(got.text(), expected(number), "{}", key(number));
    }
}

fn write_all(cluster: &Cluster, through: &[usize], what: &str) {
    for number in 0..KEYS {
        let value = format!("{what}-{number}");
        cluster[through[number % through.len()]]
            .run(&["put", &key(number), &value])
            .exits(0);
    }
}

/// Clients write and read all the time: no request fails, no read misses what was acknowledged before it,
/// no dot names two writes. The copies become the same without a read, and the stores are sound.
#[test]
fn a_node_whose_directory_was_wiped_comes_back_and_is_rebuilt() {
    let mut cluster = Cluster::start(3);
    write_all(&cluster, &[0, 1, 2], "first");
    let load = under_load(&mut cluster, |cluster, load| {
        cluster[2].kill();
        std::fs::remove_dir_all(cluster[2].data_dir()).unwrap();
        write_all(cluster, &[0, 1], "second");
        cluster[2].start();
        cluster[2].wait_ready();
        for node in [0, 2] {
            is_whole(&cluster[node]);
        }
        load.goes_on(500);
    });
    load.failed_nowhere();
    is_current(&cluster[2]);
    load.is_all_there(&cluster, 2);
    all_is_well(&mut cluster);
    serves_alone(&mut cluster, 2, |number| format!("second-{number}"));
}

/// Four nodes, three copies. What the fourth had of the others' segments is lost, too, and nobody brings that back: it is
/// remembered, also over a restart, and reported by nobody.
#[test]
fn what_is_lost_and_not_owned_stays_marked_and_is_not_reported() {
    let mut cluster = Cluster::start(4);
    write_all(&cluster, &[0], "first");
    cluster[3].kill();
    std::fs::remove_dir_all(cluster[3].data_dir()).unwrap();
    cluster[3].start();
    cluster[3].wait_ready();
    let left = |node: &Node| node.metric("dynakv_rebuilding_segments", "");
    eventually("what it owns is rebuilt", || {
        let rebuilt = cluster[3].metric("dynakv_rebuilt_segments_total", "")?;
        match (rebuilt, left(&cluster[3])?) {
            (1.., 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let marks = cluster[3].data_dir().join("rebuilding");
    assert!(marks.exists(), "it has forgotten what it lost");
    assert!(cluster[3].terminate().success());
    cluster[3].start();
    cluster[3].wait_ready();
    cluster.wait_healthy();
    eventually(
        "nothing of that is reported after a restart",
        || match left(&cluster[3])? {
            0 => Ok(()),
            left => Err(format!("{left} segments")),
        },
    );
    is_whole(&cluster[0]);
    assert!(marks.exists(), "it has forgotten what it lost");
}

/// A node that comes back without its directory is let in with a new one, and so the ring has another version: while
/// clients write and read, again and again. The nodes themselves fail nothing, so that no client has to ask twice.
#[test]
fn a_ring_that_changes_fails_no_request() {
    let mut cluster = Cluster::start(3);
    write_all(&cluster, &[0], "first");
    let version = |node: &Node| node.metric("dynakv_ring_version", "");
    let before = version(&cluster[0]).unwrap();
    let load = under_load(&mut cluster, |cluster, load| {
        // At least three times, and until writes were in hand just then.
        for round in 1..=10 {
            let rebased = |node| cluster[node].metric("dynakv_writes_rebased_total", "");
            if round > 3 && rebased(0).unwrap() + rebased(1).unwrap() > 0 {
                break;
            }
            assert!(round < 10, "no write was in hand when the ring changed");
            cluster[2].kill();
            std::fs::remove_dir_all(cluster[2].data_dir()).unwrap();
            load.goes_on(200);
            cluster[2].start();
            cluster[2].wait_ready();
            for node in [0, 2] {
                is_whole(&cluster[node]);
            }
            eventually("all follow the new ring", || {
                let versions = cluster.nodes().iter().map(version);
                let versions: Vec<_> = versions.collect::<Result<_, _>>()?;
                match versions.iter().all(|it| *it == before + round) {
                    true => Ok(()),
                    false => Err(format!("{versions:?}, {before} before")),
                }
            });
        }
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 2);
    for node in &cluster.nodes()[..2] {
        for result in ["error", "quorum", "refused", "timeout"] {
            for op in ["get", "put", "delete"] {
                let label = format!("op=\"{op}\",result=\"{result}\"");
                let failed = node.metric("dynakv_requests_total", &label);
                assert_eq!(failed.unwrap(), 0, "{}: {label}", node.id);
            }
        }
    }
    all_is_well(&mut cluster);
}

#[test]
fn a_second_process_with_an_empty_directory_does_not_take_a_living_node_s_place() {
    let cluster = Cluster::start(3);
    write_all(&cluster, &[0], "first");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut other = Node::new(elsewhere.path(), "node-3").with(&["--seed", &cluster[0].address()]);
    other.start();
    let (code, log) = other.ends_by_itself();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("a node with the id node-3 is running"),
        "{log}"
    );
    is_whole(&cluster[0]);
}

#[test]
fn the_former_directory_of_a_node_that_was_wiped_is_refused() {
    let mut cluster = Cluster::start(3);
    write_all(&cluster, &[0, 1, 2], "first");
    cluster[2].kill();
    let former = cluster[2].data_dir();
    let aside = cluster.root().join("former");
    std::fs::rename(&former, &aside).unwrap();
    cluster[2].start();
    cluster[2].wait_ready();
    is_whole(&cluster[0]);
    cluster[2].kill();
    std::fs::remove_dir_all(&former).unwrap();
    std::fs::rename(&aside, &former).unwrap();
    cluster[2].start();
    let (code, log) = cluster[2].ends_by_itself();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("lives in another data directory"), "{log}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.metadata().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A copy of the third node's directory, after which the node started twice more. It stands still now.
fn copied_before_two_starts(cluster: &mut Cluster) -> PathBuf {
    cluster[2].terminate();
    let backup = cluster.root().join("backup");
    copy(&cluster[2].data_dir(), &backup);
    for _ in 0..2 {
        cluster[2].start();
        cluster.wait_whole();
        cluster[2].terminate();
    }
    backup
}

/// What the others have seen of a node outlives them.
#[test]
fn an_old_copy_is_found_out_although_all_others_were_restarted() {
    let mut cluster = Cluster::start(3);
    write_all(&cluster, &[0, 1, 2], "first");
    let backup = copied_before_two_starts(&mut cluster);
    let directory = cluster[2].data_dir();
    for node in [0, 1] {
        cluster[node].kill();
    }
    for node in [0, 1] {
        cluster[node].start();
        cluster[node].wait_ready();
    }
    std::fs::remove_dir_all(&directory).unwrap();
    copy(&backup, &directory);
    cluster[2].start();
    let (code, log) = cluster[2].ends_by_itself();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("old copy"), "{log}");
}

/// A copy of a directory that is in use, started elsewhere: the node that lives there stays, however often
/// the copy is started.
#[test]
fn a_second_process_on_a_copy_does_not_take_a_living_node_s_place() {
    let mut cluster = Cluster::start(3);
    write_all(&cluster, &[0, 1, 2], "first");
    cluster[2].terminate();
    let aside = cluster.root().join("copy");
    copy(&cluster[2].data_dir(), &aside);
    cluster[2].start();
    cluster.wait_whole();
    let data_dir = aside.to_str().unwrap();
    let mut other = Node::new(cluster.root(), "node-3").with(&["--data-dir", data_dir]);
    for (start, told) in [
        (1, "a newer process with the id node-3"),
        (2, "is running at"),
    ] {
        other.start();
        let (code, log) = other.ends_by_itself();
        assert_eq!(code, Some(1), "start {start}: {log}");
        assert!(log.contains(told), "start {start}: {log}");
        assert!(log.contains("another --id"), "start {start}: {log}");
    }
    cluster.wait_whole();
    assert!(cluster[2].runs());
    is_whole(&cluster[0]);
    all_is_well(&mut cluster);
    serves_alone(&mut cluster, 2, |number| format!("first-{number}"));
}

#[test]
fn a_node_restored_from_an_old_copy_is_found_out_and_rebuilt() {
    let mut cluster = Cluster::start(3);
    write_all(&cluster, &[0, 1, 2], "first");
    let backup = copied_before_two_starts(&mut cluster);
    let directory = cluster[2].data_dir();
    cluster[2].start();
    cluster.wait_whole();
    let load = under_load(&mut cluster, |cluster, load| {
        write_all(cluster, &[0, 1, 2], "second");
        cluster[2].kill();
        std::fs::remove_dir_all(&directory).unwrap();
        copy(&backup, &directory);
        // The others know of later starts: it is sent away, and knows from then on that it forgot something.
        cluster[2].start();
        let (code, log) = cluster[2].ends_by_itself();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("old copy"), "{log}");
        eventually("the old copy to be let in", || {
            if !cluster[2].runs() {
                cluster[2].start();
            }
            // Once the others have heard of this start, it stays.
            let seen_by = |node: &Node| {
                let status = node.run(&["status", "--output", "json"]);
                if status.code == Some(1) {
                    return (false, None, status.stderr);
                }
                let status = status.json();
                let members = status["members"].as_array().cloned().unwrap_or_default();
                let member = members.iter().find(|it| it["id"] == "node-3").cloned();
                let is_alive = member.as_ref().is_some_and(|it| it["state"] == "alive");
                let rebuilding = member.and_then(|it| it["rebuilding_segments"].as_u64());
                (is_alive, rebuilding, status.to_string())
            };
            let (is_alive, _, said) = seen_by(&cluster[0]);
            let (_, rebuilding, said_itself) = seen_by(&cluster[2]);
            match is_alive && rebuilding == Some(0) && cluster[2].runs() {
                true => Ok(()),
                false => Err(format!("{said}\n{said_itself}")),
            }
        });
        cluster.wait_whole();
        is_whole(&cluster[0]);
        is_whole(&cluster[2]);
        load.goes_on(500);
    });
    load.failed_nowhere();
    is_current(&cluster[2]);
    load.is_all_there(&cluster, 2);
    all_is_well(&mut cluster);
    serves_alone(&mut cluster, 2, |number| format!("second-{number}"));
}
