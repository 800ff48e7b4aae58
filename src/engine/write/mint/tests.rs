use bytes::Bytes;
use dynakv_protocol::limits::SIBLINGS_AND_MARKS_MAX;

use super::*;

fn minter() -> Minter {
    Minter::new(Actor(7), 0, fastrand::Rng::with_seed(1))
}

fn intent(id: u128, value: &str, context: Option<&Clock>) -> Intent {
    Intent {
        write_id: WriteId(id),
        again: false,
        value: Value::Bytes(Bytes::copy_from_slice(value.as_bytes())),
        context: context.cloned(),
        ttl_ms: None,
        value_bytes_max: 1024,
        if_no_conflict: false,
    }
}

#[test]
fn a_blind_write_replaces_what_is_stored_here() {
    let (mut minter, mut key) = (minter(), Versions::new());
    minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
    minter.mint(&mut key, intent(2, "b", None), 2).unwrap();
    assert_eq!(key.siblings().len(), 1);
    assert_eq!(key.siblings()[0].write_id, WriteId(2));
}

#[test]
fn the_counter_is_node_wide() {
    let mut minter = minter();
    let (mut one, mut two) = (Versions::new(), Versions::new());
    minter.mint(&mut one, intent(1, "a", None), 1).unwrap();
    minter.mint(&mut two, intent(2, "b", None), 1).unwrap();
    let minted = minter.mint(&mut one, intent(3, "c", None), 1).unwrap();
    let dot = Dot {
        actor: Actor(7),
        counter: 3,
    };
    assert!(matches!(minted, Minted::New { dot: it, .. } if it == dot));
    assert_eq!(minter.position(), (Actor(7), 3));
}

#[test]
fn a_write_with_an_old_context_becomes_a_sibling() {
    let (mut minter, mut key) = (minter(), Versions::new());
    minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
    let read = key.clock().clone();
    minter
        .mint(&mut key, intent(2, "b", Some(&read)), 1)
        .unwrap();
    minter
        .mint(&mut key, intent(3, "c", Some(&read)), 1)
        .unwrap();
    assert_eq!(key.siblings().len(), 2);
    let read = key.clock().clone();
    minter
        .mint(&mut key, intent(4, "d", Some(&read)), 1)
        .unwrap();
    assert_eq!(key.siblings().len(), 1);
}

#[test]
fn a_retry_is_no_second_sibling() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    minter
        .mint(&mut key, intent(1, "a", Some(&empty)), 1)
        .unwrap();
    let before = key.clone();
    let minted = minter.mint(&mut key, intent(1, "a", Some(&empty)), 1);
    assert_eq!(minted, Ok(Minted::Already));
    assert_eq!(key, before);
}

#[test]
fn a_blind_retry_replaces_what_came_beside_it() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
    // Alone it is done.
    let minted = minter.mint(&mut key, intent(1, "a", None), 1);
    assert_eq!(minted, Ok(Minted::Already));
    minter
        .mint(&mut key, intent(2, "b", Some(&empty)), 1)
        .unwrap();
    assert_eq!(key.siblings().len(), 2);
    minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
    assert_eq!(key.siblings().len(), 1);
    assert_eq!(key.siblings()[0].write_id, WriteId(1));
}

fn replaced(minted: Result<Minted, ErrorReply>) -> usize {
    minted.unwrap().replaced().len()
}

#[test]
fn a_blind_write_says_how_many_values_a_reader_would_have_seen() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    assert_eq!(replaced(minter.mint(&mut key, intent(1, "a", None), 1)), 0);
    assert_eq!(replaced(minter.mint(&mut key, intent(2, "b", None), 1)), 1);
    for (id, value) in [(3, "b"), (4, "c")] {
        let minted = minter.mint(&mut key, intent(id, value, Some(&empty)), 1);
        assert_eq!(replaced(minted), 0);
    }
    // Equal ones are one, and what is deleted is none.
    let gone = Intent {
        value: Value::Tombstone,
        ..intent(5, "", Some(&empty))
    };
    minter.mint(&mut key, gone, 1).unwrap();
    assert_eq!(key.siblings().len(), 4);
    let careful = || Intent {
        if_no_conflict: true,
        ..intent(6, "d", None)
    };
    let error = minter.mint(&mut key, careful(), 1).unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert_eq!(key.siblings().len(), 4);
    assert_eq!(replaced(minter.mint(&mut key, intent(7, "e", None), 1)), 2);
    assert_eq!(replaced(minter.mint(&mut key, careful(), 1)), 1);
}

