//! The writer against the in-memory disk: what is reported, and when.

use bytes::Bytes;
use dynakv_protocol::ClusterId;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::limits::{CLOCK_ENTRIES_MAX, CLOCK_ENTRIES_WARN};
use dynakv_protocol::peer::Digest;
use dynakv_protocol::{Actor, ErrorCode, WriteId};
use dynakv_storage::MemoryDisk;
use tokio::time::Instant;

use super::*;
use crate::engine::write::mint::Intent;
use crate::engine::write::put::{Beside, Replaced, Seen};
use crate::runtime::shared::environment::SystemClock;
use crate::runtime::shared::events::ConnectionId;

mod dropping;

fn mint(token: u64, key: &'static str, value: &'static str, context: Option<Clock>) -> WriteJob {
    WriteJob {
        token: Token::Operation(token),
        ring_version: RingVersion(0),
        key: Bytes::from_static(key.as_bytes()),
        work: WriteWork::Mint {
            intent: Box::new(Intent {
                write_id: WriteId(u128::from(token)),
                again: false,
                value: Value::Bytes(Bytes::from_static(value.as_bytes())),
                context,
                ttl_ms: None,
                value_bytes_max: 1024,
                if_no_conflict: false,
            }),
            seen: None,
            catches_up: true,
            cluster_id: ClusterId(1),
            begin_by: None,
        },
    }
}

fn merge_work(versions: Bytes) -> WriteWork {
    WriteWork::Merge {
        versions,
        tell_beside: true,
    }
}

fn started(memory: &MemoryDisk, sync_us: u64) -> Running {
    let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
    started_with(memory, sync_us, rebuilding)
}

fn started_with(memory: &MemoryDisk, sync_us: u64, rebuilding: Arc<Rebuilding>) -> Running {
    let metrics = Arc::new(Metrics::new("test").unwrap());
    started_counting(memory, sync_us, rebuilding, metrics)
}

fn started_on(memory: &MemoryDisk, stall: Stall) -> Running {
    let disk = Disk {
        store: Arc::new(memory.store()),
        hints: memory.hints(),
        files: Arc::new(memory.files()),
        threads: StoreThreads::Simulated {
            sync_us: 1000,
            stall,
        },
    };
    let rebuilding = Arc::new(Rebuilding::load(disk.files.clone()).unwrap());
    let metrics = Arc::new(Metrics::new("test").unwrap());
    start_on(disk, rebuilding, metrics)
}

fn start_on(disk: Disk, rebuilding: Arc<Rebuilding>, metrics: Arc<Metrics>) -> Running {
    let minter = Minter::new(Actor(5), 0, fastrand::Rng::with_seed(1));
    let progress = Arc::new(DiskProgress::new(disk.store.clone()));
    let clock = Arc::new(SystemClock);
    let books = (metrics, Arc::new(Ledger::new(1 << 30)));
    start(&disk, minter, clock, books, rebuilding, progress).unwrap()
}

fn started_counting(
    memory: &MemoryDisk,
    sync_us: u64,
    rebuilding: Arc<Rebuilding>,
    metrics: Arc<Metrics>,
) -> Running {
    let disk = Disk {
        store: Arc::new(memory.store()),
        hints: memory.hints(),
        files: Arc::new(memory.files()),
        threads: StoreThreads::Simulated {
            sync_us,
            stall: Stall::default(),
        },
    };
    start_on(disk, rebuilding, metrics)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn minted_comes_before_durable_and_durable_means_synced() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        running.handle.write(vec![mint(1, "k", "v", None)]);
        let events = running.events.recv().await.unwrap();
        assert!(is_one(&events, is_minted));
        assert_eq!(memory.pending(), 1);
        let events = running.events.recv().await.unwrap();
        assert!(is_one(&events, is_durable));
        assert_eq!(memory.pending(), 0);
    });
}

