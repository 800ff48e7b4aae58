//! What the store costs: `cargo bench -p dynakv-storage`.
//!
//! Processor time of the whole process, with the threads in the background, because a node shares its
//! processors with the requests. Values change with every write: sled takes an insertion of what is
//! there for nothing. The baseline is sled alone, with the same records and a flush per group, in the
//! same run.
//!
//! `DYNAKV_BENCH_KEYS` and `DYNAKV_BENCH_WRITES` change the size. It stays below 2 GB of disk and 1 GB of
//! memory.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynakv_protocol::hash::Position;
use dynakv_protocol::hash::versions_hash;
use dynakv_storage::{
    DiskOptions, DiskStore, Footprint, Mutation, PageLimit, PositionRange, Store, Tally,
};
use rustix::time::{ClockId, clock_gettime};

/// As in the node's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE_BYTES: usize = 120;
const GROUP: usize = 512;
/// Room for the whole tree: reading it from the disk is not what is measured here.
const CACHE_BYTES: u64 = 512 * 1024 * 1024;

/// What one measurement took.
#[derive(Clone, Copy)]
struct Cost {
    cpu: Duration,
    wall: Duration,
    count: usize,
}

impl Cost {
    fn cpu_us(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.count as f64
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measure(count: usize, work: impl FnOnce()) -> Cost {
    let (wall, before) = (Instant::now(), cpu());
    work();
    Cost {
        cpu: cpu().saturating_sub(before),
        wall: wall.elapsed(),
        count,
    }
}

fn number(name: &str, default: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A key of 24 bytes.
fn key(index: u32) -> [u8; 24] {
    let mut key = *b"benchmark-key-0000000000";
    let mut rest = index;
    for digit in key.iter_mut().rev().take(10) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// The state of a key after write number `counter`.
fn value(counter: u64) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    for (part, chunk) in (0..).zip(value.chunks_mut(8)) {
        let mixed = (counter + part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&mixed.to_be_bytes());
    }
    value
}

/// Which keys are written or read, one after the other.
fn uniform(keys: usize, count: usize, random: &mut fastrand::Rng) -> Vec<u32> {
    (0..count).map(|_| random.u32(0..keys as u32)).collect()
}

/// The same with a few keys much wanted: Zipf's law with exponent 0.99.
fn zipfian(keys: usize, count: usize, random: &mut fastrand::Rng) -> Vec<u32> {
    let mut sum = 0.0;
    let weights: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-0.99);
            sum
        })
        .collect();
    (0..count)
        .map(|_| {
            let wanted = random.f64() * sum;
            let rank = weights.partition_point(|&up_to| up_to < wanted);
            // The wanted ones are spread over all keys.
            ((rank as u64 * 2_654_435_761) % keys as u64) as u32
        })
        .collect()
}

struct Bench {
    store: DiskStore,
    counter: u64,
}

impl Bench {
    fn open(directory: &Path, options: DiskOptions) -> Self {
        Self {
            store: DiskStore::open(directory, options).unwrap(),
            // Whatever was written before, these values are others.
            counter: fastrand::u64(..1 << 60),
        }
    }

    /// A read and an apply per write, as the node's writer does it: it merges with what is there.
    fn write(&mut self, indices: &[u32]) {
        let tally = Tally {
            versions: 1,
            value_bytes: VALUE_BYTES as u64,
        };
        for group in indices.chunks(GROUP) {
            for &index in group {
                self.counter += 1;
                let key = key(index);
                let footprint = |versions: &[u8]| Footprint {
                    tally,
                    hash: versions_hash(&key, versions),
                };
                let old = self.store.get(&key).unwrap();
                let new = value(self.counter);
                let mutation = Mutation {
                    key: Bytes::copy_from_slice(&key),
                    versions: Bytes::copy_from_slice(&new),
                    before: old.map_or(Footprint::default(), |old| footprint(&old)),
                    after: footprint(&new),
                };
                self.store.apply(&[mutation]).unwrap();
            }
            self.store.sync().unwrap();
        }
    }

    fn read(&self, indices: &[u32]) {
        for &index in indices {
            assert!(self.store.get(&key(index)).unwrap().is_some());
        }
    }
}

