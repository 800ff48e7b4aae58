//! What a run comes to.

use crate::history::{History, Violation};
use crate::plan::Plan;
use crate::trace::Trace;
use crate::world::World;

/// What came of a seed.
pub(crate) struct Verdict {
    plan: Plan,
    pub(crate) violations: Vec<Violation>,
    pub(crate) trace: Trace,
    /// How many writes were acknowledged.
    pub(crate) acknowledged: usize,
    /// How many reads were held against the history.
    pub(crate) reads: usize,
    /// How many applied mutations power cuts have undone.
    pub(crate) undone: usize,
}

impl Verdict {
    /// Runs the world to its end, and looks at what it left.
    pub(crate) fn of(mut world: World, plan: Plan, history: &std::cell::RefCell<History>) -> Self {
        let end = world.run(&plan);
        let mut history = history.borrow_mut();
        match end {
            Ok(()) => expect_equal_disks(&world, &mut history),
            Err(error) => history.violate("bounded", error),
        }
        Self {
            plan,
            violations: history.violations().to_vec(),
            trace: world.trace.clone(),
            acknowledged: history.acknowledged(),
            reads: history.reads(),
            undone: world.undone(),
        }
    }

    /// All is well, or a report for people.
    pub(crate) fn into_result(self) -> Result<(), String> {
        if self.violations.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = self
            .violations
            .iter()
            .map(|violation| format!("{}: {}", violation.invariant, violation.what))
            .collect();
        let (plan, list, tail) = (self.plan, list.join("\n"), self.trace.tail());
        Err(format!(
            "the plan:\n{plan}\nthe end:\n{tail}\n\nbroken:\n{list}"
        ))
    }
}

/// **convergence**: all replicas hold the same bytes.
fn expect_equal_disks(world: &World, history: &mut History) {
    for key in history.keys() {
        let first = world.machines[0].stored(&key);
        for machine in &world.machines[1..] {
            if machine.stored(&key) != first {
                let what = format!("{key} has other bytes at {}", machine.name);
                history.violate("convergence", what);
            }
        }
    }
}