fn is_minted(event: &StoreEvent) -> bool {
    matches!(event, StoreEvent::Job { outcome, .. } if matches!(outcome, JobOutcome::Minted { .. }))
}

fn is_durable(event: &StoreEvent) -> bool {
    matches!(event, StoreEvent::Job { outcome, .. } if matches!(outcome, JobOutcome::Durable { .. }))
}

fn is_refused(event: &StoreEvent) -> bool {
    matches!(event, StoreEvent::Job { outcome, .. } if matches!(outcome, JobOutcome::Refused(_)))
}

/// Whether it is one event, of this kind.
fn is_one(events: &[StoreEvent], is_of_kind: fn(&StoreEvent) -> bool) -> bool {
    matches!(events, [event] if is_of_kind(event))
}

/// A store whose disk hangs in the sync of a first write.
async fn stalled_in_a_write() -> (Stall, Running) {
    let (memory, stall) = (MemoryDisk::new(), Stall::default());
    stall.set(true);
    let mut running = started_on(&memory, stall.clone());
    running.handle.write(vec![mint(1, "k", "begun", None)]);
    let events = running.events.recv().await.unwrap();
    assert!(is_one(&events, is_minted));
    (stall, running)
}

#[test]
fn what_the_writer_has_not_begun_can_be_taken_back_and_is_never_done() {
    run(async {
        let (stall, mut running) = stalled_in_a_write().await;
        for number in 2..5 {
            running.handle.write(vec![mint(number, "k", "waits", None)]);
        }
        let tokens = |jobs: Vec<WriteJob>| jobs.iter().map(|job| job.token).collect::<Vec<_>>();
        let waiting = [2, 3, 4].map(Token::Operation);
        assert_eq!(tokens(running.handle.take_back_writes()), waiting);
        assert_eq!(tokens(running.handle.take_back_writes()), []);
        stall.set(false);
        let events = running.events.recv().await.unwrap();
        let is_first = |event: &StoreEvent| matches!(event, StoreEvent::Job { token, outcome: JobOutcome::Durable { .. } } if *token == Token::Operation(1));
        assert!(events.len() == 1 && is_first(&events[0]), "{events:?}");
        drop(running.handle);
        assert_eq!(running.finished.await.unwrap().position(), (Actor(5), 1));
    });
}

