//! When a request is sent to another node.
//!
//! All of this happens within the caller's deadline. Gets, puts and deletes are treated alike: a
//! write keeps its write id, so a second attempt is the same sibling.
//!
//! | What came back | [`Decision`] | What the client does |
//! |---|---|---|
//! | no connection, connection lost, node silent | `Reconnect` | asks the next node; after the last one begins again, up to 5 times in all |
//! | no answer in time, or an answer with HTTP | `NextNode` | asks the next node |
//! | `quorum_unavailable`, `timeout`, `storage`, `internal`, `disk_full`, `directory_lost` and codes it does not know, if marked as retryable | `NextNode` | asks the next node, which may reach others |
//! | `overloaded`, `not_ready` | `BackOff` | asks the next node; after the last one begins again, until the deadline |
//! | `not_owner`, `stale_ring` | `RefreshRing` | fetches the ring, asks its owners |
//! | `bad_request`, `too_large`, `too_many_siblings`, `conflict`, `wrong_cluster` | `GiveUp` | gives the error to the caller |
//! | any other error not marked as retryable, an answer that makes no sense | `GiveUp` | gives the error to the caller |
//!
//! Before it begins again it pauses: 5 to 20 ms at first, then up to twice as long each time, 1.3 s at
//! most; the length is random. A node that is connected but says nothing at all, not even to a ping, is
//! given up after about 1.25 s, for all requests on that connection together. A node that failed is
//! asked last until it is connected again, and is dialled beside the requests, so that none waits for
//! it.
//!
//! The caller sees an error when the last node has been asked, or time is up. It then is what a node
//! said, rather than a connection that failed, if any node said something.

use std::time::Duration;

use dynakv_protocol::ErrorCode;

use crate::error::Error;

/// How often the client goes through all candidates, unless they only ask for patience.
pub(crate) const PASSES_MAX: u32 = 5;

const BACKOFF_MS: u64 = 20;

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Tell the caller: another attempt cannot help.
    GiveUp,
    /// Ask the next node.
    NextNode,
    /// Ask the next node. This one may be back soon, so going through all of them again makes sense, a
    /// few times.
    Reconnect,
    /// Ask the next node; the state passes, so going through all of them again makes sense, until the
    /// deadline.
    BackOff,
    /// Fetch the ring first.
    RefreshRing,
}

/// What to do after this error.
pub fn decide(error: &Error) -> Decision {
    match error {
        Error::Invalid { .. } | Error::Protocol { .. } | Error::Contended { .. } => {
            Decision::GiveUp
        }
        Error::Unreachable { .. } | Error::ConnectionLost { .. } => Decision::Reconnect,
        Error::Timeout { .. } | Error::WrongPort { .. } | Error::QuorumUnavailable { .. } => {
            Decision::NextNode
        }
        Error::Refused { reply, .. } => match reply.code {
            ErrorCode::NotOwner | ErrorCode::StaleRing => Decision::RefreshRing,
            ErrorCode::Overloaded | ErrorCode::NotReady => Decision::BackOff,
            ErrorCode::BadRequest
            | ErrorCode::TooLarge
            | ErrorCode::TooManySiblings
            | ErrorCode::Conflict
            | ErrorCode::WrongCluster => Decision::GiveUp,
            // Codes of newer nodes come here too: their flag says what they mean.
            _ if reply.retryable => Decision::NextNode,
            _ => Decision::GiveUp,
        },
    }
}

/// How long to wait after the given pass: doubling, with jitter so that clients that were refused
/// together do not come back together.
pub(crate) fn backoff(pass: u32) -> Duration {
    let ceiling = BACKOFF_MS << pass.min(6);
    Duration::from_millis(fastrand::u64(ceiling / 4..=ceiling))
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ErrorReply;

    use super::*;

    /// The table in this module's documentation, read by its own words.
    fn documented(code: ErrorCode, retryable: bool) -> Decision {
        let rows = include_str!("retry.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | "));
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split(" | ").collect()).collect();
        let name = format!("`{}`", code.name());
        let row = rows.iter().find(|row| row[0].contains(&name));
        let unknown = || {
            rows.iter()
                .find(|row| row[0].contains("codes it does not know"))
        };
        let row = row.or_else(unknown).expect("every code has a row");
        if row[0].contains("if marked as retryable") && !retryable {
            let other = "any other error not marked as retryable";
            assert!(
                rows.iter()
                    .any(|row| row[0].contains(other) && row[1] == "`GiveUp`")
            );
            return Decision::GiveUp;
        }
        match row[1] {
            "`GiveUp`" => Decision::GiveUp,
            "`NextNode`" => Decision::NextNode,
            "`BackOff`" => Decision::BackOff,
            "`RefreshRing`" => Decision::RefreshRing,
            "`Reconnect`" => Decision::Reconnect,
            other => panic!("{other} is no decision"),
        }
    }

    #[test]
    fn every_code_is_treated_as_documented() {
        let unknown = ErrorCode::Other(60_000);
        for &code in ErrorCode::ALL.iter().chain([&unknown]) {
            for retryable in [false, true] {
                let mut reply = ErrorReply::new(code, "");
                reply.retryable = retryable;
                let decision = decide(&Error::from_reply("a:1", reply));
                let expected = documented(code, retryable);
                assert_eq!(decision, expected, "{code:?}, retryable: {retryable}");
            }
        }
    }

    #[test]
    fn the_documented_number_of_passes_is_the_one_in_use() {
        let text = format!("begins again, up to {PASSES_MAX} times in all");
        assert!(include_str!("retry.rs").contains(&text));
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for pass in 0..100 {
            let ceiling = Duration::from_millis(BACKOFF_MS << pass.min(6));
            let pause = backoff(pass);
            assert!(
                pause >= ceiling / 4 && pause <= ceiling,
                "{pass}: {pause:?}"
            );
        }
    }
}
