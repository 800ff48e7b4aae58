//! Which owner coordinates a write when the one whose turn it is has a slow disk.
//!
//! A coordinator's own disk is in the way of every write that it mints, while of the others' only the
//! fastest W − 1 are. So what a durable copy costs each node is learnt, an exponentially weighted mean, and
//! an owner that is several times slower than another one is passed over. It takes part as before, so that
//! it is seen when it gets faster: nobody has to try it. Any coordinator is safe; that blind writes meet at
//! one is only the rule, so all that see the same choose the same: the first owner that is not slow.

use std::time::Duration;

use super::preference::NodeSlot;
use super::quorum::Place;

/// A sample moves the estimate by 1/8 of the difference.
const WEIGHT: u64 = 8;

/// Below this nobody is slow: a request more between two nodes costs as much as it would save.
const SLOW_MIN: Duration = Duration::from_millis(30);

/// So many times as slow as another owner is slow.
const SLOWER: u64 = 4;

/// Who is passed over stays so until it is less than so many times as slow.
const SLOWER_STILL: u64 = 2;

/// What was learnt of a slow owner longer ago says nothing: who has not written since may be fast again.
const SLOW_FOR: Duration = Duration::from_secs(2);

/// The same of who takes its place. Its copies are seen only by whoever coordinates, which a node with a slow
/// disk does no more; so it is believed for longer, and once in a while a write shows it anew.
const FAST_FOR: Duration = Duration::from_secs(30);

/// Estimates end here.
const LATENCY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    latency_us: u64,
    noted_at: Option<Duration>,
    is_passed_over: bool,
}

/// What a durable copy costs each node.
#[derive(Debug, Default)]
pub struct Writers {
    /// By slot.
    nodes: Vec<Node>,
}

impl Writers {
    /// A node has taken so long to make a copy durable. `now` is the time since the process began.
    pub fn note(&mut self, node: NodeSlot, took: Duration, now: Duration) {
        let us = took.min(LATENCY_MAX).as_micros() as u64;
        let at = usize::from(node.0);
        if at >= self.nodes.len() {
            self.nodes.resize(at + 1, Node::default());
        }
        let node = &mut self.nodes[at];
        let is_known = node.noted_at.is_some_and(|at| now < at + SLOW_FOR);
        node.latency_us = match is_known {
            true => (node.latency_us * (WEIGHT - 1) + us) / WEIGHT,
            false => us,
        };
        node.noted_at = Some(now);
    }

    /// Who coordinates instead of the owner at `first`: the first of `others`, owners in reach in the order
    /// of preference, that is several times faster. `None` when that owner is as good as any.
    pub fn instead_of(
        &mut self,
        first: NodeSlot,
        others: impl Iterator<Item = (Place, NodeSlot)>,
        now: Duration,
    ) -> Option<Place> {
        let slow = self.node(first);
        let latency_us = self.latency_us(first, SLOW_FOR, now)?;
        if latency_us < SLOW_MIN.as_micros() as u64 {
            self.pass_over(first, false);
            return None;
        }
        let times = match slow.is_passed_over {
            true => SLOWER_STILL,
            false => SLOWER,
        };
        let mut faster = others.filter(|&(_, node)| {
            // Of whom nothing is known nothing speaks for it either.
            let other = self.latency_us(node, FAST_FOR, now);
            other.is_some_and(|other| other.saturating_mul(times) <= latency_us)
        });
        let instead = faster.next().map(|(place, _)| place);
        drop(faster);
        self.pass_over(first, instead.is_some());
        instead
    }

    fn pass_over(&mut self, node: NodeSlot, is_passed_over: bool) {
        if let Some(node) = self.nodes.get_mut(usize::from(node.0)) {
            node.is_passed_over = is_passed_over;
        }
    }

    fn node(&self, node: NodeSlot) -> Node {
        let node = self.nodes.get(usize::from(node.0));
        node.copied().unwrap_or_default()
    }

    /// What was learnt of a node, not longer ago than that.
    fn latency_us(&self, node: NodeSlot, within: Duration, now: Duration) -> Option<u64> {
        let node = self.node(node);
        let noted_at = node.noted_at?;
        (now < noted_at + within).then_some(node.latency_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::preference::SELF;

    const A: NodeSlot = NodeSlot(1);
    const B: NodeSlot = NodeSlot(2);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// So many rounds in which each node makes a copy durable, a millisecond apart.
    fn rounds(writers: &mut Writers, now: &mut Duration, count: u64, took: [u64; 3]) {
        for _ in 0..count {
            *now += ms(1);
            for (node, took) in [SELF, A, B].into_iter().zip(took) {
                writers.note(node, ms(took), *now);
            }
        }
    }

    fn instead_of_self(writers: &mut Writers, now: Duration) -> Option<Place> {
        writers.instead_of(SELF, [(1, A), (2, B)].into_iter(), now)
    }

    #[test]
    fn a_slow_owner_is_passed_over_and_comes_back_when_it_is_fast_again() {
        let (mut writers, mut now) = (Writers::default(), Duration::ZERO);
        rounds(&mut writers, &mut now, 100, [5, 5, 5]);
        assert_eq!(instead_of_self(&mut writers, now), None);
        rounds(&mut writers, &mut now, 20, [210, 5, 5]);
        assert_eq!(instead_of_self(&mut writers, now), Some(1));
        // The next one is slow, too: the one after it.
        rounds(&mut writers, &mut now, 40, [210, 210, 5]);
        assert_eq!(instead_of_self(&mut writers, now), Some(2));
        rounds(&mut writers, &mut now, 40, [5, 5, 5]);
        assert_eq!(instead_of_self(&mut writers, now), None);
    }

    #[test]
    fn where_all_are_slow_nobody_is_passed_over() {
        let (mut writers, mut now) = (Writers::default(), Duration::ZERO);
        rounds(&mut writers, &mut now, 100, [210, 100, 210]);
        assert_eq!(instead_of_self(&mut writers, now), None);
        // And neither where all are fast, however much they differ.
        rounds(&mut writers, &mut now, 200, [20, 1, 1]);
        assert_eq!(instead_of_self(&mut writers, now), None);
    }

    #[test]
    fn it_does_not_go_to_and_fro_at_the_border() {
        let (mut writers, mut now) = (Writers::default(), Duration::ZERO);
        rounds(&mut writers, &mut now, 100, [90, 30, 30]);
        assert_eq!(instead_of_self(&mut writers, now), None);
        rounds(&mut writers, &mut now, 100, [200, 30, 30]);
        assert_eq!(instead_of_self(&mut writers, now), Some(1));
        rounds(&mut writers, &mut now, 100, [90, 30, 30]);
        assert_eq!(instead_of_self(&mut writers, now), Some(1));
        rounds(&mut writers, &mut now, 100, [50, 30, 30]);
        assert_eq!(instead_of_self(&mut writers, now), None);
    }

    #[test]
    fn what_was_learnt_long_ago_says_nothing() {
        let (mut writers, mut now) = (Writers::default(), Duration::ZERO);
        rounds(&mut writers, &mut now, 100, [210, 5, 5]);
        now += SLOW_FOR;
        assert_eq!(instead_of_self(&mut writers, now), None);
        // One sample is enough to begin with.
        rounds(&mut writers, &mut now, 1, [210, 5, 5]);
        assert_eq!(instead_of_self(&mut writers, now), Some(1));
        // Who has said nothing is not chosen.
        let mut writers = Writers::default();
        writers.note(SELF, ms(210), now);
        assert_eq!(instead_of_self(&mut writers, now), None);
    }
}
