//! A store that is killed in the middle of its work has, when it is opened again, everything that it
//! had synced.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{Mutation, PageLimit, PositionRange, SledOptions, SledStore, Store, Tally};

/// Tells the test binary that it is the process to be killed, and where to write.
const DIRECTORY: &str = "DYNAKV_TEST_KILL_DIRECTORY";
/// From which number on it writes.
const FIRST: &str = "DYNAKV_TEST_KILL_FIRST";

const OPTIONS: SledOptions = SledOptions {
    cache_bytes: 8 * 1024 * 1024,
};
const KEYS: u64 = 300;
const GROUP: u64 = 16;
const CYCLES: u64 = 8;

/// Write number `counter`: the key follows from it, and so does the value. One in ten is large.
fn write(counter: u64) -> (Bytes, Versions) {
    let length = if counter.is_multiple_of(10) {
        20_000
    } else {
        120
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
        value: Value::Bytes(Bytes::from(vec![counter as u8; length])),
    };
    versions.write(&Clock::new(), dot, incoming);
    (Bytes::from(format!("key-{}", counter % KEYS)), versions)
}

/// The process to be killed: writes in groups, and says which are synced.
fn write_until_killed(directory: &Path, first: u64) -> ! {
    let store = SledStore::open(directory, OPTIONS).unwrap();
    let mut out = std::io::stdout();
    for group in 0.. {
        let from = first + group * GROUP;
        let mutations: Vec<Mutation> = (from..from + GROUP)
            .map(|counter| {
                let (key, versions) = write(counter);
                Mutation {
                    key,
                    versions: versions.to_bytes(),
                    // The totals of this process are never read.
                    before: Tally::default(),
                    after: Tally::of(&versions),
                }
            })
            .collect();
        store.apply(&mutations).unwrap();
        store.sync().unwrap();
        writeln!(out, "\nsynced {}", from + GROUP - 1).unwrap();
        out.flush().unwrap();
    }
    unreachable!("the groups do not end");
}

#[test]
fn what_was_synced_survives_kill_minus_nine() {
    if let (Ok(directory), Ok(first)) = (std::env::var(DIRECTORY), std::env::var(FIRST)) {
        write_until_killed(Path::new(&directory), first.parse().unwrap());
    }
    let directory = tempfile::tempdir().unwrap();
    // The highest counter acknowledged for each key, over all cycles.
    let mut synced: BTreeMap<Bytes, u64> = BTreeMap::new();
    let mut next = 1;
    for cycle in 0..CYCLES {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_synced_survives_kill_minus_nine"])
            .args(["--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .env(FIRST, next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        // Killed between two groups by the clock of this process, that is, anywhere in the next one.
        let groups = 20 + 7 * cycle as usize;
        let mut seen = 0;
        let mut killed = false;
        for line in lines {
            let line = line.unwrap();
            let Some(counter) = line.strip_prefix("synced ") else {
                continue;
            };
            acknowledged = counter.parse().unwrap();
            seen += 1;
            if seen >= groups && !killed {
                child.kill().unwrap(); // SIGKILL
                killed = true;
            }
        }
        assert!(killed, "the writer died by itself");
        child.wait().unwrap();
        for counter in next..=acknowledged {
            synced.insert(write(counter).0, counter);
        }

        let store = SledStore::open(directory.path(), OPTIONS).unwrap();
        let mut highest = acknowledged;
        for (key, &counter) in &synced {
            let stored = store.get(key).unwrap();
            let stored = stored.unwrap_or_else(|| panic!("{key:?} is lost, it had {counter}"));
            let found = Versions::from_bytes(&stored)
                .unwrap()
                .clock()
                .counter(Actor(1));
            // A write that was not acknowledged may have got through: then it is there whole.
            assert!(
                found >= counter,
                "{key:?}: {counter} was synced, {found} is there"
            );
            let (expected_key, expected) = write(found);
            assert_eq!((key, &stored), (&expected_key, &expected.to_bytes()));
            highest = highest.max(found);
        }
        let all = PageLimit {
            items_max: usize::MAX,
            bytes_max: usize::MAX,
        };
        let page = store.scan(PositionRange::ALL, None, all).unwrap();
        assert!(page.items.len() >= synced.len());
        let totals = store.totals();
        assert_eq!(totals.keys, page.items.len() as u64);
        assert_eq!(totals.corrupt_keys, 0);
        next = highest + GROUP;
    }
}
