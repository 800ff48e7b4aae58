//! The audit, by its command line: it passes where nothing is lost, and notices what is.

mod common;
#[path = "common/flawed.rs"]
mod flawed;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::block_on;
use flawed::{Flaw, FlawedCluster};

/// Far longer than anything takes on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// How an audit ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// The last line of standard output.
    fn verdict(&self) -> &str {
        self.stdout.lines().last().unwrap_or_default()
    }

    /// The number before a word of the verdict.
    fn count(&self, word: &str) -> u64 {
        let before = self.verdict().split_once(word);
        let number = before.and_then(|(before, _)| before.trim_end().rsplit(' ').next());
        let number = number.and_then(|number| number.replace(',', "").parse().ok());
        number.unwrap_or_else(|| panic!("no number of {word:?}: {self:?}"))
    }

    /// The writes that lines of this kind name.
    fn named(&self, kind: &str) -> BTreeSet<String> {
        let lines = self.stdout.lines();
        let named = lines.filter_map(|line| line.strip_prefix(kind)?.strip_prefix(": write "));
        let named = named.filter_map(|rest| rest.split([',', ';']).next());
        named.map(str::to_owned).collect()
    }
}

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynakv-bench"));
    command
        .arg("audit")
        .args(arguments)
        .env_remove("DYNAKV_SERVERS");
    command
}

fn audit(arguments: &[&str]) -> Ended {
    let output = bench(arguments)
        .output()
        .expect("the binary was just built");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

fn audit_of(cluster: &FlawedCluster, log: &Path, arguments: &[&str]) -> Ended {
    let servers = cluster.addresses.join(",");
    let mut all = vec!["--servers", &servers, "--keys", "300"];
    all.extend(["--log", log.to_str().unwrap()]);
    all.extend(arguments);
    audit(&all)
}

fn verify(cluster: &FlawedCluster, log: &Path) -> Ended {
    let servers = cluster.addresses.join(",");
    audit(&[
        "--servers",
        &servers,
        "--verify-only",
        log.to_str().unwrap(),
    ])
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("audit.log")
    }
}

#[test]
fn nothing_is_lost_while_nodes_come_and_leave() {
    let dynakv = common::dynakv();
    let scratch = Scratch::new();
    let ended = audit(&[
        "--nodes",
        "2",
        "--resize",
        "4,3",
        "--duration",
        "3s",
        "--dynakv",
        dynakv.to_str().unwrap(),
        "--log",
        scratch.log().to_str().unwrap(),
    ]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let begins = [
        "2 nodes",
        "2 -> 4",
        "4 nodes",
        "4 -> 3",
        "3 nodes",
        "change 1: write-both",
    ];
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(begin), "{ended:#?}");
    }
    assert!(lines[5].contains(", read-new "), "{ended:#?}");
    assert_eq!(lines.len(), begins.len() + 2, "{ended:#?}");
    assert!(ended.verdict().starts_with("audit passed: "), "{ended:#?}");
}

#[test]
fn nothing_is_lost_while_nodes_are_killed() {
    let dynakv = common::dynakv();
    let scratch = Scratch::new();
    let ended = audit(&[
        "--nodes",
        "3",
        "--kill-every",
        "1500ms",
        "--duration",
        "8s",
        "--dynakv",
        dynakv.to_str().unwrap(),
        "--log",
        scratch.log().to_str().unwrap(),
    ]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.verdict().starts_with("audit passed: "), "{ended:#?}");
    assert_eq!(
        (ended.count("lost"), ended.count("failed requests")),
        (0, 0),
        "{ended:#?}"
    );
    assert!(ended.count("acknowledged writes") > 100, "{ended:#?}");
    assert!(ended.count("kills") > 0, "{ended:#?}");
    // What was counted stands in the log.
    let log = std::fs::read_to_string(scratch.log()).unwrap();
    let acknowledged = log
        .lines()
        .filter(|line| line.ends_with(" acknowledged"))
        .count();
    assert_eq!(acknowledged as u64, ended.count("acknowledged writes"));
}

