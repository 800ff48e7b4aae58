//! The newest run seen of each node's directory.
//!
//! Each start raises a directory's generation by one, durably, and takes a random nonce. So whoever shows
//! up with an older generation than others have seen runs on an old copy of its directory, and has
//! forgotten what was acknowledged since; and so does the second of two that show up with one generation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, BytesMut};
use dynakv_protocol::codec::{Reader, Wire, put_varint};
use dynakv_protocol::limits::MEMBERS_MAX;
use dynakv_protocol::{DecodeError, DirectoryId, Generation, NodeId};

/// How many directories are remembered that are no member's: of nodes that are about to join.
const STRANGERS_MAX: usize = 4 * MEMBERS_MAX;

/// One run of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its name.
    pub node_id: NodeId,
    /// The directory it runs on.
    pub directory_id: DirectoryId,
    /// How often that has been started.
    pub generation: Generation,
    /// Random per process.
    pub nonce: u64,
}

/// What is made of a process that shows up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// As before, or of a node whose runs need not be kept.
    Known,
    /// A newer run of a member, or the first that was seen: to be made durable before it is believed.
    News,
    /// A newer run has been seen. This one has forgotten something, and is not to be let in.
    Outdated,
}

/// A directory belongs to one node for ever; both in the key, so that no other node can speak for it.
type Home = (NodeId, DirectoryId);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    generation: Generation,
    nonce: u64,
}

impl Run {
    /// Whether this one has run after `other`, or beside it on a copy.
    fn outdates(self, other: Self) -> bool {
        let is_copy = self.generation == other.generation && self.nonce != other.nonce;
        self.generation > other.generation || is_copy
    }
}

/// The newest run of each directory. Those of members have a form on disk.
#[derive(Debug, Default)]
pub struct Generations {
    newest: BTreeMap<Home, Run>,
    members: BTreeSet<Home>,
}

impl Generations {
    /// What is made of this process. A newer one than before is the newest from now on.
    pub fn see(&mut self, process: &Process) -> Sighting {
        let home = (process.node_id.clone(), process.directory_id);
        let run = Run {
            generation: process.generation,
            nonce: process.nonce,
        };
        match self.newest.get(&home) {
            Some(known) if *known == run => return Sighting::Known,
            Some(known) if known.outdates(run) => return Sighting::Outdated,
            Some(_) | None => {}
        }
        let is_member = self.members.contains(&home);
        let is_new = !self.newest.contains_key(&home);
        if is_new && !is_member && self.newest.len() >= STRANGERS_MAX {
            return Sighting::Known;
        }
        self.newest.insert(home, run);
        match is_member {
            true => Sighting::News,
            false => Sighting::Known,
        }
    }

    /// Whether this directory is the present one of a member.
    pub fn is_member(&self, node_id: &NodeId, directory_id: DirectoryId) -> bool {
        self.members.contains(&(node_id.clone(), directory_id))
    }

    /// Whether an earlier run of this process's directory was seen: it was restarted since.
    pub fn is_restart(&self, process: &Process) -> bool {
        let known = self
            .newest
            .get(&(process.node_id.clone(), process.directory_id));
        known.is_some_and(|known| known.generation < process.generation)
    }

    /// Follows a ring. True when what is to be on disk has changed by it.
    pub fn follow(&mut self, members: impl IntoIterator<Item = (NodeId, DirectoryId)>) -> bool {
        let before = self.durable();
        self.members = members.into_iter().collect();
        // The former directory of a member is kept out by the ring.
        let names: BTreeSet<&NodeId> = self.members.iter().map(|(name, _)| name).collect();
        let members = &self.members;
        self.newest
            .retain(|home, _| members.contains(home) || !names.contains(&home.0));
        self.durable() != before
    }

    /// What belongs on disk.
    fn durable(&self) -> Vec<(Home, Run)> {
        let seen = |home| Some((Home::clone(home), *self.newest.get(home)?));
        self.members.iter().filter_map(seen).collect()
    }

    /// Appends the form on disk: a count, then node id, directory id, generation and nonce of each member
    /// that was seen.
    pub fn encode(&self, out: &mut BytesMut) {
        let seen = self.durable();
        put_varint(out, seen.len() as u64);
        for ((node_id, directory_id), run) in seen {
            node_id.encode(out);
            directory_id.encode(out);
            run.generation.encode(out);
            out.put_u64(run.nonce);
        }
    }

