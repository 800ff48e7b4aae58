//! Who owns which key, by the ring document that lies on the machines' disks.

use std::cell::OnceCell;
use std::rc::Rc;

use dynakv_protocol::codec::Wire;
use dynakv_protocol::placement::Placement;
use dynakv_protocol::ring_document::{RingDocument, Step};
use dynakv_storage::load_document;

use crate::machine::Machine;

/// The table of owners, made once the ring is final and has all machines. No run changes it afterwards: a machine that
/// lost its disk keeps its place.
pub(crate) struct Owners {
    machines: Vec<Rc<Machine>>,
    table: OnceCell<Table>,
}

struct Table {
    placement: Placement,
    /// The machine of each member of the ring.
    machines: Vec<usize>,
}

impl Owners {
    pub(crate) fn new(machines: Vec<Rc<Machine>>) -> Self {
        let table = OnceCell::new();
        Self { machines, table }
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

    /// The version of the newest ring that lies on a disk.
    pub(crate) fn newest_version(&self) -> u64 {
        let rings = self.machines.iter().filter_map(|machine| ring_of(machine));
        rings.map(|ring| ring.version.0).max().unwrap_or(0)
    }

    /// Where the ring of each machine stands, and how many members it has.
    pub(crate) fn rings(&self) -> Vec<(String, String, usize)> {
        let ring = |machine: &Rc<Machine>| {
            let document = ring_of(machine)?;
            let (name, step) = (machine.name.clone(), document.step.name().to_owned());
            Some((name, step, document.members.len()))
        };
        self.machines.iter().filter_map(ring).collect()
    }

    fn table_of(&self, machine: &Machine) -> Option<Table> {
        let document = ring_of(machine)?;
        if document.step != Step::Final || document.members.len() != self.machines.len() {
            return None;
        }
        let number_of = |id: &str| self.machines.iter().position(|it| it.name == id);
        let members = document.members.iter();
        let machines = members.map(|member| number_of(member.id.as_str()));
        Some(Table {
            placement: Placement::new(&document),
            machines: machines.collect::<Option<_>>()?,
        })
    }
}

fn ring_of(machine: &Machine) -> Option<RingDocument> {
    let document = load_document(&machine.disk.files(), "ring").ok()??;
    RingDocument::from_bytes(&document).ok()
}
