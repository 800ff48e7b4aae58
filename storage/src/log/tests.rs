//! The log against crashes and damage, without a store around it.

use std::collections::BTreeMap;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::error::Damage;
use crate::footprint::{Footprint, Tally};
use crate::items::Mutation;

type Found = Vec<(Bytes, Bytes)>;

fn mutation(key: &str, versions: &str) -> Mutation {
    Mutation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        versions: Bytes::copy_from_slice(versions.as_bytes()),
        before: Footprint::default(),
        after: Footprint {
            tally: Tally {
                versions: 1,
                value_bytes: versions.len() as u64,
            },
            hash: 0x0102_0304 << 64,
        },
    }
}

/// Replays; gives what was found, in order, and a writer that goes on behind it.
fn open(directory: &Path, first: Option<u64>) -> Result<(Found, LogWriter), StoreError> {
    let mut found = Vec::new();
    let replayed = replay(directory, first, |change| {
        let (key, versions) = change.pair.split_at(change.key_length);
        assert_eq!(change.after.value_bytes, versions.len() as u64);
        let copy = Bytes::copy_from_slice;
        found.push((copy(key), copy(versions)));
    })?;
    assert_eq!(replayed.changes, found.len() as u64);
    Ok((found, LogWriter::open(directory, replayed)?))
}

fn expected(range: std::ops::Range<usize>) -> Found {
    range
        .map(|at| {
            let mutation = mutation(&format!("key{at}"), &format!("value {at}"));
            (mutation.key, mutation.versions)
        })
        .collect()
}

fn append(log: &mut LogWriter, range: std::ops::Range<usize>) {
    for at in range {
        let mutation = mutation(&format!("key{at}"), &format!("value {at}"));
        log.append(&mutation).unwrap();
    }
}

/// A directory whose first file has four groups of three, all synced.
fn four_groups() -> (TempDir, PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut log) = open(directory.path(), None).unwrap();
    for group in 0..4 {
        append(&mut log, group * 3..group * 3 + 3);
        log.sync().unwrap();
    }
    let path = path_of(directory.path(), FIRST_FILE);
    let content = fs::read(&path).unwrap();
    (directory, path, content)
}

/// The same, and a fifth group that was written and not synced.
fn five_groups_four_synced() -> (TempDir, PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut log) = open(directory.path(), None).unwrap();
    for group in 0..4 {
        append(&mut log, group * 3..group * 3 + 3);
        log.sync().unwrap();
    }
    let path = path_of(directory.path(), FIRST_FILE);
    let synced = fs::read(&path).unwrap();
    append(&mut log, 12..15);
    log.write_out().unwrap();
    (directory, path, synced)
}

/// A copy of a directory, so that each case begins alike.
fn copy(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

#[test]
fn what_was_appended_is_replayed_in_order_across_starts_and_generations() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (found, mut log) = open(directory, None).unwrap();
    assert!(found.is_empty());
    append(&mut log, 0..5);
    log.sync().unwrap();
    append(&mut log, 5..7);
    log.sync().unwrap();
    drop(log);
    let (found, mut log) = open(directory, None).unwrap();
    assert_eq!(found, expected(0..7));
    append(&mut log, 7..9);
    let next = log.begin_generation().unwrap();
    append(&mut log, 9..12);
    log.sync().unwrap();
    assert_eq!(log.generation_files(), 1);
    drop(log);
    // The checkpoint of the first generation did not get through, then it did.
    assert_eq!(open(directory, None).unwrap().0, expected(0..12));
    assert_eq!(open(directory, Some(next)).unwrap().0, expected(9..12));
    assert!(list(directory).unwrap()[0] == next, "older files are gone");
}

#[test]
fn starts_without_writes_make_no_files() {
    let (directory, ..) = four_groups();
    for _ in 0..5 {
        open(directory.path(), None).unwrap();
    }
    assert_eq!(list(directory.path()).unwrap(), [1, 2]);
    // Nor is a file that was being made when the process died in the way.
    fs::write(directory.path().join("new"), b"dyn").unwrap();
    assert_eq!(open(directory.path(), None).unwrap().0, expected(0..12));
}

#[test]
fn a_group_that_was_never_synced_is_cut_off_and_the_log_goes_on() {
    let (directory, path, content) = five_groups_four_synced();
    let directory = directory.path();
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole[..content.len()], content[..]);
    for length in content.len()..whole.len() {
        let case = copy(directory);
        fs::write(path_of(case.path(), 1), &whole[..length]).unwrap();
        let (found, mut log) = open(case.path(), None).unwrap();
        assert_eq!(found, expected(0..12), "cut to {length}");
        let cut = fs::metadata(path_of(case.path(), 1)).unwrap().len();
        assert_eq!(cut, content.len() as u64);
        append(&mut log, 12..13);
        log.sync().unwrap();
        drop(log);
        assert_eq!(open(case.path(), None).unwrap().0, expected(0..13));
    }
    let case = copy(directory);
    assert_eq!(open(case.path(), None).unwrap().0, expected(0..15));
    // Pages reach the disk in any order: the beginning of the record may be what is missing.
    let mut holed = whole;
    holed[content.len()..content.len() + 40].fill(0);
    fs::write(&path, holed).unwrap();
    assert_eq!(open(directory, None).unwrap().0, expected(0..12));
}

