//! Why a cluster is not as it should be, in words that say what to do.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// How long nodes may take until all of them are ready and see each other.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a cluster is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Its ring does not change as it is to.
    #[error("the cluster does not change as it is to: {reason}\n  next: dynakv status")]
    Change {
        /// What keeps it.
        reason: String,
    },
    /// There is no binary to start.
    #[error("{} does not exist: build it with `cargo build --release --bin dynakv`, or give --dynakv PATH", path.display())]
    NoBinary {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A cluster has at least one node.
    #[error("a cluster needs 1 to 50 nodes, not {nodes}")]
    Nodes {
        /// How many were asked for.
        nodes: usize,
    },
    /// The directory cannot be used.
    #[error("cannot write to {}: {source}", path.display())]
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A process could not be started, or not be waited for.
    #[error("cannot run {id}: {source}")]
    Process {
        /// The node that it runs.
        id: String,
        /// What the system says.
        source: io::Error,
    },
    /// No port is free.
    #[error("no two free ports 1,000 apart below {end} for {id}")]
    NoPort {
        /// The node that needs one.
        id: String,
        /// Where outgoing connections begin to take theirs.
        end: u16,
    },
    /// A node ended by itself.
    #[error("{id} ended by itself ({status}); its log, {}, ends with:\n{tail}", log.display())]
    Ended {
        /// The node that it ran.
        id: String,
        /// How its process ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// The nodes did not become ready.
    #[error("not ready within {READY_TIMEOUT:?}: {reason}; the log of {id}, {}, ends with:\n{tail}", log.display())]
    NotReady {
        /// Which node was waited for.
        id: String,
        /// What it said last.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
}
