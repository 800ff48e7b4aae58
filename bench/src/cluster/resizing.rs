//! A cluster that gets more nodes, or fewer, while it serves.

use dynakv_client::{ChangeRing, MemberWish, RingWish};
use dynakv_protocol::ring_document::RingDocument;
use tokio::time::{Instant, sleep, timeout};

use super::{Cluster, ClusterError, POLL_INTERVAL, STOP_TIMEOUT};

impl Cluster {
    /// Starts so many nodes more; they come in by themselves. Does not wait until they are in.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn start_more(&mut self, more: usize) -> Result<(), ClusterError> {
        let founder = self.nodes[0].address();
        let first = self.nodes.len();
        for number in first + 1..=first + more {
            self.add(number, Some(founder.clone()))?;
        }
        for index in first..self.nodes.len() {
            self.until_listening(index).await?;
        }
        Ok(())
    }

    /// Has the last nodes leave, all but so many. Does not wait until they are gone.
    ///
    /// # Errors
    /// [`ClusterError::Change`] when that is refused for so long that it is not for the moment.
    pub async fn have_leave(&mut self, all_but: usize) -> Result<(), ClusterError> {
        let leaving = self.nodes.iter().skip(all_but);
        let wishes: Vec<MemberWish> = leaving
            .filter_map(|node| node.id.parse().ok())
            .map(MemberWish::Leaves)
            .collect();
        let until = Instant::now() + STOP_TIMEOUT;
        loop {
            let asked = self.ask_for(&wishes).await;
            match asked {
                Ok(()) => return Ok(()),
                Err(reason) if Instant::now() >= until => {
                    return Err(ClusterError::Change { reason });
                }
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    async fn ask_for(&self, wishes: &[MemberWish]) -> Result<(), String> {
        let client = self.nodes[0].client().await?;
        let planned_on = self.ring().await?.version;
        let change = ChangeRing {
            planned_on,
            is_plan: false,
            accept_loss: false,
            is_forced: false,
            wish: RingWish::Members(wishes.to_vec()),
        };
        let changed = client.change_ring(change).await;
        changed.map(drop).map_err(|error| error.to_string())
    }

    /// The ring that the first node follows.
    ///
    /// # Errors
    /// Why it does not say.
    pub async fn ring(&self) -> Result<RingDocument, String> {
        let ring = self.nodes[0].client().await?.ring().await;
        ring.map(|reply| reply.document)
            .map_err(|error| error.to_string())
    }

    /// Waits until all but the first so many nodes have ended, as those do that have left, and forgets them.
    ///
    /// # Errors
    /// [`ClusterError`] when one does not end.
    pub async fn forget_those_that_left(&mut self, all_but: usize) -> Result<(), ClusterError> {
        while self.nodes.len() > all_but {
            let last = self.nodes.len() - 1;
            let node = &mut self.nodes[last];
            if let Some(child) = &mut node.child
                && timeout(STOP_TIMEOUT, child.wait()).await.is_err()
            {
                let reason = "it has left the ring and does not end".to_owned();
                return Err(node.not_ready(reason));
            }
            self.nodes.truncate(last);
        }
        Ok(())
    }
}
