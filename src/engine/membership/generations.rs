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

use crate::engine::counters::{self, Impossible};

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
    /// No directory has been started so often. Nothing is kept of it.
    Impossible(Impossible),
}

/// What is to be done about a process that shows up or is told of, before anything is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// No member: nothing hangs on it.
    Stranger,
    /// The newest run of a member.
    Known,
    /// A newer run of a member than is known, or the first: where the member is known to be, it is to be asked.
    ToConfirm,
    /// A newer run has been seen.
    Outdated,
    /// No directory has been started so often.
    Impossible(Impossible),
}

/// What came of asking about a run that is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The member itself says so.
    Confirmed,
    /// Nobody is there who could say so or contradict: the member has moved, with its directory.
    Unopposed,
    /// The member lives where it was, as the run that is known: who claims to be a newer one lies, or runs on a
    /// copy.
    Contradicted,
    /// The member lives where it was, as a run that is newer still.
    Outdated,
    /// Nobody is there, and it cannot have been started so often since it was seen last.
    Impossible(Impossible),
}

/// A directory belongs to one node for ever; both in the key, so that no other node can speak for it.
type Home = (NodeId, DirectoryId);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    generation: Generation,
    nonce: u64,
}

impl Run {
    fn of(process: &Process) -> Self {
        Self {
            generation: process.generation,
            nonce: process.nonce,
        }
    }

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
        if let Err(impossible) = counters::check_generation(process.generation) {
            return Sighting::Impossible(impossible);
        }
        let home = (process.node_id.clone(), process.directory_id);
        let run = Run::of(process);
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

    /// What is to be done about a process that shows up or is told of.
    pub fn judge(&self, process: &Process) -> Judgement {
        if let Err(impossible) = counters::check_generation(process.generation) {
            return Judgement::Impossible(impossible);
        }
        let home = (process.node_id.clone(), process.directory_id);
        if !self.members.contains(&home) {
            return Judgement::Stranger;
        }
        let run = Run::of(process);
        match self.newest.get(&home) {
            Some(known) if *known == run => Judgement::Known,
            Some(known) if known.outdates(run) => Judgement::Outdated,
            Some(_) | None => Judgement::ToConfirm,
        }
    }

    /// What is made of a run that is new, after the member was called where it was known to be; `there` is who
    /// answered. Nothing is kept yet.
    pub fn weigh(&self, claimed: &Process, there: Option<&Process>) -> Finding {
        let is_it = |there: &&Process| {
            // Older versions do not tell their directory, and newer ones not everybody.
            let is_unsaid = there.directory_id == DirectoryId::default();
            there.node_id == claimed.node_id
                && (is_unsaid || there.directory_id == claimed.directory_id)
        };
        if let Some(there) = there.filter(is_it) {
            let (claimed, there) = (Run::of(claimed), Run::of(there));
            return if there == claimed {
                Finding::Confirmed
            } else if there.outdates(claimed) {
                Finding::Outdated
            } else {
                Finding::Contradicted
            };
        }
        let home = (claimed.node_id.clone(), claimed.directory_id);
        let checked = match self.newest.get(&home) {
            Some(known) => counters::check_generation_after(known.generation, claimed.generation),
            None => counters::check_generation(claimed.generation),
        };
        match checked {
            Ok(()) => Finding::Unopposed,
            Err(impossible) => Finding::Impossible(impossible),
        }
    }

    /// Forgets runs that no directory can have had, and says whose: an earlier version of dynakv believed
    /// whoever told of them, and would never let those nodes in again.
    pub fn forget_impossible(&mut self) -> Vec<NodeId> {
        let mut forgotten = Vec::new();
        self.newest.retain(|(node_id, _), run| {
            let is_possible = counters::check_generation(run.generation).is_ok();
            if !is_possible {
                forgotten.push(node_id.clone());
            }
            is_possible
        });
        forgotten
    }

