//! Writes without a context: what the owners have beside them.

use dynakv_protocol::Actor;
use dynakv_protocol::causal::Dot;
use dynakv_protocol::codec::Wire;

use super::*;

fn blind(w: u8, promised: (u8, u8)) -> Terms {
    Terms {
        is_blind: true,
        promised: Promised {
            w: promised.0,
            r: promised.1,
        },
        ..terms(0, w)
    }
}

fn begin(terms: Terms, reach: fn(NodeSlot) -> Reach) -> (Put, Vec<Effect>) {
    let mut effects = Vec::new();
    let put = Put::start(owners(), terms, reach, &mut effects);
    (put, effects)
}

fn versions(actor: u64) -> Versions {
    versions_of(&[actor])
}

fn ask(to: NodeSlot, round: Round) -> Effect {
    Effect::Merge {
        to,
        round,
        versions: versions(1).to_bytes(),
        tell_beside: round == Round::First,
    }
}

fn minted_in(round: Round, rebuilding: bool) -> Event {
    Event::Minted {
        round,
        versions: versions(1).to_bytes(),
        context: Bytes::from_static(b"context"),
        rebuilding,
        replaced: Replaced::new(),
    }
}

fn nothing(from: NodeSlot) -> Event {
    said(from, Said::Beside(None))
}

fn something(from: NodeSlot, actor: u64) -> Event {
    said(from, Said::Beside(Some(Box::new(versions(actor)))))
}

fn again(beside: Versions) -> Effect {
    Effect::Mint(Some(Box::new(Seen::Beside(Beside {
        beside,
        first: [Dot {
            actor: Actor(1),
            counter: 1,
        }]
        .into_iter()
        .collect(),
        replaced: Replaced::new(),
    }))))
}

#[test]
fn what_nobody_has_anything_beside_takes_one_round() {
    let (mut put, effects) = begin(blind(2, (2, 2)), usable);
    assert_eq!(effects, [MINT]);
    let effects = step(&mut put, minted_in(Round::First, false));
    assert_eq!(effects, [ask(B, Round::First), ask(C, Round::First)]);
    assert_eq!(step(&mut put, nothing(C)), []);
    assert_eq!(step(&mut put, DURABLE), acknowledged(2));
    // Too late to change anything.
    assert_eq!(step(&mut put, something(B, 9)), []);
    assert!(put.is_over());
}

#[test]
fn what_an_owner_has_beside_it_is_minted_over_and_only_that_dot_counts() {
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    // It does not wait for copies of the first dot.
    assert_eq!(step(&mut put, something(C, 9)), [again(versions(9))]);
    // What is said of the first dot says nothing of the second.
    assert_eq!(step(&mut put, DURABLE), []);
    assert_eq!(step(&mut put, something(B, 8)), []);
    let declined = Event::Declined {
        from: B,
        round: Round::First,
    };
    assert_eq!(step(&mut put, declined), []);
    let effects = step(&mut put, minted_in(Round::Second, false));
    assert_eq!(effects, [ask(B, Round::Second), ask(C, Round::Second)]);
    assert_eq!(step(&mut put, nothing(B)), []);
    assert_eq!(step(&mut put, Event::Durable(Round::Second)), []);
    // And nothing beside it is looked for any more.
    let last = Event::Merged {
        from: C,
        round: Round::Second,
        said: Said::Beside(Some(Box::new(versions(7)))),
    };
    assert_eq!(step(&mut put, last), acknowledged(2));
}

#[test]
fn the_deadline_of_a_second_round_leaves_the_outcome_open() {
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, something(C, 9));
    assert!(put.maybe_applied());
    let refused = Event::Refused {
        round: Round::Second,
        error: ErrorReply::new(ErrorCode::Conflict, ""),
    };
    let effects = step(&mut put, refused);
    assert!(error_of(&effects).maybe_applied);
}

#[test]
fn with_w_of_all_and_r_of_one_nobody_else_is_heard_before() {
    let (mut put, _) = begin(blind(3, (3, 1)), usable);
    step(&mut put, minted_in(Round::First, false));
    // One vote is needed, the own. What is said all the same is used.
    assert_eq!(step(&mut put, something(B, 9)), [again(versions(9))]);
}

#[test]
fn with_w_of_one_and_r_of_all_every_owner_must_be_heard() {
    let one_down = |node| match node {
        B => Reach::Doubtful,
        _ => Reach::Usable,
    };
    let (mut put, effects) = begin(blind(1, (1, 3)), one_down);
    assert_eq!(effects, [Effect::Ping(B)]);
    let effects = step(&mut put, Event::Failed(B));
    assert!(!error_of(&effects).maybe_applied);
    assert_eq!(error_of(&effects).needed, Some(3));

    let (mut put, _) = begin(blind(1, (1, 3)), usable);
    step(&mut put, minted_in(Round::First, false));
    assert_eq!(step(&mut put, DURABLE), []);
    assert_eq!(step(&mut put, nothing(B)), []);
    assert_eq!(step(&mut put, nothing(C)), acknowledged(1));
}

