//! Bringing back what this node has lost, page by page.

use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::hash::Segment;
use tokio::time::Instant;

use super::segments::Direction;
use super::{MendError, Mender, REST_PER_REBUILDING, RETRY, SEGMENTS_AT_ONCE, State};
use crate::engine::mending::{segments_of_page, sources_needed};
use crate::engine::ring::{MemberIndex, Ring};
use crate::runtime::view::{MemberView, View};

/// How a segment stands that is being rebuilt.
struct Lost {
    segment: Segment,
    /// How many other owners have given all they have.
    sources: usize,
    /// Whether one that is there did not.
    is_failed: bool,
}

/// What an attempt came to.
#[derive(Default)]
struct Attempt {
    /// How many segments count as rebuilt although too few owners gave what they have.
    accepted: u32,
    last_error: Option<MendError>,
}

impl Mender {
    pub(super) async fn go_on_rebuilding(&self, view: &View, ring: &Ring, state: &mut State) {
        let attempt = self.rebuild(view, ring, state.accept_loss).await;
        let segments_left = self.0.rebuilding.left();
        if attempt.accepted > 0 {
            let accepted = attempt.accepted;
            self.0.metrics.losses_accepted.increment(accepted.into());
            self.0
                .repairs
                .update(|progress| progress.accepted_segments += accepted);
            tracing::warn!(
                segments = accepted,
                "by an operator's word these segments count as rebuilt although too few owners had everything: \
                 acknowledged writes may be lost there"
            );
        }
        let reason = match attempt.last_error {
            None => "too few other owners are there that have everything".to_owned(),
            Some(error) => error.to_string(),
        };
        if segments_left == 0 {
            state.rebuild_due = None;
            state.told.clear();
            tracing::info!("everything is rebuilt: reads of this node count again");
            if ring.document().w == 1 {
                tracing::warn!(
                    "writes were promised to be acknowledged by one node (w = 1): some that only this node \
                     had acknowledged may be lost"
                );
            }
            return;
        }
        self.0
            .repairs
            .update(|progress| progress.last_error.clone_from(&reason));
        state.rebuild_due = Some(Instant::now() + RETRY);
        if reason != state.told {
            tracing::warn!(
                segments_left,
                reason,
                "rebuilding is not done, and is tried again and again; see `dynakv status`"
            );
            state.told = reason;
        }
    }

    /// Brings back what there are nodes to bring it from. With `accept_loss` what nobody has any more is
    /// given up; what somebody has who is there and did not answer is not.
    async fn rebuild(&self, view: &View, ring: &Ring, accept_loss: bool) -> Attempt {
        let mut attempt = Attempt::default();
        let lost = self.0.rebuilding.segments();
        let Some(own) = ring.index_of(&self.0.asker.me) else {
            return attempt;
        };
        for page in 0..=u8::MAX {
            let lost = segments_of_page(page).filter(|&it| lost.contains(it));
            // What this node does not own nobody asks for here.
            let (owned, foreign): (Vec<_>, Vec<_>) =
                lost.partition(|&segment| ring.owns(own, segment));
            let mut segments: Vec<_> = owned.into_iter().map(Lost::new).collect();
            if !segments.is_empty() {
                self.fetch_page(view, ring, page, &mut segments, &mut attempt)
                    .await;
            }
            let w = usize::from(ring.document().w);
            let (mut whole, mut accepted) = (Vec::new(), 0);
            for lost in segments {
                let owners = ring.owners(lost.segment).len();
                // Alone, there is nobody to bring it back: that takes an operator's word.
                if owners > 1 && lost.sources >= sources_needed(owners, w) {
                    whole.push(lost.segment);
                } else if accept_loss && !lost.is_failed {
                    accepted += 1;
                    whole.push(lost.segment);
                }
            }
            let finished = self.finish(ring, whole, foreign).await;
            match finished {
                Ok(()) => attempt.accepted += accepted,
                Err(error) => attempt.last_error = Some(error),
            }
        }
        attempt
    }