    /// Whether this directory is the present one of a member.
    pub fn is_member(&self, node_id: &NodeId, directory_id: DirectoryId) -> bool {
        self.members.contains(&(node_id.clone(), directory_id))
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
        assert_eq!(
            generations.judge(&process("b", 7, 6, 60)),
            Judgement::ToConfirm
        );
        assert_eq!(generations.see(&process("b", 7, 6, 60)), Sighting::News);
        assert_eq!(generations.see(&process("b", 7, 5, 50)), Sighting::Outdated);
        assert_eq!(generations.judge(&process("b", 7, 6, 60)), Judgement::Known);
        assert_eq!(
            generations.judge(&process("b", 7, 5, 50)),
            Judgement::Outdated
        );
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
    fn a_new_run_is_believed_from_the_member_or_where_nobody_contradicts() {
        let mut generations = with_members(&[("b", 7), ("c", 9)]);
        // The first run of a member, too, is one that anybody could claim.
        assert_eq!(
            generations.judge(&process("b", 7, 1, 10)),
            Judgement::ToConfirm
        );
        generations.see(&process("b", 7, 5, 50));
        assert_eq!(
            generations.judge(&process("b", 8, 9, 1)),
            Judgement::Stranger
        );
        let claimed = process("b", 7, 6, 60);
        let weigh = |there: Option<Process>| generations.weigh(&claimed, there.as_ref());
        for (there, finding) in [
            (Some(claimed.clone()), Finding::Confirmed),
            (Some(process("b", 0, 6, 60)), Finding::Confirmed),
            // It lives: the other one is a lie, or a copy that was started beside it.
            (Some(process("b", 7, 5, 50)), Finding::Contradicted),
            (Some(process("b", 0, 5, 50)), Finding::Contradicted),
            (Some(process("b", 7, 6, 61)), Finding::Outdated),
            (Some(process("b", 7, 7, 70)), Finding::Outdated),
            // Somebody else has the address now, or nobody: it has moved.
            (Some(process("b", 8, 9, 1)), Finding::Unopposed),
            (Some(process("c", 9, 1, 1)), Finding::Unopposed),
            (None, Finding::Unopposed),
        ] {
            assert_eq!(weigh(there.clone()), finding, "{there:?}");
        }
        let far = process("b", 7, 6 + counters::GENERATION_JUMP_MAX, 60);
        assert!(matches!(
            generations.weigh(&far, None),
            Finding::Impossible(_)
        ));
        assert_eq!(generations.weigh(&far, Some(&far)), Finding::Confirmed);
        // Asking has kept nothing.
        assert_eq!(generations.judge(&process("b", 7, 5, 50)), Judgement::Known);
        assert_eq!(
            generations.judge(&process("b", 7, u64::MAX, 1)),
            Judgement::Impossible(counters::check_generation(Generation(u64::MAX)).unwrap_err())
        );
    }

    /// Neither believed nor stored, and what an earlier version has stored is forgotten.
    #[test]
    fn a_generation_that_cannot_be_keeps_no_member_out() {
        let mut generations = with_members(&[("b", 7), ("c", 9)]);
        assert_eq!(generations.see(&process("b", 7, 5, 50)), Sighting::News);
        for impossible in [counters::GENERATION_MAX + 1, u64::MAX] {
            for (name, directory) in [("b", 7), ("c", 9), ("x", 1)] {
                let sighting = generations.see(&process(name, directory, impossible, 1));
                assert!(matches!(sighting, Sighting::Impossible(_)), "{sighting:?}");
            }
        }
        assert_eq!(generations.see(&process("b", 7, 6, 60)), Sighting::News);
        let run = Run {
            generation: Generation(u64::MAX),
            nonce: 1,
        };
        generations.newest.insert((id("c"), DirectoryId(9)), run);
        let mut poisoned = reloaded(&generations);
        assert_eq!(poisoned.see(&process("c", 9, 2, 20)), Sighting::Outdated);
        assert_eq!(poisoned.forget_impossible(), [id("c")]);
        assert_eq!(poisoned.see(&process("c", 9, 2, 20)), Sighting::News);
        assert_eq!(poisoned.see(&process("b", 7, 5, 50)), Sighting::Outdated);
        assert_eq!(reloaded(&poisoned).forget_impossible(), []);
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
