//! Making two copies of some segments the same, part by part, or one of them.

use std::ops::AddAssign;

use bytes::Bytes;
use dynakv_protocol::hash::{Position, Segment};
use dynakv_protocol::limits::VALUE_BYTES_DEFAULT;

use super::Copy;
use super::questions::Had;
use super::{AntiEntropy, BYTES_AT_ONCE, KEYS_AT_ONCE, MendError};
use crate::engine::anti_entropy::mending::{Difference, difference};
use crate::engine::placement::ring::Ring;
use crate::runtime::shared::view::MemberView;

/// How large versions are, as far as was seen: decides how many keys are mended at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    bytes_each: usize,
}

impl Default for Sizes {
    /// As large as a value usually may be, so that the first of them do not fill the memory.
    fn default() -> Self {
        Self {
            bytes_each: VALUE_BYTES_DEFAULT,
        }
    }
}

impl Sizes {
    pub(super) fn keys_at_once(self) -> usize {
        (BYTES_AT_ONCE / self.bytes_each.max(1)).clamp(1, KEYS_AT_ONCE)
    }

    /// What comes next is most likely as large. Taken for larger it costs time, for smaller memory.
    pub(super) fn see(&mut self, bytes: usize, keys: usize) {
        let seen = bytes / keys.max(1);
        self.bytes_each = seen.max(self.bytes_each / 2 + seen / 2);
    }
}

/// Which copies are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// This node's and the other's.
    Both,
    /// This node's, by one that is not rebuilding, and gives all that it lists.
    Fetch,
    /// This node's, by what one still has that is rebuilding itself.
    FetchRest,
}

/// How many keys were brought up to date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mended {
    /// At this node.
    pub(super) fetched: u64,
    /// At the other one.
    pub(super) sent: u64,
    /// How many were passed over because they are locked.
    pub(super) locked: u64,
}

impl AddAssign for Mended {
    fn add_assign(&mut self, more: Self) {
        self.fetched += more.fetched;
        self.sent += more.sent;
        self.locked += more.locked;
    }
}

/// What became of a segment.
pub(super) struct Outcome {
    pub(super) mended: Mended,
    pub(super) result: Result<(), MendError>,
}

/// How far a segment is.
struct Walk {
    segment: Segment,
    after: Option<Bytes>,
    is_over: bool,
    outcome: Outcome,
}

impl Walk {
    fn fail(&mut self, error: MendError) {
        self.is_over = true;
        self.outcome.result = Err(error);
    }

    /// Goes on behind this key, which must lie behind the one before.
    fn go_on(&mut self, next: Option<Bytes>, member: &MemberView) {
        let place = |key: &Bytes| (Position::of_key(key), key.clone());
        match (&self.after, &next) {
            (Some(after), Some(next)) if place(next) <= place(after) => {
                self.fail(MendError::Circle(member.id.clone()));
            }
            _ => {
                self.is_over = next.is_none();
                self.after = next;
            }
        }
    }
}

/// A key that differs.
struct Key {
    /// Of which walk.
    walk: usize,
    key: Bytes,
    /// Theirs, when they came with the list; else empty.
    versions: Bytes,
    /// Whether theirs are wanted, as far as is known.
    is_theirs: bool,
}

impl AntiEntropy {
    /// Mends some segments, each as far as it goes. As many outcomes as there are segments. `sizes` are
    /// those that the caller has seen.
    pub(super) async fn mend_segments(
        &self,
        member: &MemberView,
        ring: &Ring,
        segments: &[Segment],
        direction: Direction,
        sizes: &mut Sizes,
    ) -> Vec<Outcome> {
        let walk = |&segment| Walk {
            segment,
            after: None,
            is_over: false,
            outcome: Outcome {
                mended: Mended::default(),
                result: Ok(()),
            },
        };
        let mut walks: Vec<Walk> = segments.iter().map(walk).collect();
        loop {
            let keys = self.next_keys(member, ring, &mut walks, direction).await;
            let Some(keys) = keys else { break };
            let mut left = &keys[..];
            while !left.is_empty() {
                let (now, later) = left.split_at(sizes.keys_at_once().min(left.len()));
                let bytes = self
                    .mend_keys(member, ring, now, &mut walks, direction)
                    .await;
                sizes.see(bytes, now.len());
                left = later;
            }
        }
        walks.into_iter().map(|walk| walk.outcome).collect()
    }

