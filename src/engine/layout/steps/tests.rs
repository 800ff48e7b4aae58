use std::collections::BTreeMap;

use dynakv_protocol::ids::ClusterId;
use dynakv_protocol::ring_document::Step;

use super::*;
use crate::engine::layout::made_up::members;

/// A final ring of version 4.
fn final_ring(names: &str, (n, w, r): (u8, u8, u8)) -> RingDocument {
    RingDocument {
        cluster_id: ClusterId(1),
        cluster_name: "c".to_owned(),
        version: RingVersion(4),
        step: Step::Final,
        n,
        w,
        r,
        members: members(names),
    }
}

/// A change that began with version 5.
fn begun(from: &str, to: &str) -> RingDocument {
    change::begin(&final_ring(from, (3, 2, 2)), &members(to), &[], |_| {
        change::Reads::Changes
    })
    .unwrap()
}

/// What members have said: which ring they follow, and by which change they are complete.
struct Said {
    said: BTreeMap<String, (u64, u64)>,
    /// By which ring whoever goes has handed on what it has, and how many hints it has.
    settled: u64,
    hints: u64,
    /// Who is dead, and for how long.
    dead: Option<(&'static str, u64)>,
}

impl Said {
    fn of(said: &[(&str, u64, u64)]) -> Self {
        let said = said
            .iter()
            .map(|&(name, ring, complete)| (name.to_owned(), (ring, complete)));
        Self {
            said: said.collect(),
            settled: 0,
            hints: 0,
            dead: None,
        }
    }

    fn progress(&self, id: &NodeId) -> Progress {
        let (ring, complete) = self.said.get(id.as_str()).copied().unwrap_or_default();
        Progress {
            ring_version: RingVersion(ring),
            complete_since: RingVersion(complete),
            settled_at: RingVersion(self.settled),
            hints: self.hints,
        }
    }

