//! Removing what this node does not own any more.

use dynakv_protocol::hash::checksum;

use super::*;

/// Has a key written by this node; what is stored then.
async fn written(running: &mut Running, memory: &MemoryDisk, key: &'static str) -> (Bytes, u64) {
    running.handle.write(vec![mint(1, key, "v", None)]);
    last_event(running).await;
    let stored = memory.store().get(key.as_bytes()).unwrap().unwrap();
    (Bytes::from_static(key.as_bytes()), checksum(&stored))
}

async fn removed(running: &Running, version: u64, keys: &[(Bytes, u64)]) -> Dropped {
    let removed = running.dropper.remove(RingVersion(version), keys).await;
    removed.expect("the store runs").unwrap()
}

fn stored(memory: &MemoryDisk, key: &[u8]) -> Option<Bytes> {
    memory.store().get(key).unwrap()
}

#[test]
fn an_actor_is_given_up_before_the_first_key_that_it_wrote_goes_and_not_with_each() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        let (a, b) = (
            written(&mut running, &memory, "a").await,
            written(&mut running, &memory, "b").await,
        );
        let segment = Segment::of_key(b"a");
        assert!(held(&memory.store()).contains(segment));
        let first = running.handle.actor();
        let dropped = removed(&running, 0, std::slice::from_ref(&a)).await;
        assert_eq!((dropped.removed, dropped.kept), (1, 0));
        assert_eq!(memory.pending(), 0, "it is durable when it is told");
        assert_eq!(stored(&memory, b"a"), None);
        assert_eq!(memory.store().segment_hash(segment), 0);
        assert!(!held(&memory.store()).contains(segment));
        assert_eq!(memory.store().totals().keys, 1);
        let second = running.handle.actor();
        assert_ne!(first, second);
        // What the new actor writes elsewhere is not forgotten with what goes.
        written(&mut running, &memory, "c").await;
        removed(&running, 0, &[b]).await;
        assert_eq!(running.handle.actor(), second);
        // It owns the first segment again, and loses it again.
        let a = written(&mut running, &memory, "a").await;
        let versions = Versions::from_bytes(&stored(&memory, b"a").unwrap()).unwrap();
        assert_eq!(versions.clock().counter(first), 0);
        assert!(versions.clock().counter(second) > 0);
        removed(&running, 0, &[a]).await;
        let third = running.handle.actor();
        assert_ne!(second, third);
        // A clean stop is noted with the actor that has forgotten nothing.
        drop(running.handle);
        assert_eq!(running.finished.await.unwrap().position(), (third, 0));
    });
}

#[test]
fn an_actor_that_goes_on_after_a_restart_may_have_written_anywhere() {
    let minter = |counter| Minter::new(Actor(5), counter, fastrand::Rng::with_seed(1));
    assert!(minted_before(&minter(0)).is_empty());
    assert_eq!(minted_before(&minter(1)), SegmentSet::all());
}

#[test]
fn what_is_to_go_under_an_earlier_ring_stays() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        let key = written(&mut running, &memory, "k").await;
        let actor = running.handle.actor();
        // It waits for the writer behind the fence, although it was asked for before that moved.
        let moved = running.fences.move_to(RingVersion(1));
        let dropper = running.dropper.clone();
        let result = dropper.remove(RingVersion(0), std::slice::from_ref(&key));
        let error = result.await.unwrap().unwrap_err();
        moved.await.unwrap();
        assert_eq!(error.code, ErrorCode::StaleRing);
        assert_eq!(error.ring_version, Some(RingVersion(1)));
        assert!(stored(&memory, b"k").is_some());
        assert_eq!(running.handle.actor(), actor);
        assert_eq!(removed(&running, 1, &[key]).await.removed, 1);
        assert_eq!(stored(&memory, b"k"), None);
    });
}

