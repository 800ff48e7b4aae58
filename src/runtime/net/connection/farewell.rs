//! What a connection is told when it is closed from here.

use dynakv_protocol::{ErrorCode, ErrorReply};

/// Another one needs its place.
pub(super) fn makes_room() -> ErrorReply {
    let message = "this node has as many connections as it takes, and this one has said nothing for longest: \
                   it is closed for another one. Dial again when there is something to ask";
    ErrorReply::new(ErrorCode::Overloaded, message).retryable()
}

/// Nothing was sent for long.
pub(super) fn idle() -> ErrorReply {
    let message = "nothing was sent over this connection for an hour: dial again when there is something to ask";
    ErrorReply::new(ErrorCode::Overloaded, message).retryable()
}
