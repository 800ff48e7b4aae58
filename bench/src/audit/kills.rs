//! Kills the nodes of a cluster, one at a time.

use std::sync::Arc;
use std::time::Duration;

use super::hints;
use super::shared::Shared;
use crate::cluster::{Cluster, ClusterError};

/// Every so often kills a node with kill -9 and starts it again, until it is time to end. The next one
/// comes only when all nodes are ready and see each other. Gives the whole cluster back.
///
/// # Errors
/// [`ClusterError`] when a node does not come back.
pub(super) async fn kill_one_after_the_other(
    mut cluster: Cluster,
    every: Duration,
    shared: Arc<Shared>,
    mut random: fastrand::Rng,
) -> Result<Cluster, ClusterError> {
    let mut last = None;
    loop {
        shared.sleep(every).await;
        if shared.is_stopped() {
            return Ok(cluster);
        }
        let others = (0..cluster.size()).filter(|node| Some(*node) != last || cluster.size() == 1);
        let others: Vec<usize> = others.collect();
        let victim = others[random.usize(..others.len())];
        last = Some(victim);
        // Only for the report, so a node that does not answer is killed all the same.
        let address = &cluster.http_addresses()[victim];
        if let Ok(hints) = hints::ask(std::slice::from_ref(address)).await {
            shared.handed_over(hints.handed_over);
        }
        shared.killed(cluster.id(victim));
        cluster.kill(victim).await?;
        // Long enough for requests to meet it dead, from not at all to half of the time.
        shared.sleep(every.mul_f64(random.f64() / 2.0)).await;
        cluster.restart(victim).await?;
        shared.is_back();
    }
}
