//! Who a data directory is, and whether its actor may go on.
//!
//! An actor never outlives doubt about its own past: a node mints dots under an actor only while its
//! store holds every earlier dot of it. Suppose that node A mints dot (a, 5), B and C acknowledge it, and
//! A dies before its own sync. If A went on as `a`, with whatever counter, its next write would claim
//! to have seen (a, 5), and B and C would drop that value as replaced. A ceiling on the counter would
//! keep dots unique and still lose the value.
//!
//! So every start takes a new random actor, except after a clean stop: then the directory holds a marker
//! that was written last, when all writes were durable and no more could come. The marker names the
//! start it belongs to, and is removed, durably, before the next one serves.
//!
//! These files vouch for a store beside them that they do not contain, and a backup can bring back one
//! without the other. So what they stand for says itself whose it is and which run wrote it last
//! ([`RunNote`]), the marker says how far the store's log reached, and a start holds the two against each
//! other ([`Identity::judge_store`]).

use bytes::{BufMut, Bytes, BytesMut};
use dynakv_protocol::codec::{DecodeError, Reader, Wire, put_varint};
use dynakv_protocol::{Actor, DirectoryId, Generation, NodeId};

use crate::disk::SmallFiles;
use crate::document::{damaged, load_document, save_document};
use crate::error::{Damage, StoreError};
use crate::items::{PageLimit, PositionRange};
use crate::log_place::LogPlace;
use crate::run_note::{Run, RunNote, StoreOrigin};
use crate::store::Store;

/// The document that holds the [`Identity`].
const IDENTITY: &str = "identity";

/// The document that is there only between a clean stop and the next start.
const CLEAN_STOP: &str = "clean-stop";

/// The document that is there once the store and the hints have said which run wrote them last. Beside
/// the identity and not in it, so that an earlier version still reads that one.
const RUNS_NOTED: &str = "runs-noted";

/// Who a node is during one run of its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The operator's name for the node; it never changes in one directory.
    pub node_id: NodeId,
    /// Random, made once with the directory: a wiped one has another.
    pub directory_id: DirectoryId,
    /// How often this directory was started, from 1 on. Peers keep the highest that they have seen: a
    /// node with a lower one runs on an old copy of its directory.
    pub generation: Generation,
    /// Random at every start: two processes on copies of one directory differ in it.
    pub nonce: u64,
    /// Under whom this node mints dots.
    pub actor: Actor,
    /// The last counter that the actor has used: the next dot has this one plus 1, or a later one.
    pub counter_floor: u64,
}

/// How the run before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastStop {
    /// There was none: the directory is new.
    NeverStarted,
    /// In order: everything is there, and the actor goes on.
    Clean,
    /// In any other way: what was not synced is gone, and the actor is a new one.
    Unclean,
}

/// What [`Identity::start`] found and decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Who the node is from now on.
    pub identity: Identity,
    /// How its last run ended.
    pub last_stop: LastStop,
}

/// Why a directory has no identity for this node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The directory belongs to a node of another name.
    #[error(
        "this data directory belongs to node {found}, not to {asked}: start with --id {found}, or \
         give {asked} its own --data-dir"
    )]
    OtherNode {
        /// Whose it is.
        found: NodeId,
        /// Who wanted it.
        asked: NodeId,
    },
    /// The directory could not be read or written, or its identity is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Started {
    /// Whether the directory is new.
    pub fn is_new(&self) -> bool {
        self.last_stop == LastStop::NeverStarted
    }

    /// Whether the last run ended in order.
    pub fn was_clean(&self) -> bool {
        self.last_stop == LastStop::Clean
    }
}

impl Identity {
    /// Begins a run: raises the generation, takes a new nonce, and a new actor unless the last run
    /// ended cleanly. Everything is durable when it returns, and the marker of the clean stop is gone.
    ///
    /// `random` gives 64 random bits at each call.
    ///
    /// # Errors
    /// [`IdentityError::OtherNode`] for the directory of another node;
    /// [`StoreError::DamagedFile`] when the identity cannot be trusted; otherwise what the disk says.
    /// Nothing has been served then, and a later start is a safe one.
    pub fn start(
        files: &dyn SmallFiles,
        node_id: NodeId,
        random: impl FnMut() -> u64,
    ) -> Result<Started, IdentityError> {
        Self::start_noted(files, node_id, None, random, |_| Ok(()))
    }

