//! A rewrite that is killed at any moment leaves one whole store in its place.

mod written;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use dynakv_storage::{
    DiskOptions, DiskStore, PageLimit, PositionRange, Store, check_store, rewrite_directory,
};

/// Tells the test binary that it is the process to be killed, and what to rewrite.
const DIRECTORY: &str = "DYNAKV_TEST_REWRITE_DIRECTORY";

const TEST: &str = "a_rewrite_that_is_killed_leaves_a_whole_store";

const ROUNDS: u64 = 12;
const KEYS: u64 = 2_000;

fn fill(store: &DiskStore) {
    for counter in 1..=2 * KEYS {
        let length = if counter % 50 == 0 { 20_000 } else { 100 };
        let key = Bytes::from(format!("key-{}", counter % KEYS));
        written::put(store, key, counter, vec![counter as u8; length]);
    }
    store.sync().unwrap();
}

/// Everything in a store, which is sound.
fn content(directory: &Path) -> BTreeMap<Bytes, Bytes> {
    let store = DiskStore::open(directory, DiskOptions::default()).unwrap();
    let checked = check_store(&store, &mut |_, _, _| ()).unwrap();
    assert_eq!(checked.findings, []);
    let all = PageLimit {
        items_max: usize::MAX,
        bytes_max: usize::MAX,
    };
    let page = store.scan(PositionRange::ALL, None, all).unwrap();
    let items = page.items.into_iter();
    items.map(|item| (item.key, item.versions)).collect()
}

#[test]
fn a_rewrite_that_is_killed_leaves_a_whole_store() {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        println!("\nbegins");
        rewrite_directory(Path::new(&directory), &mut |_, _, _| ()).unwrap();
        println!("\nended");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = DiskStore::open(&directory, DiskOptions::default()).unwrap();
    fill(&store);
    drop(store);
    let expected = content(&directory);
    assert_eq!(expected.len() as u64, KEYS);
    // How long a rewrite takes here, so that the kills spread over all of it.
    let began = std::time::Instant::now();
    rewrite_directory(&directory, &mut |_, _, _| ()).unwrap();
    let whole = began.elapsed();
    let mut ended = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "begins"));
        // The last ones at its end, where the two stores change places.
        let part = (round as f64 + 0.5) / ROUNDS as f64;
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * part * 2.0));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        ended += u64::from(lines.any(|line| line.unwrap() == "ended"));
        assert_eq!(content(&directory), expected, "round {round}");
    }
    println!("{ended} of {ROUNDS} ended before they were killed");
    assert!(ended < ROUNDS, "none was killed in time");
    rewrite_directory(&directory, &mut |_, _, _| ()).unwrap();
    assert_eq!(content(&directory), expected);
    let names = std::fs::read_dir(root.path()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store"], "nothing is left beside it");
}
