//! A node: the one place that builds everything and owns it.

mod beginning;
mod directory;
mod ending;
mod error;
mod operations;
mod pages;
mod readiness;
mod release;
mod serving;
mod task;

use std::net::SocketAddr;
use std::sync::Arc;

use dynakv_protocol::Actor;
use dynakv_protocol::handshake::Lane;
use dynakv_protocol::limits::{FRAME_BYTES_MAX, frame_bytes_max};
use dynakv_protocol::ring_document::Member;
use dynakv_storage::{DirectoryFiles, DiskOptions, HINTS_FILE, Identity, SmallFiles, Started};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::directory::check_directory;
pub use self::error::ServeError;
pub use self::readiness::NotReady;
pub use self::serving::serve;

use self::beginning::{begin_run, hello};
use self::error::system;
use self::pages::NodePages;
use self::release::Directory;
use self::task::Task;
use crate::config::Config;
use crate::descriptors;
use crate::embedded::LocalClient;
use crate::engine::membership::MembershipConfig;
use crate::engine::write::mint::Minter;
use crate::runtime::anti_entropy;
use crate::runtime::anti_entropy::handoff;
use crate::runtime::anti_entropy::repairs::Repairs;
use crate::runtime::anti_entropy::unlocking;
use crate::runtime::control::{self, ControlError, Startup};
use crate::runtime::data::coordinator::{self, Bounds, End};
use crate::runtime::data::links::{Dialer, Links};
use crate::runtime::net::admission::{Admission, Myself};
use crate::runtime::net::calls::Calls;
use crate::runtime::net::confirming::Confirmer;
use crate::runtime::net::connection::Shared;
use crate::runtime::net::frame_reader::Intake;
use crate::runtime::net::listener;
use crate::runtime::net::local::{EndReason, Local, LocalBounds};
use crate::runtime::net::other_clusters::OtherClusters;
use crate::runtime::net::outgoing::Outgoing;
use crate::runtime::net::replica_rpc::Asker;
use crate::runtime::net::tcp::TcpNetwork;
use crate::runtime::observe::http;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::observe::process::descriptors_max;
use crate::runtime::shared::data_directory::list_set_aside;
use crate::runtime::shared::disk_progress::DiskProgress;
use crate::runtime::shared::environment::{Disk, Environment, StoreThreads, SystemClock};
use crate::runtime::shared::events::ConnectionId;
use crate::runtime::shared::events::{CONTROL_EVENTS_MAX, COORDINATOR_EVENTS_MAX};
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::ledger::Ledger;
use crate::runtime::shared::unreachable::Unreachable;
use crate::runtime::shared::view::View;
use crate::runtime::store::hint_worker::{self, HintBounds, KeptHints};
use crate::runtime::store::power;
use crate::runtime::store::quarantine::open_store;
use crate::runtime::store::rebuilding::Rebuilding;
use crate::runtime::store::store_worker;
use crate::settings::check_values;

/// A running node. Dropping it stops it as a crash would; use [`shutdown`](Self::shutdown).
///
/// The program it runs in reads and writes with [`get`](Self::get), [`put`](Self::put) and
/// [`delete`](Self::delete), or from many tasks through a [`client`](Self::client).
pub struct Node {
    address: SocketAddr,
    http_address: Option<SocketAddr>,
    config: Config,
    identity: Identity,
    files: Arc<dyn SmallFiles>,
    /// What this node has locked itself; nothing in a world of the caller's.
    directory: Option<Directory>,
    client: LocalClient,
    view: watch::Receiver<Arc<View>>,
    end: EndReason,
    stop: Stop,
    coordinator: Task<End>,
    control: Task<Result<(), ControlError>>,
    minter: oneshot::Receiver<Minter>,
    tasks: TaskTracker,
}