#[test]
fn failed_requests_are_told_apart_from_losses() {
    let dynakv = common::dynakv();
    // Nobody answers while the only node is down.
    let ended = audit(&[
        "--nodes",
        "1",
        "--kill-every",
        "1s",
        "--duration",
        "4s",
        "--dynakv",
        dynakv.to_str().unwrap(),
    ]);
    assert_eq!(ended.code, Some(6), "{ended:#?}");
    assert!(ended.verdict().starts_with("audit failed: "), "{ended:#?}");
    assert_eq!(ended.count("lost"), 0, "{ended:#?}");
    assert!(ended.count("failed requests") > 0, "{ended:#?}");
    assert!(ended.stderr.contains("(node-1 was down)"), "{ended:#?}");
    // What proves the verdict is kept.
    let kept = |name: &str| {
        let path = ended
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix(name));
        PathBuf::from(path.unwrap_or_else(|| panic!("no {name:?}: {ended:#?}")))
    };
    let (directory, log) = (
        kept("what the nodes have stored and logged is kept: "),
        kept("the log is kept: "),
    );
    assert!(
        directory.join("node-1.log").is_file(),
        "{}",
        directory.display()
    );
    std::fs::remove_dir_all(directory).unwrap();
    std::fs::remove_file(log).unwrap();
}

