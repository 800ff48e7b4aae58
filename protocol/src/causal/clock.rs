//! A version vector: for each actor the highest counter seen.

use std::fmt;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::Dot;
use crate::codec::{DecodeError, Reader, Wire, put_varint};
use crate::ids::Actor;
use crate::limits::CLOCK_ENTRIES_MAX;

/// Up to how many entries are taken over one by one.
const SHIFTED_ENTRIES_MAX: usize = 16;

/// A version vector. It covers a dot when it has seen that actor's counter or a later one.
///
/// Kept sorted by actor, without zero entries: equal clocks have equal encodings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Clock {
    entries: SmallVec<[Dot; 4]>,
}

impl Clock {
    /// The clock that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// True when nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many actors it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The highest counter seen of an actor, 0 for none.
    pub fn counter(&self, actor: Actor) -> u64 {
        match self.find(actor) {
            Ok(at) => self.entries[at].counter,
            Err(_) => 0,
        }
    }

    /// Whether the write of this dot has been seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.counter(dot.actor) >= dot.counter
    }

    /// Whether everything the other has seen has been seen here.
    pub fn dominates(&self, other: &Self) -> bool {
        other.entries.iter().all(|&dot| self.covers(dot))
    }

    /// Takes note of a dot.
    pub fn see(&mut self, dot: Dot) {
        match self.find(dot.actor) {
            Ok(at) => {
                let entry = &mut self.entries[at];
                entry.counter = entry.counter.max(dot.counter);
            }
            Err(at) => self.entries.insert(at, dot),
        }
    }

    /// Takes note of all that the other has seen: the least upper bound.
    pub fn join(&mut self, other: &Self) {
        // One after the other they would each shift what lies behind, which takes seconds with the longest clocks.
        if other.entries.len() > SHIFTED_ENTRIES_MAX {
            return self.join_in_one_walk(other);
        }
        for &dot in &other.entries {
            self.see(dot);
        }
    }

    fn join_in_one_walk(&mut self, other: &Self) {
        let mut joined = SmallVec::with_capacity(self.entries.len() + other.entries.len());
        let mut theirs = other.entries.iter().copied().peekable();
        for mut mine in self.entries.drain(..) {
            while let Some(their) = theirs.next_if(|their| their.actor < mine.actor) {
                joined.push(their);
            }
            if let Some(their) = theirs.next_if(|their| their.actor == mine.actor) {
                mine.counter = mine.counter.max(their.counter);
            }
            joined.push(mine);
        }
        joined.extend(theirs);
        self.entries = joined;
    }

    /// How many entries the join with another clock and one more dot's actor would have.
    pub fn len_with(&self, other: &Self, actor: Actor) -> usize {
        let mut walk = self.entries.iter().map(|dot| dot.actor).peekable();
        let is_news = |theirs: &Actor| {
            while walk.next_if(|mine| mine < theirs).is_some() {}
            walk.peek() != Some(theirs)
        };
        let news = other.entries.iter().map(|dot| dot.actor).filter(is_news);
        let joined = self.len() + news.count();
        let is_known = self.find(actor).is_ok() || other.find(actor).is_ok();
        joined + usize::from(!is_known)
    }

    /// The same without the entries of actors for which `keeps` says no.
    ///
    /// What such an entry covered may come back from whoever still holds it: only for a key that is locked, with all its
    /// owners at hand.
    #[must_use]
    pub fn pruned(&self, keeps: impl Fn(Actor) -> bool) -> Self {
        let kept = self.entries.iter().filter(|dot| keeps(dot.actor));
        Self {
            entries: kept.copied().collect(),
        }
    }

    /// The newest dot of each actor, in the order of actors.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        self.entries.iter().copied()
    }

    fn find(&self, actor: Actor) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&actor, |dot| dot.actor)
    }
}

impl FromIterator<Dot> for Clock {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut clock = Self::new();
        for dot in dots {
            clock.see(dot);
        }
        clock
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, dot) in self.entries.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dot}")?;
        }
        f.write_str("}")
    }
}

impl Wire for Clock {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.entries.len() as u64);
        for dot in &self.entries {
            dot.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::decode_up_to(reader, CLOCK_ENTRIES_MAX)
    }
}

impl Clock {
    /// Decodes a clock of at most so many entries.
    pub(super) fn decode_up_to(
        reader: &mut Reader<'_>,
        entries_max: usize,
    ) -> Result<Self, DecodeError> {
        let count = reader.count("clock", entries_max)?;
        let mut entries = SmallVec::new();
        for _ in 0..count {
            let dot = Dot::decode(reader)?;
            if entries
                .last()
                .is_some_and(|last: &Dot| last.actor >= dot.actor)
            {
                return Err(DecodeError::Invalid {
                    what: "clock order",
                });
            }
            entries.push(dot);
        }
        Ok(Self { entries })
    }
}
