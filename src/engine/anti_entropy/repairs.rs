//! When a node compares its copies with which other one.
//!
//! Comparing mends both sides, so one of a pair is enough: the one whose name comes first begins, and the
//! other one only when it has not been asked for half as long again as the interval.

use std::collections::BTreeMap;

use dynakv_protocol::NodeId;

/// How soon after a node came (back) it is compared with, in milliseconds: what was on its way to it
/// arrives first.
const SETTLING_MS: u64 = 2_000;

/// How long the other one of the pair leaves it to the first to begin then, in milliseconds.
const SETTLING_SECOND_MS: u64 = 10_000;

/// How long after a comparison that failed the next one begins, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// What is known of the comparisons with one node. Times are in milliseconds of the caller's clock.
#[derive(Debug, Clone, Copy)]
struct Peer {
    is_alive: bool,
    is_first: bool,
    /// When it was last compared with, by whichever of the two.
    compared_ms: Option<u64>,
    due_ms: u64,
    /// A repair waits for it.
    is_wanted: bool,
}

/// What is to be compared when.
#[derive(Debug)]
pub struct Schedule {
    me: NodeId,
    interval_ms: u64,
    began_ms: u64,
    random: fastrand::Rng,
    peers: BTreeMap<NodeId, Peer>,
}

/// With whom to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The node to compare with.
    pub node: NodeId,
    /// Whether a repair waits for it.
    pub is_wanted: bool,
    /// Whether it is thought to be there.
    pub is_alive: bool,
}

impl Schedule {
    /// A schedule that compares with each other node once in an interval.
    pub fn new(me: NodeId, interval_ms: u64, now_ms: u64, random: fastrand::Rng) -> Self {
        Self {
            me,
            interval_ms: interval_ms.max(1),
            began_ms: now_ms,
            random,
            peers: BTreeMap::new(),
        }
    }

    /// Takes note of who is a member, and who is there.
    pub fn members<'a>(
        &mut self,
        now_ms: u64,
        members: impl Iterator<Item = (&'a NodeId, bool)> + Clone,
    ) {
        self.peers
            .retain(|id, _| members.clone().any(|(it, _)| it == id));
        for (id, is_alive) in members.filter(|(id, _)| **id != self.me) {
            let is_first = self.me < *id;
            let settled_ms = now_ms
                + match is_first {
                    true => SETTLING_MS,
                    false => SETTLING_SECOND_MS.min(self.interval_ms * 3 / 2),
                };
            let peer = self.peers.entry(id.clone()).or_insert(Peer {
                is_alive,
                is_first,
                compared_ms: None,
                due_ms: settled_ms,
                is_wanted: false,
            });
            if is_alive && !peer.is_alive {
                peer.due_ms = peer.due_ms.min(settled_ms);
            }
            peer.is_alive = is_alive;
        }
    }

