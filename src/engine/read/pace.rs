//! How fast the other owners answer reads, and whom to ask first.
//!
//! Of each node an estimate of its latency is kept, an exponentially weighted mean, and how many reads it
//! has been sent and not answered. What a node costs is its latency times its queue, so that a node that
//! stops is left at once, before any answer could be late, and equally fast ones share the load. Between
//! two candidates the turn decides unless one is clearly cheaper: the power of two choices (Mitzenmacher,
//! 2001), with what C3 (Suresh, Canini, Schmid and Feldmann, 2015) keeps at the client.
//!
//! Whoever is passed over answers nothing that could show that it is fast again. So now and then it is
//! tried, with one owner more than needed, so that nobody waits for it.

use std::time::Duration;

use crate::engine::placement::preference::NodeSlot;
use crate::engine::quorum::Place;

/// An answer moves the estimate by 1/16 of the difference: the mean is over about one batch of answers.
const WEIGHT: u64 = 16;

/// The same for an answer to a trial. They are rare, and a node that is fast again should soon be used.
const TRIAL_WEIGHT: u64 = 2;

/// Latencies below this are equal: what differs there is how batches fall.
const LATENCY_MIN_US: u64 = 100;

/// The estimate of a node that has not answered yet.
const LATENCY_FIRST_US: u64 = 500;

/// Estimates end here: a node that was away for minutes must not take hours to be believed.
const LATENCY_MAX_US: u64 = 1_000_000;

/// What a refusal counts as: it comes fast, but whoever is sent one has to ask another owner.
const REFUSED_US: u64 = 50_000;

/// A candidate is passed over when the next one costs less than 2/3 of it.
const CLEARLY_CHEAPER: (u64, u64) = (3, 2);

/// How often a node that is passed over is tried, when it owes no answer.
const TRIAL_EVERY: Duration = Duration::from_millis(100);

/// The same when it does: it may be frozen, and each trial is one answer more that it owes.
const TRIAL_OWING_EVERY: Duration = Duration::from_secs(2);

/// What is known of one node.
#[derive(Debug, Clone, Copy)]
struct Node {
    latency_us: u64,
    /// Reads it was sent and has not answered.
    owed: u32,
    /// When it was last sent one, since the start of this process.
    asked_at: Option<Duration>,
    /// When it was sent the read that it has owed an answer to since it owed none: the sample that is
    /// left when the operation has ended before the answer.
    owing_since: Option<Duration>,
    /// It was asked although another would have been cheaper.
    on_trial: bool,
}

impl Node {
    const NEW: Self = Self {
        latency_us: LATENCY_FIRST_US,
        owed: 0,
        asked_at: None,
        owing_since: None,
        on_trial: false,
    };

    fn cost(&self) -> u64 {
        self.latency_us.max(LATENCY_MIN_US) * (u64::from(self.owed) + 1)
    }

    fn may_be_tried(&self, now: Duration) -> bool {
        let every = if self.owed == 0 {
            TRIAL_EVERY
        } else {
            TRIAL_OWING_EVERY
        };
        self.asked_at.is_none_or(|at| now >= at + every)
    }

    fn sample(&mut self, us: u64, weight: u64) {
        let us = us.min(LATENCY_MAX_US);
        // Rounded up on the way up, so that the last steps are made too.
        if us > self.latency_us {
            self.latency_us += (us - self.latency_us).div_ceil(weight);
        } else {
            self.latency_us -= (self.latency_us - us) / weight;
        }
    }
}

/// How fast the other nodes are.
#[derive(Debug, Default)]
pub struct Pace {
    /// By slot.
    nodes: Vec<Node>,
}

impl Pace {
    /// A node was sent a read. Times are since the start of the process.
    pub fn asked(&mut self, node: NodeSlot, now: Duration) {
        let node = self.node_mut(node);
        node.owed += 1;
        node.asked_at = Some(now);
        if node.owed == 1 {
            node.owing_since = Some(now);
        }
    }

    /// A node has answered a read, `took` after it was sent it where that is still known.
    pub fn answered(&mut self, node: NodeSlot, took: Option<Duration>, now: Duration) {
        let node = self.node_mut(node);
        node.owed = node.owed.saturating_sub(1);
        let since = node.owing_since.take().map(|since| now - since);
        let weight = match std::mem::take(&mut node.on_trial) {
            true => TRIAL_WEIGHT,
            false => WEIGHT,
        };
        if let Some(took) = took.or(since) {
            node.sample(micros(took), weight);
        }
    }

