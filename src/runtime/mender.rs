//! Anti-entropy and rebuilding: the task that compares this node's copies with those of the others, mends
//! what differs on both sides, and brings back what this node has lost.
//!
//! It asks this node in the same words as the others, over a connection of its own, so that all it does is
//! merging versions, durably, with the checks and in the order of any other write. What it decides stands
//! in [`engine::mending`](crate::engine::mending).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::mend::ListedKey;
use dynakv_protocol::{NodeId, RingVersion};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::calls::Calls;
use super::local::Local;
use super::metrics::Metrics;
use super::rebuilding::Rebuilding;
use super::view::{MemberView, View};
use crate::engine::mending::{Difference, difference, differing, segments_of_page, sources_needed};
use crate::engine::ring::Ring;

mod questions;

/// How often it looks whether there is something to do.
const TICK: Duration = Duration::from_secs(1);

/// How soon after a node came (back) it is compared with: what was on its way to it arrives first.
const SETTLING: Duration = Duration::from_secs(2);

/// How long after a pass that failed the next one begins.
const RETRY: Duration = Duration::from_secs(5);

/// How long a node may take to answer one question.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many bytes of a segment are asked for at a time.
const LIST_BYTES: u32 = 1024 * 1024;

/// How many keys are mended at a time: what bounds memory, and lets them share a sync.
const KEYS_AT_ONCE: usize = 16;

/// A pause after each segment that differs, so that mending never crowds out requests.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a pass ended early. The next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// A node could not be asked.
    #[error("asking {node}: {reason}")]
    Unreachable {
        /// Which.
        node: NodeId,
        /// Why not.
        reason: String,
    },
    /// A node refused, or answered something else.
    #[error("{node} refused: {reason}")]
    Refused {
        /// Which.
        node: NodeId,
        /// Its words.
        reason: String,
    },
    /// It has lost versions there itself.
    #[error("{0} is rebuilding there itself")]
    NoSource(NodeId),
    /// The note of what is rebuilt could not be saved.
    #[error(transparent)]
    Store(#[from] dynakv_storage::StoreError),
}

/// What the mender is given.
pub struct Parts {
    /// This node's name.
    pub me: NodeId,
    /// How it asks this node.
    pub local: Arc<Local>,
    /// How it asks the others.
    pub calls: Calls,
    /// Who is there, and who owns what.
    pub view: watch::Receiver<Arc<View>>,
    /// What this node has lost.
    pub rebuilding: Arc<Rebuilding>,
    /// How often each other node is compared with.
    pub interval: Duration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

struct Mender(Parts);

/// What is known of the comparisons with one node.
#[derive(Debug, Clone, Copy)]
struct Peer {
    is_alive: bool,
    due: Instant,
}

/// What is to be done when.
#[derive(Debug, Default)]
struct State {
    peers: BTreeMap<NodeId, Peer>,
    /// When rebuilding goes on, after an attempt that did not end it.
    rebuild_due: Option<Instant>,
    /// Why it did not, as it was last told.
    told: String,
}

/// Mends until it is told to stop.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let mender = Arc::new(Mender(parts));
    let mut state = State::default();
    let work = async {
        loop {
            mender.turn(&mut state).await;
            sleep(TICK).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Who has waited longest of those that are due. Taking the first one would leave out the last ones for ever
/// where a round takes longer than the interval.
fn longest_due<'a, T>(peers: impl Iterator<Item = (T, &'a Peer)>, now: Instant) -> Option<T> {
    let due = peers.filter(|(_, peer)| peer.is_alive && peer.due <= now);
    due.min_by_key(|(_, peer)| peer.due).map(|(who, _)| who)
}

impl Mender {
    /// Does what is due: rebuilds first, then compares with one node.
    async fn turn(self: &Arc<Self>, state: &mut State) {
        let view = self.0.view.borrow().clone();
        let Some(ring) = view.ring.clone() else {
            return;
        };
        let now = Instant::now();
        for member in view.members.iter().filter(|it| it.id != self.0.me) {
            let is_alive = member.state == MemberState::Alive;
            let due = now + SETTLING;
            let peer = state.peers.entry(member.id.clone());
            let peer = peer.or_insert(Peer { is_alive, due });
            if is_alive && !peer.is_alive {
                peer.due = peer.due.min(due);
            }
            peer.is_alive = is_alive;
        }
        if self.0.rebuilding.left() > 0 && state.rebuild_due.is_none_or(|due| due <= now) {
            self.go_on_rebuilding(&view, &ring, state).await;
        }
        let members = view.members.iter();
        let known = members.filter_map(|member| Some((member, state.peers.get(&member.id)?)));
        let Some(member) = longest_due(known, Instant::now()) else {
            return;
        };
        let result = self.compare(member, &ring).await;
        let pause = match &result {
            Ok(keys) => {
                self.0.metrics.mending_passes.increment(1);
                if *keys > 0 {
                    tracing::info!(node = %member.id, keys, "copies that differed are mended");
                }
                self.0.interval
            }
            Err(error) => {
                tracing::debug!(node = %member.id, %error, "a comparison ended early");
                RETRY
            }
        };
        if let Some(peer) = state.peers.get_mut(&member.id) {
            peer.due = Instant::now() + pause;
        }
    }

