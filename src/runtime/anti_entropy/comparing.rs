//! Comparing all that two nodes both own.

use dynakv_protocol::hash::Segment;
use dynakv_protocol::mend::PAGE_SEGMENTS;
use tokio::time::{Instant, sleep};

use super::misses::MISSES_MAX;
use super::segments::{Direction, Mended, Sizes};
use super::{AntiEntropy, BUSY_PAUSE, MendError, REST_PER_COMPARING, SEGMENTS_AT_ONCE};
use crate::engine::anti_entropy::mending::differing;
use crate::engine::placement::ring::Ring;
use crate::runtime::shared::view::MemberView;

/// How often what failed is tried again within one comparison.
const ROUNDS: usize = 2;

/// A comparison that goes on.
struct Comparing<'a> {
    member: &'a MemberView,
    ring: &'a Ring,
    /// Whether a repair hears of it.
    is_told: bool,
    mended: Mended,
    sizes: Sizes,
    /// How many questions in a row were not answered.
    misses: u32,
    last_error: Option<MendError>,
}

impl Comparing<'_> {
    /// Takes note of a failure.
    ///
    /// # Errors
    /// When there were so many in a row that going on is of no use.
    fn failed(&mut self, error: MendError) -> Result<(), MendError> {
        self.misses = match error {
            MendError::Unreachable(_) => self.misses + 1,
            _ => 0,
        };
        self.last_error = Some(error.clone());
        match self.misses >= MISSES_MAX {
            true => Err(error),
            false => Ok(()),
        }
    }
}

impl AntiEntropy {
    /// Compares all that both own, and mends it on both sides. How many keys differed.
    pub(super) async fn compare(
        &self,
        member: &MemberView,
        ring: &Ring,
        is_told: bool,
    ) -> Result<u64, MendError> {
        let mut comparing = Comparing {
            member,
            ring,
            is_told,
            mended: Mended::default(),
            sizes: Sizes::default(),
            misses: 0,
            last_error: None,
        };
        let mut pages = self.differing(member, ring, None).await?;
        let mut equal = PAGE_SEGMENTS - pages.len();
        for round in 0..ROUNDS {
            if round > 0 && !pages.is_empty() {
                sleep(BUSY_PAUSE).await;
            }
            let mut failed = Vec::new();
            for page in pages {
                match self.compare_page(&mut comparing, page).await? {
                    true => equal += 1,
                    false => failed.push(page),
                }
                if is_told {
                    self.0
                        .repairs
                        .update(|progress| progress.pages_compared = equal as u32);
                }
            }
            pages = failed;
        }
        if is_told {
            let all = PAGE_SEGMENTS as u32;
            self.0
                .repairs
                .update(|progress| progress.pages_compared = all);
        }
        match comparing.last_error {
            Some(error) if !pages.is_empty() => Err(MendError::Partly {
                node: member.id.clone(),
                pages: pages.len(),
                reason: error.to_string(),
            }),
            _ => Ok(comparing.mended.fetched + comparing.mended.sent),
        }
    }

    /// Whether all of it could be compared.
    async fn compare_page(
        &self,
        comparing: &mut Comparing<'_>,
        page: u8,
    ) -> Result<bool, MendError> {
        let (member, ring) = (comparing.member, comparing.ring);
        let places = match self.differing(member, ring, Some(page)).await {
            Ok(places) => places,
            Err(error) => {
                comparing.failed(error)?;
                return Ok(false);
            }
        };
        // What a change of the ring brings is fetched, and what it takes is handed on: here it would go its way twice.
        let both = [&self.0.asker.me, &member.id].map(|id| ring.index_of(id));
        let is_read = |segment| {
            let readers = ring.readers(segment);
            both.iter().flatten().all(|member| readers.contains(member))
        };
        let segments = places.into_iter();
        let segments = segments.map(|place| Segment(u16::from_be_bytes([page, place])));
        let segments: Vec<_> = segments.filter(|&segment| is_read(segment)).collect();
        self.0
            .metrics
            .mending
            .segments_differing
            .increment(segments.len() as u64);
        let mut is_whole = true;
        for segments in segments.chunks(SEGMENTS_AT_ONCE) {
            let began = Instant::now();
            let sizes = &mut comparing.sizes;
            let outcomes = self
                .mend_segments(member, ring, segments, Direction::Both, sizes)
                .await;
            let mut mended = Mended::default();
            let mut error = None;
            for outcome in outcomes {
                mended += outcome.mended;
                error = error.or(outcome.result.err());
            }
            comparing.mended += mended;
            if comparing.is_told {
                self.0.repairs.update(|progress| {
                    progress.segments_differing += segments.len() as u64;
                    progress.keys_fetched += mended.fetched;
                    progress.keys_sent += mended.sent;
                    progress.keys_locked += mended.locked;
                });
            }
            match error {
                Some(error) => {
                    is_whole = false;
                    comparing.failed(error)?;
                }
                None => comparing.misses = 0,
            }
            self.rest(began, REST_PER_COMPARING).await;
        }
        Ok(is_whole)
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
}
