use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{DiskOptions, DiskStore, Footprint, HintLog, Mutation, Store};

use super::*;

/// A data directory with a hundred keys; half of them in the log only.
fn data_directory() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    drop(DirectoryFiles::open(root.path()).unwrap());
    let options = DiskOptions::default();
    let store = DiskStore::open(root.path().join(STORE_DIRECTORY), options).unwrap();
    for counter in 1..=100 {
        let mut versions = Versions::new();
        let actor = Actor(1);
        let incoming = Incoming {
            write_id: WriteId(u128::from(counter)),
            timestamp: counter,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from_static(b"value")),
        };
        versions.write(&Clock::new(), Dot { actor, counter }, incoming);
        let key = Bytes::from(format!("key-{counter}"));
        let mutation = Mutation {
            before: Footprint::default(),
            after: Footprint::of(&key, &versions),
            versions: versions.to_bytes(),
            key,
        };
        store.apply(&[mutation]).unwrap();
        store.sync().unwrap();
        if counter == 50 {
            store.checkpoint().unwrap();
        }
    }
    root
}

fn damage_log(data_directory: &Path) {
    let log = data_directory.join("store/log");
    let files = fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let largest = files
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut content = fs::read(&largest).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(largest, content).unwrap();
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::from_slice(&report.data).unwrap()
}

#[test]
fn a_sound_store_is_clean_by_either_directory() {
    let root = data_directory();
    for directory in [root.path().to_owned(), root.path().join("store")] {
        let report = check(&directory, Format::Json);
        assert_eq!(report.exit, Exit::Ok);
        let document = json(&report);
        assert_eq!(document["clean"], true);
        assert_eq!(document["keys"], 100);
        assert_eq!(document["findings_total"], 0);
        assert_eq!(document["next"], serde_json::Value::Null);
    }
    let report = check(root.path(), Format::Plain);
    let line = String::from_utf8(report.data).unwrap();
    assert!(line.contains("/store\tclean\t100\t"), "{line}");
    assert_eq!(report.messages, "");
}

#[test]
fn damage_is_listed_with_what_to_do() {
    let root = data_directory();
    damage_log(root.path());
    let report = check(root.path(), Format::Json);
    assert_eq!(report.exit, Exit::Error);
    let document = json(&report);
    assert_eq!(document["clean"], false);
    assert_eq!(document["keys"], 50, "those of the checkpoint");
    let findings = document["findings"].as_array().unwrap();
    assert!(!findings.is_empty());
    assert!(findings[0]["place"].as_str().unwrap().contains("/log/"));
    let report = check(root.path(), Format::Table);
    assert!(
        report.messages.contains("next: start the node "),
        "{}",
        report.messages
    );
    let report = rewrite(root.path(), Format::Plain);
    assert_eq!(report.exit, Exit::Error);
    assert!(
        report.messages.contains("next: dynakv store check "),
        "{}",
        report.messages
    );
}

#[test]
fn the_hints_of_the_node_are_checked_too() {
    let root = data_directory();
    let document = json(&check(root.path(), Format::Json));
    assert_eq!(document["hint_records"], serde_json::Value::Null);
    {
        let files = DirectoryFiles::open(root.path()).unwrap();
        let file = files.append_file(HINTS_FILE).unwrap();
        let (mut log, _) = HintLog::open(Arc::new(file)).unwrap();
        for key in ["a", "b", "c"] {
            log.put(Bytes::from(key), b"hint").unwrap();
            log.sync().unwrap();
        }
    }
    let path = root.path().join(HINTS_FILE);
    let good = fs::read(&path).unwrap();
    for directory in [root.path().to_owned(), root.path().join("store")] {
        let report = check(&directory, Format::Json);
        assert_eq!(report.exit, Exit::Ok);
        assert_eq!(json(&report)["hint_records"], 3);
    }
    let mut bad = good.clone();
    bad[60] ^= 1;
    fs::write(&path, &bad).unwrap();
    let report = check(root.path(), Format::Json);
    assert_eq!(report.exit, Exit::Error);
    let document = json(&report);
    assert_eq!(document["hint_records"], 2);
    assert_eq!(document["findings_total"], 1);
    let place = document["findings"][0]["place"].as_str().unwrap();
    assert!(place.ends_with("hints.log at byte 28"), "{place}");
    assert_eq!(fs::read(&path).unwrap(), bad, "nothing is changed");
    // What a crash leaves is no damage.
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert_eq!(check(root.path(), Format::Json).exit, Exit::Ok);
}

