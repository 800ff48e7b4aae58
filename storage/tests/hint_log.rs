//! The log of hints holds what a map would hold, through starts, kills, power cuts, damage and full disks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dynakv_storage::hint_log::{HINT_BYTES_MAX, HINT_KEY_BYTES_MAX, Pieces};
use dynakv_storage::{
    AppendFile, DirectoryFiles, HINTS_FILE, HintLog, MemoryDisk, Opened, StoreError, check_hints,
};

type Model = BTreeMap<Bytes, Vec<u8>>;

/// The header of a file and of a record, in bytes.
const HEADER: usize = 28;
const RECORD: usize = 33;

/// A disk in memory whose content a test can set, with limited room.
struct TestFile {
    content: Mutex<Vec<u8>>,
    /// How large the file may become.
    room: AtomicU64,
    /// How large one that replaces it may become.
    room_beside: AtomicU64,
    /// Whether a sync fails.
    fails: Mutex<bool>,
    /// How often the content was replaced.
    replaced: AtomicU64,
}

impl TestFile {
    fn new(content: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            content: Mutex::new(content.to_vec()),
            room: AtomicU64::new(u64::MAX),
            room_beside: AtomicU64::new(u64::MAX),
            fails: Mutex::new(false),
            replaced: AtomicU64::new(0),
        })
    }

    fn content(&self) -> Vec<u8> {
        self.content.lock().unwrap().clone()
    }

    fn full(&self) -> StoreError {
        StoreError::DiskFull { path: self.path() }
    }
}

impl AppendFile for TestFile {
    fn path(&self) -> PathBuf {
        PathBuf::from("test")
    }

    fn len(&self) -> Result<u64, StoreError> {
        Ok(self.content.lock().unwrap().len() as u64)
    }

    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError> {
        let content = self.content.lock().unwrap();
        let from = (at as usize).min(content.len());
        let to = (from + length).min(content.len());
        Ok(Bytes::copy_from_slice(&content[from..to]))
    }

    fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut content = self.content.lock().unwrap();
        let room = (self.room.load(Ordering::Relaxed) as usize).saturating_sub(content.len());
        content.extend_from_slice(&bytes[..room.min(bytes.len())]);
        match room < bytes.len() {
            true => Err(self.full()),
            false => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        match *self.fails.lock().unwrap() {
            true => Err(StoreError::SyncFailed {
                path: self.path(),
                source: std::io::Error::other("test"),
            }),
            false => Ok(()),
        }
    }

    fn truncate(&self, length: u64) -> Result<(), StoreError> {
        self.content.lock().unwrap().truncate(length as usize);
        Ok(())
    }

