//! **unique_dots**: one (actor, counter) never names two writes, across power cuts, restarts and lost
//! disks. Every dot that was seen anywhere is remembered to the end of the run.

use std::collections::BTreeMap;

use bytes::Bytes;
use dynakv_protocol::causal::{Dot, Sibling, Value};
use dynakv_protocol::ids::WriteId;

pub(crate) const NAME: &str = "unique_dots";

/// What a dot names. Values are different for different writes; tombstones are all the same, and known
/// by their id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    Value(Bytes),
    Tombstone(WriteId),
}

impl Named {
    /// What lies on a disk.
    pub(crate) fn of(sibling: &Sibling) -> Self {
        match &sibling.value {
            Value::Bytes(value) => Self::Value(value.clone()),
            Value::Tombstone => Self::Tombstone(sibling.write_id),
        }
    }
}

/// All dots that were seen.
#[derive(Debug, Default)]
pub(crate) struct Dots {
    names: BTreeMap<Dot, Named>,
}

impl Dots {
    /// A dot was seen, naming this: what is wrong with it, if something is.
    pub(crate) fn check(&mut self, key: &str, dot: Dot, named: &Named) -> Option<String> {
        match self.names.get(&dot) {
            None => {
                self.names.insert(dot, named.clone());
                None
            }
            Some(known) if known == named => None,
            Some(known) => Some(format!("{key}: {dot:x?} names {known:?} and {named:?}")),
        }
    }

    /// How many there were.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::Actor;

    use super::*;

    fn check(dots: &mut Dots, counter: u64, named: &Named) -> bool {
        let actor = Actor(1);
        dots.check("k", Dot { actor, counter }, named).is_none()
    }

    #[test]
    fn a_dot_names_one_write_for_ever() {
        let value = |text: &'static str| Named::Value(Bytes::from_static(text.as_bytes()));
        let mut dots = Dots::default();
        assert!(check(&mut dots, 1, &value("a")));
        assert!(check(&mut dots, 2, &value("b")));
        assert!(check(&mut dots, 1, &value("a")));
        assert!(!check(&mut dots, 1, &value("b")));
        assert!(!check(&mut dots, 2, &Named::Tombstone(WriteId(7))));
        assert!(check(&mut dots, 3, &Named::Tombstone(WriteId(7))));
        assert!(!check(&mut dots, 3, &Named::Tombstone(WriteId(8))));
        assert_eq!(dots.len(), 3);
    }
}
