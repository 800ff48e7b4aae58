//! What stands in a data directory, by its names.

use std::path::Path;

/// The document that holds the ring.
pub(crate) const RING: &str = "ring";

/// The document that holds what this node has promised and accepted.
pub(crate) const ACCEPTOR: &str = "acceptor";

/// The document that says by which ring the node of this directory was taken out of its cluster.
pub(crate) const REMOVED: &str = "removed";

/// Where the store lives in the data directory.
pub const STORE_DIRECTORY: &str = "store";

/// Where snapshots lie in the data directory.
pub(crate) const SNAPSHOTS_DIRECTORY: &str = "snapshots";

/// The document that says that a directory is a snapshot, of which node, and that no node has started in it.
pub(crate) const SNAPSHOT: &str = "snapshot";

/// What the name of a store that was set aside begins with; a time follows.
pub(crate) const SET_ASIDE: &str = "store.damaged-";

/// The names of the stores that were set aside in this data directory.
pub fn list_set_aside(data_dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(data_dir) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(SET_ASIDE)).collect();
    names.sort();
    names
}
