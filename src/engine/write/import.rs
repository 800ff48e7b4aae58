//! Merging given versions into a key: what an import does for each of its lines.
//!
//! Nothing is minted, so any node can do it, and doing it twice changes nothing: all owners are sent
//! the versions from the start, without looking first whether enough of them can be reached.

use dynakv_protocol::{ErrorCode, ErrorReply};

use crate::engine::placement::preference::{NodeSlot, Preference, SELF};
use crate::engine::quorum::{Outcome, Quorum};

/// What the coordinator is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Have this owner merge the versions.
    Merge(NodeSlot),
    /// Merge them here.
    MergeLocal,
    /// The client's answer, with how many owners were needed. The operation is over.
    Answer(Result<u8, ErrorReply>),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An owner (this node is one of them, or not) has merged and synced.
    Merged(NodeSlot),
    /// An owner could not be reached, or refused.
    Failed(NodeSlot),
    /// An owner has no room on its disk.
    Full(NodeSlot),
    /// Time is up.
    Deadline,
}

/// One key's import.
#[derive(Debug)]
pub struct Import {
    owners: Preference,
    quorum: Quorum,
    is_answered: bool,
    /// Whether an owner has no room for it.
    is_full: bool,
}

impl Import {
    /// Sends the versions to all owners. `w` is capped at their number.
    pub fn start(owners: Preference, w: u8, effects: &mut Vec<Effect>) -> Self {
        let n = owners.len();
        let mut import = Self {
            quorum: Quorum::of_writers(w, owners.sides()),
            owners,
            is_answered: false,
            is_full: false,
        };
        for place in 0..n {
            import.quorum.ask(place);
            match import.owners.at(place) {
                Some(SELF) => effects.push(Effect::MergeLocal),
                Some(node) => effects.push(Effect::Merge(node)),
                None => {}
            }
        }
        import
    }

    /// Whether the client has its answer.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.is_answered {
            return;
        }
        match event {
            Event::Merged(node) => {
                if let Some(place) = self.owners.place_of(node) {
                    self.quorum.grant(place);
                }
            }
            Event::Failed(node) | Event::Full(node) => {
                self.is_full |= matches!(event, Event::Full(_));
                if let Some(place) = self.owners.place_of(node) {
                    self.quorum.fail(place);
                }
            }
            Event::Deadline => return self.answer(Err(self.timeout()), effects),
        }
        match self.quorum.outcome() {
            Outcome::Met => self.answer(Ok(self.quorum.needed()), effects),
            // The own store answers soon, and the error should count it.
            Outcome::Impossible if self.awaits_own() => {}
            Outcome::Impossible => self.answer(Err(self.unavailable()), effects),
            Outcome::Pending => {}
        }
    }

    fn awaits_own(&self) -> bool {
        let own = self.owners.place_of(SELF);
        own.is_some_and(|place| self.quorum.awaits(place))
    }

    fn answer(&mut self, result: Result<u8, ErrorReply>, effects: &mut Vec<Effect>) {
        self.is_answered = true;
        effects.push(Effect::Answer(result));
    }

    fn unavailable(&self) -> ErrorReply {
        let (needed, got) = (self.quorum.needed(), self.quorum.got());
        let (code, when) = match self.is_full {
            true => (
                ErrorCode::DiskFull,
                "there is room on the disks of the others",
            ),
            false => (ErrorCode::QuorumUnavailable, "more are up"),
        };
        let message = format!(
            "the import of this key needs {needed} of its owners, {got} took it; send it again when {when}, \
             see `dynakv status`"
        );
        ErrorReply::new(code, message)
            .with_quorum(needed, got)
            .maybe_applied(true)
            .retryable()
    }

    fn timeout(&self) -> ErrorReply {
        let (needed, got) = (self.quorum.needed(), self.quorum.got());
        let message = format!(
            "time is up: the import of this key needs {needed} of its owners, {got} took it in time; \
             send it again, or give it longer with --timeout"
        );
        ErrorReply::new(ErrorCode::Timeout, message)
            .with_quorum(needed, got)
            .maybe_applied(true)
            .retryable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeSlot = NodeSlot(1);
    const B: NodeSlot = NodeSlot(2);
    const C: NodeSlot = NodeSlot(3);

    fn start(owners: &[NodeSlot], w: u8) -> (Import, Vec<Effect>) {
        let mut effects = Vec::new();
        let owners = Preference::new(owners.iter().copied());
        let import = Import::start(owners, w, &mut effects);
        (import, effects)
    }

    fn step(import: &mut Import, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        import.step(event, &mut effects);
        effects
    }

    #[test]
    fn every_owner_is_sent_it_and_w_of_them_are_waited_for() {
        let (mut import, effects) = start(&[A, SELF, B], 2);
        assert_eq!(
            effects,
            [Effect::Merge(A), Effect::MergeLocal, Effect::Merge(B)]
        );
        assert!(step(&mut import, Event::Merged(SELF)).is_empty());
        assert!(step(&mut import, Event::Merged(SELF)).is_empty());
        let answered = step(&mut import, Event::Merged(B));
        assert_eq!(answered, [Effect::Answer(Ok(2))]);
        assert!(step(&mut import, Event::Merged(A)).is_empty());
        assert!(step(&mut import, Event::Deadline).is_empty());
    }

    #[test]
    fn a_node_that_owns_nothing_of_it_does_it_all_the_same() {
        let (mut import, effects) = start(&[A, B, C], 1);
        assert!(!effects.contains(&Effect::MergeLocal));
        let answered = step(&mut import, Event::Merged(C));
        assert_eq!(answered, [Effect::Answer(Ok(1))]);
    }

    #[test]
    fn it_says_how_many_took_it_and_that_some_may_have() {
        let (mut import, _) = start(&[A, SELF, B], 2);
        assert!(step(&mut import, Event::Merged(SELF)).is_empty());
        assert!(step(&mut import, Event::Failed(A)).is_empty());
        match &step(&mut import, Event::Failed(B))[..] {
            [Effect::Answer(Err(error))] => {
                assert_eq!(error.code, ErrorCode::QuorumUnavailable);
                assert_eq!((error.needed, error.got), (Some(2), Some(1)));
                assert!(error.maybe_applied && error.retryable);
            }
            other => panic!("{other:?}"),
        }
        // The own store is waited for, so that it counts.
        let (mut import, _) = start(&[A, SELF, B], 2);
        assert!(step(&mut import, Event::Failed(A)).is_empty());
        assert!(step(&mut import, Event::Failed(B)).is_empty());
        match &step(&mut import, Event::Merged(SELF))[..] {
            [Effect::Answer(Err(error))] => assert_eq!(error.got, Some(1)),
            other => panic!("{other:?}"),
        }
        let (mut import, _) = start(&[A, B], 2);
        match &step(&mut import, Event::Deadline)[..] {
            [Effect::Answer(Err(error))] => assert_eq!(error.code, ErrorCode::Timeout),
            other => panic!("{other:?}"),
        }
    }
}