    /// The keys that differ in the next part of each segment; nothing when all segments are over.
    async fn next_keys(
        &self,
        member: &MemberView,
        ring: &Ring,
        walks: &mut [Walk],
        direction: Direction,
    ) -> Option<Vec<Key>> {
        let open: Vec<usize> = (0..walks.len()).filter(|&at| !walks[at].is_over).collect();
        if open.is_empty() {
            return None;
        }
        let part = |at: usize| (walks[at].segment, walks[at].after.clone());
        let parts = open.iter().map(|&at| {
            let (segment, after) = part(at);
            (segment, after, false)
        });
        let ours = self.lists(None, ring, parts).await;
        // Where nothing is, everything is wanted.
        let parts = open.iter().zip(&ours).map(|(&at, ours)| {
            let (segment, after) = part(at);
            let is_empty = ours
                .as_ref()
                .is_ok_and(|ours| ours.keys.is_empty() && ours.next.is_none());
            (segment, after, is_empty)
        });
        let theirs = self.lists(Some(member), ring, parts).await;
        let mut keys = Vec::new();
        for ((at, ours), theirs) in open.into_iter().zip(ours).zip(theirs) {
            let walk = &mut walks[at];
            let (ours, theirs) = match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => (ours, theirs),
                (Err(error), _) | (_, Err(error)) => {
                    walk.fail(error);
                    continue;
                }
            };
            if direction == Direction::Fetch && theirs.rebuilding {
                walk.fail(MendError::NoSource(member.id.clone()));
                continue;
            }
            let Difference {
                to_fetch,
                to_send,
                next,
            } = difference(ours, theirs);
            walk.go_on(next, member);
            keys.extend(to_fetch.into_iter().map(|listed| Key {
                walk: at,
                key: listed.key,
                versions: listed.versions,
                is_theirs: true,
            }));
            if direction == Direction::Both {
                keys.extend(to_send.into_iter().map(|key| Key {
                    walk: at,
                    key,
                    versions: Bytes::new(),
                    is_theirs: false,
                }));
            }
        }
        Some(keys)
    }

    /// Mends some keys: theirs are merged here, and what came of it there. How many bytes their versions
    /// had.
    async fn mend_keys(
        &self,
        member: &MemberView,
        ring: &Ring,
        keys: &[Key],
        walks: &mut [Walk],
        direction: Direction,
    ) -> usize {
        let version = ring.version();
        let mut theirs: Vec<Bytes> = keys.iter().map(|key| key.versions.clone()).collect();
        let mut is_lost = vec![false; keys.len()];
        let mut fail = |at: usize, error: MendError, walks: &mut [Walk]| {
            is_lost[at] = true;
            self.failed(
                &keys[at],
                error,
                direction,
                &mut walks[keys[at].walk].outcome,
            );
        };

        let unread = (0..keys.len()).filter(|&at| keys[at].is_theirs && theirs[at].is_empty());
        let unread: Vec<_> = unread.collect();
        let wanted = unread.iter().map(|&at| keys[at].key.clone());
        let read = self.read(Some(member), version, wanted).await;
        for (at, read) in unread.into_iter().zip(read) {
            match read.and_then(|had| given(had, direction, member)) {
                Ok(versions) => theirs[at] = versions,
                Err(error) => fail(at, error, walks),
            }
        }
        let bytes: usize = theirs.iter().map(Bytes::len).sum();
        let metrics = &self.0.metrics.mending;
        metrics.bytes_fetched.increment(bytes as u64);
        self.0.settling.note_moved(bytes);

        let came: Vec<_> = (0..keys.len())
            .filter(|&at| !theirs[at].is_empty())
            .collect();
        let merges = came
            .iter()
            .map(|&at| (keys[at].key.clone(), theirs[at].clone()));
        let merged = self.merge(None, version, merges).await;
        for (at, merged) in came.into_iter().zip(merged) {
            match merged {
                Ok(()) if direction != Direction::Both => {
                    walks[keys[at].walk].outcome.mended.fetched += 1;
                    self.0.metrics.mending.keys_fetched.increment(1);
                }
                Ok(()) => {}
                Err(error) => fail(at, error, walks),
            }
        }
        if direction != Direction::Both {
            return bytes;
        }

        let open: Vec<_> = (0..keys.len()).filter(|&at| !is_lost[at]).collect();
        let wanted = open.iter().map(|&at| keys[at].key.clone());
        let ours = self.read(None, version, wanted).await;
        let mut to_send = Vec::new();
        for (at, ours) in open.into_iter().zip(ours) {
            let outcome = &mut walks[keys[at].walk].outcome;
            let key = &keys[at];
            match ours.map(|had| had.versions) {
                Ok(ours) if ours != theirs[at] && !ours.is_empty() => to_send.push((at, ours)),
                Ok(_) => {
                    outcome.mended.fetched += 1;
                    self.0.metrics.mending.keys_fetched.increment(1);
                }
                Err(error) => self.failed(key, error, direction, outcome),
            }
        }
        let sent_bytes: usize = to_send.iter().map(|(_, ours)| ours.len()).sum();
        metrics.bytes_sent.increment(sent_bytes as u64);
        self.0.settling.note_moved(sent_bytes);
        let merges = to_send.iter();
        let merges = merges.map(|(at, ours)| (keys[*at].key.clone(), ours.clone()));
        let merged = self.merge(Some(member), version, merges).await;
        for ((at, _), merged) in to_send.into_iter().zip(merged) {
            let outcome = &mut walks[keys[at].walk].outcome;
            match merged {
                Ok(()) => {
                    outcome.mended.sent += 1;
                    self.0.metrics.mending.keys_sent.increment(1);
                }
                Err(error) => self.failed(&keys[at], error, direction, outcome),
            }
        }
        bytes.max(sent_bytes)
    }

    /// A key was not mended. One that is locked is named and passed over: no attempt ever brings it over, and nothing
    /// else may wait for it.
    fn failed(&self, key: &Key, error: MendError, direction: Direction, outcome: &mut Outcome) {
        let MendError::Locked { reason, .. } = &error else {
            outcome.result = Err(error);
            return;
        };
        // While it is being rebuilt this node lacks what the other one has; it must not say that there is nothing.
        let copy = match direction {
            Direction::Fetch | Direction::FetchRest => Copy::Incomplete,
            Direction::Both => Copy::Whole,
        };
        self.0.rebuilding.locked().note(&key.key, reason, copy);
        outcome.mended.locked += 1;
    }
}

