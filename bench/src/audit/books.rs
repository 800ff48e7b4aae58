//! The books of an audit: a history for each key, what was found to be wrong, and the counts.
//!
//! No I/O: moments and answers are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::causal::Dot;

use super::log::{Entry, ReadError};
use super::value::{Before, RunId, Shown, WriteName, WriteNumber, decode};
use crate::history::{BooksError, History, OutOfSequence, Outcome, Replaces};

/// So much of a value nobody sent is shown.
const EXCERPT_BYTES: usize = 80;

/// So many findings of a kind are kept; the others are only counted.
const FINDINGS_KEPT: usize = 1000;

/// An audit has at most so many keys.
pub(super) const KEYS_MAX: u32 = 10_000_000;

/// How far a read is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Fewer owners than would meet each write's: it may miss what it likes.
    Weak,
    /// R + W > N, in the midst of the load: what it misses, it must not miss, but may be found later.
    Strict,
    /// All is over: what is missing is lost.
    Final,
}

/// Something that must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wrong {
    /// An acknowledged put is not there, and nothing that is there replaced it.
    Lost,
    /// A read missed an acknowledged put, though its owners and the write's overlap.
    Stale,
    /// A value came back that an acknowledged write had read and replaced: the one that it had read.
    Returned,
    /// Of a key that one client writes blindly, one write after the other: an older write is there, in the
    /// place of the last acknowledged one or beside it.
    Undone,
    /// The same, of a write that was sent more than once: another copy of it.
    SecondCopy,
    /// A value is there that was not sent, or of which it was promised that it was not applied.
    NeverSent,
    /// A key could not be read at the end.
    Unreadable,
    /// The owners of a key hold different versions of it, long after the last write.
    Differing,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) key: u32,
    /// The write it is about; none for a value that names none.
    pub(super) write: Option<WriteNumber>,
    /// When the write ended.
    pub(super) ended: Option<Duration>,
    /// When it was noticed.
    pub(super) noticed: Duration,
    /// What was found instead.
    pub(super) found: String,
}

/// How many there were of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) acknowledged: u64,
    pub(super) reads: u64,
    pub(super) failed: u64,
    pub(super) unknown: u64,
}

#[derive(Debug, Default)]
struct KeyBook {
    history: History<WriteNumber>,
    begun: WriteNumber,
    /// For each write in the history: what its client had read.
    read: BTreeMap<WriteNumber, Vec<Shown>>,
    /// Whether only one client has written it, blindly and one write after the other.
    is_alone: bool,
    /// Writes in the history that a read showed while their clients still tried: whoever replaced them then
    /// did so before their last attempt, which may take effect after that.
    seen_early: BTreeSet<WriteNumber>,
}

/// The books.
#[derive(Debug)]
pub(super) struct Books {
    run: RunId,
    keys: Vec<KeyBook>,
    counts: Counts,
    findings: BTreeMap<(Wrong, u32, Option<WriteNumber>), Finding>,
    kept: BTreeMap<Wrong, usize>,
    not_kept: BTreeMap<Wrong, u64>,
    last_moment: Duration,
    /// They are those of an earlier audit: who saw what when is not known.
    is_replayed: bool,
}

impl Books {
    /// Empty books for keys 0 to `keys` - 1.
    pub(super) fn new(run: RunId, keys: u32) -> Self {
        Self {
            run,
            keys: (0..keys).map(|_| KeyBook::default()).collect(),
            counts: Counts::default(),
            findings: BTreeMap::new(),
            kept: BTreeMap::new(),
            not_kept: BTreeMap::new(),
            last_moment: Duration::ZERO,
            is_replayed: false,
        }
    }

    /// The books as the log of an audit tells them. What was begun and has no end may have happened.
    ///
    /// # Errors
    /// What contradicts itself.
    pub(super) fn replay(
        mut entries: impl Iterator<Item = Result<Entry, ReadError>>,
    ) -> Result<Self, String> {
        let said = |error: ReadError| error.to_string();
        let Some(Entry::Audit { run, keys }) = entries.next().transpose().map_err(said)? else {
            return Err("it does not begin as the log of an audit".to_owned());
        };
        if keys > KEYS_MAX {
            return Err(format!("{keys} keys are more than an audit may have"));
        }
        let mut books = Self::new(run, keys);
        books.is_replayed = true;
        for entry in entries {
            let entry = entry.map_err(said)?;
            let done = match &entry {
                Entry::Audit { .. } => return Err("a second audit begins in it".to_owned()),
                Entry::Begun { name, .. } | Entry::Ended { name, .. } if name.key >= keys => {
                    return Err(format!("write {name} is of no key of this audit"));
                }
                Entry::Begun {
                    at,
                    name,
                    is_delete,
                    before,
                    is_alone,
                } => books.record_begin(*name, *is_delete, before.as_deref(), *is_alone, *at),
                Entry::Ended { at, name, outcome } => books.end(*name, *outcome, *at),
            };
            done.map_err(|error| format!("{entry:?}: {error}"))?;
        }
        for key in &mut books.keys {
            key.history.close();
        }
        Ok(books)
    }

