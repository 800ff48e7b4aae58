//! What a node says that answers no request: of the connection as a whole.

use dynakv_protocol::ErrorReply;
use dynakv_protocol::frame::Frame;
use dynakv_protocol::handshake::GoAway;
use dynakv_protocol::message::{Response, kind};

/// The handshake's request id. Requests count from 1 on, so an error that answers no request of ours
/// but the connection as a whole is told apart.
pub(crate) const CONNECTION_ID: u64 = 0;

/// The node takes no more requests over this connection.
pub(crate) fn goaway(frame: &Frame) -> Option<GoAway> {
    if frame.header.kind != kind::GOAWAY {
        return None;
    }
    match Response::decode(frame.header.kind, &frame.body) {
        Ok(Response::GoAway(goaway)) => Some(goaway),
        Ok(_) | Err(_) => None,
    }
}

/// An error that is about the connection and not about one request.
pub(crate) fn connection_error(frame: &Frame) -> Option<ErrorReply> {
    if frame.header.request_id != CONNECTION_ID {
        return None;
    }
    match Response::decode(frame.header.kind, &frame.body) {
        Ok(Response::Error(reply)) => Some(reply),
        Ok(_) | Err(_) => None,
    }
}
