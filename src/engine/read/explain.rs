//! Asking all owners of a key what they have: nothing is merged, nothing is mended, nobody is waited
//! for beyond the deadline.

use bytes::Bytes;
use dynakv_protocol::Actor;
use dynakv_protocol::admin::OwnerState;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;

use crate::engine::limits;
use crate::engine::placement::preference::{NodeSlot, Preference, SELF};

/// What an owner has, or why it did not say.
pub type Answer = Result<OwnerState, String>;

/// What the coordinator is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read this owner's versions and ask for its actor.
    Read(NodeSlot),
    /// Read the own versions.
    ReadLocal,
    /// The answer: each owner, in the order of preference, with what it has or why it did not say.
    Answer(Vec<(NodeSlot, Answer)>),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An owner's encoded versions, empty for none.
    Read {
        /// The owner that answers.
        from: NodeSlot,
        /// What it has.
        versions: Bytes,
        /// It has lost data of this segment.
        rebuilding: bool,
        /// Under which actor it mints.
        actor: Option<Actor>,
    },
    /// An owner could not be reached, or refused.
    Failed(NodeSlot, String),
    /// Time is up.
    Deadline,
}

/// One question after a key.
#[derive(Debug)]
pub struct Explain {
    owners: Vec<(NodeSlot, Option<Answer>)>,
    is_answered: bool,
}

impl Explain {
    /// Asks all owners at once. The asking node need not be one of them.
    pub fn start(owners: &Preference, effects: &mut Vec<Effect>) -> Self {
        let slots = (0..owners.len()).filter_map(|place| owners.at(place));
        let explain = Self {
            owners: slots.map(|slot| (slot, None)).collect(),
            is_answered: false,
        };
        for &(slot, _) in &explain.owners {
            effects.push(if slot == SELF {
                Effect::ReadLocal
            } else {
                Effect::Read(slot)
            });
        }
        explain
    }

    /// Whether the client has its answer.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Read {
                from,
                versions,
                rebuilding,
                actor,
            } => {
                let decoded = if versions.is_empty() {
                    Ok(Versions::new())
                } else {
                    Versions::from_bytes(&versions)
                };
                let state = decoded
                    .map(|versions| OwnerState::of(&versions, actor, rebuilding))
                    .map_err(|error| match limits::is_beyond(&error) {
                        true => limits::locked(&[], &error.to_string()).message,
                        false => format!("what it sent can't be read: {error}"),
                    });
                self.note(from, state);
            }
            Event::Failed(node, reason) => self.note(node, Err(reason)),
            Event::Deadline => {
                for (_, answer) in &mut self.owners {
                    answer.get_or_insert_with(|| Err("no answer in time".to_owned()));
                }
            }
        }
        self.answer_if_complete(effects);
    }

    /// The first word counts: a link that breaks after an answer takes nothing back.
    fn note(&mut self, node: NodeSlot, state: Answer) {
        let owner = self.owners.iter_mut().find(|(slot, _)| *slot == node);
        if let Some((_, answer)) = owner {
            answer.get_or_insert(state);
        }
    }

    fn answer_if_complete(&mut self, effects: &mut Vec<Effect>) {
        let complete = self.owners.iter().all(|(_, answer)| answer.is_some());
        if self.is_answered || !complete {
            return;
        }
        self.is_answered = true;
        let owners = std::mem::take(&mut self.owners).into_iter();
        let answers = owners.filter_map(|(slot, answer)| Some((slot, answer?)));
        effects.push(Effect::Answer(answers.collect()));
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::WriteId;
    use dynakv_protocol::causal::{Clock, Dot, Incoming, Value};

    use super::*;

    const A: NodeSlot = NodeSlot(1);
    const B: NodeSlot = NodeSlot(2);

    fn start(owners: &[NodeSlot]) -> (Explain, Vec<Effect>) {
        let mut effects = Vec::new();
        let owners = Preference::new(owners.iter().copied());
        let explain = Explain::start(&owners, &mut effects);
        (explain, effects)
    }

    fn step(explain: &mut Explain, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        explain.step(event, &mut effects);
        effects
    }

    fn read(from: NodeSlot, versions: Bytes) -> Event {
        Event::Read {
            from,
            versions,
            rebuilding: false,
            actor: Some(Actor(9)),
        }
    }

    fn versions() -> Versions {
        let mut versions = Versions::new();
        let incoming = Incoming {
            write_id: WriteId(1),
            timestamp: 5,
            expires_at_ms: None,
            value: Value::Bytes(Bytes::from_static(b"v")),
        };
        let dot = Dot {
            actor: Actor(9),
            counter: 1,
        };
        versions.write(&Clock::new(), dot, incoming);
        versions
    }

    #[test]
    fn all_owners_are_asked_and_waited_for() {
        let (mut explain, effects) = start(&[A, SELF, B]);
        assert_eq!(
            effects,
            [Effect::Read(A), Effect::ReadLocal, Effect::Read(B)]
        );
        assert!(step(&mut explain, read(SELF, Bytes::new())).is_empty());
        assert!(step(&mut explain, read(A, versions().to_bytes())).is_empty());
        // Said twice counts once, and a later failure takes nothing back.
        assert!(step(&mut explain, Event::Failed(A, "gone".to_owned())).is_empty());
        let effects = step(&mut explain, Event::Failed(B, "gone".to_owned()));
        let holds = OwnerState::of(&versions(), Some(Actor(9)), false);
        let nothing = OwnerState::of(&Versions::new(), Some(Actor(9)), false);
        let expected = vec![(A, Ok(holds)), (SELF, Ok(nothing)), (B, Err("gone".into()))];
        assert_eq!(effects, [Effect::Answer(expected)]);
        assert!(explain.is_answered());
        assert!(step(&mut explain, Event::Deadline).is_empty());
    }

    #[test]
    fn the_deadline_answers_with_what_is_there() {
        let (mut explain, effects) = start(&[A, B]);
        assert_eq!(effects, [Effect::Read(A), Effect::Read(B)]);
        assert!(step(&mut explain, read(A, Bytes::new())).is_empty());
        match &step(&mut explain, Event::Deadline)[..] {
            [Effect::Answer(answers)] => {
                assert!(matches!(&answers[0], (A, Ok(_))), "{answers:?}");
                assert!(matches!(&answers[1], (B, Err(why)) if why.contains("in time")));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bytes_that_are_no_versions_are_no_answer() {
        let (mut explain, _) = start(&[A]);
        let effects = step(&mut explain, read(A, Bytes::from_static(&[9, 9])));
        match &effects[..] {
            [Effect::Answer(answers)] => assert!(answers[0].1.is_err()),
            other => panic!("{other:?}"),
        }
    }
}
