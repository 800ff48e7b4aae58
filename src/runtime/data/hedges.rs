//! Reads that may ask one owner more, in the order in which they come to that.
//!
//! The delays come in few steps, and each step has a queue of its own, which is in order by itself: to
//! take a read in or out costs as good as nothing. A read that has ended stays in its queue until it comes
//! to the front or falls due; there it is passed over.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::operations::OperationId;
use crate::engine::read::hedge::DELAYS;

/// The most reads that wait in one queue. What is beyond is left to the rule for late reads.
const WAITING_MAX: usize = 64 * 1024;

/// What falls due this long after its time does so because this process was busy or paused. Answers may
/// lie about that nobody has read.
const PAUSE: Duration = Duration::from_millis(2);

/// How long to wait for them.
const CATCH_UP: Duration = Duration::from_millis(1);

/// The queues, one for each delay.
#[derive(Debug, Default)]
pub struct Hedges {
    queues: [VecDeque<(Instant, OperationId)>; DELAYS.len()],
    /// After a pause of this process: when to look at what is due.
    catching_up_until: Option<Instant>,
}

impl Hedges {
    /// Takes in a read that began now and may ask one more after `DELAYS[step]`.
    pub fn push(&mut self, step: usize, now: Instant, id: OperationId) {
        if let (Some(queue), Some(delay)) = (self.queues.get_mut(step), DELAYS.get(step))
            && queue.len() < WAITING_MAX
        {
            queue.push_back((now + *delay, id));
        }
    }

    /// When to look at the queues again. Reads that have ended by then are taken out of the fronts.
    pub fn next_at(&mut self, is_in_hand: impl Fn(OperationId) -> bool) -> Option<Instant> {
        let mut next = None;
        for queue in &mut self.queues {
            while let Some(&(at, id)) = queue.front() {
                if is_in_hand(id) {
                    next = Some(next.map_or(at, |next: Instant| next.min(at)));
                    break;
                }
                queue.pop_front();
            }
        }
        let not_before = self.catching_up_until;
        next.map(|next| not_before.map_or(next, |not_before| next.max(not_before)))
    }

    /// Puts into `due` what is due.
    pub fn take_due(&mut self, now: Instant, due: &mut Vec<OperationId>) {
        match self.catching_up_until {
            Some(until) if now < until => return,
            Some(_) => self.catching_up_until = None,
            None if self.was_paused(now) => {
                self.catching_up_until = Some(now + CATCH_UP);
                return;
            }
            None => {}
        }
        for queue in &mut self.queues {
            while let Some(&(_, id)) = queue.front().filter(|(at, _)| *at <= now) {
                queue.pop_front();
                due.push(id);
            }
        }
    }

    fn was_paused(&self, now: Instant) -> bool {
        let mut fronts = self.queues.iter().filter_map(VecDeque::front);
        fronts.any(|&(at, _)| now > at + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::operation::Purpose;

    fn id(number: u64) -> OperationId {
        let message = number | (Purpose::Read as u64) << 56;
        OperationId::parse(message).unwrap().0
    }

    fn due(hedges: &mut Hedges, now: Instant) -> Vec<OperationId> {
        let mut due = Vec::new();
        hedges.take_due(now, &mut due);
        due
    }

    #[test]
    fn the_next_one_is_the_first_of_all_steps_that_is_still_in_hand() {
        let (mut hedges, now) = (Hedges::default(), Instant::now());
        hedges.push(2, now, id(1));
        hedges.push(0, now, id(2));
        hedges.push(0, now, id(3));
        assert_eq!(hedges.next_at(|_| true), Some(now + DELAYS[0]));
        assert_eq!(due(&mut hedges, now), []);
        assert_eq!(due(&mut hedges, now + DELAYS[0]), [id(2), id(3)]);
        assert_eq!(hedges.next_at(|_| true), Some(now + DELAYS[2]));
        assert_eq!(hedges.next_at(|it| it != id(1)), None);
        assert_eq!(due(&mut hedges, now + DELAYS[2]), []);
    }

    #[test]
    fn after_a_pause_answers_come_first() {
        let (mut hedges, now) = (Hedges::default(), Instant::now());
        hedges.push(0, now, id(1));
        let woken = now + DELAYS[0] + Duration::from_millis(30);
        assert_eq!(due(&mut hedges, woken), []);
        assert_eq!(hedges.next_at(|_| true), Some(woken + CATCH_UP));
        assert_eq!(due(&mut hedges, woken + CATCH_UP / 2), []);
        // However busy it is: the second time it is done.
        assert_eq!(due(&mut hedges, woken + 5 * CATCH_UP), [id(1)]);
        assert_eq!(hedges.next_at(|_| true), None);
    }

    #[test]
    fn queues_have_an_end() {
        let (mut hedges, now) = (Hedges::default(), Instant::now());
        for number in 0..WAITING_MAX as u64 + 10 {
            hedges.push(1, now, id(number));
        }
        assert_eq!(due(&mut hedges, now + DELAYS[1]).len(), WAITING_MAX);
    }
}
