//! Machines leave, are removed, are replaced and are reweighed, as an operator asks for it in the midst of everything else.
//!
//! Who has left is started once more afterwards, and has to end again at once.

use std::time::Duration;

use crate::chaos::{self, CHANGING_UNTIL, FAULTS_FROM};
use crate::machine::{Flaw, Quorums};
use crate::operator::{Dies, Order, To};
use crate::plan::{Fault, Plan};
use crate::seeds::{for_each_seed, replayed};
use crate::verdict::{Tally, Verdict};
use crate::world::World;

/// How many seeds `cargo test` runs; `make sim` runs more.
const SEEDS: u64 = 2;

/// When the operator asks for the change, at the earliest and at the latest.
const ASKED_FOR_MS: std::ops::Range<u64> = 4_000..14_000;

/// When a machine is switched off for good.
const OFF_FOR_GOOD_MS: std::ops::Range<u64> = 4_000..9_000;

/// How long after it lost its disk a machine is switched on.
const LOST_FOR: Duration = Duration::from_millis(800);

/// How long after it was asked to leave a machine is off for good.
const DIES_AFTER_MS: std::ops::Range<u64> = 0..6_000;

/// Machines, and what is to become of them.
#[derive(Debug, Clone)]
struct Course {
    /// How many are there from the beginning, and how many may come in besides.
    founders: usize,
    newcomers: usize,
    orders: Vec<Order>,
    /// Who is off for good, from this moment on.
    off: Vec<(usize, Duration)>,
    /// Who of those that stay loses its disk, and when.
    loses_disk: Option<(usize, Duration)>,
    /// Faults are those of machines that are divided, so that nodes stand in for others.
    is_divided: bool,
    quorums: Quorums,
    /// How many zones the machines lie in; 0 where nothing is said of any.
    zones: usize,
}

impl Course {
    fn new(founders: usize) -> Self {
        Self {
            founders,
            newcomers: 0,
            orders: Vec::new(),
            off: Vec::new(),
            loses_disk: None,
            is_divided: false,
            quorums: Quorums::USUAL,
            zones: 0,
        }
    }

    /// The same in two zones or three, for some seeds.
    fn in_zones(mut self, seed: u64) -> Self {
        self.zones = match seed % 4 {
            0 => 2,
            2 => 3,
            _ => 0,
        };
        self
    }

    fn goes(&self, node: usize) -> bool {
        let mut wishes = self.orders.iter().flat_map(|order| &order.wishes);
        wishes.any(|(it, to)| *it == node && matches!(to, To::Leave | To::Remove))
    }

    fn run(self, seed: u64, flaw: Flaw) -> Verdict {
        let machines = self.founders + self.newcomers;
        let (leaving, members) = (0..machines).partition(|node| self.goes(*node));
        let leaving: Vec<usize> = leaving;
        let sizes = (self.founders, machines);
        let place = (self.quorums, self.zones);
        let mut world = World::operated(seed, sizes, place, (members, flaw));
        let (from, until, random) = (FAULTS_FROM, CHANGING_UNTIL, &mut world.fork());
        let mut plan = match self.is_divided {
            true => Plan::divided(machines, from, until, random),
            false => Plan::changing(self.founders, machines, (from, until), random),
        };
        // With w = 1 nobody else need have what is lost with a disk.
        let is_spared = |node: &usize| leaving.contains(node) || self.quorums.w == 1;
        for node in (0..machines).filter(is_spared) {
            plan.spare_disk(node);
        }
        for &(node, at) in &self.off {
            plan.switch_off_for_good(node, at);
        }
        if let Some((node, at)) = self.loses_disk {
            plan.add(at, Fault::LoseDisk { node });
            plan.add(at + LOST_FOR, Fault::Start { node });
            plan.steps.sort_by_key(|step| step.at);
        }
        for node in leaving {
            plan.add(CHANGING_UNTIL, Fault::ComeBack { node });
        }
        chaos::run_operated(world, plan, self.orders)
    }
}

