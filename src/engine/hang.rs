//! Whether this node's disk answers: a sync or a read that does not come back makes the node *not usable*.
//!
//! A disk that hangs is worse than one that fails: the node lives, takes requests, and answers none of
//! them. So who works with the disk counts what it begins and ends, and here it is judged whether what is
//! under way lasts too long. What is counted is time in which this process looked: while it stood still
//! itself (a paused machine, a busy one), nothing is held against the disk.

use std::time::Duration;

/// What works with the disk, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Lane {
    /// The store's writer: every write waits for it.
    Writer = 0,
    /// The store's reader: every read waits for it.
    Reader = 1,
    /// The keeper of hints: what stands in for other nodes waits for it.
    Hints = 2,
    /// Syncs of the log that nobody waits for, under interval durability.
    Background = 3,
}

/// How many there are.
pub const LANES: usize = 4;

/// A disk that does not come back for this long hangs. The slowest that is healthy, a hard disk with a full
/// queue, syncs in some hundred milliseconds; a forwarder waits as long for an owner.
pub const HANGS_AFTER: Duration = Duration::from_secs(1);

/// The same for what nobody waits for: such a sync has more to write.
pub const BACKGROUND_HANGS_AFTER: Duration = Duration::from_secs(5);

/// A disk that hung a short while ago is believed less: it hangs after this long.
pub const RELAPSES_AFTER: Duration = Duration::from_millis(250);

/// For how long it is believed less.
pub const DOUBTED_FOR: Duration = Duration::from_secs(10);

/// The most that one look counts for. Looks come every 10 ms or so; a longer gap is this process's own.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// What a look has found that was not so before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The disk hangs: the node is not usable.
    Hangs,
    /// All that was under way has come back: the node is usable again.
    Answers,
}

#[derive(Debug, Clone, Copy, Default)]
struct Watched {
    /// What was under way at the last look.
    progress: u64,
    /// For how long it has been.
    lasted: Duration,
    hangs: bool,
}

/// Judges the disk from look to look.
#[derive(Debug, Default)]
pub struct Hang {
    lanes: [Watched; LANES],
    looked_at: Duration,
    /// How long the hang that there is has lasted, in the lane where it lasts longest.
    lasted: Duration,
    /// Until then it is believed less.
    doubted_until: Duration,
}

impl Hang {
    /// Looks at how far each lane is: a number that changes whenever something begins or ends there, and
    /// is odd while something is under way. `now` is the time since the process began.
    pub fn look(&mut self, progress: [u64; LANES], now: Duration) -> Option<Change> {
        let passed = now.saturating_sub(self.looked_at).min(LOOK_MAX);
        self.looked_at = now;
        let hung = self.hangs();
        let is_doubted = now < self.doubted_until;
        for (at, (lane, progress)) in self.lanes.iter_mut().zip(progress).enumerate() {
            if progress != lane.progress {
                *lane = Watched {
                    progress,
                    ..Watched::default()
                };
            } else if progress % 2 == 1 {
                lane.lasted += passed;
                let most = match is_doubted {
                    _ if at == Lane::Background as usize => BACKGROUND_HANGS_AFTER,
                    true => RELAPSES_AFTER,
                    false => HANGS_AFTER,
                };
                lane.hangs |= lane.lasted >= most;
                if lane.hangs {
                    self.lasted = self.lasted.max(lane.lasted);
                }
            }
        }
        match (hung, self.hangs()) {
            (false, true) => Some(Change::Hangs),
            (true, false) => {
                // What only a doubted disk is blamed for does not renew the doubt: one that is slow but healthy would
                // go on hanging for ever.
                if std::mem::take(&mut self.lasted) >= HANGS_AFTER {
                    self.doubted_until = now + DOUBTED_FOR;
                }
                Some(Change::Answers)
            }
            (true, true) | (false, false) => None,
        }
    }

    /// Whether the disk hangs, in any of its lanes.
    pub fn hangs(&self) -> bool {
        self.lanes.iter().any(|lane| lane.hangs)
    }

