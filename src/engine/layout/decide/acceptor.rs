//! The voter: what a member has promised and accepted in the slot under decision.

use bytes::BytesMut;
use dynakv_protocol::codec::{DecodeError, Reader, Wire, put_tag_bytes};
use dynakv_protocol::gossip::{Accept, Ballot, Prepare, Vote};
use dynakv_protocol::ids::{DirectoryId, NodeId, RingVersion};
use dynakv_protocol::ring_document::RingDocument;

use crate::engine::counters::{self, ROUND_JUMP_MAX, ROUND_MAX};
use crate::engine::layout::document::check_next;

const TAG_PROMISED: u8 = 1;
const TAG_ACCEPTED: u8 = 2;

/// With this many voters every majority holds both, so one of them may have lost its past.
const VOTERS_WITHOUT_SPARE: usize = 2;

/// A member's vote in the decision about the next ring, as it stands on its disk.
///
/// A voter is a node *and its directory*: a node that lost its directory has lost its promises with it,
/// and is silent until a ring lists its new one. That ring was proposed after the loss, so nothing
/// that was promised before it can concern a later slot. With two voters it votes all the same: every
/// majority then holds the other one, who remembers, and silence would end all changes for ever.
///
/// The caller's part, without which two rings may be decided under one number:
/// - when an [`Answer`] says `save`, the acceptor is durable before the vote leaves the node, to itself
///   included;
/// - a ring is durable before it is handed in as `current`;
/// - the directory id is new whenever the directory is empty, damaged or found to be an old copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptor {
    /// Whose vote it is.
    node: NodeId,
    /// Where its promises are kept.
    directory: DirectoryId,
    /// The ring version that the promise is about; 0 before the first.
    slot: RingVersion,
    /// Nothing older than this is accepted.
    promised: Option<Ballot>,
    /// The last document accepted in this slot.
    accepted: Option<(Ballot, RingDocument)>,
}

/// A ballot on disk that nobody can have come to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node has accepted a ring in round {round}, which no proposer can have come to: somebody who is no \
     member has proposed it to an earlier version of dynakv. Stop all nodes of the cluster, remove the file \
     `acceptor` from each data directory, and start them again: no node follows that ring yet, and what was \
     decided before stays"
)]
pub struct ImpossibleBallot {
    /// Its round.
    pub round: u64,
}

/// A vote, and what must happen before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What to answer.
    pub vote: Vote,
    /// The acceptor has changed: make it durable first, and send nothing when that fails.
    pub save: bool,
}

impl Acceptor {
    /// The acceptor of a directory that was just made: it has never voted.
    pub fn new(node: NodeId, directory: DirectoryId) -> Self {
        Self {
            node,
            directory,
            slot: RingVersion(0),
            promised: None,
            accepted: None,
        }
    }

    /// What is left of an acceptor that was read from disk: a promise to a ballot that no proposer can have come
    /// to is none. It was given to somebody who is no member, by a version that believed every number, and would
    /// end all decisions about this slot. No member proposes under such a ballot, and no voter accepts under it,
    /// so nobody can have relied on it. True when there was one.
    ///
    /// # Errors
    /// [`ImpossibleBallot`] when a ring was *accepted* under one: it may have been decided, so it is not for this
    /// node alone to forget it.
    pub fn forget_impossible(&mut self) -> Result<bool, ImpossibleBallot> {
        // From half of the way on there is no telling who counted; nobody has.
        let is_impossible = |ballot: &Ballot| ballot.round > ROUND_MAX / 2;
        if let Some((ballot, _)) = self.accepted.as_ref().filter(|(b, _)| is_impossible(b)) {
            let round = ballot.round;
            return Err(ImpossibleBallot { round });
        }
        if !self.promised.as_ref().is_some_and(is_impossible) {
            return Ok(false);
        }
        self.promised = self.accepted.as_ref().map(|(ballot, _)| ballot.clone());
        Ok(true)
    }

