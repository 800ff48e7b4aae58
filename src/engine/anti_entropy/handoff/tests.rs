use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Clock, Dot, Incoming, Value, Versions};
use dynakv_protocol::codec::Wire;
use dynakv_protocol::ids::{ClusterId, DirectoryId, NodeId, RingVersion, WriteId};
use dynakv_protocol::ring_document::{Member, RingDocument, Step};

use super::*;
use crate::engine::placement::ring::Ring;

mod following;

fn node(number: usize) -> NodeId {
    NodeId::new(&format!("node-{number}")).unwrap()
}

fn versions(actor: u64, counter: u64) -> Versions {
    let mut versions = Versions::new();
    let actor = Actor(actor);
    let incoming = Incoming {
        write_id: WriteId(u128::from(counter)),
        timestamp: 1,
        expires_at_ms: None,
        value: Value::Bytes(Bytes::from_static(b"v")),
    };
    versions.write(&Clock::new(), Dot { actor, counter }, incoming);
    versions
}

fn counted(owners: &[usize], needed: u8) -> Hint {
    Hint {
        versions: Some(versions(1, 1)),
        owed: owners.iter().map(|&number| node(number)).collect(),
        needed,
        kept_at_ms: 5,
    }
}

const KEY: Bytes = Bytes::from_static(b"k");

/// All of these own all keys.
fn ring(version: u64, owners: &[usize], w: u8) -> RingDocument {
    let member = |&number: &usize| Member {
        id: node(number),
        directory_id: DirectoryId(1),
        address: format!("node-{number}:8080"),
        weight: 1,
        zone: String::new(),
    };
    RingDocument {
        cluster_id: ClusterId(1),
        cluster_name: "test".to_owned(),
        version: RingVersion(version),
        step: Step::Final,
        n: owners.len() as u8,
        w,
        r: 1,
        members: owners.iter().map(member).collect(),
    }
}

/// A book with one hint.
struct Book(HintBook, Revision);

impl Book {
    /// Whoever is owed the hint owns its key.
    fn of(hint: &Hint) -> Self {
        let mut owners: Vec<usize> = (1..=5).collect();
        owners.retain(|&it| hint.owed.contains(&node(it)));
        Self::under(Arc::new(Ring::new(ring(1, &owners, 1))), hint)
    }

    fn under(ring: Arc<Ring>, hint: &Hint) -> Self {
        let mut book = HintBook::default();
        book.follow(ring);
        assert_eq!(book.follow_on(1, 1), []);
        let revision = book.put(KEY, hint);
        Self(book, revision)
    }

    fn says(&mut self, owner: usize, word: Word) -> Confirmed {
        let under = (self.1, self.0.ring_version());
        self.0.confirm(&KEY, under, &node(owner), word)
    }

    fn has(&mut self, owner: usize, run: u64) -> Confirmed {
        self.says(owner, Word::Has { run })
    }

    fn still(&mut self, owner: usize, run: u64) -> Confirmed {
        self.says(owner, Word::Still { run })
    }

    /// Who is to be handed it, or, with true, asked again.
    fn owed(&self) -> Vec<(usize, bool)> {
        let of = |owner| {
            let next = self.0.next(&node(owner), None, 1);
            next.first().map(|&(_, _, is_said)| (owner, is_said))
        };
        (1..=5).filter_map(of).collect()
    }
}

#[test]
fn a_hint_that_counted_stays_until_w_owners_have_it() {
    let mut book = Book::of(&counted(&[1, 2, 3], 2));
    assert_eq!(book.has(2, 20), Confirmed::Noted);
    // The same owner again is no second one.
    assert_eq!(book.has(2, 20), Confirmed::Stale);
    assert_eq!(book.owed(), [(1, false), (3, false)]);
    assert_eq!(book.has(3, 30), Confirmed::Noted);
    assert_eq!(book.owed(), [(1, false), (2, true), (3, true)]);
    assert_eq!(book.still(3, 30), Confirmed::Noted);
    assert_eq!(book.0.counted(), 1);
    // Two had it at one moment: now it may be dropped, and goes on being owed.
    let owed = [node(1)].into_iter().collect();
    assert_eq!(book.still(2, 20), Confirmed::Settled { owed });
    assert_eq!((book.0.counted(), book.owed()), (0, vec![(1, false)]));
    assert_eq!(book.has(1, 10), Confirmed::Done);
}

#[test]
fn one_copy_needs_no_second_word() {
    let mut book = Book::of(&counted(&[1, 2], 1));
    let owed = [node(2)].into_iter().collect();
    assert_eq!(book.has(1, 10), Confirmed::Settled { owed });
    // There is nobody else.
    let mut book = Book::of(&counted(&[1], 2));
    assert_eq!(book.has(1, 10), Confirmed::Done);
}

