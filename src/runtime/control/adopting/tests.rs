//! The control task with a store and hints on the in-memory disk, which hangs where a test wants it to: what is followed
//! when.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Sibling, Value, Versions};
use dynakv_protocol::handshake::{Hello, Lane, PeerIdentity};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::ring_document::{Member, Step};
use dynakv_protocol::{Actor, ClusterId, DirectoryId, ErrorCode, Generation, NodeId, WriteId};
use dynakv_storage::{MemoryDisk, Store, load_document};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::layout::change::{self, Reads};
use crate::engine::layout::force;
use crate::engine::membership::MembershipConfig;
use crate::engine::write::mint::Minter;
use crate::engine::write::outcome::JobOutcome;
use crate::runtime::anti_entropy::repairs::Repairs;
use crate::runtime::control::{Parts, Startup};
use crate::runtime::net::admission::Myself;
use crate::runtime::net::calls::Calls;
use crate::runtime::net::confirming::Confirmer;
use crate::runtime::net::frame_reader::Intake;
use crate::runtime::net::outgoing::Outgoing;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::data_directory::REMOVED;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::{
    BoxFuture, Disk, Listener, Network, ReadHalf, Stall, StoreThreads, SystemClock, WriteHalf,
};
use crate::runtime::shared::events::ConnectionId;
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::ledger::Ledger;
use crate::runtime::shared::view::View;
use crate::runtime::store::fences::Fences;
use crate::runtime::store::hint_worker::{self, HintBounds, KeptHints};
use crate::runtime::store::rebuilding::Rebuilding;
use crate::runtime::store::store_worker::{self, Running, StoreEvent, Token, WriteJob, WriteWork};

/// Nobody is there.
struct NoNetwork;

impl Network for NoNetwork {
    fn dial<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<(ReadHalf, WriteHalf)>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// A ring whose other member has a directory of this number.
fn ring(version: u64) -> RingDocument {
    let member = |id: &str, directory_id| Member {
        id: id.parse().unwrap(),
        directory_id: DirectoryId(directory_id),
        address: format!("{id}:1"),
        weight: 1,
        zone: String::new(),
    };
    RingDocument {
        cluster_id: ClusterId(1),
        cluster_name: "blue".to_owned(),
        version: RingVersion(version),
        step: Step::Final,
        n: 2,
        w: 1,
        r: 1,
        members: vec![member("a", 1), member("b", 100 + version)],
    }
}

/// A node's control task, store and hints.
struct Node {
    control: Control,
    ends: mpsc::UnboundedReceiver<CallEnd>,
    view: watch::Receiver<Arc<View>>,
    store: Running,
    stall: Stall,
}

impl Node {
    fn start(memory: &MemoryDisk) -> Self {
        let stall = Stall::default();
        let disk = Disk {
            store: Arc::new(memory.store()),
            hints: memory.hints(),
            files: Arc::new(memory.files()),
            threads: StoreThreads::Simulated {
                sync_us: 1000,
                stall: stall.clone(),
            },
        };
        let metrics = Arc::new(Metrics::new("a").unwrap());
        let ledger = Arc::new(Ledger::new(1 << 20));
        let rebuilding = Arc::new(Rebuilding::load(disk.files.clone()).unwrap());
        let progress = Arc::new(DiskProgress::new(disk.store.clone()));
        let minter = || Minter::new(Actor(7), 0, fastrand::Rng::with_seed(1));
        let clock = Arc::new(SystemClock);
        let store = store_worker::start(
            &disk,
            minter(),
            clock.clone(),
            (metrics.clone(), ledger.clone()),
            rebuilding.clone(),
            progress.clone(),
        )
        .unwrap();
        let hints = hint_worker::start(hint_worker::Parts {
            disk: disk.clone(),
            hints: KeptHints::open(disk.hints.clone()).unwrap(),
            minter: minter(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            bounds: HintBounds {
                bytes_max: 1 << 20,
                age_max: Duration::from_secs(3600),
            },
            events: store.events_in.clone(),
            progress: progress.clone(),
        })
        .unwrap();
        let me = Myself {
            node_id: "a".parse().unwrap(),
            directory_id: DirectoryId(1),
            generation: Generation(1),
            nonce: 1,
            cluster_name: "blue".to_owned(),
            address: "a:1".to_owned(),
            may_found: false,
        };
        let (view_in, view) = watch::channel(Arc::new(View::default()));
        let seen = Arc::new(KnownProcesses::load(disk.files.clone()).unwrap());
        let outgoing = Outgoing {
            network: Arc::new(NoNetwork),
            view: view.clone(),
            seen: seen.clone(),
            intake: Intake {
                malformed: metrics.doors.malformed_frames.clone(),
                ledger,
            },
        };
        let hello = Hello::peer(
            "blue",
            PeerIdentity {
                node_id: me.node_id.clone(),
                directory_id: me.directory_id,
                cluster_id: ClusterId(1),
                generation: me.generation,
                nonce: me.nonce,
                address: me.address.clone(),
                lane: Lane::Control,
            },
        );
        let (_, events) = mpsc::channel(1);
        let (unlocks, _) = mpsc::channel(1);
        let parts = Parts {
            startup: Startup {
                seeds: Vec::new(),
                quorums: (None, None, None),
                member: ring(1).members[0].clone(),
                is_new_directory: false,
                auto_join: true,
            },
            membership: MembershipConfig::default(),
            calls: Arc::new(Calls::new(outgoing.clone(), hello)),
            confirmer: Arc::new(Confirmer::new(outgoing, "blue".to_owned())),
            seen,
            others: Arc::default(),
            unreachable: Arc::default(),
            events,
            view: view_in,
            data_dir: PathBuf::new(),
            threads: disk.threads.clone(),
            clock,
            files: disk.files.clone(),
            store: disk.store.clone(),
            metrics,
            rebuilding,
            repairs: Arc::new(Repairs::new(me.node_id.clone())),
            fences: Fences::new(store.fences.clone(), hints.clone()),
            hints,
            disk: progress,
            unlocks,
            random: fastrand::Rng::with_seed(1),
            draining: CancellationToken::new(),
            clients: CancellationToken::new(),
            settling: Arc::default(),
            shutdown: CancellationToken::new(),
            me,
        };
        let (ends_in, ends) = mpsc::unbounded_channel();
        Self {
            control: Control::load(parts, ends_in).unwrap(),
            ends,
            view,
            store,
            stall,
        }
    }

    /// The ring that the node follows, and the one that is to be followed next.
    fn rings(&self) -> (u64, Option<u64>) {
        let adopting = self.control.adopting.as_ref();
        let followed = self.view.borrow().ring_version();
        (followed.0, adopting.map(|it| it.version.0))
    }

    /// Asks for a key to be written under this ring.
    fn merge(&self, version: u64, key: &'static str) {
        let dot = Dot {
            actor: Actor(1),
            counter: 1,
        };
        let sibling = Sibling {
            dot,
            write_id: WriteId(1),
            timestamp: 1,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from_static(b"value")),
        };
        let clock: Clock = [dot].into_iter().collect();
        let versions = Versions::from_parts(clock, [sibling]).unwrap();
        self.store.handle.write(vec![WriteJob {
            token: Token::Replica(ConnectionId(1), version),
            ring_version: RingVersion(version),
            key: Bytes::from_static(key.as_bytes()),
            work: WriteWork::Merge {
                versions: versions.to_bytes(),
                tell_beside: false,
            },
        }]);
    }

