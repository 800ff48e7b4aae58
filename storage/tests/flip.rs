//! One flipped bit anywhere in a store: what it serves is right, or it says that it is damaged.
//!
//! Every byte of our own files is flipped in turn, and many of sled's (`make flip`: all of them). Each time
//! the store is opened and all of it read: no panic gets out, no value is wrong, old or missing without a
//! word.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_protocol::causal::{Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, NodeId, WriteId};
use dynakv_storage::{
    Compaction, DirectoryFiles, DiskOptions, DiskStore, Durability, Footprint, Identity,
    IdentityError, LogPlace, Mutation, PageLimit, PositionRange, Store, StoreError, check_store,
};

/// How many bytes of sled's files are flipped; `make flip` asks for `all`.
const FLIPS: &str = "DYNAKV_FLIPS";
const FLIPS_DEFAULT: usize = 2_000;

/// How many keys the store has.
const KEYS: usize = 40;

const OPTIONS: DiskOptions = DiskOptions {
    memory_bytes: 100 * 1024 * 1024,
    log_bytes_max: 32 * 1024 * 1024,
    durability: Durability::Sync,
    reserve_bytes: None,
    compaction: Compaction::WhenWorth,
};

type States = BTreeMap<Bytes, Bytes>;

/// One key's next state, which replaces the one before.
fn write(
    store: &DiskStore,
    states: &mut BTreeMap<Bytes, Versions>,
    key: &str,
    counter: u64,
    length: usize,
) {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let versions = states.entry(key.clone()).or_default();
    let before = Footprint::of(&key, versions);
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
    let seen = versions.clock().clone();
    versions.write(&seen, dot, incoming);
    let mutation = Mutation {
        before,
        after: Footprint::of(&key, versions),
        versions: versions.to_bytes(),
        key,
    };
    store.apply(&[mutation]).unwrap();
}

/// A small store that has everything: several checkpoints with overwritten and large values, and a log
/// with a durable end.
fn build(directory: &Path, keys: usize) -> States {
    let mut states = BTreeMap::<Bytes, Versions>::new();
    let mut counter = 0;
    {
        let store = DiskStore::open(directory, OPTIONS).unwrap();
        for turn in 0..3 {
            for number in 0..keys {
                if number % (turn + 1) == 0 {
                    counter += 1;
                    let length = if number == 0 { 9_000 } else { 40 };
                    write(&store, &mut states, &format!("k{number}"), counter, length);
                }
            }
            store.checkpoint().unwrap();
        }
        for number in [1, 2, 100] {
            counter += 1;
            write(&store, &mut states, &format!("k{number}"), counter, 20);
            store.sync().unwrap();
        }
    }
    // A second file of the log.
    let store = DiskStore::open(directory, OPTIONS).unwrap();
    for number in [3, 101] {
        counter += 1;
        write(&store, &mut states, &format!("k{number}"), counter, 20);
        store.sync().unwrap();
    }
    drop(store);
    let states = states.into_iter();
    states.map(|(key, it)| (key, it.to_bytes())).collect()
}

/// What one flip came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything is right.
    Harmless,
    /// The store does not open, and says why.
    Refused,
    /// It opens, and some reads say that they are damaged.
    Reported,
    /// It must not be.
    Wrong(String),
}

fn is_typed(error: &StoreError) -> bool {
    error.is_corruption() || matches!(error, StoreError::Unsupported { .. })
}

/// When the bit flips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// sled reads its whole log when it opens, and notices.
    BeforeOpening,
    /// What is read later comes from the disk again.
    AfterOpening,
}

fn flip_in_place(path: &Path, at: usize, byte: u8) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[byte ^ 1 << (at % 8)], at as u64)
        .unwrap();
}