/// The disk hangs, shorter than it takes to notice that, and goes on when another owner has done the write.
#[test]
fn what_has_waited_for_too_long_is_not_begun() {
    run(async {
        let (stall, mut running) = stalled_in_a_write().await;
        for (number, within_ms) in [(2, 700), (3, 900)] {
            let mut job = mint(number, "k", "waits", None);
            if let WriteWork::Mint { begin_by, .. } = &mut job.work {
                *begin_by = Some(Instant::now() + Duration::from_millis(within_ms));
            }
            running.handle.write(vec![job]);
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
        stall.set(false);
        let events = running.events.recv().await.unwrap();
        assert!(is_one(&events, is_durable));
        let (mut refused, mut minted) = (Vec::new(), Vec::new());
        while refused.is_empty() || minted.is_empty() {
            for event in running.events.recv().await.unwrap() {
                match event {
                    StoreEvent::Job {
                        token,
                        outcome: JobOutcome::Refused(error),
                    } => {
                        assert_eq!(error.code, ErrorCode::Timeout);
                        assert!(error.retryable && !error.maybe_applied, "{error}");
                        refused.push(token);
                    }
                    StoreEvent::Job {
                        token,
                        outcome: JobOutcome::Minted { .. },
                    } => minted.push(token),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(
            (refused, minted),
            (vec![Token::Operation(2)], vec![Token::Operation(3)])
        );
    });
}

#[test]
fn one_sync_serves_all_that_wait_and_same_keys_build_on_each_other() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        let empty = Some(Clock::new());
        running.handle.write(vec![
            mint(1, "k", "a", empty.clone()),
            mint(2, "k", "b", empty),
        ]);
        running.handle.write(vec![mint(3, "other", "c", None)]);
        let mut minted = Vec::new();
        let durable = loop {
            let events = running.events.recv().await.unwrap();
            if is_durable(&events[0]) {
                break events.len();
            }
            minted.extend(events);
        };
        assert_eq!((minted.len(), durable), (3, 3));
        let StoreEvent::Job {
            outcome: JobOutcome::Minted { versions, .. },
            ..
        } = &minted[1]
        else {
            panic!("{minted:?}");
        };
        assert_eq!(Versions::from_bytes(versions).unwrap().siblings().len(), 2);
        drop(running.handle);
        assert_eq!(running.finished.await.unwrap().position(), (Actor(5), 3));
    });
}

#[test]
fn merging_is_idempotent_but_answered_only_after_a_sync() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        running.handle.write(vec![mint(1, "k", "v", None)]);
        let events = running.events.recv().await.unwrap();
        let StoreEvent::Job {
            outcome: JobOutcome::Minted { versions, .. },
            ..
        } = &events[0]
        else {
            panic!("{events:?}");
        };
        // A duplicate arrives while the first copy waits for its sync.
        running.handle.write(vec![WriteJob {
            token: Token::Replica(ConnectionId(9), 7),
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            work: merge_work(versions.clone()),
        }]);
        let events = running.events.recv().await.unwrap();
        assert!(matches!(
            &events[..],
            [StoreEvent::Job {
                token: Token::Operation(1),
                outcome: JobOutcome::Durable {
                    rebuilding: false,
                    ..
                }
            }]
        ));
        let events = running.events.recv().await.unwrap();
        let token = Token::Replica(ConnectionId(9), 7);
        assert!(
            matches!(&events[..], [StoreEvent::Job { token: t, outcome: JobOutcome::Durable { .. } }] if *t == token)
        );
    });
}

/// The versions of a write that an actor mints over nothing, or over others.
fn of_actor(actor: u64, over: Option<&Bytes>) -> Bytes {
    let mut versions = over.map_or_else(Versions::new, |it| Versions::from_bytes(it).unwrap());
    let dot = Dot {
        actor: Actor(actor),
        counter: 1,
    };
    let incoming = Incoming {
        write_id: WriteId(u128::from(actor)),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from_static(b"v")),
    };
    let seen = versions.clock().clone();
    versions.write(&seen, dot, incoming);
    versions.to_bytes()
}

#[test]
fn what_a_write_has_not_seen_is_told_as_it_was_before_it_came() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 0);
        let old = of_actor(7, None);
        let unseen = of_actor(8, None);
        let later = of_actor(9, Some(&old));
        for (number, (versions, expected)) in (1..).zip([
            (old.clone(), Some(Bytes::new())),
            // The same once more is no news, and has nothing beside it.
            (old.clone(), Some(Bytes::new())),
            (unseen.clone(), Some(old.clone())),
            (
                later,
                Some({
                    let mut both = Versions::from_bytes(&old).unwrap();
                    both.merge(&Versions::from_bytes(&unseen).unwrap());
                    both.to_bytes()
                }),
            ),
        ]) {
            running.handle.write(vec![WriteJob {
                token: Token::Replica(ConnectionId(9), number),
                ring_version: RingVersion(0),
                key: Bytes::from_static(b"k"),
                work: merge_work(versions),
            }]);
            let events = running.events.recv().await.unwrap();
            let [
                StoreEvent::Job {
                    outcome: JobOutcome::Durable { beside, .. },
                    ..
                },
            ] = &events[..]
            else {
                panic!("{events:?}");
            };
            assert_eq!(*beside, expected, "{number}");
        }
        running.handle.write(vec![WriteJob {
            token: Token::Replica(ConnectionId(9), 9),
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            work: WriteWork::Merge {
                versions: of_actor(10, None),
                tell_beside: false,
            },
        }]);
        let events = running.events.recv().await.unwrap();
        assert!(matches!(
            &events[..],
            [StoreEvent::Job {
                outcome: JobOutcome::Durable { beside: None, .. },
                ..
            }]
        ));
    });
}

