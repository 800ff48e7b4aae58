//! A store that is killed in the middle of its work opens again, and has everything that it had
//! acknowledged.
//!
//! `kill -9` leaves the system's caches as they are: it shows what the order of writes is worth, and not
//! whether files and directories were synced. Each round kills the writer at a moment of its own, with
//! bounds so small that a checkpoint is nearly always under way.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{
    DiskOptions, DiskStore, Durability, Footprint, Mutation, PageLimit, PositionRange, Store,
    Tally, Totals, check_store,
};

/// Tells the test binary that it is the process to be killed, and where to write.
const DIRECTORY: &str = "DYNAKV_TEST_KILL_DIRECTORY";
/// From which number on it writes, and in which round.
const FIRST: &str = "DYNAKV_TEST_KILL_FIRST";
const ROUND: &str = "DYNAKV_TEST_KILL_ROUND";
/// How often to kill: `make crash` asks for more than `make test`.
const ROUNDS: &str = "DYNAKV_CRASH_ROUNDS";

const TEST: &str = "what_was_acknowledged_survives_kill_minus_nine";
const KEYS: u64 = 300;
const GROUP: u64 = 16;

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
    }
}

/// Write number `counter`: the key follows from it, and so does the value. From 1 byte to 1 MiB.
fn write(counter: u64) -> (Bytes, Versions) {
    let spread = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let length = match counter % 64 {
        0 => 1024 * 1024,
        1..=6 => 4_000 + spread % 60_000,
        _ => 1 + spread % 300,
    };
    let mut versions = Versions::new();
    let dot = Dot {
        actor: Actor(1),
        counter,
    };
    let incoming = Incoming {
        write_id: WriteId(u128::from(counter)),
        timestamp: counter,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from(vec![counter as u8; length as usize])),
    };
    versions.write(&Clock::new(), dot, incoming);
    let key = counter.wrapping_mul(7) % KEYS;
    (Bytes::from(format!("key-{key}")), versions)
}

fn footprint_of(key: &[u8], stored: Option<Bytes>) -> Footprint {
    stored.map_or(Footprint::default(), |stored| {
        Footprint::of(key, &Versions::from_bytes(&stored).unwrap())
    })
}

/// The process to be killed: writes in groups, and says which are acknowledged.
fn write_until_killed(directory: &Path, first: u64, round: u64) -> ! {
    let store = DiskStore::open(directory, options(round)).unwrap();
    let mut out = std::io::stdout();
    for group in 0.. {
        let from = first + group * GROUP;
        for counter in from..from + GROUP {
            let (key, versions) = write(counter);
            let mutation = Mutation {
                before: footprint_of(&key, store.get(&key).unwrap()),
                after: Footprint::of(&key, &versions),
                key,
                versions: versions.to_bytes(),
            };
            store.apply(&[mutation]).unwrap();
        }
        store.sync().unwrap();
        writeln!(out, "\nsynced {}", from + GROUP - 1).unwrap();
        out.flush().unwrap();
    }
    unreachable!("the groups do not end");
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

/// Everything acknowledged is there, whole, and the totals are those of what is there. Returns the
/// highest write that was found.
fn check(store: &DiskStore, acknowledged: &BTreeMap<Bytes, u64>) -> u64 {
    let mut highest = 0;
    for (key, &counter) in acknowledged {
        let stored = store.get(key).unwrap();
        let stored = stored.unwrap_or_else(|| panic!("{key:?} is lost, it had {counter}"));
        let found = Versions::from_bytes(&stored)
            .unwrap()
            .clock()
            .counter(Actor(1));
        // A write that was not acknowledged may have got through: then it is there whole.
        assert!(
            found >= counter,
            "{key:?}: {counter} was acknowledged, {found} is there"
        );
        let (expected_key, expected) = write(found);
        assert_eq!((key, &stored), (&expected_key, &expected.to_bytes()));
        highest = highest.max(found);
    }
    let all = PageLimit {
        items_max: usize::MAX,
        bytes_max: usize::MAX,
    };
    let items = store.scan(PositionRange::ALL, None, all).unwrap().items;
    assert!(items.len() >= acknowledged.len());
    let mut counted = Totals::default();
    for item in &items {
        let versions = Versions::from_bytes(&item.versions).unwrap();
        highest = highest.max(versions.clock().counter(Actor(1)));
        let tally = Tally::of(&versions);
        counted.keys += 1;
        counted.versions += tally.versions;
        counted.live_bytes += tally.value_bytes;
    }
    let totals = store.totals();
    counted.disk_bytes = totals.disk_bytes;
    assert_eq!(totals, counted, "what is counted is not what is there");
    let checked = check_store(store, &mut |_, _, _| ()).unwrap();
    assert_eq!(checked.findings, []);
    highest
}

#[test]
fn what_was_acknowledged_survives_kill_minus_nine() {
    let argument = |name| std::env::var(name).ok();
    let number = |text: String| text.parse::<u64>().unwrap();
    if let (Some(directory), Some(first), Some(round)) =
        (argument(DIRECTORY), argument(FIRST), argument(ROUND))
    {
        write_until_killed(Path::new(&directory), number(first), number(round));
    }
    let rounds = argument(ROUNDS).map_or(8, number);
    let directory = tempfile::tempdir().unwrap();
    // The highest write acknowledged for each key, over all rounds.
    let mut acknowledged: BTreeMap<Bytes, u64> = BTreeMap::new();
    let mut next = 1;
    for round in 0..rounds {
        let last = run_and_kill(directory.path(), next, round);
        for counter in next..=last {
            let (key, _) = write(counter);
            acknowledged.insert(key, counter);
        }
        let store = DiskStore::open(directory.path(), options(round)).unwrap();
        let highest = check(&store, &acknowledged).max(last);
        println!("round {round}: {} writes acknowledged", last + 1 - next);
        if round % 4 == 3 {
            store.checkpoint().unwrap();
            check(&store, &acknowledged);
        }
        next = highest + GROUP;
    }
}
