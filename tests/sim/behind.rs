//! A machine comes in while those that own the same key do not reach each other: by script, as it takes more chance than
//! there is to meet the one order of events in which too little waiting shows.
//!
//! Of the owners of some keys, the *first* and the *third* do not reach the *second*, and not the *newcomer* either, which
//! is to own them besides the second. The *relay*, which owns none of them, reaches all, so that everybody hears
//! everything that is told of members and rings.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dynakv_protocol::change_ring::{ChangeRing, MemberWish, RingWish};
use dynakv_protocol::ids::{NodeId, WriteId};
use dynakv_protocol::placement::{MemberIndex, Placement};
use dynakv_protocol::ring_document::{ChangePhase, RingDocument};
use tokio::time::sleep;

use crate::client::{Client, get, write};
use crate::clock;
use crate::history::{History, Replaces, value_of};
use crate::invariants::Heard;
use crate::machine::{Flaw, Quorums, machine_name};
use crate::plan::{Fault, Plan};
use crate::seeds::for_each_seed;
use crate::settle::settle;
use crate::verdict::Verdict;
use crate::world::World;

const FOUNDERS: usize = 4;
const NEWCOMER: usize = 4;

/// When the newcomer is switched on.
const STARTED_AT: Duration = Duration::from_secs(2);

/// How many keys have the same owners.
const KEYS: usize = 3;

/// How long they do not reach each other once the change is asked for.
const CUT_FOR: Duration = Duration::from_secs(12);

const TIMEOUT: Duration = Duration::from_millis(800);

/// How many keys are looked at to find some with owners that fit.
const CANDIDATES: usize = 1_000;

#[test]
fn a_newcomer_that_reaches_too_few_owners_waits_for_more() {
    let test = "a_newcomer_that_reaches_too_few_owners_waits_for_more";
    for_each_seed(1, test, |seed| fetch(seed, Flaw::None).into_result());
}

/// The second owner misses a write, and the newcomer reaches none but that one.
pub(crate) fn fetch(seed: u64, flaw: Flaw) -> Verdict {
    let machines = FOUNDERS + 1;
    let place = (Quorums::USUAL, 0);
    let members = ((0..machines).collect(), flaw);
    let mut world = World::operated(seed, (FOUNDERS, machines), place, members);
    let history = Rc::new(RefCell::new(History::default()));
    world.add_client("script", |client| {
        let history = history.clone();
        Script { client, history }.fetch(flaw)
    });
    let mut plan = Plan::default();
    plan.add(STARTED_AT, Fault::Start { node: NEWCOMER });
    Verdict::of(world, &plan, &history)
}

/// Who is what to some keys.
#[derive(Debug)]
struct Roles {
    first: usize,
    second: usize,
    third: usize,
    relay: usize,
    keys: Vec<String>,
}

struct Script {
    client: Client,
    history: Rc<RefCell<History>>,
}

impl Script {
    async fn fetch(mut self, flaw: Flaw) -> turmoil::Result {
        self.client.wait_for_cluster().await;
        self.write("first", 0).await;
        let (ring, asked) = self.plan().await;
        let roles = roles(&ring);
        self.client.line(&format!("{roles:?}"));
        for owner in [roles.first, roles.third] {
            for other in [roles.second, NEWCOMER] {
                turmoil::partition(machine_name(owner), machine_name(other));
            }
        }
        for key in &roles.keys {
            self.write(key, roles.first).await;
        }
        let begun = self.client.change_ring(roles.first, asked).await;
        let begun = begun.expect("a majority is there").version;
        let until = clock::now() + CUT_FOR;
        while clock::now() < until {
            for key in &roles.keys {
                self.read(key, roles.first).await;
                self.read(key, roles.second).await;
            }
            sleep(Duration::from_millis(200)).await;
        }
        let ring = self.client.ring(roles.relay).await;
        let phase = ring.expect("it is there").change().map(|it| it.phase);
        if flaw == Flaw::None {
            assert_eq!(phase, Some(ChangePhase::WriteBoth), "somebody did not wait");
        }
        for owner in [roles.first, roles.third] {
            for other in [roles.second, NEWCOMER] {
                turmoil::repair(machine_name(owner), machine_name(other));
            }
        }
        self.client.reached(begun);
        let now = clock::now();
        settle(self.client, self.history, now).await
    }

