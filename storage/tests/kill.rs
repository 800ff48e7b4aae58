//! A store that is killed in the middle of its work opens again, and has everything that it had
//! acknowledged.
//!
//! `kill -9` leaves the system's caches as they are: it shows what the order of writes is worth, and not
//! whether files and directories were synced. Each round kills the writer at a moment of its own, with
//! bounds so small that a checkpoint is nearly always under way.

mod writer;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dynakv_storage::{DiskOptions, DiskStore, Durability};

use self::writer::{Acknowledged, Plan};

/// Tells the test binary that it is the process to be killed, and where to write.
const DIRECTORY: &str = "DYNAKV_TEST_KILL_DIRECTORY";
/// From which number on it writes, and in which round.
const FIRST: &str = "DYNAKV_TEST_KILL_FIRST";
const ROUND: &str = "DYNAKV_TEST_KILL_ROUND";
/// How often to kill: `make crash` asks for more than `make test`.
const ROUNDS: &str = "DYNAKV_CRASH_ROUNDS";

const TEST: &str = "what_was_acknowledged_survives_kill_minus_nine";
/// Values from 1 byte to 1 MiB.
const PLAN: Plan = Plan {
    keys: 300,
    group: 16,
    length,
};

fn length(counter: u64) -> u64 {
    let spread = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    match counter % 64 {
        0 => 1024 * 1024,
        1..=6 => 4_000 + spread % 60_000,
        _ => 1 + spread % 300,
    }
}

/// Small bounds of several kinds, so that log and memtable each fill first in some rounds.
fn options(round: u64) -> DiskOptions {
    DiskOptions {
        cache_bytes: 8 * 1024 * 1024,
        memtable_bytes: [200_000, 2_000_000, 10_000][(round % 3) as usize],
        log_bytes: [1_000_000, 300_000][(round % 2) as usize],
        durability: match round % 5 {
            4 => Durability::Interval(Duration::from_millis(20)),
            _ => Durability::Sync,
        },
        reserve_bytes: None,
    }
}

/// Lets a writer run from `first` on, kills it, and returns the last write that it acknowledged.
fn run_and_kill(directory: &Path, first: u64, round: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut child = Some(child);
    let mut killer = None;
    let mut acknowledged = 0;
    for line in lines {
        let line = line.unwrap();
        let Some(counter) = line.strip_prefix("synced ") else {
            continue;
        };
        acknowledged = counter.parse().unwrap();
        // From the first acknowledgement on, at any moment of the next half second.
        if let Some(mut child) = child.take() {
            let wait_us = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 500_000;
            killer = Some(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(wait_us));
                let lives = child.try_wait().unwrap().is_none();
                child.kill().unwrap(); // SIGKILL
                child.wait().unwrap();
                lives
            }));
        }
    }
    let lived = killer.expect("the writer acknowledged nothing").join();
    assert!(lived.unwrap(), "the writer died by itself in round {round}");
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_kill_minus_nine() {
    let argument = |name| std::env::var(name).ok();
    let number = |text: String| text.parse::<u64>().unwrap();
    if let (Some(directory), Some(first), Some(round)) =
        (argument(DIRECTORY), argument(FIRST), argument(ROUND))
    {
        let round = number(round);
        PLAN.write_until_ended(
            Path::new(&directory),
            options(round),
            number(first),
            round % 2 == 1,
        );
    }
    let rounds = argument(ROUNDS).map_or(8, number);
    let directory = tempfile::tempdir().unwrap();
    // The highest write acknowledged for each key, over all rounds.
    let mut acknowledged = Acknowledged::new();
    let mut next = 1;
    for round in 0..rounds {
        let last = run_and_kill(directory.path(), next, round);
        for counter in next..=last {
            let (key, _) = PLAN.write(counter);
            acknowledged.insert(key, counter);
        }
        let store = DiskStore::open(directory.path(), options(round)).unwrap();
        let highest = PLAN.check(&store, &acknowledged).max(last);
        println!("round {round}: {} writes acknowledged", last + 1 - next);
        if round % 4 == 3 {
            store.checkpoint().unwrap();
            PLAN.check(&store, &acknowledged);
        }
        // Above everything that the writer can have begun: one group behind the last acknowledged.
        next = highest + PLAN.group + 1;
    }
}