    fn replace(&self, pieces: Pieces<'_>) -> Result<(), StoreError> {
        let mut new = Vec::new();
        while let Some(piece) = pieces()? {
            new.extend_from_slice(&piece);
            if new.len() as u64 > self.room_beside.load(Ordering::Relaxed) {
                return Err(self.full());
            }
        }
        *self.content.lock().unwrap() = new;
        self.replaced.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn open(file: &Arc<TestFile>) -> (HintLog, Opened) {
    HintLog::open(file.clone()).unwrap()
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

/// All that the log has, by each of the ways to read it.
fn contents(log: &HintLog) -> Model {
    let mut all = Model::new();
    log.for_each(|key, document| {
        all.insert(key.clone(), document?.to_vec());
        Ok(())
    })
    .unwrap();
    let entries: Vec<_> = log
        .entries()
        .map(|(key, length)| (key.clone(), length))
        .collect();
    let expected: Vec<_> = all
        .iter()
        .map(|(key, it)| (key.clone(), it.len()))
        .collect();
    assert_eq!(entries, expected);
    assert_eq!(log.len(), all.len());
    let mut live_bytes = 0;
    for (key, document) in &all {
        assert_eq!(log.get(key).unwrap().unwrap(), *document);
        assert!(log.contains(key));
        live_bytes += (RECORD + key.len() + document.len()) as u64;
    }
    assert_eq!(log.live_bytes(), live_bytes);
    all
}

/// A file whose syncs can be left out: a power cut may come before any of them.
struct Unsynced {
    file: Arc<dyn AppendFile>,
    is_left_out: Arc<AtomicBool>,
}

impl AppendFile for Unsynced {
    fn path(&self) -> PathBuf {
        self.file.path()
    }

    fn len(&self) -> Result<u64, StoreError> {
        self.file.len()
    }

    fn read(&self, at: u64, length: usize) -> Result<Bytes, StoreError> {
        self.file.read(at, length)
    }

    fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.append(bytes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        match self.is_left_out.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.file.sync(),
        }
    }

    fn truncate(&self, length: u64) -> Result<(), StoreError> {
        self.file.truncate(length)
    }

    fn replace(&self, pieces: Pieces<'_>) -> Result<(), StoreError> {
        self.file.replace(pieces)
    }
}

/// What a power cut does to the disk under test.
trait Power {
    fn file(&self) -> Arc<dyn AppendFile>;
    /// Cuts it, the log gone: what is behind `synced_bytes` may be there, or a part of it.
    fn cut(&self, random: &mut fastrand::Rng, synced_bytes: u64);
}

impl Power for MemoryDisk {
    fn file(&self) -> Arc<dyn AppendFile> {
        self.hints()
    }

    fn cut(&self, random: &mut fastrand::Rng, _: u64) {
        self.crash_keeping(random.usize(0..50));
    }
}

struct Directory(tempfile::TempDir);

impl Power for Directory {
    fn file(&self) -> Arc<dyn AppendFile> {
        let files = DirectoryFiles::open(self.0.path()).unwrap();
        Arc::new(files.append_file(HINTS_FILE).unwrap())
    }

    fn cut(&self, random: &mut fastrand::Rng, synced_bytes: u64) {
        let path = self.0.path().join(HINTS_FILE);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        // As file systems do: a piece of what was written, or zeros in its place.
        let cut = random.u64(synced_bytes.min(length)..=length);
        file.set_len(cut).unwrap();
        if random.bool() {
            file.set_len(cut + random.u64(0..100)).unwrap();
        }
    }
}

/// Random work; returns how often a power cut tore something.
fn run_model(disk: &dyn Power, seed: u64, steps: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let is_left_out = Arc::new(AtomicBool::new(false));
    let open = || {
        is_left_out.store(false, Ordering::Relaxed);
        HintLog::open(Arc::new(Unsynced {
            file: disk.file(),
            is_left_out: is_left_out.clone(),
        }))
        .unwrap()
    };
    let (mut log, _) = open();
    let mut torn = 0;
    let mut synced = contents(&log);
    // The states since the last sync: a power cut leaves one of them.
    let mut since = vec![synced.clone()];
    for _ in 0..steps {
        let mut state = since.last().unwrap().clone();
        match random.u32(0..100) {
            0..50 => {
                let key = key(random.usize(0..30));
                let mut document = vec![0; random.usize(0..300)];
                random.fill(&mut document);
                log.put(key.clone(), &document).unwrap();
                state.insert(key, document);
                since.push(state);
            }
            50..75 => {
                let key = key(random.usize(0..30));
                let was_there = log.remove(&key).unwrap();
                assert_eq!(was_there, state.remove(&key).is_some(), "seed {seed}");
                since.push(state);
            }
            75..90 => {
                log.sync().unwrap();
                assert!(!log.needs_sync());
                synced = state;
                since = vec![synced.clone()];
            }
            90..95 => {
                // The process is killed: what was not synced is gone, too.
                drop(log);
                let opened;
                (log, opened) = open();
                assert_eq!(opened, Opened::default(), "seed {seed}");
                assert_eq!(contents(&log), synced, "seed {seed}");
                since = vec![synced.clone()];
            }
            _ => {
                // In the middle of a sync.
                let synced_bytes = disk.file().len().unwrap();
                is_left_out.store(true, Ordering::Relaxed);
                log.sync().unwrap();
                drop(log);
                disk.cut(&mut random, synced_bytes);
                let opened;
                (log, opened) = open();
                torn += usize::from(opened.torn_bytes > 0);
                assert_eq!(opened.damaged, 0, "seed {seed}");
                synced = contents(&log);
                assert!(since.contains(&synced), "seed {seed}");
                since = vec![synced.clone()];
            }
        }
        assert_eq!(contents(&log), *since.last().unwrap(), "seed {seed}");
    }
    torn
}

#[test]
fn it_holds_what_a_map_holds_in_memory() {
    let torn = (0..40).map(|seed| run_model(&MemoryDisk::new(), seed, 300));
    assert!(torn.sum::<usize>() > 40);
}

#[test]
fn it_holds_what_a_map_holds_on_disk() {
    let directory = || Directory(tempfile::tempdir().unwrap());
    let torn = (0..6).map(|seed| run_model(&directory(), seed, 300));
    assert!(torn.sum::<usize>() > 6);
}

#[test]
fn a_power_cut_before_a_sync_leaves_a_beginning_and_no_half_of_anything() {
    let mut torn = 0;
    let mut kept_some = 0;
    for kept in 0..200 {
        let disk = MemoryDisk::new();
        let (mut log, _) = HintLog::open(disk.hints()).unwrap();
        log.put(key(0), b"synced").unwrap();
        log.sync().unwrap();
        drop(log);
        let (mut log, _) = HintLog::open(Arc::new(Unsynced {
            file: disk.hints(),
            is_left_out: Arc::new(true.into()),
        }))
        .unwrap();
        let mut states = vec![contents(&log)];
        for number in 0..10 {
            log.put(key(number % 4), &vec![number as u8; 5 * number])
                .unwrap();
            states.push(contents(&log));
        }
        log.sync().unwrap();
        drop(log);
        disk.crash_keeping(kept);
        // What the power cut left must not be lost by the next one, once it was read.
        let (log, opened) = HintLog::open(disk.hints()).unwrap();
        let left = contents(&log);
        let index = states.iter().position(|state| *state == left);
        assert!(index.is_some(), "kept {kept}");
        assert!(kept > 0 || index == Some(0));
        torn += u64::from(opened.torn_bytes > 0);
        kept_some += u64::from(index > Some(0));
        assert_eq!(opened.damaged, 0);
        drop(log);
        disk.crash();
        let (log, opened) = HintLog::open(disk.hints()).unwrap();
        assert_eq!((contents(&log), opened), (left, Opened::default()));
    }
    assert!(torn > 100 && kept_some > 100, "{torn} {kept_some}");
}

#[test]
fn what_a_killed_process_had_written_is_durable_once_it_was_read() {
    let disk = MemoryDisk::new();
    let unsynced = Unsynced {
        file: disk.hints(),
        is_left_out: Arc::new(true.into()),
    };
    let (mut log, _) = HintLog::open(Arc::new(unsynced)).unwrap();
    log.put(key(1), b"written").unwrap();
    log.sync().unwrap();
    drop(log);
    let read = contents(&HintLog::open(disk.hints()).unwrap().0);
    assert_eq!(read.len(), 1);
    disk.crash();
    assert_eq!(contents(&HintLog::open(disk.hints()).unwrap().0), read);
}

#[test]
fn hints_outlive_the_store_and_not_the_disk() {
    let disk = MemoryDisk::new();
    let (mut log, _) = HintLog::open(disk.hints()).unwrap();
    log.put(key(1), b"hint").unwrap();
    log.sync().unwrap();
    disk.crash();
    assert!(log.put(key(2), b"late").is_ok(), "it only waits");
    assert!(log.sync().is_err(), "the handle is of an earlier life");
    assert!(log.get(&key(1)).is_err());
    disk.wipe_store();
    let (log, _) = HintLog::open(disk.hints()).unwrap();
    assert_eq!(log.get(&key(1)).unwrap().unwrap(), "hint");
    disk.crash();
    disk.wipe();
    assert!(HintLog::open(disk.hints()).unwrap().0.is_empty());
    // A disk that breaks is final for this log.
    let (mut log, _) = HintLog::open(disk.hints()).unwrap();
    disk.break_writes();
    log.put(key(3), b"x").unwrap();
    assert!(log.sync().is_err());
    disk.crash();
    assert!(matches!(log.sync(), Err(StoreError::Stopped { .. })));
}

/// A small file in several groups, with what each key had in the course of time.
fn small_file() -> (Vec<u8>, Model, BTreeMap<Bytes, BTreeSet<Vec<u8>>>) {
    let file = TestFile::new(&[]);
    let (mut log, _) = open(&file);
    let mut history: BTreeMap<Bytes, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for round in 0..3 {
        for number in 0..4 {
            let document = format!("document {round} of {number}").into_bytes();
            log.put(key(number), &document).unwrap();
            history.entry(key(number)).or_default().insert(document);
        }
        log.remove(&key(3)).unwrap();
        log.sync().unwrap();
    }
    log.put(key(9), b"the last").unwrap();
    history.insert(key(9), [b"the last".to_vec()].into());
    log.sync().unwrap();
    (file.content(), contents(&log), history)
}

/// Where each record begins, and at the end where the last one ends.
fn places(content: &[u8]) -> Vec<usize> {
    let mut places = vec![HEADER];
    let mut at = HEADER;
    while at < content.len() {
        let length = |from: usize| {
            let bytes = content[at + from..at + from + 4].try_into().unwrap();
            u32::from_be_bytes(bytes) as usize
        };
        at += RECORD + length(25) + length(29);
        places.push(at);
    }
    places
}

#[test]
fn a_flipped_bit_anywhere_costs_one_record_and_is_reported_until_it_is_dealt_with() {
    let (good, model, history) = small_file();
    let places = places(&good);
    let last = places[places.len() - 2];
    for at in 0..good.len() {
        for bit in [0, 3, 7] {
            let place = format!("byte {at}, bit {bit}");
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let file = TestFile::new(&bad);
            let (mut log, opened) = open(&file);
            if at < last {
                assert_eq!((opened.damaged, opened.torn_bytes), (1, 0), "{place}");
            } else {
                // What nothing behind vouches for: it may have been a power cut.
                let torn = (good.len() - last) as u64;
                assert_eq!((opened.damaged, opened.torn_bytes), (0, torn), "{place}");
            }
            let left = contents(&log);
            for (key, document) in &left {
                assert!(history[key].contains(document), "{place}");
            }
            // At most the key of the damaged record has not what it had.
            let keys: BTreeSet<_> = model.keys().chain(left.keys()).collect();
            let differing = keys
                .iter()
                .filter(|key| model.get(**key) != left.get(**key));
            assert!(differing.count() <= 1, "{place}");
            // The damage stays known, over starts and changes, until it is dealt with.
            log.put(key(7), b"new").unwrap();
            log.sync().unwrap();
            let expected = contents(&log);
            let (mut log, again) = open(&file);
            assert_eq!(
                (again.damaged, again.torn_bytes),
                (opened.damaged, 0),
                "{place}"
            );
            assert_eq!(contents(&log), expected, "{place}");
            log.forget_damage().unwrap();
            let (log, again) = open(&file);
            assert_eq!(
                (again, contents(&log)),
                (Opened::default(), expected),
                "{place}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_a_log_that_is_open_is_an_error_and_no_document() {
    let (good, model, _) = small_file();
    let file = TestFile::new(&good);
    let (mut log, _) = open(&file);
    for at in 0..good.len() {
        file.content.lock().unwrap()[at] ^= 0x10;
        let mut errors = 0;
        for (key, document) in &model {
            match log.get(key) {
                Ok(read) => assert_eq!(read.unwrap(), *document),
                Err(error) => {
                    assert!(matches!(error, StoreError::CorruptHint { .. }), "{error:?}");
                    assert!(error.is_corruption());
                    errors += 1;
                }
            }
        }
        assert!(errors <= 1);
        let mut by_walk = 0;
        log.for_each(|_, document| {
            by_walk += usize::from(document.is_err());
            Ok(())
        })
        .unwrap();
        assert_eq!(by_walk, errors);
        file.content.lock().unwrap()[at] ^= 0x10;
    }
    assert_eq!(contents(&log), model);

    // Written anew and opened again, it is still known as damaged, until it is removed.
    let at = good.windows(8).rposition(|it| it == b"the last").unwrap();
    file.content.lock().unwrap()[at] ^= 1;
    for number in 100..300 {
        log.put(key(number), &[0; 128 * 1024]).unwrap();
        log.sync().unwrap();
        log.remove(&key(number)).unwrap();
    }
    log.sync().unwrap();
    assert!(file.replaced.load(Ordering::Relaxed) > 0);
    for _ in 0..2 {
        assert!(log.contains(&key(9)));
        assert_eq!(log.len(), model.len());
        assert!(log.get(&key(9)).unwrap_err().is_corruption());
        assert_eq!(log.get(&key(1)).unwrap().unwrap(), model[&key(1)]);
        drop(log);
        log = open(&file).0;
    }
    assert!(log.remove(&key(9)).unwrap());
    log.sync().unwrap();
    assert_eq!(open(&file).0.get(&key(9)).unwrap(), None);
}

#[test]
fn a_file_that_is_cut_anywhere_has_what_is_whole() {
    let (good, ..) = small_file();
    let places = places(&good);
    for length in 0..good.len() {
        let file = TestFile::new(&good[..length]);
        let (mut log, opened) = open(&file);
        let whole = places.iter().rev().find(|place| **place <= length);
        match whole {
            Some(&end) => {
                assert_eq!(opened.torn_bytes, (length - end) as u64);
                assert_eq!((opened.damaged, file.content().len()), (0, end));
            }
            None => assert_eq!(opened.damaged, u64::from(length > 0), "a header is durable"),
        }
        let mut expected = contents(&log);
        log.put(key(7), b"new").unwrap();
        log.sync().unwrap();
        expected.insert(key(7), b"new".to_vec());
        assert_eq!(contents(&open(&file).0), expected);
    }
}

/// The last record that was synced looks torn when it is damaged, unless something behind it tells.
#[test]
fn a_mark_tells_damage_to_the_end_from_a_torn_end() {
    for is_marked in [false, true] {
        let file = TestFile::new(&[]);
        let (mut log, _) = open(&file);
        // An empty file needs none.
        log.mark_durable().unwrap();
        assert_eq!(file.content().len(), HEADER);
        log.put(key(1), b"first").unwrap();
        log.sync().unwrap();
        log.put(key(2), b"last").unwrap();
        // Nor does it say so of what waits.
        log.mark_durable().unwrap();
        assert!(log.needs_sync());
        log.sync().unwrap();
        let end = file.content().len();
        for _ in 0..3 {
            if is_marked {
                log.mark_durable().unwrap();
            }
        }
        assert_eq!(file.content().len(), end + usize::from(is_marked) * RECORD);
        file.content.lock().unwrap()[end - 1] ^= 1;
        let (log, opened) = open(&file);
        assert_eq!(opened.damaged, u64::from(is_marked));
        assert_eq!(opened.torn_bytes > 0, !is_marked);
        assert_eq!(log.len(), 1);
    }
    // On a full disk there is none, and no harm done.
    let file = TestFile::new(&[]);
    let (mut log, _) = open(&file);
    log.put(key(1), b"first").unwrap();
    log.sync().unwrap();
    let before = file.content();
    file.room.store(before.len() as u64 + 5, Ordering::Relaxed);
    assert!(log.mark_durable().unwrap_err().is_disk_full());
    assert_eq!(file.content(), before);
    file.room.store(u64::MAX, Ordering::Relaxed);
    log.mark_durable().unwrap();
    assert_eq!(file.content().len(), before.len() + RECORD);
}

#[test]
fn torn_in_the_middle_is_no_damage_later() {
    let (good, model, _) = small_file();
    let file = TestFile::new(&good);
    let (mut log, _) = open(&file);
    for number in 20..23 {
        log.put(key(number), b"of one group").unwrap();
    }
    log.sync().unwrap();
    // The power went before the sync, and the first page was not written.
    file.content.lock().unwrap()[good.len()..][..40].fill(0);
    let (mut log, opened) = open(&file);
    assert_eq!(opened.damaged, 0);
    assert!(opened.torn_bytes >= 40);
    assert_eq!(log.len(), model.len() + 2);
    log.put(key(30), b"later").unwrap();
    log.sync().unwrap();
    assert_eq!(open(&file).1, Opened::default());
}

#[test]
fn a_document_that_holds_records_is_not_taken_for_them() {
    // All of another log, and much that begins like a record.
    let (inner, ..) = small_file();
    let magic: Vec<u8> = inner[HEADER..HEADER + 4].repeat(200_000);
    let file = TestFile::new(&[]);
    let (mut log, _) = open(&file);
    log.put(key(100), b"before").unwrap();
    log.put(key(101), &inner).unwrap();
    log.put(key(102), &magic).unwrap();
    log.sync().unwrap();
    log.put(key(103), b"behind").unwrap();
    log.sync().unwrap();
    let places = places(&file.content());
    for place in [places[1], places[2]] {
        // The header, so that all inside is searched.
        file.content.lock().unwrap()[place] ^= 1;
    }
    let (log, opened) = open(&file);
    assert_eq!(opened.damaged, 1, "one gap");
    let keys: Vec<_> = log.entries().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, [key(100), key(103)]);
}

#[test]
fn no_bytes_make_it_panic() {
    let (good, ..) = small_file();
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..3000 {
        let mut content = good.clone();
        for _ in 0..random.usize(1..20) {
            let (from, to) = (
                random.usize(0..content.len()),
                random.usize(0..content.len()),
            );
            let length = random.usize(0..60).min(content.len() - from.max(to));
            match random.u8(0..4) {
                0 => content[from] = random.u8(..),
                1 => content.copy_within(from..from + length, to),
                2 => drop(content.drain(from..from + length)),
                _ => content[from..from + length].fill(0xff),
            }
            if content.is_empty() {
                content.push(0);
            }
        }
        let file = TestFile::new(&content);
        let (mut log, _) = match HintLog::open(file.clone()) {
            Ok(opened) => opened,
            Err(error) => panic!("{error}"),
        };
        contents(&log);
        log.put(key(1), b"again").unwrap();
        log.sync().unwrap();
        let expected = contents(&log);
        assert_eq!(contents(&open(&file).0), expected);
    }
}

#[test]
fn a_later_format_is_refused_and_left_as_it_is() {
    let (mut content, ..) = small_file();
    content[11] = 2;
    let sum = crc32(&content[..12]);
    content[12..16].copy_from_slice(&sum.to_be_bytes());
    let file = TestFile::new(&content);
    let error = HintLog::open(file.clone()).unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("format 2"), "{error}");
    assert_eq!(file.content(), content);
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(sum & 1));
        }
    }
    !sum
}

