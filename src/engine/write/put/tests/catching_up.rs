//! Writes with a context through an owner that has not seen what it names.

use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Clock, Dot};

use super::*;

fn clock(actors: &[u64]) -> Clock {
    let dots = actors.iter().map(|&actor| Dot {
        actor: Actor(actor),
        counter: 1,
    });
    dots.collect()
}

fn versions(actors: &[u64]) -> Versions {
    Versions::from_parts(clock(actors), []).unwrap()
}

fn read(from: NodeSlot, actors: &[u64]) -> Event {
    Event::Read(from, Some(Box::new(versions(actors))))
}

fn behind(rebuilding: bool) -> Event {
    Event::Behind {
        lacks: clock(&[8, 9]),
        rebuilding,
    }
}

fn mint_over(actors: &[u64]) -> Effect {
    Effect::Mint(Some(Box::new(Seen::Read(versions(actors)))))
}

fn only_c(node: NodeSlot) -> Reach {
    match node {
        B => Reach::Doubtful,
        _ => Reach::Usable,
    }
}

fn begin(terms: Terms, reach: fn(NodeSlot) -> Reach) -> Put {
    let mut effects = Vec::new();
    let put = Put::start(owners(), terms, reach, &mut effects);
    assert_eq!(effects, [MINT]);
    put
}

#[test]
fn it_is_minted_as_soon_as_all_that_the_context_names_was_read() {
    let mut put = begin(terms(0, 2), usable);
    assert!(put.catches_up());
    assert_eq!(
        step(&mut put, behind(false)),
        [Effect::Read(B), Effect::Read(C)]
    );
    assert!(!put.maybe_applied() && !put.is_answered());
    assert_eq!(step(&mut put, read(C, &[3, 8, 9])), [mint_over(&[3, 8, 9])]);
    // From here on it is a write like any other.
    assert!(put.maybe_applied());
    assert_eq!(step(&mut put, read(B, &[8])), []);
    assert_eq!(step(&mut put, minted()), [merge(B), merge(C)]);
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, merged(B)), acknowledged(2));
}

#[test]
fn what_one_lacks_the_next_may_have() {
    let mut put = begin(terms(0, 2), usable);
    step(&mut put, behind(false));
    assert_eq!(step(&mut put, read(B, &[8])), []);
    assert_eq!(step(&mut put, read(C, &[9])), [mint_over(&[8, 9])]);
}

#[test]
fn what_enough_owners_have_not_was_never_acknowledged() {
    let mut put = begin(terms(0, 2), usable);
    step(&mut put, behind(false));
    assert_eq!(step(&mut put, read(B, &[8])), []);
    let effects = step(&mut put, read(C, &[8]));
    let error = error_of(&effects);
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert!(!error.maybe_applied && put.is_over(), "{error}");
    assert!(error.message.contains("Read the key again"), "{error}");
    // Two of three are enough to know that.
    let mut put = begin(terms(0, 2), usable);
    step(&mut put, behind(false));
    step(&mut put, Event::Failed(B));
    let effects = step(&mut put, read(C, &[8]));
    assert_eq!(error_of(&effects).code, ErrorCode::BadRequest);
}

#[test]
fn with_too_few_answers_nothing_is_written_and_it_may_be_tried_again() {
    // Neither this node nor that one has all it had.
    let mut put = begin(terms(0, 2), usable);
    step(&mut put, behind(true));
    step(&mut put, Event::Failed(B));
    let effects = step(&mut put, read(C, &[8]));
    let error = error_of(&effects);
    assert_eq!(error.code, ErrorCode::QuorumUnavailable);
    assert_eq!((error.needed, error.got), (Some(2), Some(1)));
    assert!(error.retryable && !error.maybe_applied, "{error}");

    let mut put = begin(terms(0, 2), usable);
    step(&mut put, behind(false));
    step(&mut put, Event::Read(B, None));
    let effects = step(&mut put, Event::Read(C, None));
    assert_eq!(error_of(&effects).code, ErrorCode::QuorumUnavailable);

    // Nor can W be met any more.
    let mut put = begin(terms(0, 2), usable);
    step(&mut put, behind(false));
    step(&mut put, Event::Failed(B));
    let effects = step(&mut put, Event::Failed(C));
    let error = error_of(&effects);
    assert_eq!((error.needed, error.got), (Some(2), Some(1)));
    assert!(error.retryable && !error.maybe_applied, "{error}");

    let mut put = begin(terms(0, 2), usable);
    step(&mut put, behind(false));
    let effects = step(&mut put, Event::Deadline);
    let error = error_of(&effects);
    assert_eq!(error.code, ErrorCode::Timeout);
    assert!(error.message.contains("lacks what the context names"));
    assert!(!error.maybe_applied, "{error}");
}

#[test]
fn owners_in_doubt_are_read_when_those_in_reach_are_too_few() {
    let mut put = begin(terms(0, 2), only_c);
    assert_eq!(step(&mut put, behind(false)), [Effect::Read(C)]);
    assert_eq!(step(&mut put, Event::Read(C, None)), [Effect::Read(B)]);
    assert_eq!(step(&mut put, read(B, &[8, 9])), [mint_over(&[8, 9])]);
    // That it has answered does not make it one of those in reach.
    let mut put = begin(terms(0, 2), only_c);
    assert_eq!(
        step(&mut put, behind(true)),
        [Effect::Read(C), Effect::Read(B)]
    );
}

/// With W + R ≤ N, and for a request that asks for less than the ring promises, nobody is waited for who cannot
/// be reached.
#[test]
fn where_nothing_is_promised_it_is_minted_over_what_was_read() {
    let promised = Promised { w: 1, r: 1 };
    for terms in [
        terms(0, 1),
        Terms {
            promised,
            ..terms(0, 1)
        },
    ] {
        let mut put = begin(terms.clone(), doubtful);
        assert_eq!(step(&mut put, behind(false)), [mint_over(&[])]);
        let mut put = begin(terms.clone(), usable);
        step(&mut put, behind(false));
        step(&mut put, read(B, &[8]));
        assert_eq!(step(&mut put, Event::Failed(C)), [mint_over(&[8])]);
        // When all have said what they have, it is plain all the same.
        let mut put = begin(terms, usable);
        step(&mut put, behind(false));
        step(&mut put, read(B, &[8]));
        let effects = step(&mut put, read(C, &[8]));
        assert_eq!(error_of(&effects).code, ErrorCode::BadRequest);
    }
}

#[test]
fn a_lone_owner_knows_what_was_never_written() {
    let mut effects = Vec::new();
    let mut put = Put::start(Preference::new([SELF]), terms(0, 2), doubtful, &mut effects);
    let effects = step(&mut put, behind(false));
    assert_eq!(error_of(&effects).code, ErrorCode::BadRequest);
}

#[test]
fn neither_sloppy_writes_nor_stand_ins_nor_blind_writes_catch_up() {
    let (sloppy, _) = start_sloppy(terms(0, 2), usable);
    let blind = Terms {
        is_blind: true,
        ..terms(0, 2)
    };
    let blind = begin(blind, usable);
    let stand_in = Terms {
        is_stand_in: true,
        ..terms(0, 1)
    };
    let strangers = Preference::new([B, C, D]);
    let stand_in = Put::start(strangers, stand_in, usable, &mut Vec::new());
    for put in [sloppy, blind, stand_in] {
        assert!(!put.catches_up());
    }
}
