//! The keeper of hints against the in-memory disk: what is said, and when.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use dynakv_protocol::causal::{self, Dot, Incoming, Value, Versions};
use dynakv_protocol::ring_document::{Member, RingDocument, Step};
use dynakv_protocol::{Actor, ClusterId, DirectoryId, ErrorCode, RingVersion, WriteId};
use dynakv_storage::hint_log::HINT_BYTES_MAX;
use dynakv_storage::{AppendFile, MemoryDisk};
use tokio::sync::oneshot;

use super::*;
use crate::engine::anti_entropy::handoff::Word;
use crate::engine::placement::ring::Ring;
use crate::engine::write::mint::Intent;
use crate::runtime::shared::environment::WallClock;
use crate::runtime::shared::events::ConnectionId;

mod following;

/// A time of day that tests set.
#[derive(Default)]
struct Clock(AtomicU64);

impl WallClock for Clock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Kept {
    clock: Arc<Clock>,
    handle: HintHandle,
    events: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
    metrics: Arc<Metrics>,
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn owners() -> BTreeSet<NodeId> {
    [node("a"), node("b"), node("c")].into_iter().collect()
}

/// A final ring in which all of these own all keys.
fn ring(version: u64, owners: [&str; 3]) -> Arc<Ring> {
    let member = |name: &str| Member {
        id: node(name),
        directory_id: DirectoryId(1),
        address: format!("{name}:8080"),
        weight: 1,
        zone: String::new(),
    };
    Arc::new(Ring::new(RingDocument {
        cluster_id: ClusterId(1),
        cluster_name: "test".to_owned(),
        version: RingVersion(version),
        step: Step::Final,
        n: 3,
        w: 2,
        r: 2,
        members: owners.map(member).into(),
    }))
}

fn start_on(memory: &MemoryDisk, bytes_max: u64, age_max: Duration) -> Kept {
    let kept = start_without_ring(memory, bytes_max, age_max);
    kept.handle.follow(ring(1, ["a", "b", "c"]));
    kept
}

fn start_without_ring(memory: &MemoryDisk, bytes_max: u64, age_max: Duration) -> Kept {
    start_with(memory.hints(), memory, bytes_max, age_max)
}

fn start_with(
    file: Arc<dyn AppendFile>,
    memory: &MemoryDisk,
    bytes_max: u64,
    age_max: Duration,
) -> Kept {
    let (events_in, events) = mpsc::unbounded_channel();
    let metrics = Arc::new(Metrics::new("test").unwrap());
    let clock = Arc::new(Clock(AtomicU64::new(1_000_000)));
    let hints = KeptHints::open(file).unwrap();
    let parts = Parts {
        hints,
        disk: Disk {
            store: Arc::new(memory.store()),
            hints: memory.hints(),
            files: Arc::new(memory.files()),
            threads: StoreThreads::Simulated {
                sync_us: 1000,
                stall: Stall::default(),
            },
        },
        minter: Minter::new(Actor(7), 0, fastrand::Rng::with_seed(1)),
        clock: clock.clone(),
        metrics: metrics.clone(),
        bounds: HintBounds { bytes_max, age_max },
        events: events_in,
        progress: Arc::new(DiskProgress::new(Arc::new(memory.store()))),
    };
    Kept {
        clock,
        handle: start(parts).unwrap(),
        events,
        metrics,
    }
}

fn started(memory: &MemoryDisk) -> Kept {
    start_on(memory, 1 << 20, Duration::from_secs(3600))
}

fn mint(token: u64, key: &'static str, value: &'static str) -> HintJob {
    HintJob::Mint {
        token: Token::Operation(token),
        ring_version: RingVersion(0),
        key: Bytes::from_static(key.as_bytes()),
        intent: Box::new(Intent {
            write_id: WriteId(u128::from(token)),
            again: false,
            value: Value::Bytes(Bytes::from_static(value.as_bytes())),
            context: None,
            ttl_ms: None,
            value_bytes_max: 1024,
            if_no_conflict: false,
        }),
        owed: owners(),
        needed: 2,
        cluster_id: ClusterId(1),
    }
}

async fn minted(kept: &mut Kept) -> Versions {
    let events = kept.events.recv().await.unwrap();
    match &events[..] {
        [
            StoreEvent::Job {
                outcome: JobOutcome::Minted { versions, .. },
                ..
            },
        ] => Versions::from_bytes(versions).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn next(kept: &Kept, owner: &str) -> Vec<Due> {
    let (reply, answer) = oneshot::channel();
    kept.handle.send(vec![HintJob::Next {
        node: node(owner),
        after: None,
        keys_max: 10,
        bytes_max: usize::MAX,
        reply,
    }]);
    answer.await.unwrap().hints
}

/// No owner is another process in between.
const RUN: u64 = 4;

fn confirm(kept: &Kept, owner: &str, due: &[Due]) {
    confirm_under(kept, 1, owner, due);
}

fn confirm_under(kept: &Kept, version: u64, owner: &str, due: &[Due]) {
    let confirmations = due.iter().map(|due| Confirmation {
        key: due.key.clone(),
        revision: due.revision,
        word: match due.is_said {
            true => Word::Still { run: RUN },
            false => Word::Has { run: RUN },
        },
    });
    kept.handle.send(vec![HintJob::Confirm {
        by: node(owner),
        ring_version: RingVersion(version),
        confirmations: confirmations.collect(),
    }]);
}

async fn confirm_all(kept: &Kept, owner: &str) -> usize {
    let due = next(kept, owner).await;
    confirm(kept, owner, &due);
    due.len()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

/// What is kept of a key must be readable when it is handed over: two states that are so alone and not together.
#[test]
fn a_hint_that_no_node_could_read_is_refused_and_what_was_kept_stays() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        let most = dynakv_protocol::limits::CLOCK_ENTRIES_MAX as u64;
        let state = |actors: std::ops::RangeInclusive<u64>| {
            let dot = |actor| Dot {
                actor: Actor(actor),
                counter: 1,
            };
            let clock: causal::Clock = actors.map(dot).collect();
            Versions::from_parts(clock, []).unwrap()
        };
        let keep = |versions: &Versions| HintJob::Keep {
            token: Token::Hint(ConnectionId(1), 1),
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            hint: Box::new(Hint {
                versions: Some(versions.clone()),
                owed: owners(),
                needed: 2,
                kept_at_ms: 1,
            }),
        };
        let first = state(1..=most);
        kept.handle.send(vec![keep(&first)]);
        let events = kept.events.recv().await.unwrap();
        assert!(
            matches!(
                events[0],
                StoreEvent::Job {
                    outcome: JobOutcome::Durable { .. },
                    ..
                }
            ),
            "{events:?}"
        );
        kept.handle.send(vec![keep(&state(most + 1..=most + 2))]);
        let events = kept.events.recv().await.unwrap();
        match &events[..] {
            [
                StoreEvent::Job {
                    outcome: JobOutcome::Refused(error),
                    ..
                },
            ] => assert_eq!(error.code, ErrorCode::TooLarge),
            other => panic!("{other:?}"),
        }
        let due = next(&kept, "a").await;
        assert_eq!(due[0].versions.as_ref(), Some(&first.to_bytes()));
    });
}

#[test]
fn what_is_said_to_be_kept_survives_a_power_cut_and_is_owed_to_all_owners() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        let versions = minted(&mut kept).await;
        let events = kept.events.recv().await.unwrap();
        assert!(matches!(
            &events[..],
            [StoreEvent::Job {
                outcome: JobOutcome::Durable { .. },
                ..
            }]
        ));
        // Not said to be kept yet when the power goes.
        kept.handle.send(vec![mint(2, "late", "v")]);
        minted(&mut kept).await;
        memory.crash_keeping(0);
        let kept = started(&memory);
        for owner in ["a", "b", "c"] {
            let due = next(&kept, owner).await;
            assert_eq!(due.len(), 1, "{due:?}");
            assert_eq!(due[0].key, "k");
            assert_eq!(due[0].versions, Some(versions.to_bytes()));
        }
    });
}