/// What of a course is drawn from its seed. Another generator than that of the world.
fn chance(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed ^ 0x006c_6561_7669_6e67)
}

fn moment(range_ms: std::ops::Range<u64>, random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(random.u64(range_ms))
}

/// So many different machines of these.
fn some_of(founders: usize, count: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let mut all: Vec<_> = (0..founders).collect();
    random.shuffle(&mut all);
    all.truncate(count);
    all
}

/// So many machines leave at once.
pub(crate) fn shrink(founders: usize, members: usize, seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let mut course = Course::new(founders).in_zones(seed);
    let leaving = some_of(founders, founders - members, &mut random);
    let wishes: Vec<_> = leaving.iter().map(|node| (*node, To::Leave)).collect();
    let at = moment(ASKED_FOR_MS, &mut random);
    course.orders.push(Order::new(at, &wishes));
    course.run(seed, flaw)
}

/// Two of five leave, while clients write although owners cannot be reached.
pub(crate) fn shrink_divided(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let mut course = Course::new(5);
    course.is_divided = true;
    let leaving = some_of(5, 2, &mut random);
    let wishes: Vec<_> = leaving.iter().map(|node| (*node, To::Leave)).collect();
    let at = moment(ASKED_FOR_MS, &mut random);
    course.orders.push(Order::new(at, &wishes));
    course.run(seed, flaw)
}

/// Two of five leave, and one that stays loses its disk: not the first, which would found another cluster.
pub(crate) fn shrink_losing_a_disk(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let mut course = Course::new(5);
    let mut chosen = some_of(5, 5, &mut random);
    let first = chosen.iter().position(|node| *node == 0).unwrap_or(0);
    chosen.swap(first, 0);
    let wishes: Vec<_> = chosen[..2].iter().map(|node| (*node, To::Leave)).collect();
    let at = moment(ASKED_FOR_MS, &mut random);
    course.orders.push(Order::new(at, &wishes));
    let lost = at + moment(DIES_AFTER_MS, &mut random);
    course.loses_disk = Some((chosen[2], lost));
    course.run(seed, flaw)
}

/// One comes in and another one goes, in a smaller or a larger cluster.
pub(crate) fn replace(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let founders = if random.bool() { 3 } else { 5 };
    let mut course = Course::new(founders).in_zones(seed);
    course.newcomers = 1;
    let at = moment(ASKED_FOR_MS, &mut random);
    let goes = random.usize(..founders);
    let wishes = [(founders, To::Join), (goes, To::Leave)];
    course.orders.push(Order::new(at, &wishes));
    course.run(seed, flaw)
}

/// One is off for good, and removed; or another one comes in for it.
pub(crate) fn remove(newcomers: usize, seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let founders = if random.bool() { 3 } else { 5 };
    let mut course = Course::new(founders).in_zones(seed);
    course.newcomers = newcomers;
    let goes = random.usize(..founders);
    let off = moment(OFF_FOR_GOOD_MS, &mut random);
    course.off.push((goes, off));
    let joins = (founders..founders + newcomers).map(|node| (node, To::Join));
    let wishes: Vec<_> = joins.chain([(goes, To::Remove)]).collect();
    course.orders.push(Order::new(off, &wishes));
    course.run(seed, flaw)
}

/// Of three or four two are off for good, so that no majority is left, and one of the others goes on by force. With w = 3
/// it has all that was acknowledged of what it owns.
pub(crate) fn force(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let founders = random.usize(3..=4);
    let mut course = Course::new(founders);
    course.quorums = Quorums::new(3, 3, 1);
    let off = moment(OFF_FOR_GOOD_MS, &mut random);
    let gone = some_of(founders, 2, &mut random);
    course.off = gone.iter().map(|node| (*node, off)).collect();
    let wishes: Vec<_> = gone.iter().map(|node| (*node, To::Remove)).collect();
    let mut order = Order::new(off, &wishes);
    order.is_forced = true;
    course.orders.push(order);
    course.run(seed, flaw)
}

