//! What a run comes to.

use std::cell::RefCell;
use std::fmt;
use std::ops::AddAssign;

use crate::history::History;
use crate::invariants::{Violation, bounded, change_ends, convergence};
use crate::plan::Plan;
use crate::seeds;
use crate::trace::Trace;
use crate::world::World;

/// What came of a seed.
pub(crate) struct Verdict {
    plan: String,
    pub(crate) violations: Vec<Violation>,
    /// The newest ring at the end.
    pub(crate) ring_version: u64,
    /// How often a node ended because the ring does without it.
    pub(crate) removals: u64,
    /// How many changes of the ring were given up as it was asked for.
    pub(crate) given_up: u64,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
}

/// How much happened in one run, or in many: that nothing broke says little where nothing happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// How many writes were acknowledged.
    pub(crate) acknowledged: usize,
    /// How many of them took nodes that stand in.
    pub(crate) sloppy: usize,
    /// How many reads were held against the history.
    pub(crate) reads: usize,
    /// How many dots were seen.
    pub(crate) dots: usize,
    /// How many faults there were, their ends included.
    pub(crate) faults: usize,
    /// How many applied mutations power cuts have undone.
    pub(crate) undone: usize,
    /// How many messages were sent twice.
    pub(crate) resent: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.sloppy += other.sloppy;
        self.reads += other.reads;
        self.dots += other.dots;
        self.faults += other.faults;
        self.undone += other.undone;
        self.resent += other.resent;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acknowledged,
            sloppy,
            reads,
            dots,
            faults,
            undone,
            resent,
        } = self;
        write!(
            f,
            "{acknowledged} writes acknowledged ({sloppy} sloppy), {reads} reads and {dots} dots checked, {faults} faults, \
             {undone} mutations undone by power cuts, {resent} merges sent twice"
        )
    }
}

impl Verdict {
    /// Runs the world to its end, and looks at what it left.
    pub(crate) fn of(world: World, plan: &Plan, history: &RefCell<History>) -> Self {
        Self::reached(world, plan, history, true)
    }

    /// The same, where values were damaged: what replaced them leaves the hashes of their segments wrong.
    pub(crate) fn of_damaged(world: World, plan: &Plan, history: &RefCell<History>) -> Self {
        Self::reached(world, plan, history, false)
    }

    fn reached(
        mut world: World,
        plan: &Plan,
        history: &RefCell<History>,
        with_hashes: bool,
    ) -> Self {
        let machines = world.machines.iter();
        let machines: String = machines.map(|it| format!("           {it}\n")).collect();
        let text = format!("{machines}{plan}");
        if seeds::replayed().is_some() {
            println!("the plan:\n{text}");
        }
        let end = world.run(plan, history);
        let mut history = history.borrow_mut();
        if let Some(what) = bounded::check_run(end, world.panics()) {
            history.violate(bounded::NAME, what);
        } else {
            expect_equal_disks(&world, &mut history, with_hashes);
            let missed = world.owners.missed().into_iter();
            for what in missed.chain(world.owners.outstaying()) {
                history.violate(change_ends::NAME, what);
            }
        }
        let verdict = Self {
            plan: text,
            violations: history.violations().to_vec(),
            ring_version: world.owners.newest().0,
            given_up: world.owners.given_up.get(),
            removals: world.machines.iter().map(|it| it.removals()).sum(),
            trace: world.trace.clone(),
            tally: Tally {
                acknowledged: history.acknowledged(),
                sloppy: history.sloppy(),
                reads: history.reads(),
                dots: history.dots.len(),
                faults: plan.steps.len(),
                undone: world.undone(),
                resent: world.machines.iter().map(|it| it.resent()).sum(),
            },
        };
        if seeds::replayed().is_some() {
            println!("what happened:\n{}", verdict.trace.tail());
            println!("\nthe verdict: {}\n", verdict.summary());
        }
        verdict
    }

    fn summary(&self) -> String {
        let (tally, hash) = (&self.tally, self.trace.hash());
        let broken = match self.violations.len() {
            0 => "no violation".to_owned(),
            count => format!("{count} VIOLATIONS"),
        };
        format!("{broken}; {tally}; trace {hash:016x}")
    }

    /// All is well, or a report for people.
    pub(crate) fn into_result(self) -> Result<Tally, String> {
        if self.violations.is_empty() {
            return Ok(self.tally);
        }
        let list: Vec<_> = self
            .violations
            .iter()
            .map(|violation| format!("{}: {}", violation.invariant, violation.what))
            .collect();
        let list = list.join("\n");
        if seeds::replayed().is_some() {
            return Err(format!("broken:\n{list}"));
        }
        let (plan, tail) = (self.plan, self.trace.tail());
        Err(format!(
            "the plan:\n{plan}\nthe end:\n{tail}\n\nbroken:\n{list}"
        ))
    }
}

/// At the very end all owners hold the same.
fn expect_equal_disks(world: &World, history: &mut History, with_hashes: bool) {
    for key in history.keys() {
        let owners = world.owners.or_all(&key).into_iter();
        let copies = owners.map(|owner| world.machines[owner].copy(&key, with_hashes));
        if let Some(what) = convergence::check(&key, &copies.collect::<Vec<_>>()) {
            history.violate(convergence::NAME, format!("at the end, {what}"));
        }
    }
}