#[test]
fn a_hint_goes_when_all_owners_have_it_and_not_before() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        minted(&mut kept).await;
        for owner in ["a", "b"] {
            assert_eq!(confirm_all(&kept, owner).await, 1);
            assert_eq!(next(&kept, "c").await.len(), 1);
        }
        // Both are asked again whether they still have it.
        for owner in ["a", "b"] {
            let due = next(&kept, owner).await;
            assert!(due.len() == 1 && due[0].is_said);
            confirm(&kept, owner, &due);
            assert!(next(&kept, owner).await.is_empty());
            assert_eq!(next(&kept, "c").await.len(), 1);
        }
        assert_eq!(confirm_all(&kept, "c").await, 1);
        assert!(next(&kept, "c").await.is_empty());
        assert_eq!(kept.handle.kept(), 0);
    });
}

#[test]
fn what_changed_on_its_way_is_owed_again() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        minted(&mut kept).await;
        let on_its_way = next(&kept, "a").await;
        kept.handle.send(vec![mint(2, "k", "newer")]);
        let newer = loop {
            let events = kept.events.recv().await.unwrap();
            if let [
                StoreEvent::Job {
                    outcome: JobOutcome::Minted { versions, .. },
                    ..
                },
            ] = &events[..]
            {
                break Versions::from_bytes(versions).unwrap();
            }
        };
        // The same node's blind writes build on each other.
        assert_eq!(newer.siblings().len(), 1);
        confirm(&kept, "a", &on_its_way);
        assert_eq!(next(&kept, "a").await[0].versions, Some(newer.to_bytes()));
    });
}