    /// The document accepted for the version after `current`; it may have been decided.
    pub fn accepted_after(&self, current: &RingDocument) -> Option<&RingDocument> {
        let accepted = self.accepted.as_ref().map(|(_, document)| document);
        accepted.filter(|document| document.version > current.version)
    }

    /// The round for this node's next attempt to decide the slot after `current`: above all that it has
    /// seen, which saves the first refusal. Any round from 1 on is safe.
    pub fn next_round(&self, current: &RingDocument) -> u64 {
        let seen = match &self.promised {
            Some(promised) if self.slot > current.version => promised.round,
            Some(_) | None => 0,
        };
        seen.saturating_add(1)
    }

    /// Answers phase 1. `current` is the ring that this node follows, and durable.
    ///
    /// A ballot is promised once: a node that restarts and begins again with an old round is refused,
    /// and cannot mix its new document with what its old attempt still has in flight.
    pub fn on_prepare(&mut self, current: &RingDocument, prepare: &Prepare) -> Answer {
        let (slot, ballot) = (prepare.slot, &prepare.ballot);
        if !self.enter(current, slot) {
            return self.refuse(current, slot, ballot);
        }
        if self.promised.as_ref().is_some_and(|p| ballot <= p) {
            return self.refuse(current, slot, ballot);
        }
        if !self.is_in_reach(ballot) {
            return self.come_nearer(current, slot, ballot);
        }
        self.promised = Some(ballot.clone());
        Answer {
            vote: Vote {
                slot,
                granted: true,
                promised: ballot.clone(),
                accepted: self.accepted.clone(),
                decided: None,
            },
            save: true,
        }
    }

    /// Answers phase 2. `current` is this node's newest ring, and durable.
    ///
    /// A document that cannot follow `current` is refused whatever its ballot: see [`check_next`].
    pub fn on_accept(&mut self, current: &RingDocument, accept: &Accept) -> Answer {
        let (slot, ballot) = (accept.document.version, &accept.ballot);
        if !self.enter(current, slot) || check_next(current, &accept.document).is_err() {
            return self.refuse(current, slot, ballot);
        }
        if self.promised.as_ref().is_some_and(|p| ballot < p) {
            return self.refuse(current, slot, ballot);
        }
        if !self.is_in_reach(ballot) {
            return self.come_nearer(current, slot, ballot);
        }
        let mut save = false;
        match &self.accepted {
            // One ballot carries one document; a second one is a defect of its proposer.
            Some((b, document)) if b == ballot && *document != accept.document => {
                return self.refuse(current, slot, ballot);
            }
            Some((b, _)) if b == ballot => {}
            Some(_) | None => {
                self.promised = Some(ballot.clone());
                self.accepted = Some((ballot.clone(), accept.document.clone()));
                save = true;
            }
        }
        Answer {
            vote: Vote {
                slot,
                granted: true,
                promised: ballot.clone(),
                accepted: None,
                decided: None,
            },
            save,
        }
    }

    /// The highest round that was promised in this slot.
    fn promised_round(&self) -> u64 {
        self.promised.as_ref().map_or(0, |promised| promised.round)
    }

    /// Whether a proposer can have come to this ballot while this voter heard of no higher one than it has
    /// promised.
    fn is_in_reach(&self, ballot: &Ballot) -> bool {
        let ahead = ballot.round.saturating_sub(self.promised_round());
        counters::check_round(ballot).is_ok() && ahead <= ROUND_JUMP_MAX
    }

    /// Refuses a ballot that is too far ahead, and comes nearer to it by one jump: whoever has really counted so
    /// far, in weeks without a majority, is in reach after a few attempts. To promise more than is asked for
    /// is always safe.
    fn come_nearer(&mut self, current: &RingDocument, slot: RingVersion, asked: &Ballot) -> Answer {
        let save = counters::check_round(asked).is_ok();
        if save {
            self.promised = Some(Ballot {
                round: self.promised_round().saturating_add(ROUND_JUMP_MAX),
                node: asked.node.clone(),
            });
        }
        Answer {
            save,
            ..self.refuse(current, slot, asked)
        }
    }