#[test]
fn an_owner_that_lost_its_data_since_is_owed_again() {
    let mut book = Book::of(&counted(&[1, 2, 3], 2));
    book.has(1, 10);
    book.has(2, 20);
    // Owner 1 runs on a new disk.
    assert_eq!(book.still(1, 11), Confirmed::Noted);
    assert_eq!(book.owed(), [(1, false), (2, true), (3, false)]);
    book.still(2, 20);
    assert_eq!(book.has(1, 11), Confirmed::Noted);
    // What owner 2 said before that says nothing of now.
    assert_eq!(book.still(1, 11), Confirmed::Noted);
    assert_eq!(book.0.counted(), 1);
    let owed = [node(3)].into_iter().collect();
    assert_eq!(book.still(2, 20), Confirmed::Settled { owed });
    // Nor does one count that has lost it without a restart.
    let mut book = Book::of(&counted(&[1, 2], 2));
    book.has(1, 10);
    book.has(2, 20);
    assert_eq!(book.says(1, Word::Lost), Confirmed::Noted);
    assert_eq!(book.owed(), [(1, false), (2, true)]);
}

/// One disk after the other is lost, each owner is rebuilt at once from as few of the others as must be
/// asked, and answers are slow. Whether the write was gone after its hint counted for nothing any more.
/// With `believes_first_words` the hint does so once W owners have said that they have it, whenever that was.
fn is_lost(
    seed: u64,
    of_three_and_five: [&Arc<Ring>; 2],
    believes_first_words: bool,
) -> (bool, bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let n: usize = if random.bool() { 3 } else { 5 };
    let w = n / 2 + 1;
    let all: Vec<_> = (1..=n).collect();
    let ring = of_three_and_five[usize::from(n == 5)].clone();
    let mut book = Book::under(ring, &counted(&all, w as u8));
    let mut has = vec![false; n + 1];
    let mut run = vec![1_u64; n + 1];
    let mut on_their_way: Vec<(usize, Word)> = Vec::new();
    let mut first_words = BTreeSet::new();
    let mut counts = true;
    for _ in 0..60 {
        match random.u8(0..4) {
            // A question is asked and done; its answer comes in later.
            0 | 1 => {
                let mut owed = book.owed();
                // One at a time for each owner.
                owed.retain(|&(it, _)| on_their_way.iter().all(|&(asked, _)| it != asked));
                let Some(&(owner, is_said)) = random.choice(&owed) else {
                    continue;
                };
                let run = run[owner];
                let word = match is_said {
                    true if has[owner] => Word::Still { run },
                    true => Word::Lost,
                    false => Word::Has { run },
                };
                has[owner] |= !is_said;
                on_their_way.push((owner, word));
            }
            2 if !on_their_way.is_empty() => {
                let at = random.usize(..on_their_way.len());
                let (owner, word) = on_their_way.swap_remove(at);
                let confirmed = book.says(owner, word);
                first_words.insert(owner);
                counts &= match believes_first_words {
                    true => first_words.len() < w,
                    false => matches!(confirmed, Confirmed::Stale | Confirmed::Noted),
                };
            }
            _ => {
                let lost = random.usize(1..=n);
                run[lost] += 1;
                has[lost] = false;
                // The worst ones.
                let mut sources: Vec<_> = all.iter().filter(|&&it| it != lost).collect();
                sources.sort_by_key(|&&it| has[it]);
                let mut sources = sources.into_iter().take(n - w + 1);
                has[lost] = sources.any(|&it| has[it]);
            }
        }
        if !counts && !has.contains(&true) {
            return (true, true);
        }
    }
    (false, !counts)
}

#[test]
fn what_a_hint_held_outlives_one_lost_disk_after_the_other() {
    let seeds = 0..3_000;
    let of_three = Arc::new(Ring::new(ring(1, &[1, 2, 3], 2)));
    let of_five = Arc::new(Ring::new(ring(1, &[1, 2, 3, 4, 5], 3)));
    let run = |seed, believes| is_lost(seed, [&of_three, &of_five], believes);
    let lost = seeds.clone().find(|&seed| run(seed, false).0);
    assert_eq!(lost, None, "the write of this seed is gone");
    let settled = seeds.clone().filter(|&seed| run(seed, false).1);
    assert!(settled.count() > 100, "few hints came to their end");
    // The model would notice.
    assert!(seeds.clone().any(|seed| run(seed, true).0));
}