    /// What comes of what was asked for.
    async fn told(&mut self) -> Result<(), ErrorCode> {
        let events = self.store.events.recv().await.unwrap();
        match &events[..] {
            [StoreEvent::Job { outcome, .. }] => match outcome {
                JobOutcome::Durable { .. } => Ok(()),
                JobOutcome::Refused(error) => Err(error.code),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// The next ring that is through the queues of the store and the hints.
    async fn fenced(&mut self) -> RingVersion {
        loop {
            // Nobody is there, so other calls come to nothing.
            if let CallEnd::Fenced(version) = self.ends.recv().await.unwrap() {
                return version;
            }
        }
    }

    /// The disk hangs with a write in hand: whatever is asked for now waits behind that.
    async fn hang(&mut self, version: u64) {
        self.stall.set(true);
        self.merge(version, "in hand");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

/// A node that follows the first ring.
fn started(memory: &MemoryDisk) -> Node {
    save_document(&memory.files(), RING, &ring(1).to_bytes()).unwrap();
    let node = Node::start(memory);
    assert_eq!(node.rings(), (1, None));
    node
}

#[test]
fn after_a_crash_between_saving_and_following_the_saved_ring_is_followed() {
    run(async {
        let memory = MemoryDisk::new();
        let mut node = started(&memory);
        node.hang(1).await;
        node.control.adopt(ring(2));
        // Asked for under the ring that is followed still, and behind the fence.
        node.merge(1, "behind");
        let fenced = timeout(Duration::from_secs(1), node.fenced()).await;
        assert!(fenced.is_err(), "its disk hangs");
        assert_eq!(node.rings(), (1, Some(2)));
        memory.crash();
        drop(node);
        let saved = load_document(&memory.files(), RING).unwrap().unwrap();
        assert_eq!(RingDocument::from_bytes(&saved).unwrap(), ring(2));

        let mut node = Node::start(&memory);
        assert_eq!(node.rings(), (2, None));
        node.merge(1, "late");
        assert_eq!(node.told().await, Err(ErrorCode::StaleRing));
        node.merge(2, "new");
        assert_eq!(node.told().await, Ok(()));
        for key in [&b"in hand"[..], b"behind", b"late"] {
            assert_eq!(memory.store().get(key).unwrap(), None);
        }
    });
}

#[test]
fn a_fence_that_is_through_follows_no_ring_but_its_own() {
    run(async {
        let memory = MemoryDisk::new();
        let mut node = started(&memory);
        node.hang(1).await;
        node.control.adopt(ring(2));
        node.control.adopt(ring(3));
        assert_eq!(node.rings(), (1, Some(3)));
        node.stall.set(false);
        assert_eq!(node.told().await, Ok(()));
        // The store may be at the third ring by now, and what is told is of the second.
        let first = node.fenced().await;
        assert_eq!(first, RingVersion(2));
        node.control.on_fenced(first);
        assert_eq!(node.rings(), (1, Some(3)));
        let second = node.fenced().await;
        assert_eq!(second, RingVersion(3));
        node.control.on_fenced(second);
        assert_eq!(node.rings(), (3, None));
        // What comes late, or twice, changes nothing.
        node.control.adopt(ring(2));
        node.control.on_fenced(first);
        node.control.on_fenced(second);
        assert_eq!(node.rings(), (3, None));
        node.merge(2, "late");
        assert_eq!(node.told().await, Err(ErrorCode::StaleRing));
        node.merge(3, "new");
        assert_eq!(node.told().await, Ok(()));
    });
}

/// Whoever stays may have nobody else to hear it from.
#[test]
fn who_is_taken_out_ends_once_most_of_those_that_stay_follow() {
    run(async {
        let memory = MemoryDisk::new();
        let mut node = started(&memory);
        let mut without = ring(2);
        let named = |id: &str| Member {
            id: id.parse().unwrap(),
            ..without.members[1].clone()
        };
        without.members = ["b", "c", "d"].map(named).to_vec();
        let [b, c, x] = ["b", "c", "x"].map(|id| id.parse::<NodeId>().unwrap());
        let control = &mut node.control;
        control.adopt(without.clone());
        assert_eq!(control.ring_to_tell(), Some(&without));
        for (by, version) in [(&b, 1), (&b, 2), (&b, 3), (&x, 2), (&c, 1)] {
            control.note_followed(by, RingVersion(version));
            assert!(control.end.is_none(), "{by} follows {version}");
        }
        control.adopt(without);
        control.note_followed(&c, RingVersion(3));
        let end = control.end.take();
        assert!(matches!(end, Some(ControlError::Removed { by, .. }) if by == RingVersion(2)));
        assert_eq!(node.rings(), (1, None));
        assert!(load_document(&memory.files(), REMOVED).unwrap().is_some());
    });
}

/// A ring in which each key has one owner, of these members.
fn ring_of_one_copy(version: u64, members: &str) -> RingDocument {
    let names = members.chars();
    let member = |name: char| Member {
        id: name.to_string().parse().unwrap(),
        directory_id: DirectoryId(1),
        address: format!("{name}:1"),
        weight: 1,
        zone: String::new(),
    };
    RingDocument {
        n: 1,
        members: names.map(member).collect(),
        ..ring(version)
    }
}

/// What it did not own it handed on and dropped, under rings that whoever forces this one has not heard of.
#[test]
fn whoever_comes_to_a_forced_ring_marks_what_it_may_have_dropped() {
    run(async {
        for (version, marks) in [(2, false), (1 << 32, true)] {
            let memory = MemoryDisk::new();
            let before = ring_of_one_copy(1, "ab");
            save_document(&memory.files(), RING, &before.to_bytes()).unwrap();
            let mut node = Node::start(&memory);
            node.control.adopt(ring_of_one_copy(version, "a"));
            let before = Ring::new(before);
            let me = before.index_of(&"a".parse().unwrap()).unwrap();
            let marked = node.control.rebuilding.segments();
            for segment in (0..=u16::MAX).map(Segment) {
                let is_new = !before.readers(segment).contains(&me);
                assert_eq!(marked.contains(segment), is_new && marks, "{segment:?}");
            }
        }
    });
}

/// Nobody need ever follow it: changes of the epoch before are met as if it had not been.
#[test]
fn a_forced_ring_that_was_not_saved_leaves_nothing_behind() {
    run(async {
        let memory = MemoryDisk::new();
        let before = ring_of_one_copy(1, "abc");
        save_document(&memory.files(), RING, &before.to_bytes()).unwrap();
        let node = Node::start(&memory);
        let gone = ["b".parse().unwrap()].into();
        let forced = force::forced(&before, &gone).unwrap();
        node.control.note_gained(&forced).unwrap();
        assert!(node.control.rebuilding.has_met(forced.version));
        memory.crash();
        drop(node);

        let mut node = Node::start(&memory);
        let next = RingVersion(2);
        assert!(!node.control.rebuilding.has_met(next));
        let members = ring_of_one_copy(1, "ab").members;
        let next_ring = change::begin(&before, &members, &[], |_| Reads::Changes).unwrap();
        assert_eq!(next_ring.version, next);
        node.control.adopt(next_ring);
        assert!(node.control.rebuilding.has_met(next));
        assert!(!node.control.rebuilding.has_met(forced.version));
        // What it gains by it is not here, and was fetched by nobody.
        assert_eq!(node.control.rebuilding.complete_since(), RingVersion(0));
    });
}
