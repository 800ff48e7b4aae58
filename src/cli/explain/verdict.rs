//! What the owners' states come to: what all of them together hold, who lacks some of it, and why
//! there is more than one value.

use std::collections::BTreeMap;

use dynakv_client::Explained;
use dynakv_protocol::Actor;
use dynakv_protocol::admin::{ExplainedOwner, OwnerState, SiblingDigest, ValueDigest};
use dynakv_protocol::causal::{Clock, Dot, Mark};

/// How an owner stands against all that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has everything that any owner has.
    Current,
    /// It lacks something; what it lacks, and what it holds that was replaced.
    Stale,
    /// The key was never written there, and it was elsewhere.
    Lacks,
    /// It did not answer.
    Silent,
}

impl Standing {
    /// A word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale => "stale",
            Self::Lacks => "lacks it",
            Self::Silent => "no answer",
        }
    }
}

/// One value, or tombstone, that any owner holds.
#[derive(Debug)]
pub(super) struct Held<'a> {
    /// What stands for it.
    pub(super) sibling: &'a SiblingDigest,
    /// Which owners hold it.
    pub(super) by: Vec<&'a str>,
    /// The owners that have seen it and hold it no more: a later write replaced it.
    pub(super) replaced_at: Vec<&'a str>,
}

impl Held<'_> {
    /// Whether some owner knows that it was replaced.
    pub(super) fn is_replaced(&self) -> bool {
        !self.replaced_at.is_empty()
    }

    /// What it says, if it is no value and no delete.
    pub(super) fn mark(&self) -> Option<Mark> {
        mark(self.sibling)
    }

    /// Whether a reader would be shown it, but for copies of what was replaced elsewhere.
    pub(super) fn is_live(&self, now_unix_ms: u64) -> bool {
        let expired = |at| at <= now_unix_ms;
        !self.is_replaced()
            && self.sibling.value != ValueDigest::Tombstone
            && !self.sibling.expires_at_ms.is_some_and(expired)
    }
}

/// What all owners that answered know together.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    explained: &'a Explained,
    /// All that they have seen.
    pub(super) clock: Clock,
    /// All that they hold, by dot.
    pub(super) held: Vec<Held<'a>>,
    /// Which owner mints under an actor at present.
    minters: BTreeMap<Actor, &'a str>,
}

impl<'a> Verdict<'a> {
    /// Looks at all answers.
    pub(super) fn new(explained: &'a Explained) -> Self {
        let mut clock = Clock::new();
        let mut siblings: BTreeMap<Dot, &SiblingDigest> = BTreeMap::new();
        let mut minters = BTreeMap::new();
        for (id, state) in answers(explained) {
            clock.join(&state.clock);
            for sibling in &state.siblings {
                siblings.entry(sibling.dot).or_insert(sibling);
            }
            if let Some(actor) = state.actor {
                minters.insert(actor, id);
            }
        }
        let held = siblings.into_iter().map(|(dot, sibling)| {
            let holds = |state: &OwnerState| state.siblings.iter().any(|held| held.dot == dot);
            let owners = |wanted: &dyn Fn(&OwnerState) -> bool| {
                let owners = answers(explained).filter(|(_, state)| wanted(state));
                owners.map(|(id, _)| id).collect()
            };
            Held {
                sibling,
                by: owners(&holds),
                replaced_at: owners(&|state| state.clock.covers(dot) && !holds(state)),
            }
        });
        Self {
            held: held.collect(),
            explained,
            clock,
            minters,
        }
    }

    /// How many owners the key has.
    pub(super) fn owner_count(&self) -> usize {
        self.explained.owners.len()
    }