#[test]
fn two_values_of_one_write_are_counted_and_the_larger_is_kept() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let mut running = started_counting(&memory, 1000, rebuilding, metrics.clone());
        let written = |value: &'static str| {
            let mut versions = Versions::new();
            let dot = Dot {
                actor: Actor(8),
                counter: 1,
            };
            let incoming = Incoming {
                write_id: WriteId(1),
                timestamp: 1,
                expires_at_ms: None,
                value: Value::Bytes(Bytes::from_static(value.as_bytes())),
            };
            versions.write(&Clock::new(), dot, incoming);
            versions.to_bytes()
        };
        for (value, contradictions) in [("b", 0), ("b", 0), ("a", 1), ("c", 2), ("c", 2)] {
            running.handle.write(vec![WriteJob {
                token: Token::Replica(ConnectionId(9), 7),
                ring_version: RingVersion(0),
                key: Bytes::from_static(b"k"),
                work: merge_work(written(value)),
            }]);
            running.events.recv().await.unwrap();
            let text = metrics.render(std::path::Path::new("."));
            let expected =
                format!("dynakv_store_contradicted_dots_total{{node=\"test\"}} {contradictions}\n");
            assert!(text.contains(&expected), "{value}: {text}");
        }
        assert_eq!(memory.store().get(b"k").unwrap(), Some(written("c")));
    });
}

#[test]
fn garbage_is_refused_and_a_broken_disk_stops_everything() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 0);
        running.handle.write(vec![WriteJob {
            token: Token::Operation(1),
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            work: merge_work(Bytes::from_static(b"no versions")),
        }]);
        let events = running.events.recv().await.unwrap();
        assert!(is_one(&events, is_refused));
        memory.break_writes();
        running
            .handle
            .write(vec![mint(1, "k", "v", None), mint(2, "k2", "v", None)]);
        let events = running.events.recv().await.unwrap();
        let refused = |event: &&StoreEvent| is_refused(event);
        assert_eq!(events.iter().filter(refused).count(), 2, "{events:?}");
        let events = running.events.recv().await.unwrap();
        assert!(matches!(&events[..], [StoreEvent::Failed(_)]), "{events:?}");
        // No minter comes back: the next start takes a new actor.
        assert!(running.finished.await.is_err());
    });
}

fn merge(key: &'static str, versions: &Versions) -> WriteJob {
    WriteJob {
        token: Token::Replica(ConnectionId(9), 7),
        ring_version: RingVersion(0),
        key: Bytes::from_static(key.as_bytes()),
        work: WriteWork::Merge {
            versions: versions.to_bytes(),
            tell_beside: false,
        },
    }
}

fn clock(actors: std::ops::RangeInclusive<u64>) -> Clock {
    let dot = |actor| Dot {
        actor: Actor(actor),
        counter: 1,
    };
    actors.map(dot).collect()
}

fn without_values(actors: std::ops::RangeInclusive<u64>) -> Versions {
    Versions::from_parts(clock(actors), []).unwrap()
}

/// What came of the last job, once the writer rests.
async fn last_event(running: &mut Running) -> StoreEvent {
    let mut events = running.events.recv().await.unwrap();
    if matches!(
        events.last(),
        Some(StoreEvent::Job {
            outcome: JobOutcome::Minted { .. },
            ..
        })
    ) {
        events = running.events.recv().await.unwrap();
    }
    events.pop().unwrap()
}

