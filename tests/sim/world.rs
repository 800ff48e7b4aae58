//! A cluster of simulated machines, and a hand that does things to it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use dynakv_protocol::causal::Versions;
use turmoil::Sim;

use crate::client::Client;
use crate::clock;
use crate::history::History;
use crate::invariants::unique_dots::Named;
use crate::machine::{Flaw, Machine, Quorums, machine_name};
use crate::owners::Owners;
use crate::plan::{Fault, Plan};
use crate::trace::Trace;

/// How fine simulated time is. Machines run one after the other, this long each.
const TICK: Duration = Duration::from_millis(1);

/// The shortest and the longest delay of a message on a healthy link.
const LATENCY_MIN: Duration = Duration::from_millis(1);
const LATENCY_MAX: Duration = Duration::from_millis(10);

/// The longest delay of a message on a slow link.
const LATENCY_SLOW_MAX: Duration = Duration::from_millis(400);

/// How long a malicious power cut waits for something to lose.
const MALICE: Duration = Duration::from_millis(60);

/// How often all disks are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// No simulation lasts longer than this, in simulated time.
const DURATION_MAX: Duration = Duration::from_secs(400);

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// A cluster, its network and its clock.
pub(crate) struct World {
    sim: Sim<'static>,
    pub(crate) machines: Vec<Rc<Machine>>,
    /// How many of them are switched on from the beginning.
    founders: usize,
    pub(crate) owners: Rc<Owners>,
    pub(crate) trace: Trace,
    random: fastrand::Rng,
    clients: Vec<String>,
    /// What is wrong between two machines, the smaller number first.
    faults: BTreeMap<(usize, usize), Fault>,
    /// Two halves that do not see each other.
    halves: Option<(Vec<usize>, Vec<usize>)>,
    /// Machines that no other one sees.
    isolated: BTreeSet<usize>,
    /// Power cuts that wait for something to lose, until when.
    waiting_cuts: Vec<(Duration, Fault)>,
    /// Machines that come back once the ring is what it is to be.
    coming_back: Vec<usize>,
    undone: usize,
    /// The newest ring that was seen on a disk.
    ring: u64,
    panics_before: usize,
}

/// The name of a zone, by its number.
pub(crate) fn zone(number: usize) -> String {
    format!("zone-{}", number + 1)
}

impl World {
    /// Machines that are about to be switched on. All randomness of the run comes from the seed.
    pub(crate) fn new(seed: u64, machines: usize, flaw: Flaw) -> Self {
        Self::with_quorums(seed, machines, Quorums::USUAL, flaw)
    }

    /// The same with other quorums.
    pub(crate) fn with_quorums(seed: u64, machines: usize, quorums: Quorums, flaw: Flaw) -> Self {
        watch_panics();
        let mut random = fastrand::Rng::with_seed(seed);
        let trace = Trace::default();
        let mut sim = turmoil::Builder::new()
            .rng_seed(random.u64(..))
            .epoch(clock::epoch())
            .tick_duration(TICK)
            .simulation_duration(DURATION_MAX)
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(4096)
            .enable_random_order()
            .build();
        let machines: Vec<_> = (0..machines)
            .map(|number| {
                let trace = trace.clone();
                Rc::new(Machine::new(number, quorums, flaw, &mut random, trace))
            })
            .collect();
        for machine in &machines {
            let (name, machine) = (machine.name.clone(), machine.clone());
            sim.host(name, move || {
                let machine = machine.clone();
                async move { machine.run().await }
            });
        }
        Self {
            sim,
            owners: Rc::new(Owners::new(machines.clone())),
            founders: machines.len(),
            machines,
            trace,
            random,
            clients: Vec::new(),
            faults: BTreeMap::new(),
            halves: None,
            isolated: BTreeSet::new(),
            waiting_cuts: Vec::new(),
            coming_back: Vec::new(),
            undone: 0,
            ring: 0,
            panics_before: PANICS.get(),
        }
    }

