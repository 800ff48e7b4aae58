//! When the disk of a machine hung.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A node notices within this time that its disk answers: it looks every 10 ms.
const NOTICED_WITHIN: Duration = Duration::from_millis(50);

/// The hangs of one disk, in order. Clones are the same book.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hangs(Rc<RefCell<Vec<Hang>>>);

#[derive(Debug, Clone, Copy)]
struct Hang {
    began: Duration,
    /// Nothing while it lasts.
    ended: Option<Duration>,
}

impl Hangs {
    /// From now on the disk hangs, or it answers.
    pub(crate) fn note(&self, hangs: bool, now: Duration) {
        let mut all = self.0.borrow_mut();
        let last = all.last_mut().filter(|last| last.ended.is_none());
        match (last, hangs) {
            (None, true) => all.push(Hang {
                began: now,
                ended: None,
            }),
            (Some(last), false) => last.ended = Some(now),
            (Some(_), true) | (None, false) => {}
        }
    }

    /// Whether the node may have held its disk for one that hangs, at some time between these two; until now without
    /// the second.
    pub(crate) fn any_between(&self, from: Duration, until: Option<Duration>) -> bool {
        let is_between = |hang: &Hang| {
            until.is_none_or(|until| hang.began <= until)
                && hang
                    .ended
                    .is_none_or(|ended| ended + NOTICED_WITHIN >= from)
        };
        self.0.borrow().iter().any(is_between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hang_lasts_until_the_node_notices_that_it_is_over() {
        let ms = Duration::from_millis;
        let hangs = Hangs::default();
        assert!(!hangs.any_between(ms(0), None));
        hangs.note(false, ms(500));
        hangs.note(true, ms(1_000));
        hangs.note(true, ms(1_500));
        assert!(hangs.any_between(ms(5_000), None));
        assert!(hangs.any_between(ms(0), Some(ms(1_000))));
        assert!(!hangs.any_between(ms(0), Some(ms(999))));
        hangs.note(false, ms(2_000));
        hangs.note(false, ms(3_000));
        assert!(hangs.any_between(ms(2_000), None));
        assert!(hangs.any_between(ms(2_050), Some(ms(9_000))));
        assert!(!hangs.any_between(ms(2_051), None));
        hangs.note(true, ms(4_000));
        assert!(hangs.any_between(ms(2_051), None));
        assert!(!hangs.any_between(ms(2_051), Some(ms(3_999))));
    }
}
