//! A write that is in hand while the ring changes.
//!
//! What an owner grants counts under the ring that it was asked under, and under no other: the next one may have other
//! owners. So a write that meets a newer ring is counted anew among the owners of that one. It keeps its dot, as a
//! second one would be a second write. What they are given is what this node's store has of the key by then, and not
//! what was sent before: what has become of it meanwhile is not undone.

use bytes::Bytes;
use dynakv_protocol::RingVersion;
use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;

use super::{
    Effect, NodeSlot, Phase, Preference, Put, Quorum, Round, SELF, SmallVec, hears_at_least,
};
use crate::engine::write::beside::stands_beside;

impl Put {
    /// Somebody who was asked follows a newer ring. What was not minted yet begins anew instead; what was answered is
    /// left to mending.
    pub(super) fn on_stale(&mut self, version: RingVersion, effects: &mut Vec<Effect>) {
        let minted = match &mut self.phase {
            Phase::Replicating { versions, context } | Phase::Rebasing { versions, context } => {
                Some((std::mem::take(versions), std::mem::take(context)))
            }
            // The second dot is not minted yet: what stands beside the first one is asked for again.
            Phase::Minting => {
                let first = self.first.take().map(|first| *first);
                if first.is_some() {
                    (self.round, self.asks_beside) = (Round::First, true);
                }
                first
            }
            _ => None,
        };
        if let Some((versions, context)) = minted {
            self.phase = Phase::Rebasing { versions, context };
            effects.push(Effect::AwaitRing(version));
        }
    }

    /// Whether nothing of it is in any store, if this node's own has just refused to mint it.
    pub fn may_begin_again(&self, own_store_refused: bool) -> bool {
        match self.phase {
            Phase::Connecting | Phase::CatchingUp { .. } => true,
            Phase::Minting => own_store_refused && self.first.is_none(),
            Phase::Replicating { .. } | Phase::Rebasing { .. } | Phase::Tail | Phase::Over => false,
        }
    }

    /// This node follows the newer ring, under which these are the owners. Of them others are in reach, and nodes may stand
    /// in for them, the nearest first.
    pub fn rebase(
        &mut self,
        owners: Preference,
        (usable, mut stand_ins): (SmallVec<[NodeSlot; 4]>, SmallVec<[NodeSlot; 4]>),
        effects: &mut Vec<Effect>,
    ) {
        let Phase::Rebasing { versions, .. } = &self.phase else {
            return;
        };
        let versions = versions.clone();
        self.sent_before.get_or_insert_with(|| versions.clone());
        let Some(own) = owners.place_of(SELF) else {
            // Its store is no owner's any more, and so not what the others are to be given.
            return self.fail(self.unavailable(), effects);
        };
        let sides = owners.sides();
        self.own = own;
        self.hears_at_least = hears_at_least(self.promised, sides, self.w);
        self.usable = usable;
        self.owners = owners;
        self.acting = SmallVec::new();
        if self.is_sloppy() {
            stand_ins.reverse();
            self.stand_ins = Some(stand_ins);
        }
        self.beside = None;
        let votes = match self.asks_beside && !self.is_sloppy() {
            true => self.hears_at_least,
            false => 0,
        };
        self.votes = Quorum::of_readers(votes, sides);
        self.count_copies();
        effects.push(Effect::Rebase {
            round: self.round,
            versions,
        });
    }

    /// What has come to this node since the write was sent stands beside it here, as it might at another owner. A blind
    /// write is to replace it, and nobody else would say so: they are sent it along.
    pub(super) fn note_come_beside(&mut self, versions: &Bytes) {
        let before = self.sent_before.as_ref().filter(|_| self.asks_beside);
        let sent = before.and_then(|sent| Versions::from_bytes(sent).ok());
        if let (Some(sent), Ok(now)) = (sent, Versions::from_bytes(versions))
            && stands_beside(&sent, &now)
        {
            self.beside = Some(Box::new(now));
        }
    }
}