/// One owner's word changes nothing of what is on its way to the others.
#[test]
fn all_owners_may_be_handed_a_hint_at_once() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        minted(&mut kept).await;
        let mut on_their_way = Vec::new();
        for owner in ["a", "b", "c"] {
            on_their_way.push((owner, next(&kept, owner).await));
        }
        for (owner, due) in on_their_way {
            confirm(&kept, owner, &due);
        }
        for owner in ["a", "b"] {
            assert_eq!(confirm_all(&kept, owner).await, 1);
            assert!(next(&kept, owner).await.is_empty());
        }
        assert_eq!(kept.handle.kept(), 0);
    });
}

/// What it stands for is in the own store, and may be another thing by then.
#[test]
fn a_reminder_that_comes_again_while_it_is_handed_over_stays() {
    run(async {
        let memory = MemoryDisk::new();
        let kept = started(&memory);
        let remind = || {
            kept.handle
                .remind(vec![(Bytes::from_static(b"k"), node("b"))])
        };
        remind();
        let on_its_way = next(&kept, "b").await;
        remind();
        confirm(&kept, "b", &on_its_way);
        assert_eq!(confirm_all(&kept, "b").await, 1);
        assert_eq!(confirm_all(&kept, "b").await, 0);
    });
}

#[test]
fn a_hint_that_is_too_large_is_refused_and_others_are_kept() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = start_on(&memory, u64::MAX, Duration::from_secs(3600));
        kept.handle.send(vec![mint(1, "k", "v")]);
        let mut versions = minted(&mut kept).await;
        let events = kept.events.recv().await.unwrap();
        assert!(matches!(
            &events[..],
            [StoreEvent::Job {
                outcome: JobOutcome::Durable { .. },
                ..
            }]
        ));
        let dot = Dot {
            actor: Actor(8),
            counter: 1,
        };
        let incoming = Incoming {
            write_id: WriteId(9),
            timestamp: 1,
            expires_at_ms: None,
            value: Value::Bytes(vec![0; HINT_BYTES_MAX].into()),
        };
        versions.write(&causal::Clock::new(), dot, incoming);
        kept.handle.send(vec![HintJob::Keep {
            token: Token::Hint(ConnectionId(4), 9),
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            hint: Box::new(Hint {
                versions: Some(versions),
                owed: owners(),
                needed: 2,
                kept_at_ms: 1,
            }),
        }]);
        let events = kept.events.recv().await.unwrap();
        let [
            StoreEvent::Job {
                outcome: JobOutcome::Refused(error),
                ..
            },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(error.code, ErrorCode::TooLarge, "{error}");
        assert!(!error.maybe_applied && !error.retryable, "{error:?}");
        kept.handle.send(vec![mint(2, "other", "v")]);
        minted(&mut kept).await;
        assert_eq!(next(&kept, "a").await.len(), 2);
    });
}

