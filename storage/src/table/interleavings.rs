//! One key, and threads that write, read, carry and drop it, in very many orders (`make interleavings`).
//!
//! The states of the key are numbers that grow. Whoever looks must never see one that is smaller than what was seen
//! before, and the writer always the one that it has written.

use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::*;

/// How many orders are tried of each test.
const ORDERS: usize = 5_000;

/// The last state that is written.
const LAST: u8 = 4;

const KEY: &[u8] = b"key";

/// What is done wrongly, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// What is carried counts as completed, before it is in the tree for good.
    CarriedIsCompleted,
    /// What the tree said is added, whatever was dropped meanwhile.
    FillsWhatMayBeOld,
}

/// A store of one key. The lock of the log is held by whoever puts or freezes.
struct Store {
    table: Table,
    log: Mutex<()>,
    /// What the tree has, and what of it would be there after it was opened again.
    tree: Mutex<Tree>,
    mistake: Mistake,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tree {
    state: Option<u8>,
    durable: Option<u8>,
}

impl Store {
    fn new(mistake: Mistake) -> Self {
        Self {
            table: Table::new(1 << 20),
            log: Mutex::new(()),
            tree: Mutex::default(),
            mistake,
        }
    }

    fn position() -> Position {
        Position::of_key(KEY)
    }

    fn get(&self) -> Option<u8> {
        let missed = match self.table.get(Self::position(), KEY) {
            Look::Hit(versions) => return Some(versions[0]),
            Look::Miss(missed) => missed,
        };
        let found = self.tree.lock().unwrap().state;
        if let Some(state) = found {
            self.fill(state, missed);
        }
        found
    }

    fn fill(&self, state: u8, missed: Missed) {
        let missed = match self.table.get(Self::position(), KEY) {
            Look::Miss(later) if self.mistake == Mistake::FillsWhatMayBeOld => later,
            _ => missed,
        };
        self.table.fill(Self::position(), KEY, &[state], missed);
    }

    fn put(&self, state: u8) {
        let _log = self.log.lock().unwrap();
        self.table
            .put(Self::position(), &[KEY, &[state]].concat(), KEY.len());
    }

    /// A checkpoint. The first attempt is cut short: the tree is opened again, and has forgotten it.
    fn checkpoint(&self) {
        {
            let _log = self.log.lock().unwrap();
            self.table.freeze();
        }
        self.carry();
        {
            let mut tree = self.tree.lock().unwrap();
            tree.state = tree.durable;
        }
        self.carry();
        {
            let mut tree = self.tree.lock().unwrap();
            tree.durable = tree.state;
        }
        self.table.complete();
    }

    fn carry(&self) {
        let mut cursor = FrozenCursor::new(&self.table);
        while let Some(entries) = cursor.next() {
            let mut tree = self.tree.lock().unwrap();
            tree.state = Some(entries[0].pair.versions()[0]);
        }
        if self.mistake == Mistake::CarriedIsCompleted {
            self.table.complete();
        }
    }

    fn drop_all(&self) {
        for _ in 0..4 {
            self.table.sweep(shard_of(Self::position()));
        }
    }
}

/// Runs threads beside one that reads again and again, and holds what it sees against what it has seen.
fn run(mistake: Mistake, works: &[fn(&Store)]) {
    let store = Arc::new(Store::new(mistake));
    let spawn = |work: fn(&Store)| {
        let store = store.clone();
        thread::spawn(move || work(&store))
    };
    let mut threads: Vec<_> = works.iter().copied().map(spawn).collect();
    threads.push(spawn(|store| {
        let mut seen = None;
        for _ in 0..8 {
            let now = store.get();
            assert!(now >= seen, "{now:?} after {seen:?}");
            seen = now;
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(store.get(), Some(LAST), "the last state is lost");
}

/// Each thread goes its own way.
fn apart(mistake: Mistake) {
    let writer = |store: &Store| {
        for state in 1..=LAST {
            store.put(state);
            assert_eq!(store.get(), Some(state), "what was written is not there");
        }
    };
    let checkpoints = |store: &Store| (0..2).for_each(|_| store.checkpoint());
    let drops = |store: &Store| (0..4).for_each(|_| store.drop_all());
    run(mistake, &[writer, checkpoints, drops]);
}

/// Each state is in the tree, and out of the table, before the next one is written.
fn in_turns(mistake: Mistake) {
    let all = |store: &Store| {
        for state in 1..=LAST {
            store.put(state);
            store.checkpoint();
            store.drop_all();
            assert_eq!(store.get(), Some(state), "what was written is not there");
            store.drop_all();
        }
    };
    run(mistake, &[all]);
}

fn in_many_orders(mistake: Mistake) {
    for scenario in [apart, in_turns] {
        shuttle::check_random(move || scenario(mistake), ORDERS);
        shuttle::check_pct(move || scenario(mistake), ORDERS, 3);
    }
}

#[test]
fn nobody_sees_an_old_state() {
    in_many_orders(Mistake::None);
}

#[test]
#[should_panic]
fn what_counts_as_completed_too_early_is_lost() {
    in_many_orders(Mistake::CarriedIsCompleted);
}

#[test]
#[should_panic]
fn what_is_added_though_it_may_be_old_undoes_a_write() {
    in_many_orders(Mistake::FillsWhatMayBeOld);
}