#[test]
fn a_record_that_was_synced_after_another_vouches_for_it_without_the_mark() {
    let (directory, path, content) = four_groups();
    fs::remove_file(directory.path().join("synced")).unwrap();
    let record_at = record_starts(&content);
    for (group, at) in record_at.iter().enumerate() {
        let mut bad = content.clone();
        bad[at + 40] ^= 1;
        fs::write(&path, &bad).unwrap();
        let case = copy(directory.path());
        let outcome = open(case.path(), None);
        if group == 3 {
            // Nothing says that the last one was ever synced.
            assert_eq!(outcome.unwrap().0, expected(0..9));
            continue;
        }
        let error = outcome.map(|(found, _)| found).unwrap_err();
        let StoreError::CorruptLog {
            path: named,
            offset,
            readable_before,
            readable_after,
            ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(named, &path_of(case.path(), 1));
        assert_eq!(*offset, *at as u64);
        assert_eq!(*readable_before, group as u64 * 3);
        assert_eq!(*readable_after, 9 - group as u64 * 3);
    }
}

fn record_starts(content: &[u8]) -> Vec<usize> {
    (0..content.len())
        .filter(|&at| record::may_begin(content, at, FIRST_FILE))
        .collect()
}

#[test]
fn every_flipped_byte_of_what_was_synced_is_named() {
    let (directory, path, content) = four_groups();
    for at in 0..content.len() {
        for flip in [0x01, 0x80] {
            let mut bad = content.clone();
            bad[at] ^= flip;
            fs::write(&path, &bad).unwrap();
            match open(directory.path(), None).map(|(found, _)| found) {
                Err(StoreError::CorruptLog { path: named, .. }) => assert_eq!(named, path),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn every_truncation_of_what_was_synced_is_named() {
    let (directory, path, content) = four_groups();
    for length in 0..content.len() {
        fs::write(&path, &content[..length]).unwrap();
        match open(directory.path(), None).map(|(found, _)| found) {
            Err(StoreError::CorruptLog { path: named, .. }) => assert_eq!(named, path),
            other => panic!("cut to {length}: {other:?}"),
        }
    }
    fs::remove_file(&path).unwrap();
    match open(directory.path(), None).map(|(found, _)| found) {
        Err(StoreError::CorruptLog { damage, .. }) => assert_eq!(damage, Damage::MissingFile),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_was_complete_may_not_be_shorter_longer_or_missing() {
    let (directory, ..) = four_groups();
    let (_, mut log) = open(directory.path(), None).unwrap();
    append(&mut log, 12..15);
    log.sync().unwrap();
    let third = log.begin_generation().unwrap();
    append(&mut log, 15..18);
    log.sync().unwrap();
    drop(log);
    assert_eq!(third, 3);
    let is_damage = |case: &TempDir, first| {
        let error = open(case.path(), first).map(|(found, _)| found);
        assert!(
            matches!(error, Err(StoreError::CorruptLog { .. })),
            "{error:?}"
        );
    };
    for id in [1, 2] {
        let whole = fs::read(path_of(directory.path(), id)).unwrap();
        // Also where a record ends, so that nothing in the file itself is wrong.
        for length in 0..whole.len() {
            let case = copy(directory.path());
            fs::write(path_of(case.path(), id), &whole[..length]).unwrap();
            is_damage(&case, None);
        }
        let case = copy(directory.path());
        fs::write(path_of(case.path(), id), [&whole[..], b"more"].concat()).unwrap();
        is_damage(&case, None);
        let case = copy(directory.path());
        fs::remove_file(path_of(case.path(), id)).unwrap();
        is_damage(&case, None);
    }
    // The file of another number in the place of one.
    let case = copy(directory.path());
    fs::copy(path_of(case.path(), 1), path_of(case.path(), 2)).unwrap();
    is_damage(&case, None);
    let case = copy(directory.path());
    fs::remove_file(path_of(case.path(), third)).unwrap();
    is_damage(&case, Some(third));
    // A tree that is older than its log, or from elsewhere.
    is_damage(&copy(directory.path()), Some(7));
}

#[test]
fn a_value_larger_than_a_record_and_values_without_bytes_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut log) = open(directory.path(), None).unwrap();
    let large = "x".repeat(3_000_000);
    let mut model = BTreeMap::new();
    for (key, value) in [("a", ""), ("b", &large), ("", "c"), ("d", "d")] {
        log.append(&mutation(key, value)).unwrap();
        model.insert(Bytes::copy_from_slice(key.as_bytes()), value.to_owned());
    }
    log.sync().unwrap();
    drop(log);
    let found: BTreeMap<_, _> = open(directory.path(), None)
        .unwrap()
        .0
        .into_iter()
        .collect();
    assert_eq!(found.len(), model.len());
    assert!(model.iter().all(|(key, value)| found[key] == value));
}
