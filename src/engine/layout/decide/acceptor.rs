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

/// With this many members every majority holds both, so one of them may have lost its past.
const MEMBERS_WITHOUT_SPARE: usize = 2;

/// A member's vote in the decision about the next ring, as it stands on its disk.
///
/// A voter is a node *and its directory*: a node that lost its directory has lost its promises with it,
/// and is silent until a ring lists its new one. That ring was proposed after the loss, so nothing
/// that was promised before it can concern a later slot. With two members it votes all the same: every
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

    /// Answers phase 1. `current` is this node's newest ring, and durable.
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
        match current.member(&self.node) {
            Some(member) => {
                member.directory_id == self.directory
                    || current.members.len() == MEMBERS_WITHOUT_SPARE
            }
            None => false,
        }
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
                decided: (slot <= current.version).then(|| current.clone()),
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
mod tests {
    use super::*;
    use crate::engine::layout::decide::simulation::{ballot, id, member, ring};
    use crate::engine::layout::document::seal;
    use dynakv_protocol::ids::ClusterId;
    use dynakv_protocol::ring_document::Step;

    fn prepare(slot: u64, round: u64, name: &str) -> Prepare {
        Prepare {
            slot: RingVersion(slot),
            ballot: ballot(round, name),
        }
    }

    fn accept(round: u64, name: &str, document: &RingDocument) -> Accept {
        Accept {
            ballot: ballot(round, name),
            document: document.clone(),
        }
    }

    /// The acceptor of member a, in the directory that [`ring`] lists.
    fn new() -> Acceptor {
        Acceptor::new(id("a"), member("a").directory_id)
    }

    fn refused(slot: u64, promised: Ballot, decided: Option<RingDocument>) -> Answer {
        Answer {
            vote: Vote {
                slot: RingVersion(slot),
                granted: false,
                promised,
                accepted: None,
                decided,
            },
            save: false,
        }
    }

    fn granted(promised: Ballot, accepted: Option<(Ballot, RingDocument)>, save: bool) -> Answer {
        Answer {
            vote: Vote {
                slot: RingVersion(2),
                granted: true,
                promised,
                accepted,
                decided: None,
            },
            save,
        }
    }

    #[test]
    fn a_promise_holds_against_older_ballots_and_is_given_once() {
        let (ring, mut acceptor) = (ring(3), new());
        let sealed = seal(&ring).unwrap();
        let second = ballot(2, "b");
        assert_eq!(
            acceptor.on_prepare(&ring, &prepare(2, 2, "b")),
            granted(second.clone(), None, true)
        );
        // Older, and the very same again: a restarted proposer might mean another document by it.
        for again in [prepare(2, 1, "c"), prepare(2, 2, "a"), prepare(2, 2, "b")] {
            let answer = acceptor.on_prepare(&ring, &again);
            assert_eq!(answer, refused(2, second.clone(), None), "{again:?}");
        }
        assert_eq!(
            acceptor.on_accept(&ring, &accept(1, "c", &sealed)),
            refused(2, second.clone(), None)
        );
        assert_eq!(
            acceptor.on_accept(&ring, &accept(2, "b", &sealed)),
            granted(second.clone(), None, true)
        );
        // A duplicate changes nothing, so nothing needs to be saved.
        assert_eq!(
            acceptor.on_accept(&ring, &accept(2, "b", &sealed)),
            granted(second.clone(), None, false)
        );
        let third = ballot(3, "a");
        assert_eq!(
            acceptor.on_prepare(&ring, &prepare(2, 3, "a")),
            granted(third.clone(), Some((second, sealed)), true)
        );
        assert_eq!(acceptor.next_round(&ring), 4);
    }

