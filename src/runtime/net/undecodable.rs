//! What is answered to bytes that say nothing.

use dynakv_protocol::{DecodeError, ErrorCode, ErrorReply};

/// What is answered to a body that cannot be decoded, whatever its kind.
pub fn undecodable(error: &DecodeError) -> ErrorReply {
    match error {
        DecodeError::TooLong { what, length, max } => ErrorReply::new(
            ErrorCode::TooLarge,
            format!("the {what} has length {length}, the limit is {max}"),
        ),
        DecodeError::UnknownKind { kind } => ErrorReply::new(
            ErrorCode::UnknownKind,
            format!("this node does not know the message kind 0x{kind:02x}"),
        ),
        error => ErrorReply::new(ErrorCode::BadRequest, error.to_string()),
    }
}