#[test]
fn it_is_written_anew_when_half_of_it_is_dead() {
    let directory = Directory(tempfile::tempdir().unwrap());
    let path = directory.0.path().join(HINTS_FILE);
    let (mut log, _) = HintLog::open(directory.file()).unwrap();
    let mut model = Model::new();
    let (mut largest, mut last, mut shrunk) = (0, 0, 0);
    for counter in 0..600_usize {
        let document = vec![counter as u8; 100_000 + counter];
        model.insert(key(counter % 50), document.clone());
        log.put(key(counter % 50), &document).unwrap();
        if counter % 10 == 9 {
            log.sync().unwrap();
            let length = fs::metadata(&path).unwrap().len();
            assert_eq!(length, log.file_bytes());
            largest = largest.max(length);
            shrunk += u32::from(length < last);
            last = length;
        }
    }
    assert!(largest > 14 << 20, "{largest}: small files are left alone");
    assert!(
        largest <= 16 << 20 && shrunk > 2,
        "{largest}: 60 MB were written"
    );
    assert_eq!(contents(&log), model);
    drop(log);
    let (mut log, opened) = HintLog::open(directory.file()).unwrap();
    assert_eq!(opened, Opened::default());
    assert_eq!(contents(&log), model);
    // With nothing live, it is empty.
    for number in 0..50 {
        assert!(log.remove(&key(number)).unwrap());
    }
    log.sync().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), HEADER as u64);
    assert_eq!((log.live_bytes(), log.file_bytes()), (0, HEADER as u64));
    log.put(key(1), b"and on").unwrap();
    log.sync().unwrap();
    drop(log);
    assert_eq!(
        contents(&HintLog::open(directory.file()).unwrap().0),
        [(key(1), b"and on".to_vec())].into()
    );
    assert_eq!(
        fs::read_dir(directory.0.path()).unwrap().count(),
        2,
        "and the lock"
    );
}

