//! A process that has used up its file descriptors: the store names it, loses nothing, and goes on by itself
//! once there are some again. The limit is the process's, so this is a test binary of its own, with one test.

use std::fs::File;

use bytes::Bytes;
use dynakv_storage::{
    AppendFile, Change, DirectoryFiles, DiskOptions, DiskStore, Footprint, Mutation, SmallFiles,
    Store, StoreError,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Few, so that they are soon used up.
const LIMIT: u64 = 128;

const VALUE_BYTES: usize = 64 * 1024;

fn mutation(number: usize) -> Mutation {
    Mutation {
        key: Bytes::from(format!("key-{number}")),
        versions: Bytes::from(vec![number as u8; VALUE_BYTES]),
        before: Footprint::default(),
        after: Footprint::default(),
    }
}

/// Takes all descriptors that there are.
fn use_up() -> Vec<File> {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken
}

fn options() -> DiskOptions {
    DiskOptions {
        // Generations end soon, and each begins a file of the log.
        memory_bytes: 7 * 1024 * 1024,
        reserve_bytes: Some(0),
        ..DiskOptions::default()
    }
}

#[test]
fn a_shortage_of_descriptors_ends_nothing() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: hard,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let files = DirectoryFiles::open(directory.path().join("files")).unwrap();
    let appended = files.append_file("appended").unwrap();
    let store = DiskStore::open(&path, options()).unwrap();

    // Whatever needs a descriptor is refused in its own name; what was taken before stays.
    let taken = use_up();
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for number in 0..100 {
        match store.apply(&[mutation(number)]).and_then(|()| store.sync()) {
            Ok(()) => acknowledged.push(number),
            Err(error) => {
                assert!(error.is_shortage(), "{error:?}");
                assert!(error.to_string().contains("The disk is well"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && acknowledged.len() > 10, "{refused} refused");
    for &number in &acknowledged {
        let found = store.get(format!("key-{number}").as_bytes()).unwrap();
        assert_eq!(found, Some(mutation(number).versions));
    }
    store.admit(1, Change::Growth).unwrap();
    let refused = files.write_durable("document", b"new").unwrap_err();
    assert!(refused.is_shortage(), "{refused:?}");
    appended.append(b"kept").unwrap();
    let mut pieces = vec![Bytes::from_static(b"replaced")].into_iter();
    let refused = appended.replace(&mut || Ok(pieces.next())).unwrap_err();
    assert!(refused.is_shortage(), "{refused:?}");
    // Opening a store in a shortage finds no damage either.
    let other = directory.path().join("other");
    match DiskStore::open(&other, options()) {
        Err(error) => assert!(error.is_shortage(), "{error:?}"),
        Ok(_) => panic!("there was no descriptor for it"),
    }

    // Some are free again: it goes on by itself.
    drop(taken);
    for number in 100..200 {
        store.apply(&[mutation(number)]).unwrap();
        store.sync().unwrap();
        acknowledged.push(number);
    }
    files.write_durable("document", b"new").unwrap();
    assert_eq!(appended.read(0, 8).unwrap(), "kept");
    store.checkpoint().unwrap();
    drop(store);

    // A store that can be opened with hardly any descriptor to spare says so instead of calling it damaged.
    let mut outcomes = Vec::new();
    for spare in 0..24 {
        let mut taken = use_up();
        taken.truncate(taken.len() - spare);
        let opened = DiskStore::open(&path, options());
        drop(taken);
        match opened {
            Ok(_store) => outcomes.push(true),
            Err(StoreError::Locked { .. }) => {}
            Err(error) => {
                assert!(error.is_shortage(), "with {spare} to spare: {error:?}");
                outcomes.push(false);
            }
        }
    }
    assert!(
        outcomes.contains(&true) && outcomes.contains(&false),
        "{outcomes:?}"
    );
    let store = DiskStore::open(&path, options()).unwrap();
    for number in acknowledged {
        let found = store.get(format!("key-{number}").as_bytes()).unwrap();
        assert_eq!(found, Some(mutation(number).versions), "{number}");
    }
}