/// One is to leave, and is off for good soon after that was asked for.
pub(crate) fn die(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let founders = if random.bool() { 3 } else { 5 };
    let mut course = Course::new(founders);
    let at = moment(ASKED_FOR_MS, &mut random);
    let goes = random.usize(..founders);
    let off = at + moment(DIES_AFTER_MS, &mut random);
    course.off.push((goes, off));
    let mut order = Order::new(at, &[(goes, To::Leave)]);
    order.dies = Some(match random.bool() {
        true => Dies::Told,
        false => Dies::Untold,
    });
    course.orders.push(order);
    course.run(seed, flaw)
}

/// One weighs twice as much, and then as before.
pub(crate) fn reweigh(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let mut course = Course::new(5);
    let node = random.usize(..5);
    let at = moment(ASKED_FOR_MS, &mut random);
    for weight in [2, 1] {
        let order = Order::new(at, &[(node, To::Weigh(weight))]);
        course.orders.push(order);
    }
    course.run(seed, flaw)
}

/// One lies in another zone, and then where it lay.
pub(crate) fn rezone(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let mut course = Course::new(5);
    course.zones = random.usize(2..=3);
    let node = random.usize(..5);
    let own = node % course.zones;
    let at = moment(ASKED_FOR_MS, &mut random);
    for zone in [(own + 1) % course.zones, own] {
        let order = Order::new(at, &[(node, To::LieIn(zone))]);
        course.orders.push(order);
    }
    course.run(seed, flaw)
}

/// N, W and R with which a change waits for others than usual: with w = 1 or r = 1 for every old owner.
const OTHER_QUORUMS: [Quorums; 5] = [
    Quorums::new(3, 3, 1),
    Quorums::new(3, 1, 3),
    Quorums::new(2, 2, 1),
    Quorums::new(2, 1, 2),
    Quorums::new(5, 3, 3),
];

/// One comes in, one goes, or both, where N, W and R are others.
pub(crate) fn otherwise(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let quorums = OTHER_QUORUMS[seed as usize % OTHER_QUORUMS.len()];
    let founders = usize::from(quorums.n) + random.usize(..2);
    let mut course = Course::new(founders).in_zones(seed / 2);
    course.quorums = quorums;
    let goes = random.usize(..founders);
    let (joins, leaves) = ((founders, To::Join), (goes, To::Leave));
    let wishes = match random.u8(..3) {
        0 => vec![joins],
        1 => vec![leaves],
        _ => vec![joins, leaves],
    };
    course.newcomers = usize::from(wishes.contains(&joins));
    let at = moment(ASKED_FOR_MS, &mut random);
    course.orders.push(Order::new(at, &wishes));
    course.run(seed, flaw)
}

/// A change is given up as soon as it has begun, and asked for again.
pub(crate) fn give_up(seed: u64, flaw: Flaw) -> Verdict {
    let mut random = chance(seed);
    let mut course = Course::new(5);
    let at = moment(ASKED_FOR_MS, &mut random);
    let goes = random.usize(..5);
    let mut order = match random.bool() {
        true => Order::new(at, &[(goes, To::Leave)]),
        false => {
            course.newcomers = 1;
            Order::new(at, &[(5, To::Join), (goes, To::Leave)])
        }
    };
    order.is_given_up = true;
    course.orders.push(order);
    course.run(seed, flaw)
}

/// All is well, the ring has come so far, and so many nodes have ended because it does without them, each of them twice.
fn changed(rings: u64, gone: u64, verdict: Verdict) -> Result<Tally, String> {
    let (version, removals) = (verdict.ring_version, verdict.removals);
    let tally = verdict.into_result()?;
    if version < rings {
        return Err(format!("ring {version} is none that has changed"));
    }
    if removals < 2 * gone {
        return Err(format!("nodes ended {removals} times as taken out"));
    }
    match tally.acknowledged >= 20 && tally.reads >= 50 {
        true => Ok(tally),
        false => Err(format!("not enough came of it: {tally}")),
    }
}

