//! One machine: what outlives the node that runs on it, and how that node is started.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynakv::config::Config;
use dynakv::node::{ControlError, Node, ServeError};
use dynakv::runtime::shared::environment::{Disk, Environment, Stall, StoreThreads};
use dynakv::runtime::store::rebuilding::Rebuilding;
use dynakv_protocol::NodeId;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::hash::Segment;
use dynakv_storage::{
    Identity, LogPlace, MemoryDisk, PageLimit, PositionRange, Store, load_document,
    scan_past_losses,
};
use tokio_util::sync::CancellationToken;

use crate::clock::SkewedClock;
use crate::flawed_store::{LyingHints, LyingStore, RacingStore};
use crate::hangs::Hangs;
use crate::hints::{Kept, hints_in};
use crate::invariants::convergence;
use crate::network::SimulatedNetwork;
use crate::resend::Resending;
use crate::trace::Trace;

/// Where every node listens.
pub(crate) const PORT: u16 = 8080;

/// A rule of safety that is left out on purpose, to see that the checkers notice. All of them are made
/// out of the node's surroundings: the code under test is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// All rules are kept.
    None,
    /// All rules are kept, and disks are slow: others acknowledge long before this one has synced.
    NoneOnSlowDisks,
    /// Rule 1: a node goes on with its actor after a power cut, at counters that it has never used: its
    /// dots are unique, and cover what it has forgotten. Disks are slow, or it would forget little.
    KeepsActor,
    /// Rule 1: a node goes on with its actor after a power cut, and counts from the beginning again.
    CountsAnew,
    /// Rule 2: reading, minting and merging are no single step: what was written under a key is not seen
    /// by the next write until it is synced, so what is replicated lacks what was minted before.
    MintsOverOldState,
    /// Rule 6: a blind write is answered once W owners have it, whatever the others have, as the cluster
    /// promises no R that meets W. (Clients that want to notice ask for more.)
    WaitsForWOnly,
    /// Rule 6: owners do not say what they have beside a blind write, so it is never minted over that.
    HidesBeside,
    /// Rule 6: a node that has handed a write on to a second owner hears the first one all the same.
    HearsWhoWasGivenUp,
    /// Rule 6: who hands a write on does not say when, so an attempt that comes late is begun.
    BeginsLate,
    /// Rule 6: what an owner says counts although it has lost its data and is still fetching it back.
    CountsRebuilding,
    /// A node mints over a context without what stands under it: of the owners that it reads because it lacks
    /// what the context names it gets no marks of writes that were sent more than once.
    MintsWhileBehind,
    /// Rule 7: the disk says "synced" and has not: acknowledged before durable.
    SyncDoesNothing,
    /// Rule 11: a node does not notice that it has lost its data: it votes "absent" where it has
    /// forgotten.
    ForgetsLoss,
    /// Rule 11: a node that has lost its data knows it, and fetches it back, and meanwhile answers reads as
    /// if it had never lost anything.
    VotesWhileRebuilding,
    /// While the ring changes: who gains a part of it says at once that it has all of that, and answers reads as if it
    /// had.
    ReadsTheNewAtOnce,
    /// While the ring changes: who gains a part of it takes it from N - W owners, one too few, as the cluster promises a W
    /// that is greater by one. (Clients that want to notice ask for less.)
    FetchesFromTooFew,
    /// Rule 19: what is kept for others does not outlive a power cut, although it counted.
    DropsHints,
    /// Rule 7, of hints: the disk says "synced" of what is kept for others, and has not.
    HintSyncDoesNothing,
    /// Rule 19: after a stop in order a node that stands in goes on with the actor of its hints, and counts
    /// from the beginning again. (All chance is the same in each life.)
    RepeatsItself,
}

/// N, W and R of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quorums {
    pub(crate) n: u8,
    pub(crate) w: u8,
    pub(crate) r: u8,
}

impl Quorums {
    /// Those of a cluster that nobody has told otherwise.
    pub(crate) const USUAL: Self = Self::new(3, 2, 2);

    pub(crate) const fn new(n: u8, w: u8, r: u8) -> Self {
        Self { n, w, r }
    }
}

