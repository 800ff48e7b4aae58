//! Writes without a context, one after the other, through any node, while owners of their keys miss some of
//! them: by plans that are made for it, and by random ones under other quorums.
//!
//! In a round the owners of some fresh keys are, in this order, *first*, *second* and others. One of them
//! is off while each key is set; when it is back, each key is set or deleted at once, before anybody has
//! mended its copy.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::blind_writer::{BlindWriter, Ended};
use crate::chaos::{FAULTS_FROM, FAULTS_UNTIL, SETTLE_FROM, WORK_UNTIL};
use crate::clock;
use crate::history::History;
use crate::machine::{Flaw, Quorums, machine_name};
use crate::plan::{Fault, Plan};
use crate::seeds::{for_each_seed, replayed};
use crate::settle::settle;
use crate::verdict::{Tally, Verdict};
use crate::world::World;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 4;

const ROUNDS: usize = 4;
const KEYS_PER_ROUND: usize = 12;

/// When the first round begins, and how long one takes.
const BEGIN: Duration = Duration::from_secs(4);
const ROUND: Duration = Duration::from_secs(10);

/// In a round: when the keys are set for the first time, when who was off comes back, when all are back.
const SET_AT: Duration = Duration::from_millis(600);
const CHANGE_AT: Duration = Duration::from_millis(3500);
/// Until when they are set: at first nodes wait for the one that has gone off.
const LATEST_SET_AT: Duration = Duration::from_millis(2900);

/// When another one loses its disk.
const LOST_AT: Duration = Duration::from_millis(3200);
const BACK_AT: Duration = Duration::from_millis(7000);

/// From then on copies may have been compared, and the round proves nothing any more.
const TOO_LATE: Duration = Duration::from_millis(5500);

const TIMEOUT: Duration = Duration::from_millis(1800);

/// Enough for two owners, one after the other, each slower than a node waits before it tries the next.
const LONG_TIMEOUT: Duration = Duration::from_millis(4500);

/// What becomes of the owners in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    /// The second misses the first writes; then it is back and the first one goes off, so that the next writes
    /// go through the second.
    OfTheSecond,
    /// The first one misses the first writes, and the next ones go through it, as soon as it is back.
    OfTheFirst,
    /// The same, and it comes back with an empty disk.
    OfTheFirstAndItsDisk,
    /// The first one misses the first writes, and when it comes back the second one has lost its disk.
    OfTheFirstThenTheDiskOfTheSecond,
    /// The same, and the last of three goes off: nobody who has a vote has the first writes, and whoever has lost
    /// them cannot fetch them back.
    OfAllWhoHaveIt,
}

/// A round: who is the first and the second owner of its keys.
#[derive(Debug, Clone, Copy)]
struct Roles {
    first: usize,
    second: usize,
}

#[test]
fn who_stands_in_replaces_what_it_has_missed() {
    expect_rounds_to_hold(
        "who_stands_in_replaces_what_it_has_missed",
        Outage::OfTheSecond,
        (3, Quorums::USUAL),
    );
}

#[test]
fn who_comes_back_replaces_what_it_has_missed() {
    expect_rounds_to_hold(
        "who_comes_back_replaces_what_it_has_missed",
        Outage::OfTheFirst,
        (3, Quorums::USUAL),
    );
}

#[test]
fn who_comes_back_in_a_cluster_of_five_replaces_what_it_has_missed() {
    expect_rounds_to_hold(
        "who_comes_back_in_a_cluster_of_five_replaces_what_it_has_missed",
        Outage::OfTheFirst,
        (5, Quorums::USUAL),
    );
}

#[test]
fn one_of_five_owners_that_comes_back_replaces_what_it_has_missed() {
    expect_rounds_to_hold(
        "one_of_five_owners_that_comes_back_replaces_what_it_has_missed",
        Outage::OfTheFirst,
        (5, Quorums::new(5, 3, 3)),
    );
}

#[test]
fn who_has_lost_its_disk_replaces_what_it_has_forgotten() {
    expect_rounds_to_hold(
        "who_has_lost_its_disk_replaces_what_it_has_forgotten",
        Outage::OfTheFirstAndItsDisk,
        (3, Quorums::USUAL),
    );
}

#[test]
fn who_is_rebuilding_vouches_for_nothing() {
    expect_rounds_to_hold(
        "who_is_rebuilding_vouches_for_nothing",
        Outage::OfTheFirstThenTheDiskOfTheSecond,
        (3, Quorums::USUAL),
    );
}

