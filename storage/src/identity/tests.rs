use super::*;
use crate::disk::DirectoryFiles;
use crate::memory_store::{MemoryDisk, MemoryFiles};

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A source of distinct numbers.
fn numbers(mut last: u64) -> impl FnMut() -> u64 {
    move || {
        last += 1;
        last
    }
}

fn start(files: &dyn SmallFiles, seed: u64) -> Started {
    Identity::start(files, id("node-1"), numbers(seed)).unwrap()
}

/// A directory that was stopped cleanly at counter 41.
fn cleanly_stopped() -> (MemoryFiles, Identity) {
    let files = MemoryDisk::new().files();
    let run = start(&files, 100).identity;
    run.mark_clean(&files, run.actor, 41, LogPlace::default())
        .unwrap();
    (files, run)
}

#[test]
fn a_clean_stop_keeps_the_actor_and_its_counter() {
    let directory = tempfile::tempdir().unwrap();
    let files = DirectoryFiles::open(directory.path()).unwrap();
    let first = start(&files, 100);
    assert_eq!(first.last_stop, LastStop::NeverStarted);
    assert_eq!(first.identity.generation, Generation(1));
    assert_eq!(first.identity.counter_floor, 0);
    let actor = first.identity.actor;
    first
        .identity
        .mark_clean(&files, actor, 41, LogPlace::default())
        .unwrap();
    drop(files);

    let files = DirectoryFiles::open(directory.path()).unwrap();
    let second = start(&files, 200);
    assert_eq!(second.last_stop, LastStop::Clean);
    assert_eq!(second.identity.generation, Generation(2));
    assert_ne!(second.identity.nonce, first.identity.nonce);
    assert_eq!(second.identity.actor, first.identity.actor);
    assert_eq!(second.identity.counter_floor, 41);
}

#[test]
fn an_unclean_stop_costs_the_actor() {
    let files = MemoryDisk::new().files();
    let first = start(&files, 100);
    let second = start(&files, 200);
    assert_eq!(second.last_stop, LastStop::Unclean);
    assert_eq!(second.identity.generation, Generation(2));
    assert_ne!(second.identity.actor, first.identity.actor);
    assert_eq!(second.identity.counter_floor, 0);
}

#[test]
fn a_marker_serves_one_start_only() {
    let (files, run) = cleanly_stopped();
    let marker = files.read(CLEAN_STOP).unwrap().unwrap();
    assert!(start(&files, 200).was_clean());
    assert_eq!(files.read(CLEAN_STOP).unwrap(), None);
    assert!(!start(&files, 300).was_clean());

    // Nor does one that comes back from a copy of the directory.
    files.write_durable(CLEAN_STOP, &marker).unwrap();
    let fourth = start(&files, 400);
    assert_eq!(fourth.last_stop, LastStop::Unclean);
    assert_ne!(fourth.identity.actor, run.actor);
}

#[test]
fn the_marker_of_another_life_is_not_believed() {
    // Same generation, another nonce: the marker of a second process on a copy.
    let (files, run) = cleanly_stopped();
    let other = Identity {
        nonce: run.nonce + 1,
        ..run.clone()
    };
    other
        .mark_clean(&files, run.actor, 1000, LogPlace::default())
        .unwrap();
    assert_eq!(start(&files, 200).last_stop, LastStop::Unclean);
}

#[test]
fn a_start_that_died_between_its_two_steps_is_unclean() {
    let (files, run) = cleanly_stopped();
    let marker = files.read(CLEAN_STOP).unwrap().unwrap();
    start(&files, 200);
    files.write_durable(CLEAN_STOP, &marker).unwrap(); // as if not yet removed
    let next = start(&files, 300);
    assert_eq!(next.last_stop, LastStop::Unclean);
    assert_ne!(next.identity.actor, run.actor);
    assert_eq!(next.identity.generation, Generation(3));
}

/// It did not say how far the store's log reached.
#[test]
fn the_marker_of_an_earlier_version_is_read() {
    let (files, run) = cleanly_stopped();
    let mut marker = BytesMut::new();
    run.generation.encode(&mut marker);
    marker.put_u64(run.nonce);
    run.actor.encode(&mut marker);
    put_varint(&mut marker, 41);
    save_document(&files, CLEAN_STOP, &marker).unwrap();
    let next = start(&files, 200);
    assert!(next.was_clean());
    assert_eq!(
        (next.identity.actor, next.identity.counter_floor),
        (run.actor, 41)
    );
}

#[test]
fn an_actor_renewed_during_a_run_is_the_one_that_goes_on() {
    let files = MemoryDisk::new().files();
    let mut run = start(&files, 100).identity;
    let first = run.actor;
    run.renew_actor(&files, numbers(500)).unwrap();
    assert_ne!(run.actor, first);
    run.mark_clean(&files, run.actor, 7, LogPlace::default())
        .unwrap();
    let next = start(&files, 200).identity;
    assert_eq!((next.actor, next.counter_floor), (run.actor, 7));
}

#[test]
fn a_directory_of_another_node_is_refused_and_left_as_it_is() {
    let (files, _) = cleanly_stopped();
    let error = Identity::start(&files, id("node-2"), numbers(0)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("belongs to node node-1, not to node-2"),
        "{error}"
    );
    assert!(start(&files, 200).was_clean());
}

#[test]
fn a_damaged_identity_is_an_error_and_a_damaged_marker_an_unclean_stop() {
    let (files, run) = cleanly_stopped();
    let identity = files.read(IDENTITY).unwrap().unwrap();
    let marker = files.read(CLEAN_STOP).unwrap().unwrap();
    for at in 0..identity.len() {
        let mut bad = identity.to_vec();
        bad[at] ^= 0x10;
        files.write_durable(IDENTITY, &bad).unwrap();
        let error = Identity::start(&files, id("node-1"), numbers(0)).unwrap_err();
        assert!(
            matches!(error, IdentityError::Store(StoreError::DamagedFile { .. })),
            "byte {at}: {error:?}"
        );
    }
    for at in 0..marker.len() {
        let mut bad = marker.to_vec();
        bad[at] ^= 0x10;
        files.write_durable(IDENTITY, &identity).unwrap();
        files.write_durable(CLEAN_STOP, &bad).unwrap();
        let started = start(&files, 200);
        assert_eq!(started.last_stop, LastStop::Unclean, "byte {at}");
        assert_ne!(started.identity.actor, run.actor);
    }
}

#[test]
fn an_actor_is_new_even_when_randomness_is_stuck() {
    let files = MemoryDisk::new().files();
    let first = Identity::start(&files, id("node-1"), || 0).unwrap();
    assert_ne!(first.identity.actor, Actor(0));
    let actor = first.identity.actor.0;
    let second = Identity::start(&files, id("node-1"), || actor).unwrap();
    assert_ne!(second.identity.actor, first.identity.actor);
}