/// A machine, with or without a running node.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) disk: MemoryDisk,
    /// Makes it hang.
    stall: Stall,
    /// When it did.
    pub(crate) hangs: Hangs,
    flaw: Flaw,
    quorums: Quorums,
    zone: RefCell<String>,
    seed: u64,
    sync_us: u64,
    clock_ahead_ms: Arc<AtomicI64>,
    resending: Resending,
    seeds: Vec<String>,
    /// How often a node was started here.
    lives: Cell<u64>,
    is_on: Cell<bool>,
    /// How often it was switched off.
    outages: Cell<u64>,
    /// How often a node ended here because the ring does without it.
    removals: Cell<u64>,
    /// How many machines are there from the beginning, if this one is not, and comes in by an operator's word.
    comes_in_after: Cell<Option<usize>>,
    /// The file of hints when it was last read, and what was in it.
    hints: RefCell<(Bytes, Kept)>,
    /// Tells the node of this life to stop.
    stop: RefCell<CancellationToken>,
    trace: Trace,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead_ms = self.clock_ahead_ms.load(Ordering::Relaxed);
        let Self {
            name,
            sync_us,
            resending,
            ..
        } = self;
        write!(
            f,
            "{name}: a sync takes {sync_us} us, the clock is {ahead_ms} ms ahead, {resending}"
        )
    }
}

/// The name of a machine, by its number.
pub(crate) fn machine_name(number: usize) -> String {
    format!("node-{}", number + 1)
}

/// Where the node of a machine is reached.
pub(crate) fn address(number: usize) -> String {
    format!("{}:{PORT}", machine_name(number))
}

impl Machine {
    /// Machine 0 founds the cluster, the others join it.
    pub(crate) fn new(
        number: usize,
        quorums: Quorums,
        flaw: Flaw,
        random: &mut fastrand::Rng,
        trace: Trace,
    ) -> Self {
        Self {
            name: machine_name(number),
            disk: MemoryDisk::new(),
            stall: Stall::default(),
            hangs: Hangs::default(),
            flaw,
            quorums,
            zone: RefCell::default(),
            seed: random.u64(..),
            // Some disks are slower than the network, so that others acknowledge first.
            sync_us: random.u64(500..=40_000)
                * match flaw {
                    Flaw::KeepsActor | Flaw::NoneOnSlowDisks => 5,
                    _ => 1,
                },
            clock_ahead_ms: Arc::new(AtomicI64::new(random.i64(0..2000))),
            resending: Resending::random(random),
            seeds: match number {
                0 => Vec::new(),
                _ => vec![address(0)],
            },
            lives: Cell::new(0),
            is_on: Cell::new(true),
            outages: Cell::new(0),
            removals: Cell::new(0),
            comes_in_after: Cell::new(None),
            hints: RefCell::new((Bytes::new(), Rc::new([]))),
            stop: RefCell::default(),
            trace,
        }
    }

    /// Runs a node until it is told to stop, or was taken out of the ring. Any other end is an error.
    pub(crate) async fn run(&self) -> turmoil::Result {
        let life = self.lives.get();
        self.lives.set(life + 1);
        let stop = CancellationToken::new();
        self.stop.replace(stop.clone());
        self.trace.line(&self.name, "starts");
        let mut node = match Node::start_in(self.config()?, self.environment(life)).await {
            Err(error) if is_removal(&error) => return self.end_as_removed(),
            node => node?,
        };
        if self.removals() > 0 {
            return Err(format!("{} runs although it was taken out", self.name).into());
        }
        tokio::select! {
            biased;
            error = node.failed() => {
                if !is_removal(&error) {
                    return Err(format!("{} ended by itself: {error}", self.name).into());
                }
                node.shutdown().await;
                return self.end_as_removed();
            }
            () = stop.cancelled() => {}
        }
        node.shutdown().await;
        self.trace.line(&self.name, "has stopped in order");
        Ok(())
    }

    fn end_as_removed(&self) -> turmoil::Result {
        self.removals.set(self.removals() + 1);
        self.trace.line(&self.name, "was taken out, and ends");
        Ok(())
    }

