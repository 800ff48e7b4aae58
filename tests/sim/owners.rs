//! Who owns which key, by the ring document that lies on the machines' disks.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use dynakv_protocol::RingVersion;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::{RingDocument, Step};
use dynakv_storage::load_document;

use crate::invariants::change_ends::{self, Followed};
use crate::machine::{Machine, machine_name};

/// The ring that a run ends with: the machines that are its members, and the version from which on it counts.
pub(crate) struct Goal {
    pub(crate) members: Vec<usize>,
    pub(crate) since: u64,
}

/// The table of owners, made once the ring is final and the one that the run is to end with. No run changes it
/// afterwards: a machine that lost its disk keeps its place.
pub(crate) struct Owners {
    machines: Vec<Rc<Machine>>,
    goal: RefCell<Goal>,
    table: OnceCell<Table>,
    /// How many changes were given up because somebody asked for it.
    pub(crate) given_up: Cell<u64>,
}

struct Table {
    placement: Placement,
    /// The machine of each member of the ring.
    machines: Vec<usize>,
}

impl Owners {
    /// All machines are to be members.
    pub(crate) fn new(machines: Vec<Rc<Machine>>) -> Self {
        let goal = Goal {
            members: (0..machines.len()).collect(),
            since: 0,
        };
        Self {
            machines,
            goal: RefCell::new(goal),
            table: OnceCell::new(),
            given_up: Cell::new(0),
        }
    }

    /// These are to be, once somebody has seen to it.
    pub(crate) fn expect(&self, members: Vec<usize>) {
        let since = u64::MAX;
        self.goal.replace(Goal { members, since });
    }

    /// Somebody has: with this version of the ring.
    pub(crate) fn reached(&self, version: RingVersion) {
        self.goal.borrow_mut().since = version.0;
    }

    /// Whether nothing is to be seen to any more.
    pub(crate) fn is_reached(&self) -> bool {
        self.goal.borrow().since < u64::MAX
    }

    /// Whether a machine is to be a member in the end.
    pub(crate) fn stays(&self, node: usize) -> bool {
        self.goal.borrow().members.contains(&node)
    }

    /// Those that are to be.
    pub(crate) fn staying(&self) -> Vec<usize> {
        self.goal.borrow().members.clone()
    }

    /// The machines that own a key, in the order of preference; nothing as long as that is not settled.
    pub(crate) fn of_key(&self, key: &str) -> Option<Vec<usize>> {
        let table = match self.table.get() {
            Some(table) => table,
            None => {
                let table = self.machines.iter().find_map(|it| self.table_of(it))?;
                self.table.get_or_init(|| table)
            }
        };
        let owners = table.placement.owners_of_key(key.as_bytes()).iter();
        Some(owners.map(|owner| table.machines[owner.slot()]).collect())
    }

    /// The same; all machines as long as it is not settled.
    pub(crate) fn or_all(&self, key: &str) -> Vec<usize> {
        let all = || (0..self.machines.len()).collect();
        self.of_key(key).unwrap_or_else(all)
    }

    /// The newest ring that lies on a disk: its version and its step.
    pub(crate) fn newest(&self) -> (u64, &'static str) {
        let rings = self.machines.iter().filter_map(|machine| ring_of(machine));
        let rings = rings.map(|ring| (ring.version.0, ring.step.name()));
        rings.max().unwrap_or((0, "none"))
    }

    /// Why no machine follows the ring that the run is to end with, if none does.
    pub(crate) fn missed(&self) -> Option<String> {
        let followed = |machine: &Rc<Machine>| {
            let document = ring_of(machine)?;
            let members = document.members.iter();
            Some(Followed {
                machine: machine.name.clone(),
                step: document.step.name(),
                version: document.version.0,
                members: members.map(|member| member.id.to_string()).collect(),
            })
        };
        let rings: Vec<_> = self.machines.iter().filter_map(followed).collect();
        let goal = self.goal.borrow();
        let mut members: Vec<_> = goal.members.iter().map(|it| machine_name(*it)).collect();
        members.sort();
        change_ends::check(&rings, &members, goal.since)
    }

    /// Which machine is no member any more and runs all the same, or has not been told yet, if one is.
    pub(crate) fn outstaying(&self) -> Option<String> {
        let mut machines = (0..).zip(&self.machines);
        let has_ended = |it: &Machine| !it.is_on() && it.removals() > 0;
        let stays = machines.find(|(node, it)| !self.stays(*node) && !has_ended(it));
        stays.map(|(_, it)| format!("{} is no member any more, and has not ended", it.name))
    }

    fn table_of(&self, machine: &Machine) -> Option<Table> {
        let document = ring_of(machine)?;
        let goal = self.goal.borrow();
        let is_it = document.step == Step::Final
            && document.version.0 >= goal.since
            && document.members.len() == goal.members.len();
        if !is_it {
            return None;
        }
        let members = document.members.iter();
        let number_of = |id: &str| self.machines.iter().position(|it| it.name == id);
        let machines = members.map(|member| number_of(member.id.as_str()));
        let machines: Vec<usize> = machines.collect::<Option<_>>()?;
        let is_whole = goal.members.iter().all(|it| machines.contains(it));
        is_whole.then(|| Table {
            placement: Placement::new(&document),
            machines,
        })
    }
}

/// The ring that lies on the disk of a machine.
pub(crate) fn ring_of(machine: &Machine) -> Option<RingDocument> {
    let document = load_document(&machine.disk.files(), "ring").ok()??;
    RingDocument::from_bytes(&document).ok()
}
