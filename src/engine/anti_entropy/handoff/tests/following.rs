//! Hints while the ring changes: nodes 1, 2 and 3 own all keys, and node 4 takes the place of node 3.

use super::*;
use crate::engine::layout::change;

/// The rings of a change from some owners to others, the first and the last among them. All own all keys.
struct Rings {
    former: Arc<Ring>,
    write_both: Arc<Ring>,
    read_new: Arc<Ring>,
    new: Arc<Ring>,
    given_up: Arc<Ring>,
}

fn rings(former: &[usize], new: &[usize], w: u8) -> Rings {
    let mut former = ring(1, former, w);
    former.n = former.n.max(new.len() as u8);
    let target = ring(1, new, w).members;
    let write_both = change::begin(&former, &target, &[], |_| change::Reads::Changes).unwrap();
    let read_new = change::read_new(&write_both).unwrap();
    let new = change::finish(&read_new).unwrap();
    let given_up = change::give_up(&write_both).unwrap();
    let ring = |document: RingDocument| Arc::new(Ring::new(document));
    Rings {
        former: ring(former),
        write_both: ring(write_both),
        read_new: ring(read_new),
        new: ring(new),
        given_up: ring(given_up),
    }
}

fn one_for_another() -> Rings {
    rings(&[1, 2, 3], &[1, 2, 4], 2)
}

impl Book {
    /// Follows a ring, and gives who is owed the hint then, and how many are needed, if that is another thing.
    fn follow(&mut self, ring: &Arc<Ring>) -> Option<(Vec<usize>, u8)> {
        self.0.follow(ring.clone());
        let mut rewritten = self.0.follow_on(10, 10);
        assert!(rewritten.len() <= 1 && !self.0.is_behind());
        let Rewritten { key, owed, needed } = rewritten.pop()?;
        assert_eq!(key, KEY);
        let owed = (1..=5).filter(|&it| owed.contains(&node(it)));
        Some((owed.collect(), needed))
    }

    fn fresh(&self, owners: impl IntoIterator<Item = usize>) -> bool {
        let owed: Vec<_> = owners.into_iter().map(|it| (it, false)).collect();
        self.owed() == owed
    }
}

fn settled(owed: &[usize]) -> Confirmed {
    Confirmed::Settled {
        owed: owed.iter().map(|&it| node(it)).collect(),
    }
}

#[test]
fn a_hint_confirmed_by_a_former_owner_does_not_end_it() {
    let rings = one_for_another();
    let mut book = Book::under(rings.former.clone(), &counted(&[1, 2, 3], 2));
    book.has(1, 10);
    book.has(3, 30);
    assert_eq!(book.still(3, 30), Confirmed::Noted);
    let former = (book.1, rings.former.version());
    assert_eq!(book.follow(&rings.new), Some((vec![1, 2, 4], 2)));
    assert!(book.fresh([1, 2, 4]));
    // Its answer comes late, and so does that of one that is an owner still.
    for (late, word) in [(3, Word::Has { run: 30 }), (1, Word::Still { run: 10 })] {
        let confirmed = book.0.confirm(&KEY, former, &node(late), word);
        assert_eq!(confirmed, Confirmed::Stale);
    }
    assert_eq!(book.has(3, 30), Confirmed::Stale);
    book.has(1, 10);
    book.has(4, 40);
    book.still(1, 10);
    assert_eq!(book.still(4, 40), settled(&[2]));
}

/// A, C and D have it: that is W of the old owners and W of the new ones, and neither A and C nor A and D are.
#[test]
fn while_the_ring_changes_w_of_the_old_owners_and_w_of_the_new_ones_must_have_it() {
    let rings = one_for_another();
    for changing in [&rings.write_both, &rings.read_new] {
        let mut book = Book::under(rings.former.clone(), &counted(&[1, 2, 3], 2));
        assert_eq!(book.follow(changing), Some((vec![1, 2, 3, 4], 2)));
        book.has(1, 10);
        book.has(3, 30);
        // Two of the old ones: that is not asked again, because it would be of no use.
        assert!(book.fresh([2, 4]));
        book.has(4, 40);
        assert_eq!(book.owed(), [(1, true), (2, false), (3, true), (4, true)]);
        assert_eq!(book.still(1, 10), Confirmed::Noted);
        assert_eq!(book.still(3, 30), Confirmed::Noted);
        assert_eq!(book.0.counted(), 1);
        assert_eq!(book.still(4, 40), settled(&[2]));
        assert_eq!(book.0.counted(), 0);
    }
}

