//! A store that is killed in the middle of its work opens again, and has everything that it had
//! acknowledged; and no dot ever names two values.
//!
//! `kill -9` leaves the system's caches as they are: it shows what the order of writes is worth, and not
//! whether files and directories were synced. Each round kills the writer at a moment of its own, with
//! bounds so small that a checkpoint is nearly always under way. The writer mints its dots as a node
//! does, under the actor of its identity. Its values are random, so what is found proves nothing by
//! itself: the killer keeps books of what the writer said that it would write, and what it had synced.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::WriteId;
use dynakv_protocol::causal::{Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::versions_hash;
use dynakv_protocol::ids::{Actor, NodeId};
use dynakv_storage::{
    Compaction, DirectoryFiles, DiskOptions, DiskStore, Durability, Footprint, Identity, LogPlace,
    Mutation, PageLimit, PositionRange, Store, check_store,
};

/// Tells the test binary that it is the process to be killed, and where to write.
const DIRECTORY: &str = "DYNAKV_TEST_KILL_DIRECTORY";
/// In which round it is.
const ROUND: &str = "DYNAKV_TEST_KILL_ROUND";
/// How often to kill: `make crash` asks for more than `make test`.
const ROUNDS: &str = "DYNAKV_CRASH_ROUNDS";

const TEST: &str = "what_was_acknowledged_survives_kill_minus_nine";

const KEYS: u64 = 300;

/// How many writes share a sync.
const GROUP: usize = 16;

/// From so many rounds on some kill must have hit a checkpoint.
const ROUNDS_ENOUGH: u64 = 50;

/// What one round does: all of it follows from its number.
#[derive(Clone, Copy)]
struct Round(u64);

impl Round {
    /// Small bounds of several kinds, so that log and window each fill first in some rounds.
    fn options(self) -> DiskOptions {
        DiskOptions {
            memory_bytes: [1_400_000, 14_000_000, 70_000][(self.0 % 3) as usize],
            log_bytes_max: [2_000_000, 600_000][(self.0 % 2) as usize],
            durability: match self.0 % 5 {
                4 => Durability::Interval(Duration::from_millis(20)),
                _ => Durability::Sync,
            },
            reserve_bytes: None,
            // In every other round room is given back all the time.
            compaction: match self.0 % 4 {
                1 | 2 => Compaction::Always,
                _ => Compaction::WhenWorth,
            },
        }
    }

    /// Whether checkpoints are asked for all the time.
    fn with_checkpoints(self) -> bool {
        self.0 % 2 == 1
    }

    /// Whether the writer stops in order after so many groups, and keeps its actor.
    fn groups(self) -> Option<usize> {
        (self.0 % 7 == 5).then_some(20)
    }

    /// From the first acknowledgement on, at any moment of the next half second.
    fn wait(self) -> Duration {
        Duration::from_micros(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 500_000)
    }
}

/// From 1 byte to 1 MiB, mostly small.
fn random_value() -> Bytes {
    let length = match fastrand::u32(..64) {
        0 => 1024 * 1024,
        1..=6 => fastrand::usize(4_000..64_000),
        _ => fastrand::usize(1..300),
    };
    let mut value = vec![0; length];
    fastrand::fill(&mut value);
    Bytes::from(value)
}

/// Says something to the killer. One write, so that lines of several threads do not mix.
fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Writes until it is killed, or its groups are done.
fn write(directory: &Path, round: Round) {
    let files = DirectoryFiles::open(directory).unwrap();
    let store = DiskStore::open(directory.join("store"), round.options()).unwrap();
    let random = || fastrand::u64(1..);
    let id = NodeId::new("node-1").unwrap();
    let identity = Identity::start(&files, id, random).unwrap().identity;
    let actor = identity.actor;
    let counter = Mutex::new(identity.counter_floor);
    let is_done = Mutex::new(false);
    std::thread::scope(|scope| {
        if round.with_checkpoints() {
            scope.spawn(|| {
                while !*is_done.lock().unwrap() {
                    say("checkpoint begins");
                    store.checkpoint().unwrap();
                    say("checkpoint ended");
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        for _ in 0..round.groups().unwrap_or(usize::MAX) {
            let mut highest = 0;
            for _ in 0..GROUP {
                let mut counter = counter.lock().unwrap();
                *counter += 1;
                highest = *counter;
                let dot = Dot {
                    actor,
                    counter: highest,
                };
                write_one(&store, dot);
            }
            store.sync().unwrap();
            say(&format!("synced {} {highest}", actor.0));
        }
        *is_done.lock().unwrap() = true;
    });
    drop(store);
    let counter = *counter.lock().unwrap();
    identity
        .mark_clean(&files, actor, counter, LogPlace::default())
        .unwrap();
    say("stopped");
}

/// A blind write, as the node makes it; or the key is removed.
fn write_one(store: &DiskStore, dot: Dot) {
    let key = Bytes::from(format!("key-{}", fastrand::u64(..KEYS)));
    let stored = store.get(&key).unwrap();
    if let Some(stored) = &stored
        && fastrand::u32(..8) == 0
    {
        say(&format!("removes {}", String::from_utf8_lossy(&key)));
        let hash = versions_hash(&key, stored);
        assert!(store.remove(&key, hash).unwrap());
        return;
    }
    let mut versions = match &stored {
        Some(stored) => Versions::from_bytes(stored).unwrap(),
        None => Versions::new(),
    };
    let before = match &stored {
        Some(_) => Footprint::of(&key, &versions),
        None => Footprint::default(),
    };
    let value = random_value();
    let Dot { actor, counter } = dot;
    let name = String::from_utf8_lossy(&key);
    say(&format!(
        "writes {} {counter} {name} {}",
        actor.0,
        sum(&value)
    ));
    let incoming = Incoming {
        write_id: WriteId(fastrand::u128(..)),
        timestamp: counter,
        expires_at_ms: None,
        value: Value::Bytes(value),
    };
    let seen = versions.clock().clone();
    versions.write(&seen, dot, incoming);
    let mutation = Mutation {
        before,
        after: Footprint::of(&key, &versions),
        key,
        versions: versions.to_bytes(),
    };
    store.apply(&[mutation]).unwrap();
}

fn sum(value: &[u8]) -> u128 {
    dynakv_protocol::hash::Position::of_key(value).0.into()
}

/// What one write was to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt {
    /// When it was announced: writes of one key follow each other.
    number: u64,
    key: String,
    sum: u128,
}

/// What the killer knows.
#[derive(Default)]
struct Books {
    attempts: BTreeMap<(u64, u64), Attempt>,
    /// The last write of each key that was acknowledged.
    acknowledged: BTreeMap<String, Attempt>,
    /// Announced, not acknowledged yet.
    open: Vec<Attempt>,
    /// How many writes and removals were announced.
    announced: u64,
    /// The last removal of each key.
    removed: BTreeMap<String, u64>,
    removals: u64,
    acknowledgements: u64,
    in_checkpoint: bool,
}

impl Books {
    fn note(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["writes", actor, counter, key, sum] => {
                let dot = (actor.parse().unwrap(), counter.parse().unwrap());
                self.announced += 1;
                let attempt = Attempt {
                    number: self.announced,
                    key: key.to_owned(),
                    sum: sum.parse().unwrap(),
                };
                self.open.push(attempt.clone());
                let other = self.attempts.insert(dot, attempt);
                assert_eq!(other, None, "the dot {dot:?} was given out twice");
            }
            ["removes", key] => {
                self.announced += 1;
                self.removals += 1;
                self.removed.insert(key.to_owned(), self.announced);
                self.open.push(Attempt {
                    number: self.announced,
                    key: key.to_owned(),
                    sum: 0,
                });
            }
            ["synced", ..] => {
                self.acknowledgements += self.open.len() as u64;
                for attempt in self.open.drain(..) {
                    self.acknowledged.insert(attempt.key.clone(), attempt);
                }
            }
            ["checkpoint", what] => self.in_checkpoint = what == "begins",
            // What the test framework prints.
            _ => {}
        }
    }

    /// Holds the store against what is known of it.
    fn check(&mut self, store: &DiskStore) {
        // Those of the killed process are there or not; the next process counts on what is there.
        self.open.clear();
        let all = PageLimit {
            items_max: usize::MAX,
            bytes_max: usize::MAX,
        };
        let items = store.scan(PositionRange::ALL, None, all).unwrap().items;
        let mut found = BTreeMap::new();
        for item in &items {
            let key = String::from_utf8(item.key.to_vec()).unwrap();
            let versions = Versions::from_bytes(&item.versions).unwrap();
            let [sibling] = versions.siblings() else {
                panic!("{key} has {} values", versions.siblings().len());
            };
            let Value::Bytes(value) = &sibling.value else {
                panic!("{key} was never deleted");
            };
            let Dot {
                actor: Actor(actor),
                counter,
            } = sibling.dot;
            let attempt = self.attempts.get(&(actor, counter));
            let attempt =
                attempt.unwrap_or_else(|| panic!("{key}: nobody wrote {:?}", sibling.dot));
            assert_eq!(attempt.key, key, "it belongs to another key");
            assert_eq!(
                attempt.sum,
                sum(value),
                "{key}: another value than was written"
            );
            found.insert(key, attempt.number);
        }
        for (key, attempt) in &self.acknowledged {
            // Where it is not there, the last removal was carried out.
            let removed = self.removed.get(key).copied();
            let number = found.get(key).copied().or(removed);
            let number = number.unwrap_or_else(|| panic!("{key} is lost, it had {attempt:?}"));
            assert!(
                number >= attempt.number,
                "{key}: change {} was acknowledged, {number} is what is there",
                attempt.number
            );
        }
        let checked = check_store(store, &mut |_, _, _| ()).unwrap();
        assert_eq!(checked.findings, []);
    }
}

/// Lets a writer run, and kills it unless it stops by itself in this round.
fn run(directory: &Path, round: Round, books: &mut Books) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.0.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut child = Some(child);
    let mut killer = None;
    let mut has_stopped = false;
    for line in lines {
        let line = line.unwrap();
        books.note(&line);
        has_stopped |= line == "stopped";
        if line.starts_with("synced ")
            && round.groups().is_none()
            && let Some(mut child) = child.take()
        {
            killer = Some(std::thread::spawn(move || {
                std::thread::sleep(round.wait());
                let lives = child.try_wait().unwrap().is_none();
                child.kill().unwrap(); // SIGKILL
                child.wait().unwrap();
                lives
            }));
        }
    }
    match (killer, child) {
        (Some(killer), _) => {
            let lived = killer.join().unwrap();
            assert!(lived, "the writer died by itself in round {}", round.0);
        }
        (None, Some(mut child)) => {
            assert!(child.wait().unwrap().success());
            assert!(has_stopped, "the writer acknowledged nothing");
        }
        (None, None) => unreachable!("whoever takes the child becomes the killer"),
    }
}

#[test]
fn what_was_acknowledged_survives_kill_minus_nine() {
    let argument = |name| std::env::var(name).ok();
    let number = |text: String| text.parse::<u64>().unwrap();
    if let (Some(directory), Some(round)) = (argument(DIRECTORY), argument(ROUND)) {
        return write(Path::new(&directory), Round(number(round)));
    }
    let rounds = argument(ROUNDS).map_or(8, number);
    let directory = tempfile::tempdir().unwrap();
    let mut books = Books::default();
    let (mut kills, mut in_checkpoint) = (0, 0);
    for round in (0..).map(Round) {
        if kills == rounds {
            break;
        }
        let before = books.acknowledgements;
        books.in_checkpoint = false;
        run(directory.path(), round, &mut books);
        let store = DiskStore::open(directory.path().join("store"), round.options()).unwrap();
        books.check(&store);
        let acknowledged = books.acknowledgements - before;
        println!("round {}: {acknowledged} writes acknowledged", round.0);
        if round.groups().is_none() {
            kills += 1;
            in_checkpoint += u64::from(books.in_checkpoint);
        }
        if round.0 % 4 == 3 {
            store.checkpoint().unwrap();
            books.check(&store);
        }
    }
    println!(
        "{kills} kills, {in_checkpoint} in a forced checkpoint; {} writes acknowledged, none lost; {} keys removed, none back; {} dots, none twice",
        books.acknowledgements,
        books.removals,
        books.attempts.len()
    );
    assert!(in_checkpoint > 0 || rounds < ROUNDS_ENOUGH);
}