    /// How often a node ended here because the ring does without it.
    pub(crate) fn removals(&self) -> u64 {
        self.removals.get()
    }

    /// It is not there from the beginning, as so many are, and its node waits for an operator to let it in.
    pub(crate) fn come_in_when_told(&self, founders: usize) {
        self.comes_in_after.set(Some(founders));
    }

    /// Where it lies; nowhere unless it is said.
    pub(crate) fn zone(&self) -> String {
        self.zone.borrow().clone()
    }

    /// It lies there, before its node is started for the first time.
    pub(crate) fn lie_in(&self, zone: String) {
        self.zone.replace(zone);
    }

    /// Tells the node to stop in order.
    pub(crate) fn stop(&self) {
        self.stop.borrow().cancel();
    }

    /// Cuts the power: of what was not synced, `kept` mutations stay.
    pub(crate) fn cut_power(&self, kept: usize) {
        self.disk.crash_keeping(kept);
        match self.flaw {
            Flaw::KeepsActor => self.pretend_a_clean_stop(1_000_000),
            Flaw::CountsAnew => self.pretend_a_clean_stop(0),
            Flaw::DropsHints => {
                let emptied = self.disk.hints().replace(&mut || Ok(None));
                emptied.expect("a disk in memory can be written");
            }
            _ => {}
        }
    }

    /// The disk is replaced by an empty one. The power is off.
    pub(crate) fn lose_disk(&self) {
        match self.flaw {
            Flaw::ForgetsLoss => self.disk.wipe_store(),
            _ => self.disk.wipe(),
        }
    }

    /// The store is set aside and an empty one is in its place, as `runtime/store/quarantine.rs` leaves it. The
    /// power is off.
    pub(crate) fn lose_store(&self) {
        let files = self.disk.files();
        let noted = Identity::retire_actor(&files).and_then(|()| Rebuilding::note_all(&files));
        noted.expect("a disk in memory can be written");
        self.disk.wipe_store();
    }

    /// From now on the disk hangs, or it answers.
    pub(crate) fn hang(&self, hangs: bool, now: Duration) {
        self.stall.set(hangs);
        self.hangs.note(hangs, now);
    }

    /// Whether it has power.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// Switches it on or off.
    pub(crate) fn set_on(&self, on: bool) {
        self.is_on.set(on);
        if !on {
            self.outages.set(self.outages.get() + 1);
        }
    }

    /// How often it was switched off.
    pub(crate) fn outages(&self) -> u64 {
        self.outages.get()
    }

    /// What is stored under a key, synced or not; nothing for a damaged value.
    pub(crate) fn stored(&self, key: &str) -> Option<Bytes> {
        match self.disk.store().get(key.as_bytes()) {
            Ok(stored) => stored,
            Err(error) if error.is_corruption() => None,
            Err(error) => panic!("a disk in memory can be read: {error}"),
        }
    }

    /// What is kept for others, as far as it is on the disk.
    pub(crate) fn hints_waiting(&self) -> Kept {
        let file = self.disk.hints();
        let bytes = file.len().and_then(|length| file.read(0, length as usize));
        let bytes = bytes.expect("a disk in memory can be read");
        let (known, hints) = &mut *self.hints.borrow_mut();
        // It is looked at far more often than it changes.
        if *known != bytes {
            *hints = hints_in(&bytes);
            *known = bytes;
        }
        hints.clone()
    }

    /// What an owner is compared by. Damaged values are as good as none, and spoil the hash.
    pub(crate) fn copy(&self, key: &str, with_hash: bool) -> convergence::Copy {
        let hash = || {
            let segment = Segment::of_key(key.as_bytes());
            self.disk.store().segment_hash(segment)
        };
        convergence::Copy {
            machine: self.name.clone(),
            versions: self.stored(key),
            segment_hash: with_hash.then(hash),
        }
    }

