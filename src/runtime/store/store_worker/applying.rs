//! One job of the writer: whether the disk has room for it, what is stored, what becomes of that (which the engine
//! decides), and storing it.

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::causal::Dot;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::limits::SIBLINGS_WARN;
use dynakv_protocol::peer::Digest;
use dynakv_storage::{Footprint, Mutation, StoreError};
use tokio::time::Instant;

use super::jobs::{StoreEvent, Token, WriteJob, WriteWork};
use super::trouble::{is_damaged_value, note_damage, refusal};
use super::{Writer, Written};
use crate::engine::write::apply::{self, Change, Present, Refused, State, ToMint, Work};
use crate::engine::write::lateness;
use crate::engine::write::outcome::JobOutcome;
use crate::engine::write::replace::replace;

impl Writer {
    /// Applies one job and returns how many bytes it wrote.
    pub(super) fn apply(
        &mut self,
        job: WriteJob,
        now_unix_ms: u64,
        events: &mut Vec<StoreEvent>,
    ) -> usize {
        let WriteJob {
            token,
            ring_version,
            key,
            work,
        } = job;
        if let Err(error) = self.fence.check(ring_version) {
            let outcome = JobOutcome::Refused(error);
            events.push(StoreEvent::Job { token, outcome });
            return 0;
        }
        let applied = match work {
            WriteWork::Rebase { sent } => {
                let work = Work::Rebase { sent };
                self.try_apply((token, &key), work, None, now_unix_ms, events)
            }
            WriteWork::Replace { expected, versions } => {
                self.replace(token, &key, (expected, versions))
            }
            WriteWork::Mint {
                intent,
                seen,
                catches_up,
                cluster_id,
                begin_by,
            } => {
                let write = ToMint {
                    intent,
                    seen,
                    catches_up,
                    cluster_id,
                };
                self.try_apply(
                    (token, &key),
                    Work::Mint(write),
                    begin_by,
                    now_unix_ms,
                    events,
                )
            }
            WriteWork::Merge {
                versions,
                tell_beside,
            } => {
                let work = Work::Merge {
                    versions,
                    tell_beside,
                };
                self.try_apply((token, &key), work, None, now_unix_ms, events)
            }
        };
        applied.unwrap_or_else(|error| {
            let outcome = JobOutcome::Refused(error);
            events.push(StoreEvent::Job { token, outcome });
            0
        })
    }

    /// Mints or merges, unless it is too late for that. Returns how many bytes it wrote.
    fn try_apply(
        &mut self,
        (token, key): (Token, &Bytes),
        work: Work,
        begin_by: Option<Instant>,
        now_unix_ms: u64,
        events: &mut Vec<StoreEvent>,
    ) -> Result<usize, ErrorReply> {
        self.admit(key, &work)?;
        let was_rebuilding = self.rebuilding.covers(key);
        let stored = match self.store.get(key) {
            Ok(stored) => stored,
            Err(error) => self.without_damaged(key, &error)?,
        };
        self.renew_if_given_up();
        let rebuilding = was_rebuilding || self.rebuilding.covers(key);
        let present = Present::decode(key, stored).map_err(|refused| self.noted(key, refused))?;
        let before = footprint(key, &present);
        let entries_before = present.versions.clock().len();
        // It may have waited for the disk.
        if begin_by.is_some_and(|by| by <= Instant::now()) {
            return Err(lateness::refusal());
        }
        if matches!(work, Work::Mint(_)) {
            self.minted_in.insert(Segment::of_key(key));
        }
        let minter = &mut self.minter;
        let applied = apply::apply(key, present, work, minter, now_unix_ms, rebuilding);
        if let Some(dot) = applied.contradicted {
            self.note_contradiction(key, dot);
        }
        if let Some(why) = applied.locked {
            self.note_locked(key, &why);
        }
        let Change {
            state,
            at_once,
            once_durable,
        } = applied.change;
        let bytes = match state {
            Some(state) => {
                let after = Footprint::of_encoded(key, &state.versions, &state.encoded);
                self.note_siblings(key, &state, (&before, &after));
                self.put(key, state, (before, after), entries_before)?
            }
            None => 0,
        };
        events.extend(at_once.map(|outcome| StoreEvent::Job { token, outcome }));
        // Also where nothing is new: what is there may still wait for its sync.
        let written = once_durable.map(|outcome| Written { token, outcome });
        self.written.extend(written);
        Ok(bytes)
    }

