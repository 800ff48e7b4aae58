//! The node's heart: one task that takes in events, lets the engine decide, and carries its effects out.
//!
//! It owns all state of requests in hand, so nothing here is locked. One turn takes in everything that
//! waits, and only at its end hands over what came of it: one list to the store, one buffer per
//! connection. So batches grow with the load by themselves, and an idle node answers at once.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::frame::{Frame, Header};
use dynakv_protocol::hash::Segment;
use dynakv_protocol::message::{Request, Response, kind};
use dynakv_protocol::peer::{MergeVersions, ReadVersions};
use dynakv_protocol::traffic::TrafficClass;
use dynakv_protocol::{ErrorCode, ErrorReply, NodeId, RingVersion};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::ahead::Ahead;
use super::connections::Connections;
use super::dispatch::DataRequest;
use super::hedges::Hedges;
use super::links::Links;
use super::operations::{OperationId, Operations, Requester};
use super::parking::{Parked, Parking, Wait};
use crate::engine::hang::Hang;
use crate::engine::operation::Effects;
use crate::engine::placement::preference::{NodeSlot, Preference, Reach, SELF};
use crate::engine::placement::ring::Ring;
use crate::engine::read::hedge::Hedging;
use crate::engine::read::pace::Pace;
use crate::runtime::anti_entropy::repairs::Repairs;
use crate::runtime::net::frame_reader::READ_BYTES;
use crate::runtime::observe::metrics::{Metrics, Op, Outcome, ReplicaOp};
use crate::runtime::shared::alarm::Alarm;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::WallClock;
use crate::runtime::shared::events::{ConnectionId, ControlEvent, ControlSender, CoordinatorEvent};
use crate::runtime::shared::ledger::{Kind, Ledger};
use crate::runtime::shared::view::View;
use crate::runtime::store::hint_worker::{HintHandle, HintJob};
use crate::runtime::store::rebuilding::Rebuilding;
use crate::runtime::store::store_worker::{
    ReadJob, StoreEvent, StoreHandle, Token, WriteJob, WriteWork,
};

mod admin;
mod answers;
mod begin;
mod disk;
mod effects;
mod ends;
mod forwarding;
mod hints;
mod reads;
mod replica;
mod turn;

/// How often deadlines and links are looked after.
const TICK: Duration = Duration::from_millis(10);

/// The most lists of events taken in during one turn.
const EVENTS_PER_TURN_MAX: usize = 64;

/// How long owners and stand-ins may be silent before others stand in for them in a sloppy write.
const SLOW_WRITE: Duration = Duration::from_millis(500);

/// What bounds the coordinator's work.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most requests in hand.
    pub requests_max: usize,
    /// The largest value, in bytes.
    pub value_bytes_max: usize,
    /// The most bytes of answers that may wait for one connection.
    pub connection_bytes_max: usize,
}

/// What the coordinator is given.
pub struct Parts {
    /// Links to other nodes.
    pub links: Links,
    /// The store.
    pub store: StoreHandle,
    /// The keeper of hints.
    pub hints: HintHandle,
    /// What came of their jobs.
    pub store_events: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
    /// News of connections and links.
    pub events: mpsc::Receiver<CoordinatorEvent>,
    /// The control task.
    pub control: ControlSender,
    /// The newest view.
    pub view: watch::Receiver<Arc<View>>,
    /// Bounds.
    pub bounds: Bounds,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// What is held for others.
    pub ledger: Arc<Ledger>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where this node has lost versions.
    pub rebuilding: Arc<Rebuilding>,
    /// Hears who begins to compare.
    pub repairs: Arc<Repairs>,
    /// How far those are that work with the disk.
    pub disk: Arc<DiskProgress>,
    /// No new requests from now on.
    pub draining: CancellationToken,
}

/// Why the coordinator ended.
#[derive(Debug)]
pub enum End {
    /// Everything in hand was done after draining had begun.
    Drained,
    /// The disk failed.
    DiskFailed(Arc<dynakv_storage::StoreError>),
}

/// As what this node coordinates a request.
#[derive(Debug, Clone, Copy)]
struct Role {
    /// Whose place it fills.
    place: u8,
    /// It owns no copy.
    is_stand_in: bool,
}