    /// All that lies on the disk and can be read, synced or not.
    pub(crate) fn all_stored(&self) -> Vec<(String, Versions)> {
        let (store, mut all, mut after) = (self.disk.store(), Vec::new(), None::<Bytes>);
        let limit = PageLimit {
            items_max: usize::MAX,
            bytes_max: usize::MAX,
        };
        loop {
            let (range, lost) = (PositionRange::ALL, &mut Vec::new());
            let page = match scan_past_losses(&store, range, after.as_deref(), limit, lost) {
                Ok(page) => page,
                // The walk goes on behind it.
                Err(dynakv_storage::StoreError::Corrupt { key, .. }) => {
                    after = Some(key);
                    continue;
                }
                Err(error) => panic!("a disk in memory can be read: {error}"),
            };
            all.extend(page.items.iter().map(|item| {
                let versions = Versions::from_bytes(&item.versions);
                let key = String::from_utf8_lossy(&item.key).into_owned();
                (key, versions.expect("what a node stored can be decoded"))
            }));
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// Somebody sets the clock.
    pub(crate) fn jump_clock(&self, by_ms: i64) {
        self.clock_ahead_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// How many messages were sent a second time from here.
    pub(crate) fn resent(&self) -> usize {
        self.resending.count()
    }

    fn config(&self) -> Result<Config, Box<dyn std::error::Error>> {
        let mut config = Config::new(NodeId::new(&self.name)?);
        config.host = [0, 0, 0, 0].into();
        config.http_host = config.host;
        config.port = PORT;
        config.advertise = Some(format!("{}:{PORT}", self.name));
        config.seeds.clone_from(&self.seeds);
        if let Some(founders) = self.comes_in_after.get() {
            config.auto_join = false;
            // Any of them may go meanwhile.
            config.seeds = (0..founders).map(address).collect();
        }
        config.zone = self.zone();
        // Faster than on real networks, so that a run sees nodes die and come back.
        config.gossip_interval = Duration::from_millis(500);
        config.suspect_after = Duration::from_secs(2);
        config.dead_after = Duration::from_secs(6);
        config.anti_entropy_interval = Duration::from_secs(5);
        let Quorums { n, w, r } = self.quorums;
        (config.n, config.w, config.r) = (Some(n), Some(w), Some(r));
        if self.flaw == Flaw::WaitsForWOnly {
            config.r = Some(n - w);
        }
        if self.flaw == Flaw::FetchesFromTooFew {
            config.w = Some(w + 1);
        }
        Ok(config)
    }

    fn environment(&self, life: u64) -> Environment {
        let store = self.disk.store();
        let seed = match self.flaw {
            Flaw::RepeatsItself => self.seed,
            _ => self.seed.wrapping_add(life),
        };
        let network = SimulatedNetwork::new(
            &self.name,
            self.trace.clone(),
            self.resending.of_one_life(seed),
            self.flaw,
        );
        Environment {
            network: Arc::new(network),
            clock: Arc::new(SkewedClock {
                ahead_ms: self.clock_ahead_ms.clone(),
            }),
            seed,
            disk: Disk {
                store: match self.flaw {
                    Flaw::SyncDoesNothing => Arc::new(LyingStore(store)),
                    Flaw::MintsOverOldState => Arc::new(RacingStore::new(store)),
                    _ => Arc::new(store),
                },
                hints: match self.flaw {
                    Flaw::HintSyncDoesNothing => Arc::new(LyingHints(self.disk.hints())),
                    _ => self.disk.hints(),
                },
                files: Arc::new(self.disk.files()),
                threads: StoreThreads::Simulated {
                    sync_us: self.sync_us,
                    stall: self.stall.clone(),
                },
            },
        }
    }

    /// Leaves the mark of a clean stop, at a counter so far above the present one.
    fn pretend_a_clean_stop(&self, ahead: u64) {
        let files = self.disk.files();
        let document = load_document(&files, "identity").expect("a disk in memory can be read");
        let Some(document) = document else {
            return;
        };
        let identity = Identity::from_bytes(&document).expect("the identity is of this version");
        let ceiling = identity.counter_floor + ahead;
        let marked = identity.mark_clean(&files, identity.actor, ceiling, LogPlace::default());
        marked.expect("a disk in memory can be written");
    }
}

/// Whether a node ended because the ring does without it.
fn is_removal(error: &ServeError) -> bool {
    matches!(error, ServeError::Control(ControlError::Removed { .. }))
}