/// Two states that are each legal and not together; then the same by a write with a context.
#[test]
fn what_no_node_could_read_is_refused_before_anything_changes() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let mut running = started_with(&memory, 0, rebuilding.clone());
        running.handle.write(vec![mint(1, "k", "v", None)]);
        last_event(&mut running).await;
        let most = CLOCK_ENTRIES_MAX as u64;
        running
            .handle
            .write(vec![merge("k", &without_values(1000..=most))]);
        assert!(matches!(
            last_event(&mut running).await,
            StoreEvent::Job {
                outcome: JobOutcome::Durable { .. },
                ..
            }
        ));
        assert_eq!(
            rebuilding.locked().first(9),
            ["k"],
            "no new actor could write it"
        );
        let before = memory.store().get(b"k").unwrap();
        let hash = memory.store().segment_hash(Segment::of_key(b"k"));
        running
            .handle
            .write(vec![merge("k", &without_values(most + 1..=2 * most))]);
        let StoreEvent::Job {
            outcome: JobOutcome::Refused(error),
            ..
        } = last_event(&mut running).await
        else {
            panic!("it was merged");
        };
        assert_eq!((error.code, error.retryable), (ErrorCode::TooLarge, false));
        assert!(error.message.contains("dynakv repair --key k"), "{error}");
        let forged = mint(2, "k", "w", Some(clock(most + 1..=2 * most)));
        running.handle.write(vec![forged]);
        let refused = last_event(&mut running).await;
        assert!(is_refused(&refused), "{refused:?}");
        assert_eq!(memory.store().get(b"k").unwrap(), before);
        assert_eq!(memory.store().segment_hash(Segment::of_key(b"k")), hash);
        let stored = Versions::from_bytes(&before.unwrap()).unwrap();
        assert_eq!(stored.siblings().len(), 1);
        // It is written on by who stands in its clock.
        running.handle.write(vec![mint(3, "k", "x", None)]);
        let written = last_event(&mut running).await;
        assert!(is_durable(&written), "{written:?}");
    });
}

/// What takes the place of a locked state does so only where it is as it was seen; then nobody calls it locked any more.
#[test]
fn a_state_is_replaced_only_if_it_is_the_one_that_was_seen() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let mut running = started_with(&memory, 0, rebuilding.clone());
        let locked = without_values(1..=5000);
        running.handle.write(vec![merge("k", &locked)]);
        last_event(&mut running).await;
        let mended = without_values(1..=2);
        let replace = |expected| WriteJob {
            token: Token::Replacing(ConnectionId(9), 7),
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            work: WriteWork::Replace {
                expected,
                versions: mended.to_bytes(),
            },
        };
        for other in [None, Some(Digest::of(&without_values(1..=4999).to_bytes()))] {
            running.handle.write(vec![replace(other)]);
            let StoreEvent::Job {
                outcome: JobOutcome::Refused(error),
                ..
            } = last_event(&mut running).await
            else {
                panic!("it was replaced");
            };
            assert!(error.retryable, "{error}");
        }
        assert_eq!(memory.store().get(b"k").unwrap(), Some(locked.to_bytes()));
        assert_eq!(rebuilding.locked().count(), 1);
        let seen = Digest::of(&locked.to_bytes());
        running.handle.write(vec![replace(Some(seen))]);
        let replaced = last_event(&mut running).await;
        assert!(is_durable(&replaced), "{replaced:?}");
        assert_eq!(memory.store().get(b"k").unwrap(), Some(mended.to_bytes()));
        assert_eq!(rebuilding.locked().count(), 0);
        // The hash is that of one who never had anything else.
        let other = MemoryDisk::new();
        let mut running = started(&other, 0);
        running.handle.write(vec![merge("k", &mended)]);
        last_event(&mut running).await;
        let segment = Segment::of_key(b"k");
        assert_eq!(
            other.store().segment_hash(segment),
            memory.store().segment_hash(segment)
        );
    });
}