/// How many members become how many, where each key has fewer copies afterwards.
const FEWER_COPIES: [(usize, usize); 4] = [(3, 2), (5, 2), (5, 1), (4, 2)];

/// The least version after one change: three members at least found, the first write seals, and a change is three rings.
const ONE_CHANGE: u64 = 3 + 1 + 3;

#[test]
fn five_machines_become_three_and_nothing_is_lost() {
    let test = "five_machines_become_three_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE + 2, 2, shrink(5, 3, seed, Flaw::None))
    });
}

#[test]
fn three_machines_become_one_and_nothing_is_lost() {
    let test = "three_machines_become_one_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE, 2, shrink(3, 1, seed, Flaw::None))
    });
}

#[test]
fn fewer_copies_are_left_and_nothing_is_lost() {
    let test = "fewer_copies_are_left_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        let (founders, members) = FEWER_COPIES[seed as usize % FEWER_COPIES.len()];
        let gone = (founders - members) as u64;
        changed(
            ONE_CHANGE,
            gone,
            shrink(founders, members, seed, Flaw::None),
        )
    });
}

#[test]
fn one_machine_comes_in_for_another_and_nothing_is_lost() {
    let test = "one_machine_comes_in_for_another_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE, 1, replace(seed, Flaw::None))
    });
}

#[test]
fn a_dead_machine_is_removed_and_nothing_is_lost() {
    let test = "a_dead_machine_is_removed_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE, 0, remove(0, seed, Flaw::None))
    });
}

#[test]
fn a_dead_machine_is_replaced_and_nothing_is_lost() {
    let test = "a_dead_machine_is_replaced_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE, 0, remove(1, seed, Flaw::None))
    });
}

#[test]
fn a_weight_goes_up_and_down_and_nothing_is_lost() {
    let test = "a_weight_goes_up_and_down_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE + 2 + 3, 0, reweigh(seed, Flaw::None))
    });
}

#[test]
fn a_machine_changes_its_zone_and_nothing_is_lost() {
    let test = "a_machine_changes_its_zone_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE + 2 + 3, 0, rezone(seed, Flaw::None))
    });
}

#[test]
fn those_that_are_left_go_on_by_force_and_nothing_is_lost() {
    let test = "those_that_are_left_go_on_by_force_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE, 0, force(seed, Flaw::None))
    });
}

#[test]
fn members_change_under_other_quorums_and_nothing_is_lost() {
    let test = "members_change_under_other_quorums_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        // Two nodes found, one seals, and a change is three rings.
        changed(2 + 1 + 3, 0, otherwise(seed, Flaw::None))
    });
}

/// Where it could not be given up any more it went on, and nothing was left to be asked for.
#[test]
fn a_change_is_given_up_and_nothing_is_lost() {
    let test = "a_change_is_given_up_and_nothing_is_lost";
    let given_up = std::cell::Cell::new(0);
    for_each_seed(SEEDS, test, |seed| {
        let verdict = give_up(seed, Flaw::None);
        given_up.set(given_up.get() + verdict.given_up);
        changed(ONE_CHANGE + 2, 1, verdict)
    });
    assert!(given_up.get() > 0 || replayed().is_some());
}

#[test]
fn who_dies_while_it_leaves_is_not_waited_for_and_nothing_is_lost() {
    let test = "who_dies_while_it_leaves_is_not_waited_for_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE, 0, die(seed, Flaw::None))
    });
}

#[test]
fn a_disk_is_lost_while_machines_leave_and_nothing_is_lost() {
    let test = "a_disk_is_lost_while_machines_leave_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE + 2, 2, shrink_losing_a_disk(seed, Flaw::None))
    });
}

#[test]
fn who_stands_in_for_others_leaves_and_nothing_is_lost() {
    let test = "who_stands_in_for_others_leaves_and_nothing_is_lost";
    for_each_seed(SEEDS, test, |seed| {
        changed(ONE_CHANGE + 2, 2, shrink_divided(seed, Flaw::None))
    });
}