#[test]
fn while_all_who_have_it_are_away_nobody_speaks_for_them() {
    expect_rounds_to_hold(
        "while_all_who_have_it_are_away_nobody_speaks_for_them",
        Outage::OfAllWhoHaveIt,
        (3, Quorums::USUAL),
    );
}

#[test]
fn an_owner_that_was_given_up_has_no_say() {
    for_each_seed(SEEDS, "an_owner_that_was_given_up_has_no_say", |seed| {
        given_up(seed, Flaw::None).into_result()
    });
}

#[test]
fn links_that_stall_undo_nothing() {
    let test = "links_that_stall_undo_nothing";
    for_each_seed(SEEDS, test, |seed| {
        enough(stalling(5, Quorums::USUAL, seed, Flaw::None))
    });
}

#[test]
fn faults_undo_nothing_where_one_owner_acknowledges() {
    random_faults_undo_nothing(
        "faults_undo_nothing_where_one_owner_acknowledges",
        (3, Quorums::new(3, 1, 3)),
    );
}

#[test]
fn faults_undo_nothing_where_one_owner_is_read() {
    random_faults_undo_nothing(
        "faults_undo_nothing_where_one_owner_is_read",
        (3, Quorums::new(3, 3, 1)),
    );
}

#[test]
fn faults_undo_nothing_where_three_of_five_owners_acknowledge() {
    random_faults_undo_nothing(
        "faults_undo_nothing_where_three_of_five_owners_acknowledge",
        (5, Quorums::new(5, 3, 3)),
    );
}

#[test]
fn faults_undo_nothing_where_two_of_five_owners_acknowledge() {
    random_faults_undo_nothing(
        "faults_undo_nothing_where_two_of_five_owners_acknowledge",
        (5, Quorums::new(5, 2, 4)),
    );
}

fn random_faults_undo_nothing(test: &str, (machines, quorums): (usize, Quorums)) {
    for_each_seed(SEEDS, test, |seed| {
        enough(random(machines, quorums, seed, Flaw::None))
    });
}

/// A run in which nothing succeeds would prove nothing.
fn enough(verdict: Verdict) -> Result<Tally, String> {
    let tally = verdict.into_result()?;
    match tally.acknowledged >= 40 && tally.reads >= 80 {
        true => Ok(tally),
        false => Err(format!("not enough came of it: {tally}")),
    }
}

fn expect_rounds_to_hold(test: &str, outage: Outage, cluster: (usize, Quorums)) {
    let total = for_each_seed(SEEDS, test, |seed| {
        rounds(outage, cluster, seed, Flaw::None).into_result()
    });
    let expected = ROUNDS * KEYS_PER_ROUND;
    assert!(
        total.acknowledged > expected || replayed().is_some(),
        "little was written: {total}"
    );
}

/// Runs one seed with faults of every kind.
pub(crate) fn random(machines: usize, quorums: Quorums, seed: u64, flaw: Flaw) -> Verdict {
    run_with(machines, quorums, seed, flaw, |random| {
        match random.u8(..3) {
            0 => Plan::with_lost_disk(machines, FAULTS_FROM, FAULTS_UNTIL, random),
            _ => Plan::random(machines, FAULTS_FROM, FAULTS_UNTIL, random),
        }
    })
}

/// Runs one seed with links that carry nothing for a while, and then all of it.
pub(crate) fn stalling(machines: usize, quorums: Quorums, seed: u64, flaw: Flaw) -> Verdict {
    run_with(machines, quorums, seed, flaw, |random| {
        Plan::stalling(machines, FAULTS_FROM, FAULTS_UNTIL, random)
    })
}

fn run_with(
    machines: usize,
    quorums: Quorums,
    seed: u64,
    flaw: Flaw,
    plan: impl FnOnce(&mut fastrand::Rng) -> Plan,
) -> Verdict {
    let mut world = World::with_quorums(seed, machines, quorums, flaw);
    let plan = plan(&mut world.fork());
    let history = Rc::new(RefCell::new(History::default()));
    for number in 1..=3 {
        let (random, history) = (world.fork(), history.clone());
        let name = format!("blind-{number}");
        world.add_client(&name.clone(), |client| {
            let writer = BlindWriter::new(&name, client, random, history, Some(quorums.r));
            writer.run(WORK_UNTIL)
        });
    }
    world.add_client("reader", |client| {
        settle(client, history.clone(), SETTLE_FROM)
    });
    Verdict::of(world, &plan, &history)
}

