//! The world a node lives in: network, wall clock, randomness, disk, each behind a seam, so that a
//! simulation can take its place. Monotonic time is tokio's, which a simulation pauses and drives.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dynakv_storage::{AppendFile, SmallFiles, Store};
use tokio::io::{AsyncRead, AsyncWrite};

/// A future that a seam gives back.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The reading half of a connection.
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

/// The writing half of a connection.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Makes connections and takes them in.
pub trait Network: Send + Sync + 'static {
    /// Connects to `host:port`; a name is resolved anew at each call, and each of its addresses tried.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<(ReadHalf, WriteHalf)>>;

    /// The addresses that `host:port` stands for now, to be dialled each; those of IPv6 are in brackets.
    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        Box::pin(async move { Ok(vec![address.to_owned()]) })
    }

    /// Listens on an address; port 0 takes a free one.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// A socket that listens.
pub trait Listener: Send {
    /// The next connection and where it comes from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(ReadHalf, WriteHalf, SocketAddr)>>;

    /// Where it listens.
    fn local_address(&self) -> io::Result<SocketAddr>;
}

/// Tells the time of day, for timestamps and expiry only.
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn unix_ms(&self) -> u64;
}

/// A switch that makes a simulated disk hang. Clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct Stall(Arc<AtomicBool>);

/// How often a simulated sync looks whether the disk still hangs.
const STALL_LOOK: Duration = Duration::from_millis(1);

impl Stall {
    /// From now on no sync comes back, or all do.
    pub fn set(&self, hangs: bool) {
        self.0.store(hangs, Ordering::Relaxed);
    }

    /// Waits while the disk hangs.
    pub async fn passes(&self) {
        while self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(STALL_LOOK).await;
        }
    }
}

/// Where the store's work is done.
#[derive(Debug, Clone)]
pub enum StoreThreads {
    /// One thread writes and syncs, one reads: the real thing.
    Own,
    /// Tasks of the runtime, with this much simulated time per sync, in microseconds.
    Simulated {
        /// How long one sync takes.
        sync_us: u64,
        /// Makes it hang.
        stall: Stall,
    },
}

/// A node's disk.
#[derive(Clone)]
pub struct Disk {
    /// Versions of keys.
    pub store: Arc<dyn Store>,
    /// Hints: what is kept for other nodes, beside the store, so that it survives one that is damaged.
    pub hints: Arc<dyn AppendFile>,
    /// Identity, ring document and other small control state.
    pub files: Arc<dyn SmallFiles>,
    /// Where the store's work is done.
    pub threads: StoreThreads,
}

/// Everything a node needs of the world.
#[derive(Clone)]
pub struct Environment {
    /// Connections.
    pub network: Arc<dyn Network>,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// Where all randomness comes from.
    pub seed: u64,
    /// The disk.
    pub disk: Disk,
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn unix_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock set before 1970 counts as 1970: timestamps only break ties.
        since.map_or(0, |since| since.as_millis() as u64)
    }
}