    /// The same, of which some machines are switched on only when the plan says so.
    pub(crate) fn growing(seed: u64, founders: usize, machines: usize, flaw: Flaw) -> Self {
        Self::new(seed, machines, flaw).founded_by(founders)
    }

    fn founded_by(mut self, founders: usize) -> Self {
        self.founders = founders;
        for node in founders..self.machines.len() {
            self.cut_power(node, 0);
        }
        self
    }

    /// The same with other quorums, in so many zones, of which some wait for an operator to let them in, and these are
    /// members in the end.
    pub(crate) fn operated(
        seed: u64,
        (founders, machines): (usize, usize),
        (quorums, zones): (Quorums, usize),
        (members, flaw): (Vec<usize>, Flaw),
    ) -> Self {
        let world = Self::with_quorums(seed, machines, quorums, flaw).founded_by(founders);
        for (number, machine) in world.machines.iter().enumerate() {
            if zones > 0 {
                machine.lie_in(zone(number % zones));
            }
        }
        for machine in &world.machines[founders..] {
            machine.come_in_when_told(founders);
        }
        world.owners.expect(members);
        world
    }

    /// A seed for somebody else.
    pub(crate) fn fork(&mut self) -> fastrand::Rng {
        self.random.fork()
    }

    /// Adds a client; the run is over when all have ended.
    pub(crate) fn add_client<F>(&mut self, name: &str, work: impl FnOnce(Client) -> F)
    where
        F: Future<Output = turmoil::Result> + 'static,
    {
        let machines = (self.machines.clone(), self.founders);
        let client = Client::new(name, machines, self.owners.clone(), self.trace.clone());
        self.sim.client(name, work(client));
        self.clients.push(name.to_owned());
    }

    /// Runs until all clients have ended, and does to the machines what the plan says.
    ///
    /// # Errors
    /// What a node or a client failed with.
    pub(crate) fn run(&mut self, plan: &Plan, history: &RefCell<History>) -> Result<(), String> {
        let mut steps = plan.steps.iter().peekable();
        let mut look_at = Duration::ZERO;
        loop {
            while let Some(step) = steps.next_if(|step| step.at <= self.sim.elapsed()) {
                // A power cut, or a new disk, takes dots away that must never be used again.
                self.look_at_disks(history);
                self.apply(&step.fault);
            }
            self.cut_what_waits(history);
            self.start_who_comes_back();
            if self.sim.elapsed() >= look_at {
                self.look_at_disks(history);
                self.look_at_rings();
                look_at = self.sim.elapsed() + LOOK_EVERY;
            }
            let is_over = self.sim.step().map_err(|error| error.to_string())?;
            self.switch_off_the_stopped();
            if is_over || self.panics() > 0 {
                self.look_at_disks(history);
                return Ok(());
            }
        }
    }

    /// How many tasks have panicked in this run.
    pub(crate) fn panics(&self) -> usize {
        PANICS.get() - self.panics_before
    }

    /// Remembers all dots that lie on the disks, in stores and in hints.
    fn look_at_disks(&self, history: &RefCell<History>) {
        let mut history = history.borrow_mut();
        let mut look = |key: &str, versions: &Versions| {
            for sibling in versions.siblings() {
                history.on_dot(key, sibling.dot, &Named::of(sibling));
            }
        };
        for machine in &self.machines {
            for (key, versions) in machine.all_stored() {
                look(&key, &versions);
            }
            for (key, hint) in machine.hints_waiting().iter() {
                if let Some(versions) = &hint.versions {
                    look(key, versions);
                }
            }
        }
    }

    /// Notes a ring that is new, for whoever reads the trace.
    fn look_at_rings(&mut self) {
        let newest = self.owners.newest();
        if newest.0 > self.ring {
            self.ring = newest.0;
            self.note(&format!("ring {}, {}", newest.0, newest.1));
        }
    }