#[test]
fn a_second_round_counts_what_both_replaced_and_no_older_version_of_it() {
    let other = |key: &Versions, id| {
        let (mut minter, mut key) = (
            Minter::new(Actor(8), 0, fastrand::Rng::with_seed(2)),
            key.clone(),
        );
        minter
            .mint(&mut key, intent(id, "theirs", None), 1)
            .unwrap();
        key
    };
    let (mut minter, mut key) = (minter(), Versions::new());
    minter.mint(&mut key, intent(1, "old", None), 1).unwrap();
    for (beside, expected) in [
        // The other owner has replaced what this one had.
        (other(&key, 2), 1),
        // Or has never seen it.
        (other(&Versions::new(), 3), 2),
    ] {
        let mut key = key.clone();
        let first = minter.mint(&mut key, intent(4, "new", None), 1).unwrap();
        let seen = Beside {
            beside,
            first: key.siblings().iter().map(|it| it.dot).collect(),
            replaced: first.replaced(),
        };
        let second = minter.mint_again(&mut key, intent(4, "new", None), &seen, 1);
        assert_eq!(replaced(second), expected);
        assert_eq!(key.siblings().len(), 1);
        assert_eq!(key.siblings()[0].write_id, WriteId(4));
    }
}

#[test]
fn a_context_from_the_future_is_refused() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let future: Clock = [Dot {
        actor: Actor(7),
        counter: u64::MAX,
    }]
    .into_iter()
    .collect();
    let error = minter
        .mint(&mut key, intent(1, "a", Some(&future)), 1)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert!(key.is_empty());
}

#[test]
fn an_actor_that_forgot_its_past_is_given_up() {
    let mut key = Versions::new();
    Minter::new(Actor(7), 40, fastrand::Rng::with_seed(1))
        .mint(&mut key, intent(1, "a", None), 1)
        .unwrap();
    let mut forgetful = Minter::new(Actor(7), 3, fastrand::Rng::with_seed(2));
    forgetful.mint(&mut key, intent(2, "b", None), 1).unwrap();
    assert_ne!(forgetful.position().0, Actor(7));
    assert_eq!(key.siblings()[0].write_id, WriteId(2));
    assert_eq!(key.clock().counter(Actor(7)), 41);
}

#[test]
fn a_merged_clock_that_knows_more_than_was_minted_costs_the_actor() {
    let seen = |counter| -> Clock {
        let actor = Actor(7);
        [Dot { actor, counter }].into_iter().collect()
    };
    let mut minter = Minter::new(Actor(7), 3, fastrand::Rng::with_seed(3));
    minter.heed(&seen(3));
    assert_eq!(minter.position(), (Actor(7), 3));
    minter.heed(&seen(4));
    assert_ne!(minter.position().0, Actor(7));
    // Whoever reads that state can write with it here, also to a key that this node never had.
    let mut key = Versions::new();
    minter
        .mint(&mut key, intent(1, "a", Some(&seen(4))), 1)
        .unwrap();
    assert_eq!(key.siblings().len(), 1);
}

#[test]
fn siblings_are_bounded_for_clients_but_tombstones_pass() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    for id in 0..SIBLINGS_MAX as u128 {
        minter
            .mint(&mut key, intent(id, "x", Some(&empty)), 1)
            .unwrap();
    }
    let error = minter
        .mint(&mut key, intent(1_000, "x", Some(&empty)), 1)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::TooManySiblings);
    let all = key.clock().clone();
    minter
        .mint(&mut key, intent(1_001, "x", Some(&all)), 1)
        .unwrap();
    assert_eq!(key.siblings().len(), 1);
}

