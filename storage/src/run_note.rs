//! What lies outside of the small files says itself whose it is, and which run wrote it last.
//!
//! A backup can bring back the store without the identity beside it, the identity without the store, or
//! the store of another node. Each looks whole by itself; only together they tell.

use bytes::{BufMut, Bytes, BytesMut};
use dynakv_protocol::codec::{DecodeError, Reader, Wire, put_bool};
use dynakv_protocol::{DirectoryId, Generation, NodeId};

use crate::error::StoreError;
use crate::log_place::LogPlace;
use crate::store::Store;

/// The form of a note.
const FORMAT: u8 = 1;

/// One run of a process in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How often the directory had been started.
    pub generation: Generation,
    /// Random: two runs of one generation, on copies, differ in it.
    pub nonce: u64,
}

/// Which run wrote a store, or a file of hints, last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunNote {
    /// The node.
    pub node_id: NodeId,
    /// Its directory.
    pub directory_id: DirectoryId,
    /// The run.
    pub run: Run,
    /// The one before it in that directory.
    pub before: Option<Run>,
    /// Where the store's log ended when the run began.
    pub begins_at: LogPlace,
    /// A store that was written anew holds what the former one did up to here, although its own log does not
    /// reach so far.
    pub holds: LogPlace,
}

/// What a store is to the identity beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOrigin {
    /// The one that the last run of this directory left, or an empty one of no run.
    Own,
    /// This directory's, and not the one that its last run left: it came back from a backup, or the identity
    /// did.
    Other,
    /// The store of the directory of this node, or of another one of this name.
    OtherDirectory(NodeId),
    /// There is no identity, and the store is not empty; whose it is, where it says so.
    Nobody(Option<NodeId>),
}

impl RunNote {
    /// What a store says of itself; `None` where it does not, or cannot be understood.
    ///
    /// # Errors
    /// What the disk says.
    pub fn of_store(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        match store.run_note() {
            Ok(note) => Ok(note.and_then(|bytes| Self::from_bytes(&bytes).ok())),
            // As good as none: then the store is not known to be the right one.
            Err(error) if error.is_corruption() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes in a store that this run writes it from now on. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn save_to(&self, store: &dyn Store) -> Result<(), StoreError> {
        let note = Self {
            begins_at: store.log_end(),
            ..self.clone()
        };
        store.note_run(&note.to_bytes())
    }

    /// Whether hints with this note were left by the run before this one. `theirs` is what they say.
    pub fn follows(&self, theirs: Option<&Bytes>) -> bool {
        let Some(last) = self.before else {
            return true;
        };
        let theirs = theirs.and_then(|bytes| Self::from_bytes(bytes).ok());
        theirs.is_some_and(|theirs| {
            // A start that was cut short has noted itself here and not in the identity.
            let runs = [Some(theirs.run), theirs.before];
            theirs.directory_id == self.directory_id && runs.contains(&Some(last))
        })
    }
}

impl Wire for Run {
    fn encode(&self, out: &mut BytesMut) {
        self.generation.encode(out);
        out.put_u64(self.nonce);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            generation: Generation::decode(reader)?,
            nonce: reader.u64()?,
        })
    }
}

impl Wire for RunNote {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(FORMAT);
        self.node_id.encode(out);
        self.directory_id.encode(out);
        self.run.encode(out);
        put_bool(out, self.before.is_some());
        if let Some(before) = &self.before {
            before.encode(out);
        }
        self.begins_at.encode(out);
        self.holds.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.u8()? != FORMAT {
            let what = "format of a note of a run";
            return Err(DecodeError::Invalid { what });
        }
        Ok(Self {
            node_id: NodeId::decode(reader)?,
            directory_id: DirectoryId::decode(reader)?,
            run: Run::decode(reader)?,
            before: match reader.bool("a run before")? {
                true => Some(Run::decode(reader)?),
                false => None,
            },
            begins_at: LogPlace::decode(reader)?,
            holds: LogPlace::decode(reader)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(generation: u64) -> Run {
        Run {
            generation: Generation(generation),
            nonce: generation * 1000,
        }
    }

    fn note(generation: u64) -> RunNote {
        RunNote {
            node_id: NodeId::new("n-1").unwrap(),
            directory_id: DirectoryId(7),
            run: run(generation),
            before: (generation > 1).then(|| run(generation - 1)),
            begins_at: LogPlace::default(),
            holds: LogPlace {
                file: 3,
                position: 4_000,
            },
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_or_not_at_all() {
        for note in [note(1), note(2)] {
            let bytes = note.to_bytes();
            assert_eq!(RunNote::from_bytes(&bytes), Ok(note));
            for end in 0..bytes.len() {
                assert!(RunNote::from_bytes(&bytes.slice(..end)).is_err());
            }
        }
    }

    #[test]
    fn hints_are_those_of_the_run_before_or_of_a_start_that_was_cut_short() {
        let follows = |theirs: &RunNote| note(5).follows(Some(&theirs.to_bytes()));
        assert!(follows(&note(4)));
        let cut_short = RunNote {
            run: Run { nonce: 1, ..run(5) },
            ..note(5)
        };
        assert!(follows(&cut_short));
        assert!(!follows(&note(3)), "of a backup");
        let another = RunNote {
            directory_id: DirectoryId(8),
            ..note(4)
        };
        assert!(!follows(&another));
        assert!(!note(5).follows(None), "they are gone");
        assert!(note(1).follows(None), "there was no run before");
    }
}