/// The coordinator's state.
pub struct Coordinator {
    links: Links,
    connections: Connections,
    operations: Operations,
    parking: Parking,
    store: StoreHandle,
    hints: HintHandle,
    control: ControlSender,
    view: Arc<View>,
    bounds: Bounds,
    clock: Arc<dyn WallClock>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    rebuilding: Arc<Rebuilding>,
    repairs: Arc<Repairs>,
    disk: Arc<DiskProgress>,
    /// Whether the disk hangs.
    hang: Hang,
    is_draining: bool,
    /// Jobs of this turn.
    writes: Vec<WriteJob>,
    reads: Vec<ReadJob>,
    /// Those of them that take the store's reader.
    cold_reads: Vec<ReadJob>,
    hint_jobs: Vec<HintJob>,
    /// Keys that owners have missed, of this turn.
    reminders: Vec<(Bytes, NodeId)>,
    /// Requests of other nodes that the store has in hand, and their bytes.
    replica_jobs: usize,
    /// Parts of exports that the store has in hand.
    scans: usize,
    /// Comparisons and lists under way, for nodes that mend.
    mending_scans: usize,
    /// Changes from read to read, so that owners share the load.
    turn: usize,
    now: Instant,
    started: Instant,
    /// How fast the others answer reads.
    pace: Pace,
    hedging: Hedging,
    /// Reads that may ask one owner more.
    hedges: Hedges,
    /// Requests that could not even be queued for their node.
    unsent: Vec<(OperationId, NodeSlot)>,
    /// Lent to the engine, so that no step allocates.
    effects: Effects,
    due: Vec<OperationId>,
    /// Writes that go on under another ring, once this node follows it.
    awaiting_ring: Vec<(OperationId, RingVersion)>,
    /// Requests of nodes that follow a newer ring already.
    ahead: Ahead,
}

/// Runs until drained or the disk fails.
pub async fn run(parts: Parts) -> End {
    let (mut coordinator, inputs) = Coordinator::new(parts);
    let Inputs {
        mut store_events,
        mut events,
        mut view,
        draining,
    } = inputs;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut news = Vec::with_capacity(EVENTS_PER_TURN_MAX);
    let mut stored = Vec::with_capacity(EVENTS_PER_TURN_MAX);
    let timer = pin!(None);
    let mut alarm = Alarm::new(timer);
    loop {
        let is_tick = tokio::select! {
            biased;
            () = draining.cancelled(), if !coordinator.is_draining => {
                coordinator.is_draining = true;
                false
            }
            // Disabled once the control task is gone.
            Ok(()) = view.changed() => false,
            _ = ticks.tick() => true,
            _ = store_events.recv_many(&mut stored, EVENTS_PER_TURN_MAX) => false,
            _ = events.recv_many(&mut news, EVENTS_PER_TURN_MAX) => false,
            // Last: what has been answered is not waited for any more.
            () = alarm.rings() => false,
        };
        coordinator.now = Instant::now();
        let newest = view.borrow().clone();
        if !Arc::ptr_eq(&coordinator.view, &newest) {
            coordinator.follow(newest);
        }
        for event in stored.drain(..).flatten() {
            if let StoreEvent::Failed(error) = event {
                return End::DiskFailed(error);
            }
            let bytes = event.bytes_read();
            if bytes > 0 {
                coordinator.ledger.give_back(Kind::Read, bytes);
            }
            coordinator.on_stored(event);
        }
        for event in news.drain(..) {
            coordinator.on_news(event);
        }
        if is_tick {
            coordinator.on_tick();
        }
        // Whose answers wait to be taken in is not slow.
        if events.is_empty() && store_events.is_empty() {
            coordinator.hedge();
        }
        coordinator.flush();
        alarm.set(coordinator.next_hedge_at(), coordinator.now);
        // What connections have handed over before they took no more is answered too.
        let is_all_seen = events.is_empty() && store_events.is_empty();
        if coordinator.is_draining && is_all_seen && coordinator.is_idle() {
            coordinator.links.close();
            return End::Drained;
        }
    }
}

/// What a coordinator hears.
struct Inputs {
    store_events: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
    events: mpsc::Receiver<CoordinatorEvent>,
    view: watch::Receiver<Arc<View>>,
    draining: CancellationToken,
}

