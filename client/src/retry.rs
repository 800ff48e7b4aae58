//! When a request is sent to another node.
//!
//! All of this happens within the caller's deadline. Gets, puts and deletes are treated alike: a
//! write keeps its write id, so a second attempt is the same sibling.
//!
//! | What came back | [`Decision`] | What the client does |
//! |---|---|---|
//! | no connection, connection lost, node silent | `Reconnect` | asks the next node; after the last one begins again, up to 5 times in all |
//! | no answer in time | `NextNode` | asks the next node |
//! | `quorum_unavailable` | `NextNode` | asks the next node, which may reach others |
//! | `timeout`, `storage`, `internal` and codes it does not know, if marked as retryable | `NextNode` | asks the next node, which may fare better |
//! | `overloaded`, `not_ready` | `BackOff` | asks the next node; after the last one begins again, until the deadline |
//! | `not_owner`, `stale_ring` | `RefreshRing` | fetches the ring, asks its owners |
//! | `bad_request`, `too_large`, `too_many_siblings`, `wrong_cluster` | `GiveUp` | gives the error to the caller |
//! | any other error not marked as retryable, an answer that makes no sense | `GiveUp` | gives the error to the caller |
//!
//! Before it begins again it pauses: 5 to 20 ms at first, each time up to twice as long, at a random
//! length. A node that is connected but says nothing at all, not even to a ping, is given up after a
//! bit more than a second (250 ms of them before the ping), for all requests on that connection
//! together. A node that failed is asked last until it can be connected again, which is tried beside
//! the requests and not by them.
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
        Error::Timeout { .. } | Error::QuorumUnavailable { .. } => Decision::NextNode,
        Error::Refused { reply, .. } => match reply.code {
            ErrorCode::NotOwner | ErrorCode::StaleRing => Decision::RefreshRing,
            ErrorCode::Overloaded | ErrorCode::NotReady => Decision::BackOff,
            ErrorCode::BadRequest
            | ErrorCode::TooLarge
            | ErrorCode::TooManySiblings
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

    #[test]
    fn every_code_has_its_decision() {
        for &code in ErrorCode::ALL {
            for retryable in [false, true] {
                let mut reply = ErrorReply::new(code, "");
                reply.retryable = retryable;
                let decision = decide(&Error::from_reply("a:1", reply));
                let expected = match code {
                    ErrorCode::NotOwner | ErrorCode::StaleRing => Decision::RefreshRing,
                    ErrorCode::Overloaded | ErrorCode::NotReady => Decision::BackOff,
                    ErrorCode::QuorumUnavailable
                    | ErrorCode::Timeout
                    | ErrorCode::Storage
                    | ErrorCode::Internal
                        if retryable =>
                    {
                        Decision::NextNode
                    }
                    ErrorCode::BadRequest
                    | ErrorCode::TooLarge
                    | ErrorCode::TooManySiblings
                    | ErrorCode::WrongCluster => Decision::GiveUp,
                    _ if retryable => Decision::NextNode,
                    _ => Decision::GiveUp,
                };
                assert_eq!(decision, expected, "{code:?}, retryable: {retryable}");
            }
        }
    }
}
