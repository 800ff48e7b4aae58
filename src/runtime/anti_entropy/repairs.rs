//! Between those who ask for a repair and anti-entropy: what is wanted, and how far it is.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynakv_protocol::NodeId;
use dynakv_protocol::repair::{Repair, RepairProgress};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What is wanted of anti-entropy, and what it says.
#[derive(Debug)]
pub struct Repairs {
    state: Mutex<State>,
    wanted: Notify,
}

#[derive(Debug)]
struct State {
    progress: RepairProgress,
    started: Option<Instant>,
    finished: Option<Instant>,
    wish: Option<Wish>,
    asked_by: BTreeSet<NodeId>,
}

/// A repair that is to be begun, or one under way that gets a wish more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Whether what nobody can bring back is given up.
    pub accept_loss: bool,
}

impl Repairs {
    /// Nothing was asked for yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            state: Mutex::new(State {
                progress: RepairProgress::none(me),
                started: None,
                finished: None,
                wish: None,
                asked_by: BTreeSet::new(),
            }),
            wanted: Notify::new(),
        }
    }

    /// Does what an operator asks for, and tells how far it is; `rebuilding_segments` are left.
    pub fn on_request(&self, repair: Repair, rebuilding_segments: u32) -> RepairProgress {
        let mut state = self.state();
        let is_news = match repair {
            Repair::Look => false,
            Repair::Start => !state.progress.running,
            Repair::AcceptLoss => true,
        };
        if is_news {
            if !state.progress.running {
                state.progress = RepairProgress {
                    run: state.progress.run + 1,
                    running: true,
                    ..RepairProgress::none(state.progress.node_id.clone())
                };
                state.started = Some(Instant::now());
                state.finished = None;
            }
            state.wish = Some(Wish {
                accept_loss: repair == Repair::AcceptLoss,
            });
            self.wanted.notify_one();
        }
        let age_ms = |since: Instant| since.elapsed().as_millis() as u64;
        RepairProgress {
            rebuilding_segments,
            started_age_ms: state.started.map(age_ms),
            finished_age_ms: state.finished.map(age_ms),
            ..state.progress.clone()
        }
    }

    /// Another node has begun to compare its copies with this one's.
    pub fn note_asked_by(&self, node: &NodeId) {
        self.state().asked_by.insert(node.clone());
    }

    /// Who has since this was last asked. Members of the ring all, so not more than there are of these.
    pub fn take_asked_by(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.state().asked_by)
    }

    /// What is wanted and was not begun yet.
    pub fn take_wish(&self) -> Option<Wish> {
        self.state().wish.take()
    }

    /// Waits until something is wanted. May have been fulfilled already.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether one is under way.
    pub fn is_running(&self) -> bool {
        self.state().progress.running
    }

    /// Changes what is told of the repair under way; nothing when there is none.
    pub fn update(&self, change: impl FnOnce(&mut RepairProgress)) {
        let mut state = self.state();
        if state.progress.running {
            change(&mut state.progress);
        }
    }

    /// The repair under way has come to its end, unless more was wanted meanwhile. What it came to.
    pub fn finish(&self) -> Option<RepairProgress> {
        let mut state = self.state();
        if !state.progress.running || state.wish.is_some() {
            return None;
        }
        state.progress.running = false;
        state.progress.comparing_with = None;
        state.finished = Some(Instant::now());
        Some(state.progress.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole between any two operations.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_repair_at_a_time_is_begun_and_told_of() {
        let repairs = Repairs::new(NodeId::new("n").unwrap());
        let none = repairs.on_request(Repair::Look, 5);
        assert_eq!((none.run, none.running), (0, false));
        assert_eq!((none.rebuilding_segments, none.started_age_ms), (5, None));
        assert_eq!(repairs.take_wish(), None);
        let first = repairs.on_request(Repair::Start, 0);
        assert_eq!((first.run, first.running), (1, true));
        repairs.wanted().await;
        assert_eq!(repairs.finish(), None, "it was not even begun");
        assert_eq!(repairs.take_wish(), Some(Wish { accept_loss: false }));
        repairs.update(|progress| progress.keys_sent += 3);
        tokio::time::advance(std::time::Duration::from_millis(70)).await;
        // The second one follows the first.
        let second = repairs.on_request(Repair::Start, 0);
        assert_eq!((second.run, second.keys_sent), (1, 3));
        assert_eq!(second.started_age_ms, Some(70));
        assert_eq!(repairs.take_wish(), None);
        // A wish to accept losses is heard all the same.
        repairs.on_request(Repair::AcceptLoss, 0);
        assert_eq!(repairs.take_wish(), Some(Wish { accept_loss: true }));
        assert_eq!(repairs.finish().unwrap().keys_sent, 3);
        assert_eq!(repairs.finish(), None);
        repairs.update(|progress| progress.keys_sent += 3);
        let done = repairs.on_request(Repair::Look, 0);
        assert_eq!((done.keys_sent, done.finished_age_ms), (3, Some(0)));
        assert_eq!(repairs.on_request(Repair::Start, 0).run, 2);
    }
}
