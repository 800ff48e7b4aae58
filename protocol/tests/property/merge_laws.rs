//! The merge is the join of a semilattice, and nothing else.
//!
//! For each dot a state knows one of three things, each above the one before: nothing; that the write
//! is there (of two contents under one dot, which only damage can make, the larger is above); that
//! the write was replaced. The merge takes, dot by dot, the upper of what both sides know. That is
//! stated here a second time, dot by dot, and held against the code; the three laws follow, and are
//! checked besides, for well-formed states that no run of a store ever reaches and for reached ones.

use std::collections::BTreeSet;

use bytes::Bytes;
use dynakv_protocol::Actor;
use dynakv_protocol::causal::{Clock, Dot, Sibling, Versions};
use dynakv_protocol::codec::Wire;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;
use proptest::{prop_assert, prop_assert_eq};

use crate::generators::{assemble, colliding_versions, versions};
use crate::model::{Cluster, Rules, operation};
use crate::ten_thousand;

/// What a state knows of one write; the order is the one in which knowledge grows.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Knowledge<'a> {
    Nothing,
    Present(&'a Sibling),
    Replaced,
}

fn knowledge(versions: &Versions, dot: Dot) -> Knowledge<'_> {
    if let Some(sibling) = versions.siblings().iter().find(|s| s.dot == dot) {
        Knowledge::Present(sibling)
    } else if versions.clock().covers(dot) {
        Knowledge::Replaced
    } else {
        Knowledge::Nothing
    }
}

/// The merge as the definition says it.
fn join_by_definition(a: &Versions, b: &Versions) -> Versions {
    let dots: BTreeSet<Dot> = [a, b]
        .iter()
        .flat_map(|versions| versions.siblings())
        .map(|sibling| sibling.dot)
        .collect();
    let siblings = dots
        .into_iter()
        .filter_map(|dot| match knowledge(a, dot).max(knowledge(b, dot)) {
            Knowledge::Present(sibling) => Some(sibling.clone()),
            Knowledge::Nothing | Knowledge::Replaced => None,
        })
        .collect();
    let actors: BTreeSet<Actor> = a
        .clock()
        .iter()
        .chain(b.clock().iter())
        .map(|dot| dot.actor)
        .collect();
    let clock: Clock = actors
        .into_iter()
        .map(|actor| Dot {
            actor,
            counter: a.clock().counter(actor).max(b.clock().counter(actor)),
        })
        .collect();
    assemble(&clock, siblings)
}

fn merged(a: &Versions, b: &Versions) -> Versions {
    let mut result = a.clone();
    result.merge(b);
    result
}

fn check_laws(
    a: &Versions,
    b: &Versions,
    c: &Versions,
) -> Result<(), proptest::test_runner::TestCaseError> {
    let ab = merged(a, b);
    prop_assert_eq!(&ab, &join_by_definition(a, b));
    prop_assert_eq!(&ab, &merged(b, a), "commutative");
    prop_assert_eq!(&merged(&ab, c), &merged(a, &merged(b, c)), "associative");
    prop_assert_eq!(&merged(a, a), a, "idempotent");
    prop_assert_eq!(&merged(&ab, b), &ab, "absorbs what it has taken in");
    // Byte by byte: anti-entropy compares hashes.
    prop_assert_eq!(ab.to_bytes(), merged(b, a).to_bytes());
    prop_assert_eq!(
        merged(&ab, c).to_bytes(),
        merged(a, &merged(b, c)).to_bytes()
    );
    // And what comes out is well-formed again.
    prop_assert_eq!(Versions::from_bytes(&ab.to_bytes()), Ok(ab.clone()));
    prop_assert!(ab.clock().dominates(a.clock()) && ab.clock().dominates(b.clock()));
    Ok(())
}

/// States that share dots with others, and some that share none.
fn any_versions() -> impl Strategy<Value = Versions> {
    prop_oneof![9 => colliding_versions(), 1 => versions()]
}

proptest! {
    #![proptest_config(ten_thousand())]

    #[test]
    fn the_laws_hold_for_any_well_formed_states(
        (a, b, c) in (any_versions(), any_versions(), any_versions()),
    ) {
        check_laws(&a, &b, &c)?;
    }

    #[test]
    fn the_laws_hold_for_states_that_a_store_reaches(
        operations in vec(operation(), 1..40),
        picks in any::<[Index; 3]>(),
    ) {
        let mut cluster = Cluster::new(3, Rules::KEPT);
        let mut reached = vec![Versions::new()];
        for operation in &operations {
            cluster.step(operation);
            reached.extend(cluster.states().cloned());
        }
        let [a, b, c] = picks.map(|pick| pick.get(&reached));
        check_laws(a, b, c)?;
    }

    /// Two contents under one dot: every replica keeps the larger, wherever it came from and in
    /// whatever order the others were merged.
    #[test]
    fn of_two_contents_under_one_dot_all_replicas_keep_the_larger(
        states in vec(colliding_versions(), 2..5),
        order in any::<[Index; 8]>(),
    ) {
        let mut forwards = Versions::new();
        for state in &states {
            forwards.merge(state);
        }
        let mut shuffled = Versions::new();
        for state in order.iter().map(|pick| pick.get(&states)).chain(states.iter().rev()) {
            shuffled.merge(state);
        }
        prop_assert_eq!(forwards.to_bytes(), shuffled.to_bytes());
        for kept in forwards.siblings() {
            let largest = states
                .iter()
                .flat_map(|state| state.siblings())
                .filter(|sibling| sibling.dot == kept.dot)
                .max();
            prop_assert_eq!(Some(kept), largest);
        }
    }
}

/// The order of two contents under one dot is part of the protocol: all versions of the software must
/// agree on it, or replicas never converge.
#[test]
fn contents_under_one_dot_are_compared_field_by_field() {
    use dynakv_protocol::WriteId;
    use dynakv_protocol::causal::Value;
    let dot = Dot {
        actor: Actor(1),
        counter: 1,
    };
    let content = |write_id, timestamp, expires_at_ms, value| Sibling {
        dot,
        write_id: WriteId(write_id),
        timestamp,
        expires_at_ms,
        value,
    };
    let bytes = |text: &'static str| Value::Bytes(Bytes::from_static(text.as_bytes()));
    let rising = [
        content(1, 1, None, Value::Tombstone),
        content(1, 1, None, bytes("")),
        content(1, 1, None, bytes("a")),
        content(1, 1, None, bytes("ab")),
        content(1, 1, None, bytes("b")),
        content(1, 1, Some(0), Value::Tombstone),
        content(1, 1, Some(7), Value::Tombstone),
        content(1, 2, None, Value::Tombstone),
        content(2, 0, None, Value::Tombstone),
    ];
    let clock: Clock = [dot].into_iter().collect();
    for (i, smaller) in rising.iter().enumerate() {
        for larger in &rising[i + 1..] {
            let smaller = assemble(&clock, vec![smaller.clone()]);
            let larger = assemble(&clock, vec![larger.clone()]);
            assert_eq!(merged(&smaller, &larger), larger);
            assert_eq!(merged(&larger, &smaller), larger);
        }
    }
}
