//! Disks that hang and processes that stand still: the others go on without them, say so, and what cannot
//! be done is refused long before anybody's time is up.
//!
//! Times are compared with each other, or with the deadline that a request has, and never stand alone.

use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    BadDisks, Cluster, Fault, Finished, Node, all_is_well, eventually, under_load,
};

/// How many requests are timed.
const TIMED: u64 = 2000;

/// By how much the load may be slower while a disk hangs or a process stands still. Without any
/// precaution one request in three waits for a second or more, which is a factor of hundreds.
const SLOWER_MAX: u32 = 8;

/// The deadline of requests that cannot be met: the longer it is, the clearer a refusal is told from it.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a refusal may take of its deadline. It takes a few milliseconds, or half a second for a dial; the
/// rest is what a busy machine takes.
const REFUSED_WITHIN: u32 = 5;

/// A request that cannot be met, which was refused early enough.
#[track_caller]
fn refused_early(node: &Node, arguments: &[&str]) -> Finished {
    let timeout = format!("{}s", DEADLINE.as_secs());
    let mut all = arguments.to_vec();
    all.extend(["--timeout", &timeout]);
    let began = Instant::now();
    let refused = node.run(&all);
    let took = began.elapsed();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(took < DEADLINE / REFUSED_WITHIN, "{took:?}: {refused:?}");
    refused
}

#[track_caller]
fn says_that_its_disk_hangs(cluster: &Cluster, at: usize) {
    let node = &cluster[at];
    eventually("its own word is that its disk hangs", || {
        let health = node.run(&["health"]);
        let ready = node.page("/ready")?;
        let usable = node.metric("dynakv_store_usable", "")?;
        let is_told = health.code == Some(6) && health.text().contains("disk hangs");
        match (is_told, ready.status, usable) {
            (true, 503, 0) if ready.body.contains("disk hangs") => Ok(()),
            told => Err(format!("{told:?}, {health:?}")),
        }
    });
    for other in cluster.nodes() {
        eventually(&format!("{} knows it", other.id), || {
            let status = other.run(&["status"]);
            match status.code {
                Some(6 | 4) if status.text().contains("alive, disk hangs") => Ok(()),
                _ => Err(format!("{status:?}")),
            }
        });
    }
}

#[test]
fn writes_go_on_while_the_disk_of_one_owner_hangs() {
    let root = tempfile::tempdir().unwrap();
    let Some(disks) = BadDisks::build(root.path()) else {
        return;
    };
    let mut cluster = Cluster::start_on(&disks, 3);
    cluster.seal("first", "write");
    let load = under_load(&mut cluster, |cluster, load| {
        let began = Instant::now();
        load.goes_on(TIMED);
        let before = began.elapsed();

        disks.begin("node-2", Fault::Hanging);
        says_that_its_disk_hangs(cluster, 1);
        let began = Instant::now();
        load.goes_on(TIMED);
        let during = began.elapsed();
        println!("{TIMED} requests: {before:?} before, {during:?} while a disk hangs");
        assert!(during < SLOWER_MAX * before, "{before:?}, then {during:?}");

        // Whoever asks that very node is served by the others.
        cluster[1].run(&["put", "through", "it"]).exits(0);
        let got = cluster[1].run(&["get", "through"]).exits(0);
        assert_eq!(got.text(), "it");
        disks.end("node-2", Fault::Hanging);
        cluster.wait_healthy();
        load.goes_on(500);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 3);
    all_is_well(&mut cluster);
}

#[test]
fn with_two_hanging_disks_a_write_is_refused_at_once_and_does_nothing() {
    let root = tempfile::tempdir().unwrap();
    let Some(disks) = BadDisks::build(root.path()) else {
        return;
    };
    let mut cluster = Cluster::start_on(&disks, 3);
    cluster.seal("first", "write");
    for at in [1, 2] {
        disks.begin(&cluster[at].id, Fault::Hanging);
        // Nobody knows before something is written there.
        let _unknown = cluster[0].run(&["put", "notices", "it", "--timeout", "3s"]);
        says_that_its_disk_hangs(&cluster, at);
    }
    let status = cluster[0].run(&["status"]);
    assert!(status.text().starts_with("unavailable"), "{status:?}");
    for node in cluster.nodes() {
        let refused = refused_early(node, &["put", "never", "written"]);
        assert!(
            refused.stderr.contains("nothing was written"),
            "{refused:?}"
        );
    }
    // Reads need no disk that syncs.
    for node in cluster.nodes() {
        assert_eq!(node.run(&["get", "first"]).exits(0).text(), "write");
    }
    for at in [1, 2] {
        disks.end(&cluster[at].id, Fault::Hanging);
    }
    cluster.wait_healthy();
    cluster[0].run(&["get", "never"]).exits(3);
    cluster[0].run(&["put", "again", "good"]).exits(0);
    all_is_well(&mut cluster);
}

#[test]
fn requests_go_on_while_one_owner_stands_still_and_are_refused_early_with_two() {
    let mut cluster = Cluster::start(3);
    cluster.seal("first", "write");
    let load = under_load(&mut cluster, |cluster, load| {
        let began = Instant::now();
        load.goes_on(TIMED);
        let before = began.elapsed();
        cluster[1].process_mut().signal(Signal::STOP);
        // Until it is noticed; nobody loses a request by it.
        load.goes_on(200);
        let began = Instant::now();
        load.goes_on(TIMED);
        let during = began.elapsed();
        println!("{TIMED} requests: {before:?} before, {during:?} while a node stands still");
        assert!(during < SLOWER_MAX * before, "{before:?}, then {during:?}");
    });
    load.failed_nowhere();

    cluster[2].process_mut().signal(Signal::STOP);
    // The first ones find out. What comes then is refused early, whether the links still stand or are
    // given up and dialled again.
    let _unknown = cluster[0].run(&["put", "notices", "it", "--timeout", "5s"]);
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        refused_early(&cluster[0], &["put", "never", "written"]);
        refused_early(&cluster[0], &["get", "first"]);
        std::thread::sleep(Duration::from_millis(200));
    }
    for at in [1, 2] {
        cluster[at].process_mut().signal(Signal::CONT);
    }
    cluster.wait_healthy();
    load.is_all_there(&cluster, 3);
    cluster[0].run(&["put", "again", "good"]).exits(0);
    all_is_well(&mut cluster);
}