    /// As [`start`](Self::start), with what is kept outside of `files` told first who is about to write it:
    /// `note` makes that durable there. So a run is noted in the store before it is in the identity, and a
    /// store that knows less than the identity is an old one, however a start was cut short.
    ///
    /// `noted` is what the store's note says before that. Should it name a later run of this directory, the
    /// identity is the old one, and the generation goes on from there.
    ///
    /// # Errors
    /// As [`start`](Self::start), and those of `note`.
    pub fn start_noted(
        files: &dyn SmallFiles,
        node_id: NodeId,
        noted: Option<&RunNote>,
        mut random: impl FnMut() -> u64,
        note: impl FnOnce(&RunNote) -> Result<(), StoreError>,
    ) -> Result<Started, IdentityError> {
        let old = load(files)?;
        let Some(old) = old else {
            let identity = Self {
                node_id,
                directory_id: DirectoryId(random()),
                generation: Generation(1),
                nonce: random(),
                actor: new_actor(None, &mut random),
                counter_floor: 0,
            };
            // A marker without an identity belongs to nobody.
            return identity.begin(files, LastStop::NeverStarted, None, note);
        };
        if old.node_id != node_id {
            return Err(IdentityError::OtherNode {
                found: old.node_id,
                asked: node_id,
            });
        }
        let later = noted.filter(|noted| noted.directory_id == old.directory_id);
        let newest = later.map_or(old.generation, |it| it.run.generation.max(old.generation));
        let Some(generation) = newest.0.checked_add(1) else {
            let what = "generation";
            return Err(damaged(IDENTITY, DecodeError::Invalid { what }).into());
        };
        // The marker of a run that was not the last one says nothing.
        let is_last = later.is_none_or(|later| later.run == old.run());
        let stop = CleanStop::load(files)?.filter(|stop| is_last && stop.ends(&old));
        let (actor, counter_floor, last_stop) = match stop {
            Some(stop) => (stop.actor, stop.last_counter, LastStop::Clean),
            None => (
                new_actor(Some(old.actor), &mut random),
                0,
                LastStop::Unclean,
            ),
        };
        let identity = Self {
            node_id,
            directory_id: old.directory_id,
            generation: Generation(generation),
            nonce: random(),
            actor,
            counter_floor,
        };
        identity.begin(files, last_stop, Some(old.run()), note)
    }

    /// Saves the identity first: should the removal of the marker fail, the marker belongs to an
    /// earlier generation and counts no more.
    fn begin(
        self,
        files: &dyn SmallFiles,
        last_stop: LastStop,
        before: Option<Run>,
        note: impl FnOnce(&RunNote) -> Result<(), StoreError>,
    ) -> Result<Started, IdentityError> {
        note(&RunNote {
            node_id: self.node_id.clone(),
            directory_id: self.directory_id,
            run: self.run(),
            before,
            begins_at: LogPlace::default(),
            holds: LogPlace::default(),
        })?;
        save_document(files, IDENTITY, &self.to_bytes())?;
        files.remove_durable(CLEAN_STOP)?;
        Ok(Started {
            identity: self,
            last_stop,
        })
    }

    /// Which run this is, or was.
    pub fn run(&self) -> Run {
        Run {
            generation: self.generation,
            nonce: self.nonce,
        }
    }

