//! Handing on what this node has left of segments that it does not own any more, and removing it: the last part of a
//! change of the ring, and the only one in which data goes.
//!
//! Some segments at a time, each part by part. What a part has is held against the lists of owners, one owner after the
//! other, until enough of them have it; they are sent what they lack or have differently, and what enough of them have
//! the store's writer removes. All of it is asked for under the one ring that left it over, so that where another is
//! followed, here or there, nothing of it is done any more.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::RingVersion;
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::hash::{Position, Segment, checksum};
use dynakv_protocol::ring_document::Step;
use tokio::time::Instant;

use super::pending::{Pass, Pending};
use super::questions::Runs;
use super::segments::Sizes;
use super::{
    AntiEntropy, Copy, MendError, REST_PER_CHANGING, REST_PER_LEFTOVERS, RETRY, SEGMENTS_AT_ONCE,
    State,
};
use crate::engine::anti_entropy::leftovers::{Part, Purpose, can_go, left_over, purpose};
use crate::engine::placement::ring::{MemberIndex, Ring};
use crate::runtime::shared::view::MemberView;

/// How long it goes on before other work has its turn.
const TURN: Duration = Duration::from_secs(5);

/// How long after a pass that left something the next one begins at most: what cannot be read, or is beyond a limit, is
/// no reason to ask often. It begins with [`RETRY`], and each one later.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How many keys are sent once more, at most, to learn whether an owner has durably what it has listed: one is enough,
/// unless it is beyond a limit.
const PROBES_MAX: usize = 4;

impl Pass {
    fn asked(&mut self, member: MemberIndex, result: Result<(), MendError>) {
        let is_silence = result.as_ref().is_err_and(MendError::is_silence);
        self.misses.asked(member, !is_silence);
        if let Err(error) = result {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &MendError) {
        self.is_partial = true;
        self.last_error = error.to_string();
    }
}

/// A segment that is gone through.
struct Walk {
    segment: Segment,
    after: Option<Bytes>,
}

/// A part, where it begins, and how far it is compared with what one owner has.
struct Compared<'a> {
    part: &'a mut Part,
    after: Option<Bytes>,
    same: BTreeSet<usize>,
    is_failed: bool,
}

impl AntiEntropy {
    /// Hands on and removes what is left over, for a while. Only once all is rebuilt that can be: until then a copy less
    /// counts somewhere, and what is left over costs nothing but room.
    pub(super) async fn go_on_dropping(&self, ring: &Ring, state: &mut State) {
        let is_tried = state.rebuild_due.is_some();
        let is_rebuilt = || is_tried || self.0.rebuilding.left() == 0;
        let pending = &mut state.leftovers;
        if pending.leftovers.follow(ring.version()) {
            (pending.due, pending.pause, pending.told) = (None, RETRY, 0);
        }
        if !is_rebuilt() || !pending.is_under_way() && !self.begin_dropping(ring, pending) {
            return;
        }
        let until = Instant::now() + TURN;
        while pending.is_under_way() && is_rebuilt() && Instant::now() < until {
            if pending.pass.purpose == Purpose::Leave {
                self.0.settling.note_to_hand_on(pending.leftovers.left());
            }
            let segments = pending.leftovers.take(SEGMENTS_AT_ONCE);
            self.hand_on(ring, segments, &mut pending.pass).await;
            if self.has_moved_on(ring) {
                return;
            }
        }
        let left = self.left_over(ring);
        self.0.metrics.mending.leftover_segments.set(left);
        if pending.is_under_way() {
            return;
        }
        match pending.pass.purpose {
            Purpose::Leave => self.end_handing_on(pending, ring.version()),
            Purpose::Drop => end_pass(pending, left),
        }
    }

    /// A pass of a node that goes is over. Where all it held is with its owners there is no other one: what has come since
    /// it began has W new owners by itself.
    fn end_handing_on(&self, pending: &mut Pending, ring_version: RingVersion) {
        let pass = std::mem::take(&mut pending.pass);
        let now = Instant::now();
        if !pass.is_partial {
            self.0.settling.note_handed_on(ring_version);
            tracing::info!(
                sent = pass.sent,
                "what this node holds is with those that own it now"
            );
            pending.due = Some(now + PAUSE_MAX);
            return;
        }
        tracing::warn!(
            sent = pass.sent,
            reason = pass.last_error,
            "not all that this node holds is with its new owners yet; it is tried again"
        );
        pending.due = Some(now + pending.pause);
        pending.pause = (pending.pause * 2).min(PAUSE_MAX);
    }

