//! How a node is put together: the ground that its parts share, then each part with the few things that it uses.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use dynakv_protocol::Actor;
use dynakv_protocol::handshake::Lane;
use dynakv_protocol::limits::{FRAME_BYTES_MAX, frame_bytes_max};
use dynakv_protocol::ring_document::Member;
use dynakv_storage::{Identity, LastStop, Started};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::beginning::hello;
use super::error::{ServeError, system};
use super::pages::NodePages;
use super::stop::Stop;
use crate::config::Config;
use crate::descriptors;
use crate::engine::membership::MembershipConfig;
use crate::engine::write::mint::Minter;
use crate::runtime::anti_entropy::repairs::Repairs;
use crate::runtime::anti_entropy::{self, handoff, unlocking};
use crate::runtime::control::{self, ControlError, Startup};
use crate::runtime::data::coordinator::{self, Bounds, End};
use crate::runtime::data::links::{Dialer, Links};
use crate::runtime::net::admission::{Admission, Myself};
use crate::runtime::net::calls::Calls;
use crate::runtime::net::confirming::Confirmer;
use crate::runtime::net::connection::Shared;
use crate::runtime::net::frame_reader::Intake;
use crate::runtime::net::listener;
use crate::runtime::net::local::{Local, LocalBounds};
use crate::runtime::net::other_clusters::OtherClusters;
use crate::runtime::net::outgoing::Outgoing;
use crate::runtime::net::replica_rpc::Asker;
use crate::runtime::observe::http;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::observe::process::descriptors_max;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::{Disk, Listener, Network, WallClock};
use crate::runtime::shared::events::{
    CONTROL_EVENTS_MAX, COORDINATOR_EVENTS_MAX, ConnectionId, ControlEvent, ControlSender,
    CoordinatorEvent, CoordinatorSender,
};
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::ledger::Ledger;
use crate::runtime::shared::settling::Settling;
use crate::runtime::shared::unreachable::Unreachable;
use crate::runtime::shared::view::View;
use crate::runtime::store::hint_worker::{self, HintBounds, HintHandle, KeptHints};
use crate::runtime::store::store_worker::{
    self, Dropper, Recounter, Running, StoreEvent, StoreHandle,
};
use crate::runtime::store::{fences::Fences, rebuilding::Rebuilding};

/// Where it listens.
pub(super) struct Doors {
    listener: Box<dyn Listener>,
    pub(super) address: SocketAddr,
    http_listener: Box<dyn Listener>,
    pub(super) http_address: SocketAddr,
}

impl Doors {
    pub(super) async fn open(network: &dyn Network, config: &Config) -> Result<Self, ServeError> {
        let (listener, address) =
            listen(network, SocketAddr::new(config.host, config.port)).await?;
        let http_address = SocketAddr::new(config.http_host, http_port(config)?);
        let (http_listener, http_address) = listen(network, http_address).await?;
        Ok(Self {
            listener,
            address,
            http_listener,
            http_address,
        })
    }
}

async fn listen(
    network: &dyn Network,
    address: SocketAddr,
) -> Result<(Box<dyn Listener>, SocketAddr), ServeError> {
    let listening = network.listen(address).await.and_then(|listener| {
        let address = listener.local_address()?;
        Ok((listener, address))
    });
    listening.map_err(|source| ServeError::Listen { address, source })
}

/// Port + 1000 unless told otherwise; a free one beside a free port.
fn http_port(config: &Config) -> Result<u16, ServeError> {
    let port = config.port;
    let above = port.checked_add(1000);
    match config.http_port {
        Some(http_port) => Ok(http_port),
        None if port == 0 => Ok(0),
        None => above.ok_or(ServeError::NoHttpPort { port }),
    }
}

/// What a node is given of the world.
pub(super) struct World {
    pub(super) network: Arc<dyn Network>,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) disk: Disk,
    pub(super) random: fastrand::Rng,
}

/// What its parts share.
pub(super) struct Ground {
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) world: World,
    pub(super) me: Myself,
    pub(super) stop: Stop,
    pub(super) tasks: TaskTracker,
    pub(super) view: watch::Receiver<Arc<View>>,
    is_new_directory: bool,
    metrics: Arc<Metrics>,
    rebuilding: Arc<Rebuilding>,
    seen: Arc<KnownProcesses>,
    repairs: Arc<Repairs>,
    others: Arc<OtherClusters>,
    unreachable: Arc<Unreachable>,
    settling: Arc<Settling>,
    ledger: Arc<Ledger>,
    intake: Intake,
    progress: Arc<DiskProgress>,
    events_in: CoordinatorSender,
    control_in: ControlSender,
}

