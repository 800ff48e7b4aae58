//! What `status` says of nodes of other clusters that this one is taken together with by mistake.

use dynakv_client::StatusReply;
use serde::Serialize;

/// One of them, in JSON.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    is_seed: bool,
    address: &'a str,
    reason: &'a str,
}

/// All of them, in JSON.
pub(super) fn documents(status: &StatusReply) -> Vec<Document<'_>> {
    let others = status.other_clusters.iter();
    let document = others.map(|other| Document {
        is_seed: other.is_seed,
        address: &other.address,
        reason: &other.reason,
    });
    document.collect()
}

/// Whether the node was told to be in another cluster. Who calls it from one changes nothing: anybody can.
pub(super) fn is_astray(status: &StatusReply) -> bool {
    status.other_clusters.iter().any(|other| other.is_seed)
}

/// The same for people, with the command that shows the other side.
pub(super) fn text(status: &StatusReply) -> String {
    let mut text = String::new();
    for other in &status.other_clusters {
        let (node, address) = (&status.node_id, &other.address);
        let what = match other.is_seed {
            true => format!("the seed {address} of {node} is in another cluster"),
            false => format!("a node of another cluster, at {address}, calls {node}"),
        };
        // Of a name with several addresses the one that answered stands in brackets.
        let server = address
            .rsplit_once(" (")
            .map_or(&**address, |(_, at)| at.trim_end_matches(')'));
        text.push_str(&format!(
            "dynakv: {what}: {}\n  next: dynakv --server {server} status\n",
            other.reason
        ));
    }
    text
}