    /// Another node has begun to compare with this one.
    pub fn asked_by(&mut self, now_ms: u64, node: &NodeId) {
        let pause_ms = self.pause_ms(false);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.compared_ms = Some(now_ms);
            peer.due_ms = match peer.is_first {
                // Which of the two does it is all the same.
                true => peer.due_ms.max(now_ms + pause_ms * 2 / 3),
                false => now_ms + pause_ms,
            };
        }
    }

    /// Has all of them compared with now; returns how many these are.
    pub fn want_all(&mut self) -> u32 {
        for peer in self.peers.values_mut() {
            peer.is_wanted = true;
        }
        self.peers.len() as u32
    }

    /// Whether a repair waits for any.
    pub fn wants_any(&self) -> bool {
        self.peers.values().any(|peer| peer.is_wanted)
    }

    /// With whom to compare now: whom a repair waits for, then who has been due for longest.
    pub fn next(&self, now_ms: u64) -> Option<Next> {
        let peers = self.peers.iter();
        let due = peers.filter(|(_, it)| it.is_wanted || (it.is_alive && it.due_ms <= now_ms));
        let next = due.min_by_key(|(_, it)| (!it.is_wanted, !it.is_alive, it.due_ms));
        next.map(|(node, peer)| Next {
            node: node.clone(),
            is_wanted: peer.is_wanted,
            is_alive: peer.is_alive,
        })
    }

    /// Takes note of what came of it.
    pub fn compared(&mut self, now_ms: u64, node: &NodeId, succeeded: bool) {
        let is_first = self.me < *node;
        let pause_ms = match succeeded {
            true => self.pause_ms(is_first),
            false => RETRY_MS,
        };
        if let Some(peer) = self.peers.get_mut(node) {
            peer.is_wanted = false;
            peer.due_ms = now_ms + pause_ms;
            if succeeded {
                peer.compared_ms = Some(now_ms);
            }
        }
    }

    /// How long ago all members that are there had been compared with, in milliseconds: of the one for
    /// which it is longest. One with which it has not been yet counts since the beginning.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        let alive = self.peers.values().filter(|peer| peer.is_alive);
        let ages = alive.map(|it| now_ms.saturating_sub(it.compared_ms.unwrap_or(self.began_ms)));
        ages.max().unwrap_or(0)
    }

    /// Not all nodes at one time, and the whole of it within the interval.
    fn pause_ms(&mut self, is_first: bool) -> u64 {
        let early_ms = self.random.u64(0..=self.interval_ms / 5);
        let pause_ms = self.interval_ms - early_ms;
        match is_first {
            true => pause_ms,
            false => pause_ms.saturating_add(self.interval_ms / 2 + early_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL_MS: u64 = 600_000;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn schedule(me: &str) -> Schedule {
        Schedule::new(id(me), INTERVAL_MS, 0, fastrand::Rng::with_seed(7))
    }

    fn members(schedule: &mut Schedule, now_ms: u64, alive: &[(&str, bool)]) {
        let ids: Vec<_> = alive.iter().map(|&(name, is)| (id(name), is)).collect();
        schedule.members(now_ms, ids.iter().map(|(id, is)| (id, *is)));
    }

    fn next(schedule: &Schedule, now_ms: u64) -> Option<String> {
        schedule.next(now_ms).map(|next| next.node.to_string())
    }

    const BOTH: [(&str, bool); 2] = [("a", true), ("b", true)];

    #[test]
    fn one_of_a_pair_begins_and_the_other_leaves_it_to_that_one() {
        let (mut a, mut b) = (schedule("a"), schedule("b"));
        members(&mut a, 0, &BOTH);
        members(&mut b, 0, &BOTH);
        assert_eq!(next(&a, SETTLING_MS - 1), None);
        assert_eq!(next(&a, SETTLING_MS).as_deref(), Some("b"));
        assert_eq!(next(&b, SETTLING_MS), None);
        let mut now_ms = SETTLING_MS;
        for _ in 0..100 {
            b.asked_by(now_ms, &id("a"));
            a.compared(now_ms + 5, &id("b"), true);
            let began_ms = now_ms;
            while next(&a, now_ms).is_none() {
                now_ms += 100;
                assert_eq!(next(&b, now_ms), None, "after {} ms", now_ms - began_ms);
            }
            assert!(now_ms - began_ms <= INTERVAL_MS + 200);
            assert!(now_ms - began_ms >= INTERVAL_MS * 4 / 5);
        }
        // The first one has gone silent about it: the other one does it.
        b.asked_by(now_ms, &id("a"));
        assert_eq!(next(&b, now_ms + INTERVAL_MS), None);
        assert_eq!(next(&b, now_ms + INTERVAL_MS * 2).as_deref(), Some("a"));
    }

    #[test]
    fn who_came_back_is_compared_with_soon_and_who_is_away_is_not() {
        let mut a = schedule("a");
        members(&mut a, 0, &BOTH);
        a.compared(10, &id("b"), true);
        members(&mut a, 20, &[("a", true), ("b", false)]);
        assert_eq!(next(&a, 10 * INTERVAL_MS), None);
        assert_eq!(a.age_ms(5000), 0, "nobody is there to compare with");
        members(&mut a, 5000, &BOTH);
        assert_eq!(a.age_ms(5000), 4990);
        assert_eq!(next(&a, 5000 + SETTLING_MS - 1), None);
        assert_eq!(next(&a, 5000 + SETTLING_MS).as_deref(), Some("b"));
        a.compared(8000, &id("b"), false);
        assert_eq!(next(&a, 8000 + RETRY_MS - 1), None);
        assert_eq!(next(&a, 8000 + RETRY_MS).as_deref(), Some("b"));
        assert_eq!(a.age_ms(8000), 7990, "a failure is no comparison");
        // Who has left the ring is forgotten.
        members(&mut a, 9000, &[("a", true)]);
        assert_eq!(next(&a, 10 * INTERVAL_MS), None);
    }

    #[test]
    fn a_repair_asks_all_at_once_and_each_once() {
        let mut b = schedule("b");
        let all = [("a", true), ("b", true), ("c", false), ("d", true)];
        members(&mut b, 0, &all);
        for peer in ["a", "d"] {
            b.compared(1, &id(peer), true);
        }
        assert_eq!(b.want_all(), 3);
        let mut asked = Vec::new();
        while let Some(next) = b.next(2) {
            assert!(next.is_wanted);
            assert_eq!(next.is_alive, next.node != id("c"));
            b.compared(2, &next.node, next.is_alive);
            asked.push(next.node.to_string());
        }
        assert_eq!(asked.len(), 3);
        assert_eq!(asked[2], "c", "who is not there comes last");
        assert!(!b.wants_any());
    }
}
