//! Faults, each at its moment, drawn from a seed.

use std::fmt;
use std::time::Duration;

use crate::machine::machine_name;

/// Something that happens to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine is off at once; of what was not synced, this share stays. A malicious one waits for a
    /// moment in which something is not synced, not for long.
    PowerCut {
        node: usize,
        kept_percent: usize,
        is_malicious: bool,
    },
    /// The power goes, and when it is back the disk is a new and empty one.
    LoseDisk { node: usize },
    /// The power goes, and when it is back the store is damaged beyond opening: it is set aside, and the
    /// node begins with an empty one. What it keeps for others is beside the store, and stays.
    LoseStore { node: usize },
    /// None of the values on its disk can be read any more.
    DamageValues { node: usize },
    /// All that is stored is lost, and nobody can say what was there.
    LoseSegments { node: usize },
    /// No sync at this machine comes back.
    HangDisk { node: usize },
    /// All syncs come back.
    DiskAnswers { node: usize },
    /// The node is told to stop in order.
    Stop { node: usize },
    /// The machine is switched on.
    Start { node: usize },
    /// The machine is off at once, and its owner does not want it back.
    ForGood { node: usize },
    /// The machine, once it is off, is switched on when the ring is what it is to be in the end.
    ComeBack { node: usize },
    /// Nothing passes between two machines.
    Partition { a: usize, b: usize },
    /// Nothing passes in one direction.
    PartitionOneWay { from: usize, to: usize },
    /// Nothing passes, and everything comes at once when it is healed.
    Hold { a: usize, b: usize },
    /// Messages take long and overtake each other.
    Slow { a: usize, b: usize },
    /// Each message is lost with this chance, in percent, and with it all that is on its way. What TCP
    /// would send again, the simulated one does not: a connection that lost a message is silent from
    /// then on in that direction, until somebody gives it up.
    Lossy { a: usize, b: usize, percent: u8 },
    /// All is well again between two machines.
    Heal { a: usize, b: usize },
    /// Two halves that see each other only through the machines that are in neither of them.
    Bridge { left: Vec<usize>, right: Vec<usize> },
    /// The halves see each other again.
    EndBridge,
    /// No other machine sees this one; clients do.
    Isolate { node: usize },
    /// The others see it again.
    Rejoin { node: usize },
    /// The clock of a machine is set by this much.
    JumpClock { node: usize, by_ms: i64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number: &usize| machine_name(*number);
        match self {
            Self::PowerCut {
                node,
                kept_percent,
                is_malicious,
            } => {
                let (node, kind) = (name(node), if *is_malicious { "malicious " } else { "" });
                write!(
                    f,
                    "{kind}power cut at {node}, {kept_percent} % of the unsynced stays"
                )
            }
            Self::LoseDisk { node } => write!(f, "{} loses its disk", name(node)),
            Self::LoseStore { node } => write!(f, "{} loses its store", name(node)),
            Self::DamageValues { node } => write!(f, "all values at {} are damaged", name(node)),
            Self::LoseSegments { node } => write!(f, "all segments at {} are lost", name(node)),
            Self::HangDisk { node } => write!(f, "the disk of {} hangs", name(node)),
            Self::DiskAnswers { node } => write!(f, "the disk of {} answers", name(node)),
            Self::Stop { node } => write!(f, "stop {} in order", name(node)),
            Self::Start { node } => write!(f, "start {}", name(node)),
            Self::ForGood { node } => write!(f, "{} is off for good", name(node)),
            Self::ComeBack { node } => write!(f, "start {} once all is changed", name(node)),
            Self::Partition { a, b } => write!(f, "cut {} from {}", name(a), name(b)),
            Self::PartitionOneWay { from, to } => {
                write!(f, "cut the way from {} to {}", name(from), name(to))
            }
            Self::Hold { a, b } => write!(f, "hold all between {} and {}", name(a), name(b)),
            Self::Slow { a, b } => write!(f, "slow down {} and {}", name(a), name(b)),
            Self::Lossy { a, b, percent } => {
                let (a, b) = (name(a), name(b));
                write!(f, "lose {percent} % of all between {a} and {b}")
            }
            Self::Heal { a, b } => write!(f, "heal {} and {}", name(a), name(b)),
            Self::Bridge { left, right } => {
                let names = |half: &[usize]| half.iter().map(name).collect::<Vec<_>>().join(", ");
                write!(f, "cut {} from {}", names(left), names(right))
            }
            Self::EndBridge => f.write_str("the halves see each other again"),
            Self::Isolate { node } => write!(f, "cut {} from all others", name(node)),
            Self::Rejoin { node } => write!(f, "{} sees the others again", name(node)),
            Self::JumpClock { node, by_ms } => {
                write!(f, "the clock of {} jumps by {by_ms} ms", name(node))
            }
        }
    }
}

