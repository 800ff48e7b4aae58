//! Waiting until a node can serve.

use std::time::Duration;

use dynakv_protocol::gossip::MemberState;
use tokio::time::timeout_at;

use super::Node;
use crate::runtime::shared::view::View;

/// Why a node is not, or not yet, what was waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The time is up; the node goes on trying.
    #[error("not ready within {waited:?}: {reason}")]
    TimedOut {
        /// How long.
        waited: Duration,
        /// What is lacking, and what to do.
        reason: String,
    },
    /// The node has ended, so waiting is of no use.
    #[error("the node has ended: {reason}")]
    Ended {
        /// Why the node ended.
        reason: String,
    },
}

impl Node {
    /// Waits until the node has found or founded its cluster, so that it takes requests.
    ///
    /// A node that founds a cluster is ready at once, and its first write **seals the ring**: nodes that
    /// join after it have their part to fetch first. A program that starts several nodes waits with
    /// [`wait_for_members`](Self::wait_for_members) before it writes.
    ///
    /// # Errors
    /// [`NotReady`] says what is lacking. The node goes on trying unless it has ended.
    pub async fn ready(&self, timeout: Duration) -> Result<(), NotReady> {
        self.wait_until(timeout, |view| view.ring.is_some(), |_| None)
            .await
    }

    /// Waits until the node's ring has at least `count` members and so many are alive, this node
    /// counted. Members that are down show only once the failure detector has noticed.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    pub async fn wait_for_members(&self, count: usize, timeout: Duration) -> Result<(), NotReady> {
        let alive = |view: &View| {
            let is_alive = |state| state == MemberState::Alive;
            let members = view.members.iter();
            members.filter(|member| is_alive(member.state)).count()
        };
        let lacking = move |view: &View| {
            let ring = view.ring.as_ref()?;
            Some(format!(
                "the ring has {} members and {} are alive, of {count} that were waited for; start the \
                 others with this node's address as a seed, before the first write",
                ring.len(),
                alive(view)
            ))
        };
        self.wait_until(timeout, move |view| alive(view) >= count, lacking)
            .await
    }

    async fn wait_until(
        &self,
        timeout: Duration,
        is_met: impl Fn(&View) -> bool,
        lacking: impl Fn(&View) -> Option<String>,
    ) -> Result<(), NotReady> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut view = self.view.clone();
        let ended = || NotReady::Ended {
            reason: self
                .end
                .get()
                .unwrap_or("see `failed` for the reason")
                .to_owned(),
        };
        if self.end.get().is_some() {
            return Err(ended());
        }
        // The guard is let go before anything else waits.
        match timeout_at(deadline, view.wait_for(|view| is_met(view))).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_sender_gone)) => return Err(ended()),
            Err(_elapsed) => {}
        }
        let lacks = lacking(&view.borrow());
        let reason = match lacks {
            Some(reason) => reason,
            None => self.trouble().await,
        };
        let waited = timeout;
        Err(NotReady::TimedOut { waited, reason })
    }

    /// What keeps the node from being ready, in its own words.
    async fn trouble(&self) -> String {
        match self.client.health().await {
            Ok(health) => health.reason,
            Err(error) => error.to_string(),
        }
    }
}
