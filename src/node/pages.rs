//! What the HTTP port shows.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::runtime::observe::http::Pages;
use crate::runtime::observe::metrics::Metrics;
use crate::runtime::shared::disk_progress::{DiskProgress, HANGING};
use crate::runtime::shared::view::View;

/// What the HTTP port shows of a node.
pub(super) struct NodePages {
    pub(super) metrics: Arc<Metrics>,
    pub(super) disk: Arc<DiskProgress>,
    pub(super) data_dir: PathBuf,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) clients: CancellationToken,
    pub(super) data_port: u16,
}

impl Pages for NodePages {
    fn metrics(&self) -> String {
        self.metrics.render(&self.data_dir)
    }

    fn data_port(&self) -> u16 {
        self.data_port
    }

    fn not_ready(&self) -> Option<String> {
        if self.clients.is_cancelled() {
            return Some("shutting down, or leaving the cluster".to_owned());
        }
        match self.view.borrow().ring {
            Some(_) if self.disk.hangs() => Some(HANGING.to_owned()),
            Some(_) => None,
            None => Some("not in a cluster yet; see the log".to_owned()),
        }
    }
}