/// What comes to the parts, each taken once.
pub(super) struct Inboxes {
    pub(super) coordinator: mpsc::Receiver<CoordinatorEvent>,
    pub(super) control: ControlInbox,
    pub(super) unlock_jobs: mpsc::Receiver<unlocking::UnlockJob>,
}

/// What the control task hears, and where it is heard.
pub(super) struct ControlInbox {
    events: mpsc::Receiver<ControlEvent>,
    view: watch::Sender<Arc<View>>,
    unlocks: mpsc::Sender<unlocking::UnlockJob>,
}

impl Ground {
    pub(super) fn lay(
        config: Config,
        world: World,
        started: Started,
        address: SocketAddr,
    ) -> Result<(Self, Inboxes), ServeError> {
        let Started {
            identity,
            last_stop,
        } = started;
        let is_new_directory = last_stop == LastStop::NeverStarted;
        let is_empty = is_new_directory || world.disk.store.totals().versions == 0;
        let advertised = config.advertise.clone();
        let me = Myself {
            node_id: config.id.clone(),
            directory_id: identity.directory_id,
            generation: identity.generation,
            nonce: identity.nonce,
            cluster_name: config.cluster_name.clone(),
            address: advertised.unwrap_or_else(|| address.to_string()),
            // Versions without a ring are of a cluster that there is already.
            may_found: config.bootstrap && is_empty,
        };
        let metrics = Metrics::new(config.id.as_str());
        let metrics = metrics.map_err(|error| system("metrics", &error.to_string()))?;
        let metrics = Arc::new(metrics);
        let files = &world.disk.files;
        let rebuilding = Arc::new(Rebuilding::load(files.clone())?);
        if rebuilding.left() > 0 {
            tracing::warn!(
                segments = rebuilding.left(),
                "this node has lost data and is rebuilding: it takes writes, its reads do not count there"
            );
        }
        let seen = Arc::new(KnownProcesses::load(files.clone())?);
        let ledger = Arc::new(Ledger::new(config.bytes_in_flight_max));
        let intake = Intake {
            malformed: metrics.doors.malformed_frames.clone(),
            ledger: ledger.clone(),
        };
        let (view_in, view) = watch::channel(Arc::new(View::default()));
        let (events_in, events) = mpsc::channel(COORDINATOR_EVENTS_MAX);
        let (control_in, control_events) = mpsc::channel(CONTROL_EVENTS_MAX);
        let (unlocks, unlock_jobs) = mpsc::channel(unlocking::WAITING_MAX);
        let inboxes = Inboxes {
            coordinator: events,
            control: ControlInbox {
                events: control_events,
                view: view_in,
                unlocks,
            },
            unlock_jobs,
        };
        let ground = Self {
            progress: Arc::new(DiskProgress::new(world.disk.store.clone())),
            repairs: Arc::new(Repairs::new(config.id.clone())),
            config,
            identity,
            world,
            me,
            stop: Stop::default(),
            tasks: TaskTracker::new(),
            view,
            is_new_directory,
            metrics,
            rebuilding,
            seen,
            others: Arc::default(),
            unreachable: Arc::default(),
            settling: Arc::default(),
            ledger,
            intake,
            events_in,
            control_in,
        };
        Ok((ground, inboxes))
    }

    pub(super) fn start_store(&mut self) -> Result<Running, ServeError> {
        let (identity, random) = (&self.identity, self.world.random.fork());
        let store = store_worker::start(
            &self.world.disk,
            Minter::new(identity.actor, identity.counter_floor, random),
            self.world.clock.clone(),
            (self.metrics.clone(), self.ledger.clone()),
            self.rebuilding.clone(),
            self.progress.clone(),
        );
        store.map_err(|error| system("a thread", &error.to_string()))
    }

