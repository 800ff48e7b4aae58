//! Sloppy writes and what is kept for owners that miss one.

use dynakv_protocol::causal::Versions;
use dynakv_protocol::codec::Wire;
use dynakv_protocol::peer::KeepHint;
use smallvec::SmallVec;

use super::forwarding::say_again;
use super::{
    ConnectionId, Coordinator, ErrorCode, ErrorReply, HintJob, NodeSlot, OperationId, Preference,
    Reach, Ring, Role, Segment, Token,
};
use crate::engine::anti_entropy::handoff::Hint;
use crate::engine::placement::preference::SELF;
use crate::runtime::data::dispatch::{Limits, data_request};
use crate::runtime::data::operations::InHand;

/// How many nodes may at most be asked to stand in for the owners of one key.
const STAND_INS_MAX: usize = 8;

impl Coordinator {
    /// Who may stand in for owners of a key, the nearest first: who is in reach and owns no copy.
    pub(super) fn stand_ins(&self, key: &[u8]) -> SmallVec<[NodeSlot; 4]> {
        let Some(ring) = &self.view.ring else {
            return SmallVec::new();
        };
        let successors = ring.successors(Segment::of_key(key));
        let in_reach = successors
            .map(|member| self.links.slot_of(member))
            .filter(|&node| node != SELF && self.links.reach(node) == Reach::Usable);
        in_reach.take(STAND_INS_MAX).collect()
    }

    /// Whether this node may itself stand in for one of these owners.
    pub(super) fn may_stand_in(&self, ring: &Ring, owners: &Preference) -> bool {
        let own = ring.index_of(self.links.id(SELF));
        owners.place_of(SELF).is_none() && own.is_some_and(|own| ring.may_stand_in(own))
    }

    /// No owner takes a sloppy write: this node stands in for the first of them.
    pub(super) fn stand_in(&mut self, id: OperationId) {
        // Before the operation is taken out: whoever waits for it must be answered. It was there when the
        // request began, and rings are only ever replaced.
        let Some(ring) = self.view.ring.clone() else {
            return;
        };
        let Some(InHand {
            requester,
            key,
            mut frame,
            ..
        }) = self.operations.remove(id)
        else {
            return;
        };
        say_again(&requester, &mut frame);
        let owners = self.owners(&ring, &key);
        if !self.may_stand_in(&ring, &owners) {
            // The ring has changed since.
            return self.begin(requester, frame);
        }
        match data_request(&frame, self.limits(&ring)) {
            Ok(request) => {
                self.coordinate(
                    requester,
                    frame,
                    request,
                    owners,
                    Role {
                        place: 0,
                        is_stand_in: true,
                    },
                );
            }
            // It was checked when it came, under the same settings.
            Err(error) => self.end(requester, Err(error)),
        }
    }

    /// What requests of clients are held against.
    pub(super) fn limits(&self, ring: &Ring) -> Limits {
        Limits {
            value_bytes_max: self.bounds.value_bytes_max,
            // N is at most 32.
            effective_n: ring.document().effective_n() as u8,
            w: self.view.w,
            r: self.view.r,
            cluster_id: self.view.cluster_id,
        }
    }

    /// Another node asks this one to keep versions for owners.
    pub(super) fn keep_hint(
        &mut self,
        connection: ConnectionId,
        request_id: u64,
        hint: KeepHint,
    ) -> Result<(), ErrorReply> {
        if hint.key.is_empty() {
            let message = "a hint needs a key";
            return Err(ErrorReply::new(ErrorCode::BadRequest, message));
        }
        let ring = self.view.ring.as_ref();
        let is_member = |node| ring.is_some_and(|ring| ring.index_of(node).is_some());
        if let Some(stranger) = hint.owed.iter().find(|&node| !is_member(node)) {
            let message =
                format!("{stranger} is no member of the ring: nothing can be kept for it");
            return Err(ErrorReply::new(ErrorCode::BadRequest, message));
        }
        let versions = Versions::from_bytes(&hint.versions).map_err(|error| {
            ErrorReply::new(ErrorCode::BadRequest, format!("versions: {error}"))
        })?;
        self.replica_jobs += 1;
        self.hint_jobs.push(HintJob::Keep {
            token: Token::Hint(connection, request_id),
            ring_version: hint.ring_version,
            key: hint.key,
            hint: Box::new(Hint {
                versions: Some(versions),
                owed: hint.owed.into_iter().collect(),
                needed: hint.needed,
                kept_at_ms: self.clock.unix_ms(),
            }),
        });
        Ok(())
    }

    pub(super) fn flush_hints(&mut self) {
        if !self.hint_jobs.is_empty() {
            self.hints.send(std::mem::take(&mut self.hint_jobs));
        }
        if !self.reminders.is_empty() {
            let dropped = self.hints.remind(std::mem::take(&mut self.reminders));
            self.metrics
                .hints
                .dropped_at_bound
                .increment(dropped as u64);
        }
    }
}
