//! What can go wrong, and the two questions every caller has: may it have happened, may I try again?

use std::sync::Arc;
use std::time::Duration;

use dynakv_protocol::{ErrorCode, ErrorReply};

use crate::answer::Fetched;

/// Why an operation failed, after all attempts. Ask [`is_retryable`](Self::is_retryable) and
/// [`maybe_applied`](Self::maybe_applied) rather than listing variants; more may be added.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request or a setting is wrong; nothing was sent. Change what the message names.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what is permitted.
        what: String,
    },
    /// No connection to the node; nothing was sent to it. Check the address and whether it runs
    /// (`dynakv status`), or try again later.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// The node.
        address: String,
        /// What stood in the way.
        reason: Arc<str>,
        /// Whether an earlier attempt may have applied the write.
        maybe_applied: bool,
    },
    /// What answers there speaks HTTP: the address is not the one that a node takes requests at; nothing was
    /// sent to it. Take the address that is named, if one is.
    #[error("{}", wrong_port(address, data_address.as_deref()))]
    WrongPort {
        /// What was dialled.
        address: String,
        /// Where the same node takes requests, when it was one's HTTP port.
        data_address: Option<String>,
        /// Whether an earlier attempt may have applied the write.
        maybe_applied: bool,
    },
    /// The connection broke while the request waited for its answer, and no other node answered. Try
    /// again; a write that may have been applied as [`Error::is_retryable`] describes.
    #[error("the connection to {address} was lost: {reason}")]
    ConnectionLost {
        /// The node.
        address: String,
        /// What ended it.
        reason: Arc<str>,
        /// Whether the write may have been applied.
        maybe_applied: bool,
    },
    /// The node answered with something that is no answer to the request. Check that client and nodes
    /// are of versions that go together; trying again does not help.
    #[error("{address} gave an answer that this client does not understand: {reason}")]
    Protocol {
        /// The node.
        address: String,
        /// What was wrong with it.
        reason: String,
        /// Whether the write may have been applied.
        maybe_applied: bool,
    },
    /// The deadline passed first. Give it longer, or send fewer requests at a time.
    #[error("no answer from {address} within {waited:?}")]
    Timeout {
        /// The node asked last.
        address: String,
        /// How long the caller waited.
        waited: Duration,
        /// Whether the write may have been applied.
        maybe_applied: bool,
    },
    /// Fewer replicas answered than were needed. Try again when more nodes are up, or ask for fewer
    /// with `.r()` or `.w()`, if the weaker promise will do.
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
    /// A node refused the request, or failed at it, for any other reason: see [`ErrorReply::code`]
    /// and what [`retry`](crate::retry) says of each.
    #[error("{address}: {reply}")]
    Refused {
        /// The node.
        address: String,
        /// What it said.
        reply: Box<ErrorReply>,
    },
    /// An update was written in every round, and in every round other writers left siblings beside it.
    /// Nothing is lost: all values stand beside each other. Update again later, with more rounds, or
    /// have fewer clients write this key.
    #[error(
        "other writers changed the key in each of {rounds} rounds, {} values stand beside each other: update it again",
        last.siblings.len()
    )]
    Contended {
        /// How often the update was written.
        rounds: u32,
        /// What was read last, with the context to write the answer with.
        last: Box<Fetched>,
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
            | Self::WrongPort { maybe_applied, .. }
            | Self::ConnectionLost { maybe_applied, .. }
            | Self::Protocol { maybe_applied, .. }
            | Self::Timeout { maybe_applied, .. }
            | Self::QuorumUnavailable { maybe_applied, .. } => *maybe_applied,
            Self::Refused { reply, .. } => reply.maybe_applied,
            Self::Contended { .. } => true,
        }
    }

    /// Whether the same operation may succeed later. The client has retried already within the
    /// deadline. A write that is made anew after [`maybe_applied`](Self::maybe_applied) has another
    /// write id: give it a context, or it may stand beside the first one as a sibling.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::Protocol { .. } | Self::WrongPort { .. } => false,
            Self::Unreachable { .. }
            | Self::ConnectionLost { .. }
            | Self::Timeout { .. }
            | Self::QuorumUnavailable { .. }
            | Self::Contended { .. } => true,
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
            | Self::WrongPort { .. }
            | Self::ConnectionLost { .. }
            | Self::Protocol { .. }
            | Self::Timeout { .. }
            | Self::Contended { .. } => None,
        }
    }

    /// The node that it is about, if it is about one.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Unreachable { address, .. }
            | Self::WrongPort { address, .. }
            | Self::ConnectionLost { address, .. }
            | Self::Protocol { address, .. }
            | Self::Timeout { address, .. }
            | Self::Refused { address, .. } => Some(address),
            Self::Invalid { .. } | Self::QuorumUnavailable { .. } | Self::Contended { .. } => None,
        }
    }

    /// One error for several nodes of which none could be asked: what one of them said if one said something,
    /// and otherwise the last, with the others in its reason.
    pub(crate) fn of_all(mut failures: Vec<Self>) -> Self {
        if let Some(said) = failures.iter().position(Self::is_answer) {
            return failures.swap_remove(said);
        }
        let Some(mut last) = failures.pop() else {
            return Self::invalid("a client needs at least one seed");
        };
        if let Self::Unreachable { reason, .. } = &mut last {
            let mut all = reason.to_string();
            for earlier in failures {
                all.push_str(&format!("; {earlier}"));
            }
            *reason = all.into();
        }
        last
    }

    /// Whether a node said so itself, which tells the caller more than a connection that failed.
    pub(crate) fn is_answer(&self) -> bool {
        self.code().is_some()
    }

    /// The same error with what earlier attempts may have done added.
    pub fn or_maybe_applied(mut self, earlier: bool) -> Self {
        match &mut self {
            Self::Invalid { .. } | Self::Contended { .. } => {}
            Self::Unreachable { maybe_applied, .. }
            | Self::WrongPort { maybe_applied, .. }
            | Self::ConnectionLost { maybe_applied, .. }
            | Self::Protocol { maybe_applied, .. }
            | Self::Timeout { maybe_applied, .. }
            | Self::QuorumUnavailable { maybe_applied, .. } => *maybe_applied |= earlier,
            Self::Refused { reply, .. } => reply.maybe_applied |= earlier,
        }
        self
    }
}

fn wrong_port(address: &str, data_address: Option<&str>) -> String {
    match data_address {
        Some(data_address) => format!(
            "{address} is the HTTP port of a dynakv node, for metrics and health; requests go to {data_address}"
        ),
        None => format!(
            "{address} answers with HTTP: it is not the port at which a dynakv node takes requests"
        ),
    }
}
