//! What clients sent and saw, by their own books. What must hold of it stands in
//! [`invariants`](crate::invariants).
//!
//! What excuses a write that is not there any more is decided by [`dynakv_bench::history`], which the
//! auditor of real clusters uses as well. Nothing is ever forgotten here: runs are short.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dynakv_bench::history::{self, Outcome};
use dynakv_protocol::causal::Dot;
use dynakv_protocol::client::Fetched;
use dynakv_protocol::ids::WriteId;

use crate::client::Failure;
use crate::hangs::Hangs;
use crate::invariants::unique_dots::{self, Dots, Named};
use crate::invariants::{Heard, Read, Violation, bounded, check_read, no_phantom, no_resurrection};

/// Ids of writes.
pub(crate) type Writes = BTreeSet<WriteId>;

/// What a write replaces.
pub(crate) type Replaces = history::Replaces<WriteId>;

/// How clients go about a key, and so what may be expected of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Anybody writes, and waits for W owners.
    #[default]
    Quorum,
    /// As `Quorum`, and one client only writes: one write after the other, each once, to an owner, and
    /// with the context of the read before it.
    OneWriter,
    /// As `Quorum`, and one client only writes: one write after the other, each once, through any node,
    /// and without a context.
    BlindWriter,
    /// Anybody writes, and waits for W nodes, some of which may stand in for owners: reads may miss what
    /// was acknowledged like that until hints have been handed over.
    Sloppy,
    /// Anybody writes, and waits for one owner: reads may miss it until all is healed.
    OneCopy,
    /// The same, and owners may lose what they have.
    Nothing,
}

impl Promise {
    /// Whether every read of R owners meets every write that W owners have.
    pub(crate) fn meets_quorums(self) -> bool {
        matches!(
            self,
            Self::Quorum | Self::OneWriter | Self::BlindWriter | Self::Sloppy
        )
    }
}

/// All that is known of one key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    pub(crate) promise: Promise,
    pub(crate) writes: history::History<WriteId>,
    order: Vec<WriteId>,
    sent: BTreeMap<WriteId, Sent>,
    /// Writes that were seen while their clients still tried.
    seen_early: Writes,
}

#[derive(Debug, Clone)]
struct Sent {
    is_delete: bool,
    replaces: Replaces,
    /// A node that owns no copy was to hand it on, and may have done so to more than one owner.
    is_handed_on: bool,
    /// Its attempts: an owner whose disk hangs hands it on as well.
    given: Vec<Given>,
    /// It was acknowledged before W owners had it: others stood in for them.
    is_sloppy: bool,
    /// What it replaces was read of fewer owners than R.
    has_read_few: bool,
}

/// One attempt, at a node whose disk may hang.
#[derive(Debug, Clone)]
struct Given {
    began: Duration,
    /// Nothing while it is under way.
    ended: Option<Duration>,
    hangs: Hangs,
}

impl Sent {
    /// Whether a node may have handed it on to more than one owner.
    fn may_be_handed_on(&self) -> bool {
        let hung = |it: &Given| it.hangs.any_between(it.began, it.ended);
        self.is_handed_on || self.given.iter().any(hung)
    }
}

impl Books {
    /// All writes in the order of their beginnings.
    pub(crate) fn order(&self) -> &[WriteId] {
        &self.order
    }

    pub(crate) fn is_delete(&self, id: WriteId) -> bool {
        self.sent.get(&id).is_some_and(|sent| sent.is_delete)
    }

    /// Whether it may have taken effect before a moment.
    pub(crate) fn may_exist_before(&self, id: WriteId, moment: Duration) -> bool {
        let is_possible = self.writes.outcome(id) != Some(Outcome::NotApplied);
        is_possible && self.writes.began(id).is_some_and(|began| began < moment)
    }

    pub(crate) fn was_acknowledged_before(&self, id: WriteId, moment: Duration) -> bool {
        let is_acknowledged = self.writes.outcome(id) == Some(Outcome::Acknowledged);
        is_acknowledged && self.writes.ended(id).is_some_and(|ended| ended < moment)
    }

    /// Whether it may take effect a second time, after it was replaced. It was sent more than once, and
    /// somebody replaced a copy of it before its last attempt, or not all that owners had of it: when it is
    /// not acknowledged, was seen before it was, or need not be seen by reads.
    pub(crate) fn may_come_twice(&self, id: WriteId) -> bool {
        let is_known_whole = matches!(self.promise, Promise::Quorum | Promise::OneWriter)
            && self.writes.outcome(id) == Some(Outcome::Acknowledged)
            && !self.seen_early.contains(&id);
        self.was_sent_twice(id) && !is_known_whole
    }

    /// Whether a copy of a write may stand although `by` has read and replaced it. It was sent more than once, and
    /// all who read it, up to `by`, have heard fewer than R owners: these had the copy of an early attempt, and
    /// need not have had the one that was acknowledged.
    pub(crate) fn may_have_missed(&self, by: WriteId, id: WriteId) -> bool {
        self.was_sent_twice(id) && !self.had_read_of_quorums(by).contains(&id)
    }

