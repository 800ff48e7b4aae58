//! A node: the one place that builds everything and owns it.

mod beginning;
mod building;
mod directory;
mod ending;
mod error;
mod operations;
mod pages;
mod readiness;
mod release;
mod serving;
mod stop;
mod task;

use std::net::SocketAddr;
use std::sync::Arc;

use dynakv_storage::{
    DirectoryFiles, DiskOptions, HINTS_FILE, Identity, SmallFiles, remove_unfinished,
};
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

pub(crate) use self::directory::check_directory;
pub use self::error::ServeError;
pub use self::readiness::NotReady;
#[cfg_attr(not(dynakv_internals), doc(hidden))]
pub use self::serving::serve;
// What the variants of `ServeError` hold.
pub use crate::descriptors::TooFewDescriptors;
pub use crate::runtime::control::ControlError;
pub use crate::runtime::store::quarantine::OpenError;
pub use dynakv_storage::{IdentityError, StoreError};

use self::beginning::begin_run;
use self::building::{Doors, Ground, World};
use self::error::system;
use self::release::Directory;
use self::stop::Stop;
use self::task::Task;
use crate::config::Config;
use crate::descriptors;
use crate::embedded::LocalClient;
use crate::engine::write::mint::Minter;
use crate::runtime::data::coordinator::End;
use crate::runtime::net::local::EndReason;
use crate::runtime::net::tcp::TcpNetwork;
use crate::runtime::observe::process::descriptors_max;
use crate::runtime::shared::data_directory::{SNAPSHOTS_DIRECTORY, list_set_aside};
use crate::runtime::shared::environment::{Disk, Environment, StoreThreads, SystemClock};
use crate::runtime::shared::events::ConnectionId;
use crate::runtime::shared::view::View;
use crate::runtime::store::hint_worker::KeptHints;
use crate::runtime::store::power;
use crate::runtime::store::quarantine::open_store;
use crate::runtime::store::rebuilding::Rebuilding;
pub use crate::runtime::store::restoring::RestoreError;
use crate::runtime::store::restoring::take_over;
use crate::settings::check_values;

/// A running node. Dropping it stops it as a crash would; use [`shutdown`](Self::shutdown).
///
/// The program it runs in reads and writes with [`get`](Self::get), [`put`](Self::put),
/// [`update`](Self::update) and their like, or from many tasks through a [`client`](Self::client).
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

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.config.id)
            .field("address", &self.address)
            .finish_non_exhaustive()
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
        let (node_id, mut random) = (config.id.clone(), fastrand::Rng::with_seed(seed).fork());
        let options = DiskOptions {
            memory_bytes: config.memory_bytes,
            log_bytes_max: config.log_bytes_max,
            durability: config.durability,
            reserve_bytes: config.disk_reserve_bytes,
            ..DiskOptions::default()
        };
        // The log is read: whatever else runs on this runtime goes on meanwhile.
        let opened = tokio::task::spawn_blocking(move || {
            let files = DirectoryFiles::open(&directory)?;
            if let Err(error) = remove_unfinished(&directory.join(SNAPSHOTS_DIRECTORY)) {
                tracing::warn!(%error, "what is left of a snapshot that was cut short stays");
            }
            if let Some(note) = take_over(&files, &node_id, || random.u64(1..))? {
                tracing::warn!(
                    begun = %note.begun(),
                    "this data directory is a snapshot: the node begins with what is in it, and rebuilds the rest"
                );
            }
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
    #[cfg_attr(not(dynakv_internals), doc(hidden))]
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
        let started = begin_run(&disk, &mut kept_hints, &config, || random.u64(1..))?;
        tracing::info!(
            node = %config.id,
            generation = started.identity.generation.0,
            actor = %started.identity.actor,
            last_stop = ?started.last_stop,
            directory = %config.data_dir.display(),
            "starting"
        );
        let doors = Doors::open(&*network, &config).await?;
        let (address, http_address) = (doors.address, doors.http_address);
        let world = World {
            network,
            clock,
            disk,
            random,
        };
        let (mut ground, inboxes) = Ground::lay(config, world, started, address)?;
        let store = ground.start_store()?;
        let hints = ground.start_hints(kept_hints, store.events_in)?;
        let confirmer = ground.confirmer();
        let control = ground.control(
            confirmer.clone(),
            (hints.clone(), store.fences),
            inboxes.control,
        )?;
        let coordinator = ground.coordinator(
            store.handle,
            store.events,
            hints.clone(),
            inboxes.coordinator,
        );
        let coordinator = tokio::spawn(coordinator);
        let control = tokio::spawn(control);
        let local = ground.open_local(ConnectionId::LOCAL).await;
        ground
            .spawn_anti_entropy(hints, (store.recounter, store.dropper), inboxes.unlock_jobs)
            .await;
        let token = ground.world.random.u64(..);
        let client = LocalClient::new(local, ground.me.address.clone(), token);
        ground.spawn_listeners(doors, confirmer);
        tracing::info!(%address, %http_address, "listening");
        let Ground {
            config,
            identity,
            world,
            stop,
            tasks,
            view,
            ..
        } = ground;
        Ok(Self {
            address,
            http_address: Some(http_address),
            identity,
            files: world.disk.files,
            directory: None,
            client,
            view,
            end: stop.end.clone(),
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