/// The steps of a shutdown, in order. Dropping it takes all of them at once.
#[derive(Debug)]
struct Stop {
    /// For those who still ask it something.
    end: EndReason,
    /// Not ready any more; nothing new is begun.
    draining: CancellationToken,
    /// Connections and tasks end.
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.config.id)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.end.tell("the node was dropped");
        self.draining.cancel();
        self.shutdown.cancel();
    }
}

impl Node {
    /// Starts a node on this machine's disk and network, on the present tokio runtime.
    ///
    /// With an empty directory and no seed it founds a cluster:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use dynakv::{Config, Node, NodeId};
    ///
    /// let directory = tempfile::tempdir()?;
    /// let config = Config::embedded(NodeId::new("inside")?, directory.path());
    /// let node = Node::start(config.clone()).await?;
    ///
    /// node.put("greeting", "hello").await?;
    /// let fetched = node.get("greeting").await?;
    /// assert_eq!(fetched.value()?.map(|value| &value[..]), Some(&b"hello"[..]));
    /// node.delete("greeting").context(fetched.context).await?;
    /// node.shutdown().await;
    ///
    /// // The same directory again: everything that was acknowledged is there.
    /// let node = Node::start(config).await?;
    /// assert_eq!(node.get("greeting").await?.value()?, None);
    /// node.shutdown().await;
    /// # Ok(()) }
    /// ```
    ///
    /// Several nodes may live in one process. Each is given the address of another one as a seed, and
    /// all must have joined before the first write:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use dynakv::{Config, Node, NodeId};
    ///
    /// let directory = tempfile::tempdir()?;
    /// let first = Config::embedded(NodeId::new("first")?, directory.path().join("first"));
    /// let first = Node::start(first).await?;
    /// let second = Node::start(Config {
    ///     seeds: vec![first.address().to_string()],
    ///     ..Config::embedded(NodeId::new("second")?, directory.path().join("second"))
    /// })
    /// .await?;
    /// first.wait_for_members(2, Duration::from_secs(30)).await?;
    /// second.wait_for_members(2, Duration::from_secs(30)).await?;
    ///
    /// first.put("greeting", "hello").await?;
    /// assert!(second.get("greeting").await?.value()?.is_some());
    /// first.shutdown().await;
    /// second.shutdown().await;
    /// # Ok(()) }
    /// ```
    ///
    /// It takes no more connections than the file descriptors of the process permit, whatever
    /// `connections_max` says. It leaves the limit of the process as it is; `dynakv serve` raises it.
    ///
    /// # Errors
    /// [`ServeError`] says what to do. Waiting for a seed is no error: the node has started, and is not
    /// [`ready`](Self::ready).
    pub async fn start(mut config: Config) -> Result<Self, ServeError> {
        check(&config)?;
        check_directory(&config)?;
        if let Some(limit) = descriptors_max()
            && let Some(lowered) = descriptors::fit(&mut config, limit)?
        {
            tracing::warn!("{lowered}");
        }
        let seed = getrandom::u64().map_err(|error| ServeError::System {
            what: "randomness",
            reason: error.to_string(),
        })?;
        let (directory, accept_loss) = (config.data_dir.clone(), config.accept_loss);
        let options = DiskOptions {
            cache_bytes: config.cache_bytes,
            durability: config.durability,
            reserve_bytes: config.disk_reserve_bytes,
            ..DiskOptions::default()
        };
        // The log is read: whatever else runs on this runtime goes on meanwhile.
        let opened = tokio::task::spawn_blocking(move || {
            let files = DirectoryFiles::open(&directory)?;
            let boot = power::boot_id();
            power::note_start(&files, options.durability, boot.as_deref())?;
            let store = open_store(&directory, &files, options, accept_loss)?;
            power::note_opened(&files, options.durability)?;
            if accept_loss {
                Rebuilding::note_none(&files)?;
            }
            Ok::<_, ServeError>((files, store))
        });
        let opened = opened.await;
        let (files, store) = opened.map_err(|error| system("a thread", &error.to_string()))??;
        let set_aside = list_set_aside(&config.data_dir);
        if !set_aside.is_empty() {
            tracing::warn!(
                ?set_aside,
                "damaged stores lie in the data directory; remove them when they are of no use any more"
            );
        }
        let environment = Environment {
            network: Arc::new(TcpNetwork),
            clock: Arc::new(SystemClock),
            seed,
            disk: Disk {
                store: Arc::new(store),
                hints: Arc::new(files.append_file(HINTS_FILE)?),
                files: Arc::new(files),
                threads: StoreThreads::Own,
            },
        };
        let directory = Directory {
            store: environment.disk.store.clone(),
            files: environment.disk.files.clone(),
        };
        let mut node = Self::start_in(config, environment).await?;
        node.directory = Some(directory);
        Ok(node)
    }