impl Fault {
    /// A malicious power cut.
    pub(crate) fn power_cut(node: usize, kept_percent: usize) -> Self {
        Self::PowerCut {
            node,
            kept_percent,
            is_malicious: true,
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

/// How many times as long pauses are while the ring changes.
const CHANGING_PAUSES: std::ops::Range<u64> = 2..7;

/// For how long a machine flaps, and how long it is cut off or back each time.
const FLAPS_FOR_MS: std::ops::Range<u64> = 2000..8000;
const FLAP_MS: std::ops::Range<u64> = 100..900;

/// By how much clocks jump: an hour, and ten years.
const JUMPS_MS: [i64; 2] = [3_600_000, 10 * 365 * 24 * 3_600_000];

/// How long machines are divided at most.
const DIVIDED_FOR_MAX: Duration = Duration::from_millis(6000);

/// How long each time, where the machines of one side are stopped meanwhile.
const STOPPING_FOR: Duration = Duration::from_millis(6000);

/// For how long a link stalls, mostly longer than a node waits before it hands a request on to the next
/// owner, and the pause until it does again.
const STALL_MS: std::ops::Range<u64> = 300..1900;
const STALL_PAUSE_MS: std::ops::Range<u64> = 200..5000;

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
        Self::with_pauses(machines, 1, (from, until), random)
    }

    /// The same with pauses that are so many times as long.
    fn with_pauses(
        machines: usize,
        times: u64,
        (from, until): (Duration, Duration),
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::default();
        // Each machine and link has about as much trouble, so with more of them each has it less often.
        let pause_ms = PAUSE_MS.start..PAUSE_MS.end * times * (machines as u64 - 1) / 2;
        for node in 0..machines {
            plan.add_episodes((from, until), &pause_ms, random, |random| {
                power_fault(node, random)
            });
            for other in node + 1..machines {
                plan.add_episodes((from, until), &pause_ms, random, |random| {
                    let fault = link_fault(node, other, random);
                    (fault, Fault::Heal { a: node, b: other })
                });
            }
        }
        if random.bool() {
            plan.add_blackout(machines, from, until, random);
        }
        if random.bool() {
            plan.add_bridge(machines, from, until, random);
        }
        if random.bool() {
            plan.add_flapping(machines, from, until, random);
        }
        for node in 0..machines {
            if random.u8(..3) == 0 {
                plan.add_clock_jump(node, from, until, random);
            }
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

    /// Faults of every kind, while machines behind the founders are switched on for the first time.
    pub(crate) fn growing(
        founders: usize,
        machines: usize,
        (from, until): (Duration, Duration),
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::random(machines, from, until, random);
        let span_ms = (until - from).as_millis() as u64;
        for node in founders..machines {
            let at = from + Duration::from_millis(random.u64(..span_ms * 3 / 4));
            plan.add(at, Fault::Start { node });
        }
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// Faults of every kind with longer pauses, so that a change of the ring comes to its end among them. Machines behind
    /// the founders are switched on soon.
    pub(crate) fn changing(
        founders: usize,
        machines: usize,
        (from, until): (Duration, Duration),
        random: &mut fastrand::Rng,
    ) -> Self {
        let times = random.u64(CHANGING_PAUSES);
        let mut plan = Self::with_pauses(machines, times, (from, until), random);
        for node in founders..machines {
            let at = from + Duration::from_millis(random.u64(PAUSE_MS));
            plan.add(at, Fault::Start { node });
        }
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// From this moment on a machine is off, and only [`Fault::ComeBack`] switches it on.
    pub(crate) fn switch_off_for_good(&mut self, node: usize, at: Duration) {
        let is_undone = |step: &Step| step.at >= at && step.fault == Fault::Start { node };
        self.steps.retain(|step| !is_undone(step));
        self.add(at, Fault::ForGood { node });
        self.steps.sort_by_key(|step| step.at);
    }

    /// A machine loses its power where it would lose its disk: who is out of the ring and has an empty one is a newcomer.
    pub(crate) fn spare_disk(&mut self, node: usize) {
        let lost = Fault::LoseDisk { node };
        for step in self.steps.iter_mut().filter(|step| step.fault == lost) {
            step.fault = Fault::power_cut(node, 0);
        }
    }

    /// Faults of every kind, and besides disks hang: one, or two at once, for a moment or for seconds.
    pub(crate) fn hanging(
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::random(machines, from, until, random);
        for node in 0..machines {
            plan.add_episodes((from, until), &PAUSE_MS, random, |_| {
                (Fault::HangDisk { node }, Fault::DiskAnswers { node })
            });
        }
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// Some machines do not see the others, again and again, so that these stand in for owners and are
    /// stood in for. Meanwhile machines of either side go off, two at once where they have kept what no owner
    /// has; and one machine may lose its disk or its store, not the first.
    pub(crate) fn divided(
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::default();
        let mut lost = random.bool().then(|| random.usize(1..machines));
        let mut at = from + Duration::from_millis(random.u64(..1000));
        while at + DIVIDED_FOR_MAX <= until {
            let mut left: Vec<_> = (0..machines).collect();
            random.shuffle(&mut left);
            let right = left.split_off(machines / 2 + 1);
            let span_ms = random.u64(3000..DIVIDED_FOR_MAX.as_millis() as u64);
            let part = |share: u64| at + Duration::from_millis(span_ms * share / 100);
            let off: &[usize] = match random.u8(..4) {
                0 => &[],
                1 => &left[..random.usize(1..=left.len())],
                _ => &right,
            };
            let bridge = Fault::Bridge {
                left: left.clone(),
                right: right.clone(),
            };
            plan.add(at, bridge);
            let goes_off = part(random.u64(60..95));
            let is_stopped = random.u8(..4) == 0;
            // Before the others are back, or after.
            let comes_back = part(random.u64(96..150)).min(until);
            for &node in off {
                let fault = match is_stopped {
                    true => Fault::Stop { node },
                    false => Fault::PowerCut {
                        node,
                        kept_percent: kept_percent(random),
                        is_malicious: random.bool(),
                    },
                };
                plan.add(goes_off, fault);
                plan.add(comes_back, Fault::Start { node });
            }
            if let Some(node) = lost.take_if(|_| random.bool()) {
                let loss = match random.bool() {
                    true => Fault::LoseDisk { node },
                    false => Fault::LoseStore { node },
                };
                plan.add(part(random.u64(30..110)).min(until), loss);
                plan.add(part(random.u64(110..150)).min(until), Fault::Start { node });
            }
            plan.add(part(100), Fault::EndBridge);
            at = part(160) + Duration::from_millis(random.u64(..1000));
        }
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// The same two machines do not see the others, again and again, and each time are stopped in order.
    pub(crate) fn stopping(
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::default();
        let mut left: Vec<_> = (0..machines).collect();
        random.shuffle(&mut left);
        let right = left.split_off(machines - 2);
        let mut at = from + Duration::from_millis(random.u64(..500));
        while at + STOPPING_FOR <= until {
            let (left, right) = (left.clone(), right.clone());
            plan.add(
                at,
                Fault::Bridge {
                    left,
                    right: right.clone(),
                },
            );
            for &node in &right {
                plan.add(at + STOPPING_FOR * 4 / 10, Fault::Stop { node });
                // Long after that: what is in hand comes to its end first.
                plan.add(at + STOPPING_FOR * 9 / 10, Fault::Start { node });
            }
            at += STOPPING_FOR;
            plan.add(at, Fault::EndBridge);
            at += Duration::from_millis(random.u64(500..1000));
        }
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
            let node = random.usize(..machines);
            plan.add(at, Fault::power_cut(node, 0));
            plan.add(at + FLICKER, Fault::Start { node });
            at += FLICKER * 2 + Duration::from_millis(random.u64(..500));
        }
        plan
    }

    /// Links carry nothing for a while, and then all of it at once; most of the time some do. No machine goes
    /// off.
    pub(crate) fn stalling(
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut plan = Self::default();
        for a in 0..machines {
            for b in a + 1..machines {
                let mut at = from;
                loop {
                    at += Duration::from_millis(random.u64(STALL_PAUSE_MS));
                    if at >= until {
                        break;
                    }
                    plan.add(at, Fault::Hold { a, b });
                    at = (at + Duration::from_millis(random.u64(STALL_MS))).min(until);
                    plan.add(at, Fault::Heal { a, b });
                }
            }
        }
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// Whether a disk is lost, and with it what only one owner was to keep.
    pub(crate) fn loses_a_disk(&self) -> bool {
        let is_loss = |step: &Step| {
            matches!(
                step.fault,
                Fault::LoseDisk { .. } | Fault::LoseStore { .. } | Fault::ForGood { .. }
            )
        };
        self.steps.iter().any(is_loss)
    }

    /// Whether no machine sees all others for a while, so that some stand in for others.
    pub(crate) fn divides(&self, machines: usize) -> bool {
        self.steps.iter().any(|step| match &step.fault {
            Fault::Bridge { left, right } => left.len() + right.len() == machines,
            _ => false,
        })
    }

    /// Adds faults with pauses between them; each is a beginning and an end.
    fn add_episodes(
        &mut self,
        (from, until): (Duration, Duration),
        pause_ms: &std::ops::Range<u64>,
        random: &mut fastrand::Rng,
        fault: impl Fn(&mut fastrand::Rng) -> (Fault, Fault),
    ) {
        let mut at = from;
        loop {
            at += Duration::from_millis(random.u64(pause_ms.clone()));
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
        let at = moment(from, until, random);
        let back = (at + Duration::from_millis(random.u64(LASTS_MS))).min(until);
        for node in 0..machines {
            // Everywhere in the same moment.
            let cut = Fault::PowerCut {
                node,
                kept_percent: kept_percent(random),
                is_malicious: false,
            };
            self.add(at, cut);
            self.add(back, Fault::Start { node });
        }
    }

    /// Two halves that see only one machine in common.
    fn add_bridge(
        &mut self,
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) {
        let mut left: Vec<_> = (0..machines).collect();
        random.shuffle(&mut left);
        left.pop();
        let right = left.split_off(left.len() / 2);
        let at = moment(from, until, random);
        let over = (at + Duration::from_millis(random.u64(LASTS_MS) * 2)).min(until);
        self.add(at, Fault::Bridge { left, right });
        self.add(over, Fault::EndBridge);
    }

    /// One machine is cut off and back, again and again.
    fn add_flapping(
        &mut self,
        machines: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) {
        let node = random.usize(..machines);
        let mut at = moment(from, until, random);
        let over = (at + Duration::from_millis(random.u64(FLAPS_FOR_MS))).min(until);
        while at < over {
            self.add(at, Fault::Isolate { node });
            at = (at + Duration::from_millis(random.u64(FLAP_MS))).min(over);
            self.add(at, Fault::Rejoin { node });
            at += Duration::from_millis(random.u64(FLAP_MS));
        }
    }

    /// A clock is set far off, forwards or backwards, and back again.
    fn add_clock_jump(
        &mut self,
        node: usize,
        from: Duration,
        until: Duration,
        random: &mut fastrand::Rng,
    ) {
        let by_ms = JUMPS_MS[random.usize(..JUMPS_MS.len())];
        let by_ms = if random.bool() { by_ms } else { -by_ms };
        let at = moment(from, until, random);
        let back = (at + Duration::from_millis(random.u64(LASTS_MS))).min(until);
        self.add(at, Fault::JumpClock { node, by_ms });
        self.add(
            back,
            Fault::JumpClock {
                node,
                by_ms: -by_ms,
            },
        );
    }

    /// Adds a fault; they must come in the order of their moments.
    pub(crate) fn add(&mut self, at: Duration, fault: Fault) {
        self.steps.push(Step { at, fault });
    }
}

fn moment(from: Duration, until: Duration, random: &mut fastrand::Rng) -> Duration {
    let span_ms = (until - from).as_millis() as u64;
    from + Duration::from_millis(random.u64(..span_ms))
}

fn power_fault(node: usize, random: &mut fastrand::Rng) -> (Fault, Fault) {
    let kept_percent = kept_percent(random);
    let begins = if random.u8(..4) == 0 {
        Fault::Stop { node }
    } else {
        Fault::power_cut(node, kept_percent)
    };
    (begins, Fault::Start { node })
}

fn link_fault(a: usize, b: usize, random: &mut fastrand::Rng) -> Fault {
    match random.u8(..8) {
        0 | 1 => Fault::Partition { a, b },
        2 => Fault::PartitionOneWay { from: a, to: b },
        3 => Fault::PartitionOneWay { from: b, to: a },
        4 => Fault::Hold { a, b },
        5 => Fault::Lossy {
            a,
            b,
            percent: random.u8(1..20),
        },
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
