//! Blind writes, one after the other, through an owner that has missed the one before: no siblings come of
//! it, because who stands in reads first.
//!
//! In each round the owners of some fresh keys are, in this order, *first*, *stale* and *other*. Stale is
//! off while each key is set through first; then stale comes back and first goes off in the same moment,
//! and each key is set again, through stale. No link is cut, and no disk loses anything.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dynakv_protocol::ids::WriteId;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Client, get, write};
use crate::clock;
use crate::history::{History, Promise, Replaces, value_of};
use crate::invariants::Heard;
use crate::machine::Flaw;
use crate::plan::{Fault, Plan};
use crate::seeds::for_each_seed;
use crate::settle::settle;
use crate::verdict::Verdict;
use crate::world::World;

const MACHINES: usize = 3;
const ROUNDS: usize = 3;
const KEYS_PER_ROUND: usize = 4;

/// When the first round begins, and how long one takes.
const BEGIN: Duration = Duration::from_secs(4);
const ROUND: Duration = Duration::from_secs(10);

/// In a round: when the keys are set, when the two owners change places, when all are back.
const SET_AT: Duration = Duration::from_millis(600);
const CHANGE_AT: Duration = Duration::from_millis(2600);
const BACK_AT: Duration = Duration::from_millis(7000);

/// From then on copies may have been compared, and the round proves nothing any more.
const TOO_LATE: Duration = Duration::from_millis(4500);

const TIMEOUT: Duration = Duration::from_millis(1800);

/// The two owners that change places in a round.
#[derive(Debug, Clone, Copy)]
struct Roles {
    first: usize,
    stale: usize,
}

#[test]
fn who_stands_in_reads_first() {
    let total = for_each_seed(3, "who_stands_in_reads_first", |seed| {
        run(seed, Flaw::None).into_result()
    });
    assert!(total.acknowledged > 0, "nothing was written");
}

/// Runs one seed.
pub(crate) fn run(seed: u64, flaw: Flaw) -> Verdict {
    let mut world = World::new(seed, MACHINES, flaw);
    let mut random = world.fork();
    let (mut plan, mut rounds) = (Plan::default(), Vec::new());
    for number in 0..ROUNDS {
        let first = random.usize(..MACHINES);
        let stale = (first + random.usize(1..MACHINES)) % MACHINES;
        rounds.push(Roles { first, stale });
        let at = BEGIN + ROUND * number as u32;
        let cut = |node| Fault::PowerCut {
            node,
            kept_percent: 100,
            is_malicious: false,
        };
        plan.add(at, cut(stale));
        plan.add(at + CHANGE_AT, Fault::Start { node: stale });
        plan.add(at + CHANGE_AT, cut(first));
        plan.add(at + BACK_AT, Fault::Start { node: first });
    }
    let history = Rc::new(RefCell::new(History::default()));
    world.add_client("script", |client| {
        let script = Script {
            client,
            random,
            history: history.clone(),
        };
        script.run(rounds)
    });
    Verdict::of(world, &plan, &history)
}

struct Script {
    client: Client,
    random: fastrand::Rng,
    history: Rc<RefCell<History>>,
}

impl Script {
    async fn run(mut self, rounds: Vec<Roles>) -> turmoil::Result {
        self.client.wait_for_cluster().await;
        // Seals the ring: from then on the owners are known.
        self.set(0, "first").await;
        let mut numbers = 0..;
        for (number, roles) in (0..).zip(rounds) {
            let begin = BEGIN + ROUND * number;
            let keys: Vec<_> = (&mut numbers)
                .map(|number| format!("blind-{number}"))
                .filter(|key| self.client.owners(key)[..2] == [roles.first, roles.stale])
                .take(KEYS_PER_ROUND)
                .collect();
            self.round(begin, roles, &keys).await;
        }
        let now = clock::now();
        settle(self.client, self.history, now).await
    }

    async fn round(&mut self, begin: Duration, roles: Roles, keys: &[String]) {
        until(begin + SET_AT).await;
        for key in keys {
            self.history.borrow_mut().promise(key, Promise::OneWriter);
            self.set(roles.first, key).await;
        }
        until(begin + CHANGE_AT + Duration::from_millis(1)).await;
        let deadline = begin + TOO_LATE;
        while clock::now() < deadline && !self.is_ready(roles.stale).await {
            sleep(Duration::from_millis(20)).await;
        }
        for key in keys {
            // One that is refused has not happened.
            while clock::now() < deadline && !self.set(roles.stale, key).await {
                sleep(Duration::from_millis(20)).await;
            }
            let other = MACHINES - roles.first - roles.stale;
            for node in [other, roles.stale] {
                self.read(node, key).await;
            }
        }
        until(begin + BACK_AT + Duration::from_secs(1)).await;
    }

    async fn is_ready(&mut self, node: usize) -> bool {
        let probe = get("first", Duration::from_millis(100));
        self.client.get(node, probe).await.is_ok()
    }

    /// Whether it was acknowledged.
    async fn set(&mut self, node: usize, key: &str) -> bool {
        let id = WriteId(self.random.u128(..));
        let (began, blind) = (clock::now(), Replaces::WhatIsThere);
        self.history
            .borrow_mut()
            .begin(id, key, false, blind, began);
        let request = write(key, id, Some(value_of(id)), TIMEOUT);
        let answer = self.client.write(node, request).await;
        self.history.borrow_mut().end(id, &answer, clock::now());
        let outcome = match &answer {
            Ok(_) => "acknowledged".to_owned(),
            Err(failure) => failure.to_string(),
        };
        let line = format!("set {key} to {id:x?} at {}: {outcome}", node + 1);
        self.client.line(&line);
        answer.is_ok()
    }

    async fn read(&mut self, node: usize, key: &str) {
        let began = clock::now();
        let mut request = get(key, TIMEOUT);
        // Also in a cluster that promises less.
        request.r = Some(2);
        let answer = self.client.get(node, request).await;
        let mut history = self.history.borrow_mut();
        history.expect_an_end(&answer, clock::now());
        let shown = match answer {
            Ok(fetched) => {
                let shown = history.on_read(key, &fetched, (began, clock::now()), Heard::Quorum);
                format!("{shown:x?}")
            }
            Err(failure) => failure.to_string(),
        };
        self.client
            .line(&format!("get {key} at {}: {shown}", node + 1));
    }
}

async fn until(moment: Duration) {
    sleep_until(Instant::now() + moment.saturating_sub(clock::now())).await;
}
