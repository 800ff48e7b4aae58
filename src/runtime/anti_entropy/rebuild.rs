//! Bringing back what this node has lost, and fetching what a change of the ring has it fetch, page by page.

use std::collections::BTreeSet;

use dynakv_protocol::RingVersion;
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::hash::Segment;
use dynakv_storage::Loss;
use tokio::time::Instant;

use super::misses::Misses;
use super::segments::{Direction, Sizes};
use super::{
    AntiEntropy, MendError, REST_PER_CHANGING, REST_PER_REBUILDING, RETRY, RETRY_MAX,
    SEGMENTS_AT_ONCE, State,
};
use crate::engine::anti_entropy::mending::segments_of_page;
use crate::engine::anti_entropy::rebuild_sources::{Sources, Wanted, needed};
use crate::engine::placement::ring::{MemberIndex, Ring};
use crate::runtime::shared::environment::StoreThreads;
use crate::runtime::shared::view::{MemberView, View};

/// How often a page is gone through at once: what came for a damaged value took its place, and whatever
/// took one's place is held against the others once more.
const ROUNDS: usize = 2;

/// How a segment stands that is being rebuilt.
struct Lost {
    segment: Segment,
    /// Whether an owner that is there has not given what it has.
    is_failed: bool,
}

/// An attempt, and what it came to.
struct Attempt<'a> {
    ring: &'a Ring,
    /// Who has given what, also in earlier ones.
    sources: &'a mut Sources,
    /// The losses that were known before anything of that was given.
    losses: &'a mut BTreeSet<Loss>,
    /// What nobody has any more is to be given up.
    accept_loss: bool,
    misses: Misses,
    sizes: Sizes,
    /// Whether an owner has given something that it had not given before.
    is_ahead: bool,
    /// How many segments have ended.
    ended: u32,
    /// How many of them count as rebuilt although too few owners gave what they have.
    accepted: u32,
    last_error: Option<MendError>,
}

impl Attempt<'_> {
    fn give(&mut self, segment: Segment, member: MemberIndex) {
        self.is_ahead |= self.sources.give(segment, member);
    }
}