#[test]
fn without_an_overlap_or_with_a_smaller_w_nobody_is_waited_for() {
    for terms in [blind(1, (1, 1)), blind(1, (2, 2))] {
        let (mut put, effects) = begin(terms, doubtful);
        assert_eq!(effects, [MINT]);
        step(&mut put, minted_in(Round::First, false));
        assert_eq!(step(&mut put, DURABLE), acknowledged_without(1, &[B, C]));
    }
}

#[test]
fn who_has_lost_versions_counts_as_a_copy_and_not_as_a_vote() {
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, said(B, Said::Rebuilding)), []);
    assert_eq!(step(&mut put, nothing(C)), acknowledged(2));

    // Nor does the coordinator itself.
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, true));
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, nothing(B)), []);
    assert_eq!(step(&mut put, nothing(C)), acknowledged(2));

    // When too few are left it fails, and says so.
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, DURABLE);
    step(&mut put, said(B, Said::Rebuilding));
    let effects = step(&mut put, said(C, Said::Rebuilding));
    let error = error_of(&effects);
    assert!(
        error.maybe_applied && error.message.contains("have lost"),
        "{error}"
    );
}

#[test]
fn a_coordinator_that_knows_that_it_lost_versions_needs_one_owner_more_in_reach() {
    let one_down = |node| match node {
        B => Reach::Doubtful,
        _ => Reach::Usable,
    };
    let terms = Terms {
        is_rebuilding: true,
        ..blind(2, (2, 2))
    };
    let (mut put, effects) = begin(terms, one_down);
    assert_eq!(effects, [Effect::Ping(B)]);
    assert!(!error_of(&step(&mut put, Event::Failed(B))).maybe_applied);
    // Alone it can never be sure.
    let terms = Terms {
        is_rebuilding: true,
        ..blind(1, (1, 1))
    };
    let mut effects = Vec::new();
    Put::start(Preference::new([SELF]), terms, usable, &mut effects);
    assert!(!error_of(&effects).maybe_applied);
}

#[test]
fn one_more_owner_is_asked_for_the_vote_that_a_rebuilding_one_has_not() {
    let one_down = |node| match node {
        C => Reach::Doubtful,
        _ => Reach::Usable,
    };
    let (mut put, _) = begin(blind(2, (2, 2)), one_down);
    let effects = step(&mut put, minted_in(Round::First, false));
    assert_eq!(effects, [ask(B, Round::First)]);
    step(&mut put, DURABLE);
    let effects = step(&mut put, said(B, Said::Rebuilding));
    assert_eq!(effects, [ask(C, Round::First)]);
    assert_eq!(step(&mut put, nothing(C)), acknowledged(2));
}

#[test]
fn an_owner_of_an_older_version_is_read_in_place_of_its_word() {
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, merged(B)), [Effect::Read(B)]);
    // It has the write and nothing else.
    let read = Event::Read(B, Some(Box::new(versions(1))));
    assert_eq!(step(&mut put, read), acknowledged(2));

    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, DURABLE);
    step(&mut put, merged(B));
    let mut both = versions(1);
    both.merge(&versions(9));
    let read = Event::Read(B, Some(Box::new(both.clone())));
    assert_eq!(step(&mut put, read), [again(both)]);

    // Its silence or refusal leaves the vote to another one.
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, DURABLE);
    step(&mut put, merged(B));
    assert_eq!(step(&mut put, Event::Read(B, None)), []);
    assert_eq!(step(&mut put, nothing(C)), acknowledged(2));
}

#[test]
fn a_sloppy_write_uses_what_it_hears_and_waits_for_nobody() {
    let terms = Terms {
        stand_ins: Some([D, E].into_iter().collect()),
        ..blind(2, (2, 2))
    };
    let one_up = |node| match node {
        B => Reach::Usable,
        _ => Reach::Doubtful,
    };
    let (mut put, effects) = begin(terms.clone(), one_up);
    assert_eq!(effects, [MINT]);
    step(&mut put, minted_in(Round::First, false));
    assert_eq!(step(&mut put, something(B, 9)), [again(versions(9))]);
    let effects = step(&mut put, minted_in(Round::Second, false));
    assert_eq!(effects, [ask(B, Round::Second)]);

    let (mut put, _) = begin(terms, doubtful);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, merged(D)), [answer(2, true)]);
}

#[test]
fn an_owner_that_failed_before_the_second_round_is_asked_again_only_when_it_must_be() {
    let (mut put, _) = begin(blind(2, (2, 2)), usable);
    step(&mut put, minted_in(Round::First, false));
    step(&mut put, Event::Failed(B));
    step(&mut put, something(C, 9));
    let effects = step(&mut put, minted_in(Round::Second, false));
    assert_eq!(effects, [ask(C, Round::Second)]);
    let declined = Event::Declined {
        from: C,
        round: Round::Second,
    };
    assert_eq!(step(&mut put, declined), [ask(B, Round::Second)]);
}