/// Runs one seed of rounds of this kind.
pub(crate) fn rounds(
    outage: Outage,
    (machines, quorums): (usize, Quorums),
    seed: u64,
    flaw: Flaw,
) -> Verdict {
    let mut world = World::with_quorums(seed, machines, quorums, flaw);
    let mut random = world.fork();
    let (mut plan, mut rounds) = (Plan::default(), Vec::new());
    for number in 0..ROUNDS {
        let (first, second) = loop {
            let first = random.usize(..machines);
            let second = (first + random.usize(1..machines)) % machines;
            let loses_its_disk = match outage {
                Outage::OfTheFirstAndItsDisk => Some(first),
                Outage::OfTheFirstThenTheDiskOfTheSecond | Outage::OfAllWhoHaveIt => Some(second),
                Outage::OfTheSecond | Outage::OfTheFirst => None,
            };
            // The first machine would found another cluster without its disk.
            if loses_its_disk != Some(0) {
                break (first, second);
            }
        };
        rounds.push(Roles { first, second });
        let at = BEGIN + ROUND * number as u32;
        add_round(&mut plan, at, outage, Roles { first, second }, &mut random);
    }
    let history = Rc::new(RefCell::new(History::default()));
    world.add_client("script", |client| {
        let writer = BlindWriter::new("script", client, random, history.clone(), Some(quorums.r));
        let script = Script { writer, machines };
        script.run(rounds, outage)
    });
    Verdict::of(world, &plan, &history)
}

fn add_round(
    plan: &mut Plan,
    at: Duration,
    outage: Outage,
    roles: Roles,
    random: &mut fastrand::Rng,
) {
    let Roles { first, second } = roles;
    let cut = |node| Fault::PowerCut {
        node,
        kept_percent: 100,
        is_malicious: false,
    };
    match outage {
        Outage::OfTheSecond => {
            plan.add(at, cut(second));
            plan.add(at + CHANGE_AT, Fault::Start { node: second });
            plan.add(at + CHANGE_AT, cut(first));
            plan.add(at + BACK_AT, Fault::Start { node: first });
        }
        Outage::OfTheFirst => {
            let is_stopped = random.bool();
            let off = match is_stopped {
                true => Fault::Stop { node: first },
                false => cut(first),
            };
            plan.add(at, off);
            plan.add(at + CHANGE_AT, Fault::Start { node: first });
        }
        Outage::OfTheFirstThenTheDiskOfTheSecond | Outage::OfAllWhoHaveIt => {
            plan.add(at, cut(first));
            plan.add(at + LOST_AT, Fault::LoseDisk { node: second });
            if let Some(third) = third_of(outage, roles) {
                plan.add(at + CHANGE_AT, cut(third));
            }
            plan.add(at + CHANGE_AT, Fault::Start { node: second });
            plan.add(at + CHANGE_AT, Fault::Start { node: first });
            if let Some(third) = third_of(outage, roles) {
                plan.add(at + BACK_AT, Fault::Start { node: third });
            }
        }
        Outage::OfTheFirstAndItsDisk => {
            plan.add(at, Fault::LoseDisk { node: first });
            plan.add(at + CHANGE_AT, Fault::Start { node: first });
        }
    }
}

/// The last owner of three, where it goes off.
fn third_of(outage: Outage, roles: Roles) -> Option<usize> {
    (outage == Outage::OfAllWhoHaveIt).then(|| 3 - roles.first - roles.second)
}

struct Script {
    writer: BlindWriter,
    machines: usize,
}

impl Script {
    async fn run(mut self, rounds: Vec<Roles>, outage: Outage) -> turmoil::Result {
        self.writer.client.wait_for_cluster().await;
        // Seals the ring: from then on the owners are known.
        self.writer.promise("first");
        self.writer.write(0, "first", false, TIMEOUT).await;
        let mut numbers = 0..;
        for (number, roles) in (0..).zip(rounds) {
            let begin = BEGIN + ROUND * number;
            let keys = self.keys(&mut numbers, roles);
            self.round(begin, roles, outage, &keys).await;
        }
        let now = clock::now();
        settle(self.writer.client, self.writer.history, now).await
    }

    fn keys(&self, numbers: &mut std::ops::RangeFrom<usize>, roles: Roles) -> Vec<String> {
        let owners = [roles.first, roles.second];
        let is_of_round = |key: &String| self.writer.client.owners(key)[..2] == owners;
        let keys = numbers.map(|number| format!("key-{number}"));
        keys.filter(is_of_round).take(KEYS_PER_ROUND).collect()
    }