/// A delete that saw nothing of what is there is one sibling more, and so many of them would lock the key.
#[test]
fn tombstones_with_an_old_context_are_bounded_and_those_that_replace_are_not() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    for id in 1..=SIBLINGS_MAX as u128 {
        minter.mint(&mut key, delete(id, Some(&empty)), 1).unwrap();
    }
    let error = minter.mint(&mut key, delete(901, Some(&empty)), 1);
    assert_eq!(error.unwrap_err().code, ErrorCode::TooManySiblings);
    assert_eq!(key.siblings().len(), SIBLINGS_MAX);
    let one: Clock = [key.siblings()[0].dot].into_iter().collect();
    minter.mint(&mut key, delete(902, Some(&one)), 1).unwrap();
    assert_eq!(key.siblings().len(), SIBLINGS_MAX);
    let all = key.clock().clone();
    minter.mint(&mut key, delete(903, Some(&all)), 1).unwrap();
    assert_eq!(key.siblings().len(), 1);
}

/// Marks are siblings, too, and what is beside as many values as there may be is bounded: an import takes what
/// so many owners let in.
#[test]
fn with_all_marks_there_are_no_more_siblings_than_one_owner_may_let_in() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    for id in 1..=RETIRED_MAX as u128 + 9 {
        let seen = key.clock().clone();
        minter
            .mint(&mut key, again(id, "x", Some(&seen)), 1)
            .unwrap();
    }
    let (mut id, mut refused) = (100, 0);
    while refused == 0 {
        id += 1;
        let removal = Intent {
            again: true,
            ..delete(id, Some(&empty))
        };
        refused += usize::from(minter.mint(&mut key, removal, 1).is_err());
    }
    assert_eq!(key.written().count(), SIBLINGS_MAX);
    assert_eq!(key.siblings().len(), SIBLINGS_AND_MARKS_MAX);
    assert!(minter.mint(&mut key, delete(99, Some(&empty)), 1).is_err());
}

#[test]
fn bytes_of_all_siblings_are_bounded() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    let kilobyte = "x".repeat(1024);
    for id in 0..4 {
        minter
            .mint(&mut key, intent(id, &kilobyte, Some(&empty)), 1)
            .unwrap();
    }
    let error = minter
        .mint(&mut key, intent(9, "x", Some(&empty)), 1)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::TooLarge);
}

fn again(id: u128, value: &str, context: Option<&Clock>) -> Intent {
    Intent {
        again: true,
        ..intent(id, value, context)
    }
}

fn delete(id: u128, context: Option<&Clock>) -> Intent {
    Intent {
        value: Value::Tombstone,
        ..intent(id, "", context)
    }
}

/// What a key that only this minter knows holds after this write.
fn minted_by(minter: &mut Minter, intent: Intent) -> Versions {
    let mut key = Versions::new();
    minter.mint(&mut key, intent, 1).unwrap();
    key
}

fn standing(key: &Versions) -> Vec<u128> {
    key.standing().map(|it| it.write_id.0).collect()
}

fn other_minter(actor: u64) -> Minter {
    Minter::new(Actor(actor), 0, fastrand::Rng::with_seed(actor))
}

#[test]
fn the_other_copy_of_a_retried_write_stays_gone_once_it_is_replaced() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let lost_copy = minted_by(&mut there, intent(1, "a", None));
    let mut key = minted_by(&mut here, again(1, "a", None));
    here.mint(&mut key, delete(2, None), 1).unwrap();
    key.merge(&lost_copy);
    assert_eq!(standing(&key), [2]);
    assert_eq!(key.written().count(), 2, "it is hidden, not dropped");
    // The next write has seen it, and what was retired stays so.
    here.mint(&mut key, intent(3, "c", None), 1).unwrap();
    assert_eq!(key.written().count(), 1);
    key.merge(&minted_by(&mut other_minter(9), intent(1, "a", None)));
    assert_eq!(standing(&key), [3]);
}

