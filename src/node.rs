//! A node: the one place that builds everything and owns it.

use std::net::SocketAddr;
use std::sync::Arc;

use dynakv_protocol::ClusterId;
use dynakv_protocol::handshake::{Hello, Lane, PeerIdentity};
use dynakv_protocol::limits::frame_bytes_max;
use dynakv_protocol::ring_document::Member;
use dynakv_storage::{
    DirectoryFiles, DiskOptions, DiskStore, Identity, IdentityError, SmallFiles, Started,
    StoreError,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::engine::membership::MembershipConfig;
use crate::engine::mint::Minter;
use crate::runtime::admission::{Admission, Myself};
use crate::runtime::calls::Calls;
use crate::runtime::connection::Shared;
use crate::runtime::control::{self, ControlError, Startup};
use crate::runtime::coordinator::{self, Bounds, End};
use crate::runtime::environment::{Disk, Environment, StoreThreads, SystemClock};
use crate::runtime::events::{CONTROL_EVENTS_MAX, COORDINATOR_EVENTS_MAX};
use crate::runtime::http::{self, Pages};
use crate::runtime::links::{Dialer, Links};
use crate::runtime::listener;
use crate::runtime::metrics::Metrics;
use crate::runtime::store_worker;
use crate::runtime::tcp::TcpNetwork;
use crate::runtime::view::View;

/// Where the store lives in the data directory.
const STORE_DIRECTORY: &str = "store";

/// Why a node could not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port is taken, or the address is none of this machine.
    #[error(
        "cannot listen on {address}: {source}; choose another --port or --host, or end what listens there"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The HTTP port would be above 65535.
    #[error("port {port} + 1000 is no port: give --http-port")]
    NoHttpPort {
        /// The main port.
        port: u16,
    },
    /// The data directory is another node's, or in use, or damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store could not be opened, or failed while running.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk failed while the node ran: what was not acknowledged may be lost.
    #[error("the disk failed, the node stops rather than pretend: {0}")]
    DiskFailed(Arc<StoreError>),
    /// The cluster and this node don't go together.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The system gave no thread, no signal handler, no randomness.
    #[error("the operating system refused {what}: {reason}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// A running node. Dropping it stops it as a crash would; use [`shutdown`](Self::shutdown).
pub struct Node {
    address: SocketAddr,
    http_address: Option<SocketAddr>,
    config: Config,
    identity: Identity,
    files: Arc<dyn SmallFiles>,
    stop: Stop,
    coordinator: JoinHandle<End>,
    control: JoinHandle<Result<(), ControlError>>,
    minter: oneshot::Receiver<Minter>,
    tasks: TaskTracker,
}

/// The steps of a shutdown, in order. Dropping it takes all of them at once.
#[derive(Debug)]
struct Stop {
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
        self.draining.cancel();
        self.shutdown.cancel();
    }
}

