//! A node is cut off: the others go on, it refuses, and it catches up.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dynakv_protocol::ErrorCode;
use dynakv_protocol::ids::WriteId;
use tokio::time::sleep;

use crate::client::{Answer, Client, Failure, get, write};
use crate::clock;
use crate::history::{History, Replaces, Writes, value_of};
use crate::invariants::Heard;
use crate::machine::{Flaw, machine_name};
use crate::plan::Plan;
use crate::seeds::for_each_seed;
use crate::settle::settle;
use crate::verdict::Verdict;
use crate::world::World;

const MACHINES: usize = 3;

/// The one that is cut off.
const ALONE: usize = 2;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than it takes to give up a silent link, and to hold a silent node for dead.
const CUT_FOR: Duration = Duration::from_secs(12);

const KEYS: usize = 12;

#[test]
fn a_majority_serves_through_a_partition_and_the_rest_catches_up() {
    let test = "a_majority_serves_through_a_partition_and_the_rest_catches_up";
    for_each_seed(3, test, |seed| {
        let mut world = World::new(seed, MACHINES, Flaw::None);
        let history = Rc::new(RefCell::new(History::default()));
        let random = world.fork();
        world.add_client("script", |client| script(client, random, history.clone()));
        let verdict = Verdict::of(world, &Plan::default(), &history);
        if verdict.violations.is_empty() {
            let acknowledged = verdict.tally.acknowledged;
            assert!(acknowledged >= 60, "only {acknowledged} writes were served");
        }
        verdict.into_result()
    });
}

async fn script(
    mut client: Client,
    random: fastrand::Rng,
    history: Rc<RefCell<History>>,
) -> turmoil::Result {
    client.wait_for_cluster().await;
    let mut script = Script {
        client,
        random,
        history,
    };
    for number in 0..KEYS {
        let answer = script.update(number % MACHINES, &key(number)).await;
        assert!(answer.is_ok(), "before the partition: {answer:?}");
    }

    for other in (0..MACHINES).filter(|other| *other != ALONE) {
        turmoil::partition(machine_name(ALONE), machine_name(other));
    }
    let end = clock::now() + CUT_FOR;
    let mut turn = 0;
    while clock::now() < end {
        let (node, number) = (turn % 2, turn % KEYS);
        let answer = script.update(node, &key(number)).await;
        assert!(answer.is_ok(), "at node {}: {answer:?}", node + 1);
        let answer = script.set(node, &key(number)).await;
        assert!(answer.is_ok(), "at node {}: {answer:?}", node + 1);
        if turn % 20 == 0 {
            expect_refusal(script.set(ALONE, &key(number)).await);
            expect_refusal(script.read(ALONE, &key(number)).await);
        }
        turn += 1;
        sleep(Duration::from_millis(50)).await;
    }

    for other in (0..MACHINES).filter(|other| *other != ALONE) {
        turmoil::repair(machine_name(ALONE), machine_name(other));
    }
    let Script {
        client, history, ..
    } = script;
    let now = clock::now();
    settle(client, history, now).await
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// One node of three is no quorum, and says so, or that nobody answered in time.
fn expect_refusal<T: std::fmt::Debug>(answer: Answer<T>) {
    match answer {
        Err(Failure::Refused(error))
            if matches!(
                error.code,
                ErrorCode::QuorumUnavailable | ErrorCode::Timeout
            ) => {}
        other => panic!("the node that is alone answered {other:?}"),
    }
}

struct Script {
    client: Client,
    random: fastrand::Rng,
    history: Rc<RefCell<History>>,
}

impl Script {
    /// Reads, and writes with the context of that read.
    async fn update(&mut self, node: usize, key: &str) -> Answer<()> {
        let (writes, context) = self.read(node, key).await?;
        let replaces = Replaces::Read(writes.into_iter().collect());
        self.write(node, key, replaces, Some(context)).await
    }

    /// Writes blindly.
    async fn set(&mut self, node: usize, key: &str) -> Answer<()> {
        self.write(node, key, Replaces::WhatIsThere, None).await
    }

    async fn read(&mut self, node: usize, key: &str) -> Answer<(Writes, Bytes)> {
        let began = clock::now();
        let answer = self.client.get(node, get(key, TIMEOUT)).await;
        let mut history = self.history.borrow_mut();
        history.expect_an_end(&answer, clock::now());
        let fetched = answer?;
        let writes = history.on_read(key, &fetched, (began, clock::now()), Heard::Quorum);
        Ok((writes, fetched.context))
    }

    async fn write(
        &mut self,
        node: usize,
        key: &str,
        replaces: Replaces,
        context: Option<Bytes>,
    ) -> Answer<()> {
        let id = WriteId(self.random.u128(..));
        let mut request = write(key, id, Some(value_of(id)), TIMEOUT);
        request.context = context;
        let now = clock::now();
        self.history
            .borrow_mut()
            .begin(id, key, false, replaces, now);
        let answer = self.client.write(node, request).await;
        self.history.borrow_mut().end(id, &answer, clock::now());
        answer.map(|_| ())
    }
}