#[test]
fn a_copy_beside_what_replaced_the_other_is_hidden_whatever_was_written_there() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let mut key = minted_by(&mut here, again(1, "a", None));
    // It came late to a node that has the first round of what follows it, and is minted over that.
    let mut early = key.clone();
    here.mint(&mut early, intent(2, "b", None), 1).unwrap();
    key.merge(&early);
    let mut elsewhere = minted_by(&mut there, intent(2, "b", None));
    there.mint(&mut elsewhere, intent(1, "a", None), 1).unwrap();
    key.merge(&elsewhere);
    assert_eq!(standing(&key), [2]);
}

/// The first attempt is at one owner only, a later one was acknowledged by the others, and a client has read that
/// one owner alone.
#[test]
fn who_has_read_one_copy_of_a_retried_write_replaces_the_others_that_are_here() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let nothing = Clock::new();
    let early = minted_by(&mut there, intent(1, "a", Some(&nothing)));
    let others = minted_by(&mut here, again(1, "a", Some(&nothing)));
    let read = early.clock();
    for write in [intent(2, "b", Some(read)), delete(2, Some(read))] {
        let mut key = others.clone();
        key.merge(&early);
        here.mint(&mut key, write, 1).unwrap();
        assert_eq!(standing(&key), [2]);
        assert_eq!(key.written().count(), 1, "the others are not just hidden");
        assert!(key.is_retired(WriteId(1)) && !key.was_sent_again(WriteId(1)));
        // Those elsewhere stay gone, and so does a third.
        key.merge(&others);
        key.merge(&early);
        key.merge(&minted_by(&mut other_minter(9), intent(1, "a", None)));
        assert_eq!(standing(&key), [2]);
        // Another write with that context stands beside it, and nothing else does.
        here.mint(&mut key, intent(3, "c", Some(read)), 1).unwrap();
        assert_eq!(standing(&key), [2, 3]);
    }
    // What it has not read under any dot stays.
    let mut key = others.clone();
    key.merge(&minted_by(&mut there, intent(4, "d", Some(&nothing))));
    let read = [Dot {
        actor: Actor(8),
        counter: 2,
    }];
    let read: Clock = read.into_iter().collect();
    here.mint(&mut key, intent(5, "e", Some(&read)), 1).unwrap();
    assert_eq!(standing(&key), [1, 5]);
    assert!(key.was_sent_again(WriteId(1)));
}

/// The same client sends that write once more, with what it has read since of it.
#[test]
fn a_retry_that_has_read_its_own_first_attempt_stands() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let early = minted_by(&mut there, intent(1, "a", None));
    let mut key = early.clone();
    let retry = again(1, "a", Some(early.clock()));
    here.mint(&mut key, retry, 1).unwrap();
    assert_eq!(standing(&key), [1]);
    assert!(key.was_sent_again(WriteId(1)) && !key.is_retired(WriteId(1)));
}

#[test]
fn who_replaces_blindly_retires_only_earlier_writes_of_one_client() {
    let id = |client, number| WriteId::new(client, number).0;
    for (replaced, by, is_retired) in [
        (id(1, 5), id(1, 6), true),
        (id(1, 6), id(1, 5), false),
        (id(1, 5), id(2, 6), false),
    ] {
        let mut minter = minter();
        let mut key = minted_by(&mut minter, again(replaced, "a", None));
        minter.mint(&mut key, intent(by, "b", None), 1).unwrap();
        assert_eq!(key.is_retired(WriteId(replaced)), is_retired);
        // A context is proof enough, whoever wrote.
        let mut key = minted_by(&mut minter, again(replaced, "a", None));
        let read = key.clock().clone();
        minter
            .mint(&mut key, intent(by, "b", Some(&read)), 1)
            .unwrap();
        assert!(key.is_retired(WriteId(replaced)));
        // It proves nothing of what was not read.
        let mut key = minted_by(&mut minter, again(replaced, "a", None));
        let nothing = Clock::new();
        minter
            .mint(&mut key, intent(by, "b", Some(&nothing)), 1)
            .unwrap();
        assert!(!key.is_retired(WriteId(replaced)));
        assert!(key.was_sent_again(WriteId(replaced)));
    }
}

