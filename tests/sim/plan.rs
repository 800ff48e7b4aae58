//! Faults, each at its moment, drawn from a seed.

use std::fmt;
use std::time::Duration;

use crate::machine::machine_name;

/// Something that happens to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine is off at once; of what was not synced, this share stays.
    PowerCut { node: usize, kept_percent: usize },
    /// The power goes, and when it is back the disk is a new and empty one.
    LoseDisk { node: usize },
    /// None of the values on its disk can be read any more.
    DamageValues { node: usize },
    /// The node is told to stop in order.
    Stop { node: usize },
    /// The machine is switched on.
    Start { node: usize },
    /// Nothing passes between two machines.
    Partition { a: usize, b: usize },
    /// Nothing passes in one direction.
    PartitionOneWay { from: usize, to: usize },
    /// Nothing passes, and everything comes at once when it is healed.
    Hold { a: usize, b: usize },
    /// Messages take long and overtake each other.
    Slow { a: usize, b: usize },
    /// All is well again between two machines.
    Heal { a: usize, b: usize },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number: &usize| machine_name(*number);
        match self {
            Self::PowerCut { node, kept_percent } => {
                let node = name(node);
                write!(
                    f,
                    "power cut at {node}, {kept_percent} % of the unsynced stays"
                )
            }
            Self::LoseDisk { node } => write!(f, "{} loses its disk", name(node)),
            Self::DamageValues { node } => write!(f, "all values at {} are damaged", name(node)),
            Self::Stop { node } => write!(f, "stop {} in order", name(node)),
            Self::Start { node } => write!(f, "start {}", name(node)),
            Self::Partition { a, b } => write!(f, "cut {} from {}", name(a), name(b)),
            Self::PartitionOneWay { from, to } => {
                write!(f, "cut the way from {} to {}", name(from), name(to))
            }
            Self::Hold { a, b } => write!(f, "hold all between {} and {}", name(a), name(b)),
            Self::Slow { a, b } => write!(f, "slow down {} and {}", name(a), name(b)),
            Self::Heal { a, b } => write!(f, "heal {} and {}", name(a), name(b)),
        }
    }
}

/// A fault and its moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// All faults of a run, by their moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { at, fault } in &self.steps {
            writeln!(f, "{:>10.3} {fault}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// The shortest and the longest time that a fault lasts, and the pause before the next on one machine
/// or link.
const LASTS_MS: std::ops::Range<u64> = 200..5000;
const PAUSE_MS: std::ops::Range<u64> = 500..6000;

/// How long the power is away when it flickers.
const FLICKER: Duration = Duration::from_millis(100);

impl Plan {
    /// Faults of every kind between two moments. Each link and each machine has at most one at a
    /// time; at the end all of them are over.
    pub(crate) fn random(
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::default();
        for node in 0..machines {
            plan.add_episodes(from, until, random, |random| power_fault(node, random));
            for other in node + 1..machines {
                plan.add_episodes(from, until, random, |random| {
                    let fault = link_fault(node, other, random);
                    (fault, Fault::Heal { a: node, b: other })
                });
            }
        }
        if random.bool() {
            plan.add_blackout(machines, from, until, random);
        }
        // Stable: what happens at one moment happens in a fixed order.
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// Faults of every kind, and one machine besides loses its disk: not the first, which would found
    /// another cluster, and never a second one, because two copies are what is promised.
    pub(crate) fn with_lost_disk(
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::random(machines, from, until, random);
        let node = random.usize(1..machines);
        let span_ms = (until - from).as_millis() as u64;
        let at = from + Duration::from_millis(random.u64(..span_ms * 3 / 4));
        let back = (at + Duration::from_millis(random.u64(LASTS_MS))).min(until);
        plan.add(at, Fault::LoseDisk { node });
        plan.add(back, Fault::Start { node });
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// One machine after the other loses its power for a moment, again and again, and with it all that
    /// it had not synced.
    pub(crate) fn flickering(
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::default();
        let mut at = from;
        while at < until - FLICKER * 2 {
            let (node, kept_percent) = (random.usize(..machines), 0);
            plan.add(at, Fault::PowerCut { node, kept_percent });
            plan.add(at + FLICKER, Fault::Start { node });
            at += FLICKER * 2 + Duration::from_millis(random.u64(..500));
        }
        plan
    }

    /// Adds faults with pauses between them; each is a beginning and an end.
    fn add_episodes(
        &mut self,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
        fault: impl Fn(&mut fastrand::Rng) -> (Fault, Fault),
    ) {
        let mut at = from;
        loop {
            at += Duration::from_millis(random.u64(PAUSE_MS));
            if at >= until {
                return;
            }
            let (begins, ends) = fault(random);
            self.add(at, begins);
            at += Duration::from_millis(random.u64(LASTS_MS));
            at = at.min(until);
            self.add(at, ends);
        }
    }

    /// The power goes everywhere at once.
    fn add_blackout(
        &mut self,
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) {
        let span_ms = (until - from).as_millis() as u64;
        let at = from + Duration::from_millis(random.u64(..span_ms));
        let back = (at + Duration::from_millis(random.u64(LASTS_MS))).min(until);
        for node in 0..machines {
            let kept_percent = kept_percent(random);
            self.add(at, Fault::PowerCut { node, kept_percent });
            self.add(back, Fault::Start { node });
        }
    }

    /// Adds a fault; they must come in the order of their moments.
    pub(crate) fn add(&mut self, at: Duration, fault: Fault) {
        self.steps.push(Step { at, fault });
    }
}

fn power_fault(node: usize, random: &mut fastrand::Rng) -> (Fault, Fault) {
    let kept_percent = kept_percent(random);
    let begins = if random.u8(..4) == 0 {
        Fault::Stop { node }
    } else {
        Fault::PowerCut { node, kept_percent }
    };
    (begins, Fault::Start { node })
}

fn link_fault(a: usize, b: usize, random: &mut fastrand::Rng) -> Fault {
    match random.u8(..6) {
        0 | 1 => Fault::Partition { a, b },
        2 => Fault::PartitionOneWay { from: a, to: b },
        3 => Fault::PartitionOneWay { from: b, to: a },
        4 => Fault::Hold { a, b },
        _ => Fault::Slow { a, b },
    }
}

/// Disks keep nothing, everything, or a part of what they never promised.
fn kept_percent(random: &mut fastrand::Rng) -> usize {
    match random.u8(..3) {
        0 => 0,
        1 => 100,
        _ => random.usize(..100),
    }
}
