//! Members and joins that tests of this room make up.

use dynakv_protocol::gossip::Join;
use dynakv_protocol::ids::{DirectoryId, NodeId};
use dynakv_protocol::ring_document::Member;

pub(super) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(super) fn member(name: &str) -> Member {
    Member {
        id: id(name),
        directory_id: DirectoryId(1),
        address: format!("{name}:8080"),
        weight: 1,
        zone: String::new(),
    }
}

/// One for each letter.
pub(super) fn members(names: &str) -> Vec<Member> {
    let names = names.chars();
    names.map(|name| member(&name.to_string())).collect()
}

pub(super) fn join(name: &str) -> Join {
    Join {
        member: member(name),
        n: None,
        w: None,
        r: None,
        is_rebuilding: false,
        knows_changes: true,
        waits: false,
    }
}