#[test]
fn a_newer_hint_of_the_key_is_owed_to_all_again() {
    let mut hint = counted(&[1], 0);
    let newer = Hint {
        versions: Some(versions(2, 7)),
        ..counted(&[1, 2, 3], 2)
    };
    hint.absorb(newer);
    assert_eq!((hint.owed.len(), hint.needed), (3, 2));
    assert_eq!(hint.versions.as_ref().unwrap().siblings().len(), 2);
    let mut reminder = Hint::reminder([node(1)], 9);
    reminder.absorb(counted(&[2], 1));
    assert!(reminder.versions.is_some() && reminder.kept_at_ms == 9);
}

/// It has the former versions already, and must not stand for a second owner of them.
#[test]
fn an_owner_that_is_owed_the_key_again_does_not_count_twice() {
    // As an earlier version left it when owner 1 had said that it has it.
    let mut hint = counted(&[2, 3], 1);
    hint.absorb(Hint {
        versions: Some(versions(2, 7)),
        ..counted(&[1, 2, 3], 1)
    });
    assert_eq!(hint.needed, 2, "{hint:?}");
    let mut book = Book::of(&hint);
    book.has(1, 10);
    assert_eq!(book.0.counted(), 1);
    // What was free to go needs no more owners than the newer write does.
    let mut free = Hint { needed: 0, ..hint };
    free.absorb(counted(&[1, 2, 3], 1));
    assert_eq!(free.needed, 1);
}

#[test]
fn hints_have_a_form_on_disk() {
    for hint in [counted(&[1, 2, 3], 2), Hint::reminder([node(4)], 77)] {
        let bytes = hint.to_bytes();
        assert_eq!(Hint::from_bytes(&bytes), Ok(hint));
        for end in 0..bytes.len() {
            assert!(Hint::from_bytes(&bytes.slice(..end)).is_err());
        }
    }
    assert!(Hint::from_bytes(&Bytes::from_static(b"\x02")).is_err());
}

#[test]
fn the_book_knows_what_is_owed_to_whom() {
    let mut book = HintBook::default();
    book.follow(Arc::new(Ring::new(ring(1, &[1, 2, 3], 2))));
    assert!(book.is_behind() && book.follow_on(1, 1).is_empty() && !book.is_behind());
    let key = |text: &'static str| Bytes::from_static(text.as_bytes());
    let first = book.put(key("a"), &counted(&[1, 2], 2));
    book.put(key("b"), &Hint::reminder([node(1)], 3));
    assert_eq!((book.len(), book.counted()), (2, 1));
    let keys = |book: &HintBook, number, after: Option<&Bytes>| -> Vec<_> {
        let next = book.next(&node(number), after, 10);
        next.into_iter().map(|(key, ..)| key).collect()
    };
    assert_eq!(keys(&book, 1, None), ["a", "b"]);
    assert_eq!(keys(&book, 1, Some(&key("a"))), ["b"]);
    assert_eq!(keys(&book, 2, None), ["a"]);
    assert_eq!(keys(&book, 3, None), [""; 0]);
    assert!(book.is_current(b"a", first));
    // What is on its way to another owner is not out of date because one has it.
    let under = (first, book.ring_version());
    book.confirm(&key("a"), under, &node(1), Word::Has { run: 1 });
    assert!(book.is_current(b"a", first));
    assert_eq!(keys(&book, 1, None), ["b"]);
    let second = book.put(key("a"), &counted(&[2], 1));
    assert!(second != first && !book.is_current(b"a", first));
    let mut successor = book.successor();
    let third = successor.put(key("a"), &counted(&[2], 1));
    assert!(![first, second].contains(&third) && successor.len() == 1);
    assert_eq!(keys(&book, 1, None), ["b"]);
    // Only what counts for nothing ages.
    assert_eq!(book.kept_before(100), ["b"]);
    assert_eq!(book.oldest_kept_at_ms(), Some(3));
    assert!(book.remove(b"a") && !book.remove(b"a"));
    assert_eq!(book.owed().collect::<Vec<_>>(), [(&node(1), 1)]);
    assert!(book.remove(b"b") && book.is_empty() && book.counted() == 0);
}

#[test]
fn what_counts_for_nothing_takes_half_of_the_room_at_most() {
    assert!(fits(true, 10, 0, 90, 100));
    assert!(!fits(true, 11, 0, 90, 100));
    assert!(fits(false, 10, 0, 40, 100));
    assert!(!fits(false, 11, 0, 40, 100));
    assert!(!fits(false, u64::MAX, 0, 1, 100));
    // What it replaces makes room.
    assert!(fits(true, 11, 1, 90, 100));
    assert!(!fits(true, 11, 200, 90, 10));
}