    /// Whether this is the store that the last run of this directory left, as far as it says itself. `end` is
    /// where its log was found to end.
    ///
    /// # Errors
    /// What the disk says; [`StoreError::DamagedFile`] as [`start`](Self::start).
    pub fn judge_store(
        files: &dyn SmallFiles,
        store: &dyn Store,
        end: LogPlace,
    ) -> Result<StoreOrigin, StoreError> {
        let note = RunNote::of_store(store)?;
        let Some(last) = load(files)? else {
            let first = PageLimit {
                items_max: 1,
                bytes_max: 0,
            };
            let is_empty = match store.scan(PositionRange::ALL, None, first) {
                Ok(page) => page.items.is_empty(),
                Err(error) if error.is_corruption() => false,
                Err(error) => return Err(error),
            };
            return Ok(match is_empty {
                true => StoreOrigin::Own,
                false => StoreOrigin::Nobody(note.map(|note| note.node_id)),
            });
        };
        let Some(note) = note else {
            // An earlier version made no notes.
            return Ok(match Self::runs_are_noted(files)? {
                true => StoreOrigin::Other,
                false => StoreOrigin::Own,
            });
        };
        if note.directory_id != last.directory_id {
            return Ok(StoreOrigin::OtherDirectory(note.node_id));
        }
        if note.run != last.run() {
            // A start was cut short between its note here and its identity, before it wrote anything else.
            let is_cut_short = note.before == Some(last.run()) && note.begins_at == end;
            return Ok(match is_cut_short {
                true => StoreOrigin::Own,
                false => StoreOrigin::Other,
            });
        }
        let stop = CleanStop::load(files)?.filter(|stop| stop.ends(&last));
        let is_whole = stop.is_none_or(|stop| stop.store_end <= end.max(note.holds));
        Ok(match is_whole {
            true => StoreOrigin::Own,
            false => StoreOrigin::Other,
        })
    }

    /// Whether the store and the hints of this directory must say which run wrote them last.
    ///
    /// # Errors
    /// What the disk says.
    pub fn runs_are_noted(files: &dyn SmallFiles) -> Result<bool, StoreError> {
        // Its content says nothing, so damage to it says nothing either.
        Ok(files.read(RUNS_NOTED)?.is_some())
    }

    /// From now on they must. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn expect_notes(files: &dyn SmallFiles) -> Result<(), StoreError> {
        match Self::runs_are_noted(files)? {
            true => Ok(()),
            false => save_document(files, RUNS_NOTED, b""),
        }
    }

    /// Whether a node has ever started here.
    ///
    /// # Errors
    /// What the disk says.
    pub fn exists(files: &dyn SmallFiles) -> Result<bool, StoreError> {
        Ok(files.read(IDENTITY)?.is_some())
    }

    /// Whether the last run in this directory ended in order, or there was none.
    ///
    /// # Errors
    /// What the disk says; [`StoreError::DamagedFile`] as [`start`](Self::start).
    pub fn ended_cleanly(files: &dyn SmallFiles) -> Result<bool, StoreError> {
        let Some(last) = load(files)? else {
            return Ok(true);
        };
        Ok(CleanStop::load(files)?.is_some_and(|stop| stop.ends(&last)))
    }

    /// Before a start: makes it take a new actor, because the store does not hold what was minted under
    /// the present one. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn retire_actor(files: &dyn SmallFiles) -> Result<(), StoreError> {
        files.remove_durable(CLEAN_STOP)
    }

    /// Gives a directory that holds a copy of a node's data an identity, as of a run that ended without a marker: the
    /// first start takes a new actor. With a new directory id, unless it is to be the `former` directory and to go on
    /// from its generation. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn found_copy(
        files: &dyn SmallFiles,
        node_id: NodeId,
        former: Option<(DirectoryId, Generation)>,
        mut random: impl FnMut() -> u64,
    ) -> Result<(), StoreError> {
        files.remove_durable(CLEAN_STOP)?;
        let (directory_id, generation) =
            former.unwrap_or_else(|| (DirectoryId(random()), Generation(1)));
        let identity = Self {
            node_id,
            directory_id,
            generation,
            nonce: random(),
            actor: new_actor(None, &mut random),
            counter_floor: 0,
        };
        save_document(files, IDENTITY, &identity.to_bytes())
    }

    /// Takes a new actor during a run: whenever versions were discarded or could not be read, or
    /// peers know a newer generation of this node. Durable when it returns.
    ///
    /// # Errors
    /// What the disk says; the identity in memory is then the new one all the same.
    pub fn renew_actor(
        &mut self,
        files: &dyn SmallFiles,
        mut random: impl FnMut() -> u64,
    ) -> Result<(), IdentityError> {
        self.actor = new_actor(Some(self.actor), &mut random);
        self.counter_floor = 0;
        save_document(files, IDENTITY, &self.to_bytes())?;
        Ok(())
    }

    /// Ends a run in order, so that the next one goes on with this actor. Durable when it returns.
    ///
    /// Call it last: when no more dot can be minted, and every dot minted under `actor`, up to
    /// `last_counter`, is in the store and synced. `store_end` is how far its log reaches then: a store whose
    /// log ends before that is none for this marker.
    ///
    /// # Errors
    /// What the disk says; the stop then counts as unclean, which is safe.
    pub fn mark_clean(
        &self,
        files: &dyn SmallFiles,
        actor: Actor,
        last_counter: u64,
        store_end: LogPlace,
    ) -> Result<(), IdentityError> {
        let stop = CleanStop {
            generation: self.generation,
            nonce: self.nonce,
            actor,
            last_counter,
            store_end,
        };
        save_document(files, CLEAN_STOP, &stop.to_bytes())?;
        Ok(())
    }
}