    /// Whether there is something to go through.
    fn begin_dropping(&self, ring: &Ring, pending: &mut Pending) -> bool {
        let now = Instant::now();
        if pending.due.is_some_and(|due| due > now) {
            return false;
        }
        let me = ring.index_of(&self.0.asker.me);
        let Some(purpose) = purpose(ring, me) else {
            pending.due = Some(now + PAUSE_MAX);
            return false;
        };
        let handed_on_under = self.0.settling.has_handed_on_under();
        if purpose == Purpose::Leave && handed_on_under == ring.version() {
            return false;
        }
        let left_over = left_over(ring, me, &self.0.dropper.held());
        let left = left_over.len();
        self.0.metrics.mending.leftover_segments.set(left);
        pending.pass = Pass::new(purpose);
        if left_over.is_empty() {
            pending.due = Some(now + PAUSE_MAX);
            if purpose == Purpose::Leave {
                self.end_handing_on(pending, ring.version());
            }
            return false;
        }
        if pending.told == 0 {
            let what = match purpose {
                Purpose::Drop => "handed on to their owners and removed",
                Purpose::Leave => "handed on to their owners",
            };
            tracing::info!(
                segments = left,
                ring_version = ring.version().0,
                "this node has something left of segments that it does not own any more: it is {what}"
            );
            pending.told = left;
        }
        pending.leftovers.begin(left_over);
        true
    }

    /// How many segments are left over.
    fn left_over(&self, ring: &Ring) -> u32 {
        let me = ring.index_of(&self.0.asker.me);
        left_over(ring, me, &self.0.dropper.held()).len()
    }

    /// Whether another ring is followed by now.
    fn has_moved_on(&self, ring: &Ring) -> bool {
        self.0.view.borrow().ring_version() != ring.version()
    }

    /// Hands on what there is of these segments, and removes what enough owners have.
    async fn hand_on(&self, ring: &Ring, segments: Vec<Segment>, pass: &mut Pass) {
        let view = self.0.view.borrow().clone();
        let is_there = |owner| {
            let member = view.member(&ring.member(owner).id);
            member.is_some_and(|it| it.state != MemberState::Dead) && !pass.misses.is_silent(owner)
        };
        let all = segments.len();
        let segments = segments.into_iter();
        let segments = segments.filter(|&segment| can_go(ring, segment, is_there));
        let walk = |segment| Walk {
            segment,
            after: None,
        };
        let mut walks: Vec<_> = segments.map(walk).collect();
        pass.is_partial |= walks.len() < all;
        let mut sizes = Sizes::default();
        while !walks.is_empty() && !self.has_moved_on(ring) {
            let began = Instant::now();
            let parts = walks
                .iter()
                .map(|walk| (walk.segment, walk.after.clone(), false));
            let ours = self.lists(None, ring, parts).await;
            let (mut parts, mut open) = (Vec::new(), Vec::new());
            for (walk, ours) in walks.into_iter().zip(ours) {
                match ours {
                    Ok(ours) => {
                        let next = ours.next.clone();
                        let part = Part::new(ring, walk.segment, ours);
                        parts.push((part, walk.after));
                        let segment = walk.segment;
                        open.extend(next.map(|next| Walk {
                            segment,
                            after: Some(next),
                        }));
                    }
                    Err(error) => pass.failed(&error),
                }
            }
            walks = open;
            self.bring_to_owners(ring, &mut parts, (&mut *pass, &mut sizes))
                .await;
            pass.is_partial |= parts.iter().any(|(part, _)| part.is_wanting());
            let to_drop: Vec<_> = match pass.purpose {
                Purpose::Drop => parts.iter().flat_map(|(part, _)| part.to_drop()).collect(),
                Purpose::Leave => Vec::new(),
            };
            if let Err(error) = self.remove(ring, &to_drop, pass).await {
                pass.failed(&error);
                return;
            }
            let rest = match pass.purpose {
                Purpose::Drop => REST_PER_LEFTOVERS,
                Purpose::Leave => REST_PER_CHANGING,
            };
            self.rest(began, rest).await;
        }
    }

    async fn remove(
        &self,
        ring: &Ring,
        keys: &[(Bytes, u64)],
        pass: &mut Pass,
    ) -> Result<(), MendError> {
        if keys.is_empty() {
            return Ok(());
        }
        match self.0.dropper.remove(ring.version(), keys).await {
            Some(Ok(dropped)) => {
                pass.dropped.removed += dropped.removed;
                pass.dropped.kept += dropped.kept;
                Ok(())
            }
            Some(Err(error)) => Err(MendError::Store(error.message)),
            None => Err(MendError::Store("the store did not do it".to_owned())),
        }
    }