/// Had it kept its actor, the second write would claim to have seen the first, and drop it wherever it is.
#[test]
fn an_actor_is_given_up_with_the_first_hint_that_is() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        let first = minted(&mut kept).await;
        for owner in ["a", "b", "c", "a", "b"] {
            confirm_all(&kept, owner).await;
        }
        assert!(next(&kept, "a").await.is_empty());
        kept.handle.send(vec![mint(2, "k", "w")]);
        let second = loop {
            let events = kept.events.recv().await.unwrap();
            if let [
                StoreEvent::Job {
                    outcome: JobOutcome::Minted { versions, .. },
                    ..
                },
            ] = &events[..]
            {
                break Versions::from_bytes(versions).unwrap();
            }
        };
        let mut both = first.clone();
        both.merge(&second);
        assert_eq!(both.siblings().len(), 2, "{both:?}");
    });
}

#[test]
fn reminders_are_kept_without_a_sync_and_never_beyond_half_of_the_room() {
    run(async {
        let memory = MemoryDisk::new();
        let kept = start_on(&memory, 6000, Duration::from_secs(3600));
        let few_at_most = 3000 / MEMORY_PER_KEY_BYTES;
        let reminders = |from: usize, count| -> Vec<_> {
            let key = |number| Bytes::from(format!("key-{number}"));
            (from..from + count)
                .map(|number| (key(number), node("b")))
                .collect()
        };
        assert_eq!(kept.handle.remind(reminders(0, 3)), 0);
        let due = next(&kept, "b").await;
        assert_eq!(due.len(), 3);
        assert!(due.iter().all(|due| due.versions.is_none()));
        // The same ones again are the same ones.
        kept.handle.remind(reminders(0, 3));
        assert_eq!(next(&kept, "b").await.len(), 3);
        kept.handle.remind(reminders(0, 100));
        next(&kept, "b").await;
        let few = kept.handle.kept();
        assert!((4..few_at_most).contains(&few), "{few} are kept");
        let text = kept.metrics.render(std::path::Path::new("."));
        let dropped = |line: &&str| {
            line.starts_with("dynakv_hints_dropped_total{") && line.contains("reason=\"bound\"")
        };
        let dropped = text.lines().find(dropped).unwrap();
        let (_, dropped) = dropped.rsplit_once(' ').unwrap();
        // All that were not there yet and found no room.
        assert_eq!(dropped, (100 - few).to_string());
        // What counts still has room.
        let mut kept = kept;
        kept.handle.send(vec![mint(1, "k", "v")]);
        minted(&mut kept).await;
    });
}

