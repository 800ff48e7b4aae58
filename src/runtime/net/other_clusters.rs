//! Nodes of other clusters that have taken this one for one of theirs: said once in the log, and told by `status` for
//! as long as they go on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynakv_protocol::client::{OTHER_CLUSTERS_MAX, OtherCluster};
use dynakv_protocol::handshake::PeerIdentity;
use dynakv_protocol::{ClusterId, NodeId};
use tokio::time::Instant;

/// For how long one is told of that has not called again. A node asks a seed of another cluster more often.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// How many are told of; others are refused all the same. So many lines in [`KEPT_FOR`] anybody can cause, no more.
const CALLERS_MAX: usize = OTHER_CLUSTERS_MAX / 2;

/// Who has called, the newest last.
#[derive(Debug, Default)]
pub struct OtherClusters {
    callers: Mutex<Vec<Caller>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller {
    node_id: NodeId,
    address: String,
    cluster_name: String,
    cluster_id: ClusterId,
    called_at: Instant,
}

impl OtherClusters {
    /// A node has called as one of its cluster, and was refused.
    pub fn note(&self, peer: &PeerIdentity, cluster_name: &str, now: Instant) {
        let caller = Caller {
            node_id: peer.node_id.clone(),
            address: peer.address.clone(),
            cluster_name: cluster_name.to_owned(),
            cluster_id: peer.cluster_id,
            called_at: now,
        };
        let mut callers = self.lock();
        forget_old(&mut callers, now);
        let is_it = |it: &Caller| it.node_id == caller.node_id && it.address == caller.address;
        let known = callers.iter().position(is_it);
        if let Some(known) = known {
            callers.remove(known);
        } else if callers.len() >= CALLERS_MAX {
            return;
        }
        callers.push(caller.clone());
        drop(callers);
        if known.is_none() {
            tracing::error!(
                node = %caller.node_id,
                address = caller.address,
                "a node in another cluster has called this one: {}",
                caller.text()
            );
        }
    }

    /// Those that have called lately.
    pub fn callers(&self, now: Instant) -> Vec<OtherCluster> {
        let mut callers = self.lock();
        forget_old(&mut callers, now);
        let told = callers.iter().map(|caller| OtherCluster {
            is_seed: false,
            address: caller.address.clone(),
            reason: caller.text(),
        });
        told.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Caller>> {
        // The list is whole between any two operations.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    fn text(&self) -> String {
        let whose = match self.cluster_id.is_none() {
            true => format!("{} wants the cluster {:?}", self.node_id, self.cluster_name),
            false => format!(
                "{} is in the cluster {:?} with the id {}",
                self.node_id, self.cluster_name, self.cluster_id
            ),
        };
        format!(
            "{whose}, and has this node among its seeds or its members: check its --seed and --cluster"
        )
    }
}

fn forget_old(callers: &mut Vec<Caller>, now: Instant) {
    callers.retain(|caller| now.saturating_duration_since(caller.called_at) < KEPT_FOR);
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::handshake::Lane;
    use dynakv_protocol::{DirectoryId, Generation};

    use super::*;

    fn peer(name: &str) -> PeerIdentity {
        PeerIdentity {
            node_id: NodeId::new(name).unwrap(),
            directory_id: DirectoryId(1),
            cluster_id: ClusterId(9),
            generation: Generation(1),
            nonce: 1,
            address: format!("{name}:1"),
            lane: Lane::Control,
        }
    }

    fn addresses(others: &OtherClusters, now: Instant) -> Vec<String> {
        let told = others.callers(now).into_iter();
        told.map(|other| other.address).collect()
    }

    #[test]
    fn who_goes_on_calling_is_told_of_once_and_for_as_long() {
        let (others, start) = (OtherClusters::default(), Instant::now());
        others.note(&peer("a"), "blue", start);
        let half = start + KEPT_FOR / 2;
        others.note(&peer("b"), "blue", half);
        others.note(&peer("a"), "blue", half);
        assert_eq!(addresses(&others, half), ["b:1", "a:1"]);
        let text = &others.callers(half)[0].reason;
        for part in ["b is in", "\"blue\"", "--seed"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(addresses(&others, start + KEPT_FOR), ["b:1", "a:1"]);
        assert!(addresses(&others, half + KEPT_FOR).is_empty());
    }

    #[test]
    fn strangers_take_no_more_than_their_share() {
        let (others, now) = (OtherClusters::default(), Instant::now());
        for number in 0..100 {
            others.note(&peer(&format!("n{number}")), "blue", now);
        }
        assert_eq!(others.callers(now).len(), CALLERS_MAX);
        let later = now + KEPT_FOR;
        others.note(&peer("z"), "blue", later);
        assert_eq!(addresses(&others, later), ["z:1"]);
    }
}