#[test]
fn one_copy_on_each_side_needs_a_second_word_unless_it_is_the_same_one() {
    let rings = rings(&[1, 2, 3], &[1, 2, 4], 1);
    let mut book = Book::under(rings.write_both.clone(), &counted(&[1, 2, 3, 4], 1));
    assert_eq!(book.has(1, 10), settled(&[2, 3, 4]));
    let mut book = Book::under(rings.write_both, &counted(&[1, 2, 3, 4], 1));
    assert_eq!(book.has(3, 30), Confirmed::Noted);
    assert_eq!(book.has(4, 40), Confirmed::Noted);
    book.still(4, 40);
    assert_eq!(book.still(3, 30), settled(&[1, 2]));
}

#[test]
fn each_step_of_a_change_asks_the_owners_anew() {
    let rings = one_for_another();
    let mut book = Book::under(rings.former.clone(), &counted(&[1, 2, 3], 2));
    assert_eq!(book.follow(&rings.write_both), Some((vec![1, 2, 3, 4], 2)));
    book.has(1, 10);
    book.has(4, 40);
    // On disk it is owed to the same ones.
    assert_eq!(book.follow(&rings.read_new), None);
    assert!(book.fresh([1, 2, 3, 4]));
    book.has(2, 20);
    assert_eq!(book.follow(&rings.new), Some((vec![1, 2, 4], 2)));
    assert!(book.fresh([1, 2, 4]));
    // A change that is given up leads back.
    let mut book = Book::under(rings.write_both, &counted(&[1, 2, 3, 4], 2));
    book.has(4, 40);
    assert_eq!(book.follow(&rings.given_up), Some((vec![1, 2, 3], 2)));
    assert!(book.fresh([1, 2, 3]));
}

/// What it held is with W of the old owners and W of the new ones: from then on it is a reminder like any other.
#[test]
fn what_counts_for_nothing_is_owed_to_those_who_own_the_key_still_and_to_nobody_new() {
    let rings = one_for_another();
    let of_three = |owed: &[usize]| {
        let reminder = Hint::reminder(owed.iter().map(|&it| node(it)), 9);
        Book::under(rings.former.clone(), &reminder)
    };
    let mut both = of_three(&[2, 3]);
    assert_eq!(both.follow(&rings.write_both), None);
    assert_eq!(both.follow(&rings.read_new), None);
    assert_eq!(both.follow(&rings.new), Some((vec![2], 0)));
    // Nobody is left, and the name is none of a member any more.
    assert_eq!(of_three(&[3]).follow(&rings.new), Some((vec![], 0)));
    assert_eq!(of_three(&[1, 2]).follow(&rings.new), None);
    let mut free = Book::under(rings.former.clone(), &counted(&[2, 3], 0));
    assert_eq!(free.follow(&rings.new), Some((vec![2], 0)));
}

/// Whoever is owed a hint on disk may be no member of the ring that the node begins with.
#[test]
fn a_book_that_was_read_from_disk_follows_the_present_ring_before_anything_is_handed_out() {
    let rings = one_for_another();
    // As an earlier version left it when owner 1 had said that it has it.
    for (owed, needed) in [(&[1, 2, 3][..], 2), (&[2, 3][..], 1)] {
        let mut book = HintBook::default();
        let revision = book.put(KEY, &counted(owed, needed));
        let mut book = Book(book, revision);
        assert_eq!(book.owed(), []);
        assert_eq!(book.has(2, 20), Confirmed::Stale);
        assert_eq!(book.follow(&rings.new), Some((vec![1, 2, 4], 2)));
        assert!(book.fresh([1, 2, 4]));
        // It is no other one when it is read again.
        let mut again = Book(book.0.successor(), revision);
        again.1 = again.0.put(KEY, &counted(&[1, 2, 4], 2));
        assert!(again.0.is_behind());
        assert_eq!(again.follow(&rings.new), None);
        assert!(again.fresh([1, 2, 4]));
    }
}