/// Reads all of an open store, in every way there is.
fn read_all(store: &DiskStore, states: &States) -> Outcome {
    let mut reported = 0;
    for (key, expected) in states {
        match store.get(key) {
            Ok(Some(found)) if found == expected => {}
            Ok(found) => {
                let found = found.map(|found| found.len());
                return Outcome::Wrong(format!("{key:?} reads as {found:?}"));
            }
            Err(error) if error.is_corruption() => reported += 1,
            Err(error) => return Outcome::Wrong(format!("reading {key:?}: {error}")),
        }
    }
    let limit = PageLimit {
        items_max: 7,
        bytes_max: usize::MAX,
    };
    let mut after: Option<Bytes> = None;
    let mut seen = 0;
    let mut damaged = 0;
    loop {
        match store.scan(PositionRange::ALL, after.as_deref(), limit) {
            Ok(page) => {
                for item in page.items {
                    if states.get(&item.key) != Some(&item.versions) {
                        return Outcome::Wrong(format!("the walk gives a wrong {:?}", item.key));
                    }
                    seen += 1;
                }
                after = page.next;
            }
            Err(StoreError::Corrupt { key, .. }) if after.as_ref() != Some(&key) => {
                damaged += 1;
                after = Some(key);
            }
            Err(error) if error.is_corruption() => {
                damaged += 1;
                after = None;
            }
            Err(error) => return Outcome::Wrong(format!("walking: {error}")),
        }
        if after.is_none() {
            break;
        }
    }
    if seen < states.len() && damaged == 0 {
        return Outcome::Wrong(format!("the walk gives {seen} of {} keys", states.len()));
    }
    let findings = match check_store(store, &mut |_, _, _| ()) {
        Ok(checked) => checked.findings_total,
        Err(error) => return Outcome::Wrong(format!("checking: {error}")),
    };
    if (reported > 0 || damaged > 0) && findings == 0 {
        return Outcome::Wrong("damage was met, and the check finds none".to_owned());
    }
    if reported > 0 || damaged > 0 || findings > 0 {
        Outcome::Reported
    } else {
        Outcome::Harmless
    }
}

fn files_below(directory: &Path, within: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory.join(within)).unwrap() {
        let entry = entry.unwrap();
        let path = within.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            files_below(directory, &path, found);
        } else {
            found.push(path);
        }
    }
}

/// All files, with their content, so that a copy needs no reading.
fn load(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut paths = Vec::new();
    files_below(directory, Path::new(""), &mut paths);
    let content = |path: PathBuf| {
        let content = fs::read(directory.join(&path)).unwrap();
        (path, content)
    };
    paths.into_iter().map(content).collect()
}

fn unload(directory: &Path, files: &BTreeMap<PathBuf, Vec<u8>>, flip: Option<&(PathBuf, usize)>) {
    fs::create_dir_all(directory.join("sled/blobs")).unwrap();
    for (path, content) in files {
        let at = flip.filter(|flip| flip.0 == *path).map(|flip| flip.1);
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // The empty end of a file stays a hole.
        let used = content
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1);
        fs::write(&path, &content[..used]).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(content.len() as u64).unwrap();
        if let Some(at) = at {
            flip_in_place(&path, at, content[at]);
        }
    }
}

/// In memory where there is such a place: the syncs of some thousand openings would take minutes.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap_or_else(|_| tempfile::tempdir().unwrap())
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Says every few seconds how far a long run is.
struct Progress {
    began: Instant,
    told: Mutex<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            told: Mutex::new(now),
        }
    }
}

impl Progress {
    fn tell(&self, total: usize, counts: &Mutex<[usize; 3]>, wrong: &Mutex<Vec<String>>) {
        let Ok(mut told) = self.told.try_lock() else {
            return;
        };
        if told.elapsed() < Duration::from_secs(10) {
            return;
        }
        *told = Instant::now();
        let [harmless, refused, reported] = *counts.lock().unwrap();
        let wrong = wrong.lock().unwrap().len();
        let done = harmless + refused + reported + wrong;
        let rate = done as f64 / self.began.elapsed().as_secs_f64();
        let left = (total - done) as f64 / rate;
        println!(
            "{done} of {total} flips, {rate:.0}/s, {left:.0} s left: {harmless} harmless, {refused} refused, \
             {reported} reported, {wrong} wrong"
        );
    }
}

/// Flips each of these bytes in a copy of its own, and returns how many came to what.
fn flip_each(
    files: &BTreeMap<PathBuf, Vec<u8>>,
    states: &States,
    flips: &[(PathBuf, usize)],
    moment: Moment,
) -> [usize; 3] {
    let next = AtomicUsize::new(0);
    let counts = Mutex::new([0; 3]);
    let wrong = Mutex::new(Vec::new());
    let progress = Progress::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |it| it.get().min(8)) {
            scope.spawn(|| {
                while let Some(flip) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (path, at) = flip;
                    let root = scratch();
                    let at_once = (moment == Moment::BeforeOpening).then_some(flip);
                    unload(root.path(), files, at_once);
                    let run = || match DiskStore::open(root.path(), OPTIONS) {
                        Ok(store) => {
                            if moment == Moment::AfterOpening {
                                flip_in_place(&root.path().join(path), *at, files[path][*at]);
                            }
                            read_all(&store, states)
                        }
                        Err(error) if is_typed(&error) => Outcome::Refused,
                        Err(error) => Outcome::Wrong(format!("opening: {error}")),
                    };
                    let outcome = catch_unwind(AssertUnwindSafe(run))
                        .unwrap_or_else(|_| Outcome::Wrong("a panic got out".to_owned()));
                    let index = match outcome {
                        Outcome::Harmless => 0,
                        Outcome::Refused => 1,
                        Outcome::Reported => 2,
                        Outcome::Wrong(what) => {
                            let place = format!("{} byte {at}: {what}", path.display());
                            wrong.lock().unwrap().push(place);
                            continue;
                        }
                    };
                    counts.lock().unwrap()[index] += 1;
                    progress.tell(flips.len(), &counts, &wrong);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let counts = counts.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} of {} flips, besides {counts:?} good ones:\n{}",
        wrong.len(),
        flips.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    counts
}

/// sled panics on much of what damage does, in threads of its own, too.
fn silence_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map_or("", |location| location.file());
        if !location.contains("sled") && !location.contains("/rustc/") {
            eprintln!("{panic}");
        }
    }));
}

