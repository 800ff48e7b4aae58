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
use dynakv_protocol::ring_document::Step;
use dynakv_protocol::{ErrorCode, ErrorReply, NodeId, RingVersion};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::dispatch::{Action, DataRequest, check_form, data_request};
use super::hedges::Hedges;
use super::links::Links;
use super::operations::{Operation, OperationId, Operations, Purpose, Requester, Work};
use super::parking::{Parked, Parking, Wait};
use crate::engine::hang::Hang;
use crate::engine::placement::preference::{NodeSlot, Preference, Reach, Route, SELF, Strictness};
use crate::engine::placement::ring::Ring;
use crate::engine::read::answer::fetched;
use crate::engine::read::explain;
use crate::engine::read::get::{self, Get};
use crate::engine::read::hedge::Hedging;
use crate::engine::read::pace::Pace;
use crate::engine::write::forward;
use crate::engine::write::put::{self, Put};
use crate::engine::write::{import, lateness};
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
mod disk;
mod effects;
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
    put_effects: Vec<put::Effect>,
    get_effects: Vec<get::Effect>,
    forward_effects: Vec<forward::Effect>,
    due: Vec<OperationId>,
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
            put_effects: Vec::new(),
            get_effects: Vec::new(),
            forward_effects: Vec::new(),
            due: Vec::new(),
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
            CoordinatorEvent::Closed { connection } => self.connections.close(connection),
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
        match frame.header.kind {
            kind::MERGE | kind::READ | kind::HINT | kind::REPLACE
                if self.connections.is_peer(connection) =>
            {
                self.on_replica_request(connection, frame);
            }
            kind::COMPARE | kind::LIST if self.connections.is_peer(connection) => {
                self.on_mending_request(connection, &frame);
            }
            kind::GET | kind::PUT | kind::DELETE | kind::EXPLAIN | kind::IMPORT => {
                self.on_client_request(connection, frame);
            }
            kind::EXPORT => self.on_export(connection, &frame),
            _ => {
                let message = "only nodes of the cluster may send this; say so in the hello";
                let error = ErrorReply::new(ErrorCode::BadRequest, message);
                self.connections
                    .refuse(connection, frame.header.request_id, error);
            }
        }
    }

    fn on_client_request(&mut self, connection: ConnectionId, frame: Frame) {
        let requester = Requester {
            connection,
            request_id: frame.header.request_id,
            op: match frame.header.kind {
                kind::GET => Op::Get,
                kind::DELETE => Op::Delete,
                kind::EXPLAIN => Op::Explain,
                kind::IMPORT => Op::Import,
                _ => Op::Put,
            },
            arrived: self.now,
            // Replaced by the request's own once that is known.
            deadline: self.now,
            handed_on: 0,
            begin_by: None,
        };
        let in_hand = self.operations.len() + self.replica_jobs + self.parking.len();
        let share = match self.connections.is_peer(connection) {
            true => Kind::PeerRequests,
            false => Kind::ClientRequests,
        };
        if in_hand >= self.bounds.requests_max
            || self.is_over(share, &frame)
            || self.ledger.is_over(Kind::Results, 0)
        {
            self.metrics.refused.increment(1);
            let message = "this node has as much in hand as it takes; try again in a moment, or at \
                           another node";
            let error = ErrorReply::new(ErrorCode::Overloaded, message).retryable();
            return self.end(requester, Err(error));
        }
        if self.is_draining {
            let message = "this node is shutting down; ask another one";
            let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
            return self.end(requester, Err(error));
        }
        self.begin(requester, frame);
    }

    /// Whether requests take more than their share. This one is in it by now, with what came along.
    fn is_over(&self, share: Kind, frame: &Frame) -> bool {
        self.ledger
            .is_over(share, frame.body.len() + 2 * READ_BYTES)
    }

    /// Who owns a key under this ring.
    fn owners(&self, ring: &Ring, key: &[u8]) -> Preference {
        self.links.preference(ring.owners(Segment::of_key(key)))
    }

    /// Begins a client's request, for the first time or again after it was parked.
    fn begin(&mut self, mut requester: Requester, frame: Frame) {
        let Some(ring) = self.view.ring.clone() else {
            if let Err(error) = check_form(&frame) {
                return self.end(requester, Err(error));
            }
            let message =
                "this node has not joined its cluster yet; ask another one, or see its log";
            let error = ErrorReply::new(ErrorCode::NotReady, message).retryable();
            return self.end(requester, Err(error));
        };
        let limits = self.limits(&ring);
        let request = match data_request(&frame, limits) {
            Ok(request) => request,
            Err(error) => return self.end(requester, Err(error)),
        };
        requester.deadline = requester.arrived + request.timeout;
        if requester.deadline <= self.now {
            let error = ErrorReply::new(ErrorCode::Timeout, "time was up before the request began");
            return self.end(requester, Err(error.retryable()));
        }
        if requester.begin_by.is_none() {
            requester.begin_by = self.begin_by(&requester, &request);
        }
        if requester.begin_by.is_some_and(|by| by <= self.now) {
            return self.end(requester, Err(lateness::refusal()));
        }
        let is_write = matches!(request.action, Action::Put { .. } | Action::Import { .. });
        if is_write && ring.document().step == Step::Open {
            // The first write: from now on the members are these.
            let _ = self.control.try_send(ControlEvent::SealWanted);
            self.parking.park(requester, frame, Wait::ForSealing);
            return;
        }
        let owners = self.owners(&ring, &request.key);
        let request = match request.action {
            // Any node can ask all owners, so these are not handed on.
            Action::Explain => return self.explain(requester, frame, request.key, &owners),
            Action::Import { w, versions } => {
                let what = (request.key, versions);
                return self.import(requester, frame, what, owners, w);
            }
            Action::Get { .. } | Action::Put { .. } => request,
        };
        if requester.is_write() && !self.is_usable() {
            return self.begin_elsewhere(requester, frame, &request, &owners);
        }
        let strictness = match request.action {
            Action::Put { strictness, .. } => strictness,
            Action::Get { .. } | Action::Explain | Action::Import { .. } => Strictness::Strict,
        };
        let route = {
            let reach = |node| self.links.reach(node);
            let is_forwarded = frame.header.is_forwarded();
            owners.route(request.access, strictness, is_forwarded, reach)
        };
        match route {
            Route::Here { place } => {
                let by = Role {
                    place,
                    is_stand_in: false,
                };
                self.coordinate(requester, frame, request, owners, by);
            }
            Route::StandIn { place } => {
                let by = Role {
                    place,
                    is_stand_in: true,
                };
                self.coordinate(requester, frame, request, owners, by);
            }
            Route::Forward { place } => {
                let terms = forward::Terms {
                    needed: request.action.needed(),
                    is_write: requester.is_write(),
                    is_full: false,
                    is_hanging: false,
                    is_sloppy: request.action.is_sloppy(),
                    may_stand_in: strictness == Strictness::Sloppy
                        && owners.place_of(SELF).is_none(),
                };
                self.forward(requester, frame, request.key, &owners, (place, terms));
            }
            Route::NotOwner => {
                let message = "this node does not own the key under its ring";
                let error = ErrorReply::new(ErrorCode::NotOwner, message)
                    .retryable()
                    .with_ring_version(ring.version());
                self.end(requester, Err(error));
            }
        }
    }

    fn coordinate(
        &mut self,
        requester: Requester,
        frame: Frame,
        request: DataRequest,
        owners: Preference,
        by: Role,
    ) {
        let Role { place, .. } = by;
        match request.action {
            Action::Get { r, repair_first } => {
                let how = (r, repair_first);
                self.read(requester, frame, request.key, (owners, place), how);
            }
            Action::Put {
                w,
                strictness,
                intent,
            } => {
                if let dynakv_protocol::causal::Value::Bytes(value) = &intent.value {
                    self.metrics.value_bytes.record(value.len() as f64);
                }
                let mut effects = std::mem::take(&mut self.put_effects);
                let reach = |node| self.links.reach(node);
                let is_blind = intent.context.is_none();
                let document = self.view.ring.as_ref().map(|ring| ring.document());
                let terms = put::Terms {
                    own: place,
                    is_stand_in: by.is_stand_in,
                    is_blind,
                    is_rebuilding: is_blind && self.rebuilding.covers(&request.key),
                    w,
                    promised: put::Promised {
                        w: document.map_or(self.view.w, |document| document.w),
                        r: document.map_or(self.view.r, |document| document.r),
                    },
                    stand_ins: match strictness {
                        Strictness::Strict => None,
                        Strictness::Sloppy => Some(self.stand_ins(&request.key)),
                    },
                };
                let put = Put::start(owners, terms, reach, &mut effects);
                let intent = Some(intent);
                let work = Work::Put { put, intent };
                let slow_at = self.now + SLOW_WRITE;
                let id = self
                    .operations
                    .insert(requester, request.key, frame, work, slow_at);
                self.carry_out_put(id, effects);
            }
            // Begun before a route is looked for.
            Action::Explain | Action::Import { .. } => {}
        }
    }
}
