//! While the ring changes a write needs its owners of both sides.

use super::*;

const D: NodeSlot = NodeSlot(3);

/// A, B and C hold the key, A, B and D are to: this node is A, and the old ones are read.
const SIDES: Sides = Sides {
    readers: 3,
    others: 0b1011,
};

fn start_with(terms: Terms, reach: fn(NodeSlot) -> Reach) -> (Put, Vec<Effect>) {
    let mut effects = Vec::new();
    let owners = Preference::joint([SELF, B, C, D], SIDES);
    let put = Put::start(owners, terms, reach, &mut effects);
    (put, effects)
}

fn blind(w: u8) -> Terms {
    Terms {
        is_blind: true,
        ..terms(0, w)
    }
}

#[test]
fn two_old_owners_and_two_new_ones_make_a_write_of_two() {
    let (mut put, effects) = start_with(terms(0, 2), usable);
    assert_eq!(effects, [MINT]);
    assert_eq!(step(&mut put, minted()), [merge(B), merge(C), merge(D)]);
    assert_eq!(step(&mut put, DURABLE), []);
    assert_eq!(
        step(&mut put, merged(C)),
        [],
        "of the new ones A alone has it"
    );
    assert_eq!(step(&mut put, merged(D)), acknowledged(2));
    // One that is in both sides does for both.
    let (mut put, _) = start_with(terms(0, 2), usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, merged(B)), acknowledged(2));
}

#[test]
fn nothing_is_written_where_one_side_is_out_of_reach() {
    let only_c = |node| match node == C {
        true => Reach::Usable,
        false => Reach::Doubtful,
    };
    let (mut put, effects) = start_with(terms(0, 2), only_c);
    assert_eq!(effects, [Effect::Ping(B), Effect::Ping(D)]);
    assert_eq!(step(&mut put, Event::Failed(B)), []);
    let effects = step(&mut put, Event::Failed(D));
    let error = error_of(&effects);
    assert_eq!(error.code, ErrorCode::QuorumUnavailable);
    assert!(
        error
            .message
            .contains("needs 2 owners of the key, 1 answered"),
        "{error:?}"
    );
    assert!(!error.maybe_applied);
}

#[test]
fn a_side_that_can_no_longer_have_it_ends_the_write() {
    let (mut put, _) = start_with(terms(0, 2), usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    step(&mut put, merged(C));
    assert_eq!(step(&mut put, Event::Failed(B)), []);
    let effects = step(&mut put, Event::Failed(D));
    assert!(error_of(&effects).maybe_applied);
}

/// One owner becomes three: the new ones can't be fewer than two because the old ones are.
#[test]
fn one_owner_that_becomes_three_does_not_do_for_two_of_them() {
    let mut effects = Vec::new();
    let sides = Sides {
        readers: 1,
        others: 0b111,
    };
    let owners = Preference::joint([SELF, B, C], sides);
    let mut put = Put::start(owners, terms(0, 2), usable, &mut effects);
    step(&mut put, minted());
    assert_eq!(step(&mut put, DURABLE), []);
    assert_eq!(step(&mut put, merged(C)), acknowledged(2));
}

/// A copy that is not complete does not know what a blind write replaces.
#[test]
fn only_owners_that_are_read_say_what_a_blind_write_replaces() {
    let (mut put, _) = start_with(blind(2), usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    let nothing = Said::Beside(None);
    assert_eq!(step(&mut put, said(D, nothing.clone())), []);
    // A and D have it, and A alone has said what it had.
    let answered = step(&mut put, said(C, nothing));
    assert_eq!(answered, acknowledged(2));
    let (mut put, _) = start_with(blind(2), usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    for fails in [B, C] {
        step(&mut put, Event::Failed(fails));
    }
    assert!(put.is_answered(), "without B and C nobody else can say it");
}

/// A stand-in fills one place, on the sides that the place is on.
#[test]
fn a_stand_in_counts_where_the_owner_would_whose_place_it_fills() {
    const E: NodeSlot = NodeSlot(4);
    let sloppy = Terms {
        stand_ins: Some([E].into_iter().collect()),
        ..terms(0, 2)
    };
    let without_b_and_d = |node| match node == B || node == D {
        true => Reach::Doubtful,
        false => Reach::Usable,
    };
    let (mut put, effects) = start_with(sloppy, without_b_and_d);
    assert_eq!(effects, [MINT], "E stands in for B, of both sides");
    let hint = Effect::Hint {
        to: E,
        round: Round::First,
        versions: bytes(),
    };
    assert_eq!(step(&mut put, minted()), [merge(C), hint]);
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, merged(C)), []);
    let answered = step(&mut put, merged(E));
    // C and A are owners of the old side, and of the new one A alone is: without E it were one short.
    assert_eq!(answered, [answer(2, true)]);
}

#[test]
fn a_write_is_rebased_from_one_side_to_two() {
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    let newer = dynakv_protocol::RingVersion(8);
    let round = Round::First;
    step(
        &mut put,
        Event::Stale {
            round,
            version: newer,
        },
    );
    let mut effects = Vec::new();
    let owners = Preference::joint([SELF, B, C, D], SIDES);
    let usable = [B, C, D].into_iter().collect();
    put.rebase(owners, (usable, SmallVec::new()), &mut effects);
    step(&mut put, minted());
    step(&mut put, DURABLE);
    assert_eq!(step(&mut put, merged(C)), []);
    assert!(!step(&mut put, merged(D)).is_empty() && put.is_answered());
}

/// The new owners are read by now, and this node is none of them. It has the write all the same, as an old owner has to.
#[test]
fn a_write_whose_coordinator_is_read_no_more_is_brought_to_its_end() {
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    let version = dynakv_protocol::RingVersion(8);
    let round = Round::First;
    step(&mut put, Event::Stale { round, version });
    let mut effects = Vec::new();
    let sides = Sides {
        readers: 3,
        others: 0b1011,
    };
    let owners = Preference::joint([B, C, D, SELF], sides);
    put.rebase(
        owners,
        ([B, C, D].into_iter().collect(), SmallVec::new()),
        &mut effects,
    );
    step(&mut put, minted());
    assert_eq!(step(&mut put, DURABLE), []);
    assert_eq!(
        step(&mut put, merged(C)),
        [],
        "of those that are read C alone has it"
    );
    assert!(!step(&mut put, merged(B)).is_empty() && put.is_answered());
    // Where it owns nothing of it any more it is for others to say what has become of it.
    let (mut put, _) = start(2, usable);
    step(&mut put, minted());
    step(&mut put, Event::Stale { round, version });
    let mut effects = Vec::new();
    let owners = Preference::new([B, C, D]);
    put.rebase(owners, (SmallVec::new(), SmallVec::new()), &mut effects);
    assert!(error_of(&effects).maybe_applied);
}