    /// Which audit this is.
    pub(super) fn run(&self) -> RunId {
        self.run
    }

    /// A client is about to send a write: gives its name.
    pub(super) fn begin(
        &mut self,
        key: u32,
        is_delete: bool,
        before: &Before,
        now: Duration,
    ) -> Result<WriteName, BooksError> {
        let write = self.keys[key as usize].begun;
        let name = WriteName { key, write };
        self.record_begin(name, is_delete, before.as_deref(), false, now)?;
        Ok(name)
    }

    /// The only client of a key, which writes it blindly and one write after the other, is about to send a
    /// write: gives its name.
    pub(super) fn begin_alone(
        &mut self,
        key: u32,
        is_delete: bool,
        now: Duration,
    ) -> Result<WriteName, BooksError> {
        let write = self.keys[key as usize].begun;
        let name = WriteName { key, write };
        self.record_begin(name, is_delete, None, true, now)?;
        Ok(name)
    }

    fn record_begin(
        &mut self,
        name: WriteName,
        is_delete: bool,
        before: Option<&[Shown]>,
        is_alone: bool,
        now: Duration,
    ) -> Result<(), BooksError> {
        let key = &mut self.keys[name.key as usize];
        let replaces = match before {
            Some(read) => Replaces::Read(read.iter().map(|shown| shown.write).collect()),
            None => Replaces::WhatIsThere,
        };
        key.history.begin(name.write, is_delete, replaces, now)?;
        self.last_moment = self.last_moment.max(now);
        if let Some(read) = before {
            key.read.insert(name.write, read.to_vec());
        }
        key.is_alone = is_alone && (key.is_alone || key.begun == 0);
        key.begun = key.begun.max(name.write.saturating_add(1));
        Ok(())
    }

    /// It is known how a write ended, or that nobody knows.
    pub(super) fn end(
        &mut self,
        name: WriteName,
        outcome: Outcome,
        now: Duration,
    ) -> Result<(), BooksError> {
        let key = &mut self.keys[name.key as usize];
        key.history.end(name.write, outcome, now)?;
        self.last_moment = self.last_moment.max(now);
        match outcome {
            Outcome::Acknowledged => {
                self.counts.acknowledged += 1;
                if key.history.forget_if_crowded() {
                    let history = &key.history;
                    key.read
                        .retain(|write, _| history.outcome(*write).is_some());
                    key.seen_early
                        .retain(|write| history.outcome(*write).is_some());
                }
            }
            Outcome::Unknown => self.counts.unknown += 1,
            Outcome::NotApplied => {}
        }
        Ok(())
    }

    /// A request ended with an error.
    pub(super) fn fail(&mut self) {
        self.counts.failed += 1;
    }

    /// A read came back. Gives the writes that it showed.
    pub(super) fn on_read(
        &mut self,
        key: u32,
        values: &[(Bytes, Dot)],
        trust: Trust,
        began: Duration,
        now: Duration,
    ) -> Vec<Shown> {
        self.counts.reads += 1;
        let shown = self.shown(key, values, now);
        let book = &mut self.keys[key as usize];
        let history = &book.history;
        let early = shown.iter().map(|shown| shown.write);
        let early = early.filter(|write| history.ended(*write).is_none_or(|ended| ended > began));
        book.seen_early.extend(early);
        let wrong = match trust {
            Trust::Weak => return shown,
            Trust::Strict => Wrong::Stale,
            Trust::Final => Wrong::Lost,
        };
        let writes = shown.iter().map(|shown| shown.write).collect();
        if self.keys[key as usize].is_alone {
            self.expect_last_alone(key, &shown, &writes, wrong, (began, now));
            return shown;
        }
        let history = &self.keys[key as usize].history;
        let missing = history.missing(&writes, began, now).into_iter();
        let missing: Vec<_> = missing.map(|write| (write, history.ended(write))).collect();
        for (write, ended) in missing {
            let finding = Finding {
                key,
                write: Some(write),
                ended,
                noticed: now,
                found: listed(key, &shown),
            };
            self.note(wrong, finding);
        }
        for shown in &shown {
            self.expect_not_replaced(key, *shown, began, now);
        }
        shown
    }

    /// The last acknowledged write of a key with one blind writer stands there, and nothing older.
    fn expect_last_alone(
        &mut self,
        key: u32,
        shown: &[Shown],
        writes: &BTreeSet<WriteNumber>,
        missing: Wrong,
        (began, now): (Duration, Duration),
    ) {
        let history = &self.keys[key as usize].history;
        let (wrong, last) = match history.out_of_sequence(writes, began, now) {
            Some(OutOfSequence::Old { last, .. }) => (Wrong::Undone, last),
            Some(OutOfSequence::Gone { last }) => (missing, last),
            None => return,
        };
        let finding = Finding {
            key,
            write: Some(last),
            ended: history.ended(last),
            noticed: now,
            found: listed(key, shown),
        };
        self.note(wrong, finding);
    }

