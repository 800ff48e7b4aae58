use bytes::Bytes;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{Actor, WriteId};
use dynakv_storage::{
    DiskOptions, DiskStore, Footprint, MemoryDisk, Mutation, check_directory, load_document,
};

use super::*;
use crate::runtime::shared::data_directory::SNAPSHOT;
use crate::runtime::shared::environment::SystemClock;

const KEYS: u64 = 5_000;

struct World {
    root: tempfile::TempDir,
    store: Option<Arc<dyn Store>>,
    rebuilding: Arc<Rebuilding>,
    draining: CancellationToken,
    snapshots: Arc<Snapshots>,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = DiskStore::open(root.path().join("store"), DiskOptions::default()).unwrap();
        let mut mutations = Vec::new();
        for number in 0..KEYS {
            let key = Bytes::from(format!("key-{number}"));
            let mut versions = Versions::new();
            let dot = Dot {
                actor: Actor(1),
                counter: number + 1,
            };
            let incoming = Incoming {
                write_id: WriteId(u128::from(number)),
                timestamp: 1,
                expires_at_ms: None,
                value: Value::Bytes(Bytes::from_static(b"value")),
            };
            versions.write(&Clock::new(), dot, incoming);
            mutations.push(Mutation {
                before: Footprint::default(),
                after: Footprint::of(&key, &versions),
                versions: versions.to_bytes(),
                key,
            });
        }
        store.apply(&mutations).unwrap();
        store.sync().unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let files = Arc::new(MemoryDisk::new().files());
        let rebuilding = Arc::new(Rebuilding::load(files).unwrap());
        let draining = CancellationToken::new();
        let snapshots = Snapshots::new(Parts {
            node_id: NodeId::new("n-1").unwrap(),
            directory: Some(root.path().join("snapshots")),
            store: Arc::downgrade(&store),
            rebuilding: Arc::downgrade(&rebuilding),
            clock: Arc::new(SystemClock),
            metrics: Arc::new(Metrics::new("n-1").unwrap()),
            draining: draining.clone(),
        });
        Self {
            root,
            store: Some(store),
            rebuilding,
            draining,
            snapshots,
        }
    }

    fn start(&self, name: &str) -> Result<SnapshotProgress, SnapshotError> {
        let note = SnapshotNote {
            node_id: NodeId::new("n-1").unwrap(),
            former: None,
            begun_unix_ms: 0,
            is_taken: false,
        };
        self.snapshots.start(name.to_owned(), note, None)
    }

    fn ended(&self) -> SnapshotProgress {
        loop {
            let progress = self.snapshots.progress();
            if !progress.running {
                return progress;
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn metric(&self, name: &str) -> String {
        let text = self.snapshots.parts.metrics.render(self.root.path());
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.to_owned()
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn one_at_a_time_is_made_and_told_of() {
    let world = World::new();
    assert_eq!(world.snapshots.progress().run, 0);
    let begun = world.start("a").unwrap();
    assert_eq!((begun.run, begun.running), (1, true));
    // Asked for again it is the same one.
    assert_eq!(world.start("a").unwrap().run, 1);
    let error = world.start("b").unwrap_err();
    assert!(
        matches!(&error, SnapshotError::Busy { name } if name == "a"),
        "{error:?}"
    );
    assert!(matches!(world.start(".b"), Err(SnapshotError::Name { .. })));
    let ended = world.ended();
    assert_eq!((&ended.error[..], ended.keys_done), ("", KEYS));
    assert!(ended.bytes > 0 && ended.finished_age_ms.is_some());
    let path = world.root.path().join("snapshots/a");
    assert_eq!(ended.path, path.display().to_string());
    let checked = check_directory(&path.join("store"), &mut |_, _, _| ()).unwrap();
    assert_eq!((checked.findings, checked.keys), (Vec::new(), KEYS));
    let files = DirectoryFiles::open(&path).unwrap();
    assert!(load_document(&files, SNAPSHOT).unwrap().is_some());
    assert!(Rebuilding::load(Arc::new(files)).unwrap().is_all());
    assert_eq!(world.metric("dynakv_snapshots_total"), "1");
    assert_eq!(
        world.metric("dynakv_snapshot_keys_copied"),
        KEYS.to_string()
    );
    assert_ne!(world.metric("dynakv_snapshot_last_unix_seconds"), "0");
    // The name is taken now.
    assert_eq!(world.start("a").unwrap().run, 2);
    assert!(world.ended().error.contains("already"));
    assert_eq!(world.metric("dynakv_snapshots_failed_total"), "1");
}

#[test]
fn a_node_that_lacks_data_makes_none() {
    let world = World::new();
    world.rebuilding.begin(b"k").unwrap();
    world.start("a").unwrap();
    let ended = world.ended();
    assert!(ended.error.contains("rebuilding 1 segments"), "{ended:?}");
    assert!(is_empty(&world.root.path().join("snapshots")));
}

/// What is met while it is made is missing in it, perhaps.
#[test]
fn a_loss_that_is_found_meanwhile_ends_it() {
    let world = World::new();
    world.start("a").unwrap();
    while world.snapshots.progress().keys_done == 0 {
        sleep(Duration::from_millis(1));
    }
    world.rebuilding.begin(b"k").unwrap();
    let ended = world.ended();
    assert!(ended.error.contains("rebuilding"), "{ended:?}");
    assert!(is_empty(&world.root.path().join("snapshots")));
}

#[test]
fn a_node_that_stops_does_not_wait_for_it_and_nothing_is_left() {
    for is_dropped in [false, true] {
        let mut world = World::new();
        world.start("a").unwrap();
        while world.snapshots.progress().keys_done == 0 {
            sleep(Duration::from_millis(1));
        }
        match is_dropped {
            true => world.store = None,
            false => world.draining.cancel(),
        }
        let ended = world.ended();
        assert!(ended.error.contains("being stopped"), "{ended:?}");
        assert!(is_empty(&world.root.path().join("snapshots")));
    }
}