    /// One such promise would end all decisions about the slot.
    #[test]
    fn a_round_that_nobody_has_come_to_is_not_promised() {
        let (ring, mut acceptor) = (ring(3), new());
        let sealed = seal(&ring).unwrap();
        for round in [ROUND_MAX + 1, u64::MAX] {
            let before = acceptor.clone();
            let answer = acceptor.on_prepare(&ring, &prepare(2, round, "z"));
            assert_eq!(answer, refused(2, ballot(0, "z"), None));
            let answer = acceptor.on_accept(&ring, &accept(round, "z", &sealed));
            assert_eq!(answer, refused(2, ballot(0, "z"), None));
            assert_eq!(
                (acceptor.clone().promised, acceptor.accepted.clone()),
                (before.promised, None)
            );
        }
        // One that is only far ahead brings it nearer, so that whoever has really come so far is in reach in the end.
        let far = 3 * ROUND_JUMP_MAX;
        for nearer in 1..=2 {
            let answer = acceptor.on_prepare(&ring, &prepare(2, far + nearer, "z"));
            let mut expected = refused(2, ballot(nearer * ROUND_JUMP_MAX, "z"), None);
            expected.save = true;
            assert_eq!(answer, expected);
        }
        let answer = acceptor.on_prepare(&ring, &prepare(2, far, "b"));
        assert!(answer.vote.granted);
        assert_eq!(acceptor.next_round(&ring), far + 1);
    }

    #[test]
    fn a_promise_that_cannot_be_is_forgotten_and_an_acceptance_is_not() {
        let (ring, mut acceptor) = (ring(3), new());
        let sealed = seal(&ring).unwrap();
        assert_eq!(acceptor.forget_impossible(), Ok(false));
        acceptor.on_accept(&ring, &accept(3, "b", &sealed));
        acceptor.promised = Some(ballot(u64::MAX, "z"));
        assert!(!acceptor.on_prepare(&ring, &prepare(2, 4, "a")).vote.granted);
        assert_eq!(acceptor.forget_impossible(), Ok(true));
        let answer = acceptor.on_prepare(&ring, &prepare(2, 4, "a"));
        assert_eq!(answer.vote.accepted, Some((ballot(3, "b"), sealed.clone())));
        // It may have been decided.
        acceptor.promised = Some(ballot(u64::MAX, "z"));
        acceptor.accepted = Some((ballot(u64::MAX, "z"), sealed));
        let round = u64::MAX;
        let told = acceptor.forget_impossible().unwrap_err();
        assert_eq!(told, ImpossibleBallot { round });
        assert!(told.to_string().contains("remove the file"), "{told}");
    }

    #[test]
    fn one_ballot_carries_one_document() {
        let (ring, mut acceptor) = (ring(3), new());
        let one = seal(&ring).unwrap();
        let mut other = one.clone();
        other.step = Step::Open;
        other.members.push(member("z"));
        assert!(
            acceptor
                .on_accept(&ring, &accept(1, "a", &one))
                .vote
                .granted
        );
        let before = acceptor.clone();
        assert_eq!(
            acceptor.on_accept(&ring, &accept(1, "a", &other)),
            refused(2, ballot(1, "a"), None)
        );
        assert_eq!(acceptor, before);
    }

    #[test]
    fn only_the_slot_after_ones_own_ring_is_open() {
        let first = ring(3);
        let second = seal(&first).unwrap();
        let mut acceptor = new();
        let nothing = ballot(0, "b");
        for decided in [1, 2] {
            assert_eq!(
                acceptor.on_prepare(&second, &prepare(decided, 9, "b")),
                refused(decided, nothing.clone(), Some(second.clone()))
            );
        }
        assert_eq!(
            acceptor.on_accept(&second, &accept(9, "b", &second)),
            refused(2, nothing.clone(), Some(second.clone()))
        );
        // Behind: it doesn't know the members that version 3 is decided by.
        assert_eq!(
            acceptor.on_prepare(&first, &prepare(3, 9, "b")),
            refused(3, nothing, None)
        );
        assert_eq!(acceptor, new());
    }