#[test]
fn long_lists_are_cut_for_people() {
    let finding = dynakv_storage::Finding {
        place: "segment 0001".to_owned(),
        problem: "differs".to_owned(),
    };
    let checked = Checked {
        findings: vec![finding; 60],
        findings_total: 2000,
        ..Checked::default()
    };
    let report = checked_report(&checked, Path::new("/d/store"), Format::Plain);
    assert_eq!(
        report.data.iter().filter(|&&byte| byte == b'\n').count(),
        50
    );
    assert!(report.messages.contains("1950 more"), "{}", report.messages);
}

#[test]
fn a_running_node_is_left_alone() {
    let root = data_directory();
    let lock = DirectoryFiles::open(root.path()).unwrap();
    for directory in [root.path().to_owned(), root.path().join("store")] {
        for report in [
            check(&directory, Format::Plain),
            rewrite(&directory, Format::Plain),
        ] {
            assert_eq!(report.exit, Exit::Error);
            assert!(
                report.messages.contains("a node runs on"),
                "{}",
                report.messages
            );
        }
    }
    drop(lock);
    assert_eq!(check(root.path(), Format::Plain).exit, Exit::Ok);
}

/// What was set aside is nobody's: the node whose it was runs, and nothing of it is in the way.
#[test]
fn a_store_that_was_set_aside_is_checked_while_its_node_runs() {
    let root = data_directory();
    let aside = root.path().join("store.damaged-20261124T075240Z");
    fs::rename(root.path().join("store"), &aside).unwrap();
    let lock = DirectoryFiles::open(root.path()).unwrap();
    fs::write(root.path().join(HINTS_FILE), "hints of the node that runs").unwrap();
    assert_eq!(check(&aside, Format::Plain).exit, Exit::Ok);
    let again = root.path().join("store.damaged-20261124T075240Z-1");
    fs::rename(&aside, &again).unwrap();
    for (file, content) in [
        ("format", None),
        ("sled/conf", Some("this is no configuration")),
    ] {
        let path = again.join(file);
        let good = fs::read(&path).unwrap();
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let report = check(&again, Format::Json);
        assert_eq!(report.exit, Exit::Error, "{}", report.messages);
        let document = json(&report);
        let findings = document["findings"].to_string();
        assert!(findings.contains(file), "{findings}");
        assert!(!findings.contains("version"), "{findings}");
        // What can be read is read all the same.
        assert_eq!(document["keys"], 100, "{document}");
        fs::write(&path, good).unwrap();
    }
    assert_eq!(check(&again, Format::Plain).exit, Exit::Ok);
    drop(lock);
}

#[test]
fn what_is_no_store_is_a_usage_error_and_stays_empty() {
    let root = tempfile::tempdir().unwrap();
    for directory in [root.path().to_owned(), root.path().join("nowhere")] {
        let report = check(&directory, Format::Plain);
        assert_eq!(report.exit, Exit::Usage, "{}", report.messages);
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_rewrite_says_what_it_saved_and_the_store_is_clean() {
    let root = data_directory();
    let report = rewrite(root.path(), Format::Json);
    assert_eq!(report.exit, Exit::Ok, "{}", report.messages);
    let document = json(&report);
    assert_eq!(document["keys"], 100);
    assert!(document["bytes_before"].as_u64() >= document["bytes_after"].as_u64());
    assert_eq!(check(root.path(), Format::Plain).exit, Exit::Ok);
}

#[test]
fn a_directory_with_any_name_can_be_pasted() {
    let path = PathBuf::from("/data/it's mine");
    let quoted = r"'/data/it'\''s mine'";
    let full = StoreError::DiskFull { path: path.clone() };
    let corrupt = StoreError::CorruptStore {
        path,
        reason: "torn".to_owned(),
    };
    for (error, next) in [(full, "df -h"), (corrupt, "dynakv store check")] {
        let report = store_error(&error, "/data/it's mine", Format::Plain);
        let expected = format!("next: {next} {quoted}\n");
        assert!(report.messages.ends_with(&expected), "{}", report.messages);
    }
}
