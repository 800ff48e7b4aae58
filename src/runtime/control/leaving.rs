//! A node that goes: it sends its clients to others, says when nothing is left with it that is needed, and ends once the
//! ring does without it.

use std::collections::BTreeSet;

use dynakv_protocol::codec::Wire;
use dynakv_protocol::ring_document::{ChangePhase, RingDocument};
use dynakv_protocol::{NodeId, RingVersion};
use dynakv_storage::{SmallFiles, StoreError, save_document};
use tokio::time::{Duration, Instant};

use super::state::Removal;
use super::{Control, ControlError, load_wire};
use crate::engine::layout::change::holds_copies;
use crate::runtime::shared::data_directory::REMOVED;

/// How long clients have to finish what they have asked of a node that goes, before it says that it is done. It still
/// answers until it ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often a node that goes tells of the ring without it.
const ANNOUNCE: Duration = Duration::from_secs(1);

impl Control {
    /// A directory whose node was taken out of the ring is none to start in.
    ///
    /// # Errors
    /// [`ControlError::Removed`].
    pub(super) fn check_not_removed(
        files: &dyn SmallFiles,
        id: &NodeId,
    ) -> Result<(), ControlError> {
        match load_wire::<RingVersion>(files, REMOVED)? {
            Some(by) => Err(ControlError::Removed { id: id.clone(), by }),
            None => Ok(()),
        }
    }

    /// By which ring this node goes, once the new owners are read: from then on nobody needs it but for what
    /// it has to hand on.
    pub(super) fn goes_by(&self) -> Option<RingVersion> {
        let document = self.ring.as_ref()?.document();
        let change = document.change()?;
        let goes = change.phase == ChangePhase::ReadNew && document.is_leaving(&self.me.node_id);
        goes.then_some(document.version)
    }

    /// Sends clients away once this node goes. By which ring it goes and has nothing left that the others need, for gossip:
    /// its clients were told to go on elsewhere, what it holds is with its owners, and no hint counts on it.
    pub(super) fn take_leave(&mut self) -> RingVersion {
        let Some(ring_version) = self.goes_by() else {
            return RingVersion(0);
        };
        let now = Instant::now();
        let since = *self.farewell_since.get_or_insert_with(|| {
            tracing::info!("this node leaves the cluster: clients are sent to other nodes");
            now
        });
        self.clients.cancel();
        let is_settled = now >= since + FAREWELL
            && self.settling.has_handed_on_under() == ring_version
            && self.hints.counted() == 0;
        match is_settled {
            true => ring_version,
            false => RingVersion(0),
        }
    }

    /// A ring does without this node, which ends, but not before a majority of that ring's members are known to follow it.
    /// Whoever goes may be the only one that knows what was decided, and those that stay cannot decide it again once too
    /// few voters of the ring before are left.
    pub(super) fn go_by(&mut self, document: RingDocument) {
        let is_news = |removal: &Removal| removal.document.version < document.version;
        if self.removal.as_ref().is_none_or(is_news) {
            tracing::info!(
                version = document.version.0,
                "the ring does without this node, which ends as soon as those that stay know"
            );
            self.removal = Some(Removal {
                document,
                followed_by: BTreeSet::new(),
                announce_due: Instant::now(),
            });
            self.tell_who_stays(Instant::now());
        }
    }

    /// Tells those that stay of the ring without this node, until it ends.
    pub(super) fn tell_who_stays(&mut self, now: Instant) {
        let Some(removal) = self.removal.as_mut().filter(|it| it.announce_due <= now) else {
            return;
        };
        removal.announce_due = now + ANNOUNCE;
        self.announce();
    }

    /// The newest ring to tell others of: one that was decided, even if this node follows it never.
    pub(super) fn ring_to_tell(&self) -> Option<&RingDocument> {
        let removal = self.removal.as_ref().map(|it| &it.document);
        removal.or_else(|| self.newest_ring())
    }

    /// A member follows this ring.
    pub(super) fn note_followed(&mut self, by: &NodeId, version: RingVersion) {
        let Some(removal) = self
            .removal
            .as_mut()
            .filter(|it| it.document.version <= version)
        else {
            return;
        };
        if removal.document.is_voter(by) {
            removal.followed_by.insert(by.clone());
        }
        if removal.followed_by.len() >= removal.document.majority() {
            let by = removal.document.version;
            self.end_as_removed(by);
        }
    }

    /// Whether a ring does without this node, which has copies under the one before. Who was only coming in asks anew.
    pub(super) fn is_removed_by(&self, document: &RingDocument) -> bool {
        let own = self.newest_ring();
        let held = own.is_some_and(|own| holds_copies(own, &self.me.node_id));
        held && document.member(&self.me.node_id).is_none()
    }

    /// Ends this node, and has every start in its directory end: what is in there is of a member that is none any more,
    /// and may be out of date by any time.
    fn end_as_removed(&mut self, by: RingVersion) {
        let id = self.me.node_id.clone();
        self.end = Some(match save_document(&*self.files, REMOVED, &by.to_bytes()) {
            Ok(()) => ControlError::Removed { id, by },
            // The others tell it again at its next start.
            Err(error) if error.is_shortage() => ControlError::Removed { id, by },
            Err(error) => StoreError::into(error),
        });
    }
}
