//! What happens to the hint of one key: kept, minted over, owed, confirmed, given up.

use bytes::Bytes;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::{ErrorCode, ErrorReply, NodeId, RingVersion};
use dynakv_storage::{Change, HintLog, StoreError};

use super::kept::read_book;
use super::{Confirmation, Due, MEMORY_PER_KEY_BYTES, Worker};
use crate::engine::anti_entropy::handoff::{Confirmed, Hint, Word, fits};
use crate::engine::limits;
use crate::engine::write::mint::Intent;
use crate::engine::write::outcome::JobOutcome;
use crate::runtime::store::store_worker::{StoreEvent, refusal};

impl Worker {
    /// Adds to what is kept of a key; gives what is kept now.
    pub(super) fn keep(&mut self, key: &Bytes, mut hint: Hint) -> Result<Hint, ErrorReply> {
        // One of its own: a slice would hold on to the buffer that its request came in.
        let key = &Bytes::copy_from_slice(key);
        let counts = hint.counts();
        // It may have been sent under an earlier ring.
        self.follow_with(&mut hint, key);
        let kept = match self.stored(key)? {
            Some(mut before) => {
                let is_other = self.follow_with(&mut before, key);
                let mut kept = before.clone();
                kept.absorb(hint);
                if !is_other && kept.is_no_news_after(&before) {
                    if before.versions.is_none() {
                        // What it stands for may have changed since it was handed over.
                        self.book.put(key.clone(), &before);
                    }
                    return Ok(before);
                }
                kept
            }
            None => hint,
        };
        if kept.owed.is_empty() {
            // Who was to be reminded owns the key no more.
            if self.log.contains(key) {
                self.remove(key)?;
            }
            return Ok(kept);
        }
        let document = kept.to_bytes();
        if let Some(versions) = &kept.versions {
            limits::check(key, versions, document.len())?;
        }
        let bytes = HintLog::record_bytes(key.len(), document.len()) + MEMORY_PER_KEY_BYTES;
        let replaced = match self.log.bytes_of(key) {
            0 => 0,
            bytes => bytes + MEMORY_PER_KEY_BYTES,
        };
        let (kept_bytes, bytes_max) = (self.kept_bytes(), self.bounds.bytes_max);
        if !fits(counts, bytes, replaced, kept_bytes, bytes_max) {
            let message = "this node keeps as many hints for other nodes as it may (hints_bytes_max); \
                           send the write to another node, or bring back an owner of the key: see \
                           `dynakv status`";
            return Err(ErrorReply::new(ErrorCode::Overloaded, message).retryable());
        }
        if let Err(error) = self.store.admit(document.len(), Change::Growth) {
            self.metrics.refused_for_disk.increment(1);
            return Err(refusal(&error));
        }
        self.write(key, &document)?;
        self.book.put(key.clone(), &kept);
        match counts {
            true => self.metrics.hints.kept_counted.increment(1),
            false => self.metrics.hints.kept_reminders.increment(1),
        }
        Ok(kept)
    }

    pub(super) fn write(&mut self, key: &Bytes, document: &[u8]) -> Result<(), ErrorReply> {
        match self.log.put(key.clone(), document) {
            Ok(()) => Ok(()),
            // Nothing is wrong with the disk.
            Err(error @ StoreError::TooLarge { .. }) => Err(refusal(&error)),
            Err(error) => {
                let refusal = refusal(&error).maybe_applied(!error.passes());
                self.on_failed(error);
                Err(refusal)
            }
        }
    }

    /// The disk took nothing. Where it is full, or something is short, what waited is not kept, and whoever waited is told so;
    /// anything else is the end.
    pub(super) fn on_failed(&mut self, error: StoreError) {
        if !error.passes() {
            self.failed = Some(error);
            return;
        }
        let refusal = refusal(&error).maybe_applied(true);
        let waiting = std::mem::take(&mut self.written).into_iter();
        let refused = waiting.map(|token| StoreEvent::Job {
            token,
            outcome: JobOutcome::Refused(refusal.clone()),
        });
        self.send(refused.collect());
        // A dot may be gone that others have seen.
        self.gave_up_any = true;
        // Or each attempt would undo itself, and nothing were handed over.
        self.follows_in_memory = true;
        match read_book(&mut self.log, self.book.successor()) {
            Ok(book) => self.book = book,
            Err(error) => self.failed = Some(error),
        }
    }

