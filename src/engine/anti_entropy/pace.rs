//! How fast a node moves what a change of the ring has it move, and how long that will take.

use std::collections::VecDeque;

use dynakv_protocol::moving::Moving;

/// How many looks back the speed is that of. With one look a second it is that of the last ten seconds: segments end by
/// the page, so that less would jump.
const LOOKS_MAX: usize = 11;

/// How far it was at a moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at_ms: u64,
    segments_left: u32,
    bytes: u64,
}

/// How far it was lately.
#[derive(Debug, Default)]
pub struct Pace {
    looks: VecDeque<Look>,
    /// How much was moved before it began.
    bytes_before: u64,
}

impl Pace {
    /// Looks once more; nothing where nothing is left. `bytes` are all that were ever moved.
    pub fn look(&mut self, now_ms: u64, segments_left: u32, bytes: u64) -> Option<Moving> {
        match self.looks.back() {
            None => self.bytes_before = bytes,
            // Something was lost, or came to it: how fast it was says nothing.
            Some(last) if segments_left > last.segments_left => self.looks.clear(),
            Some(_) => {}
        }
        if segments_left == 0 {
            self.looks.clear();
            return None;
        }
        self.looks.push_back(Look {
            at_ms: now_ms,
            segments_left,
            bytes,
        });
        if self.looks.len() > LOOKS_MAX {
            self.looks.pop_front();
        }
        let first = self.looks.front()?;
        let took_ms = now_ms.saturating_sub(first.at_ms);
        let per_s = |moved: u64| moved.saturating_mul(1000).checked_div(took_ms);
        let done = u64::from(first.segments_left - segments_left);
        let left_ms = (u64::from(segments_left) * took_ms).checked_div(done);
        Some(Moving {
            segments_left,
            bytes: bytes.saturating_sub(self.bytes_before),
            bytes_per_s: per_s(bytes.saturating_sub(first.bytes)).unwrap_or(0),
            seconds_left: left_ms.map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moving(segments_left: u32, bytes: u64, bytes_per_s: u64, seconds: Option<u32>) -> Moving {
        Moving {
            segments_left,
            bytes,
            bytes_per_s,
            seconds_left: seconds,
        }
    }

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let mut pace = Pace::default();
        assert_eq!(pace.look(0, 0, 500), None);
        // What was moved before is none of it.
        assert_eq!(pace.look(1000, 1000, 500), Some(moving(1000, 0, 0, None)));
        let begun = pace.look(2000, 900, 1500);
        assert_eq!(begun, Some(moving(900, 1000, 1000, Some(9))));
        for second in 3..=12 {
            pace.look(second * 1000, 900 - second as u32, 1500);
        }
        // What was fast is too long ago.
        let slow = pace.look(13_000, 887, 1511).unwrap();
        assert_eq!((slow.bytes, slow.bytes_per_s), (1011, 1));
        assert_eq!(slow.seconds_left, Some(887));
    }

    #[test]
    fn what_stands_still_takes_no_one_knows_how_long() {
        let mut pace = Pace::default();
        pace.look(0, 10, 0);
        pace.look(1000, 5, 100);
        let stalled: Vec<_> = (2..=12).map(|it| pace.look(it * 1000, 5, 100)).collect();
        assert_eq!(stalled.last(), Some(&Some(moving(5, 100, 0, None))));
    }

    #[test]
    fn another_change_begins_anew() {
        let mut pace = Pace::default();
        pace.look(0, 10, 0);
        pace.look(1000, 5, 100);
        assert_eq!(pace.look(2000, 50, 120), Some(moving(50, 120, 0, None)));
        assert_eq!(pace.look(3000, 0, 190), None);
        assert_eq!(pace.look(4000, 7, 200), Some(moving(7, 0, 0, None)));
        // A clock that stands still tells nothing.
        let again = pace.look(4000, 6, 300);
        assert_eq!(again, Some(moving(6, 100, 0, Some(0))));
    }
}