#[test]
fn a_flipped_bit_in_a_file_of_ours_is_noticed_or_harmless() {
    silence_panics();
    let root = scratch();
    let states = build(root.path(), KEYS);
    let files = load(root.path());
    let store = DiskStore::open(root.path(), OPTIONS).unwrap();
    assert_eq!(read_all(&store, &states), Outcome::Harmless);
    drop(store);
    let mut flips = Vec::new();
    for (path, content) in &files {
        // What the ballast holds is nobody's business.
        let is_ours = !path.starts_with("sled") && !path.ends_with("ballast")
            || path.ends_with("sled/synced");
        if is_ours {
            flips.extend((0..content.len()).map(|at| (path.clone(), at)));
        }
    }
    let [harmless, refused, reported] = flip_each(&files, &states, &flips, Moment::BeforeOpening);
    println!("{harmless} harmless, {refused} refused, {reported} reported");
    // Most of the bytes are the log's: what was acknowledged, and is gone.
    assert!(refused > 300, "{refused} of {}", flips.len());
    // The two marks only.
    assert!(harmless <= 20 + 12, "{harmless} of {}", flips.len());
}

#[test]
fn a_flipped_bit_in_a_file_of_sleds_is_noticed_or_harmless() {
    silence_panics();
    let root = scratch();
    let asked = std::env::var(FLIPS).ok();
    let is_all = asked.as_deref() == Some("all");
    // Each key has a page of hashes of its own, and all of its bytes are to be flipped.
    let states = build(root.path(), if is_all { 4 } else { KEYS });
    let files = load(root.path());
    let mut all = Vec::new();
    for (path, content) in &files {
        if path.starts_with("sled") && !path.ends_with("sled/synced") {
            // Behind it nothing was ever written.
            let used = content
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |at| at + 1);
            all.extend((0..used).map(|at| (path.clone(), at)));
        }
    }
    println!("{} bytes of sled's", all.len());
    if !is_all {
        fastrand::Rng::with_seed(7).shuffle(&mut all);
        all.truncate(FLIPS_DEFAULT);
    }
    let flips = all;
    for moment in [Moment::BeforeOpening, Moment::AfterOpening] {
        let [harmless, refused, reported] = flip_each(&files, &states, &flips, moment);
        println!("{moment:?}: {harmless} harmless, {refused} refused, {reported} reported");
        // An open store has nearly all of so few keys in memory.
        let (noticed, expected) = match moment {
            Moment::BeforeOpening => (refused, 1000),
            Moment::AfterOpening => (reported, 5),
        };
        assert!(
            noticed > expected,
            "{moment:?}: {noticed} of {} flips",
            flips.len()
        );
    }
}

#[test]
fn a_flipped_bit_in_an_identity_is_refused_or_an_unclean_stop() {
    let root = scratch();
    let mut number = 0;
    let mut random = || {
        number += 1;
        number
    };
    let name = NodeId::new("node-1").unwrap();
    let actor = {
        let files = DirectoryFiles::open(root.path()).unwrap();
        let run = Identity::start(&files, name.clone(), &mut random)
            .unwrap()
            .identity;
        run.mark_clean(&files, run.actor, 9, LogPlace::default())
            .unwrap();
        run.actor
    };
    let files = load(root.path());
    let mut flips = 0;
    for (path, content) in &files {
        for at in 0..content.len() {
            let copy = scratch();
            unload(copy.path(), &files, Some(&(path.clone(), at)));
            let files = DirectoryFiles::open(copy.path()).unwrap();
            match Identity::start(&files, name.clone(), &mut random) {
                Ok(started) => assert_ne!(started.identity.actor, actor, "{path:?} byte {at}"),
                Err(IdentityError::Store(error)) => assert!(error.is_corruption(), "{error}"),
                Err(error) => panic!("{path:?} byte {at}: {error}"),
            }
            flips += 1;
        }
    }
    assert!(flips > 50, "{flips} bytes");
}