#[test]
fn writes_that_make_a_clock_long_are_counted() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let mut running = started_counting(&memory, 0, rebuilding, metrics.clone());
        let long = CLOCK_ENTRIES_WARN as u64;
        for (actors, counted) in [(long - 1, 0), (long, 1), (long, 1), (long + 1, 2)] {
            running
                .handle
                .write(vec![merge("k", &without_values(1..=actors))]);
            last_event(&mut running).await;
            let text = metrics.render(std::path::Path::new("."));
            let expected = format!("dynakv_long_clocks_total{{node=\"test\"}} {counted}\n");
            assert!(text.contains(&expected), "{actors}: {text}");
        }
    });
}

/// The value comes back as it was: its hash is added a second time, which takes it away, and the copy
/// looks like one that never had the key.
#[test]
fn a_hash_is_not_trusted_after_a_damaged_value_was_replaced() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let mut running = started_with(&memory, 0, rebuilding.clone());
        running.handle.write(vec![mint(1, "k", "v", None)]);
        let events = running.events.recv().await.unwrap();
        let StoreEvent::Job {
            outcome: JobOutcome::Minted { versions, .. },
            ..
        } = &events[0]
        else {
            panic!("{events:?}");
        };
        running.events.recv().await.unwrap();
        let segment = Segment::of_key(b"k");
        assert_ne!(memory.store().segment_hash(segment), 0);

        memory.damage_values();
        running.handle.write(vec![WriteJob {
            token: Token::Replica(ConnectionId(9), 7),
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            work: merge_work(versions.clone()),
        }]);
        let events = running.events.recv().await.unwrap();
        let is_told = matches!(
            &events[..],
            [StoreEvent::Job {
                outcome: JobOutcome::Durable {
                    rebuilding: true,
                    ..
                },
                ..
            }]
        );
        assert!(is_told, "{events:?}");
        assert_eq!(memory.store().segment_hash(segment), 0);
        assert!(rebuilding.unsure().contains(segment));
        // Its rebuilding began before: what others gave until now may have been for the lost value.
        assert_eq!(
            rebuilding
                .finish(&[segment], RingVersion(u64::MAX))
                .unwrap(),
            []
        );
    });
}

/// A dot of the actor may have been among what was lost: the next one under it would cover that.
#[test]
fn an_actor_goes_when_something_lost_counts_as_absent() {
    run(async {
        let memory = MemoryDisk::new();
        let rebuilding = Arc::new(Rebuilding::load(Arc::new(memory.files())).unwrap());
        let mut running = started_with(&memory, 0, rebuilding.clone());
        let mut actor_of = async |id: u64, key: &'static str| {
            running.handle.write(vec![mint(id, key, "v", None)]);
            let events = running.events.recv().await.unwrap();
            let [
                StoreEvent::Job {
                    outcome: JobOutcome::Minted { versions, .. },
                    ..
                },
            ] = &events[..]
            else {
                panic!("{events:?}");
            };
            running.events.recv().await.unwrap();
            Versions::from_bytes(versions).unwrap().siblings()[0]
                .dot
                .actor
        };
        let before = actor_of(1, "k").await;
        assert_eq!(actor_of(2, "l").await, before);
        memory.lose_segments();
        let store = memory.store();
        let losses = store.losses(&[Segment::of_key(b"k")]).unwrap();
        assert_eq!(losses.len(), 1);
        rebuilding.note_given_up(losses[0].segment()).unwrap();
        store.forgive(&losses).unwrap();
        assert_eq!(store.get(b"k").unwrap(), None);
        let after = actor_of(3, "k").await;
        assert_ne!(after, before);
        assert_eq!(actor_of(4, "m").await, after);
    });
}

