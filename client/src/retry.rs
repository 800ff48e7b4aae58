//! When a request is sent to another node.
//!
//! All of this happens within the caller's deadline. Gets, puts and deletes are treated alike: a
//! write keeps its write id, so a second attempt is the same sibling.
//!
//! | What came back | What the client does |
//! |---|---|
//! | no connection, connection lost, no answer in time | asks the next node |
//! | `not_owner`, `stale_ring` | fetches the ring, asks its owners |
//! | `overloaded`, `not_ready` | asks the next node; when all said so, waits a little and begins again |
//! | `quorum_unavailable`, `timeout`, `storage`, `internal` and codes it does not know, if marked as retryable | asks the next node, which may reach others |
//! | `bad_request`, `too_large`, `too_many_siblings`, `wrong_cluster`, an answer that makes no sense | gives the error to the caller |

use std::time::Duration;

use dynakv_protocol::ErrorCode;

use crate::error::Error;

/// How often the client goes through all candidates.
pub(crate) const PASSES_MAX: u32 = 4;

const BACKOFF_MS: u64 = 20;

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Tell the caller: another attempt cannot help.
    GiveUp,
    /// Ask the next node.
    NextNode,
    /// Ask the next node; the state passes, so going through all nodes again makes sense.
    BackOff,
    /// Fetch the ring first.
    RefreshRing,
}

/// What to do after this error.
pub fn decide(error: &Error) -> Decision {
    match error {
        Error::Invalid { .. } | Error::Protocol { .. } => Decision::GiveUp,
        Error::Unreachable { .. }
        | Error::ConnectionLost { .. }
        | Error::Timeout { .. }
        | Error::QuorumUnavailable { .. } => Decision::NextNode,
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

/// How long to wait before the given pass: doubling, with full jitter so that clients that were
/// refused together do not come back together.
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