    /// Has as many owners as are needed have all of these parts, as far as they are there.
    async fn bring_to_owners(
        &self,
        ring: &Ring,
        parts: &mut [(Part, Option<Bytes>)],
        (pass, sizes): (&mut Pass, &mut Sizes),
    ) {
        let view = self.0.view.borrow().clone();
        for member in view.members.iter().filter(|it| it.id != self.0.asker.me) {
            let Some(other) = ring.index_of(&member.id) else {
                continue;
            };
            if member.state == MemberState::Dead || pass.misses.is_silent(other) {
                continue;
            }
            let wanted = parts.iter_mut().filter(|(part, _)| {
                ring.readers(part.segment()).contains(&other) && part.is_wanting()
            });
            let wanted: Vec<_> = wanted
                .map(|(part, after)| Compared {
                    part,
                    after: after.clone(),
                    same: BTreeSet::new(),
                    is_failed: false,
                })
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let result = self
                .bring_to(member, other, ring, wanted, (&mut *pass, &mut *sizes))
                .await;
            pass.asked(other, result);
        }
    }

    /// Has one owner have these parts, and notes which keys it has. The last error, if it does not have all.
    async fn bring_to(
        &self,
        member: &MemberView,
        other: MemberIndex,
        ring: &Ring,
        mut parts: Vec<Compared<'_>>,
        (pass, sizes): (&mut Pass, &mut Sizes),
    ) -> Result<(), MendError> {
        let mut runs = Runs::default();
        let mut result = self
            .compare_parts(member, ring, &mut parts, &mut runs)
            .await;
        let (mut to_send, mut same) = (Vec::new(), Vec::new());
        for (number, compared) in parts.iter().enumerate() {
            // Of what was not compared nothing is sent either: it would be all of it.
            if !compared.is_failed {
                let keys = compared.part.to_send(&compared.same);
                to_send.extend(keys.into_iter().map(|at| (number, at)));
                same.extend(compared.same.iter().map(|&at| (number, at)));
            }
        }
        let mut sent = Vec::new();
        let mut left = &to_send[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(sizes.keys_at_once().min(left.len()));
            let (keys, error) = self
                .send(member, ring, &parts, now, (&mut runs, sizes))
                .await;
            sent.extend(keys);
            result = error.map_or(result, Err);
            left = later;
        }
        let count = sent.len() as u64;
        pass.sent += count;
        self.0.metrics.mending.leftover_keys_sent.increment(count);
        // What it has listed it may still have to make durable. A merge waits for all that it took before.
        let mut probes = same.iter().take(PROBES_MAX);
        let mut is_durable = !sent.is_empty();
        while !is_durable && let Some(&probe) = probes.next() {
            let (keys, error) = self
                .send(member, ring, &parts, &[probe], (&mut runs, sizes))
                .await;
            is_durable = !keys.is_empty();
            result = error.map_or(result, Err);
        }
        // One that was started again may have lost what it had not made durable.
        if is_durable && runs.is_one() {
            for (number, at) in same.into_iter().chain(sent) {
                parts[number].part.has(at, other);
            }
        }
        result
    }