    async fn go_on_rebuilding(self: &Arc<Self>, view: &View, ring: &Ring, state: &mut State) {
        let result = self.rebuild(view, ring).await;
        let segments_left = self.0.rebuilding.left();
        if segments_left == 0 {
            state.rebuild_due = None;
            tracing::info!("everything is rebuilt: reads of this node count again");
            if ring.document().w == 1 {
                tracing::warn!(
                    "writes were promised to be acknowledged by one node (w = 1): some that only this node \
                     had acknowledged may be lost"
                );
            }
            return;
        }
        state.rebuild_due = Some(Instant::now() + RETRY);
        let reason = match result {
            Ok(()) => "too few other owners are there that have everything".to_owned(),
            Err(error) => error.to_string(),
        };
        if reason != state.told {
            tracing::warn!(
                segments_left,
                reason,
                "rebuilding is not done, and is tried again and again; see `dynakv status`"
            );
            state.told = reason;
        }
    }

    /// Compares all that both own, and mends it on both sides. How many keys differed.
    async fn compare(self: &Arc<Self>, member: &MemberView, ring: &Ring) -> Result<u64, MendError> {
        let mut keys = 0;
        let pages = self.differing(member, ring, None).await?;
        for page in pages {
            for place in self.differing(member, ring, Some(page)).await? {
                let segment = Segment(u16::from_be_bytes([page, place]));
                keys += self.mend_segment(member, ring, segment).await?;
                sleep(PAUSE).await;
            }
        }
        Ok(keys)
    }

    async fn differing(
        &self,
        member: &MemberView,
        ring: &Ring,
        page: Option<u8>,
    ) -> Result<Vec<u8>, MendError> {
        let theirs = self.compared(Some(member), member, ring, page).await?;
        let ours = self.compared(None, member, ring, page).await?;
        Ok(differing(&ours, &theirs))
    }

    /// Makes the two copies of a segment the same. How many keys differed.
    async fn mend_segment(
        self: &Arc<Self>,
        member: &MemberView,
        ring: &Ring,
        segment: Segment,
    ) -> Result<u64, MendError> {
        let ours = self.list_all(None, ring, segment, false).await?;
        let theirs = self.list_all(Some(member), ring, segment, false).await?;
        let Difference { to_fetch, to_send } = difference((&ours.keys, true), (&theirs.keys, true));
        let count = to_fetch.len() + to_send.len();
        let keys = to_fetch.into_iter().chain(to_send);
        self.for_each_key(keys, member, ring, |mender, member, key, ring| async move {
            mender.mend_key(&member, ring, key).await
        })
        .await?;
        Ok(count as u64)
    }

    /// Makes the two copies of a key the same.
    async fn mend_key(
        &self,
        member: &MemberView,
        ring_version: RingVersion,
        key: Bytes,
    ) -> Result<(), MendError> {
        let theirs = self.read(Some(member), ring_version, &key).await?;
        if !theirs.is_empty() {
            self.merge(None, ring_version, &key, theirs.clone()).await?;
        }
        let ours = self.read(None, ring_version, &key).await?;
        if ours != theirs && !ours.is_empty() {
            self.merge(Some(member), ring_version, &key, ours).await?;
            self.0.metrics.mended_there.increment(1);
        } else {
            self.0.metrics.mended_here.increment(1);
        }
        Ok(())
    }

    /// Brings back what this node has lost, as far as there are nodes to bring it from.
    async fn rebuild(self: &Arc<Self>, view: &View, ring: &Ring) -> Result<(), MendError> {
        let lost = self.0.rebuilding.segments();
        let Some(own) = ring.index_of(&self.0.me) else {
            return Ok(());
        };
        let mut result = Ok(());
        for page in 0..=u8::MAX {
            let mut left = Vec::new();
            let mut finished = Vec::new();
            for segment in segments_of_page(page).filter(|&it| lost.contains(it)) {
                match ring.owns(own, segment) {
                    true => left.push(segment),
                    // Nobody asks for it here.
                    false => finished.push(segment),
                }
            }
            if !left.is_empty() {
                let rebuilt = self.rebuild_page(view, ring, page, &left).await;
                match rebuilt {
                    Ok(rebuilt) => finished.extend(rebuilt),
                    Err(error) => result = Err(error),
                }
            }
            if !finished.is_empty() {
                self.0.rebuilding.finish(&finished)?;
            }
        }
        result
    }