#[test]
fn at_the_bound_a_hint_that_counts_is_refused_and_none_is_dropped() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = start_on(&memory, 1500, Duration::ZERO);
        kept.handle.send(vec![mint(1, "k", "v")]);
        minted(&mut kept).await;
        kept.handle
            .send(vec![mint(2, "other", &"v".repeat(1000).leak()[..])]);
        let refused = loop {
            let events = kept.events.recv().await.unwrap();
            match &events[..] {
                [
                    StoreEvent::Job {
                        outcome: JobOutcome::Refused(error),
                        ..
                    },
                ] => break error.clone(),
                [
                    StoreEvent::Job {
                        outcome: JobOutcome::Durable { .. },
                        ..
                    },
                ] => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused.code, ErrorCode::Overloaded);
        assert!(!refused.maybe_applied && refused.retryable);
        // Nor does age drop what counts.
        kept.clock.0.fetch_add(86_400_000, Ordering::Relaxed);
        kept.handle.send(vec![HintJob::Tick]);
        assert_eq!(next(&kept, "a").await.len(), 1);
        // Of what counts for nothing it does.
        kept.handle
            .remind(vec![(Bytes::from_static(b"r"), node("a"))]);
        assert_eq!(next(&kept, "a").await.len(), 2);
        kept.clock.0.fetch_add(86_400_000, Ordering::Relaxed);
        for _ in 0..LOOKS_EVERY_TICKS {
            kept.handle.send(vec![HintJob::Tick]);
        }
        assert_eq!(next(&kept, "a").await.len(), 1);
    });
}

#[test]
fn another_nodes_hint_is_answered_after_a_sync_also_when_it_is_no_news() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        kept.handle.send(vec![mint(1, "k", "v")]);
        let versions = minted(&mut kept).await;
        let token = Token::Hint(ConnectionId(4), 9);
        kept.handle.send(vec![HintJob::Keep {
            token,
            ring_version: RingVersion(0),
            key: Bytes::from_static(b"k"),
            hint: Box::new(Hint {
                versions: Some(versions),
                owed: owners(),
                needed: 2,
                kept_at_ms: 1,
            }),
        }]);
        let mut durable = Vec::new();
        while durable.len() < 2 {
            for event in kept.events.recv().await.unwrap() {
                match event {
                    StoreEvent::Job {
                        token,
                        outcome: JobOutcome::Durable { .. },
                    } => durable.push(token),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(durable, [Token::Operation(1), token]);
    });
}

#[test]
fn what_was_asked_for_under_another_ring_is_not_kept() {
    run(async {
        let memory = MemoryDisk::new();
        let mut kept = started(&memory);
        let keep = |version, request_id, key: &'static str| HintJob::Keep {
            token: Token::Hint(ConnectionId(4), request_id),
            ring_version: RingVersion(version),
            key: Bytes::from_static(key.as_bytes()),
            hint: Box::new(Hint {
                versions: Some(Versions::default()),
                owed: owners(),
                needed: 2,
                kept_at_ms: 1,
            }),
        };
        let mint_at = |version, key| {
            let mut job = mint(4, key, "v");
            if let HintJob::Mint { ring_version, .. } = &mut job {
                *ring_version = RingVersion(version);
            }
            job
        };
        let _is_through = kept.handle.move_fence(RingVersion(3));
        kept.handle
            .send(vec![keep(3, 1, "before"), keep(2, 2, "late")]);
        let moved = kept.handle.move_fence(RingVersion(4));
        kept.handle.send(vec![
            keep(3, 3, "behind"),
            mint_at(3, "minted behind"),
            keep(4, 5, "after"),
        ]);
        moved.await.unwrap();
        let (mut durable, mut stale) = (Vec::new(), Vec::new());
        while durable.len() + stale.len() < 5 {
            for event in kept.events.recv().await.unwrap() {
                match event {
                    StoreEvent::Job {
                        token: Token::Hint(_, number) | Token::Operation(number),
                        outcome,
                    } => match outcome {
                        JobOutcome::Durable { .. } => durable.push(number),
                        JobOutcome::Refused(error) if error.code == ErrorCode::StaleRing => {
                            assert!(error.ring_version >= Some(RingVersion(3)), "{error}");
                            stale.push(number);
                        }
                        other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((durable, stale), (vec![1, 5], vec![2, 3, 4]));
        let mut keys: Vec<_> = next(&kept, "a").await;
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        let keys: Vec<_> = keys.into_iter().map(|due| due.key).collect();
        assert_eq!(keys, ["after", "before"]);
    });
}