#[test]
fn what_was_sent_once_leaves_no_mark() {
    let (mut minter, mut key) = (minter(), Versions::new());
    for id in 1..5 {
        minter.mint(&mut key, intent(id, "a", None), 1).unwrap();
    }
    assert_eq!(key.siblings().len(), 1);
    assert_eq!(minter.position().1, 4, "and takes one dot each");
}

#[test]
fn a_retired_write_is_not_minted() {
    let (mut minter, mut key) = (minter(), Versions::new());
    minter.mint(&mut key, again(1, "a", None), 1).unwrap();
    minter.mint(&mut key, intent(2, "b", None), 1).unwrap();
    let before = key.clone();
    for context in [None, Some(&Clock::new())] {
        let minted = minter.mint(&mut key, again(1, "a", context), 1);
        assert_eq!(minted, Ok(Minted::Retired));
        // Its first attempt was given up before the second was sent: whoever says that this is it has another write.
        let error = minter.mint(&mut key, intent(1, "x", context), 1);
        assert_eq!(error.unwrap_err().code, ErrorCode::BadRequest);
        assert_eq!(key, before);
    }
}

#[test]
fn a_later_attempt_stands_for_the_copies_that_are_here() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let empty = Clock::new();
    for context in [None, Some(&empty)] {
        let first = minted_by(&mut there, intent(1, "a", context));
        let mut key = first.clone();
        here.mint(&mut key, again(1, "a", context), 1).unwrap();
        assert_eq!(key.written().count(), 1);
        assert!(key.was_sent_again(WriteId(1)));
        key.merge(&first);
        assert_eq!(key.written().count(), 1);
        // Once more, and the mark is still one.
        here.mint(&mut key, again(1, "a", context), 1).unwrap();
        assert_eq!(key.siblings().len(), 2);
    }
}

#[test]
fn a_first_attempt_that_comes_late_does_not_make_little_of_the_later_ones() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let mut key = minted_by(&mut here, again(2, "b", None));
    key.merge(&minted_by(&mut there, intent(1, "a", None)));
    // There is something beside it, so it is minted over that.
    let minted = here.mint(&mut key, intent(2, "b", None), 1).unwrap();
    assert!(matches!(minted, Minted::New { .. }));
    assert_eq!(standing(&key), [2]);
    assert!(key.was_sent_again(WriteId(2)));
}

#[test]
fn a_blind_write_that_is_here_replaces_what_stands_beside_it() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let mut key = minted_by(&mut there, intent(1, "a", None));
    key.merge(&minted_by(&mut here, intent(2, "b", None)));
    assert_eq!(key.siblings().len(), 2);
    here.mint(&mut key, intent(2, "b", None), 1).unwrap();
    assert_eq!(standing(&key), [2]);
    let minted = here.mint(&mut key, intent(2, "b", None), 1);
    assert_eq!(minted, Ok(Minted::Already));
}

