//! Why a node could not start, or ended.

use std::net::SocketAddr;
use std::sync::Arc;

use dynakv_storage::{IdentityError, StoreError};

use crate::descriptors::TooFewDescriptors;
use crate::runtime::control::ControlError;
use crate::runtime::store::quarantine::OpenError;
use crate::runtime::store::restoring::RestoreError;

/// Why a node could not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A setting cannot be.
    #[error("the setting {name} is wrong: {reason}")]
    Setting {
        /// Its name in the settings file.
        name: &'static str,
        /// What is permitted.
        reason: String,
    },
    /// The process may not open enough files and connections.
    #[error(transparent)]
    TooFewDescriptors(#[from] TooFewDescriptors),
    /// The port is taken, or the address is none of this machine.
    #[error(
        "cannot listen on {address}: {source}; choose another --port or --host, or end what listens there"
    )]
    Listen {
        /// The address that it was to listen on.
        address: SocketAddr,
        /// What the system says.
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
    /// The data directory is a snapshot that cannot be used.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// There is no store to run on.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk failed while the node ran: what was not acknowledged may be lost. The process ends with
    /// a code of its own.
    #[error("the disk failed, the node stops rather than pretend: {0}")]
    DiskFailed(Arc<StoreError>),
    /// The cluster and this node don't go together.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The system gave no thread, no signal handler, no randomness.
    #[error("the operating system refused {what}: {reason}")]
    System {
        /// What was asked of the system.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

/// The operating system refused something.
pub(super) fn system(what: &'static str, reason: &str) -> ServeError {
    let reason = reason.to_owned();
    ServeError::System { what, reason }
}