#[test]
fn damage_in_a_file_that_was_written_anew_is_damage() {
    let file = TestFile::new(&small_file().0);
    let (mut log, _) = open(&file);
    // Makes it dirty, so that forgetting writes it anew.
    file.content.lock().unwrap()[HEADER + 10] ^= 1;
    drop(log);
    (log, _) = open(&file);
    log.forget_damage().unwrap();
    let good = file.content();
    for at in HEADER..good.len() - RECORD {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(open(&TestFile::new(&bad)).1.damaged, 1, "byte {at}");
    }
}

#[test]
fn a_full_disk_costs_what_was_not_synced_and_nothing_else() {
    let (good, mut model, _) = small_file();
    for room in 0..200 {
        let file = TestFile::new(&good);
        let (mut log, _) = open(&file);
        file.room.store(good.len() as u64 + room, Ordering::Relaxed);
        log.put(key(1), &[1; 50]).unwrap();
        log.put(key(50), &[2; 50]).unwrap();
        log.remove(&key(2)).unwrap();
        log.remove(&key(50)).unwrap();
        log.put(key(51), &[3; 50]).unwrap();
        let error = log.sync().unwrap_err();
        assert!(error.is_disk_full(), "{error:?}");
        assert!(!log.needs_sync());
        assert_eq!(contents(&log), model);
        assert_eq!(file.content(), good, "what was half written is cut off");
        log.sync().unwrap();
        file.room.store(u64::MAX, Ordering::Relaxed);
        log.put(key(52), b"room again").unwrap();
        log.sync().unwrap();
        assert_eq!(contents(&open(&file).0), contents(&log));
    }
    // Writing anew needs room, too: it is put off, and the log goes on.
    let file = TestFile::new(&good);
    let (mut log, _) = open(&file);
    let replaced = || file.replaced.load(Ordering::Relaxed);
    file.room_beside.store(1000, Ordering::Relaxed);
    let mut put = |log: &mut HintLog, turns: u8| {
        for turn in 0..turns {
            let document = vec![turn; 1 << 20];
            log.put(key(60), &document).unwrap();
            log.sync().unwrap();
            model.insert(key(60), document);
        }
        assert_eq!(contents(log), model);
    };
    put(&mut log, 25);
    assert_eq!(replaced(), 0);
    file.room_beside.store(u64::MAX, Ordering::Relaxed);
    put(&mut log, 1);
    assert_eq!(replaced(), 0, "not tried at every sync");
    put(&mut log, 14);
    assert_eq!(replaced(), 1);
    assert_eq!(contents(&open(&file).0), contents(&log));
}