    /// Starts a node in a world of the caller's: a simulation, say.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_in(config: Config, environment: Environment) -> Result<Self, ServeError> {
        check(&config)?;
        let Environment {
            network,
            clock,
            seed,
            disk,
        } = environment;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut kept_hints = KeptHints::open(disk.hints.clone())?;
        let Started {
            identity,
            last_stop,
        } = begin_run(&disk, &mut kept_hints, &config, || random.u64(1..))?;
        tracing::info!(
            node = %config.id,
            generation = identity.generation.0,
            actor = %identity.actor,
            ?last_stop,
            directory = %config.data_dir.display(),
            "starting"
        );

        let bind = |address| {
            let network = network.clone();
            async move {
                let listening = network.listen(address).await.and_then(|listener| {
                    let address = listener.local_address()?;
                    Ok((listener, address))
                });
                listening.map_err(|source| ServeError::Listen { address, source })
            }
        };
        let (listener, address) = bind(SocketAddr::new(config.host, config.port)).await?;
        let http_port = http_port(&config)?;
        let (http_listener, http_address) =
            bind(SocketAddr::new(config.http_host, http_port)).await?;

        let is_new_directory = last_stop == dynakv_storage::LastStop::NeverStarted;
        let me = Myself {
            node_id: config.id.clone(),
            directory_id: identity.directory_id,
            generation: identity.generation,
            nonce: identity.nonce,
            cluster_name: config.cluster_name.clone(),
            address: config
                .advertise
                .clone()
                .unwrap_or_else(|| address.to_string()),
            // Versions without a ring are of a cluster that there is already.
            may_found: config.bootstrap && (is_new_directory || disk.store.totals().versions == 0),
        };
        let others = Arc::new(OtherClusters::default());
        let unreachable = Arc::new(Unreachable::default());
        let metrics = Metrics::new(config.id.as_str()).map_err(|error| ServeError::System {
            what: "metrics",
            reason: error.to_string(),
        })?;
        let metrics = Arc::new(metrics);
        let rebuilding = Arc::new(Rebuilding::load(disk.files.clone())?);
        if rebuilding.left() > 0 {
            tracing::warn!(
                segments = rebuilding.left(),
                "this node has lost data and is rebuilding: it takes writes, its reads do not count there"
            );
        }
        let seen = Arc::new(KnownProcesses::load(disk.files.clone())?);
        let repairs = Arc::new(Repairs::new(config.id.clone()));
        let end = EndReason::default();
        let stop = Stop {
            end: end.clone(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        let tasks = TaskTracker::new();
        let ledger = Arc::new(Ledger::new(config.bytes_in_flight_max));
        let intake = Intake {
            malformed: metrics.malformed_frames.clone(),
            ledger: ledger.clone(),
        };
        let (view_in, view) = watch::channel(Arc::new(View::default()));
        let (events_in, events) = mpsc::channel(COORDINATOR_EVENTS_MAX);
        let (control_in, control_events) = mpsc::channel(CONTROL_EVENTS_MAX);
        let (unlocks, unlock_jobs) = mpsc::channel(unlocking::WAITING_MAX);

        let minter = Minter::new(identity.actor, identity.counter_floor, random.fork());
        let disk_progress = Arc::new(DiskProgress::new(disk.store.clone()));
        let store = store_worker::start(
            &disk,
            minter,
            clock.clone(),
            (metrics.clone(), ledger.clone()),
            rebuilding.clone(),
            disk_progress.clone(),
        );
        let store = store.map_err(|error| ServeError::System {
            what: "a thread",
            reason: error.to_string(),
        })?;
        let hints = hint_worker::start(hint_worker::Parts {
            disk: disk.clone(),
            hints: kept_hints,
            minter: Minter::new(Actor(random.u64(1..)), 0, random.fork()),
            clock: clock.clone(),
            metrics: metrics.clone(),
            bounds: HintBounds {
                bytes_max: config.hints_bytes_max,
                age_max: config.hints_age_max,
            },
            events: store.events_in,
            progress: disk_progress.clone(),
        })?;

        let outgoing = Outgoing {
            network: network.clone(),
            view: view.clone(),
            seen: seen.clone(),
            intake: intake.clone(),
        };
        let calls = Arc::new(Calls::new(outgoing.clone(), hello(&me, Lane::Control)));
        let confirmer = Confirmer::new(outgoing.clone(), me.cluster_name.clone());
        let confirmer = Arc::new(confirmer);
        let runner = control::prepare(control::Parts {
            me: me.clone(),
            startup: Startup {
                seeds: config.seeds.clone(),
                quorums: (config.n, config.w, config.r),
                member: Member {
                    id: config.id.clone(),
                    directory_id: identity.directory_id,
                    address: me.address.clone(),
                    weight: config.weight,
                    zone: config.zone.clone(),
                },
                is_new_directory,
            },
            membership: MembershipConfig {
                gossip_interval_ms: config.gossip_interval.as_millis() as u64,
                suspect_after_ms: config.suspect_after.as_millis() as u64,
                dead_after_ms: config.dead_after.as_millis() as u64,
                ..MembershipConfig::default()
            },
            calls,
            confirmer: confirmer.clone(),
            seen: seen.clone(),
            others: others.clone(),
            unreachable: unreachable.clone(),
            events: control_events,
            view: view_in,
            files: disk.files.clone(),
            store: disk.store.clone(),
            metrics: metrics.clone(),
            rebuilding: rebuilding.clone(),
            repairs: repairs.clone(),
            hints: hints.clone(),
            disk: disk_progress.clone(),
            unlocks,
            random: random.fork(),
            draining: stop.draining.clone(),
            shutdown: stop.shutdown.clone(),
        })?;

        let dialer = Dialer {
            network: network.clone(),
            hello: hello(&me, Lane::Data),
            intake: intake.clone(),
            events: events_in.clone(),
            seen: seen.clone(),
            unreachable,
        };
        let mending_rebuilding = rebuilding.clone();
        let coordinator = coordinator::run(coordinator::Parts {
            links: Links::new(dialer, config.id.clone(), random.fork()),
            store: store.handle,
            hints: hints.clone(),
            store_events: store.events,
            events,
            control: control_in.clone(),
            view: view.clone(),
            bounds: Bounds {
                requests_max: config.requests_in_flight_max,
                value_bytes_max: config.value_bytes_max,
                connection_bytes_max: config.connection_bytes_max,
            },
            clock,
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            rebuilding,
            repairs: repairs.clone(),
            disk: disk_progress.clone(),
            draining: stop.draining.clone(),
        });
        let reason = end.clone();
        let coordinator = tokio::spawn(async move {
            let end = coordinator.await;
            if let End::DiskFailed(error) = &end {
                reason.tell(error.to_string());
            }
            end
        });
        let reason = end.clone();
        let control = tokio::spawn(async move {
            let end = control::run(runner).await;
            if let Err(error) = &end {
                reason.tell(error.to_string());
            }
            end
        });
        let bounds = LocalBounds {
            requests_max: config.requests_in_flight_max,
            bytes_max: config.bytes_in_flight_max,
        };
        let local = Local::open(
            ConnectionId::LOCAL,
            events_in.clone(),
            control_in.clone(),
            (bounds, ledger.clone()),
            end.clone(),
        )
        .await;
        tokio::spawn(local.clone().run());
        let mending = Local::open(
            ConnectionId::ANTI_ENTROPY,
            events_in.clone(),
            control_in.clone(),
            (bounds, ledger.clone()),
            end.clone(),
        );
        let mending = mending.await;
        tokio::spawn(mending.clone().run());
        let asker = Arc::new(Asker {
            me: config.id.clone(),
            run: me.nonce,
            local: mending,
            calls: Calls::about_data(outgoing, hello(&me, Lane::Data), FRAME_BYTES_MAX),
        });
        let handoff = handoff::Parts {
            hints,
            asker: asker.clone(),
            view: view.clone(),
        };
        tasks.spawn(handoff::run(handoff, stop.draining.clone()));
        let unlocker = unlocking::Parts {
            asker: asker.clone(),
            view: view.clone(),
            value_bytes_max: config.value_bytes_max,
            jobs: unlock_jobs,
        };
        tasks.spawn(unlocking::run(unlocker, stop.draining.clone()));
        let comparing = anti_entropy::Parts {
            asker,
            view: view.clone(),
            rebuilding: mending_rebuilding,
            threads: disk.threads,
            recounter: store.recounter,
            repairs,
            interval: config.anti_entropy_interval,
            random: random.fork(),
            metrics: metrics.clone(),
        };
        tasks.spawn(anti_entropy::run(comparing, stop.draining.clone()));
        let client = LocalClient::new(local, me.address.clone(), random.u64(..));
        let draining = stop.draining.clone();
        let admission = Admission::new(me, view.clone(), confirmer, seen, others, draining);
        let shared = Shared {
            admission: Arc::new(admission),
            coordinator: events_in,
            control: control_in,
            frame_bytes_max: frame_bytes_max(config.value_bytes_max),
            limits: config.client_limits(),
            http_port: http_address.port(),
            waiting_bytes_max: config.connection_bytes_max,
            ledger,
            metrics: metrics.clone(),
            disk: disk_progress.clone(),
            draining: stop.draining.clone(),
            drain: config.shutdown_deadline,
            shutdown: stop.shutdown.clone(),
        };
        let places = descriptors::places(config.connections_max, descriptors_max());
        tasks.spawn(listener::run(listener, places, shared, tasks.clone()));
        let pages = NodePages {
            metrics,
            disk: disk_progress,
            data_dir: config.data_dir.clone(),
            view: view.clone(),
            draining: stop.draining.clone(),
            data_port: address.port(),
        };
        tasks.spawn(http::run(
            http_listener,
            Arc::new(pages),
            stop.shutdown.clone(),
        ));
        tracing::info!(%address, %http_address, "listening");
        Ok(Self {
            address,
            http_address: Some(http_address),
            identity,
            files: disk.files,
            directory: None,
            client,
            view,
            end,
            stop,
            coordinator: Task::new(coordinator),
            control: Task::new(control),
            minter: store.finished,
            tasks,
            config,
        })
    }

    /// Where clients and nodes reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics and health are.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Asks this node without a socket. Cheap to clone; give each task one.
    pub fn client(&self) -> LocalClient {
        self.client.clone()
    }
}

fn check(config: &Config) -> Result<(), ServeError> {
    check_values(config).map_err(|(name, reason)| ServeError::Setting { name, reason })
}

/// Port + 1000 unless told otherwise; a free one beside a free port.
fn http_port(config: &Config) -> Result<u16, ServeError> {
    let port = config.port;
    match config.http_port {
        Some(http_port) => Ok(http_port),
        None if port == 0 => Ok(0),
        None => port
            .checked_add(1000)
            .ok_or(ServeError::NoHttpPort { port }),
    }
}
