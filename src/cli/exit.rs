//! Exit codes, which scripts depend on.

use std::process::ExitCode;

use dynakv_client::{Error, ErrorCode};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Ok,
    /// 1: failed, or no server answered.
    Error,
    /// 2: the command or one of its options is wrong.
    Usage,
    /// 3: the key does not exist.
    NotFound,
    /// 4: too few replicas answered, or none in time.
    Unavailable,
    /// 5: the key has conflicting values.
    Conflict,
    /// 6: something works, but not all of it.
    Degraded,
    /// 7: the disk failed under a running node.
    DiskFailed,
    /// 8: the node was taken out of its cluster.
    Removed,
}

impl Exit {
    /// The number that the process ends with.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unavailable => 4,
            Self::Conflict => 5,
            Self::Degraded => 6,
            Self::DiskFailed => 7,
            Self::Removed => 8,
        }
    }

    /// What an error of the client comes to.
    pub(crate) fn of_error(error: &Error) -> Self {
        match error.code() {
            Some(ErrorCode::BadRequest) => return Self::Usage,
            Some(ErrorCode::Conflict) => return Self::Conflict,
            Some(ErrorCode::QuorumUnavailable | ErrorCode::Timeout) => return Self::Unavailable,
            Some(_) | None => {}
        }
        match error {
            Error::Invalid { .. } => Self::Usage,
            Error::Timeout { .. } => Self::Unavailable,
            // Of no node, of a connection, or a refusal of another kind.
            _ => Self::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynakv_client::ErrorReply;

    use super::*;

    #[test]
    fn errors_have_their_exit_codes() {
        let refused = |code| Error::Refused {
            address: "a:1".to_owned(),
            reply: Box::new(ErrorReply::new(code, "")),
        };
        for &code in ErrorCode::ALL {
            let expected = match code {
                ErrorCode::BadRequest => 2,
                ErrorCode::Conflict => 5,
                ErrorCode::QuorumUnavailable | ErrorCode::Timeout => 4,
                _ => 1,
            };
            assert_eq!(
                Exit::of_error(&refused(code)).number(),
                expected,
                "{code:?}"
            );
        }
        let timeout = Error::Timeout {
            address: "a:1".to_owned(),
            waited: Duration::from_secs(5),
            maybe_applied: false,
        };
        assert_eq!(Exit::of_error(&timeout).number(), 4);
        let quorum = Error::QuorumUnavailable {
            needed: 2,
            got: 1,
            message: String::new(),
            maybe_applied: false,
        };
        assert_eq!(Exit::of_error(&quorum).number(), 4);
        let unreachable = Error::Unreachable {
            address: "a:1".to_owned(),
            reason: "refused".into(),
            maybe_applied: false,
        };
        assert_eq!(Exit::of_error(&unreachable).number(), 1);
        let what = "the key is too long".to_owned();
        assert_eq!(Exit::of_error(&Error::Invalid { what }).number(), 2);
    }
}