#[test]
fn a_failed_sync_is_final() {
    let (good, model, _) = small_file();
    let file = TestFile::new(&good);
    let (mut log, _) = open(&file);
    log.put(key(1), b"never acknowledged").unwrap();
    *file.fails.lock().unwrap() = true;
    assert!(matches!(log.sync(), Err(StoreError::SyncFailed { .. })));
    *file.fails.lock().unwrap() = false;
    for result in [
        log.sync(),
        log.put(key(1), b"x"),
        log.remove(&key(1)).map(|_| ()),
        log.forget_damage(),
    ] {
        assert!(
            matches!(result, Err(StoreError::Stopped { .. })),
            "{result:?}"
        );
    }
    assert_eq!(contents(&log), model);
}

#[test]
fn what_is_too_large_is_refused_and_what_is_largest_taken() {
    let file = TestFile::new(&[]);
    let (mut log, _) = open(&file);
    let long = Bytes::from(vec![b'k'; HINT_KEY_BYTES_MAX + 1]);
    let error = log.put(long.clone(), b"").unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    let error = log.put(key(1), &vec![0; HINT_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    assert!(!log.needs_sync());
    log.put(long.slice(1..), b"").unwrap();
    log.put(Bytes::new(), b"the empty key").unwrap();
    // More than may wait: it is synced on the way.
    for number in 0..40 {
        log.put(key(number), &vec![1; 1 << 20]).unwrap();
    }
    assert!(file.len().unwrap() > 32 << 20);
    log.sync().unwrap();
    let (log, _) = open(&file);
    assert_eq!(log.len(), 42);
    assert_eq!(log.get(&[]).unwrap().unwrap(), "the empty key");
}

#[test]
fn a_check_names_damage_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(HINTS_FILE);
    assert_eq!(check_hints(&path).unwrap(), None);
    let (mut content, ..) = small_file();
    fs::write(&path, &content).unwrap();
    let checked = check_hints(&path).unwrap().unwrap();
    let places = places(&content);
    assert_eq!(checked.records, places.len() as u64 - 1);
    assert_eq!((checked.damaged.len(), checked.torn_bytes), (0, 0));
    content[places[3] + 20] ^= 1;
    content.extend_from_slice(b"torn");
    fs::write(&path, &content).unwrap();
    let checked = check_hints(&path).unwrap().unwrap();
    let length = (places[4] - places[3]) as u64;
    assert_eq!(checked.damaged, [(places[3] as u64, length)]);
    assert_eq!(checked.torn_bytes, 4);
    assert_eq!(fs::read(&path).unwrap(), content);
}

/// The note of who writes the file is in its marks, so it outlives what is written behind it, a rewriting, and a
/// torn end; and whoever reads only documents does not see it.
#[test]
fn a_note_of_a_run_outlives_what_comes_after_it() {
    let disk = MemoryDisk::new();
    let open = || HintLog::open(disk.hints()).unwrap().0;
    let mut log = open();
    assert_eq!(log.run_note(), None);
    log.note_run(b"one").unwrap();
    let mut log = open();
    assert_eq!(log.run_note().map(|note| &note[..]), Some(&b"one"[..]));
    assert!(log.is_empty());
    log.note_run(b"two").unwrap();
    log.put(Bytes::from_static(b"k"), b"document").unwrap();
    log.sync().unwrap();
    log.mark_durable().unwrap();
    let mut log = open();
    assert_eq!(log.run_note().map(|note| &note[..]), Some(&b"two"[..]));
    assert_eq!(
        log.get(b"k").unwrap(),
        Some(Bytes::from_static(b"document"))
    );
    // Written anew, once nothing in it is live.
    log.put(Bytes::from_static(b"large"), &vec![7; 128 * 1024])
        .unwrap();
    log.remove(b"large").unwrap();
    log.remove(b"k").unwrap();
    log.sync().unwrap();
    assert!(log.file_bytes() < 1024, "{}", log.file_bytes());
    let log = open();
    assert_eq!(log.run_note().map(|note| &note[..]), Some(&b"two"[..]));
}
