//! What a client is told of a write that did not come about.

use dynakv_protocol::{ErrorCode, ErrorReply};

use super::{Outcome, Phase, Put};

impl Put {
    /// Too few owners take part.
    pub(super) fn unavailable(&self) -> ErrorReply {
        let so = match self.maybe_applied() {
            true => "the write may have been applied",
            false => "nothing was written",
        };
        let lack = self.lack();
        let (message, needed, got) = (lack.in_words(self), lack.needed, lack.got);
        let message = format!("{message}; {so}. See `dynakv status`, or write with a smaller -w");
        ErrorReply::new(ErrorCode::QuorumUnavailable, message)
            .with_quorum(needed, got)
            .maybe_applied(self.maybe_applied())
            .retryable()
    }

    /// Time is up.
    pub(super) fn timeout(&self) -> ErrorReply {
        let lack = self.lack();
        let (message, needed, got) = (lack.in_words(self), lack.needed, lack.got);
        let message = format!(
            "time is up: {message} in time. See `dynakv status`, or give it longer with --timeout"
        );
        ErrorReply::new(ErrorCode::Timeout, message)
            .with_quorum(needed, got)
            .maybe_applied(self.maybe_applied())
            .retryable()
    }

    /// So many owners have answered that what was acknowledged is known to one, and none has all that the context
    /// names.
    pub(super) fn made_up(&self) -> ErrorReply {
        let message = format!(
            "the context names writes that none of the {} owners of the key that answered has: they were not \
             acknowledged and are gone, or it is made up; nothing was written. Read the key again",
            self.votes.got()
        );
        ErrorReply::new(ErrorCode::BadRequest, message)
    }

    /// Copies, or else votes.
    fn lack(&self) -> Lack {
        if matches!(self.phase, Phase::CatchingUp { .. })
            && self.quorum.outcome() != Outcome::Impossible
        {
            return Lack {
                of: Of::Readings,
                needed: self.votes.needed(),
                got: self.votes.got(),
            };
        }
        let is_votes = matches!(self.phase, Phase::Replicating { .. })
            && self.quorum.outcome() == Outcome::Met
            && self.votes.outcome() != Outcome::Met;
        let counted = match is_votes {
            true => &self.votes,
            false => &self.quorum,
        };
        Lack {
            of: match is_votes || counted.needed() > self.w {
                true => Of::Votes,
                false => Of::Copies,
            },
            needed: counted.needed(),
            got: counted.got(),
        }
    }

    /// Who counts, in words.
    fn who(&self) -> &'static str {
        match self.is_sloppy() {
            true => "owners of the key or nodes that stand in for them",
            false => "owners of the key",
        }
    }
}

#[derive(Clone, Copy)]
enum Of {
    Copies,
    Votes,
    /// Before anything is written: what a context names is missing here.
    Readings,
}

struct Lack {
    of: Of,
    needed: u8,
    got: u8,
}

impl Lack {
    fn in_words(&self, put: &Put) -> String {
        let Self { of, needed, got } = self;
        match of {
            Of::Readings => format!(
                "this node lacks what the context names, and must hear what {needed} owners of the key have that \
                 have lost nothing, {got} answered"
            ),
            Of::Votes => format!(
                "a write without a context must hear what {needed} owners of the key have that have lost \
                 nothing, {got} answered"
            ),
            Of::Copies => {
                let who = put.who();
                format!("the write needs {needed} {who}, {got} answered")
            }
        }
    }
}