/// The older versions that were seen are one copy more, whatever becomes of the write.
#[test]
fn what_a_refused_second_round_has_seen_is_kept_and_is_durable_when_it_is_refused() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        running.handle.write(vec![mint(1, "k", "v", None)]);
        last_event(&mut running).await;
        let mut beside = Versions::new();
        for id in [2, 3] {
            let incoming = Incoming {
                write_id: WriteId(id),
                timestamp: 1,
                expires_at_ms: None,
                value: Value::Bytes(Bytes::from_static(b"older")),
            };
            let dot = Dot {
                // The second is of the writer's own actor, which never made it.
                actor: Actor(id as u64 + 2),
                counter: 9,
            };
            beside.write(&Clock::new(), dot, incoming);
        }
        let mut job = mint(1, "k", "v", None);
        if let WriteWork::Mint { seen, .. } = &mut job.work {
            let lost = Dot {
                actor: Actor(4),
                counter: 1,
            };
            *seen = Some(Box::new(Seen::Beside(Beside {
                beside: beside.clone(),
                first: [lost].into_iter().collect(),
                replaced: Replaced::new(),
            })));
        }
        running.handle.write(vec![job]);
        let refused = last_event(&mut running).await;
        let StoreEvent::Job {
            outcome: JobOutcome::Refused(error),
            ..
        } = refused
        else {
            panic!("{refused:?}");
        };
        assert!(error.maybe_applied && error.retryable, "{error}");
        assert_eq!(memory.pending(), 0);
        let stored = memory.store().get(b"k").unwrap().unwrap();
        let stored = Versions::from_bytes(&stored).unwrap();
        assert!(stored.clock().dominates(beside.clock()));
        assert!(stored.written().any(|it| it.write_id == WriteId(2)));
        assert_ne!(
            running.handle.actor(),
            Actor(5),
            "it names what was never made"
        );
    });
}

/// Nothing is written while the context names what is missing here; with what the others have it is minted.
#[test]
fn what_lacks_something_of_its_context_is_told_so_at_once_and_nothing_is_written() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        let read = clock(8..=9);
        let behind = || mint(1, "k", "v", Some(read.clone()));
        running.handle.write(vec![behind()]);
        let events = running.events.recv().await.unwrap();
        let [
            StoreEvent::Job {
                outcome:
                    JobOutcome::Behind {
                        lacks, rebuilding, ..
                    },
                ..
            },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!((lacks, *rebuilding), (&read, false));
        assert_eq!(memory.store().get(b"k").unwrap(), None);
        let mut job = behind();
        if let WriteWork::Mint { seen, .. } = &mut job.work {
            *seen = Some(Box::new(Seen::Read(without_values(8..=9))));
        }
        running.handle.write(vec![job]);
        let events = running.events.recv().await.unwrap();
        assert!(is_one(&events, is_minted), "{events:?}");
        let events = running.events.recv().await.unwrap();
        assert!(is_one(&events, is_durable), "{events:?}");
        // One that stands in has no more than its hints.
        let mut job = mint(2, "other", "v", Some(read.clone()));
        if let WriteWork::Mint { catches_up, .. } = &mut job.work {
            *catches_up = false;
        }
        running.handle.write(vec![job]);
        let events = running.events.recv().await.unwrap();
        assert!(is_one(&events, is_minted), "{events:?}");
    });
}

/// All that the store tells of these jobs, in order.
async fn told(running: &mut Running, jobs: usize) -> Vec<(Token, JobOutcome)> {
    let mut told = Vec::new();
    while told.len() < jobs {
        for event in running.events.recv().await.unwrap() {
            if let StoreEvent::Job { token, outcome } = event {
                told.push((token, outcome));
            }
        }
    }
    told
}

