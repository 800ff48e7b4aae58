//! Finding nodes that wait to be let in: each has asked one member, or some.

use dynakv_client::{Client, MemberState, StatusReply};
use dynakv_protocol::NodeId;
use dynakv_protocol::ring_document::Member;
use tokio::task::JoinSet;

/// Who waits, as the node knows that has answered with this status and, unless it knows all of these, every other
/// member that can be reached.
pub(super) async fn waiting(
    client: &Client,
    status: &StatusReply,
    wanted: &[NodeId],
) -> Vec<Member> {
    let mut found = status.waiting.clone();
    let is_found = |id: &NodeId| found.iter().any(|member| member.id == *id);
    if !wanted.is_empty() && wanted.iter().all(is_found) {
        return found;
    }
    for member in asked_of_others(client, status).await {
        if !found.iter().any(|it| it.id == member.id) {
            found.push(member);
        }
    }
    found
}

/// What the others say, all of them at once.
async fn asked_of_others(client: &Client, status: &StatusReply) -> Vec<Member> {
    let mut answers = JoinSet::new();
    for member in &status.members {
        let is_there = member.state == MemberState::Alive && !member.unreachable;
        if member.id == status.node_id || !is_there {
            continue;
        }
        if let Ok(node) = client.node(&member.address) {
            answers.spawn(async move { node.status().await });
        }
    }
    let mut found = Vec::new();
    while let Some(answer) = answers.join_next().await {
        // Who does not answer may know of some, and is no reason to stop.
        if let Ok(Ok(status)) = answer {
            found.extend(status.waiting);
        }
    }
    found
}
