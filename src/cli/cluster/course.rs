//! How far a change of the ring is, by what members say of it.

use dynakv_client::{MemberState, MemberStatus, RingReply, StatusReply};
use dynakv_protocol::ring_document::{ChangePhase, Member, RingDocument};
use dynakv_protocol::{NodeId, RingVersion};

use super::command::joined;

/// What a member says of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) ring: RingReply,
    pub(super) status: StatusReply,
    /// Where it was asked.
    pub(super) address: String,
}

/// A change that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    begun_at: RingVersion,
    before: Vec<Member>,
    after: Vec<Member>,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    UnderWay,
    /// The ring has the members that were wished for.
    Done,
    /// It has those of before.
    GivenUp,
    /// It has neither: somebody else has changed it since.
    Other,
}

impl Begun {
    /// The change that this ring has begun, or is in the midst of. `None` unless it changes.
    pub(super) fn by(document: &RingDocument) -> Option<Self> {
        let change = document.change()?;
        let members = document.members.iter().zip(&change.target);
        let after: Vec<Member> = members.map(|(it, stake)| it.with_stake(stake)).collect();
        Some(Self {
            begun_at: change.begun_at,
            before: with_stakes(&document.members),
            after: with_stakes(&after),
        })
    }

    /// The version of the ring that began it.
    pub(super) fn begun_at(&self) -> RingVersion {
        self.begun_at
    }

    /// Where it is under this ring, which is none from before it.
    pub(super) fn stage(&self, document: &RingDocument) -> Stage {
        if let Some(change) = document.change()
            && change.begun_at == self.begun_at
        {
            return Stage::UnderWay;
        }
        // Of a later change those that it began with.
        let members = with_stakes(&document.members);
        match () {
            () if is_same(&members, &self.after) => Stage::Done,
            () if is_same(&members, &self.before) => Stage::GivenUp,
            () => Stage::Other,
        }
    }

    /// Why it was given up, as far as that can be told by what was seen last.
    pub(super) fn why_given_up(&self, last: Option<&StatusReply>) -> String {
        let is_to_be = |id: &NodeId| self.after.iter().any(|member| member.id == *id);
        let members = last.iter().flat_map(|status| &status.members);
        let dead = members.filter(|it| is_to_be(&it.id) && it.state == MemberState::Dead);
        let dead: Vec<NodeId> = dead.map(|member| member.id.clone()).collect();
        match dead.is_empty() {
            true => "an operator gave it up, or who was coming in lost its directory".to_owned(),
            false => format!(
                "{} died before it had all that it was to hold",
                joined(&dead, " and ")
            ),
        }
    }
}

fn with_stakes(members: &[Member]) -> Vec<Member> {
    let members = members.iter().filter(|member| member.weight > 0);
    members.cloned().collect()
}

/// The same nodes with the same weights and zones; one may have moved, or lost its directory.
fn is_same(one: &[Member], other: &[Member]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len()
        && pairs.all(|(a, b)| (&a.id, a.weight, &a.zone) == (&b.id, b.weight, &b.zone))
}

/// In which order members are asked how far it is: those that stay, then those that come, and last those that go, which
/// send their clients away once the new owners are read. `asked` is where the command was sent, and comes first unless
/// that node goes.
pub(super) fn whom_to_ask(
    document: &RingDocument,
    status: &StatusReply,
    asked: &str,
) -> Vec<String> {
    let turn = |id: &NodeId| match document.member(id) {
        Some(_) if document.is_leaving(id) => 2,
        Some(member) if member.weight == 0 => 1,
        Some(_) | None => 0,
    };
    let is_dead = |id: &NodeId| {
        let mut members = status.members.iter();
        members.any(|it| it.id == *id && it.state == MemberState::Dead)
    };
    let now_at = |member: &Member| {
        let mut known = status.members.iter();
        let known = known.find(|known| known.id == member.id);
        known
            .map_or(&member.address, |known| &known.address)
            .clone()
    };
    let members = document.members.iter().filter(|it| !is_dead(&it.id));
    let mut addresses: Vec<(i32, String)> = members.map(|it| (turn(&it.id), now_at(it))).collect();
    let own = (turn(&status.node_id), asked.to_owned());
    addresses.insert(0, own);
    // The first stays the first of its turn.
    addresses.sort_by_key(|(turn, _)| *turn);
    let mut order: Vec<String> = Vec::new();
    for (_, address) in addresses {
        if !order.contains(&address) {
            order.push(address);
        }
    }
    order
}

/// How many segments of how many are where they are to be. `all` is how many copies move.
pub(super) fn segments_done(seen: &Seen, all: u64) -> (u64, u64) {
    let members = seen.status.members.iter();
    let awaited = members.filter(|it| seen.status.awaited.contains(&it.id));
    let left_of = |it: &MemberStatus| match it.moving {
        Some(moving) => moving.segments_left,
        None => it.rebuilding_segments,
    };
    let left: u64 = awaited.map(|it| u64::from(left_of(it))).sum();
    let phase = seen.ring.document.change().map(|change| change.phase);
    let is_first = phase == Some(ChangePhase::WriteBoth);
    // Before anybody has said how much it lacks it is all.
    let is_unsaid = is_first && left == 0 && !seen.status.awaited.is_empty();
    match is_unsaid {
        true => (0, all.max(1)),
        false => (all.saturating_sub(left), all.max(1)),
    }
}