#[test]
fn hints_are_looked_at_a_few_at_a_time_and_are_handed_to_nobody_before() {
    let rings = one_for_another();
    let mut book = HintBook::default();
    book.follow(rings.former.clone());
    book.follow_on(1, 1);
    let keys: Vec<_> = (b'a'..=b'g').map(|key| Bytes::from(vec![key])).collect();
    for key in &keys {
        book.put(key.clone(), &counted(&[1, 2, 3], 2));
    }
    book.follow(rings.new.clone());
    let mut seen = 0;
    while book.is_behind() {
        let known: Vec<_> = book.next(&node(4), None, 10);
        assert_eq!(known.len(), seen);
        assert_eq!(book.next(&node(1), None, 10).len(), seen);
        assert!(seen == keys.len() || book.next(&node(1), Some(&keys[seen]), 10).is_empty());
        let rewritten = book.follow_on(3, 2);
        assert!(rewritten.len() <= 2);
        seen += rewritten.len();
    }
    assert_eq!(seen, keys.len());
    assert_eq!(book.next(&node(4), None, 10).len(), keys.len());
    assert!(book.next(&node(3), None, 10).is_empty());
    assert_eq!(book.counted(), keys.len());
}

#[test]
fn a_ring_with_the_same_owners_is_no_work_and_forgets_nothing() {
    let former = ring(1, &[1, 2, 3], 2);
    let mut book = Book::under(Arc::new(Ring::new(former.clone())), &counted(&[1, 2, 3], 2));
    book.has(1, 10);
    let mut renewed = former.clone();
    renewed.version = RingVersion(2);
    renewed.members[1].directory_id = DirectoryId(77);
    book.0.follow(Arc::new(Ring::new(renewed.clone())));
    assert!(!book.0.is_behind());
    assert_eq!(book.0.ring_version(), RingVersion(2));
    book.has(2, 20);
    assert_eq!(book.owed(), [(1, true), (2, true), (3, false)]);
    let differs = |change: &dyn Fn(&mut RingDocument)| {
        let mut other = renewed.clone();
        other.version = RingVersion(3);
        change(&mut other);
        let mut book = Book::under(Arc::new(Ring::new(renewed.clone())), &counted(&[1], 1));
        book.0.follow(Arc::new(Ring::new(other)));
        book.0.is_behind()
    };
    assert!(!differs(&|_| {}));
    assert!(differs(&|ring| ring.members[0].weight = 2));
    assert!(differs(&|ring| ring.members[0].zone = "b".to_owned()));
    assert!(differs(&|ring| ring.n = 2));
    assert!(differs(&|ring| {
        ring.members.pop();
    }));
    assert!(differs(&|ring| {
        let mut target = ring.members.clone();
        target[0].weight = 2;
        *ring = change::begin(ring, &target, &[], |_| change::Reads::Changes).unwrap();
    }));
}

/// A hint that comes in under an earlier ring is owed to the present owners, and needs no more of them for that.
#[test]
fn a_hint_of_an_earlier_ring_is_added_to_one_of_the_present_one() {
    let rings = one_for_another();
    let mut kept = counted(&[1, 2, 3], 2);
    assert!(kept.follow(&rings.new, &KEY));
    assert!(!kept.follow(&rings.new, &KEY));
    let mut late = Hint {
        versions: Some(versions(2, 7)),
        ..counted(&[1, 2, 3], 2)
    };
    late.follow(&rings.new, &KEY);
    kept.absorb(late);
    assert_eq!((kept.owed.len(), kept.needed), (3, 2));
    assert!(kept.owed.contains(&node(4)) && !kept.owed.contains(&node(3)));
}