#[test]
fn the_id_of_another_write_is_refused() {
    let empty = Clock::new();
    let expiring = |intent: Intent| Intent {
        ttl_ms: Some(5),
        ..intent
    };
    for context in [None, Some(&empty)] {
        for (first, second) in [
            (intent(1, "a", context), intent(1, "b", context)),
            (intent(1, "a", context), delete(1, context)),
            (intent(1, "", context), delete(1, context)),
            (delete(1, context), intent(1, "a", context)),
            (delete(1, context), intent(1, "", context)),
            (intent(1, "a", context), expiring(intent(1, "a", context))),
            (expiring(intent(1, "a", context)), intent(1, "a", context)),
        ] {
            let mut minter = minter();
            let mut key = minted_by(&mut minter, first);
            let before = key.clone();
            for again in [false, true] {
                let second = Intent {
                    again,
                    ..second.clone()
                };
                let error = minter.mint(&mut key, second, 1).unwrap_err();
                assert_eq!(error.code, ErrorCode::BadRequest);
                assert!(!error.maybe_applied);
                assert_eq!(key, before);
            }
        }
    }
    // A delete has no date, whatever it was sent with.
    let mut minter = minter();
    let mut key = minted_by(&mut minter, expiring(delete(1, None)));
    assert_eq!(key.siblings()[0].expires_at_ms, None);
    let minted = minter.mint(&mut key, delete(1, None), 1);
    assert_eq!(minted, Ok(Minted::Already));
}

#[test]
fn the_newest_retired_writes_are_remembered() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let last = 3 * RETIRED_MAX as u128;
    for id in 1..=last {
        minter
            .mint(&mut key, again(id, "a", None), id as u64)
            .unwrap();
        assert!(key.siblings().len() <= RETIRED_MAX + 2);
    }
    let oldest = last - RETIRED_MAX as u128;
    for id in 1..last {
        assert_eq!(key.is_retired(WriteId(id)), id >= oldest, "{id}");
    }
    // Two sides together may have more, until the next write.
    let mut other = other_minter(8);
    let mut beside = Versions::new();
    for id in 101..110 {
        other.mint(&mut beside, again(id, "a", None), 9).unwrap();
    }
    key.merge(&beside);
    minter.mint(&mut key, intent(200, "z", None), 99).unwrap();
    assert_eq!(key.siblings().len(), RETIRED_MAX + 1);
}

#[test]
fn marks_do_not_count_as_values() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let empty = Clock::new();
    for id in 0..SIBLINGS_MAX as u128 - 1 {
        minter
            .mint(&mut key, again(id, "x", Some(&empty)), 1)
            .unwrap();
    }
    minter
        .mint(&mut key, intent(900, "x", Some(&empty)), 1)
        .unwrap();
    let error = minter.mint(&mut key, intent(901, "x", Some(&empty)), 1);
    assert_eq!(error.unwrap_err().code, ErrorCode::TooManySiblings);
    // Nor does a later attempt count beside itself.
    minter
        .mint(&mut key, again(900, "x", Some(&empty)), 1)
        .unwrap();
}

/// Else it would be acknowledged, and what that actor writes from now on dropped as seen.
#[test]
fn a_context_that_names_what_no_other_actor_can_have_counted_is_refused() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let forged: Clock = [Dot {
        actor: Actor(8),
        counter: 1 << 63,
    }]
    .into_iter()
    .collect();
    let error = minter
        .mint(&mut key, intent(1, "a", Some(&forged)), 1)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert!(key.is_empty());
}

#[test]
fn an_actor_that_has_counted_all_that_is_plausible_is_given_up() {
    let last = plausible::COUNTER_MAX - 1;
    let mut minter = Minter::new(Actor(7), last, fastrand::Rng::with_seed(1));
    let mut key = Versions::new();
    minter.mint(&mut key, intent(1, "a", None), 1).unwrap();
    assert_eq!(minter.position(), (Actor(7), plausible::COUNTER_MAX));
    minter.mint(&mut key, intent(2, "b", None), 1).unwrap();
    assert!(minter.position().0 != Actor(7) && minter.position().1 == 1);
}