    pub(super) fn start_hints(
        &mut self,
        hints: KeptHints,
        events: mpsc::UnboundedSender<Vec<StoreEvent>>,
    ) -> Result<HintHandle, ServeError> {
        let actor = Actor(self.world.random.u64(1..));
        Ok(hint_worker::start(hint_worker::Parts {
            disk: self.world.disk.clone(),
            hints,
            minter: Minter::new(actor, 0, self.world.random.fork()),
            clock: self.world.clock.clone(),
            metrics: self.metrics.clone(),
            bounds: HintBounds {
                bytes_max: self.config.hints_bytes_max,
                age_max: self.config.hints_age_max,
            },
            events,
            progress: self.progress.clone(),
        })?)
    }

    fn outgoing(&self) -> Outgoing {
        Outgoing {
            network: self.world.network.clone(),
            view: self.view.clone(),
            seen: self.seen.clone(),
            intake: self.intake.clone(),
        }
    }

    /// Asks members about themselves.
    pub(super) fn confirmer(&self) -> Arc<Confirmer> {
        let cluster_name = self.me.cluster_name.clone();
        Arc::new(Confirmer::new(self.outgoing(), cluster_name))
    }

    /// The control task, which has not begun.
    pub(super) fn control(
        &mut self,
        confirmer: Arc<Confirmer>,
        (hints, fences): (HintHandle, Fences),
        inbox: ControlInbox,
    ) -> Result<impl Future<Output = Result<(), ControlError>> + Send + use<>, ServeError> {
        let config = &self.config;
        let startup = Startup {
            seeds: config.seeds.clone(),
            quorums: (config.n, config.w, config.r),
            member: Member {
                id: config.id.clone(),
                directory_id: self.identity.directory_id,
                address: self.me.address.clone(),
                weight: config.weight,
                zone: config.zone.clone(),
            },
            is_new_directory: self.is_new_directory,
            auto_join: config.auto_join,
        };
        let membership = MembershipConfig {
            gossip_interval_ms: config.gossip_interval.as_millis() as u64,
            suspect_after_ms: config.suspect_after.as_millis() as u64,
            dead_after_ms: config.dead_after.as_millis() as u64,
            ..MembershipConfig::default()
        };
        let calls = Calls::new(self.outgoing(), hello(&self.me, Lane::Control));
        let runner = control::prepare(control::Parts {
            me: self.me.clone(),
            startup,
            membership,
            calls: Arc::new(calls),
            confirmer,
            seen: self.seen.clone(),
            others: self.others.clone(),
            unreachable: self.unreachable.clone(),
            events: inbox.events,
            view: inbox.view,
            data_dir: config.data_dir.clone(),
            threads: self.world.disk.threads.clone(),
            clock: self.world.clock.clone(),
            files: self.world.disk.files.clone(),
            store: self.world.disk.store.clone(),
            metrics: self.metrics.clone(),
            rebuilding: self.rebuilding.clone(),
            repairs: self.repairs.clone(),
            hints,
            fences,
            disk: self.progress.clone(),
            unlocks: inbox.unlocks,
            random: self.world.random.fork(),
            draining: self.stop.draining.clone(),
            clients: self.stop.clients.clone(),
            settling: self.settling.clone(),
            shutdown: self.stop.shutdown.clone(),
        })?;
        let reason = self.stop.end.clone();
        Ok(async move {
            let end = control::run(runner).await;
            if let Err(error) = &end {
                reason.tell(error.to_string());
            }
            end
        })
    }

    /// The coordinator, which has not begun.
    pub(super) fn coordinator(
        &mut self,
        store: StoreHandle,
        store_events: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
        hints: HintHandle,
        events: mpsc::Receiver<CoordinatorEvent>,
    ) -> impl Future<Output = End> + Send + use<> {
        let dialer = Dialer {
            network: self.world.network.clone(),
            hello: hello(&self.me, Lane::Data),
            intake: self.intake.clone(),
            events: self.events_in.clone(),
            seen: self.seen.clone(),
            unreachable: self.unreachable.clone(),
        };
        let config = &self.config;
        let coordinator = coordinator::run(coordinator::Parts {
            links: Links::new(dialer, config.id.clone(), self.world.random.fork()),
            store,
            hints,
            store_events,
            events,
            control: self.control_in.clone(),
            view: self.view.clone(),
            bounds: Bounds {
                requests_max: config.requests_in_flight_max,
                value_bytes_max: config.value_bytes_max,
                connection_bytes_max: config.connection_bytes_max,
            },
            clock: self.world.clock.clone(),
            ledger: self.ledger.clone(),
            metrics: self.metrics.clone(),
            rebuilding: self.rebuilding.clone(),
            repairs: self.repairs.clone(),
            disk: self.progress.clone(),
            draining: self.stop.draining.clone(),
        });
        let reason = self.stop.end.clone();
        async move {
            let end = coordinator.await;
            if let End::DiskFailed(error) = &end {
                reason.tell(error.to_string());
            }
            end
        }
    }