    /// Rebuilds segments of one page. Which are whole again.
    async fn rebuild_page(
        self: &Arc<Self>,
        view: &View,
        ring: &Ring,
        page: u8,
        segments: &[Segment],
    ) -> Result<Vec<Segment>, MendError> {
        let mut sources = vec![0; segments.len()];
        let mut failed = None;
        for member in view.members.iter().filter(|it| it.id != self.0.me) {
            let Some(other) = ring.index_of(&member.id) else {
                continue;
            };
            if member.state == MemberState::Dead || !segments.iter().any(|&it| ring.owns(other, it))
            {
                continue;
            }
            let compared = self.compared(Some(member), member, ring, Some(page));
            let theirs = match compared.await {
                Ok(theirs) => theirs,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            for (&segment, sources) in segments.iter().zip(&mut sources) {
                let place = usize::from(segment.0.to_be_bytes()[1]);
                if !ring.owns(other, segment) || theirs.is_rebuilding(place) {
                    continue;
                }
                // Nothing is nothing. Beyond that the own hash is no help: it still counts what is
                // damaged.
                let fetched = match theirs.hashes[place] {
                    0 => Ok(()),
                    _ => self.fetch(member, ring, segment).await,
                };
                match fetched {
                    Ok(()) => *sources += 1,
                    Err(error) => failed = Some(error),
                }
            }
        }
        let w = usize::from(ring.document().w);
        let is_whole = |segment: Segment, sources: usize| {
            let owners = ring.owners(segment).len();
            let needed = sources_needed(owners, w);
            // Alone, there is nobody to bring it back: that takes an operator's word.
            owners > 1 && sources >= needed
        };
        let whole = segments.iter().zip(sources);
        let whole = whole.filter(|&(&segment, sources)| is_whole(segment, sources));
        let whole: Vec<_> = whole.map(|(&segment, _)| segment).collect();
        if !whole.is_empty() {
            self.wait_until_durable(ring, &whole).await?;
        }
        match failed {
            Some(error) if whole.is_empty() => Err(error),
            _ => Ok(whole),
        }
    }

    /// What is equal here may have come by another way a moment ago, and wait for its sync still. A
    /// merge that changes nothing waits for all before it.
    async fn wait_until_durable(&self, ring: &Ring, segments: &[Segment]) -> Result<(), MendError> {
        for &segment in segments {
            let listed = self.list(None, ring, segment, None, false).await?;
            if let Some(ListedKey { key, .. }) = listed.keys.into_iter().next() {
                let version = ring.version();
                let versions = self.read(None, version, &key).await?;
                if !versions.is_empty() {
                    return self.merge(None, version, &key, versions).await;
                }
            }
        }
        Ok(())
    }

    /// Merges another owner's copy of a segment into this node's, of which all that can be read is
    /// compared with it, key by key.
    async fn fetch(
        self: &Arc<Self>,
        member: &MemberView,
        ring: &Ring,
        segment: Segment,
    ) -> Result<(), MendError> {
        let ours = self.list_all(None, ring, segment, false).await?.keys;
        let ours: BTreeMap<_, _> = ours.into_iter().map(|it| (it.key, it.hash)).collect();
        let mut after = None;
        loop {
            let with_versions = ours.is_empty();
            let listed = self
                .list(Some(member), ring, segment, after, with_versions)
                .await?;
            if listed.rebuilding {
                return Err(MendError::NoSource(member.id.clone()));
            }
            let missing = listed.keys.into_iter();
            let missing: Vec<_> = missing
                .filter(|it| ours.get(&it.key) != Some(&it.hash))
                .collect();
            self.0.metrics.mended_here.increment(missing.len() as u64);
            self.for_each_key(
                missing,
                member,
                ring,
                |mender, member, listed, ring| async move {
                    let versions = match listed.versions.is_empty() {
                        true => mender.read(Some(&member), ring, &listed.key).await?,
                        false => listed.versions,
                    };
                    match versions.is_empty() {
                        true => Ok(()),
                        false => mender.merge(None, ring, &listed.key, versions).await,
                    }
                },
            )
            .await?;
            after = listed.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Does something for each key, some at a time, and stops at the first failure.
    async fn for_each_key<K, F>(
        self: &Arc<Self>,
        keys: impl IntoIterator<Item = K>,
        member: &MemberView,
        ring: &Ring,
        each: impl Fn(Arc<Self>, MemberView, K, RingVersion) -> F,
    ) -> Result<(), MendError>
    where
        F: Future<Output = Result<(), MendError>> + Send + 'static,
    {
        let mut under_way = JoinSet::new();
        for key in keys {
            if under_way.len() >= KEYS_AT_ONCE {
                joined(&mut under_way).await?;
            }
            under_way.spawn(each(self.clone(), member.clone(), key, ring.version()));
        }
        while !under_way.is_empty() {
            joined(&mut under_way).await?;
        }
        Ok(())
    }
}

/// Waits for one of them. One that panicked takes this task with it, as if it had run here.
async fn joined(under_way: &mut JoinSet<Result<(), MendError>>) -> Result<(), MendError> {
    match under_way.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Some(Err(_)) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_although_a_round_takes_longer_than_the_interval() {
        let mut now = Instant::now();
        let mut peers = [Peer {
            is_alive: true,
            due: now,
        }; 5];
        peers[4].is_alive = false;
        let mut turns = [0; 5];
        for _ in 0..20 {
            let known = peers.iter().enumerate();
            if let Some(who) = longest_due(known, now) {
                turns[who] += 1;
                peers[who].due = now + Duration::from_secs(2);
            }
            now += Duration::from_secs(1);
        }
        assert_eq!(turns, [5, 5, 5, 5, 0]);
    }
}