/// sled by itself, as the store would use it without a log of its own.
struct Baseline {
    db: sled::Db,
    counter: u64,
}

impl Baseline {
    fn open(directory: &Path) -> Self {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .segment_size(4 * 1024 * 1024)
            .flush_every_ms(None);
        Self {
            db: config.open().unwrap(),
            counter: 0,
        }
    }

    fn record_key(index: u32) -> Vec<u8> {
        let key = key(index);
        let mut record_key = Position::of_key(&key).0.to_be_bytes().to_vec();
        record_key.extend_from_slice(&key);
        record_key
    }

    fn write(&mut self, indices: &[u32]) {
        for group in indices.chunks(GROUP) {
            for &index in group {
                self.counter += 1;
                let record_key = Self::record_key(index);
                black_box(self.db.get(&record_key).unwrap());
                let value = &value(self.counter)[..];
                self.db.insert(record_key, value).unwrap();
            }
            self.db.flush().unwrap();
        }
    }

    fn read(&self, indices: &[u32]) {
        for &index in indices {
            let found = self.db.get(Self::record_key(index)).unwrap().unwrap();
            assert_eq!(Bytes::copy_from_slice(&found).len(), VALUE_BYTES);
        }
    }
}

fn line(what: &str, target: &str, cost: Cost, baseline: Option<Cost>) {
    let figure = cost.cpu_us();
    let (baseline, ratio) = match baseline {
        Some(baseline) => {
            let us = baseline.cpu_us();
            (format!("{us:.2} µs"), format!("{:.1} ×", us / figure))
        }
        None => ("".to_owned(), "".to_owned()),
    };
    let per_second = cost.count as f64 / cost.wall.as_secs_f64();
    println!("| {what} | {target} | {figure:.2} µs | {per_second:.0} | {baseline} | {ratio} |");
}

/// The most memory that this process ever had.
fn memory_peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or_else(|| "unknown".to_owned(), |peak| peak.trim().to_owned())
}

/// What is measured, the same for the store and for the baseline.
struct Load {
    keys: usize,
    writes: usize,
    reads: usize,
    /// All keys, each once.
    order: Vec<u32>,
    /// Which keys are written, a few of them very often.
    skewed: Vec<u32>,
    /// Which keys are written, all of them alike.
    even: Vec<u32>,
}

impl Load {
    fn new(keys: usize, writes: usize, random: &mut fastrand::Rng) -> Self {
        let mut order: Vec<u32> = (0..keys as u32).collect();
        random.shuffle(&mut order);
        Self {
            keys,
            writes,
            reads: writes / 4,
            order,
            skewed: zipfian(keys, writes, random),
            even: uniform(keys, writes, random),
        }
    }
}

/// What the baseline costs.
struct Plain {
    load: Cost,
    skewed: Cost,
    even: Cost,
    get: Cost,
}

impl Plain {
    fn measure(load: &Load, directory: &Path) -> Self {
        let mut baseline = Baseline::open(directory);
        let fewer = |indices: &[u32]| indices[..load.writes / 8].to_vec();
        let loaded = measure(load.keys, || baseline.write(&load.order));
        let indices = fewer(&load.skewed);
        let skewed = measure(indices.len(), || baseline.write(&indices));
        let indices = fewer(&load.even);
        let even = measure(indices.len(), || baseline.write(&indices));
        let get = measure(load.reads, || baseline.read(&load.even[..load.reads]));
        drop(baseline);
        std::fs::remove_dir_all(directory).unwrap();
        Self {
            load: loaded,
            skewed,
            even,
            get,
        }
    }
}

/// Prints what writes cost. The checkpoint is part of the first ones: all of them are in the tree then.
fn measure_writes(bench: &mut Bench, load: &Load, plain: &Plain) {
    let cost = measure(load.keys, || {
        bench.write(&load.order);
        bench.store.checkpoint().unwrap();
    });
    let what = "first write of a key, tree included";
    line(what, "", cost, Some(plain.load));
    // A part before it is measured, so that a checkpoint is under way at both ends.
    bench.write(&load.skewed[..load.writes / 4]);
    let cost = measure(load.writes, || bench.write(&load.skewed));
    line("durable apply, zipfian", "≤ 3 µs", cost, Some(plain.skewed));
    bench.write(&load.even[..load.writes / 4]);
    let cost = measure(load.writes, || bench.write(&load.even));
    line("durable apply, uniform", "≤ 7 µs", cost, Some(plain.even));
}

