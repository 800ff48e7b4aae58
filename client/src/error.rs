//! What can go wrong, and the two questions every caller has: may it have happened, may I try again?

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::{ErrorCode, ErrorReply};

/// Why an operation failed. Ask [`is_retryable`](Self::is_retryable) and
/// [`maybe_applied`](Self::maybe_applied) rather than listing variants.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request or a setting is wrong; nothing was sent.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what is permitted.
        what: String,
    },
    /// No connection to the node; nothing was sent to it.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// The node.
        address: String,
        /// Why.
        reason: Arc<str>,
        /// Whether an earlier attempt may have applied the write.
        maybe_applied: bool,
    },
    /// The connection broke while the request waited for its answer.
    #[error("the connection to {address} was lost: {reason}")]
    ConnectionLost {
        /// The node.
        address: String,
        /// Why.
        reason: Arc<str>,
        /// Whether the write may have been applied.
        maybe_applied: bool,
    },
    /// The node answered with something that is no answer to the request.
    #[error("{address} gave an answer that this client does not understand: {reason}")]
    Protocol {
        /// The node.
        address: String,
        /// What was wrong with it.
        reason: String,
        /// Whether the write may have been applied.
        maybe_applied: bool,
    },
    /// The deadline passed first.
    #[error("no answer from {address} within {waited:?}")]
    Timeout {
        /// The node asked last.
        address: String,
        /// How long the caller waited.
        waited: Duration,
        /// Whether the write may have been applied.
        maybe_applied: bool,
    },
    /// Fewer replicas answered than were needed.
    #[error("{message} ({got} of {needed} replicas answered)")]
    QuorumUnavailable {
        /// How many replicas were needed.
        needed: u8,
        /// How many answered.
        got: u8,
        /// What the coordinator said.
        message: String,
        /// Whether the write may have been applied.
        maybe_applied: bool,
    },
    /// A node refused the request, or failed at it, for any other reason: see [`ErrorReply::code`].
    #[error("{address}: {reply}")]
    Refused {
        /// The node.
        address: String,
        /// What it said.
        reply: Box<ErrorReply>,
    },
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// The error that a node's refusal stands for.
    pub fn from_reply(address: &str, reply: ErrorReply) -> Self {
        match (reply.code, reply.needed, reply.got) {
            (ErrorCode::QuorumUnavailable, Some(needed), Some(got)) => Self::QuorumUnavailable {
                needed,
                got,
                message: reply.message,
                maybe_applied: reply.maybe_applied,
            },
            _ => Self::Refused {
                address: address.to_owned(),
                reply: Box::new(reply),
            },
        }
    }

    /// Whether the write may have been applied, on some replica at least, although it failed here.
    /// Always false for reads.
    pub fn maybe_applied(&self) -> bool {
        match self {
            Self::Invalid { .. } => false,
            Self::Unreachable { maybe_applied, .. }
            | Self::ConnectionLost { maybe_applied, .. }
            | Self::Protocol { maybe_applied, .. }
            | Self::Timeout { maybe_applied, .. }
            | Self::QuorumUnavailable { maybe_applied, .. } => *maybe_applied,
            Self::Refused { reply, .. } => reply.maybe_applied,
        }
    }

    /// Whether the same operation may succeed later. The client has retried already within the
    /// deadline. A write that is made anew after [`maybe_applied`](Self::maybe_applied) has another
    /// write id: give it a context, or it may stand beside the first one as a sibling.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::Protocol { .. } => false,
            Self::Unreachable { .. }
            | Self::ConnectionLost { .. }
            | Self::Timeout { .. }
            | Self::QuorumUnavailable { .. } => true,
            Self::Refused { reply, .. } => reply.retryable,
        }
    }

    /// The code a node refused with.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::QuorumUnavailable { .. } => Some(ErrorCode::QuorumUnavailable),
            Self::Refused { reply, .. } => Some(reply.code),
            Self::Invalid { .. }
            | Self::Unreachable { .. }
            | Self::ConnectionLost { .. }
            | Self::Protocol { .. }
            | Self::Timeout { .. } => None,
        }
    }

    /// Whether a node said so itself, which tells the caller more than a connection that failed.
    pub(crate) fn is_answer(&self) -> bool {
        self.code().is_some()
    }

    /// The same error with what earlier attempts may have done added.
    pub fn or_maybe_applied(mut self, earlier: bool) -> Self {
        match &mut self {
            Self::Invalid { .. } => {}
            Self::Unreachable { maybe_applied, .. }
            | Self::ConnectionLost { maybe_applied, .. }
            | Self::Protocol { maybe_applied, .. }
            | Self::Timeout { maybe_applied, .. }
            | Self::QuorumUnavailable { maybe_applied, .. } => *maybe_applied |= earlier,
            Self::Refused { reply, .. } => reply.maybe_applied |= earlier,
        }
        self
    }
}
