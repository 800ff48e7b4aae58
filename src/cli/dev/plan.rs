//! What a cluster of `dev` is to be.

use std::path::PathBuf;

/// A node of the cluster, as planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) id: String,
    pub(super) port: u16,
    pub(super) http_port: u16,
    pub(super) seeds: Vec<String>,
    pub(super) data_dir: PathBuf,
    pub(super) log: PathBuf,
}

impl Plan {
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