    /// Whether this lane hangs.
    pub fn hangs_in(&self, lane: Lane) -> bool {
        self.lanes.get(lane as usize).is_some_and(|it| it.hangs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    #[derive(Default)]
    struct World {
        hang: Hang,
        now: Duration,
        progress: [u64; LANES],
    }

    impl World {
        /// Looks every 10 ms for so long; what changed, and after how long.
        fn pass(&mut self, time: Duration) -> Vec<(Change, Duration)> {
            let began = self.now;
            let mut changes = Vec::new();
            while self.now < began + time {
                self.now += TICK;
                let change = self.hang.look(self.progress, self.now);
                changes.extend(change.map(|change| (change, self.now - began)));
            }
            changes
        }

        fn begin_or_end(&mut self, lane: Lane) {
            self.progress[lane as usize] += 1;
        }
    }

    #[test]
    fn a_sync_that_does_not_come_back_is_noticed_and_forgotten_as_soon_as_it_does() {
        for lane in [Lane::Writer, Lane::Reader, Lane::Hints] {
            let mut world = World::default();
            assert_eq!(world.pass(3 * HANGS_AFTER), []);
            world.begin_or_end(lane);
            let noticed = world.pass(2 * HANGS_AFTER);
            assert_eq!(noticed, [(Change::Hangs, HANGS_AFTER + TICK)]);
            assert!(world.hang.hangs() && world.hang.hangs_in(lane));
            assert_eq!(world.pass(100 * HANGS_AFTER), []);
            world.begin_or_end(lane);
            assert_eq!(world.pass(HANGS_AFTER), [(Change::Answers, TICK)]);
            assert!(!world.hang.hangs() && !world.hang.hangs_in(lane));
        }
    }

    #[test]
    fn a_disk_that_gets_on_is_slow_and_does_not_hang() {
        let mut world = World::default();
        for _ in 0..100 {
            // One sync ends and the next begins between two looks.
            world.progress[Lane::Writer as usize] += 2;
            world.progress[Lane::Writer as usize] |= 1;
            assert_eq!(world.pass(HANGS_AFTER * 9 / 10), []);
        }
    }

    #[test]
    fn what_hangs_again_is_noticed_sooner_for_a_while() {
        let mut world = World::default();
        world.begin_or_end(Lane::Writer);
        world.pass(2 * HANGS_AFTER);
        world.begin_or_end(Lane::Writer);
        world.pass(HANGS_AFTER);
        world.begin_or_end(Lane::Writer);
        let noticed = world.pass(HANGS_AFTER);
        assert_eq!(noticed, [(Change::Hangs, RELAPSES_AFTER + TICK)]);
        world.begin_or_end(Lane::Writer);
        world.pass(DOUBTED_FOR + HANGS_AFTER);
        world.begin_or_end(Lane::Writer);
        assert_eq!(world.pass(HANGS_AFTER), []);
    }

    #[test]
    fn a_slow_disk_that_hung_once_is_believed_again() {
        let mut world = World::default();
        world.begin_or_end(Lane::Writer);
        world.pass(2 * HANGS_AFTER);
        world.begin_or_end(Lane::Writer);
        let answered = world.pass(TICK);
        assert_eq!(answered, [(Change::Answers, TICK)]);
        let begins = world.now;
        world.begin_or_end(Lane::Writer);
        let mut late = Vec::new();
        for _ in 0..200 {
            late = world.pass(Duration::from_millis(300));
            if world.now < begins + DOUBTED_FOR + HANGS_AFTER {
                late.clear();
            }
            // One sync ends and the next begins between two looks.
            world.progress[Lane::Writer as usize] += 2;
            assert_eq!(late, [], "{:?}", world.now);
        }
        assert!(world.now > begins + Duration::from_secs(59));
        assert_eq!(late, []);
    }

    #[test]
    fn a_pause_of_this_process_is_not_held_against_the_disk() {
        let mut world = World::default();
        world.begin_or_end(Lane::Writer);
        world.pass(HANGS_AFTER / 2);
        world.now += Duration::from_secs(3600);
        assert_eq!(world.hang.look(world.progress, world.now), None);
        // What is left hangs all the same.
        assert_eq!(world.pass(HANGS_AFTER).len(), 1);
    }

    #[test]
    fn a_sync_that_nobody_waits_for_has_more_time() {
        let mut world = World::default();
        world.begin_or_end(Lane::Background);
        let noticed = world.pass(2 * BACKGROUND_HANGS_AFTER);
        assert_eq!(noticed, [(Change::Hangs, BACKGROUND_HANGS_AFTER + TICK)]);
    }

    #[test]
    fn it_hangs_until_all_of_it_has_come_back() {
        let mut world = World::default();
        world.begin_or_end(Lane::Writer);
        world.begin_or_end(Lane::Reader);
        assert_eq!(world.pass(2 * HANGS_AFTER).len(), 1);
        world.begin_or_end(Lane::Writer);
        assert_eq!(world.pass(HANGS_AFTER), []);
        assert!(!world.hang.hangs_in(Lane::Writer) && world.hang.hangs());
        world.begin_or_end(Lane::Reader);
        assert_eq!(world.pass(HANGS_AFTER), [(Change::Answers, TICK)]);
    }
}