    fn due(&self, document: &RingDocument) -> Option<Due> {
        let dead_for = |id: &NodeId| {
            let dead = self.dead.filter(|(name, _)| *name == id.as_str());
            dead.map(|(_, ms)| ms)
        };
        due(
            &Ring::new(document.clone()),
            |id| self.progress(id),
            dead_for,
        )
    }
}

fn ids(names: &str) -> Vec<NodeId> {
    members(names).into_iter().map(|member| member.id).collect()
}

#[test]
fn whoever_gains_is_read_once_it_has_all_of_it() {
    let begun = begun("abc", "abcde");
    // The others gain nothing, and need not even be there.
    assert_eq!(Said::of(&[]).due(&begun), Some(Due::Fetching(ids("de"))));
    // Of a change before this one.
    let said = Said::of(&[("d", 5, 5), ("e", 5, 4)]);
    assert_eq!(said.due(&begun), Some(Due::Fetching(ids("e"))));
    let said = Said::of(&[("d", 5, 5), ("e", 5, 5)]);
    let next = change::read_new(&begun).unwrap();
    assert_eq!(said.due(&begun), Some(Due::Step(Box::new(next))));
    // A renewed directory meanwhile is no other change.
    let mut renewed = begun.clone();
    renewed.version = RingVersion(6);
    assert!(matches!(said.due(&renewed), Some(Due::Step(_))));
}

#[test]
fn a_heavier_member_gains_and_is_waited_for() {
    let mut target = members("abcd");
    target[1].weight = 3;
    let ring = final_ring("abcd", (3, 2, 2));
    let begun = change::begin(&ring, &target, &[], |_| change::Reads::Changes).unwrap();
    assert_eq!(Said::of(&[]).due(&begun), Some(Due::Fetching(ids("b"))));
}

/// B and C, both behind, would read each other and miss what was written to A and D.
#[test]
fn the_change_ends_once_those_behind_are_no_read_quorum() {
    let read = change::read_new(&begun("abc", "abcd")).unwrap();
    assert_eq!(read.version, RingVersion(6));
    let (before, now) = (5, 6);
    let said = Said::of(&[
        ("a", now, 0),
        ("b", before, 0),
        ("c", before, 0),
        ("d", now, 5),
    ]);
    assert_eq!(said.due(&read), Some(Due::Following(ids("bc"))));
    let said = Said::of(&[("a", now, 0), ("b", now, 0), ("c", before, 0)]);
    assert!(
        matches!(said.due(&read), Some(Due::Step(_))),
        "one alone reads nothing"
    );
    // With r = 1 each of them answers reads by itself.
    let ring = final_ring("abc", (3, 3, 1));
    let begun = change::begin(&ring, &members("abcd"), &[], |_| change::Reads::Changes).unwrap();
    let read = change::read_new(&begun).unwrap();
    assert_eq!(said.due(&read), Some(Due::Following(ids("c"))));
}

#[test]
fn nothing_is_due_in_a_ring_that_does_not_change() {
    assert_eq!(Said::of(&[]).due(&final_ring("abc", (3, 2, 2))), None);
}

#[test]
fn a_change_is_given_up_for_whoever_died_before_it_was_complete() {
    let begun = begun("abc", "abcd");
    let ring = Ring::new(begun.clone());
    let given_up = |said: &Said, dead: &str, ms: u64| {
        let dead_for = |id: &NodeId| (id.as_str() == dead).then_some(ms);
        given_up(&ring, |id| said.progress(id), dead_for)
    };
    let nothing = Said::of(&[]);
    assert_eq!(given_up(&nothing, "d", GIVEN_UP_AFTER_MS - 1), None);
    let back = given_up(&nothing, "d", GIVEN_UP_AFTER_MS).unwrap();
    assert_eq!((&back.step, &back.members), (&Step::Final, &members("abc")));
    assert_eq!(
        given_up(&nothing, "a", GIVEN_UP_AFTER_MS),
        None,
        "it is waited for"
    );
    // One that stays and is to get what another one leaves.
    let leaving = Ring::new(self::begun("abcde", "abcd"));
    let dead =
        |name: &'static str| move |id: &NodeId| (id.as_str() == name).then_some(GIVEN_UP_AFTER_MS);
    let progress = |id: &NodeId| nothing.progress(id);
    assert!(super::given_up(&leaving, progress, dead("b")).is_some());
    assert_eq!(super::given_up(&leaving, progress, dead("e")), None);
    let complete = Said::of(&[("d", 5, 5)]);
    assert_eq!(given_up(&complete, "d", GIVEN_UP_AFTER_MS), None);
    let read = Ring::new(change::read_new(&begun).unwrap());
    let dead = |_: &NodeId| Some(GIVEN_UP_AFTER_MS);
    assert_eq!(
        super::given_up(&read, |id| nothing.progress(id), dead),
        None
    );
}

#[test]
fn whoever_goes_hands_on_what_it_has_first() {
    let read = change::read_new(&begun("abcd", "abc")).unwrap();
    let mut said = Said::of(&[("a", 6, 5), ("b", 6, 5), ("c", 6, 5), ("d", 6, 0)]);
    assert_eq!(said.due(&read), Some(Due::HandingOn(ids("d"))));
    // Since the ring before this one an owner may have lost what it was handed.
    said.settled = 5;
    assert_eq!(said.due(&read), Some(Due::HandingOn(ids("d"))));
    said.settled = 6;
    assert!(matches!(said.due(&read), Some(Due::Step(_))));
    said.settled = 0;
    said.dead = Some(("d", NOT_HANDING_ON_AFTER_MS - 1));
    assert_eq!(said.due(&read), Some(Due::HandingOn(ids("d"))));
    said.dead = Some(("d", NOT_HANDING_ON_AFTER_MS));
    assert!(matches!(said.due(&read), Some(Due::Step(_))));
    // It may be the only one that has what it was to hand over.
    said.hints = 1;
    assert_eq!(said.due(&read), Some(Due::HandingOn(ids("d"))));
    said.dead = None;
    let gone = change::stop_waiting_for(&read, &ids("d")[0]).unwrap();
    let mut said = Said::of(&[("a", 7, 5), ("b", 7, 5), ("c", 7, 5)]);
    said.settled = 0;
    assert!(matches!(said.due(&gone), Some(Due::Step(_))));
}

/// With r = 1 each old owner answers reads by itself: one that is gone does not.
#[test]
fn who_is_gone_is_not_waited_for_with_r_of_one_either() {
    let ring = final_ring("abcd", (3, 3, 1));
    let gone = ids("d");
    let begun = change::begin(&ring, &members("abc"), &gone, |_| change::Reads::Changes).unwrap();
    let read = change::read_new(&begun).unwrap();
    let said = Said::of(&[("a", 6, 5), ("b", 6, 5), ("c", 6, 5)]);
    assert!(matches!(said.due(&read), Some(Due::Step(_))));
    let begun = change::begin(&ring, &members("abc"), &[], |_| change::Reads::Changes).unwrap();
    let read = change::read_new(&begun).unwrap();
    assert_eq!(said.due(&read), Some(Due::Following(ids("d"))));
}

/// B has missed what A and C acknowledged. With C gone and A the next to go, nobody would have it.
#[test]
fn where_there_are_to_be_fewer_copies_who_stays_fetches_too() {
    let begun = begun("abc", "ab");
    assert_eq!(Said::of(&[]).due(&begun), Some(Due::Fetching(ids("ab"))));
    let said = Said::of(&[("a", 5, 5), ("b", 5, 0)]);
    assert_eq!(said.due(&begun), Some(Due::Fetching(ids("b"))));
    let said = Said::of(&[("a", 5, 5), ("b", 5, 5)]);
    assert!(matches!(said.due(&begun), Some(Due::Step(_))));
}
