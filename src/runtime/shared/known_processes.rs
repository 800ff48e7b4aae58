//! The newest process seen of each member, for all connections of this node, and durable before one is
//! let in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use dynakv_protocol::codec::Reader;
use dynakv_protocol::gossip::MemberEntry;
use dynakv_protocol::handshake::{PeerIdentity, Welcome};
use dynakv_protocol::ring_document::RingDocument;
use dynakv_storage::{SmallFiles, StoreError, load_document, save_document};

use crate::engine::membership::generations::{Finding, Generations, Judgement, Process, Sighting};

/// The document that holds them; there is none before the first other member was seen.
const DOCUMENT: &str = "generations";

/// The newest process seen of each node: an older one is not let back in, also after this node was started
/// again.
pub struct KnownProcesses {
    files: Arc<dyn SmallFiles>,
    state: Mutex<State>,
}

struct State {
    generations: Generations,
    /// Something is not on disk yet.
    is_unsaved: bool,
}

impl std::fmt::Debug for KnownProcesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownProcesses").finish_non_exhaustive()
    }
}

impl KnownProcesses {
    /// What earlier runs have seen. A damaged document counts as none: what it said is seen anew as
    /// nodes speak to each other, and until then an old copy may pass.
    ///
    /// # Errors
    /// When the document cannot be read, other than for damage.
    pub fn load(files: Arc<dyn SmallFiles>) -> Result<Self, StoreError> {
        let generations = match load_document(&*files, DOCUMENT) {
            Ok(Some(bytes)) => decode(&bytes),
            Ok(None) => Generations::default(),
            Err(error) if error.is_corruption() => {
                tracing::warn!(%error, "which runs of the other nodes were seen is forgotten");
                Generations::default()
            }
            Err(error) => return Err(error),
        };
        let mut generations = generations;
        let forgotten = generations.forget_impossible();
        if !forgotten.is_empty() {
            tracing::warn!(
                nodes = ?forgotten,
                "an earlier version of dynakv has believed somebody who said that these nodes were started more \
                 often than any can be, and would not have let them in again: that is forgotten, nothing need \
                 be done"
            );
        }
        let state = State {
            generations,
            is_unsaved: !forgotten.is_empty(),
        };
        Ok(Self {
            files,
            state: Mutex::new(state),
        })
    }

    /// What is made of this process; news is durable when this returns, which is rare: a member has been
    /// started since it was seen last.
    ///
    /// # Errors
    /// What the disk says. Nobody may be let in on it; it is tried again with the next one.
    pub fn see(&self, process: &Process) -> Result<Sighting, StoreError> {
        let mut state = self.lock();
        let sighting = state.generations.see(process);
        if sighting == Sighting::News {
            state.is_unsaved = true;
        }
        self.save(&mut state)?;
        Ok(sighting)
    }

    /// What is to be done about a process that shows up or is told of; nothing is kept of it.
    pub fn judge(&self, process: &Process) -> Judgement {
        self.lock().generations.judge(process)
    }

    /// What is made of a new run after its member was called; nothing is kept of it.
    pub fn weigh(&self, claimed: &Process, there: Option<&Process>) -> Finding {
        self.lock().generations.weigh(claimed, there)
    }

    /// Follows a ring: the runs of its members are kept.
    ///
    /// # Errors
    /// As [`see`](Self::see).
    pub fn follow(&self, ring: &RingDocument) -> Result<(), StoreError> {
        let mut state = self.lock();
        let members = ring.members.iter();
        let homes = members.map(|member| (member.id.clone(), member.directory_id));
        state.is_unsaved |= state.generations.follow(homes);
        self.save(&mut state)
    }

