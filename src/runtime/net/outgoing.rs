//! What every call to another node needs.

use std::sync::Arc;

use tokio::sync::watch;

use super::frame_reader::Intake;
use crate::runtime::shared::environment::Network;
use crate::runtime::shared::known_processes::KnownProcesses;
use crate::runtime::shared::view::View;

/// How this node calls others. Cheap to clone.
#[derive(Clone)]
pub struct Outgoing {
    /// Over which network.
    pub network: Arc<dyn Network>,
    /// Which cluster it is in, and where members are.
    pub view: watch::Receiver<Arc<View>>,
    /// What was seen of members: who is older than that gets no call.
    pub seen: Arc<KnownProcesses>,
    /// In which books what comes back is entered.
    pub intake: Intake,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").finish_non_exhaustive()
    }
}