    /// What clients wrote and nobody has replaced, tombstones among it.
    fn written(&self) -> impl Iterator<Item = &Held<'a>> {
        self.current().filter(|held| held.mark().is_none())
    }

    /// The same without other copies of what was replaced, unless there is nothing else.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Held<'a>> {
        let hides = self.written().any(|held| !self.is_retired(held));
        self.written()
            .filter(move |held| !hides || !self.is_retired(held))
    }

    /// Whether it is a copy of a write that was sent more than once and has been replaced.
    pub(super) fn is_retired(&self, held: &Held<'_>) -> bool {
        let id = held.sibling.write_id;
        let mut marks = self.current();
        held.mark().is_none()
            && marks.any(|it| it.mark() == Some(Mark::Retired) && it.sibling.write_id == id)
    }

    /// What nobody has replaced, tombstones and marks among it.
    pub(super) fn current(&self) -> impl Iterator<Item = &Held<'a>> {
        self.held.iter().filter(|held| !held.is_replaced())
    }

    /// What a reader of all owners would be shown; more than one is a conflict, unless their bytes are
    /// the same.
    pub(super) fn live(&self) -> Vec<&Held<'a>> {
        let now = self.explained.now_unix_ms;
        let mut live: Vec<&Held<'_>> = Vec::new();
        for held in self.shown().filter(|held| held.is_live(now)) {
            if live
                .iter()
                .all(|other| other.sibling.value != held.sibling.value)
            {
                live.push(held);
            }
        }
        live
    }

    /// How an owner stands.
    pub(super) fn standing(&self, id: &str) -> Standing {
        let Some(state) = self.state(id) else {
            return Standing::Silent;
        };
        let lacks_nothing = self.missing(id).is_empty() && self.obsolete(id).is_empty();
        if state.clock == self.clock && lacks_nothing {
            Standing::Current
        } else if state.clock.is_empty() {
            Standing::Lacks
        } else {
            Standing::Stale
        }
    }

    /// Whether all owners that answered have the same.
    pub(super) fn agree(&self) -> bool {
        let mut answered = answers(self.explained);
        answered.all(|(id, _)| self.standing(id) == Standing::Current)
    }

    /// Dots that an owner should hold and has not seen.
    pub(super) fn missing(&self, id: &str) -> Vec<&Held<'a>> {
        let Some(state) = self.state(id) else {
            return Vec::new();
        };
        let unseen = |held: &&Held<'_>| !state.clock.covers(held.sibling.dot);
        self.current().filter(unseen).collect()
    }

    /// What an owner holds although another one knows that it was replaced.
    pub(super) fn obsolete(&self, id: &str) -> Vec<&Held<'a>> {
        let here = |held: &&Held<'_>| held.is_replaced() && held.by.contains(&id);
        self.held.iter().filter(here).collect()
    }

    /// Which owners have all.
    pub(super) fn complete(&self) -> Vec<&'a str> {
        let ids = answers(self.explained).map(|(id, _)| id);
        ids.filter(|id| self.standing(id) == Standing::Current)
            .collect()
    }

    /// The node that mints under an actor at present, if an answering owner does.
    pub(super) fn minter(&self, actor: Actor) -> Option<&'a str> {
        self.minters.get(&actor).copied()
    }

    /// Through whom a write came, for people.
    pub(super) fn coordinator(&self, actor: Actor) -> String {
        match self.minter(actor) {
            Some(id) => id.to_owned(),
            None => format!("actor {actor}"),
        }
    }

    /// A clock for people: `node-1:5 node-2:3`.
    pub(super) fn clock_text(&self, clock: &Clock) -> String {
        let entries = clock
            .iter()
            .map(|dot| format!("{}:{}", self.minter_or_actor(dot.actor), dot.counter));
        let text = entries.collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    }

    fn minter_or_actor(&self, actor: Actor) -> String {
        self.minter(actor)
            .map_or_else(|| actor.to_string(), str::to_owned)
    }

    /// Sentences that say why there are several values; none when there is one or none.
    pub(super) fn why_siblings(&self) -> Vec<String> {
        let current: Vec<_> = self.shown().collect();
        let mut sentences = Vec::new();
        for (at, first) in current.iter().enumerate() {
            for second in &current[at + 1..] {
                sentences.push(self.why(first.sibling, second.sibling));
            }
            // Every pair of many would be a page; the first against each other says it.
            if current.len() > 4 {
                break;
            }
        }
        sentences
    }

    /// Why two writes stand beside each other: each survives where the other is known, so neither
    /// replaced the other, so neither had seen it.
    fn why(&self, first: &SiblingDigest, second: &SiblingDigest) -> String {
        let (earlier, later) = if first.timestamp <= second.timestamp {
            (first, second)
        } else {
            (second, first)
        };
        let apart = later.timestamp_ms().saturating_sub(earlier.timestamp_ms());
        let name = |sibling: &SiblingDigest| {
            let through = self.coordinator(sibling.dot.actor);
            format!(
                "{} (through {through}, {})",
                what(sibling),
                time_text(sibling.timestamp_ms())
            )
        };
        let pair = format!("{} and {}", name(earlier), name(later));
        let apart = span_text(apart);
        if earlier.write_id == later.write_id {
            return format!(
                "{pair} are one write that two nodes took, because its sender tried again elsewhere; \
                 readers are shown it once"
            );
        }
        let reason = if earlier.dot.actor == later.dot.actor {
            format!(
                "both came through one node, {apart} apart, and the later one carried a context that \
                 did not contain the earlier one: its writer had read the key before that"
            )
        } else {
            format!(
                "they came through different nodes, {apart} apart, and neither was known to the writer \
                 of the other: an old context, or a write without context where the other one had not arrived"
            )
        };
        let note = if earlier.value == later.value {
            "; their bytes are equal, so readers are shown one value"
        } else {
            ""
        };
        format!("{pair} are concurrent: {reason}{note}")
    }

    fn state(&self, id: &str) -> Option<&'a OwnerState> {
        answers(self.explained)
            .find(|(owner, _)| *owner == id)
            .map(|(_, state)| state)
    }
}

