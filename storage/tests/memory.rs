//! How much memory and disk a store takes through many overwrites: `make memory`, in a process of its
//! own, because it looks at that of the whole process.

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_storage::{DiskOptions, DiskStore, Footprint, Mutation, Store, Tally};

/// As in the node's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Writes between two syncs.
const GROUP: u64 = 256;

/// How much disk a store takes at rest at most, as a multiple of what is live.
const DISK_MAX: f64 = 4.0;

struct Work {
    value_bytes: usize,
    keys: u64,
    writes: u64,
}

const WORKS: [Work; 3] = [
    Work {
        value_bytes: 100,
        keys: 500_000,
        writes: 10_000_000,
    },
    // Many times what the memory holds.
    Work {
        value_bytes: 100,
        keys: 10_000_000,
        writes: 20_000_000,
    },
    Work {
        value_bytes: 64 * 1024,
        keys: 16_000,
        writes: 200_000,
    },
];

/// What a store may take at most with these options: what it aims at, half of which is sled's cache, which sled
/// exceeds (by half, and by a fixed part for what it keeps of its pages), and what is in hand.
fn memory_bound(options: &DiskOptions) -> u64 {
    options.memory_bytes + options.memory_bytes / 4 + 512 * 1024 * 1024
}

/// A field of `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() * 1024
}

fn value(counter: u64, length: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(counter);
    let mut value = vec![0; length];
    random.fill(&mut value);
    Bytes::from(value)
}

#[test]
#[ignore = "make memory"]
fn memory_stays_within_what_the_options_say() {
    let options = DiskOptions::default();
    let bound = memory_bound(&options);
    for Work {
        value_bytes,
        keys,
        writes,
    } in WORKS
    {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), options).unwrap();
        let footprint = Footprint {
            tally: Tally {
                versions: 1,
                value_bytes: value_bytes as u64,
            },
            hash: 0,
        };
        let mut random = fastrand::Rng::with_seed(1);
        let began = Instant::now();
        let mut told = began;
        let mut loaded = Duration::ZERO;
        let report = |done: u64, store: &DiskStore| {
            let totals = store.totals();
            println!(
                "values of {value_bytes} B: {done} of {writes} writes, memory {} MB now, {} MB at most \
                 (bound {} MB), disk {} MB for {} MB: {:.1} ×",
                memory("VmRSS:") / 1_000_000,
                memory("VmHWM:") / 1_000_000,
                bound / 1_000_000,
                totals.disk_bytes / 1_000_000,
                totals.live_bytes / 1_000_000,
                totals.disk_bytes as f64 / totals.live_bytes.max(1) as f64,
            );
        };
        for counter in 0..writes {
            // Each key once, then any of them.
            let number = if counter < keys {
                counter
            } else {
                random.u64(0..keys)
            };
            let before = if counter < keys {
                Footprint::default()
            } else {
                footprint
            };
            let mutation = Mutation {
                key: Bytes::from(format!("key-{number:020}")),
                versions: value(counter, value_bytes),
                before,
                after: footprint,
            };
            store.apply(&[mutation]).unwrap();
            if counter % GROUP == GROUP - 1 {
                store.sync().unwrap();
            }
            if counter + 1 == keys {
                loaded = began.elapsed();
            }
            if told.elapsed() > Duration::from_secs(5) {
                report(counter + 1, &store);
                told = Instant::now();
            }
        }
        store.checkpoint().unwrap();
        report(writes, &store);
        let per_second = |count: u64, took: Duration| count as f64 / took.as_secs_f64();
        println!(
            "{keys} keys of {value_bytes} B: {:.0} loaded per second, {:.0} written over",
            per_second(keys, loaded),
            per_second(writes - keys, began.elapsed() - loaded),
        );
        let most = memory("VmHWM:");
        assert!(most <= bound, "{most} bytes, {bound} are permitted");
        let disk = await_room(&store);
        println!("disk at rest: {disk:.1} ×");
        assert!(disk <= DISK_MAX, "{disk} times what is live");
        drop(store);
        let began = Instant::now();
        let store = DiskStore::open(directory.path(), options).unwrap();
        println!("opened in {} ms", began.elapsed().as_millis());
        assert_eq!(store.totals().keys, keys);
    }
}

/// What the disk takes in the end, as a multiple of what is live: where it is more than it may be, once what can go has
/// gone.
fn await_room(store: &DiskStore) -> f64 {
    let began = Instant::now();
    loop {
        let totals = store.totals();
        let times = totals.disk_bytes as f64 / totals.live_bytes as f64;
        if times <= DISK_MAX || began.elapsed() > Duration::from_secs(120) {
            return times;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
