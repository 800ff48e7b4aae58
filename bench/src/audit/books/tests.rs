use dynakv_protocol::Actor;

use super::*;
use crate::audit::value::encode;

const RUN: RunId = RunId(1);
const KEY: u32 = 3;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn dot(counter: u64) -> Dot {
    let actor = Actor(1);
    Dot { actor, counter }
}

fn shown(write: WriteNumber, counter: u64) -> Shown {
    let dot = dot(counter);
    Shown { write, dot }
}

/// A write that is acknowledged at once.
fn write(books: &mut Books, is_delete: bool, before: Before, now: u64) -> WriteNumber {
    let name = books.begin(KEY, is_delete, &before, at(now)).unwrap();
    books.end(name, Outcome::Acknowledged, at(now)).unwrap();
    name.write
}

fn read(books: &mut Books, values: &[(Bytes, Dot)], trust: Trust, now: u64) -> Vec<Wrong> {
    books.on_read(KEY, values, trust, at(now), at(now));
    books.findings().map(|(wrong, _)| wrong).collect()
}

fn value(write: WriteNumber, counter: u64) -> (Bytes, Dot) {
    (encode(RUN, WriteName { key: KEY, write }, 5), dot(counter))
}

#[test]
fn what_is_missing_is_stale_in_the_midst_and_lost_at_the_end() {
    let with_one = || {
        let mut books = Books::new(RUN, 8);
        write(&mut books, false, Some(vec![]), 1);
        books
    };
    assert_eq!(read(&mut with_one(), &[value(0, 1)], Trust::Final, 2), []);
    assert_eq!(read(&mut with_one(), &[], Trust::Weak, 2), []);
    assert_eq!(read(&mut with_one(), &[], Trust::Strict, 2), [Wrong::Stale]);
    let mut books = with_one();
    assert_eq!(read(&mut books, &[], Trust::Strict, 2), [Wrong::Stale]);
    // The same write is not told twice, neither is it counted twice.
    assert_eq!(read(&mut books, &[], Trust::Final, 3), [Wrong::Lost]);
    assert_eq!(read(&mut books, &[], Trust::Final, 4), [Wrong::Lost]);
    assert_eq!(
        (books.how_many(Wrong::Lost), books.how_many(Wrong::Stale)),
        (1, 0)
    );
}

#[test]
fn what_was_replaced_must_not_come_back_nor_a_second_copy_of_it() {
    let deleted = || {
        let mut books = Books::new(RUN, 8);
        write(&mut books, false, Some(vec![]), 1);
        write(&mut books, true, Some(vec![shown(0, 1)]), 2);
        books
    };
    let mut books = deleted();
    assert_eq!(
        read(&mut books, &[value(0, 1)], Trust::Strict, 3),
        [Wrong::Returned]
    );
    // A read that began before the delete was acknowledged may still show it.
    assert_eq!(read(&mut deleted(), &[value(0, 1)], Trust::Strict, 2), []);
    let mut books = deleted();
    for now in 3..5 {
        let wrong = read(&mut books, &[value(0, 2)], Trust::Strict, now);
        assert_eq!(wrong, [Wrong::SecondCopy]);
        assert_eq!(books.how_many(Wrong::SecondCopy), 1);
    }
}

#[test]
fn an_attempt_may_come_after_who_replaced_an_earlier_one() {
    for is_read_early in [true, false] {
        let mut books = Books::new(RUN, 8);
        let name = books.begin(KEY, false, &Some(vec![]), at(1)).unwrap();
        if is_read_early {
            read(&mut books, &[value(0, 1)], Trust::Strict, 2);
        }
        books.end(name, Outcome::Acknowledged, at(3)).unwrap();
        write(&mut books, true, Some(vec![shown(0, 1)]), 4);
        let wrong = read(&mut books, &[value(0, 2)], Trust::Strict, 5);
        assert_eq!(wrong.is_empty(), is_read_early, "{wrong:?}");
    }
    // A write of which nobody knows what came of it may come whenever it likes.
    let mut books = Books::new(RUN, 8);
    let name = books.begin(KEY, false, &Some(vec![]), at(1)).unwrap();
    books.end(name, Outcome::Unknown, at(2)).unwrap();
    write(&mut books, true, Some(vec![shown(0, 1)]), 4);
    assert_eq!(read(&mut books, &[value(0, 2)], Trust::Strict, 5), []);
}

#[test]
fn what_nobody_sent_is_found() {
    let mut books = Books::new(RUN, 8);
    write(&mut books, false, None, 1);
    let mut damaged = value(0, 1).0.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let foreign = (Bytes::from(damaged), dot(1));
    let wrong = read(&mut books, &[value(0, 1), foreign], Trust::Final, 2);
    assert_eq!(wrong, [Wrong::NeverSent]);
    // A write that is not begun yet.
    let mut books = Books::new(RUN, 8);
    assert_eq!(
        read(&mut books, &[value(0, 1)], Trust::Final, 2),
        [Wrong::NeverSent]
    );
}