impl Node {
    /// Starts a node on this machine's disk and network, on the present tokio runtime.
    ///
    /// # Errors
    /// [`ServeError`] says what to do. Waiting for a seed is no error: the node has started, and is not
    /// ready.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        let seed = getrandom::u64().map_err(|error| ServeError::System {
            what: "randomness",
            reason: error.to_string(),
        })?;
        let files = DirectoryFiles::open(&config.data_dir)?;
        let options = DiskOptions {
            cache_bytes: config.cache_bytes,
            ..DiskOptions::default()
        };
        let store = DiskStore::open(config.data_dir.join(STORE_DIRECTORY), options)?;
        let environment = Environment {
            network: Arc::new(TcpNetwork),
            clock: Arc::new(SystemClock),
            seed,
            disk: Disk {
                store: Arc::new(store),
                files: Arc::new(files),
                threads: StoreThreads::Own,
            },
        };
        Self::start_in(config, environment).await
    }

    /// Starts a node in a world of the caller's: a simulation, say.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_in(config: Config, environment: Environment) -> Result<Self, ServeError> {
        let Environment {
            network,
            clock,
            seed,
            disk,
        } = environment;
        let mut random = fastrand::Rng::with_seed(seed);
        let Started {
            identity,
            last_stop,
        } = Identity::start(&*disk.files, config.id.clone(), || random.u64(1..))?;
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
        };
        let metrics = Metrics::new(config.id.as_str()).map_err(|error| ServeError::System {
            what: "metrics",
            reason: error.to_string(),
        })?;
        let metrics = Arc::new(metrics);
        let stop = Stop {
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        let tasks = TaskTracker::new();
        let (view_in, view) = watch::channel(Arc::new(View::default()));
        let (events_in, events) = mpsc::channel(COORDINATOR_EVENTS_MAX);
        let (control_in, control_events) = mpsc::channel(CONTROL_EVENTS_MAX);

        let runner = control::prepare(control::Parts {
            me: me.clone(),
            startup: Startup {
                seeds: config.seeds.clone(),
                bootstrap: config.bootstrap,
                quorums: (config.n, config.w, config.r),
                member: Member {
                    id: config.id.clone(),
                    directory_id: identity.directory_id,
                    address: me.address.clone(),
                    weight: config.weight,
                    zone: config.zone.clone(),
                },
                is_new_directory: last_stop == dynakv_storage::LastStop::NeverStarted,
            },
            membership: MembershipConfig {
                gossip_interval_ms: config.gossip_interval.as_millis() as u64,
                suspect_after_ms: config.suspect_after.as_millis() as u64,
                dead_after_ms: config.dead_after.as_millis() as u64,
                ..MembershipConfig::default()
            },
            calls: Arc::new(Calls::new(
                network.clone(),
                hello(&me, Lane::Control),
                view.clone(),
            )),
            events: control_events,
            view: view_in,
            files: disk.files.clone(),
            store: disk.store.clone(),
            metrics: metrics.clone(),
            random: random.fork(),
            draining: stop.draining.clone(),
            shutdown: stop.shutdown.clone(),
        })?;

        let minter = Minter::new(identity.actor, identity.counter_floor, random.fork());
        let store = store_worker::start(&disk, minter, clock.clone(), metrics.clone());
        let store = store.map_err(|error| ServeError::System {
            what: "a thread",
            reason: error.to_string(),
        })?;
        let frame_bytes_max = frame_bytes_max(config.value_bytes_max);
        let dialer = Dialer {
            network: network.clone(),
            hello: hello(&me, Lane::Data),
            frame_bytes_max,
            events: events_in.clone(),
        };
        let coordinator = tokio::spawn(coordinator::run(coordinator::Parts {
            links: Links::new(dialer, config.id.clone(), random.fork()),
            store: store.handle,
            store_events: store.events,
            events,
            control: control_in.clone(),
            view: view.clone(),
            bounds: Bounds {
                requests_max: config.requests_in_flight_max,
                bytes_max: config.bytes_in_flight_max,
                value_bytes_max: config.value_bytes_max,
                connection_bytes_max: config.connection_bytes_max,
            },
            clock,
            metrics: metrics.clone(),
            draining: stop.draining.clone(),
        }));
        let control = tokio::spawn(control::run(runner));
        let shared = Shared {
            admission: Arc::new(Admission::new(me, view.clone())),
            coordinator: events_in,
            control: control_in,
            frame_bytes_max,
            waiting_bytes_max: config.connection_bytes_max,
            shutdown: stop.shutdown.clone(),
        };
        tasks.spawn(listener::run(
            listener,
            config.connections_max,
            shared,
            tasks.clone(),
        ));
        let pages = NodePages {
            metrics,
            view,
            draining: stop.draining.clone(),
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
            stop,
            coordinator,
            control,
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

    /// Waits until the node can't go on. It never ends by itself otherwise.
    pub async fn failed(&mut self) -> ServeError {
        tokio::select! {
            biased;
            end = &mut self.coordinator => match end {
                Ok(End::DiskFailed(error)) => ServeError::DiskFailed(error),
                Ok(End::Drained) => system("the coordinator", "it ended"),
                Err(error) => system("the coordinator", &error.to_string()),
            },
            end = &mut self.control => match end {
                Ok(Err(error)) => error.into(),
                Ok(Ok(())) => system("the control task", "it ended"),
                Err(error) => system("the control task", &error.to_string()),
            },
        }
    }

    /// Stops in order: refuses new work, finishes what is in hand, syncs, and marks the directory as
    /// cleanly stopped. What is not finished by the deadline of the settings is left as after a crash,
    /// which is safe.
    pub async fn shutdown(mut self) {
        tracing::info!("shutting down");
        self.stop.draining.cancel();
        let deadline = self.config.shutdown_deadline;
        let in_order = timeout(deadline, async {
            let drained = (&mut self.coordinator).await;
            let minter = (&mut self.minter).await;
            match (drained, minter) {
                (Ok(End::Drained), Ok(minter)) => Some(minter.position()),
                _ => None,
            }
        });
        match in_order.await {
            Ok(Some((actor, counter))) => {
                match self.identity.mark_clean(&*self.files, actor, counter) {
                    Ok(()) => tracing::info!("stopped cleanly"),
                    Err(error) => tracing::warn!(%error, "could not mark the stop as clean"),
                }
            }
            Ok(None) => {
                tracing::warn!("the store did not finish; the next start is an unclean one")
            }
            Err(_) => tracing::warn!(
                ?deadline,
                "the deadline passed; the next start is an unclean one"
            ),
        }
        self.stop.shutdown.cancel();
        self.tasks.close();
        // Answers that are on their way get a moment to leave.
        let _ = timeout(std::time::Duration::from_secs(1), self.tasks.wait()).await;
    }
}

fn system(what: &'static str, reason: &str) -> ServeError {
    let reason = reason.to_owned();
    ServeError::System { what, reason }
}

fn hello(me: &Myself, lane: Lane) -> Hello {
    let peer = PeerIdentity {
        node_id: me.node_id.clone(),
        directory_id: me.directory_id,
        // Filled in from the view at each dial.
        cluster_id: ClusterId::default(),
        generation: me.generation,
        nonce: me.nonce,
        address: me.address.clone(),
        lane,
    };
    Hello::peer(&me.cluster_name, peer)
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

struct NodePages {
    metrics: Arc<Metrics>,
    view: watch::Receiver<Arc<View>>,
    draining: CancellationToken,
}

impl Pages for NodePages {
    fn metrics(&self) -> String {
        self.metrics.render()
    }

    fn not_ready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("shutting down".to_owned());
        }
        match self.view.borrow().ring {
            Some(_) => None,
            None => Some("not in a cluster yet; see the log".to_owned()),
        }
    }
}

/// Runs a node until SIGTERM or Ctrl-C.
///
/// # Errors
/// [`ServeError`].
pub fn serve(config: Config) -> Result<(), ServeError> {
    // One thread for all of the network: the store has its own, and batches grow with the load.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| system("a runtime", &error.to_string()))?;
    runtime.block_on(async {
        let announces = config.port == 0;
        let mut node = Node::start(config).await?;
        if announces {
            announce(&node);
        }
        tokio::select! {
            biased;
            signal = stop_signal() => signal?,
            error = node.failed() => return Err(error),
        }
        node.shutdown().await;
        Ok(())
    })
}

/// Tells a script that asked for free ports which they are.
fn announce(node: &Node) {
    // The fields in the order that is documented, which a JSON map would not keep.
    let line = format!(
        r#"{{"event":"listening","port":{},"http_port":{}}}"#,
        node.address.port(),
        node.http_address.map_or(0, |address| address.port()),
    );
    println!("{line}");
}

async fn stop_signal() -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let refused = |error: std::io::Error| system("a signal handler", &error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