#[test]
fn only_what_is_as_it_was_seen_goes() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        let (old, other) = (
            written(&mut running, &memory, "k").await,
            written(&mut running, &memory, "other").await,
        );
        running.handle.write(vec![mint(2, "k", "newer", None)]);
        last_event(&mut running).await;
        let newer = stored(&memory, b"k").unwrap();
        let absent = (Bytes::from_static(b"absent"), 7);
        let dropped = removed(&running, 0, &[old, absent, other]).await;
        assert_eq!((dropped.removed, dropped.kept), (1, 1));
        let kept = stored(&memory, b"k");
        assert_eq!(kept, Some(newer), "what nobody was handed has gone");
        assert_eq!(stored(&memory, b"other"), None);
    });
}

/// Many keys go in several jobs, so that writes come in between.
#[test]
fn a_crash_in_the_middle_leaves_what_the_next_run_removes() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        let mut keys = Vec::new();
        for number in 0..300 {
            let name: &'static str = format!("key-{number}").leak();
            keys.push(written(&mut running, &memory, name).await);
        }
        let hashes = |memory: &MemoryDisk| memory.store().segment_hashes(0..=u16::MAX);
        let dropper = running.dropper.clone();
        let to_remove = keys.clone();
        let removing =
            tokio::spawn(async move { dropper.remove(RingVersion(0), &to_remove).await });
        while memory.pending() == 0 {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        memory.crash();
        assert!(
            removing
                .await
                .unwrap()
                .is_none_or(|removed| removed.is_err())
        );
        let held_before = held(&memory.store());
        assert!(!held_before.is_empty());
        let running = started(&memory, 1000);
        let dropped = removed(&running, 0, &keys).await;
        assert!(dropped.removed > 0);
        assert_eq!(dropped.kept, 0);
        assert!(hashes(&memory).iter().all(|&hash| hash == 0));
        assert_eq!(memory.store().totals().keys, 0);
    });
}

#[test]
fn what_cannot_be_read_stays_and_keeps_nothing_else() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let mut running = started_with(&memory, 0, rebuilding.clone());
        let damaged = written(&mut running, &memory, "damaged").await;
        memory.damage_values();
        let whole = written(&mut running, &memory, "whole").await;
        let dropped = removed(&running, 0, &[damaged, whole]).await;
        assert_eq!((dropped.removed, dropped.kept), (1, 1));
        assert!(rebuilding.covers(b"damaged") && !rebuilding.covers(b"whole"));
        assert!(memory.store().get(b"damaged").is_err());
        assert!(held(&memory.store()).contains(Segment::of_key(b"damaged")));
    });
}

/// What it has lost there it has lost still, if it is to own the segment again.
#[test]
fn a_segment_that_goes_is_still_to_be_rebuilt() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let mut running = started_with(&memory, 0, rebuilding.clone());
        let key = written(&mut running, &memory, "k").await;
        rebuilding.begin(b"k").unwrap();
        assert_eq!(removed(&running, 0, &[key]).await.removed, 1);
        assert!(rebuilding.covers(b"k"));
    });
}

/// No node could read it, or take it; but where owners have the same it need not stay here.
#[test]
fn what_is_beyond_a_limit_goes_as_well() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let mut running = started_with(&memory, 0, rebuilding.clone());
        running
            .handle
            .write(vec![merge("k", &without_values(1..=5000))]);
        last_event(&mut running).await;
        assert_eq!(rebuilding.locked().count(), 1);
        let hash = checksum(&stored(&memory, b"k").unwrap());
        let key = (Bytes::from_static(b"k"), hash);
        assert_eq!(removed(&running, 0, &[key]).await.removed, 1);
        assert_eq!(rebuilding.locked().count(), 0);
        assert_eq!(memory.store().segment_hash(Segment::of_key(b"k")), 0);
    });
}

#[test]
fn a_disk_that_breaks_tells_of_itself_and_of_no_removal() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 0);
        let key = written(&mut running, &memory, "k").await;
        memory.break_writes();
        let result = running.dropper.remove(RingVersion(0), &[key]).await;
        assert!(result.is_none_or(|removed| removed.is_err()));
        let events = running.events.recv().await.unwrap();
        assert!(matches!(&events[..], [StoreEvent::Failed(_)]), "{events:?}");
    });
}