    /// Turns to a slot, and says whether this node may vote in it.
    fn enter(&mut self, current: &RingDocument, slot: RingVersion) -> bool {
        // Only the version after one's own: the acceptors of any other are unknown here. A slot below
        // the one on disk was decided, and its promise is forgotten.
        let is_next = current.version.0.checked_add(1) == Some(slot.0) && slot >= self.slot;
        if !is_next || !self.is_voter(current) {
            return false;
        }
        if slot > self.slot {
            self.slot = slot;
            self.promised = None;
            self.accepted = None;
        }
        true
    }

    fn is_voter(&self, current: &RingDocument) -> bool {
        let own = current.voters().find(|member| member.id == self.node);
        let is_spared = || current.voters().count() == VOTERS_WITHOUT_SPARE;
        own.is_some_and(|own| own.directory_id == self.directory || is_spared())
    }

    /// A refusal that tells the proposer what it needs to do better: the ring it has missed, or the
    /// ballot to beat.
    fn refuse(&self, current: &RingDocument, slot: RingVersion, asked: &Ballot) -> Answer {
        let nothing_promised = || Ballot {
            round: 0,
            node: asked.node.clone(),
        };
        let promised = self.promised.clone().filter(|_| self.slot == slot);
        Answer {
            vote: Vote {
                slot,
                granted: false,
                promised: promised.unwrap_or_else(nothing_promised),
                accepted: None,
                decided: (slot <= current.version).then(|| Box::new(current.clone())),
            },
            save: false,
        }
    }
}

/// Deliberate damage, for the simulation to catch.
#[cfg(test)]
impl Acceptor {
    /// What is left when only acceptances were durable, not promises.
    pub(super) fn forget_promise(&mut self) {
        self.promised = self.accepted.as_ref().map(|(ballot, _)| ballot.clone());
    }

    /// What is left when only promises were durable, not acceptances.
    pub(super) fn forget_accepted(&mut self) {
        self.accepted = None;
    }
}

impl Wire for Acceptor {
    fn encode(&self, out: &mut BytesMut) {
        self.node.encode(out);
        self.directory.encode(out);
        self.slot.encode(out);
        if let Some(promised) = &self.promised {
            put_tag_bytes(out, TAG_PROMISED, &promised.to_bytes());
        }
        if let Some((ballot, document)) = &self.accepted {
            let mut field = BytesMut::new();
            ballot.encode(&mut field);
            document.encode(&mut field);
            put_tag_bytes(out, TAG_ACCEPTED, &field);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut acceptor = Self::new(NodeId::decode(reader)?, DirectoryId::decode(reader)?);
        acceptor.slot = RingVersion::decode(reader)?;
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_PROMISED => {
                    acceptor.promised = Some(Ballot::decode(&mut field)?);
                    field.finish()?;
                }
                TAG_ACCEPTED => {
                    let ballot = Ballot::decode(&mut field)?;
                    acceptor.accepted = Some((ballot, RingDocument::decode(&mut field)?));
                }
                // Unlike a message, this is a promise: what can't be read can't be kept.
                _ => return Err(DecodeError::Invalid { what: "acceptor" }),
            }
        }
        let coherent = match (&acceptor.promised, &acceptor.accepted) {
            (None, Some(_)) => false,
            (Some(promised), Some((ballot, document))) => {
                ballot <= promised && document.version == acceptor.slot
            }
            (Some(_) | None, None) => true,
        };
        if coherent {
            Ok(acceptor)
        } else {
            Err(DecodeError::Invalid { what: "acceptor" })
        }
    }
}

#[cfg(test)]
mod tests;
