//! How a run of a directory begins.

use dynakv_protocol::ClusterId;
use dynakv_protocol::handshake::{Hello, Lane, PeerIdentity};
use dynakv_storage::{Identity, RunNote, Started};

use super::ServeError;
use crate::config::Config;
use crate::runtime::net::admission::Myself;
use crate::runtime::shared::environment::Disk;
use crate::runtime::store::hint_worker::KeptHints;

/// Begins a run of the directory. What outlives a run outside of the small files is told first.
pub(super) fn begin_run(
    disk: &Disk,
    hints: &mut KeptHints,
    config: &Config,
    random: impl FnMut() -> u64,
) -> Result<Started, ServeError> {
    let noted = RunNote::of_store(&*disk.store)?;
    let are_noted = Identity::runs_are_noted(&*disk.files)?;
    let id = config.id.clone();
    let started = Identity::start_noted(&*disk.files, id, noted.as_ref(), random, |run| {
        run.save_to(&*disk.store)?;
        hints.note(run, are_noted)
    })?;
    Identity::expect_notes(&*disk.files)?;
    Ok(started)
}

/// How this node greets others over a link of this kind.
pub(super) fn hello(me: &Myself, lane: Lane) -> Hello {
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
