//! Taking over the next ring: it is saved, then the store follows it, and then the node.

use std::sync::Arc;

use dynakv_protocol::RingVersion;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::ring_document::{ChangePhase, RingDocument};
use dynakv_storage::{StoreError, save_document};
use tokio::time::Instant;

use super::state::CallEnd;
use super::{Control, ControlError};
use crate::engine::layout::check_later;
use crate::engine::membership::{Event, RingMember};
use crate::engine::placement::ring::Ring;
use crate::runtime::shared::data_directory::RING;

impl Control {
    /// Follows the ring that its directory has, before anything is asked of it.
    ///
    /// # Errors
    /// What the disk says when what this node gains is noted that was not.
    pub(super) fn begin_with(&mut self, document: RingDocument) -> Result<(), StoreError> {
        // A ring that was forced, and whose file was not saved any more, nobody need follow ever.
        self.rebuilding.forget_gained_after(document.version)?;
        self.note_gained(&document)?;
        self.fences.begin_at(document.version);
        self.follow(document);
        Ok(())
    }

    /// Follows a ring that is on disk already.
    fn follow(&mut self, document: RingDocument) {
        let version = document.version;
        let members = document.members.iter().map(|member| RingMember {
            id: member.id.clone(),
            directory_id: member.directory_id,
            address: member.address.clone(),
        });
        let members = members.collect();
        if let Err(error) = self.seen.follow(&document) {
            // Tried again with the next news.
            tracing::warn!(%error, "could not note which runs of the members were seen");
        }
        tracing::info!(
            version = version.0,
            members = document.members.len(),
            step = document.step.name(),
            "ring"
        );
        let ring = Arc::new(Ring::new(document));
        let own = ring.index_of(&self.me.node_id);
        let is_owned = |segment| own.is_none_or(|own| ring.rebuilds(own, segment));
        let fetches = ring.document().change();
        let fetches = fetches.filter(|change| change.phase == ChangePhase::WriteBoth);
        let fetches_for = fetches.map(|change| change.begun_at);
        self.rebuilding.follow(version, fetches_for, is_owned);
        self.hints.follow(ring.clone());
        self.ring = Some(ring);
        self.note_accepted();
        self.step(Event::RingMembers(members));
        self.step(Event::RingVersion(version));
    }

    /// The newest ring that is durable here, followed or about to be.
    pub(super) fn newest_ring(&self) -> Option<&RingDocument> {
        let own = self.ring.as_ref().map(|ring| ring.document());
        self.adopting.as_ref().or(own)
    }

    /// Another node says what the ring is.
    pub(super) fn on_ring(&mut self, document: RingDocument) {
        // Nodes that have not joined take a ring only as the answer to their own join.
        if self.ring.is_some() {
            self.adopt(document);
        }
    }

    /// Takes over a ring that was decided: once it is durable, and the store has done what was asked of it under the one
    /// before.
    pub(super) fn adopt(&mut self, document: RingDocument) {
        if let Some(own) = self.newest_ring()
            && let Err(error) = check_later(own, &document)
        {
            // Most often it is this ring again.
            tracing::debug!(%error, version = document.version.0, "not followed");
            return;
        }
        let entry = document.member(&self.me.node_id);
        if entry.is_some_and(|entry| entry.directory_id != self.me.directory_id) {
            self.end = Some(ControlError::Replaced {
                id: self.me.node_id.clone(),
            });
            return;
        }
        if self.is_removed_by(&document) {
            return self.go_by(document);
        }
        let gained = self.note_gained(&document);
        let saved = gained.and_then(|()| save_document(&*self.files, RING, &document.to_bytes()));
        match saved {
            Ok(()) => {}
            // Gossip names its version again, and it is fetched again.
            Err(error) if error.is_shortage() => {
                tracing::warn!(%error, version = document.version.0, "the ring is not followed yet");
                return self.forget_what_is_not_followed();
            }
            Err(error) => {
                self.end = Some(error.into());
                return;
            }
        }
        let version = document.version;
        if self.ring.is_none() {
            // Nothing was ever asked of the store under another one.
            self.fences.begin_at(version);
            return self.adopted(document);
        }
        self.adopting = Some(document);
        let fenced = self.fences.move_to(version);
        self.spawn(async move {
            match fenced.await {
                Ok(()) => CallEnd::Fenced(version),
                // The store is gone, and with it soon the node.
                Err(_) => CallEnd::Ring(None),
            }
        });
    }

    /// What was noted of a ring that could not be saved: it is noted again with the next attempt, if that ever comes.
    fn forget_what_is_not_followed(&mut self) {
        let Some(followed) = self.newest_ring().map(|ring| ring.version) else {
            return;
        };
        match self.rebuilding.forget_gained_after(followed) {
            Ok(()) => {}
            // It is forgotten at the next attempt or at the next start.
            Err(error) if error.is_shortage() => {
                tracing::warn!(%error, "a note of that ring stays")
            }
            Err(error) => self.end = Some(error.into()),
        }
    }

    /// From now on the store follows this ring: the node does, too.
    pub(super) fn on_fenced(&mut self, version: RingVersion) {
        // Where a newer one has come meanwhile, its own fence is on its way.
        let document = self.adopting.take_if(|it| it.version == version);
        if let Some(document) = document {
            self.adopted(document);
        }
    }

    fn adopted(&mut self, document: RingDocument) {
        self.follow(document);
        self.publish();
        self.announce();
        // Whoever waited is answered, or the next attempt begins, with the new ring.
        self.decide_if_due(Instant::now());
    }
}

#[cfg(test)]
mod tests;