    /// Waits for the newcomer. The ring that would let it in, and how that is asked for.
    async fn plan(&mut self) -> (RingDocument, ChangeRing) {
        let id =
            NodeId::new(&machine_name(NEWCOMER)).expect("a name of a machine is one of a node");
        loop {
            sleep(Duration::from_millis(100)).await;
            let status = self.client.status(0).await.expect("all are there");
            let ring = self.client.ring(0).await.expect("all are there");
            let Some(member) = status.waiting.into_iter().find(|it| it.id == id) else {
                continue;
            };
            let mut asked = ChangeRing {
                planned_on: ring.version,
                is_plan: true,
                accept_loss: false,
                is_forced: false,
                wish: RingWish::Members(vec![MemberWish::Joins(member)]),
            };
            if let Ok(planned) = self.client.change_ring(0, asked.clone()).await {
                asked.is_plan = false;
                return (planned, asked);
            }
        }
    }

    async fn write(&mut self, key: &str, node: usize) {
        let id = WriteId(1 + self.history.borrow().acknowledged() as u128);
        let mut request = write(key, id, Some(value_of(id)), TIMEOUT);
        // Of a cluster that promises more than that it is asked for all the same.
        request.w = Some(Quorums::USUAL.w);
        let replaces = Replaces::WhatIsThere;
        let now = clock::now();
        self.history
            .borrow_mut()
            .begin(id, key, false, replaces, now);
        let answer = self.client.write(node, request).await;
        self.history.borrow_mut().end(id, &answer, clock::now());
        answer.expect("W owners are there");
    }

    /// Holds against the history what a node shows, if it shows anything.
    async fn read(&mut self, key: &str, node: usize) {
        let began = clock::now();
        let answer = self.client.get(node, get(key, TIMEOUT)).await;
        let mut history = self.history.borrow_mut();
        history.expect_an_end(&answer, clock::now());
        if let Ok(fetched) = answer {
            let shown = history.on_read(key, &fetched, (began, clock::now()), Heard::Quorum);
            self.client
                .line(&format!("get {key} at {}: {shown:x?}", node + 1));
        }
    }
}

/// Some keys of which the newcomer becomes an owner, all with the same owners.
fn roles(ring: &RingDocument) -> Roles {
    let tables = Placement::before_and_after(ring);
    let (before, after) = tables.expect("the ring changes");
    let number = |index: &MemberIndex| {
        let id = ring.members[index.slot()].id.as_str();
        (0..=NEWCOMER).find(|&it| machine_name(it) == id)
    };
    let owners = |table: &Placement, key: &str| -> Vec<usize> {
        let owners = table.owners_of_key(key.as_bytes()).iter();
        owners.filter_map(number).collect()
    };
    let keys = (0..CANDIDATES).map(|it| format!("key-{it}"));
    let fitting = keys.filter_map(|key| {
        let (old, new) = (owners(&before, &key), owners(&after, &key));
        let first = old[0];
        let second = *old[1..].iter().find(|it| new.contains(it))?;
        let third = *old[1..].iter().find(|it| **it != second)?;
        let relay = (0..FOUNDERS).find(|it| !old.contains(it))?;
        new.contains(&NEWCOMER)
            .then_some(([first, second, third, relay], key))
    });
    let fitting: Vec<_> = fitting.collect();
    let roles @ [first, second, third, relay] = fitting[0].0;
    let same = fitting.into_iter().filter(|(it, _)| *it == roles);
    Roles {
        first,
        second,
        third,
        relay,
        keys: same.map(|(_, key)| key).take(KEYS).collect(),
    }
}