impl AntiEntropy {
    pub(super) async fn go_on_rebuilding(&self, ring: &Ring, state: &mut State) {
        let segments_before = self.0.rebuilding.left_to_fetch();
        let had_lost = self.0.rebuilding.left() > 0;
        state.sources.follow(ring.version());
        let mut attempt = Attempt {
            ring,
            sources: &mut state.sources,
            losses: &mut state.losses,
            accept_loss: state.accept_loss,
            misses: Misses::default(),
            sizes: Sizes::default(),
            is_ahead: false,
            ended: 0,
            accepted: 0,
            last_error: None,
        };
        self.rebuild(&mut attempt).await;
        let segments_left = self.0.rebuilding.left_to_fetch();
        if attempt.accepted > 0 {
            let accepted = attempt.accepted;
            self.0
                .metrics
                .mending
                .losses_accepted
                .increment(accepted.into());
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
        if attempt.is_ahead || segments_left < segments_before {
            state.rebuild_pause = RETRY;
        }
        if segments_left == 0 {
            state.rebuild_due = None;
            state.told.clear();
            // It may only have found out that it owns none of them.
            let is_rebuilt = attempt.ended > 0 && had_lost;
            if is_rebuilt {
                tracing::info!("everything is rebuilt: reads of this node count again");
            }
            if is_rebuilt && ring.document().w == 1 {
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
        state.rebuild_due = Some(Instant::now() + state.rebuild_pause);
        state.rebuild_pause = (state.rebuild_pause * 2).min(RETRY_MAX);
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
    async fn rebuild(&self, attempt: &mut Attempt<'_>) {
        let lost = self.0.rebuilding.to_fetch();
        let Some(own) = attempt.ring.index_of(&self.0.asker.me) else {
            return;
        };
        let of_page = |page| segments_of_page(page).filter(|&it| lost.contains(it));
        // First, so that it is not reported for as long as the rest takes.
        for page in 0..=u8::MAX {
            let foreign = of_page(page)
                .filter(|&it| !attempt.ring.rebuilds(own, it) && !self.0.rebuilding.is_aside(it));
            if let Err(error) = self.set_aside(attempt.ring, foreign.collect()).await {
                attempt.last_error = Some(error);
            }
        }
        for page in 0..=u8::MAX {
            let owned = of_page(page).filter(|&it| attempt.ring.rebuilds(own, it));
            let owned: Vec<_> = owned.collect();
            if owned.is_empty() {
                continue;
            }
            // Who is there now, and not when the attempt began: it may take long.
            let view = self.0.view.borrow().clone();
            if view.ring_version() != attempt.ring.version() {
                return;
            }
            if let Err(error) = self.rebuild_page(attempt, own, &view, page, owned).await {
                attempt.last_error = Some(error);
            }
        }
    }

    /// What this node does not own nobody asks for here, and nobody brings back. What was lost of it is not told of any
    /// more, as if it were rebuilt; that it was lost is not forgotten.
    async fn set_aside(&self, ring: &Ring, foreign: Vec<Segment>) -> Result<(), MendError> {
        if foreign.is_empty() {
            return Ok(());
        }
        self.0.rebuilding.take_begun_again(&foreign);
        let losses = self.losses(foreign.clone()).await?;
        self.forgive(losses).await?;
        self.0.rebuilding.set_aside(&foreign, ring.version());
        Ok(())
    }

    async fn rebuild_page(
        &self,
        attempt: &mut Attempt<'_>,
        own: MemberIndex,
        view: &View,
        page: u8,
        mut owned: Vec<Segment>,
    ) -> Result<(), MendError> {
        let rebuilding = &self.0.rebuilding;
        for _ in 0..ROUNDS {
            // What was given before may have been lost with it.
            for segment in rebuilding.take_begun_again(&owned) {
                attempt.sources.forget(segment);
            }
            let lost = |&segment| Lost {
                segment,
                is_failed: false,
            };
            // What was given before a loss may have been lost with it.
            let losses = self.losses(owned.clone()).await?;
            for loss in &losses {
                if attempt.losses.insert(loss.clone()) {
                    attempt.sources.forget(loss.segment());
                }
            }
            let mut segments: Vec<_> = owned.iter().map(lost).collect();
            self.fetch_page(attempt, view, page, &mut segments).await;
            let (mut whole, mut accepted) = (Vec::new(), Vec::new());
            for lost in segments {
                let has_lost = rebuilding.contains(lost.segment);
                let needed = needed(attempt.ring, own, lost.segment, has_lost);
                if attempt.sources.is_whole(lost.segment, needed) {
                    whole.push(lost.segment);
                } else if attempt.accept_loss && has_lost && !lost.is_failed {
                    accepted.push(lost.segment);
                }
            }
            let ended = [&whole[..], &accepted].concat();
            self.wait_until_durable(attempt.ring, &ended).await?;
            // Before their reads count again: else one could tell of a loss once more.
            let is_over = |loss: &Loss| ended.contains(&loss.segment());
            self.forgive(losses.into_iter().filter(is_over).collect())
                .await?;
            let finished = self.finish(ended.clone(), attempt.ring.version()).await?;
            for segment in &finished {
                attempt.sources.forget(*segment);
            }
            attempt
                .losses
                .retain(|loss| !finished.contains(&loss.segment()));
            let count = |among: &[Segment]| {
                let among = among.iter().filter(|&it| finished.contains(it));
                among.count()
            };
            attempt.accepted += count(&accepted) as u32;
            let count = count(&ended);
            attempt.ended += count as u32;
            self.0
                .metrics
                .mending
                .segments_rebuilt
                .increment(count as u64);
            // Something was lost again meanwhile in those that did not end.
            let is_again = |it: &Segment| !finished.contains(it);
            owned = ended.into_iter().filter(is_again).collect();
            if owned.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Which values of these segments are damaged, and where the store cannot say which keys it lost.
    async fn losses(&self, segments: Vec<Segment>) -> Result<Vec<Loss>, MendError> {
        let losses = self
            .0
            .recounter
            .losses(segments)
            .await
            .unwrap_or(Ok(Vec::new()));
        losses.map_err(|error| MendError::Store(error.to_string()))
    }

    /// What is not there again nobody has, or it was given up.
    async fn forgive(&self, losses: Vec<Loss>) -> Result<(), MendError> {
        if losses.is_empty() {
            return Ok(());
        }
        let forgiven = self.0.recounter.forgive(losses).await.unwrap_or(Ok(()));
        forgiven.map_err(|error| MendError::Store(error.to_string()))
    }

    /// Ends the rebuilding of these, where the disk may be waited for. Which ones it has ended.
    async fn finish(
        &self,
        segments: Vec<Segment>,
        ring_version: RingVersion,
    ) -> Result<Vec<Segment>, MendError> {
        if segments.is_empty() {
            return Ok(segments);
        }
        let rebuilding = self.0.rebuilding.clone();
        let finished = match self.0.threads {
            StoreThreads::Own => {
                let finish = move || rebuilding.finish(&segments, ring_version);
                match tokio::task::spawn_blocking(finish).await {
                    Ok(finished) => finished,
                    // It takes this task with it, as if it had run here.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(error) => return Err(MendError::Store(error.to_string())),
                }
            }
            StoreThreads::Simulated { .. } => rebuilding.finish(&segments, ring_version),
        };
        finished.map_err(|error| MendError::Store(error.to_string()))
    }

    /// Merges what every other owner has of these segments, all of one page.
    async fn fetch_page(
        &self,
        attempt: &mut Attempt<'_>,
        view: &View,
        page: u8,
        segments: &mut [Lost],
    ) {
        for member in view.members.iter().filter(|it| it.id != self.0.asker.me) {
            let Some(other) = attempt.ring.index_of(&member.id) else {
                continue;
            };
            // Who has given all it had is asked no more: the next attempt may find others.
            let (ring, sources) = (attempt.ring, &*attempt.sources);
            let wanted = segments.iter_mut().filter(|lost| {
                let is_source = ring.readers(lost.segment).contains(&other);
                is_source && !sources.has_given(lost.segment, other)
            });
            let mut wanted: Vec<_> = wanted.collect();
            if member.state == MemberState::Dead || wanted.is_empty() {
                continue;
            }
            if !attempt.misses.is_silent(other) {
                let fetched = self
                    .fetch_from(attempt, member, other, page, &mut wanted)
                    .await;
                let is_silence = fetched.as_ref().is_err_and(MendError::is_silence);
                attempt.misses.asked(other, !is_silence);
                match fetched {
                    Ok(()) => continue,
                    Err(error) => attempt.last_error = Some(error),
                }
            }
            for lost in wanted {
                lost.is_failed |= !attempt.sources.has_given(lost.segment, other);
            }
        }
    }

    async fn fetch_from(
        &self,
        attempt: &mut Attempt<'_>,
        member: &MemberView,
        other: MemberIndex,
        page: u8,
        segments: &mut [&mut Lost],
    ) -> Result<(), MendError> {
        let theirs = self
            .compared(Some(member), member, attempt.ring, Some(page))
            .await?;
        let (mut full, mut rest) = (Vec::new(), Vec::new());
        for lost in segments {
            let place = usize::from(lost.segment.0.to_be_bytes()[1]);
            // Nothing is nothing. Beyond that the own hash is no help: it still counts what is damaged.
            match Wanted::of(&theirs, place, attempt.accept_loss) {
                Wanted::HasNone => attempt.give(lost.segment, other),
                Wanted::All => full.push(lost),
                Wanted::Rest => rest.push(lost),
                Wanted::Nothing => {}
                Wanted::NotOwned => {
                    lost.is_failed = true;
                    attempt.last_error = Some(MendError::NotOwner(member.id.clone()));
                }
            }
        }
        let wanted = [(Direction::Fetch, full), (Direction::FetchRest, rest)];
        for (direction, mut segments) in wanted {
            for segments in segments.chunks_mut(SEGMENTS_AT_ONCE) {
                let began = Instant::now();
                let numbers: Vec<_> = segments.iter().map(|lost| lost.segment).collect();
                let sizes = &mut attempt.sizes;
                let outcomes = self
                    .mend_segments(member, attempt.ring, &numbers, direction, sizes)
                    .await;
                let mut unreachable = None;
                for (lost, outcome) in segments.iter_mut().zip(outcomes) {
                    self.0
                        .repairs
                        .update(|progress| progress.keys_fetched += outcome.mended.fetched);
                    match outcome.result {
                        Ok(()) if direction == Direction::Fetch => {
                            attempt.give(lost.segment, other);
                        }
                        Ok(()) => {}
                        Err(error) => {
                            lost.is_failed = true;
                            attempt.last_error = Some(error.clone());
                            if matches!(error, MendError::Unreachable(_)) {
                                unreachable = Some(error);
                            }
                        }
                    }
                }
                if let Some(error) = unreachable {
                    return Err(error);
                }
                let rest = match attempt.ring.document().change() {
                    Some(_) => REST_PER_CHANGING,
                    None => REST_PER_REBUILDING,
                };
                self.rest(began, rest).await;
            }
        }
        Ok(())
    }

    /// What is equal here may have come by another way a moment ago, and wait for its sync still. A
    /// merge that changes nothing waits for all before it.
    async fn wait_until_durable(&self, ring: &Ring, segments: &[Segment]) -> Result<(), MendError> {
        let version = ring.version();
        for &segment in segments {
            let mut keys = Vec::new();
            for listed in self.lists(None, ring, [(segment, None, false)]).await {
                keys.extend(listed?.keys.into_iter().map(|listed| listed.key));
            }
            for key in keys {
                let had = self.read(None, version, [key.clone()]).await.pop();
                let Some(versions) = had.transpose()?.map(|had| had.versions) else {
                    continue;
                };
                if versions.is_empty() {
                    continue;
                }
                let merged = self.merge(None, version, [(key, versions)]).await;
                match merged.into_iter().collect() {
                    // Another one will do.
                    Err(MendError::Locked { .. }) => {}
                    merged => return merged,
                }
            }
        }
        Ok(())
    }
}