    /// A connection without a socket.
    pub(super) async fn open_local(&self, connection: ConnectionId) -> Arc<Local> {
        let bounds = LocalBounds {
            requests_max: self.config.requests_in_flight_max,
            bytes_max: self.config.bytes_in_flight_max,
        };
        let local = Local::open(
            connection,
            self.events_in.clone(),
            self.control_in.clone(),
            (bounds, self.ledger.clone()),
            self.stop.end.clone(),
        );
        let local = local.await;
        tokio::spawn(local.clone().run());
        local
    }

    /// Hands hints over, compares copies, and mends locked keys. Each asks owners as nodes do, this one without a socket.
    pub(super) async fn spawn_anti_entropy(
        &mut self,
        hints: HintHandle,
        (recounter, dropper): (Recounter, Dropper),
        unlock_jobs: mpsc::Receiver<unlocking::UnlockJob>,
    ) {
        let calls = Calls::about_data(
            self.outgoing(),
            hello(&self.me, Lane::Data),
            FRAME_BYTES_MAX,
        );
        let asker = Arc::new(Asker {
            me: self.config.id.clone(),
            run: self.me.nonce,
            local: self.open_local(ConnectionId::ANTI_ENTROPY).await,
            calls,
        });
        let draining = || self.stop.draining.clone();
        let handoff = handoff::Parts {
            hints,
            asker: asker.clone(),
            view: self.view.clone(),
        };
        self.tasks.spawn(handoff::run(handoff, draining()));
        let unlocker = unlocking::Parts {
            asker: asker.clone(),
            view: self.view.clone(),
            value_bytes_max: self.config.value_bytes_max,
            jobs: unlock_jobs,
        };
        self.tasks.spawn(unlocking::run(unlocker, draining()));
        let comparing = anti_entropy::Parts {
            asker,
            view: self.view.clone(),
            rebuilding: self.rebuilding.clone(),
            threads: self.world.disk.threads.clone(),
            recounter,
            dropper,
            repairs: self.repairs.clone(),
            interval: self.config.anti_entropy_interval,
            random: self.world.random.fork(),
            metrics: self.metrics.clone(),
            settling: self.settling.clone(),
        };
        self.tasks.spawn(anti_entropy::run(comparing, draining()));
    }

    /// Lets clients, nodes and those who watch in.
    pub(super) fn spawn_listeners(&self, doors: Doors, confirmer: Arc<Confirmer>) {
        let (config, stop) = (&self.config, &self.stop);
        let admission = Admission::new(
            self.me.clone(),
            self.view.clone(),
            confirmer,
            self.seen.clone(),
            self.others.clone(),
            stop.clients.clone(),
        );
        let shared = Shared {
            admission: Arc::new(admission),
            coordinator: self.events_in.clone(),
            control: self.control_in.clone(),
            frame_bytes_max: frame_bytes_max(config.value_bytes_max),
            limits: config.client_limits(),
            http_port: doors.http_address.port(),
            waiting_bytes_max: config.connection_bytes_max,
            ledger: self.ledger.clone(),
            metrics: self.metrics.clone(),
            disk: self.progress.clone(),
            clients: stop.clients.clone(),
            drain: config.shutdown_deadline,
            shutdown: stop.shutdown.clone(),
        };
        let places = descriptors::places(config.connections_max, descriptors_max());
        let listening = listener::run(doors.listener, places, shared, self.tasks.clone());
        self.tasks.spawn(listening);
        let pages = NodePages {
            metrics: self.metrics.clone(),
            disk: self.progress.clone(),
            data_dir: config.data_dir.clone(),
            view: self.view.clone(),
            clients: stop.clients.clone(),
            data_port: doors.address.port(),
        };
        let shutdown = stop.shutdown.clone();
        self.tasks
            .spawn(http::run(doors.http_listener, Arc::new(pages), shutdown));
    }
}
