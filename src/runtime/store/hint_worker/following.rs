//! Hints follow the owners of their keys when the ring changes, a few at a time.
//!
//! Until a hint was looked at it is handed to nobody, and nobody's word ends it. The ring is on disk before the keeper of
//! hints hears of it, and at each start it hears of the present one: so a crash in between leaves nothing undone.

use std::sync::Arc;

use bytes::Bytes;
use dynakv_protocol::ErrorReply;
use dynakv_protocol::codec::Wire;
use dynakv_storage::Change;

use super::{HintJob, Worker};
use crate::engine::anti_entropy::handoff::{Hint, Rewritten};
use crate::engine::placement::ring::Ring;

/// How many hints are looked at in one step, and how many of them are written anew.
const LOOKED_AT_ONCE_MAX: usize = 4096;
const REWRITTEN_AT_ONCE_MAX: usize = 128;

impl Worker {
    /// Follows a ring, and takes the first step. Whether a sync is due.
    pub(super) fn follow(&mut self, ring: Arc<Ring>) -> bool {
        self.book.follow(ring);
        self.follows_in_memory = false;
        self.take_step()
    }

    /// Owes a hint to the present owners of its key. Whether that is another thing than before.
    pub(super) fn follow_with(&self, hint: &mut Hint, key: &Bytes) -> bool {
        let ring = self.book.ring();
        ring.is_some_and(|ring| hint.follow(ring, key))
    }

    /// Goes on behind the jobs that wait, if there are hints left.
    pub(super) fn ask_to_follow_on(&mut self) {
        if self.waits_to_follow || !self.book.is_behind() {
            return;
        }
        if let Some(jobs) = self.own_jobs.upgrade() {
            self.waits_to_follow = jobs.send(vec![HintJob::FollowOn]).is_ok();
        }
    }

    /// Takes the step that it has asked itself for. Whether a sync is due.
    pub(super) fn follow_on(&mut self) -> bool {
        self.waits_to_follow = false;
        self.take_step()
    }

    /// Looks at the next hints. Whether a sync is due for those that were written.
    fn take_step(&mut self) -> bool {
        let rewritten = self
            .book
            .follow_on(LOOKED_AT_ONCE_MAX, REWRITTEN_AT_ONCE_MAX);
        let must_sync = !rewritten.is_empty();
        for hint in &rewritten {
            if let Err(error) = self.rewrite(hint) {
                tracing::warn!(%error, "a hint that follows the ring could not be written");
                // The next tick goes on; from the beginning, if what was written before is undone.
                return true;
            }
        }
        self.ask_to_follow_on();
        must_sync
    }

    /// Brings to disk to whom a hint is owed now. Where there is no room it stays as it is: the book says what counts, and
    /// after a restart it is worked out anew.
    fn rewrite(&mut self, rewritten: &Rewritten) -> Result<(), ErrorReply> {
        let Rewritten { key, owed, needed } = rewritten;
        match (owed.is_empty(), self.follows_in_memory) {
            (true, false) => return self.remove(key),
            (true, true) => {
                self.gave_up_any = true;
                self.book.remove(key);
                return Ok(());
            }
            (false, true) => return Ok(()),
            (false, false) => {}
        }
        let Some(mut hint) = self.stored(key)? else {
            return Ok(());
        };
        (hint.owed, hint.needed) = (owed.clone(), *needed);
        let document = hint.to_bytes();
        match self.store.admit(document.len(), Change::Growth) {
            Ok(()) => self.write(key, &document),
            Err(_) => Ok(()),
        }
    }
}
