//! A store that is killed while it opens, at whatever moment, opens again and has everything.
//!
//! sled writes when it opens: it cuts off what was torn, and writes down what it has found in a file that takes
//! its name only when it is whole. Most rounds kill when half of that file is written.

#[macro_use]
#[path = "../../tests/skipped/mod.rs"]
mod skipped;
#[path = "../../tests/preload/mod.rs"]
mod preload;

mod halfway;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_storage::{Compaction, DiskOptions, DiskStore, Footprint, Mutation, Store};
use rustix::process::Signal;

use self::halfway::halfway;

/// Tells the test binary that it is the process to be killed, and where its store is.
const DIRECTORY: &str = "DYNAKV_TEST_OPENING_DIRECTORY";
/// How many kills: `make crash` asks for more than `make test`.
const ROUNDS: &str = "DYNAKV_CRASH_ROUNDS";

/// How many keys each round adds.
const KEYS: usize = 300;

/// How long a start may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

const OPTIONS: DiskOptions = DiskOptions {
    memory_bytes: 16 * 1024 * 1024,
    log_bytes_max: 32 * 1024 * 1024,
    durability: dynakv_storage::Durability::Sync,
    reserve_bytes: None,
    compaction: Compaction::WhenWorth,
};

/// One test at a time: between a fork and its exec a process that another test starts holds the lock of this one's
/// store, too.
static ALONE: Mutex<()> = Mutex::new(());

/// If this process is the one to be killed: opens the store, and waits for that.
fn opens_if_told() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let opened = DiskStore::open(directory, OPTIONS);
    let said = match &opened {
        Ok(_) => "opened".to_owned(),
        Err(error) => format!("failed {error}"),
    };
    println!("\n{said}");
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

/// Another process that opens the store.
fn opener(test: &str, store: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, store)
        .stdout(Stdio::piped());
    command
}

/// Whether it ends by itself before long.
fn ends(child: &mut Child) -> bool {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Kills it, if it lives; it must not have been refused. What it has said.
fn kill(mut child: Child) -> Vec<String> {
    // It may have ended by itself, halfway.
    let _ended = child.kill(); // SIGKILL
    child.wait().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<_> = lines.map(Result::unwrap).collect();
    let failed = said.iter().find(|line| line.starts_with("failed"));
    assert_eq!(failed, None);
    said
}

fn has_unfinished_snapshot(store: &Path) -> bool {
    let entries = std::fs::read_dir(store.join("sled")).unwrap();
    let mut names = entries.map(|entry| entry.unwrap().file_name());
    names.any(|name| name.to_string_lossy().ends_with(".generating"))
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

fn add(store: &DiskStore, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let mutation = Mutation {
            versions: key(number),
            key: key(number),
            before: Footprint::default(),
            after: Footprint::default(),
        };
        store.apply(&[mutation]).unwrap();
    }
    store.sync().unwrap();
    store.checkpoint().unwrap();
}

fn has(store: &DiskStore, count: usize) {
    for number in 0..count {
        assert_eq!(store.get(&key(number)).unwrap(), Some(key(number)));
    }
}

#[test]
fn a_store_that_is_killed_while_it_opens_has_everything() {
    opens_if_told();
    let _alone = ALONE.lock();
    let rounds: u64 = std::env::var(ROUNDS).map_or(8, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let library = halfway::build(directory.path());
    if let Err(reason) = &library {
        skipped!("no kill is aimed, because no library can be built here: {reason}");
    }
    let store = directory.path().join("store");
    let (mut count, mut unfinished) = (0, 0);
    for round in 0..rounds {
        {
            let opened = DiskStore::open(&store, OPTIONS);
            let opened = opened.unwrap_or_else(|error| panic!("round {round}: {error}"));
            has(&opened, count);
            add(&opened, count..count + KEYS);
            count += KEYS;
        }
        let test = "a_store_that_is_killed_while_it_opens_has_everything";
        let mut opener = opener(test, &store);
        match &library {
            // Every fourth at a moment of its own.
            Ok(library) if round % 4 != 3 => {
                let mut child = halfway(&mut opener, library, Signal::KILL).spawn().unwrap();
                let is_over = ends(&mut child);
                let is_unfinished = has_unfinished_snapshot(&store);
                let said = kill(child);
                assert!(
                    is_over && is_unfinished,
                    "round {round}: it was not killed in the midst of a snapshot; it has said {said:?}"
                );
                unfinished += 1;
            }
            _ => {
                let child = opener.spawn().unwrap();
                std::thread::sleep(Duration::from_micros(round * 7919 % 30_000));
                kill(child);
            }
        }
    }
    has(&DiskStore::open(&store, OPTIONS).unwrap(), count);
    println!("{rounds} kills, {unfinished} of them in the midst of a snapshot");
}

/// Killed again and again at its very first start, which makes the files: it is never found damaged, since
/// there was nothing yet that could be lost.
#[test]
fn a_store_that_is_killed_while_it_is_made_opens() {
    opens_if_told();
    let _alone = ALONE.lock();
    let rounds: u64 = std::env::var(ROUNDS).map_or(8, |rounds| rounds.parse().unwrap());
    let mut seen = BTreeSet::new();
    for round in 0..rounds * 4 {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        let test = "a_store_that_is_killed_while_it_is_made_opens";
        let child = opener(test, &store).spawn().unwrap();
        let began = Instant::now();
        while !store.exists() && began.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 12_000));
        kill(child);
        let parts = ["format", "sled/conf", "sled/db", "log"];
        seen.insert(
            parts
                .iter()
                .filter(|part| store.join(part).exists())
                .count(),
        );
        let opened = DiskStore::open(&store, OPTIONS);
        let opened = opened.unwrap_or_else(|error| panic!("round {round}: {error}"));
        add(&opened, 0..10);
        has(&opened, 10);
    }
    println!("killed with so many of its parts there: {seen:?}");
}