#[test]
fn a_second_round_undoes_nothing_that_has_replaced_the_first() {
    let (mut minter, mut key) = (minter(), Versions::new());
    let mut other = Minter::new(Actor(8), 0, fastrand::Rng::with_seed(2));
    let first = minter.mint(&mut key, intent(1, "put", None), 1).unwrap();
    let first_dot: SmallVec<[Dot; 1]> = key.siblings().iter().map(|it| it.dot).collect();
    // The same write through another node, after this one was given up.
    let mut copy = Versions::new();
    other.mint(&mut copy, intent(1, "put", None), 1).unwrap();
    // And what came after it, through this node.
    let delete = Intent {
        value: Value::Tombstone,
        ..intent(2, "", None)
    };
    minter.mint(&mut key, delete, 1).unwrap();
    let replaced = first.replaced();
    let seen = Beside {
        beside: copy,
        first: first_dot.clone(),
        replaced: replaced.clone(),
    };
    let before = key.siblings().to_vec();
    let second = minter.mint_again(&mut key, intent(1, "put", None), &seen, 1);
    assert_eq!(second, Ok(Minted::Retired));
    assert!(before.iter().all(|it| key.siblings().contains(it)));
    // Something older that the later write has not seen: nobody may be told that this is done.
    let mut older = Versions::new();
    other.mint(&mut older, intent(9, "old", None), 1).unwrap();
    let seen = Beside {
        beside: older,
        first: first_dot,
        replaced,
    };
    let error = minter
        .mint_again(&mut key, intent(1, "put", None), &seen, 1)
        .unwrap_err();
    assert!(error.maybe_applied && error.retryable, "{error}");
    assert!(before.iter().all(|it| key.siblings().contains(it)));
}

/// An owner had an acknowledged write and this one, when a third replaced both there; it tells so. The third is
/// all that stands then, with what it has seen.
#[test]
fn a_second_round_is_done_by_what_has_replaced_it_elsewhere() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let (mut key, mut elsewhere) = (Versions::new(), Versions::new());
    there
        .mint(&mut elsewhere, intent(1, "old", None), 1)
        .unwrap();
    let old = elsewhere.clone();
    here.mint(&mut key, intent(2, "put", None), 1).unwrap();
    let seen = |beside: &Versions, key: &Versions| Beside {
        beside: beside.clone(),
        first: key.written().map(|it| it.dot).collect(),
        replaced: Replaced::new(),
    };
    elsewhere.merge(&key);
    there
        .mint(&mut elsewhere, intent(3, "later", None), 1)
        .unwrap();
    let told = seen(&elsewhere, &key);
    let minted = here.mint_again(&mut key, intent(2, "put", None), &told, 1);
    assert_eq!(minted, Ok(Minted::Retired));
    key.merge(&old);
    assert_eq!(standing(&key), [3]);
}

/// What stands when a write that was replaced is asked for again may all have been here before: that excuses
/// nothing. One of the others can be older and acknowledged.
#[test]
fn a_replaced_blind_write_is_not_done_while_more_than_one_other_stands() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let mut key = Versions::new();
    here.mint(&mut key, intent(2, "put", None), 1).unwrap();
    let first: SmallVec<[Dot; 1]> = key.written().map(|it| it.dot).collect();
    // A later one came to this owner, and then the older one that neither had seen.
    here.mint(&mut key, intent(3, "later", None), 1).unwrap();
    let old = minted_by(&mut there, intent(1, "old", None));
    key.merge(&old);
    let seen = Beside {
        beside: old,
        first,
        replaced: Replaced::new(),
    };
    let refused = here.mint_again(&mut key, intent(2, "put", None), &seen, 1);
    let error = refused.unwrap_err();
    assert!(error.maybe_applied && error.retryable, "{error}");
}

/// The first attempt of a write was under way for long, and a second one was acknowledged elsewhere. The client's next
/// write had its first dot when the former came, and was lost to it.
#[test]
fn a_late_attempt_of_an_earlier_write_does_not_replace_a_later_one_for_good() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let acknowledged = minted_by(&mut there, again(1, "earlier", None));
    let mut key = Versions::new();
    here.mint(&mut key, intent(2, "later", None), 1).unwrap();
    let first: SmallVec<[Dot; 1]> = key.written().map(|it| it.dot).collect();
    here.mint(&mut key, intent(1, "earlier", None), 1).unwrap();
    let seen = Beside {
        beside: acknowledged.clone(),
        first,
        replaced: Replaced::new(),
    };
    let minted = here.mint_again(&mut key, intent(2, "later", None), &seen, 1);
    assert!(matches!(minted, Ok(Minted::New { .. })), "{minted:?}");
    key.merge(&acknowledged);
    assert_eq!(standing(&key), [2]);
    // Nor is it there any more for whoever sends it once more.
    let minted = here.mint(&mut key, again(1, "earlier", None), 1);
    assert_eq!(minted, Ok(Minted::Retired));
}