    /// Compares parts with what an owner lists. The last error, if not all were compared.
    async fn compare_parts(
        &self,
        member: &MemberView,
        ring: &Ring,
        parts: &mut [Compared<'_>],
        runs: &mut Runs,
    ) -> Result<(), MendError> {
        let mut result = Ok(());
        let mut open: Vec<usize> = (0..parts.len()).collect();
        while !open.is_empty() {
            let asked = open.iter().map(|&number| {
                let Compared { part, after, .. } = &parts[number];
                (part.segment(), after.clone(), false)
            });
            let lists = self.lists_in_run(Some(member), ring, asked, runs).await;
            let mut more = Vec::new();
            for (number, theirs) in open.into_iter().zip(lists) {
                let compared = &mut parts[number];
                let theirs = match theirs {
                    Ok(theirs) => theirs,
                    Err(error) => {
                        compared.is_failed = true;
                        result = Err(error);
                        continue;
                    }
                };
                compared.same.extend(compared.part.same(&theirs));
                if compared.part.is_within(theirs.next.as_ref()) {
                    continue;
                }
                if !is_behind(compared.after.as_ref(), theirs.next.as_ref()) {
                    compared.is_failed = true;
                    result = Err(MendError::Circle(member.id.clone()));
                    continue;
                }
                compared.after = theirs.next;
                more.push(number);
            }
            open = more;
        }
        result
    }

    /// Sends keys to an owner, each by its part and its place there. Which of them it has taken, durably and as they are
    /// listed here, or newer; and the last error, if it has not taken all.
    async fn send(
        &self,
        member: &MemberView,
        ring: &Ring,
        parts: &[Compared<'_>],
        keys: &[(usize, usize)],
        (runs, sizes): (&mut Runs, &mut Sizes),
    ) -> (Vec<(usize, usize)>, Option<MendError>) {
        let (mut taken, mut error) = (Vec::new(), None);
        let key_of = |&(number, at): &(usize, usize)| parts[number].part.key(at);
        // Its node goes and nothing is removed. So what is newer than it was listed is as good; and a key that is locked,
        // which no attempt ever brings over, passes for taken: nobody waits for it.
        let may_change = ring.document().step != Step::Final;
        let is_as_listed = |versions: &Bytes, key: &(usize, usize)| {
            may_change || checksum(versions) == key_of(key).1
        };
        let wanted = keys.iter().map(|key| key_of(key).0.clone());
        let ours = self.read(None, ring.version(), wanted).await;
        let mut merges = Vec::new();
        for (key, ours) in keys.iter().zip(ours) {
            match ours {
                // Nobody may change it here; should it be another one all the same, it is not the one that would go.
                Ok(had) if is_as_listed(&had.versions, key) => merges.push((key, had.versions)),
                Ok(_) => {}
                Err(MendError::Locked { .. }) if may_change => taken.push(*key),
                Err(failed) => error = Some(failed),
            }
        }
        let bytes: usize = merges.iter().map(|(_, versions)| versions.len()).sum();
        sizes.see(bytes, keys.len());
        self.0.metrics.mending.bytes_sent.increment(bytes as u64);
        self.0.settling.note_moved(bytes);
        let asked = merges
            .iter()
            .map(|(key, versions)| (key_of(key).0.clone(), versions.clone()));
        let merged = self
            .merge_in_run(Some(member), ring.version(), asked, runs)
            .await;
        for ((key, _), merged) in merges.into_iter().zip(merged) {
            match merged {
                Ok(()) => taken.push(*key),
                Err(failed) => {
                    // It stays here, named, and nothing else waits for it.
                    if let MendError::Locked { reason, .. } = &failed {
                        let locked = self.0.rebuilding.locked();
                        locked.note(key_of(key).0, reason, Copy::Whole);
                    }
                    match failed {
                        MendError::Locked { .. } if may_change => taken.push(*key),
                        failed => error = Some(failed),
                    }
                }
            }
        }
        (taken, error)
    }
}

/// Whether a list that goes on behind `next` gets on.
fn is_behind(after: Option<&Bytes>, next: Option<&Bytes>) -> bool {
    let place = |key: &Bytes| (Position::of_key(key), key.clone());
    match (after, next) {
        (Some(after), Some(next)) => place(next) > place(after),
        (None, _) | (_, None) => true,
    }
}

/// A pass is over, and so much is left.
fn end_pass(pending: &mut Pending, left: u32) {
    let pass = std::mem::take(&mut pending.pass);
    let (removed, kept, sent) = (pass.dropped.removed, pass.dropped.kept, pass.sent);
    if left == 0 {
        tracing::info!(
            removed,
            sent,
            "nothing is left any more of segments that this node does not own"
        );
        (pending.due, pending.pause, pending.told) = (Some(Instant::now() + PAUSE_MAX), RETRY, 0);
        return;
    }
    let reason = match pass.last_error.is_empty() {
        true => "too few of their owners are there, or something cannot be read".to_owned(),
        false => pass.last_error,
    };
    if removed > 0 {
        pending.pause = RETRY;
    }
    if pending.told != left || removed > 0 {
        tracing::warn!(
            segments_left = left,
            removed,
            kept,
            sent,
            reason,
            "of segments that this node does not own any more something is left and kept; it is tried again"
        );
        pending.told = left;
    }
    pending.due = Some(Instant::now() + pending.pause);
    pending.pause = (pending.pause * 2).min(PAUSE_MAX);
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_pass_that_leaves_something_is_repeated_later_and_later_until_something_goes() {
        let mut pending = Pending {
            pause: RETRY,
            ..Pending::default()
        };
        let due_in = |pending: &Pending| pending.due.unwrap().duration_since(Instant::now());
        for _ in 0..10 {
            end_pass(&mut pending, 3);
            assert!(due_in(&pending) <= PAUSE_MAX);
        }
        assert!(due_in(&pending) > PAUSE_MAX / 2);
        // Who came may be an owner that was missing.
        pending.look_within(RETRY);
        assert!(due_in(&pending) <= RETRY);
        for _ in 0..10 {
            end_pass(&mut pending, 3);
        }
        pending.pass.dropped.removed = 1;
        end_pass(&mut pending, 2);
        assert!(due_in(&pending) <= RETRY);
        end_pass(&mut pending, 0);
        assert_eq!(pending.told, 0);
    }

    #[test]
    fn a_list_that_does_not_get_on_goes_round_in_circles() {
        let mut keys = ["a", "b"].map(|key| Bytes::from_static(key.as_bytes()));
        keys.sort_by_key(|key| Position::of_key(key));
        let [first, second] = &keys;
        assert!(is_behind(None, Some(first)) && is_behind(Some(first), Some(second)));
        assert!(!is_behind(Some(second), Some(first)) && !is_behind(Some(first), Some(first)));
        assert!(is_behind(Some(first), None));
    }
}