/// Prints what reads and scans cost in a store that was opened anew.
fn measure_reads(bench: &Bench, load: &Load, plain: &Plain) {
    let cost = measure(load.keys, || bench.read(&load.order));
    line("first get of a key after a start", "", cost, None);
    let cost = measure(load.reads, || bench.read(&load.even[..load.reads]));
    line(
        "get, uniform, from the table",
        "≤ 1 µs",
        cost,
        Some(plain.get),
    );
    let cost = measure(load.reads, || bench.read(&load.skewed[..load.reads]));
    line(
        "get, zipfian, from the table",
        "≤ 0.4 µs",
        cost,
        Some(plain.get),
    );
    let limit = PageLimit {
        items_max: 1000,
        bytes_max: 1024 * 1024,
    };
    let cost = measure(load.keys, || {
        let mut after: Option<Bytes> = None;
        let mut count = 0;
        loop {
            let page = bench
                .store
                .scan(PositionRange::ALL, after.as_deref(), limit);
            let page = page.unwrap();
            count += page.items.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(count, load.keys);
    });
    line("scan, per key", "", cost, None);
}

/// Prints how long a store takes to open whose log has all of it: nothing is carried over.
fn measure_opening(load: &Load, directory: &Path, options: DiskOptions) {
    let unbounded = DiskOptions {
        memory_bytes: 16 << 30,
        log_bytes_max: u64::MAX,
        ..options
    };
    let mut bench = Bench::open(directory, unbounded);
    let bytes_per_write = 24 + VALUE_BYTES + 7;
    let log_writes = (256 * 1024 * 1024 / bytes_per_write).min(load.writes);
    bench.write(&load.even[..log_writes]);
    drop(bench);
    let log_bytes: u64 = std::fs::read_dir(directory.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    let began = Instant::now();
    let store = DiskStore::open(directory, unbounded).unwrap();
    println!(
        "\nopen with {} MB of log, {log_writes} writes: {:.2} s (target: ≤ 3 s for 256 MB)",
        log_bytes / 1_000_000,
        began.elapsed().as_secs_f64()
    );
    drop(store);
}

fn main() {
    // `cargo test --benches` runs it too, and only wants to know that it runs.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (keys, writes) = if is_bench {
        (1_000_000, 4_000_000)
    } else {
        (2_000, 10_000)
    };
    let keys = number("DYNAKV_BENCH_KEYS", keys);
    let writes = number("DYNAKV_BENCH_WRITES", writes);
    let mut random = fastrand::Rng::with_seed(1);
    let root = tempfile::tempdir().unwrap();
    let load = Load::new(keys, writes, &mut random);

    println!("{keys} keys of 24 B, values of {VALUE_BYTES} B, {GROUP} writes per sync");
    println!("| CPU of the process | target | figure | per second | sled alone | ratio |");
    println!("|---|---|---|---|---|---|");
    let plain = Plain::measure(&load, &root.path().join("sled"));
    let directory = root.path().join("store");
    let options = DiskOptions {
        memory_bytes: 2 * CACHE_BYTES,
        ..DiskOptions::default()
    };
    let mut bench = Bench::open(&directory, options);
    measure_writes(&mut bench, &load, &plain);
    bench.store.checkpoint().unwrap();
    // Opened anew, so that nothing is found in memory yet.
    drop(bench);
    let bench = Bench::open(&directory, options);
    measure_reads(&bench, &load, &plain);
    let disk = bench.store.totals().disk_bytes;
    drop(bench);
    measure_opening(&load, &root.path().join("log"), options);
    println!(
        "disk after all writes: {} MB for {} MB of keys and values; memory at most {}",
        disk / 1_000_000,
        keys * (24 + VALUE_BYTES) / 1_000_000,
        memory_peak()
    );
}