    #[test]
    fn a_new_slot_starts_without_promises_and_the_old_one_never_reopens() {
        let first = ring(3);
        let mut second = first.clone();
        second.version = RingVersion(2);
        let mut acceptor = new();
        assert!(
            acceptor
                .on_prepare(&first, &prepare(2, 7, "b"))
                .vote
                .granted
        );
        assert_eq!(acceptor.next_round(&second), 1);
        assert!(
            acceptor
                .on_prepare(&second, &prepare(3, 1, "b"))
                .vote
                .granted
        );
        // Whatever brought an older ring back, the promise of slot 2 is gone: no vote there.
        assert_eq!(
            acceptor.on_prepare(&first, &prepare(2, 8, "b")),
            refused(2, ballot(0, "b"), None)
        );
    }

    #[test]
    fn a_document_that_cannot_follow_is_refused() {
        let (ring, mut acceptor) = (ring(3), new());
        let mut foreign = seal(&ring).unwrap();
        foreign.cluster_id = ClusterId(99);
        let mut shrunk = seal(&ring).unwrap();
        shrunk.members.pop();
        for document in [foreign, shrunk] {
            let answer = acceptor.on_accept(&ring, &accept(1, "a", &document));
            assert_eq!(answer, refused(2, ballot(0, "a"), None));
        }
        assert_eq!(acceptor.accepted, None);
    }

    #[test]
    fn a_lost_directory_is_silent_until_a_ring_lists_the_new_one() {
        let mut ring_3 = ring(3);
        let sealed = seal(&ring_3).unwrap();
        let mut acceptor = Acceptor::new(id("a"), DirectoryId(99));
        let silent = refused(2, ballot(0, "b"), None);
        assert_eq!(acceptor.on_prepare(&ring_3, &prepare(2, 5, "b")), silent);
        assert_eq!(
            acceptor.on_accept(&ring_3, &accept(5, "b", &sealed)),
            silent
        );
        ring_3.version = RingVersion(2);
        assert!(
            !acceptor
                .on_prepare(&ring_3, &prepare(3, 1, "b"))
                .vote
                .granted
        );
        ring_3.version = RingVersion(3);
        ring_3.members[0].directory_id = DirectoryId(99);
        assert!(
            acceptor
                .on_prepare(&ring_3, &prepare(4, 1, "b"))
                .vote
                .granted
        );

        let mut one_of_two = Acceptor::new(id("a"), DirectoryId(99));
        let answer = one_of_two.on_prepare(&ring(2), &prepare(2, 1, "b"));
        assert!(answer.vote.granted);
        let mut alone = Acceptor::new(id("a"), DirectoryId(99));
        assert_eq!(alone.on_prepare(&ring(1), &prepare(2, 5, "b")), silent);
    }

    #[test]
    fn a_stranger_has_no_vote() {
        let mut joiner = Acceptor::new(id("z"), member("z").directory_id);
        for members in [1, 2, 3] {
            assert_eq!(
                joiner.on_prepare(&ring(members), &prepare(2, 5, "b")),
                refused(2, ballot(0, "b"), None)
            );
        }
    }

    #[test]
    fn it_survives_the_disk_and_refuses_what_it_cannot_keep() {
        let ring = ring(3);
        let mut acceptor = new();
        let mut stages = vec![acceptor.clone()];
        acceptor.on_prepare(&ring, &prepare(2, 1, "b"));
        stages.push(acceptor.clone());
        acceptor.on_accept(&ring, &accept(1, "b", &seal(&ring).unwrap()));
        stages.push(acceptor.clone());
        acceptor.on_prepare(&ring, &prepare(2, 4, "c"));
        stages.push(acceptor.clone());
        for stage in stages {
            assert_eq!(Acceptor::from_bytes(&stage.to_bytes()), Ok(stage));
        }
        let whole = acceptor.to_bytes();
        for cut in 0..whole.len() {
            // A cut between two fields is a shorter acceptor; the file's own checksum guards that.
            if let Ok(shorter) = Acceptor::from_bytes(&whole.slice(..cut)) {
                assert_ne!(shorter, acceptor);
            }
        }
        let mut unknown = BytesMut::from(&whole[..]);
        put_tag_bytes(&mut unknown, 77, b"x");
        assert!(Acceptor::from_bytes(&unknown.freeze()).is_err());
        acceptor.promised = None;
        assert!(Acceptor::from_bytes(&acceptor.to_bytes()).is_err());
    }
}