    /// Ends the rebuilding of these, once what came for them is durable.
    async fn finish(
        &self,
        ring: &Ring,
        whole: Vec<Segment>,
        foreign: Vec<Segment>,
    ) -> Result<(), MendError> {
        self.wait_until_durable(ring, &whole).await?;
        let count = whole.len() as u64;
        let finished = [whole, foreign].concat();
        if finished.is_empty() {
            return Ok(());
        }
        self.0
            .rebuilding
            .finish(&finished)
            .map_err(|error| MendError::Store(error.to_string()))?;
        self.0.metrics.segments_rebuilt.increment(count);
        Ok(())
    }

    /// Merges what every other owner has of these segments, all of one page.
    async fn fetch_page(
        &self,
        view: &View,
        ring: &Ring,
        page: u8,
        segments: &mut [Lost],
        attempt: &mut Attempt,
    ) {
        for member in view.members.iter().filter(|it| it.id != self.0.asker.me) {
            let Some(other) = ring.index_of(&member.id) else {
                continue;
            };
            let is_source = |lost: &Lost| ring.owns(other, lost.segment);
            if member.state == MemberState::Dead || !segments.iter().any(is_source) {
                continue;
            }
            if let Err(error) = self
                .fetch_from(member, other, ring, page, segments, attempt)
                .await
            {
                attempt.last_error = Some(error);
                let owned = segments
                    .iter_mut()
                    .filter(|lost| ring.owns(other, lost.segment));
                owned.for_each(|lost| lost.is_failed = true);
            }
        }
    }

    async fn fetch_from(
        &self,
        member: &MemberView,
        other: MemberIndex,
        ring: &Ring,
        page: u8,
        segments: &mut [Lost],
        attempt: &mut Attempt,
    ) -> Result<(), MendError> {
        let theirs = self
            .compared(Some(member), member, ring, Some(page))
            .await?;
        let mut full = Vec::new();
        for lost in &mut *segments {
            let place = usize::from(lost.segment.0.to_be_bytes()[1]);
            if !ring.owns(other, lost.segment) || theirs.is_rebuilding(place) {
                continue;
            }
            // Nothing is nothing. Beyond that the own hash is no help: it still counts what is damaged.
            match theirs.hashes.get(place) {
                None | Some(0) => lost.sources += 1,
                Some(_) => full.push(lost),
            }
        }
        for full in full.chunks_mut(SEGMENTS_AT_ONCE) {
            let began = Instant::now();
            let numbers: Vec<_> = full.iter().map(|lost| lost.segment).collect();
            let outcomes = self
                .mend_segments(member, ring, &numbers, Direction::Fetch)
                .await;
            for (lost, outcome) in full.iter_mut().zip(outcomes) {
                self.0
                    .repairs
                    .update(|progress| progress.keys_fetched += outcome.mended.fetched);
                match outcome.result {
                    Ok(()) => lost.sources += 1,
                    Err(error) => {
                        lost.is_failed = true;
                        attempt.last_error = Some(error);
                    }
                }
            }
            self.rest(began, REST_PER_REBUILDING).await;
        }
        Ok(())
    }

    /// What is equal here may have come by another way a moment ago, and wait for its sync still. A
    /// merge that changes nothing waits for all before it.
    async fn wait_until_durable(&self, ring: &Ring, segments: &[Segment]) -> Result<(), MendError> {
        for &segment in segments {
            let listed = self.lists(None, ring, [(segment, None, false)]).await;
            let mut first = Vec::new();
            for listed in listed {
                first.extend(listed?.keys.into_iter().next());
            }
            let Some(key) = first.pop().map(|listed| listed.key) else {
                continue;
            };
            let version = ring.version();
            for versions in self.read(None, version, [key.clone()]).await {
                let versions = versions?;
                if !versions.is_empty() {
                    let merged = self.merge(None, version, [(key, versions)]).await;
                    return merged.into_iter().collect();
                }
            }
        }
        Ok(())
    }
}

impl Lost {
    fn new(segment: Segment) -> Self {
        Self {
            segment,
            sources: 0,
            is_failed: false,
        }
    }
}