/// The owners that answered.
fn answers(explained: &Explained) -> impl Iterator<Item = (&str, &OwnerState)> {
    explained.owners.iter().filter_map(|owner| {
        let state = owner.answer.as_ref().ok()?;
        Some((owner.id.as_str(), state))
    })
}

fn mark(sibling: &SiblingDigest) -> Option<Mark> {
    Mark::of(
        sibling.value == ValueDigest::Tombstone,
        sibling.expires_at_ms,
    )
}

/// A value, delete or mark in a cell of a table.
pub(super) fn cell_text(sibling: &SiblingDigest) -> String {
    match mark(sibling) {
        Some(Mark::Again) => format!("(write {:032x} was sent again)", sibling.write_id.0),
        Some(Mark::Retired) => format!("(write {:032x} is done with)", sibling.write_id.0),
        None => preview_text(&sibling.value),
    }
}

/// A value in a few words.
pub(super) fn what(sibling: &SiblingDigest) -> String {
    match &sibling.value {
        ValueDigest::Tombstone => "a delete".to_owned(),
        ValueDigest::Bytes { .. } => preview_text(&sibling.value),
    }
}

/// The beginning of a value, quoted.
pub(super) fn preview_text(value: &ValueDigest) -> String {
    match value {
        ValueDigest::Tombstone => "(deleted)".to_owned(),
        ValueDigest::Bytes {
            length, preview, ..
        } => {
            let shown = &preview[..preview.len().min(SHOWN_BYTES_MAX)];
            let more = if *length > shown.len() as u64 {
                "…"
            } else {
                ""
            };
            // A character that was cut in two is left out.
            let text = match std::str::from_utf8(shown) {
                Ok(text) => Ok(text),
                Err(error) if error.error_len().is_none() && !more.is_empty() => {
                    std::str::from_utf8(&shown[..error.valid_up_to()])
                }
                Err(error) => Err(error),
            };
            match text {
                Ok(text) => format!("{text:?}{more}"),
                Err(_) => format!("b\"{}\"{more}", shown.escape_ascii()),
            }
        }
    }
}

/// How much of a value a table shows, in bytes.
const SHOWN_BYTES_MAX: usize = 32;

/// A time of day in UTC.
pub(super) fn time_text(unix_ms: u64) -> String {
    let since = std::time::Duration::from_millis(unix_ms);
    match std::time::UNIX_EPOCH.checked_add(since) {
        // The formatter knows four digits of year.
        Some(time) if unix_ms < 253_402_300_800_000 => {
            humantime::format_rfc3339_millis(time).to_string()
        }
        _ => format!("{unix_ms} ms"),
    }
}

/// A span of time with the two largest units.
fn span_text(ms: u64) -> String {
    let text = humantime::format_duration(std::time::Duration::from_millis(ms)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Whether it says that it has lost data around the key.
pub(super) fn is_rebuilding(owner: &ExplainedOwner) -> bool {
    owner.answer.as_ref().is_ok_and(|state| state.rebuilding)
}
