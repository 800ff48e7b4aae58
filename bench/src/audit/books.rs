//! The books of an audit: a history for each key, what was found to be wrong, and the counts.
//!
//! No I/O: moments and answers are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::log::{Entry, ReadError};
use super::value::{RunId, WriteName, WriteNumber, decode};
use crate::history::{BooksError, History, Outcome, Replaces};

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
    /// A value came back that an acknowledged write had read and replaced.
    Returned,
    /// A value is there that was not sent, or of which it was promised that it was not applied.
    NeverSent,
    /// A key could not be read at the end.
    Unreadable,
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
                    replaces,
                } => books.record_begin(*name, *is_delete, replaces.clone(), *at),
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
        replaces: Replaces<WriteNumber>,
        now: Duration,
    ) -> Result<WriteName, BooksError> {
        let write = self.keys[key as usize].begun;
        let name = WriteName { key, write };
        self.record_begin(name, is_delete, replaces, now)?;
        Ok(name)
    }

    fn record_begin(
        &mut self,
        name: WriteName,
        is_delete: bool,
        replaces: Replaces<WriteNumber>,
        now: Duration,
    ) -> Result<(), BooksError> {
        let key = &mut self.keys[name.key as usize];
        key.history.begin(name.write, is_delete, replaces, now)?;
        self.last_moment = self.last_moment.max(now);
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
                key.history.forget_if_crowded();
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
        values: &[Bytes],
        trust: Trust,
        began: Duration,
        now: Duration,
    ) -> Vec<WriteNumber> {
        self.counts.reads += 1;
        let shown = self.shown(key, values, now);
        let found = || match shown.len() {
            0 => "no value".to_owned(),
            _ => {
                let writes = shown.iter().map(|write| format!("write {key}/{write}"));
                writes.collect::<Vec<_>>().join(", ")
            }
        };
        let history = &self.keys[key as usize].history;
        let wrong = match trust {
            Trust::Weak => None,
            Trust::Strict => Some(Wrong::Stale),
            Trust::Final => Some(Wrong::Lost),
        };
        let mut findings = Vec::new();
        if let Some(wrong) = wrong {
            for write in history.missing(&shown, began, now) {
                findings.push((wrong, write, history.ended(write), found()));
            }
            for (back, by) in history.returned(&shown) {
                let ended = history.ended(back);
                let is_first_over = ended.is_some_and(|ended| Some(ended) < history.began(by))
                    && history.ended(by).is_some_and(|ended| ended < began);
                if is_first_over && !history.may_come_twice(back) {
                    let found = format!("shown although write {key}/{by} had replaced it");
                    findings.push((Wrong::Returned, back, ended, found));
                }
            }
        }
        for (wrong, write, ended, found) in findings {
            let finding = Finding {
                key,
                write: Some(write),
                ended,
                noticed: now,
                found,
            };
            self.note(wrong, finding);
        }
        shown.into_iter().collect()
    }

    fn shown(&mut self, key: u32, values: &[Bytes], now: Duration) -> BTreeSet<WriteNumber> {
        let mut shown = BTreeSet::new();
        for value in values {
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
                    shown.insert(write);
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
        let finding = Finding {
            key,
            write: None,
            ended: None,
            noticed: now,
            found: why,
        };
        self.note(Wrong::Unreadable, finding);
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