    /// How many applied mutations power cuts have undone.
    pub(crate) fn undone(&self) -> usize {
        self.undone
    }

    fn apply(&mut self, fault: &Fault) {
        self.note(&fault.to_string());
        match *fault {
            Fault::PowerCut {
                is_malicious: true, ..
            } => {
                let until = self.sim.elapsed() + MALICE;
                self.waiting_cuts.push((until, fault.clone()));
            }
            Fault::PowerCut {
                node, kept_percent, ..
            } => self.cut_power(node, kept_percent),
            Fault::LoseDisk { node } => {
                self.cut_power(node, 0);
                self.machines[node].lose_disk();
            }
            Fault::LoseStore { node } => {
                self.cut_power(node, 0);
                self.machines[node].lose_store();
            }
            Fault::DamageValues { node } => self.machines[node].disk.damage_values(),
            Fault::LoseSegments { node } => self.machines[node].disk.lose_segments(),
            Fault::HangDisk { node } => self.machines[node].hang(true, self.sim.elapsed()),
            Fault::DiskAnswers { node } => self.machines[node].hang(false, self.sim.elapsed()),
            Fault::Stop { node } => self.machines[node].stop(),
            Fault::Start { node } => self.start(node),
            Fault::ForGood { node } => self.cut_power(node, 0),
            Fault::ComeBack { node } => self.coming_back.push(node),
            Fault::Partition { a, b }
            | Fault::PartitionOneWay { from: a, to: b }
            | Fault::Hold { a, b }
            | Fault::Slow { a, b }
            | Fault::Lossy { a, b, .. } => {
                self.faults.insert((a.min(b), a.max(b)), fault.clone());
                self.wire(a, b);
            }
            Fault::Heal { a, b } => {
                self.faults.remove(&(a.min(b), a.max(b)));
                self.wire(a, b);
            }
            Fault::Bridge {
                ref left,
                ref right,
            } => {
                self.halves = Some((left.clone(), right.clone()));
                self.wire_everything();
            }
            Fault::EndBridge => {
                self.halves = None;
                self.wire_everything();
            }
            Fault::Isolate { node } => {
                self.isolated.insert(node);
                self.wire_machines(node);
            }
            Fault::Rejoin { node } => {
                self.isolated.remove(&node);
                self.wire_machines(node);
            }
            Fault::JumpClock { node, by_ms } => self.machines[node].jump_clock(by_ms),
        }
    }

    /// A node that stopped in order leaves its machine dark: what was not acknowledged as durable by
    /// then is lost.
    fn switch_off_the_stopped(&mut self) {
        for node in 0..self.machines.len() {
            let machine = self.machines[node].clone();
            if machine.is_on() && !self.sim.is_host_running(machine.name.as_str()) {
                self.cut_power(node, 0);
            }
        }
    }

    /// Starts machines that are off and were to be started once the ring is what it is to be.
    fn start_who_comes_back(&mut self) {
        for node in std::mem::take(&mut self.coming_back) {
            match self.owners.is_reached() && !self.machines[node].is_on() {
                true => self.start(node),
                false => self.coming_back.push(node),
            }
        }
    }

    /// Carries out the malicious power cuts that have found their moment, or have waited long enough.
    fn cut_what_waits(&mut self, history: &RefCell<History>) {
        let now = self.sim.elapsed();
        for (until, fault) in std::mem::take(&mut self.waiting_cuts) {
            let Fault::PowerCut {
                node, kept_percent, ..
            } = fault
            else {
                continue;
            };
            if now >= until || self.machines[node].disk.pending() > 0 {
                self.look_at_disks(history);
                self.cut_power(node, kept_percent);
            } else {
                self.waiting_cuts.push((until, fault));
            }
        }
    }