    /// Of what the client of this write had read, all that was read of R owners by it or by those on the way, and
    /// what those had read that were read so.
    fn had_read_of_quorums(&self, id: WriteId) -> Writes {
        let mut known = Writes::new();
        for by in self.had_read(id).into_iter().chain([id]) {
            let sent = self.sent.get(&by).filter(|sent| !sent.has_read_few);
            if let Some(Replaces::Read(read)) = sent.map(|sent| &sent.replaces) {
                known.extend(read.iter().flat_map(|id| self.had_read(*id)));
                known.extend(read);
            }
        }
        known
    }

    /// Whether nodes may have been given it more than once.
    fn was_sent_twice(&self, id: WriteId) -> bool {
        let is_handed_on = self.sent.get(&id).is_none_or(Sent::may_be_handed_on);
        is_handed_on || self.writes.may_come_twice(id)
    }

    /// Takes note of writes that a read showed which began at this moment.
    fn note_early(&mut self, shown: &Writes, began: Duration) {
        let is_early = |id: &&WriteId| self.writes.ended(**id).is_none_or(|ended| ended > began);
        let early: Vec<_> = shown.iter().filter(is_early).copied().collect();
        self.seen_early.extend(early);
    }

    /// Whether W owners need not have it before all hints are handed over.
    pub(crate) fn was_sloppy(&self, id: WriteId) -> bool {
        self.sent.get(&id).is_some_and(|sent| sent.is_sloppy)
    }

    /// What the client of this write had read, and what those of the writes which it read had read, and
    /// so on. Of blind writes nothing is known.
    pub(crate) fn had_read(&self, id: WriteId) -> Writes {
        let (mut known, mut waiting) = (Writes::new(), vec![id]);
        while let Some(id) = waiting.pop() {
            if let Some(Replaces::Read(read)) = self.sent.get(&id).map(|sent| &sent.replaces) {
                waiting.extend(read.iter().copied().filter(|id| known.insert(*id)));
            }
        }
        known
    }
}

/// All that the clients of a run know.
#[derive(Debug, Default)]
pub(crate) struct History {
    by_key: BTreeMap<String, Books>,
    keys: BTreeMap<WriteId, String>,
    pub(crate) dots: Dots,
    violations: Vec<Violation>,
    reads: usize,
    acknowledged: usize,
    sloppy: usize,
}

/// The bytes that stand for a write.
pub(crate) fn value_of(id: WriteId) -> Bytes {
    let name = format!("value-of-{:032x}", id.0);
    // Some are so large that other owners answer with their digests.
    let padding = if id.0.is_multiple_of(4) { 5_000 } else { 0 };
    Bytes::from(name + &" ".repeat(padding))
}

fn write_of(value: &[u8]) -> Option<WriteId> {
    let text = std::str::from_utf8(value).ok()?;
    let number = u128::from_str_radix(text.strip_prefix("value-of-")?.trim_end(), 16);
    number.ok().map(WriteId)
}

impl History {
    /// How clients will go about a key.
    pub(crate) fn promise(&mut self, key: &str, promise: Promise) {
        self.by_key.entry(key.to_owned()).or_default().promise = promise;
    }

    /// A client begins a write.
    pub(crate) fn begin(
        &mut self,
        id: WriteId,
        key: &str,
        is_delete: bool,
        replaces: Replaces,
        now: Duration,
    ) {
        let known = self.keys.insert(id, key.to_owned());
        assert!(known.is_none(), "an id used twice");
        let books = self.by_key.entry(key.to_owned()).or_default();
        let begun = books.writes.begin(id, is_delete, replaces.clone(), now);
        begun.expect("an id used once");
        books.order.push(id);
        let sent = Sent {
            is_delete,
            replaces,
            is_handed_on: false,
            given: Vec::new(),
            is_sloppy: false,
            has_read_few: false,
        };
        books.sent.insert(id, sent);
    }

    /// A client sends a write again.
    pub(crate) fn retry(&mut self, id: WriteId) {
        let retried = self.books_of(id).writes.retry(id);
        retried.expect("a write that was begun");
    }

    /// A client sends a write to a node that owns no copy, as far as anybody knows.
    pub(crate) fn hand_on(&mut self, id: WriteId) {
        let sent = self.books_of(id).sent.get_mut(&id);
        sent.expect("a write that was begun").is_handed_on = true;
    }

    /// A client sends a write to a node whose disk hung at these times. Even an owner hands it on while its disk hangs,
    /// to one owner after the other until one answers.
    pub(crate) fn give(&mut self, id: WriteId, hangs: &Hangs, now: Duration) {
        let sent = self.books_of(id).sent.get_mut(&id);
        sent.expect("a write that was begun").given.push(Given {
            began: now,
            ended: None,
            hangs: hangs.clone(),
        });
    }