    /// An acknowledged write replaced what its client had read, and that does not come back, under whatever
    /// dot. Only a write that was read before its client was answered may take effect after it was replaced.
    fn expect_not_replaced(&mut self, key: u32, shown: Shown, began: Duration, now: Duration) {
        let book = &mut self.keys[key as usize];
        let is_due = |by: &WriteNumber| {
            let is_acknowledged = book.history.outcome(*by) == Some(Outcome::Acknowledged);
            is_acknowledged && book.history.ended(*by).is_some_and(|ended| ended < began)
        };
        let replacing = book.read.iter().filter(|(by, read)| {
            let has_read = read.iter().any(|read| read.write == shown.write);
            has_read && is_due(by)
        });
        let replacing: Vec<_> = replacing
            .map(|(by, read)| (*by, read.contains(&shown)))
            .collect();
        let is_answered = book.history.outcome(shown.write) == Some(Outcome::Acknowledged);
        let is_one = is_answered && !self.is_replayed && !book.seen_early.contains(&shown.write);
        let same = replacing.iter().find(|(_, is_same)| *is_same);
        let (by, wrong) = match (same, replacing.first()) {
            (Some((by, _)), _) => (*by, Wrong::Returned),
            (None, Some((by, _))) if is_one => (*by, Wrong::SecondCopy),
            (None, _) => return,
        };
        let finding = Finding {
            key,
            write: Some(shown.write),
            ended: book.history.ended(shown.write),
            noticed: now,
            found: format!("shown although write {key}/{by} had replaced it"),
        };
        self.note(wrong, finding);
    }

    fn shown(&mut self, key: u32, values: &[(Bytes, Dot)], now: Duration) -> Vec<Shown> {
        let mut shown = Vec::with_capacity(values.len());
        for (value, dot) in values {
            let book = &self.keys[key as usize];
            let write = decode(self.run, key, value).filter(|write| *write < book.begun);
            let promised = write.and_then(|write| book.history.outcome(write));
            let found = match write {
                None => {
                    let excerpt = &value[..value.len().min(EXCERPT_BYTES)];
                    format!("{} bytes: \"{}\"", value.len(), excerpt.escape_ascii())
                }
                Some(_) if promised == Some(Outcome::NotApplied) => {
                    "its client was told that it was not applied".to_owned()
                }
                Some(write) => {
                    shown.push(Shown { write, dot: *dot });
                    continue;
                }
            };
            let finding = Finding {
                key,
                write,
                ended: None,
                noticed: now,
                found,
            };
            self.note(Wrong::NeverSent, finding);
        }
        shown
    }

    /// A key could not be read at the end.
    pub(super) fn unreadable(&mut self, key: u32, why: String, now: Duration) {
        self.note_key(Wrong::Unreadable, key, why, now);
    }

    /// The owners of a key hold different versions, although nobody writes any more.
    pub(super) fn differs(&mut self, key: u32, how: String, now: Duration) {
        self.note_key(Wrong::Differing, key, how, now);
    }

    fn note_key(&mut self, wrong: Wrong, key: u32, found: String, now: Duration) {
        let finding = Finding {
            key,
            write: None,
            ended: None,
            noticed: now,
            found,
        };
        self.note(wrong, finding);
    }

    /// Each is noted once, however often it is seen.
    fn note(&mut self, wrong: Wrong, finding: Finding) {
        let name = (wrong, finding.key, finding.write);
        if self.findings.contains_key(&name) {
            return;
        }
        let kept = self.kept.entry(wrong).or_default();
        if *kept < FINDINGS_KEPT {
            *kept += 1;
            self.findings.insert(name, finding);
        } else {
            *self.not_kept.entry(wrong).or_default() += 1;
        }
    }

    /// The keys that were written to.
    pub(super) fn written_keys(&self) -> Vec<u32> {
        let keys = (0..).zip(&self.keys);
        keys.filter(|(_, book)| book.begun > 0)
            .map(|(key, _)| key)
            .collect()
    }

    /// The latest moment in them.
    pub(super) fn last_moment(&self) -> Duration {
        self.last_moment
    }

    /// The counts.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// What is wrong, kind by kind. A stale read of what turned out to be lost is not told twice.
    pub(super) fn findings(&self) -> impl Iterator<Item = (Wrong, &Finding)> {
        let is_told = |wrong: Wrong, finding: &Finding| {
            let lost = (Wrong::Lost, finding.key, finding.write);
            wrong == Wrong::Stale && self.findings.contains_key(&lost)
        };
        let findings = self.findings.iter().map(|((wrong, ..), f)| (*wrong, f));
        findings.filter(move |(wrong, finding)| !is_told(*wrong, finding))
    }

    /// How many there are of a kind, also of those that are not kept.
    pub(super) fn how_many(&self, wrong: Wrong) -> u64 {
        let kept = self.findings().filter(|(other, _)| *other == wrong).count() as u64;
        kept + self.not_kept.get(&wrong).copied().unwrap_or(0)
    }
}

fn listed(key: u32, shown: &[Shown]) -> String {
    if shown.is_empty() {
        return "no value".to_owned();
    }
    let writes = shown
        .iter()
        .map(|Shown { write, dot }| format!("write {key}/{write} ({dot})"));
    writes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