    /// Puts versions in the place of the expected ones. Returns how many bytes it wrote.
    fn replace(
        &mut self,
        token: Token,
        key: &Bytes,
        replacing: (Option<Digest>, Bytes),
    ) -> Result<usize, ErrorReply> {
        let rebuilding = self.rebuilding.covers(key);
        let stored = self.store.get(key).map_err(|error| refusal(&error))?;
        self.renew_if_given_up();
        let replaced = replace(key, stored, replacing, &mut self.minter, rebuilding);
        let replacement = replaced.map_err(|refused| self.noted(key, refused))?;
        let bytes = match replacement.change.state {
            Some(state) => {
                let before = footprint(key, &replacement.before);
                let after = Footprint::of_encoded(key, &state.versions, &state.encoded);
                // What mending leaves of a clock has not grown.
                let entries = state.versions.clock().len();
                self.put(key, state, (before, after), entries)?
            }
            None => 0,
        };
        let once_durable = replacement.change.once_durable;
        let written = once_durable.map(|outcome| Written { token, outcome });
        self.written.extend(written);
        Ok(bytes)
    }

    /// Stores a state, without syncing. Returns how many bytes it has.
    fn put(
        &mut self,
        key: &Bytes,
        state: State,
        (before, after): (Footprint, Footprint),
        entries_before: usize,
    ) -> Result<usize, ErrorReply> {
        let State { versions, encoded } = state;
        let bytes = encoded.len();
        let mutation = Mutation {
            key: key.clone(),
            versions: encoded,
            before,
            after,
        };
        if let Err(error) = self.store.apply(std::slice::from_ref(&mutation)) {
            // On a full disk, or in a shortage, it was not applied, and nobody has seen its dot.
            let passes = error.passes();
            let refusal = refusal(&error).maybe_applied(!passes);
            self.failed = (!passes).then_some(error);
            return Err(refusal);
        }
        self.note_stored(key, entries_before, &versions, bytes);
        Ok(bytes)
    }

    /// What is said of a job that changes nothing. Takes note when that is because its key is locked.
    fn noted(&self, key: &[u8], refused: Refused) -> ErrorReply {
        if let Some(why) = refused.locked {
            self.note_locked(key, &why);
        }
        refused.error
    }

    /// Counts a key's siblings, and warns once of many.
    fn note_siblings(&self, key: &[u8], state: &State, (before, after): (&Footprint, &Footprint)) {
        let standing = state.versions.standing().count();
        self.metrics.siblings.record(standing as f64);
        let (live_before, live) = (before.tally.versions, after.tally.versions);
        if live == SIBLINGS_WARN as u64 && live_before < live {
            tracing::warn!(
                key = %key.escape_ascii(),
                siblings = live,
                "many concurrent values: does some client write with old contexts?"
            );
        }
    }

    /// One write with two values takes damage that no checksum noticed, or two nodes under one name.
    fn note_contradiction(&self, key: &[u8], dot: Dot) {
        self.metrics.store.contradicted_dots.increment(1);
        tracing::error!(
            key = %key.escape_ascii(), actor = %dot.actor, counter = dot.counter,
            "one write has two values: the larger is kept. Damage that no checksum noticed, or \
             two nodes that write under one name"
        );
    }

    /// What counts as absent because it was given up may have had a dot of the present actor. To be asked after the store
    /// was read.
    fn renew_if_given_up(&mut self) {
        let given_up = self.rebuilding.given_up();
        if self.given_up != given_up {
            self.given_up = given_up;
            self.minter.renew();
        }
    }

    /// What stands for a value that cannot be read: nothing. What is written takes its place; until the
    /// segment is rebuilt, no read counts on it, and a blind write over it has no vote of this node.
    fn without_damaged(
        &mut self,
        key: &[u8],
        error: &StoreError,
    ) -> Result<Option<Bytes>, ErrorReply> {
        if !is_damaged_value(error) {
            return Err(refusal(error));
        }
        note_damage(&self.rebuilding, key, error)?;
        // A dot of the present actor may be among what was lost: the next one under it would cover it.
        self.minter.renew();
        self.rebuilding
            .note_replaced(key)
            .map_err(|error| refusal(&error))?;
        Ok(None)
    }
}

/// What a key adds to what the store counts of all, as it is stored.
pub(super) fn footprint(key: &[u8], present: &Present) -> Footprint {
    match &present.encoded {
        Some(encoded) => Footprint::of_encoded(key, &present.versions, encoded),
        None => Footprint::default(),
    }
}