#[test]
fn a_retired_blind_write_is_not_done_while_more_than_one_other_stands() {
    let (mut here, mut there) = (minter(), other_minter(8));
    let mut key = minted_by(&mut here, again(2, "put", None));
    here.mint(&mut key, intent(3, "later", None), 1).unwrap();
    let minted = here.mint(&mut key, again(2, "put", None), 1);
    assert_eq!(minted, Ok(Minted::Retired));
    key.merge(&minted_by(&mut there, intent(1, "old", None)));
    let error = here.mint(&mut key, again(2, "put", None), 1).unwrap_err();
    assert!(error.maybe_applied && error.retryable, "{error}");
    // With a context it was to replace no more than it had read.
    let context = Clock::new();
    let minted = here.mint(&mut key, again(2, "put", Some(&context)), 1);
    assert_eq!(minted, Ok(Minted::Retired));
}

/// A second attempt was acknowledged, replaced and noted as retired by two owners; the third, which has the copy
/// of the first attempt, was cut off meanwhile.
#[test]
fn a_write_through_an_owner_that_lacks_what_its_client_has_read_takes_no_mark_away() {
    let (mut stale, mut there) = (minter(), other_minter(8));
    let mut here = minted_by(&mut stale, intent(1, "v1", None));
    let mut others = minted_by(&mut there, again(1, "v1", None));
    let read = others.clock().clone();
    there.mint(&mut others, delete(2, Some(&read)), 1).unwrap();
    let read = others.clock().clone();
    let before = here.clone();
    let minted = stale.mint_if_known(&mut here, intent(3, "v3", Some(&read)), 1);
    let lacks = match minted {
        Ok(Minted::Behind { lacks }) => lacks,
        other => panic!("{other:?}"),
    };
    assert_eq!((&lacks, &here), (&read, &before));
    assert_eq!(stale.position(), (Actor(7), 1), "no dot is taken");
    // It has read the others.
    here.merge(&others);
    stale
        .mint_if_known(&mut here, intent(3, "v3", Some(&read)), 1)
        .unwrap();
    others.merge(&here);
    assert_eq!(standing(&others), [3]);
    // Minted all the same it is back.
    let mut here = before;
    others.merge(&here);
    stale
        .mint(&mut here, intent(4, "v4", Some(&read)), 1)
        .unwrap();
    assert_eq!(standing(&here), [1, 4]);
}

#[test]
fn what_needs_no_dot_needs_no_context_either() {
    let (mut minter, mut there) = (minter(), other_minter(8));
    let read = minted_by(&mut there, intent(9, "x", None)).clock().clone();
    let mut key = minted_by(&mut minter, intent(1, "a", Some(&read)));
    let later = minted_by(&mut other_minter(9), intent(9, "x", None));
    let later = later.clock().clone();
    // A retry is found by its id.
    let minted = minter.mint_if_known(&mut key, intent(1, "a", Some(&later)), 1);
    assert_eq!(minted, Ok(Minted::Already));
    let minted = minter.mint_if_known(&mut key, again(1, "a", Some(&later)), 1);
    assert!(matches!(minted, Ok(Minted::Behind { .. })), "{minted:?}");
    // Nothing is missing from what names nothing.
    let nothing = Clock::new();
    for (id, context) in [(5, None), (6, Some(&nothing))] {
        let minted = minter.mint_if_known(&mut key, intent(id, "a", context), 1);
        assert!(matches!(minted, Ok(Minted::New { .. })), "{minted:?}");
    }
}
