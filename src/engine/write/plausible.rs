//! What a clock from outside may claim.
//!
//! A counter that an actor never reached covers all that it writes until it does: those writes would be
//! acknowledged and dropped wherever that clock is known. Contexts are opaque, and bound to their key and
//! cluster with a checksum, so none comes about by mistake. But a client may hold a context of data that are
//! gone since, an export may come from another time, and memory has errors.

use dynakv_protocol::causal::Clock;
use dynakv_protocol::{ErrorCode, ErrorReply};

/// The highest counter that anyone outside may name. A process counts the writes that it coordinates, from 0
/// on under each new actor: with a million a second it gets here after nine years, and then takes a new
/// actor.
pub const COUNTER_MAX: u64 = 1 << 48;

/// Refuses a clock that names what no process can have counted, other than what is `stored` already.
///
/// # Errors
/// Says so; nothing is applied.
pub fn check(claimed: &Clock, stored: &Clock) -> Result<(), ErrorReply> {
    let is_beyond = |counter: u64| counter > COUNTER_MAX;
    let mut news = claimed.iter().filter(|&dot| !stored.covers(dot));
    match news.find(|dot| is_beyond(dot.counter)) {
        None => Ok(()),
        Some(dot) => Err(ErrorReply::new(
            ErrorCode::BadRequest,
            format!(
                "it names write {} of actor {}, more than any node can have made: it is damaged or made up; \
                 read the key again",
                dot.counter, dot.actor
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::Actor;
    use dynakv_protocol::causal::Dot;

    use super::*;

    fn clock(entries: &[(u64, u64)]) -> Clock {
        let dots = entries.iter().map(|&(actor, counter)| Dot {
            actor: Actor(actor),
            counter,
        });
        dots.collect()
    }

    #[test]
    fn what_no_process_can_have_counted_is_refused() {
        let stored = clock(&[(1, 7)]);
        assert_eq!(check(&clock(&[(1, 9), (2, COUNTER_MAX)]), &stored), Ok(()));
        for counter in [COUNTER_MAX + 1, 1 << 63, u64::MAX] {
            for actor in [1, 2] {
                let error = check(&clock(&[(actor, counter)]), &stored).unwrap_err();
                assert_eq!(error.code, ErrorCode::BadRequest);
                assert!(!error.retryable && !error.maybe_applied);
            }
        }
        // Whoever has read it can still write.
        let known = clock(&[(2, u64::MAX)]);
        assert_eq!(check(&known, &known), Ok(()));
    }
}
