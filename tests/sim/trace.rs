//! Everything that happened in a run: what each node sent and what each client saw, with the machine
//! and its simulated time, in order. Two runs are the same when their traces are.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{clock, seeds};

/// How many lines the report of a failure shows, unless one seed is being replayed: then all.
const LINES_SHOWN: usize = 60;

/// Clones are the same trace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    events: Arc<Mutex<Vec<Event>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Event {
    at: Duration,
    machine: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    /// Bytes that left a machine, and a hash of them.
    Sent { count: usize, hash: u64 },
    /// Something that a person who replays the run wants to read.
    Line(String),
}

impl Trace {
    /// A machine wrote to a connection.
    pub(crate) fn sent(&self, machine: &str, bytes: &[u8]) {
        // SipHash with fixed keys: the same in every process.
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let (count, hash) = (bytes.len(), hasher.finish());
        self.add(clock::now(), machine, What::Sent { count, hash });
    }

    /// Adds a line; called by a machine.
    pub(crate) fn line(&self, machine: &str, text: &str) {
        self.line_at(clock::now(), machine, text);
    }

    /// The same, called from outside of all machines.
    pub(crate) fn line_at(&self, at: Duration, machine: &str, text: &str) {
        self.add(at, machine, What::Line(text.to_owned()));
    }

    fn add(&self, at: Duration, machine: &str, what: What) {
        let machine = machine.to_owned();
        self.events().push(Event { at, machine, what });
    }

    /// How much happened.
    pub(crate) fn len(&self) -> usize {
        self.events().len()
    }

    /// A hash of all that happened: two runs with the same one are the same.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.events().hash(&mut hasher);
        hasher.finish()
    }

    /// The first event in which two runs differ, as each of them has it.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<String> {
        let (mine, theirs) = (self.events().clone(), other.events().clone());
        let longest = mine.len().max(theirs.len());
        let at = (0..longest).find(|&at| mine.get(at) != theirs.get(at))?;
        Some(format!(
            "event {at} is\n  {:?}\nin one run and\n  {:?}\nin the other",
            mine.get(at),
            theirs.get(at)
        ))
    }

    /// The last lines, or all.
    pub(crate) fn tail(&self) -> String {
        let shown = match seeds::replayed() {
            Some(_) => usize::MAX,
            None => LINES_SHOWN,
        };
        let mut lines: Vec<_> = self
            .events()
            .iter()
            .rev()
            .filter_map(Event::line)
            .take(shown)
            .collect();
        lines.reverse();
        lines.join("\n")
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Event {
    fn line(&self) -> Option<String> {
        match &self.what {
            What::Sent { .. } => None,
            What::Line(text) => {
                let (at, machine) = (self.at.as_secs_f64(), &self.machine);
                Some(format!("{at:>10.3} {machine}: {text}"))
            }
        }
    }
}
