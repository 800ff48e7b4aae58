//! Hybrid logical clock (Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical Physical Clocks", 2014):
//! 48 bits of milliseconds since 1970, 16 bits of counter.
//!
//! It never runs backwards and stays close to the wall clock. It breaks ties for last-write-wins and
//! dates siblings for people; causality never rests on it.

/// A remote timestamp this far ahead of the own clock is stored but not followed, in milliseconds.
pub const SKEW_MS_MAX: u64 = 60_000;

/// A node's hybrid clock.
#[derive(Debug, Clone, Default)]
pub struct HybridClock {
    last: u64,
}

impl HybridClock {
    /// A timestamp later than every one given or followed before.
    pub fn tick(&mut self, now_unix_ms: u64) -> u64 {
        self.last = (now_unix_ms << 16).max(self.last.saturating_add(1));
        self.last
    }

    /// Follows a timestamp that came from elsewhere, unless it is too far ahead to be believed.
    pub fn observe(&mut self, timestamp: u64, now_unix_ms: u64) {
        if timestamp >> 16 <= now_unix_ms.saturating_add(SKEW_MS_MAX) {
            self.last = self.last.max(timestamp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_runs_backwards() {
        let mut clock = HybridClock::default();
        let first = clock.tick(1_000);
        let second = clock.tick(1_000);
        let third = clock.tick(10);
        assert!(first < second && second < third);
        assert_eq!(third >> 16, 1_000);
        assert_eq!(clock.tick(2_000), 2_000 << 16);
    }

    #[test]
    fn it_follows_others_but_not_into_the_far_future() {
        let mut clock = HybridClock::default();
        clock.observe(5_000 << 16, 1_000);
        assert!(clock.tick(1_000) > 5_000 << 16);
        clock.observe((1_000 + SKEW_MS_MAX + 1) << 16, 1_000);
        assert!(clock.tick(1_000) >> 16 < 6_000);
    }
}
