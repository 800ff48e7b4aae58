//! Who does not answer.

use std::collections::BTreeMap;

use crate::engine::placement::ring::MemberIndex;

/// After so many questions in a row that a node did not answer a comparison with it ends, or it is asked no more in an
/// attempt to rebuild, or in a pass that hands on what is left over.
pub(super) const MISSES_MAX: u32 = 3;

/// How many questions in a row each member did not answer.
#[derive(Debug, Default)]
pub(super) struct Misses(BTreeMap<MemberIndex, u32>);

impl Misses {
    /// A member was asked something. A refusal is an answer.
    pub(super) fn asked(&mut self, member: MemberIndex, has_answered: bool) {
        let misses = self.0.entry(member).or_default();
        *misses = match has_answered {
            true => 0,
            false => *misses + 1,
        };
    }

    /// Whether it has not answered for so long that it is asked no more.
    pub(super) fn is_silent(&self, member: MemberIndex) -> bool {
        self.0.get(&member).is_some_and(|&it| it >= MISSES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_swallows_every_question_is_not_asked_for_each_page() {
        let (silent, other) = (MemberIndex(2), MemberIndex(1));
        let mut misses = Misses::default();
        for _ in 1..MISSES_MAX {
            misses.asked(silent, false);
        }
        misses.asked(silent, true);
        for _ in 1..MISSES_MAX {
            misses.asked(silent, false);
        }
        assert!(!misses.is_silent(silent), "it has said something");
        misses.asked(silent, false);
        assert!(misses.is_silent(silent) && !misses.is_silent(other));
    }
}