/// A file system in a file. A shell waits for its end, which is also the end of this process however that
/// comes: it thaws and unmounts, because a file system that stays frozen stops all of the machine's syncs.
struct LoopDisk {
    at: PathBuf,
    keeper: process::Child,
}

impl LoopDisk {
    const BYTES: u64 = 256 * 1024 * 1024;

    /// Mounts one over a directory; why it cannot, when it cannot.
    fn mount(file: &Path, at: &Path) -> Result<Self, String> {
        let create = || {
            std::fs::create_dir_all(at)?;
            std::fs::File::create(file)?.set_len(Self::BYTES)
        };
        create().map_err(|error: std::io::Error| error.to_string())?;
        run(process::Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(file))?;
        let mut mount = process::Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(file).arg(at))?;
        // Lazily: a process that was killed may need a moment to let go of it.
        let script = r#"read _; fsfreeze -u "$0" 2>/dev/null; umount -l "$0""#;
        let keeper = process::Command::new("sh")
            .args(["-c", script])
            .arg(at)
            .stdin(process::Stdio::piped())
            .spawn();
        let disk = Self {
            at: at.to_owned(),
            keeper: keeper.map_err(|error| error.to_string())?,
        };
        // Whether it can be frozen at all.
        disk.freeze()?;
        disk.thaw()?;
        Ok(disk)
    }

    fn freeze(&self) -> Result<(), String> {
        run(process::Command::new("fsfreeze").arg("-f").arg(&self.at))
    }

    fn thaw(&self) -> Result<(), String> {
        run(process::Command::new("fsfreeze").arg("-u").arg(&self.at))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _status = self.keeper.wait();
    }
}

fn run(command: &mut process::Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{command:?}: {}", said.trim()))
        }
    }
}

#[test]
fn a_frozen_file_system_is_a_disk_that_hangs() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("disk.img");
    let mut mounted = None;
    let mut cluster = Cluster::start_prepared(3, |node, nodes_root| {
        if node.id == "node-2" {
            let at = nodes_root.join("dynakv-data").join(&node.id);
            mounted = Some(LoopDisk::mount(&file, &at));
        }
        node
    });
    // Declared last, so that it is thawed first, while the processes that hang in it still live.
    let disk = match mounted.expect("node-2 was prepared") {
        Ok(disk) => disk,
        Err(reason) => {
            skipped!("no file system can be frozen here: {reason}");
            return;
        }
    };
    cluster.seal("first", "write");
    let load = under_load(&mut cluster, |cluster, load| {
        disk.freeze().unwrap();
        says_that_its_disk_hangs(cluster, 1);
        load.goes_on(TIMED);
        disk.thaw().unwrap();
        cluster.wait_healthy();
        load.goes_on(500);
    });
    load.failed_nowhere();
    load.is_all_there(&cluster, 3);
    all_is_well(&mut cluster);
}