    async fn round(&mut self, begin: Duration, roles: Roles, outage: Outage, keys: &[String]) {
        let (off, goes_off) = match outage {
            Outage::OfTheSecond => (roles.second, Some(roles.first)),
            Outage::OfTheFirst
            | Outage::OfTheFirstAndItsDisk
            | Outage::OfTheFirstThenTheDiskOfTheSecond
            | Outage::OfAllWhoHaveIt => (roles.first, third_of(outage, roles)),
        };
        until(begin + SET_AT).await;
        for key in keys {
            self.writer.promise(key);
            let deadline = begin + LATEST_SET_AT;
            self.write_until(deadline, key, false, |node| node != off)
                .await;
        }
        until(begin + CHANGE_AT + Duration::from_millis(1)).await;
        for key in keys {
            let is_delete = self.writer.random.bool();
            let is_up = |node| Some(node) != goes_off;
            self.write_until(begin + TOO_LATE, key, is_delete, is_up)
                .await;
            for _ in 0..2 {
                let node = self.any(is_up);
                self.writer.read(node, key).await;
            }
        }
        until(begin + BACK_AT + Duration::from_secs(1)).await;
    }

    /// Tries until it is taken; one that is refused has not happened.
    async fn write_until(
        &mut self,
        deadline: Duration,
        key: &str,
        is_delete: bool,
        is_up: impl Fn(usize) -> bool,
    ) {
        while clock::now() < deadline {
            let node = self.any(&is_up);
            let ended = self.writer.write(node, key, is_delete, TIMEOUT).await;
            if ended == Ended::Acknowledged {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn any(&mut self, is_meant: impl Fn(usize) -> bool) -> usize {
        let machines: Vec<_> = (0..self.machines).filter(|it| is_meant(*it)).collect();
        machines[self.writer.random.usize(..machines.len())]
    }
}

/// Runs one seed in which a node that owns nothing of a key hands a put on to the first owner, gives it up
/// after a second, and hands it on to the next, which gets it later still. Meanwhile the first owner has
/// done it. Whoever has the acknowledgement deletes the key.
pub(crate) fn given_up(seed: u64, flaw: Flaw) -> Verdict {
    let mut world = World::new(seed, 5, flaw);
    let random = world.fork();
    let history = Rc::new(RefCell::new(History::default()));
    world.add_client("script", |client| {
        let writer = BlindWriter::new("script", client, random, history.clone(), None);
        give_up(writer)
    });
    Verdict::of(world, &Plan::default(), &history)
}

async fn give_up(mut writer: BlindWriter) -> turmoil::Result {
    let hold = |a, b| turmoil::hold(machine_name(a), machine_name(b));
    let release = |a, b| turmoil::release(machine_name(a), machine_name(b));
    writer.client.wait_for_cluster().await;
    writer.promise("first");
    writer.write(0, "first", false, TIMEOUT).await;
    until(BEGIN).await;
    for number in 0..6 {
        let key = format!("key-{number}");
        writer.promise(&key);
        let owners = writer.client.owners(&key);
        let (first, second, third) = (owners[0], owners[1], owners[2]);
        let forwarder = (0..5).find(|node| !owners.contains(node));
        let forwarder = forwarder.expect("five nodes, three owners");
        // The first owner gets it, and no answers; the second one does not even get it.
        for (a, b) in [
            (first, second),
            (first, third),
            (forwarder, second),
            (second, third),
        ] {
            hold(a, b);
        }
        let answered_ms = 1000 + writer.random.u64(..300);
        let arrives_ms = answered_ms + writer.random.u64(200..600);
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let links = async {
            sleep_until(at(answered_ms)).await;
            release(first, third);
            sleep_until(at(arrives_ms)).await;
            release(forwarder, second);
            release(second, third);
            sleep_until(at(arrives_ms + 300)).await;
            release(first, second);
        };
        let work = async {
            let ended = writer.write(forwarder, &key, false, LONG_TIMEOUT).await;
            if ended == Ended::Acknowledged {
                writer.write(first, &key, true, LONG_TIMEOUT).await;
            }
            writer.read(third, &key).await;
        };
        tokio::join!(links, work);
        sleep(Duration::from_millis(500)).await;
        writer.read(second, &key).await;
    }
    let now = clock::now();
    settle(writer.client, writer.history, now).await
}

async fn until(moment: Duration) {
    sleep_until(Instant::now() + moment.saturating_sub(clock::now())).await;
}
