//! A timer for what is due before the next tick: set when something is, and gone when nothing is.

use std::future::pending;
use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer. It is not touched from turn to turn while what is next comes no earlier than it rings: it may
/// ring too early then, and is set anew.
pub struct Alarm<'t> {
    timer: Pin<&'t mut Option<Sleep>>,
    at: Option<Instant>,
}

impl<'t> Alarm<'t> {
    /// A timer that is not set, in this room.
    pub fn new(timer: Pin<&'t mut Option<Sleep>>) -> Self {
        Self { timer, at: None }
    }

    /// Waits until it rings, for ever when it is not set. After that it must be set.
    pub async fn rings(&mut self) {
        match self.timer.as_mut().as_pin_mut() {
            Some(timer) => timer.await,
            None => pending().await,
        }
    }

    /// Sets it to this time or earlier, or takes it away.
    pub fn set(&mut self, next: Option<Instant>, now: Instant) {
        let stays = match (self.at, next) {
            (Some(at), Some(next)) => now < at && at <= next,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !stays {
            self.timer.set(next.map(sleep_until));
            self.at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_no_later_than_it_should() {
        let timer = pin!(None);
        let mut alarm = Alarm::new(timer);
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        alarm.set(Some(at(10)), begun);
        // Something earlier.
        alarm.set(Some(at(5)), begun);
        // Something later: it stays.
        alarm.set(Some(at(20)), begun);
        alarm.rings().await;
        assert_eq!(Instant::now(), at(5));
        alarm.set(Some(at(20)), Instant::now());
        alarm.rings().await;
        assert_eq!(Instant::now(), at(20));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_it_never_rings() {
        let timer = pin!(None);
        let mut alarm = Alarm::new(timer);
        let begun = Instant::now();
        alarm.set(Some(begun + Duration::from_millis(10)), begun);
        alarm.set(None, begun);
        let rings = tokio::time::timeout(Duration::from_secs(60), alarm.rings());
        assert!(rings.await.is_err());
    }
}
