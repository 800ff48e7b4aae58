//! Why a cluster of `dev` does not come up, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use dynakv_protocol::shell::quoted;

use super::arguments::DevArgs;
use super::shape::{self, Found, Shape};
use crate::cli::exit::Exit;

/// How long the cluster may take to form.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a cluster did not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevError {
    #[error(
        "{nodes} nodes from port {base_port} on do not fit: ports and HTTP ports (+ 1000) end at 65535"
    )]
    PortsTooHigh { nodes: u16, base_port: u16 },
    #[error("port {port} overlaps: with so many nodes ports and HTTP ports (+ 1000) meet")]
    PortsOverlap { port: u16 },
    #[error("port {port} is in use ({source})")]
    PortBusy { port: u16, source: io::Error },
    #[error("cannot write to {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "{} holds a cluster made with {}: start it as it was made, or begin anew with --fresh (what is there is kept \
         beside it)",
        directory.display(), made.options()
    )]
    OtherShape { directory: PathBuf, made: Shape },
    #[error("{} holds {found} nodes that dev has not marked as its own, and this asks for {asked}", directory.display())]
    OtherNumber {
        directory: PathBuf,
        found: u16,
        asked: u16,
    },
    #[error(
        "{} holds nodes that dev has not marked as its own, and does not move: take another directory",
        directory.display()
    )]
    NotOurs { directory: PathBuf },
    #[error("cannot move what is in {} aside: {source}", directory.display())]
    Aside {
        directory: PathBuf,
        source: io::Error,
    },
    #[error("a node in {} is in use: stop it first", directory.display())]
    InUse { directory: PathBuf },
    #[error("cannot start {id}: {source}")]
    Spawn { id: String, source: io::Error },
    #[error("{id} ended ({status}) before the cluster was ready; its log, {}, ends with:\n{tail}", log.display())]
    NodeEnded {
        id: String,
        status: String,
        log: PathBuf,
        tail: String,
    },
    #[error("the cluster was not ready within {READY_TIMEOUT:?}: {reason}; the logs are in {}", directory.display())]
    NotReady { reason: String, directory: PathBuf },
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

impl DevError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::PortsTooHigh { .. }
            | Self::PortsOverlap { .. }
            | Self::OtherShape { .. }
            | Self::OtherNumber { .. }
            | Self::NotOurs { .. } => Exit::Usage,
            Self::PortBusy { .. }
            | Self::Aside { .. }
            | Self::InUse { .. }
            | Self::Directory { .. }
            | Self::Spawn { .. }
            | Self::NodeEnded { .. }
            | Self::NotReady { .. }
            | Self::Signals(_) => Exit::Error,
        }
    }

    pub(super) fn next(&self, args: &DevArgs) -> String {
        match self {
            Self::PortsTooHigh { .. } => "dynakv dev --base-port 8080".to_owned(),
            Self::PortsOverlap { .. } => "dynakv dev --nodes 3".to_owned(),
            Self::PortBusy { .. } => {
                let other = if args.base_port == 18080 {
                    28080
                } else {
                    18080
                };
                // What is in the directory has its ports already.
                let directory = match shape::look(&args.data_dir) {
                    Ok(Found::Nothing) => args.data_dir_option(),
                    Ok(Found::Cluster(_) | Found::Unmarked(_)) | Err(_) => {
                        let directory = format!("{}-{other}", args.data_dir.display());
                        format!(" --data-dir {}", quoted(&directory))
                    }
                };
                format!("dynakv dev --base-port {other}{directory}")
            }
            Self::Directory { .. } => "dynakv dev --data-dir DIR".to_owned(),
            Self::OtherShape { made, .. } => {
                format!("dynakv dev {}{}", made.options(), args.data_dir_option())
            }
            Self::OtherNumber { found, .. } => {
                format!("dynakv dev --nodes {found}{}", args.data_dir_option())
            }
            Self::NotOurs { .. } | Self::Aside { .. } => "dynakv dev --data-dir DIR".to_owned(),
            Self::InUse { directory } => {
                format!("tail {}/*.log", quoted(&directory.display().to_string()))
            }
            Self::NodeEnded { log, .. } => format!("cat {}", quoted(&log.display().to_string())),
            Self::NotReady { directory, .. } => {
                format!("tail {}/*.log", quoted(&directory.display().to_string()))
            }
            Self::Spawn { .. } | Self::Signals(_) => "dynakv serve --help".to_owned(),
        }
    }
}
