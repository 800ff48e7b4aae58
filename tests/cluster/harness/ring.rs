//! Changes of the ring: what is asked for, who becomes a member, and what must be there before and afterwards.

use dynakv_client::{ChangeRing, Error, MemberWish, RingReply, RingWish};
use dynakv_protocol::ring_document::RingDocument;

use super::cluster::{Cluster, QUICK};
use super::data::{block_on, client, client_of_one, read_all, write_all};
use super::load::Load;
use super::node::Node;
use super::replicas::all_is_well;
use super::wait::eventually;

/// So many keys lie in the cluster before its ring changes.
pub(crate) const KEYS: usize = 2_000;

/// Their names.
pub(crate) fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|number| format!("before-{number}"))
}

/// Writes them.
pub(crate) fn write_before(cluster: &Cluster) {
    block_on(async {
        let client = client(&cluster.addresses()).await;
        let failed = write_all(&client, keys().map(|key| (key, "before".to_owned()))).await;
        assert!(failed.is_empty(), "{failed:?}");
    });
}

/// Every key of before is read from each node, with two owners asked, or one where there is no other.
#[track_caller]
pub(crate) fn is_all_of_before_there(cluster: &Cluster) {
    let r = cluster.nodes().len().min(2) as u8;
    for node in cluster.nodes() {
        let found = block_on(async {
            let client = client_of_one(node).await;
            read_all(&client, keys(), r).await
        });
        let lost = keys().filter(|key| found[key] != ["before"]);
        assert_eq!(
            lost.collect::<Vec<_>>(),
            Vec::<String>::new(),
            "at {}",
            node.id
        );
    }
}

/// The ring that a node follows.
pub(crate) fn ring_of(node: &Node) -> RingReply {
    block_on(async { client_of_one(node).await.ring().await.unwrap() })
}

/// Waits until these nodes follow a final ring of so many members.
#[track_caller]
pub(crate) fn become_members(nodes: &[&Node], count: usize) {
    eventually(&format!("a final ring of {count}"), || {
        for node in nodes {
            let document = ring_of(node).document;
            let (step, members) = (document.step.name(), document.members.len());
            if (step, members) != ("final", count) {
                return Err(format!("{}: {step}, {members} members", node.id));
            }
        }
        Ok(())
    });
}

/// The same of all nodes.
#[track_caller]
pub(crate) fn all_become_members(cluster: &Cluster, count: usize) {
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    become_members(&nodes, count);
}

/// A node that is to come to a cluster.
pub(crate) fn newcomer(cluster: &Cluster, number: usize) -> Node {
    newcomer_with(cluster, number, ["2", "2"])
}

/// The same, with this W and R.
pub(crate) fn newcomer_with(cluster: &Cluster, number: usize, [w, r]: [&str; 2]) -> Node {
    let seed = cluster[0].address();
    let quorums = ["-n", "3", "-w", w, "-r", r];
    Node::new(cluster.root(), &format!("node-{number}"))
        .with(&[&quorums[..], &["--seed", &seed]].concat())
        .with_settings(QUICK)
}

/// Asks a node for another ring, planned on the one that it follows.
pub(crate) fn ask(node: &Node, wish: RingWish) -> Result<RingDocument, Error> {
    ask_as(node, wish, Consent::default())
}

/// What an operator accepts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Consent {
    /// Acknowledged writes may be lost.
    pub(crate) to_loss: bool,
    /// One node decides.
    pub(crate) to_force: bool,
}

/// The same with more consent.
pub(crate) fn ask_as(node: &Node, wish: RingWish, consent: Consent) -> Result<RingDocument, Error> {
    block_on(async {
        let client = client_of_one(node).await;
        let change = ChangeRing {
            planned_on: client.ring().await?.document.version,
            is_plan: false,
            accept_loss: consent.to_loss,
            is_forced: consent.to_force,
            wish,
        };
        client.change_ring(change).await
    })
}

/// Asks for that until it is granted: a member may have to count as dead first, or another change to end.
#[track_caller]
pub(crate) fn ask_until_granted(node: &Node, wishes: &[MemberWish]) -> RingDocument {
    eventually(&format!("{wishes:?} is granted"), || {
        ask(node, RingWish::Members(wishes.to_vec())).map_err(|error| error.to_string())
    })
}

/// This node hands on what it has, and goes.
pub(crate) fn leaves(node: &Node) -> MemberWish {
    MemberWish::Leaves(node.id.parse().unwrap())
}

/// This node is gone.
pub(crate) fn is_gone(node: &Node) -> MemberWish {
    MemberWish::IsGone(node.id.parse().unwrap())
}

/// Waits until a node has ended because it was taken out of the ring, and holds that its directory is not used again.
#[track_caller]
pub(crate) fn ends_as_removed(node: &mut Node) {
    for _ in 0..2 {
        let (code, said) = node.ends_by_itself();
        assert_eq!(code, Some(8), "{said}");
        let advice = format!("mv dynakv-data/{0} dynakv-data/{0}.removed", node.id);
        assert!(said.contains("was taken out of the cluster"), "{said}");
        assert!(said.contains(&advice), "{said}");
        node.start();
    }
    assert_eq!(node.ends_by_itself().0, Some(8));
}

/// Waits until nobody holds anything that it does not own.
#[track_caller]
pub(crate) fn hold_what_they_own(cluster: &Cluster) {
    for node in cluster.nodes() {
        let what = format!("{} holds nothing that it does not own", node.id);
        eventually(&what, || {
            match node.metric("dynakv_leftover_segments", "")? {
                0 => Ok(()),
                left => Err(format!("{left} segments")),
            }
        });
    }
}

/// All that was acknowledged is there, before the ring changed and under the load meanwhile. Nobody holds anything else
/// than its own, and all are well.
#[track_caller]
pub(crate) fn nothing_is_lost(load: &Load, cluster: &mut Cluster) {
    load.is_all_there(cluster, 2);
    is_all_of_before_there(cluster);
    hold_what_they_own(cluster);
    all_is_well(cluster);
}