    /// Reads the form on disk.
    ///
    /// # Errors
    /// [`DecodeError`]; more than a ring can have are none.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut generations = Self::default();
        for _ in 0..reader.count("processes", MEMBERS_MAX)? {
            let home = (NodeId::decode(reader)?, DirectoryId::decode(reader)?);
            let run = Run {
                generation: Generation::decode(reader)?,
                nonce: reader.u64()?,
            };
            generations.members.insert(home.clone());
            generations.newest.insert(home, run);
        }
        reader.finish()?;
        Ok(generations)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn process(name: &str, directory: u64, generation: u64, nonce: u64) -> Process {
        Process {
            node_id: id(name),
            directory_id: DirectoryId(directory),
            generation: Generation(generation),
            nonce,
        }
    }

    fn with_members(members: &[(&str, u64)]) -> Generations {
        let mut generations = Generations::default();
        let members = members
            .iter()
            .map(|(name, at)| (id(name), DirectoryId(*at)));
        generations.follow(members);
        generations
    }

    fn reloaded(generations: &Generations) -> Generations {
        let mut bytes = BytesMut::new();
        generations.encode(&mut bytes);
        let bytes = bytes.freeze();
        Generations::decode(&mut Reader::new(&bytes)).unwrap()
    }

    #[test]
    fn an_older_run_and_a_copy_are_outdated_also_after_a_restart() {
        let mut generations = with_members(&[("b", 7)]);
        assert_eq!(generations.see(&process("b", 7, 5, 50)), Sighting::News);
        assert_eq!(generations.see(&process("b", 7, 5, 50)), Sighting::Known);
        for _ in 0..2 {
            assert_eq!(generations.see(&process("b", 7, 4, 40)), Sighting::Outdated);
            assert_eq!(generations.see(&process("b", 7, 5, 51)), Sighting::Outdated);
            generations = reloaded(&generations);
        }
        assert!(generations.is_restart(&process("b", 7, 6, 60)));
        assert_eq!(generations.see(&process("b", 7, 6, 60)), Sighting::News);
        assert_eq!(generations.see(&process("b", 7, 5, 50)), Sighting::Outdated);
        assert!(!generations.is_restart(&process("b", 7, 6, 60)));
    }

    /// A stranger under the name of a member makes nobody forget that member's runs.
    #[test]
    fn another_directory_under_the_same_name_changes_nothing() {
        let mut generations = with_members(&[("b", 7)]);
        generations.see(&process("b", 7, 5, 50));
        assert_eq!(generations.see(&process("b", 8, 1, 80)), Sighting::Known);
        assert_eq!(generations.see(&process("c", 7, 99, 1)), Sighting::Known);
        assert_eq!(generations.see(&process("b", 7, 4, 40)), Sighting::Outdated);
        // The ring takes the other directory: it was seen already, and that is to be durable now.
        assert!(generations.follow([(id("b"), DirectoryId(8))]));
        let mut generations = reloaded(&generations);
        assert_eq!(generations.see(&process("b", 8, 1, 81)), Sighting::Outdated);
        assert_eq!(generations.see(&process("b", 8, 2, 82)), Sighting::News);
        assert!(!generations.is_member(&id("b"), DirectoryId(7)));
    }

    #[test]
    fn following_the_same_ring_again_is_no_news() {
        let mut generations = with_members(&[("b", 7), ("c", 9)]);
        let ring = || [(id("b"), DirectoryId(7)), (id("c"), DirectoryId(9))];
        generations.see(&process("b", 7, 5, 50));
        assert!(!generations.follow(ring()));
        assert!(!reloaded(&generations).follow(ring()));
        assert!(generations.follow([(id("c"), DirectoryId(9))]));
    }

    #[test]
    fn strangers_take_no_more_memory_than_there_is_for_them() {
        let mut generations = with_members(&[("b", 7)]);
        for directory in 0..2 * STRANGERS_MAX as u64 {
            generations.see(&process("x", directory, 1, 1));
        }
        assert_eq!(generations.newest.len(), STRANGERS_MAX);
        assert_eq!(generations.see(&process("b", 7, 5, 50)), Sighting::News);
        let mut bytes = BytesMut::new();
        generations.encode(&mut bytes);
        assert!(bytes.len() < 100, "only members are on disk");
    }

    #[test]
    fn bytes_that_make_no_sense_are_an_error() {
        let mut generations = with_members(&[("b", 7)]);
        generations.see(&process("b", 7, 5, 50));
        let mut good = BytesMut::new();
        generations.encode(&mut good);
        let decode = |bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            Generations::decode(&mut Reader::new(&bytes)).map(|_| ())
        };
        assert_eq!(decode(&good), Ok(()));
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_err(), "{length}");
        }
        assert!(decode(&[&good[..], b"\0"].concat()).is_err());
        let mut many = BytesMut::new();
        put_varint(&mut many, MEMBERS_MAX as u64 + 1);
        assert!(decode(&many).is_err());
    }
}