    /// Under the lock, so that two tasks do not overwrite each other's news.
    fn save(&self, state: &mut State) -> Result<(), StoreError> {
        if state.is_unsaved {
            let mut bytes = BytesMut::new();
            state.generations.encode(&mut bytes);
            save_document(&*self.files, DOCUMENT, &bytes)?;
            state.is_unsaved = false;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The maps are whole between any two operations.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(bytes: &Bytes) -> Generations {
    Generations::decode(&mut Reader::new(bytes)).unwrap_or_else(|error| {
        tracing::warn!(%error, "which runs of the other nodes were seen is forgotten");
        Generations::default()
    })
}

impl Process {
    /// The run that gossip tells of.
    pub fn of_entry(entry: &MemberEntry) -> Self {
        Self {
            node_id: entry.id.clone(),
            directory_id: entry.directory_id,
            generation: entry.generation,
            nonce: entry.nonce,
        }
    }
}

impl From<&PeerIdentity> for Process {
    fn from(peer: &PeerIdentity) -> Self {
        Self {
            node_id: peer.node_id.clone(),
            directory_id: peer.directory_id,
            generation: peer.generation,
            nonce: peer.nonce,
        }
    }
}

impl From<&Welcome> for Process {
    fn from(welcome: &Welcome) -> Self {
        Self {
            node_id: welcome.node_id.clone(),
            directory_id: welcome.directory_id,
            generation: welcome.generation,
            nonce: welcome.nonce,
        }
    }
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::codec::{Wire, put_varint};
    use dynakv_protocol::ring_document::{Member, Step};
    use dynakv_protocol::{ClusterId, DirectoryId, Generation, NodeId, RingVersion};
    use dynakv_storage::{MemoryDisk, MemoryFiles};

    use super::*;

    fn ring() -> RingDocument {
        let member = Member {
            id: NodeId::new("b").unwrap(),
            directory_id: DirectoryId(7),
            address: "b:1".to_owned(),
            weight: 1,
            zone: String::new(),
        };
        RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "blue".to_owned(),
            version: RingVersion(1),
            step: Step::Final,
            n: 3,
            w: 2,
            r: 2,
            members: vec![member],
        }
    }

    fn process(generation: u64) -> Process {
        Process {
            node_id: NodeId::new("b").unwrap(),
            directory_id: DirectoryId(7),
            generation: Generation(generation),
            nonce: generation,
        }
    }

    fn load(files: &MemoryFiles) -> KnownProcesses {
        let seen = KnownProcesses::load(Arc::new(files.clone())).unwrap();
        seen.follow(&ring()).unwrap();
        seen
    }

    #[test]
    fn what_was_seen_survives_restarts() {
        let files = MemoryDisk::new().files();
        assert_eq!(load(&files).see(&process(5)).unwrap(), Sighting::News);
        assert_eq!(load(&files).see(&process(4)).unwrap(), Sighting::Outdated);
        assert_eq!(load(&files).judge(&process(4)), Judgement::Outdated);
        assert_eq!(load(&files).judge(&process(5)), Judgement::Known);
        // What was only asked about is not kept.
        assert_eq!(load(&files).judge(&process(9)), Judgement::ToConfirm);
        assert_eq!(load(&files).weigh(&process(9), None), Finding::Unopposed);
        assert_eq!(load(&files).see(&process(6)).unwrap(), Sighting::News);
    }

    /// An earlier version believed a stranger who said that a node was started 2^64 - 1 times.
    #[test]
    fn what_cannot_be_is_forgotten_at_the_start_and_on_disk() {
        let files = MemoryDisk::new().files();
        let mut bytes = BytesMut::new();
        put_varint(&mut bytes, 1);
        process(1).node_id.encode(&mut bytes);
        DirectoryId(7).encode(&mut bytes);
        Generation(u64::MAX).encode(&mut bytes);
        bytes.extend_from_slice(&7_u64.to_be_bytes());
        save_document(&files, DOCUMENT, &bytes).unwrap();
        assert_eq!(load(&files).see(&process(2)).unwrap(), Sighting::News);
        assert_eq!(load(&files).judge(&process(1)), Judgement::Outdated);
    }

    #[test]
    fn a_damaged_document_counts_as_none() {
        let files = MemoryDisk::new().files();
        load(&files).see(&process(5)).unwrap();
        let good = files.read(DOCUMENT).unwrap().unwrap();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x10;
            files.write_durable(DOCUMENT, &bad).unwrap();
            assert_eq!(load(&files).see(&process(4)).unwrap(), Sighting::News);
        }
        save_document(&files, DOCUMENT, b"\x09").unwrap();
        assert_eq!(load(&files).see(&process(4)).unwrap(), Sighting::News);
    }

    #[test]
    fn nobody_is_let_in_on_what_could_not_be_saved() {
        let disk = MemoryDisk::new();
        let seen = load(&disk.files());
        disk.crash();
        assert!(seen.see(&process(5)).is_err());
        assert!(seen.see(&process(5)).is_err(), "it is still not on disk");
        assert_eq!(
            load(&disk.files()).see(&process(4)).unwrap(),
            Sighting::News
        );
    }
}