    /// What is kept of a key. Damage is worth as much as nothing: the hint is given up.
    pub(super) fn stored(&mut self, key: &Bytes) -> Result<Option<Hint>, ErrorReply> {
        let document = match self.log.get(key) {
            Ok(document) => document,
            Err(error) if error.is_corruption() => {
                self.give_up_damaged(key, &error.to_string())?;
                None
            }
            Err(error) => return Err(refusal(&error)),
        };
        match document.map(|document| Hint::from_bytes(&document)) {
            None => Ok(None),
            Some(Ok(hint)) => Ok(Some(hint)),
            Some(Err(error)) => {
                self.give_up_damaged(key, &error.to_string())?;
                Ok(None)
            }
        }
    }

    fn give_up_damaged(&mut self, key: &Bytes, error: &str) -> Result<(), ErrorReply> {
        tracing::error!(key = %key.escape_ascii(), error, "a damaged hint is given up");
        self.metrics.hints.damaged.increment(1);
        self.remove(key)
    }

    pub(super) fn remove(&mut self, key: &Bytes) -> Result<(), ErrorReply> {
        self.gave_up_any = true;
        self.book.remove(key);
        match self.log.remove(key) {
            Ok(_) => Ok(()),
            Err(error) => {
                let refusal = refusal(&error);
                self.on_failed(error);
                Err(refusal)
            }
        }
    }

    /// A write that no owner could be reached for: it gets its dot here, over what is kept of the key.
    pub(super) fn mint(
        &mut self,
        key: &Bytes,
        intent: Intent,
        mut hint: Hint,
        now_unix_ms: u64,
    ) -> Result<Versions, ErrorReply> {
        let kept = self.stored(key)?;
        let mut versions = kept.and_then(|hint| hint.versions).unwrap_or_default();
        if std::mem::take(&mut self.gave_up_any) {
            self.minter.renew();
        }
        self.minter.mint(&mut versions, intent, now_unix_ms)?;
        hint.versions = Some(versions);
        let kept = self.keep(key, hint).inspect_err(|_| {
            // The dot is in no hint.
            self.gave_up_any = true;
        })?;
        Ok(kept.versions.unwrap_or_default())
    }

    pub(super) fn next(
        &mut self,
        node: &NodeId,
        after: Option<&Bytes>,
        (keys_max, bytes_max): (usize, usize),
    ) -> Vec<Due> {
        let next = self.book.next(node, after, keys_max);
        let mut due = Vec::with_capacity(next.len());
        let mut bytes = 0;
        for (key, revision, is_said) in next {
            if bytes >= bytes_max {
                break;
            }
            // One that cannot be read has been given up by this, or is asked for again.
            if let Ok(Some(hint)) = self.stored(&key) {
                let versions = hint.versions.map(|versions| versions.to_bytes());
                bytes += versions.as_ref().map_or(0, Bytes::len);
                due.push(Due {
                    key,
                    revision,
                    versions,
                    is_said,
                });
            }
        }
        due
    }

    pub(super) fn confirm(
        &mut self,
        by: &NodeId,
        ring_version: RingVersion,
        confirmation: &Confirmation,
    ) {
        let Confirmation {
            key,
            revision,
            word,
        } = confirmation;
        let under = (*revision, ring_version);
        let confirmed = self.book.confirm(key, under, by, *word);
        if matches!(word, Word::Has { .. }) && confirmed != Confirmed::Stale {
            self.metrics.hints.handed_over.increment(1);
        }
        match confirmed {
            // What was said until now is not on disk: after a restart the owners are asked anew.
            Confirmed::Stale | Confirmed::Noted => {}
            Confirmed::Done => {
                // Where the disk is full it is handed over again.
                let _ = self.remove(key);
            }
            Confirmed::Settled { owed } => {
                let Ok(Some(mut hint)) = self.stored(key) else {
                    return;
                };
                (hint.owed, hint.needed) = (owed, 0);
                // Where it cannot be written a restart takes it for one that counts, which is safe.
                let _ = self.write(key, &hint.to_bytes());
            }
        }
    }

    /// Drops what counts for nothing and is too old: anti-entropy has taken over long ago.
    pub(super) fn look_over(&mut self, now_unix_ms: u64) {
        let age_max_ms = self.bounds.age_max.as_millis() as u64;
        for key in self
            .book
            .kept_before(now_unix_ms.saturating_sub(age_max_ms))
        {
            self.metrics.hints.dropped_for_age.increment(1);
            if self.remove(&key).is_err() {
                return;
            }
        }
        let oldest = self.book.oldest_kept_at_ms();
        let age_ms = oldest.map_or(0, |kept_at| now_unix_ms.saturating_sub(kept_at));
        self.metrics.hints.oldest_age.set(age_ms as f64 / 1000.0);
    }
}