#[test]
fn dropped_puts_are_noticed_and_named() {
    let cluster = FlawedCluster::start(Flaw::DropsPuts(200));
    let scratch = Scratch::new();
    let ended = audit_of(&cluster, &scratch.log(), &["--duration", "3s"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.verdict().starts_with("audit failed: "), "{ended:#?}");
    let dropped = cluster.dropped.lock().unwrap().clone();
    let dropped: BTreeSet<String> = dropped.iter().map(|value| name_of(value)).collect();
    let lost = ended.named("lost");
    assert!(!lost.is_empty(), "{ended:#?}");
    assert_eq!(ended.count("lost"), lost.len() as u64, "{ended:#?}");
    assert!(lost.is_subset(&dropped), "{lost:?}, {dropped:?}");
    assert!(ended.named("stale read").is_subset(&dropped), "{ended:#?}");
    // The log proves it as well, afterwards.
    let again = verify(&cluster, &scratch.log());
    assert_eq!(again.code, Some(1), "{again:#?}");
    assert!(!again.named("lost").is_disjoint(&lost), "{again:#?}");
}

/// The `17/3` in `audit RUN write 17/3 and 99`.
fn name_of(value: &[u8]) -> String {
    let head = value
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let head = std::str::from_utf8(head).expect("a value of the audit");
    let name = head.split(' ').nth(3);
    name.expect("a value of the audit").to_owned()
}

#[test]
fn dropped_deletes_are_noticed() {
    let cluster = FlawedCluster::start(Flaw::DropsDeletes(5));
    let ended = audit_of(&cluster, &Scratch::new().log(), &["--duration", "3s"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(
        ended.count("back after they were replaced") > 0,
        "{ended:#?}"
    );
    assert_eq!(ended.count("lost"), 0, "{ended:#?}");
}

/// Blind writes of one client, one after the other: what each of them has replaced is named where it is
/// still there. That others write blindly, too, excuses nothing.
#[test]
fn a_blind_write_that_leaves_an_older_one_beside_it_is_noticed_and_named() {
    let cluster = FlawedCluster::start(Flaw::KeepsReplaced(8));
    let scratch = Scratch::new();
    let ended = audit_of(&cluster, &scratch.log(), &["--duration", "3s"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let words = "blind writes in a row undone or beside older ones";
    let undone = ended.named("undone");
    assert!(!undone.is_empty(), "{ended:#?}");
    assert_eq!(ended.count(words), undone.len() as u64, "{ended:#?}");
    // They are keys of one client.
    let log = std::fs::read_to_string(scratch.log()).unwrap();
    for write in &undone {
        let is_of_one_client = |line: &str| {
            line.contains(&format!(" {write} put alone"))
                || line.contains(&format!(" {write} delete alone"))
        };
        assert!(log.lines().any(is_of_one_client), "{write}: {ended:#?}");
    }
    // The log proves afterwards that something is wrong; it does not say in which order.
    let again = verify(&cluster, &scratch.log());
    assert_eq!(again.code, Some(1), "{again:#?}");
}

/// A delete that is acknowledged and does nothing leaves the value before it.
#[test]
fn a_blind_delete_that_does_nothing_is_noticed() {
    let cluster = FlawedCluster::start(Flaw::DropsDeletes(5));
    let ended = audit_of(&cluster, &Scratch::new().log(), &["--duration", "3s"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let words = "blind writes in a row undone or beside older ones";
    assert!(ended.count(words) > 0, "{ended:#?}");
}

#[test]
fn the_same_nodes_without_a_flaw_pass_and_so_does_their_log() {
    let cluster = FlawedCluster::start(Flaw::None);
    let scratch = Scratch::new();
    let ended = audit_of(&cluster, &scratch.log(), &["--duration", "3s"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(!ended.verdict().contains("kills"), "{ended:#?}");

    let again = verify(&cluster, &scratch.log());
    assert_eq!(again.code, Some(0), "{again:#?}");
    let count = |ended: &Ended| ended.count("acknowledged writes");
    assert_eq!(count(&again), count(&ended));

    // Another audit does not overwrite the log.
    let second = audit_of(&cluster, &scratch.log(), &["--duration", "1s"]);
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert!(second.stderr.contains("audit.log"), "{second:#?}");

    // In a log that is damaged in the middle nothing can be trusted.
    let mut log = std::fs::read(scratch.log()).unwrap();
    let middle = log.len() / 2;
    log[middle] ^= 1;
    std::fs::write(scratch.log(), log).unwrap();
    let damaged = verify(&cluster, &scratch.log());
    assert_eq!(damaged.code, Some(1), "{damaged:#?}");
    assert!(damaged.stderr.contains("is damaged"), "{damaged:#?}");
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn what_a_killed_audit_has_acknowledged_can_be_verified_later() {
    let cluster = FlawedCluster::start(Flaw::None);
    let scratch = Scratch::new();
    let (servers, log) = (cluster.addresses.join(","), scratch.log());
    let arguments = ["--servers", &servers, "--log", log.to_str().unwrap()];
    let mut command = bench(&arguments);
    command
        .args(["--duration", "10m"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let running = Running(command.spawn().expect("the binary was just built"));
    let deadline = Instant::now() + PATIENCE;
    while std::fs::metadata(&log).map_or(0, |log| log.len()) < 200_000 {
        assert!(
            Instant::now() < deadline,
            "not within {PATIENCE:?}: 200 kB of log"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(running);
    let ended = verify(&cluster, &log);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.count("acknowledged writes") > 100, "{ended:#?}");

    // Somebody who wipes a key is found out.
    let text = std::fs::read_to_string(&log).unwrap();
    let run = text
        .split(' ')
        .nth(4)
        .expect("the run stands in the first line");
    block_on(async {
        let client = dynakv_client::Client::builder().seeds(cluster.addresses.clone());
        let client = client.build().await.unwrap();
        for key in 0..5 {
            let key = format!("audit-{run}-{key}");
            client.put(&key, "somebody else's").await.unwrap();
        }
    });
    let ended = verify(&cluster, &log);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stdout.contains("somebody else"), "{ended:#?}");
    assert_eq!(ended.count("never sent"), 5, "{ended:#?}");
}

#[test]
fn an_audit_that_cannot_be_done_says_why() {
    let nobody = audit(&["--servers", "127.0.0.1:1", "--duration", "1s"]);
    assert_eq!(nobody.code, Some(1), "{nobody:#?}");
    assert!(
        nobody.stderr.contains("127.0.0.1:1") && nobody.stderr.contains("next: "),
        "{nobody:#?}"
    );
    for usage in [
        &["--duration", "0s"][..],
        &["--keys", "0"],
        &["--kill-every", "5s"],
        &["--servers", "no-port"],
        &["--nodes", "3", "--dynakv", "/nowhere"],
    ] {
        let ended = audit(usage);
        assert_eq!(ended.code, Some(2), "{usage:?}: {ended:#?}");
    }
}