    /// A node has refused a read.
    pub fn refused(&mut self, node: NodeSlot) {
        let node = self.node_mut(node);
        node.owed = node.owed.saturating_sub(1);
        node.owing_since = None;
        node.on_trial = false;
        if node.latency_us < REFUSED_US {
            node.sample(REFUSED_US, TRIAL_WEIGHT);
        }
    }

    /// A node owes the answer to a read for this long already.
    pub fn overdue(&mut self, node: NodeSlot, waited: Duration) {
        let node = self.node_mut(node);
        let waited = micros(waited);
        if waited > node.latency_us {
            node.sample(waited, WEIGHT);
        }
    }

    /// The link to a node is gone, and what it owed with it.
    pub fn lost(&mut self, node: NodeSlot) {
        let node = self.node_mut(node);
        node.owed = 0;
        node.owing_since = None;
        node.on_trial = false;
    }

    /// How long a node is expected to take over a read.
    pub fn expects(&self, node: NodeSlot) -> Duration {
        Duration::from_micros(self.node(node).latency_us)
    }

    /// Brings candidates that stand in the order of their turns into the one in which to ask them, when
    /// `needed` of them are asked at once. True when the first is tried although the second would be
    /// cheaper: then ask one more than needed.
    ///
    /// Each is held against the next one only, and who loses against the one after: as many steps as
    /// there are candidates, and the slowest ends last.
    pub fn order(
        &mut self,
        candidates: &mut [(Place, NodeSlot)],
        needed: usize,
        now: Duration,
    ) -> bool {
        let mut is_trial = false;
        if candidates.len() <= needed {
            return is_trial;
        }
        for at in 1..candidates.len() {
            let (first, second) = (candidates[at - 1].1, candidates[at].1);
            if !self.is_clearly_cheaper(second, first) {
                continue;
            }
            if at == 1 && needed > 0 && self.node(first).may_be_tried(now) {
                self.node_mut(first).on_trial = true;
                is_trial = true;
                continue;
            }
            candidates.swap(at - 1, at);
        }
        is_trial
    }

    fn is_clearly_cheaper(&self, this: NodeSlot, than: NodeSlot) -> bool {
        let (more, less) = CLEARLY_CHEAPER;
        self.node(this).cost() * more < self.node(than).cost() * less
    }

    fn node(&self, slot: NodeSlot) -> &Node {
        self.nodes.get(usize::from(slot.0)).unwrap_or(&Node::NEW)
    }