#[test]
fn what_was_asked_for_under_another_ring_is_not_done() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        running.fences.begin_at(RingVersion(3));
        let at = |version, token, key| WriteJob {
            ring_version: RingVersion(version),
            ..mint(token, key, "value", None)
        };
        // Those before the fence are done under the ring that they were asked for under, and those behind it are not.
        running
            .handle
            .write(vec![at(3, 1, "before"), at(2, 2, "late")]);
        let moved = running.fences.move_to(RingVersion(4));
        running
            .handle
            .write(vec![at(3, 3, "behind"), at(4, 4, "after")]);
        moved.await.unwrap();
        let told = told(&mut running, 6).await;
        let is_stale = |token| {
            let mut of_it = told.iter().filter(|(it, _)| *it == Token::Operation(token));
            of_it.any(|(_, outcome)| {
                matches!(outcome, JobOutcome::Refused(error) if error.code == ErrorCode::StaleRing)
            })
        };
        assert_eq!([1, 2, 3, 4].map(is_stale), [false, true, true, false]);
        let read = |version| ReadJob {
            token: Token::Operation(9),
            connection: ConnectionId(1),
            ring_version: RingVersion(version),
            key: Bytes::from_static(b"before"),
            digest_above: None,
        };
        for key in [&b"late"[..], b"behind"] {
            assert_eq!(memory.store().get(key).unwrap(), None);
        }
        running.handle.read(vec![read(4), read(3)]);
        let read = self::told(&mut running, 2).await;
        assert!(matches!(&read[0].1, JobOutcome::Read { versions, .. } if !versions.is_empty()));
        assert!(
            matches!(&read[1].1, JobOutcome::Refused(error) if error.ring_version == Some(RingVersion(4)))
        );
    });
}

#[test]
fn a_fence_outlasts_a_disk_that_hangs() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        let moved = running.fences.move_to(RingVersion(1));
        running.handle.write(vec![mint(1, "key", "value", None)]);
        let moved_again = running.fences.move_to(RingVersion(2));
        running.handle.write(vec![mint(2, "key", "value", None)]);
        // The writer has not begun: nothing of it is done, and the fences stay.
        let mut taken = running.handle.take_back_writes();
        let tokens: Vec<_> = taken.iter().map(|job| job.token).collect();
        assert_eq!(tokens, [Token::Operation(1), Token::Operation(2)]);
        moved.await.unwrap();
        moved_again.await.unwrap();
        running.handle.write(taken.split_off(1));
        let told = told(&mut running, 1).await;
        assert!(
            matches!(&told[0].1, JobOutcome::Refused(error) if error.code == ErrorCode::StaleRing)
        );
    });
}

#[test]
fn a_write_is_sent_again_as_it_stands_unless_it_is_gone() {
    run(async {
        let memory = MemoryDisk::new();
        let mut running = started(&memory, 1000);
        running.handle.write(vec![mint(1, "key", "value", None)]);
        let minted = told(&mut running, 2).await;
        let JobOutcome::Minted { versions: sent, .. } = minted[0].1.clone() else {
            panic!("not minted: {minted:?}");
        };
        let by = |key: &'static str, begin_by| WriteJob {
            token: Token::Operation(2),
            ring_version: RingVersion(0),
            key: Bytes::from_static(key.as_bytes()),
            work: WriteWork::Rebase {
                sent: sent.clone(),
                begin_by,
            },
        };
        let again = |key| by(key, None);
        running.handle.write(vec![mint(3, "key", "beside", None)]);
        told(&mut running, 2).await;
        running.handle.write(vec![again("key")]);
        let is = told(&mut running, 2).await;
        assert!(matches!(&is[0].1, JobOutcome::Minted { versions, .. } if *versions != sent));
        assert!(matches!(is[1].1, JobOutcome::Durable { .. }));
        // Somebody else was given it by now, and what stands beside it may have replaced that.
        running.handle.write(vec![by("key", Some(Instant::now()))]);
        let late = told(&mut running, 1).await;
        assert!(
            matches!(&late[0].1, JobOutcome::Refused(error) if error.code == ErrorCode::Timeout)
        );
        running.handle.write(vec![again("nothing here")]);
        let gone = told(&mut running, 1).await;
        assert!(matches!(&gone[0].1, JobOutcome::Refused(error) if error.maybe_applied));
    });
}