    /// What a write replaces was read of fewer owners than R.
    pub(crate) fn has_read_few(&mut self, id: WriteId) {
        let sent = self.books_of(id).sent.get_mut(&id);
        sent.expect("a write that was begun").has_read_few = true;
    }

    /// A client was told that it took nodes that stand in to make W.
    pub(crate) fn stood_in_for(&mut self, id: WriteId) {
        let sent = self.books_of(id).sent.get_mut(&id);
        sent.expect("a write that was begun").is_sloppy = true;
        self.sloppy += 1;
    }

    fn books_of(&mut self, id: WriteId) -> &mut Books {
        let books = self.by_key.get_mut(&self.keys[&id]);
        books.expect("a write that was begun")
    }

    /// An attempt has ended.
    pub(crate) fn end<T>(&mut self, id: WriteId, answer: &Result<T, Failure>, now: Duration) {
        let outcome = match answer {
            Ok(_) => Outcome::Acknowledged,
            Err(Failure::Refused(error)) if !error.maybe_applied => Outcome::NotApplied,
            Err(Failure::NotSent(_)) => Outcome::NotApplied,
            Err(Failure::Refused(_) | Failure::Broken | Failure::Silent) => Outcome::Unknown,
        };
        self.expect_an_end(answer, now);
        let books = self.books_of(id);
        let ended = books.writes.end(id, outcome, now);
        ended.expect("a write that is under way");
        let sent = books.sent.get_mut(&id);
        if let Some(given) = sent.and_then(|sent| sent.given.last_mut()) {
            given.ended = Some(now);
        }
        self.acknowledged += usize::from(outcome == Outcome::Acknowledged);
    }

    /// Every request ends by its deadline.
    pub(crate) fn expect_an_end<T>(&mut self, answer: &Result<T, Failure>, now: Duration) {
        if let Some(what) = bounded::check(answer, now) {
            self.violate(bounded::NAME, what);
        }
    }

    /// A read came back; gives the writes that it showed.
    pub(crate) fn on_read(
        &mut self,
        key: &str,
        fetched: &Fetched,
        (began, ended): (Duration, Duration),
        heard: Heard,
    ) -> Writes {
        self.reads += 1;
        let shown = self.shown(key, fetched);
        if let Some(books) = self.by_key.get_mut(key) {
            books.note_early(&shown, began);
        }
        let read = Read {
            key,
            shown: &shown,
            values: fetched.siblings.len(),
            began,
            ended,
            heard,
        };
        if let Some(books) = self.by_key.get(key) {
            let violations = check_read(books, &read);
            self.violations.extend(violations);
        }
        shown
    }

    fn shown(&mut self, key: &str, fetched: &Fetched) -> Writes {
        let mut shown = Writes::new();
        for sibling in &fetched.siblings {
            let id = write_of(&sibling.value);
            let books = self.by_key.get(key);
            match no_phantom::check(books, key, id, &sibling.value) {
                Some(what) => self.violate(no_phantom::NAME, what),
                None => shown.extend(id),
            }
            self.on_dot(key, sibling.dot, &Named::Value(sibling.value.clone()));
        }
        shown
    }

    /// A dot was seen, by a client or on a disk.
    pub(crate) fn on_dot(&mut self, key: &str, dot: Dot, named: &Named) {
        if let Some(what) = self.dots.check(key, dot, named) {
            self.violate(unique_dots::NAME, what);
        }
    }

    /// Once all is healed: nothing that was replaced is back.
    pub(crate) fn expect_no_resurrection(&mut self, key: &str, shown: &Writes) {
        let Some(books) = self.by_key.get(key) else {
            return;
        };
        let read = Read {
            key,
            shown,
            values: shown.len(),
            began: Duration::MAX,
            ended: Duration::MAX,
            heard: Heard::All,
        };
        for what in no_resurrection::check(books, &read) {
            self.violate(no_resurrection::NAME, what);
        }
    }

    /// Takes note of a broken invariant.
    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        self.violations.push(Violation { invariant, what });
    }

    /// What broke.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What is known of a key.
    pub(crate) fn books(&self, key: &str) -> Option<&Books> {
        self.by_key.get(key)
    }

    /// How clients go about a key.
    pub(crate) fn promise_of(&self, key: &str) -> Promise {
        self.books(key)
            .map_or(Promise::Quorum, |books| books.promise)
    }

    /// Keys that were written to.
    pub(crate) fn keys(&self) -> Vec<String> {
        let written = self.by_key.iter().filter(|(_, it)| !it.order.is_empty());
        written.map(|(key, _)| key.clone()).collect()
    }

    /// How many writes were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// How many of them took nodes that stand in.
    pub(crate) fn sloppy(&self) -> usize {
        self.sloppy
    }

    /// How many reads were held against this history.
    pub(crate) fn reads(&self) -> usize {
        self.reads
    }
}