impl Coordinator {
    /// One that has heard nothing yet.
    fn new(parts: Parts) -> (Self, Inputs) {
        let Parts {
            links,
            store,
            hints,
            store_events,
            events,
            control,
            mut view,
            bounds,
            clock,
            ledger,
            metrics,
            rebuilding,
            repairs,
            disk,
            draining,
        } = parts;
        let mut coordinator = Self {
            links,
            connections: Connections::new(bounds.connection_bytes_max, ledger.clone()),
            operations: Operations::new(Instant::now()),
            parking: Parking::default(),
            store,
            hints,
            control,
            view: view.borrow_and_update().clone(),
            bounds,
            clock,
            ledger,
            metrics,
            rebuilding,
            repairs,
            disk,
            hang: Hang::default(),
            is_draining: false,
            writes: Vec::new(),
            reads: Vec::new(),
            cold_reads: Vec::new(),
            hint_jobs: Vec::new(),
            reminders: Vec::new(),
            replica_jobs: 0,
            scans: 0,
            mending_scans: 0,
            turn: 0,
            now: Instant::now(),
            started: Instant::now(),
            pace: Pace::default(),
            hedging: Hedging::default(),
            hedges: Hedges::default(),
            unsent: Vec::new(),
            effects: Effects::default(),
            due: Vec::new(),
            awaiting_ring: Vec::new(),
            ahead: Ahead::default(),
        };
        coordinator.links.follow(&coordinator.view);
        let metrics = &coordinator.metrics;
        metrics.in_flight_max.set(bounds.requests_max as f64);
        let bytes_max = coordinator.ledger.bytes_max(Kind::ClientRequests);
        metrics.in_flight_bytes_max.set(bytes_max as f64);
        for kind in Kind::ALL {
            let bytes_max = coordinator.ledger.bytes_max(kind);
            metrics.held.bytes_max[kind as usize].set(bytes_max as f64);
        }
        let inputs = Inputs {
            store_events,
            events,
            view,
            draining,
        };
        (coordinator, inputs)
    }

    fn is_idle(&self) -> bool {
        self.operations.is_empty()
            && self.parking.is_empty()
            && self.replica_jobs + self.scans + self.mending_scans == 0
    }

    fn follow(&mut self, view: Arc<View>) {
        self.view = view;
        for node in self.links.follow(&self.view) {
            self.on_disk_of_other_hangs(node);
        }
        for parked in self.parking.released(&self.view) {
            self.begin(parked.requester, parked.frame);
        }
        for (connection, frame) in self.ahead.released(self.view.ring_version()) {
            self.on_replica_request(connection, frame);
        }
    }

    fn on_news(&mut self, event: CoordinatorEvent) {
        match event {
            CoordinatorEvent::Opened {
                connection,
                outbox,
                is_peer,
                caller,
                since,
            } => {
                if let Some(id) = &caller {
                    self.links.on_called(id);
                }
                self.connections.open(connection, outbox, is_peer, since);
            }
            CoordinatorEvent::Closed { connection } => {
                self.connections.close(connection);
                self.ahead.forget(connection);
            }
            CoordinatorEvent::Requests { connection, frames } => {
                for frame in frames {
                    self.on_request(connection, frame);
                }
            }
            CoordinatorEvent::LinkUp {
                node,
                epoch,
                outbox,
                since,
            } => {
                if self.links.on_up(node, epoch, outbox, since) {
                    self.on_link_up(node);
                }
            }
            CoordinatorEvent::LinkFrames {
                node,
                epoch,
                frames,
            } => {
                if self.links.on_heard(node, epoch) {
                    for frame in frames {
                        self.on_answer(node, frame);
                    }
                }
            }
            CoordinatorEvent::LinkDown {
                node,
                epoch,
                reason,
            } => {
                if let Some(lost) = self.links.on_down(node, epoch, &reason) {
                    self.on_node_lost(node, &reason, lost);
                }
            }
        }
    }

    fn on_request(&mut self, connection: ConnectionId, frame: Frame) {
        match TrafficClass::of(frame.header.kind) {
            Some(TrafficClass::Client) => self.on_client_request(connection, frame),
            Some(TrafficClass::Export) => self.on_export(connection, &frame),
            Some(TrafficClass::Replica) if self.connections.is_peer(connection) => {
                self.on_replica_request(connection, frame);
            }
            Some(TrafficClass::Mending) if self.connections.is_peer(connection) => {
                self.on_mending_request(connection, &frame);
            }
            Some(
                TrafficClass::Replica
                | TrafficClass::Mending
                | TrafficClass::Handshake
                | TrafficClass::Liveness
                | TrafficClass::Control,
            )
            | None => {
                let message = "only nodes of the cluster may send this; say so in the hello";
                let error = ErrorReply::new(ErrorCode::BadRequest, message);
                self.connections
                    .refuse(connection, frame.header.request_id, error);
            }
        }
    }
}