    /// Everything stops at once, and nobody is told.
    fn cut_power(&mut self, node: usize, kept_percent: usize) {
        let machine = self.machines[node].clone();
        // The links go first. A process that dies says goodbye on its connections, in an order that
        // depends on numbers which tokio shares among all runtimes: no run could be replayed.
        machine.set_on(false);
        self.wire_all(node);
        self.sim.crash(machine.name.as_str());
        let pending = machine.disk.pending();
        let kept = pending * kept_percent / 100;
        machine.cut_power(kept);
        let undone = pending - kept;
        self.undone += undone;
        self.note(&format!("{}: {undone} mutations are undone", machine.name));
    }

    fn start(&mut self, node: usize) {
        let is_meant =
            |fault: &Fault| matches!(fault, Fault::PowerCut { node: it, .. } if *it == node);
        self.waiting_cuts.retain(|(_, fault)| !is_meant(fault));
        // It may have been started meanwhile, by another episode of the plan.
        self.cut_power(node, 0);
        let machine = &self.machines[node];
        machine.set_on(true);
        self.sim.bounce(machine.name.as_str());
        self.wire_all(node);
    }

    fn wire_everything(&mut self) {
        for node in 0..self.machines.len() {
            self.wire_machines(node);
        }
    }

    fn wire_machines(&mut self, node: usize) {
        for other in 0..self.machines.len() {
            if other != node {
                self.wire(node, other);
            }
        }
    }

    fn wire_all(&mut self, node: usize) {
        self.wire_machines(node);
        let (name, is_on) = (machine_name(node), self.machines[node].is_on());
        for client in &self.clients {
            match is_on {
                true => self.sim.repair(name.as_str(), client.as_str()),
                false => self.sim.partition(name.as_str(), client.as_str()),
            }
        }
    }

    /// Whether two machines are cut off from each other, whatever their link is like.
    fn are_apart(&self, a: usize, b: usize) -> bool {
        let is_off = |node: usize| !self.machines[node].is_on() || self.isolated.contains(&node);
        let is_across = |(left, right): &(Vec<usize>, Vec<usize>)| {
            left.contains(&a) && right.contains(&b) || left.contains(&b) && right.contains(&a)
        };
        is_off(a) || is_off(b) || self.halves.as_ref().is_some_and(is_across)
    }

    /// Makes the link between two machines what it should be now.
    fn wire(&mut self, a: usize, b: usize) {
        let name = machine_name;
        let fault = self.faults.get(&(a.min(b), a.max(b))).cloned();
        let latency_max = match fault {
            Some(Fault::Slow { .. }) => LATENCY_SLOW_MAX,
            _ => LATENCY_MAX,
        };
        self.sim
            .set_link_max_message_latency(name(a), name(b), latency_max);
        // None where nothing passes anyway: each goodbye of a process that dies would be a throw of the dice,
        // and how many goodbyes there are depends on the order in which its tasks are dropped, which is not
        // the same in two runs.
        let loss = match fault {
            Some(Fault::Lossy { percent, .. }) if !self.are_apart(a, b) => {
                f64::from(percent) / 100.0
            }
            _ => 0.0,
        };
        self.sim.set_link_fail_rate(name(a), name(b), loss);
        if self.are_apart(a, b) {
            return self.sim.partition(name(a), name(b));
        }
        // What was held comes now.
        self.sim.release(name(a), name(b));
        match fault {
            Some(Fault::Partition { .. }) => self.sim.partition(name(a), name(b)),
            Some(Fault::PartitionOneWay { from, to }) => {
                self.sim.partition_oneway(name(from), name(to));
            }
            Some(Fault::Hold { .. }) => self.sim.hold(name(a), name(b)),
            _ => {}
        }
    }

    fn note(&self, text: &str) {
        self.trace.line_at(self.sim.elapsed(), "plan", text);
    }
}

/// Counts the panics of each thread; a simulation has one to itself.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            report(panic);
        }));
        if let Ok(filter) = std::env::var("DYNAKV_SIM_LOG") {
            tracing_subscriber::fmt().with_env_filter(filter).init();
        }
    });
}