/// What a node has given of a key that it listed. Since then it may have lost that: then it has not given
/// all it has.
fn given(had: Had, direction: Direction, member: &MemberView) -> Result<Bytes, MendError> {
    let is_lost = had.rebuilding || had.versions.is_empty();
    match direction {
        Direction::Fetch if is_lost => Err(MendError::NoSource(member.id.clone())),
        Direction::Fetch | Direction::FetchRest | Direction::Both => Ok(had.versions),
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::NodeId;
    use dynakv_protocol::gossip::MemberState;

    use super::*;

    #[test]
    fn the_first_large_values_are_few_at_a_time_and_small_ones_soon_are_many() {
        const LARGE: usize = VALUE_BYTES_DEFAULT;
        let mut sizes = Sizes::default();
        assert!(sizes.keys_at_once() * LARGE <= BYTES_AT_ONCE);
        for _ in 0..5 {
            let keys = sizes.keys_at_once();
            sizes.see(keys * 100, keys);
        }
        assert_eq!(sizes.keys_at_once(), KEYS_AT_ONCE);
        // After the first of them there are few again.
        sizes.see(4 * LARGE, 4);
        assert!(sizes.keys_at_once() * LARGE <= BYTES_AT_ONCE);
        sizes.see(2 * BYTES_AT_ONCE, 1);
        assert_eq!(sizes.keys_at_once(), 1);
    }

    #[test]
    fn a_source_that_loses_what_it_listed_has_not_given_it() {
        let member = MemberView {
            id: NodeId::new("c").unwrap(),
            address: String::new(),
            state: MemberState::Alive,
            disk_hangs: false,
            is_heard: true,
        };
        let give = |versions: &'static [u8], rebuilding, direction| {
            let versions = Bytes::from_static(versions);
            let had = Had {
                versions,
                rebuilding,
            };
            given(had, direction, &member).is_ok()
        };
        assert!(give(b"v", false, Direction::Fetch));
        assert!(!give(b"", true, Direction::Fetch), "its store is set aside");
        assert!(!give(b"", false, Direction::Fetch));
        assert!(!give(b"v", true, Direction::Fetch));
        for direction in [Direction::Both, Direction::FetchRest] {
            assert!(give(b"", true, direction), "{direction:?}");
        }
    }
}
