//! What a message about an operation is for.

use crate::engine::write::put::Round;

/// What a message about an operation is for. It travels with the message and its answer, so that a late
/// answer of one phase is not taken for an answer of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Can the node be reached?
    Ping = 1,
    /// Read its versions.
    Read = 2,
    /// Write or merge, and be durable.
    Write = 3,
    /// Mend it.
    Repair = 4,
    /// Coordinate the request.
    Forward = 5,
    /// Keep it for an owner.
    Hint = 6,
    /// Write a blind write's second dot, and be durable.
    Rewrite = 7,
    /// Keep that for an owner.
    Rehint = 8,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ping,
        Self::Read,
        Self::Write,
        Self::Repair,
        Self::Forward,
        Self::Hint,
        Self::Rewrite,
        Self::Rehint,
    ];

    /// The one of this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        let index = usize::from(number).checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// In which round a write is sent and kept.
    pub fn round(self) -> Round {
        match self {
            Self::Rewrite | Self::Rehint => Round::Second,
            Self::Ping | Self::Read | Self::Write | Self::Repair | Self::Forward | Self::Hint => {
                Round::First
            }
        }
    }

    /// Writing in this round.
    pub fn write(round: Round) -> Self {
        match round {
            Round::First => Self::Write,
            Round::Second => Self::Rewrite,
        }
    }

    /// Keeping for an owner in this round.
    pub fn hint(round: Round) -> Self {
        match round {
            Round::First => Self::Hint,
            Round::Second => Self::Rehint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_the_number_of_its_place() {
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::from_number(purpose as u8), Some(purpose));
        }
        for number in [0, Purpose::ALL.len() as u8 + 1, u8::MAX] {
            assert_eq!(Purpose::from_number(number), None);
        }
    }
}