fn load(files: &dyn SmallFiles) -> Result<Option<Identity>, StoreError> {
    let Some(document) = load_document(files, IDENTITY)? else {
        return Ok(None);
    };
    match Identity::from_bytes(&document) {
        Ok(identity) => Ok(Some(identity)),
        Err(error) => Err(damaged(IDENTITY, Damage::Undecodable(error))),
    }
}

/// An actor that is neither the old one nor 0, even with a source of randomness that is stuck.
fn new_actor(old: Option<Actor>, random: &mut impl FnMut() -> u64) -> Actor {
    let mut actor = Actor(random());
    while actor.0 == 0 || Some(actor) == old {
        actor.0 = actor.0.wrapping_add(1);
    }
    actor
}

/// Says that a run ended in order, and which.
#[derive(Debug, PartialEq, Eq)]
struct CleanStop {
    generation: Generation,
    nonce: u64,
    actor: Actor,
    last_counter: u64,
    /// How far the store's log reached. The markers of earlier versions do not say, and end there.
    store_end: LogPlace,
}

impl CleanStop {
    /// The marker. A damaged one is none: that makes the stop unclean, which is safe.
    fn load(files: &dyn SmallFiles) -> Result<Option<Self>, StoreError> {
        match load_document(files, CLEAN_STOP) {
            Ok(document) => Ok(document.and_then(|bytes: Bytes| Self::from_bytes(&bytes).ok())),
            Err(error @ StoreError::DamagedFile { .. }) => {
                tracing::warn!(%error, "taken for an unclean stop");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it marks the end of this run.
    fn ends(&self, run: &Identity) -> bool {
        self.generation == run.generation && self.nonce == run.nonce
    }
}

impl Wire for Identity {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        self.directory_id.encode(out);
        self.generation.encode(out);
        out.put_u64(self.nonce);
        self.actor.encode(out);
        put_varint(out, self.counter_floor);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node_id: NodeId::decode(reader)?,
            directory_id: DirectoryId::decode(reader)?,
            generation: Generation::decode(reader)?,
            nonce: reader.u64()?,
            actor: Actor::decode(reader)?,
            counter_floor: reader.varint()?,
        })
    }
}

impl Wire for CleanStop {
    fn encode(&self, out: &mut BytesMut) {
        self.generation.encode(out);
        out.put_u64(self.nonce);
        self.actor.encode(out);
        put_varint(out, self.last_counter);
        self.store_end.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            generation: Generation::decode(reader)?,
            nonce: reader.u64()?,
            actor: Actor::decode(reader)?,
            last_counter: reader.varint()?,
            store_end: match reader.left() {
                0 => LogPlace::default(),
                _ => LogPlace::decode(reader)?,
            },
        })
    }
}

#[cfg(test)]
mod tests;