#[test]
fn a_refused_write_must_not_be_there() {
    let mut books = Books::new(RUN, 8);
    let name = books.begin(KEY, false, &None, at(1)).unwrap();
    books.end(name, Outcome::NotApplied, at(1)).unwrap();
    assert_eq!(read(&mut books, &[], Trust::Final, 2), []);
    assert_eq!(
        read(&mut books, &[value(0, 1)], Trust::Final, 2),
        [Wrong::NeverSent]
    );
}

#[test]
fn a_replayed_log_gives_the_same_books() {
    let name = |write| WriteName { key: KEY, write };
    let begun = |write, before| Entry::Begun {
        at: at(1),
        name: name(write),
        is_delete: false,
        before,
        is_alone: false,
    };
    let ended = |write, outcome| Entry::Ended {
        at: at(2),
        name: name(write),
        outcome,
    };
    let head = Entry::Audit { run: RUN, keys: 8 };
    let entries = vec![
        head.clone(),
        begun(0, Some(vec![])),
        ended(0, Outcome::Acknowledged),
        // Its audit was killed.
        begun(1, Some(vec![shown(0, 1)])),
    ];
    let replay = |entries: Vec<Entry>| Books::replay(entries.into_iter().map(Ok));
    let mut books = replay(entries.clone()).unwrap();
    assert_eq!(books.counts().acknowledged, 1);
    assert_eq!(books.written_keys(), [KEY]);
    assert_eq!(books.last_moment(), at(2));
    for survivor in [0, 1] {
        assert_eq!(read(&mut books, &[value(survivor, 1)], Trust::Final, 3), []);
    }
    assert_eq!(read(&mut books, &[], Trust::Final, 3), [Wrong::Lost]);

    assert!(replay(vec![]).is_err());
    assert!(replay(vec![begun(0, None)]).is_err());
    assert!(replay(vec![head.clone(), head.clone()]).is_err());
    assert!(replay(vec![head.clone(), ended(0, Outcome::Unknown)]).is_err());
    assert!(replay(vec![head.clone(), begun(0, None), begun(0, None)]).is_err());
    let keys = u32::MAX;
    assert!(replay(vec![Entry::Audit { run: RUN, keys }]).is_err());
    let outside = WriteName { key: 8, write: 0 };
    let outcome = Outcome::Unknown;
    let outside = Entry::Ended {
        at: at(1),
        name: outside,
        outcome,
    };
    assert!(replay(vec![head, outside]).is_err());
}

/// Of a key that one client writes blindly the last write is there alone; other blind writes are excused
/// by each other.
#[test]
fn the_last_blind_write_of_the_only_client_stands_alone() {
    let written = |is_alone: bool| {
        let mut books = Books::new(RUN, 8);
        for (second, is_delete) in [(1, false), (2, false)] {
            let name = match is_alone {
                true => books.begin_alone(KEY, is_delete, at(second)),
                false => books.begin(KEY, is_delete, &None, at(second)),
            };
            let (name, ended) = (name.unwrap(), at(second) + Duration::from_millis(1));
            books.end(name, Outcome::Acknowledged, ended).unwrap();
        }
        books
    };
    for trust in [Trust::Strict, Trust::Final] {
        let show = |values: &[(Bytes, Dot)]| read(&mut written(true), values, trust, 9);
        assert_eq!(show(&[value(1, 2)]), []);
        assert_eq!(show(&[value(0, 1)]), [Wrong::Undone]);
        assert_eq!(show(&[value(0, 1), value(1, 2)]), [Wrong::Undone]);
    }
    let show = |trust| read(&mut written(true), &[], trust, 9);
    assert_eq!(show(Trust::Weak), []);
    assert_eq!(show(Trust::Strict), [Wrong::Stale]);
    assert_eq!(show(Trust::Final), [Wrong::Lost]);
    // It is told which write was undone, and by what.
    let mut books = written(true);
    read(&mut books, &[value(0, 1)], Trust::Final, 9);
    let (_, finding) = books.findings().next().unwrap();
    assert_eq!(finding.write, Some(1));
    assert!(finding.found.contains("write 3/0"), "{}", finding.found);
    let beside = [value(0, 1), value(1, 2)];
    assert_eq!(read(&mut written(false), &beside, Trust::Final, 9), []);
}

#[test]
fn the_log_tells_which_keys_have_one_client() {
    let books = |last_is_alone| {
        let begun = |write: u32, is_alone| Entry::Begun {
            at: at(write.into()),
            name: WriteName { key: KEY, write },
            is_delete: false,
            before: None,
            is_alone,
        };
        let ended = |write: u32| Entry::Ended {
            at: at(u64::from(write)) + Duration::from_millis(1),
            name: WriteName { key: KEY, write },
            outcome: Outcome::Acknowledged,
        };
        let entries = [
            Entry::Audit { run: RUN, keys: 8 },
            begun(0, true),
            ended(0),
            begun(1, last_is_alone),
            ended(1),
        ];
        Books::replay(entries.into_iter().map(Ok)).unwrap()
    };
    let beside = [value(0, 1), value(1, 2)];
    let found = read(&mut books(true), &beside, Trust::Final, 9);
    assert_eq!(found, [Wrong::Undone]);
    assert_eq!(read(&mut books(false), &beside, Trust::Final, 9), []);
}