    fn node_mut(&mut self, slot: NodeSlot) -> &mut Node {
        let at = usize::from(slot.0);
        if at >= self.nodes.len() {
            self.nodes.resize(at + 1, Node::NEW);
        }
        &mut self.nodes[at]
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: NodeSlot = NodeSlot(1);
    const C: NodeSlot = NodeSlot(2);
    const D: NodeSlot = NodeSlot(3);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    /// A cluster of others, each with a latency of its own that a test may change.
    struct World {
        pace: Pace,
        now: Duration,
        turn: usize,
        latency: [Duration; 3],
    }

    impl World {
        fn new(latency: [Duration; 3]) -> Self {
            Self {
                pace: Pace::default(),
                now: ms(1),
                turn: 0,
                latency,
            }
        }

        /// Whom the next read asks first of these, in the order of the turn.
        fn order(&mut self, nodes: &[NodeSlot]) -> (Vec<NodeSlot>, bool) {
            self.turn += 1;
            let mut candidates: Vec<(Place, NodeSlot)> = (0..nodes.len())
                .map(|step| (self.turn + step) % nodes.len())
                .map(|at| (at as Place, nodes[at]))
                .collect();
            let is_trial = self.pace.order(&mut candidates, 1, self.now);
            (candidates.iter().map(|it| it.1).collect(), is_trial)
        }

        /// Reads one after the other; how often each of B, C and D was asked.
        fn read(&mut self, times: usize, nodes: &[NodeSlot]) -> [usize; 3] {
            let mut asked = [0; 3];
            for _ in 0..times {
                let (order, is_trial) = self.order(nodes);
                let asking = &order[..1 + usize::from(is_trial)];
                for &node in asking {
                    asked[usize::from(node.0) - 1] += 1;
                    self.pace.asked(node, self.now);
                }
                let latencies = asking.iter().map(|it| self.latency[usize::from(it.0) - 1]);
                let begun = self.now;
                self.now += latencies.min().unwrap();
                for &node in asking {
                    let latency = self.latency[usize::from(node.0) - 1];
                    // Of a slower one only the answer comes, when nobody knows its question any more.
                    let known = (begun + latency <= self.now).then_some(latency);
                    self.pace.answered(node, known, begun + latency);
                }
            }
            asked
        }
    }

    #[test]
    fn equally_fast_nodes_share_the_load() {
        let mut world = World::new([us(300), us(330), us(280)]);
        let [b, c, d] = world.read(1000, &[B, C]);
        assert_eq!((b, c, d), (500, 500, 0));
    }

    #[test]
    fn the_faster_node_is_asked_and_the_slower_one_tried() {
        let mut world = World::new([us(300), ms(5), ms(5)]);
        world.read(200, &[B, C]);
        let (from, [b, c, _]) = (world.now, world.read(10_000, &[B, C]));
        assert_eq!(b, 10_000, "also beside each trial, so that nobody waits");
        let trials = (world.now - from).as_millis() / TRIAL_EVERY.as_millis();
        assert!(c > 0 && c as u128 <= trials + 1, "{c} of {trials}");
    }

    #[test]
    fn a_node_that_is_fast_again_is_used_again() {
        let mut world = World::new([us(300), ms(40), us(300)]);
        world.read(1000, &[B, C]);
        world.latency[1] = us(300);
        let from = world.now;
        let mut share = [0; 3];
        while share[1] < 400 {
            share = world.read(1000, &[B, C]);
            assert!(world.now - from < Duration::from_secs(5), "{share:?}");
        }
    }

    #[test]
    fn a_frozen_node_is_left_before_it_is_late() {
        let mut world = World::new([us(300); 3]);
        world.read(100, &[B, C]);
        let mut to_b = 0;
        for _ in 0..100 {
            let (order, is_trial) = world.order(&[B, C]);
            assert!(!is_trial);
            world.pace.asked(order[0], world.now);
            // B owes its answers.
            if order[0] == B {
                to_b += 1;
            } else {
                world.now += us(300);
                world.pace.answered(C, Some(us(300)), world.now);
            }
        }
        assert_eq!(to_b, 1);
        // When it is given up, it owes nothing, and is as fast as it was.
        world.pace.lost(B);
        let [b, c, _] = world.read(100, &[B, C]);
        assert_eq!((b, c), (50, 50));
    }

    #[test]
    fn a_node_that_owes_answers_is_tried_rarely() {
        let mut world = World::new([us(300); 3]);
        world.pace.asked(B, world.now);
        let mut trials = 0;
        let from = world.now;
        while world.now < from + Duration::from_secs(10) {
            let (order, is_trial) = world.order(&[B, C]);
            assert_eq!(order[0] == B, is_trial);
            if is_trial {
                trials += 1;
                world.pace.asked(B, world.now);
            }
            world.now += ms(1);
        }
        assert!((3..=5).contains(&trials), "{trials}");
    }

    #[test]
    fn the_slowest_of_many_ends_last() {
        let mut world = World::new([us(300), us(300), us(300)]);
        world.read(100, &[B, C, D]);
        for _ in 0..100 {
            world.pace.overdue(C, ms(50));
        }
        for _ in 0..3 {
            world.now += ms(1);
            let (order, is_trial) = world.order(&[B, C, D]);
            assert_eq!((order[2], is_trial), (C, false));
        }
    }

    #[test]
    fn refusals_are_fast_and_count_as_slow() {
        let mut world = World::new([us(300); 3]);
        world.read(10, &[B, C]);
        for _ in 0..10 {
            world.pace.asked(B, world.now);
            world.pace.refused(B);
        }
        assert!(world.pace.expects(B) > ms(40));
        for _ in 0..10 {
            assert_eq!(world.order(&[B, C]).0[0], C);
        }
    }

    #[test]
    fn estimates_move_towards_what_is_seen_and_stay_within_bounds() {
        let mut node = Node::NEW;
        for _ in 0..200 {
            node.sample(2_000, WEIGHT);
        }
        assert!((1_990..=2_000).contains(&node.latency_us));
        for _ in 0..1000 {
            node.sample(u64::MAX, WEIGHT);
        }
        assert_eq!(node.latency_us, LATENCY_MAX_US);
        for _ in 0..1000 {
            node.sample(0, WEIGHT);
        }
        assert!(node.latency_us < WEIGHT);
        assert_eq!(node.cost(), LATENCY_MIN_US);
    }
}
