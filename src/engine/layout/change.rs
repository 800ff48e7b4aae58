//! From one list of members to another, while clients go on.
//!
//! Joining, leaving, replacing, removing, another weight and another zone are one mechanism. The ring keeps the stakes
//! that its members have beside those that they are to have, and what is written meets a quorum of the owners under
//! both. Three steps lead over:
//!
//! ```text
//!            begin                  read_new                 finish
//!   Final ──────────▶ WriteBoth ───────────────▶ ReadNew ──────────▶ Final
//!     ▲   read the old    │    who gained has       read the new     the target's members
//!     └───────────────────┘    what it gained
//!            give_up
//! ```
//!
//! When a step may be taken is not for this file to say: it knows which ring may follow which.

use std::collections::BTreeSet;

use dynakv_protocol::ids::{NodeId, RingVersion};
use dynakv_protocol::limits::MEMBERS_MAX;
use dynakv_protocol::ring_document::{Change, ChangePhase, Member, RingDocument, Stake, Step};

use super::entry::{check_member, successor};

/// Why no change to these members begins. The text is meant for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// The ring takes members directly.
    #[error(
        "no data was written yet, and nodes join directly: start them with --seed, and write when all are there"
    )]
    StillOpen,
    /// One change at a time.
    #[error(
        "the change that began with ring version {begun_at} is not over: wait until `dynakv status` says that it is"
    )]
    Running {
        /// The ring version that began it.
        begun_at: RingVersion,
    },
    /// It is the list that the ring has.
    #[error("the ring has these members with these weights and zones: nothing is to be changed")]
    NothingChanges,
    /// Nobody would be left.
    #[error("a ring needs one member at least: stop the nodes if the cluster is to end")]
    NobodyLeft,
    /// A member is named twice, or more than a ring can have with those that go.
    #[error("the list names {id} twice: name each member once")]
    NamedTwice {
        /// The member.
        id: NodeId,
    },
    /// Too many for one ring.
    #[error(
        "the ring would have {members} members while it changes, {MEMBERS_MAX} at most are possible: change it in \
         smaller steps"
    )]
    TooManyMembers {
        /// How many it would have.
        members: usize,
    },
    /// What tells one member from another does not change here.
    #[error(
        "{id} is a member with another address or data directory: leave those as they are, a node that moved says so \
         by itself"
    )]
    OtherNode {
        /// The member.
        id: NodeId,
    },
    /// Only who goes can be gone.
    #[error("{id} is no member that goes: only those are not waited for")]
    NotGoing {
        /// The member.
        id: NodeId,
    },
    /// Two members are reached at one address.
    #[error("{id} and {holder} are both reached at {address}: give each an address of its own")]
    AddressTaken {
        /// Who comes in.
        id: NodeId,
        /// Who has the address.
        holder: NodeId,
        /// The address.
        address: String,
    },
    /// An entry that cannot stand in a ring.
    #[error("{id}: {what}: correct it and ask again")]
    InvalidMember {
        /// The member.
        id: NodeId,
        /// What is wrong with it, with its limits.
        what: String,
    },
    /// These would not understand the ring.
    #[error(
        "{} too old for a ring that changes: upgrade, then ask again",
        in_words(.ids)
    )]
    TooOld {
        /// The members.
        ids: Vec<NodeId>,
    },
    /// Nobody can tell whether these would.
    #[error(
        "{} not heard of since this node was started, and might be too old for a ring that changes: start those that \
         are down, then ask again",
        were_in_words(.ids)
    )]
    Unheard {
        /// The members.
        ids: Vec<NodeId>,
    },
    /// The ring's number cannot grow any more.
    #[error("the ring's version number is exhausted: found a new cluster")]
    VersionsExhausted,
}

fn in_words(ids: &[NodeId]) -> String {
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    match names[..] {
        [one] => format!("{one} runs a version of dynakv that is"),
        _ => format!("{} run versions of dynakv that are", names.join(", ")),
    }
}

fn were_in_words(ids: &[NodeId]) -> String {
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    match names[..] {
        [one] => format!("{one} was"),
        _ => format!("{} were", names.join(", ")),
    }
}

/// Whether a member can read a ring that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// It can.
    Changes,
    /// Its version is from before there were changes.
    TooOld,
    /// It was not heard of.
    Unheard,
}

/// The ring that begins a change to these members. `reads` says of each what it can read. Those that are `stopped` are
/// none of them any more, and gone already: nobody waits for them.
///
/// # Errors
/// [`ChangeRefusal`], whose text tells the operator what to do.
pub fn begin(
    current: &RingDocument,
    target: &[Member],
    stopped: &[NodeId],
    reads: impl Fn(&NodeId) -> Reads,
) -> Result<RingDocument, ChangeRefusal> {
    match &current.step {
        Step::Open => return Err(ChangeRefusal::StillOpen),
        Step::Changing(Change { begun_at, .. }) => {
            let begun_at = *begun_at;
            return Err(ChangeRefusal::Running { begun_at });
        }
        Step::Final => {}
    }
    let next = successor(current).ok_or(ChangeRefusal::VersionsExhausted)?;
    let next = changing(current, next, target, stopped)?;
    // Who is gone never reads it.
    let that = |read| -> Vec<NodeId> {
        let ids = next.members.iter().map(|member| &member.id);
        let ids = ids.filter(|id| !stopped.contains(id) && reads(id) == read);
        ids.cloned().collect()
    };
    let (too_old, unheard) = (that(Reads::TooOld), that(Reads::Unheard));
    if !too_old.is_empty() {
        return Err(ChangeRefusal::TooOld { ids: too_old });
    }
    match unheard.is_empty() {
        true => Ok(next),
        false => Err(ChangeRefusal::Unheard { ids: unheard }),
    }
}

/// `next` with a change from the members of the final ring `current` to these.
///
/// # Errors
/// [`ChangeRefusal`].
pub(super) fn changing(
    current: &RingDocument,
    mut next: RingDocument,
    target: &[Member],
    stopped: &[NodeId],
) -> Result<RingDocument, ChangeRefusal> {
    check_target(current, target)?;
    let is_gone = |id: &NodeId| {
        let is_named = target.iter().any(|entry| entry.id == *id);
        current.member(id).is_some() && !is_named
    };
    if let Some(id) = stopped.iter().find(|&id| !is_gone(id)) {
        return Err(ChangeRefusal::NotGoing { id: id.clone() });
    }
    for member in target.iter().filter(|it| current.member(&it.id).is_none()) {
        let weight = 0;
        next.members.push(Member {
            weight,
            ..member.clone()
        });
    }
    next.members.sort_by(|a, b| a.id.cmp(&b.id));
    if next.members.len() > MEMBERS_MAX {
        let members = next.members.len();
        return Err(ChangeRefusal::TooManyMembers { members });
    }
    let stake_of = |member: &Member| {
        let entry = target.iter().find(|entry| entry.id == member.id);
        let weight = entry.map_or(0, |entry| entry.weight);
        let zone = entry.map_or(&member.zone, |entry| &entry.zone).clone();
        Stake { weight, zone }
    };
    next.step = Step::Changing(Change {
        phase: ChangePhase::WriteBoth,
        begun_at: next.version,
        target: next.members.iter().map(stake_of).collect(),
        stopped: in_order(stopped.iter().cloned()),
    });
    let is_decided_by_somebody = next.voters().next().is_some();
    match is_decided_by_somebody {
        true => Ok(next),
        false => Err(ChangeRefusal::NobodyLeft),
    }
}

fn in_order(ids: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let ids: BTreeSet<NodeId> = ids.collect();
    ids.into_iter().collect()
}

fn check_target(current: &RingDocument, target: &[Member]) -> Result<(), ChangeRefusal> {
    if target.is_empty() {
        return Err(ChangeRefusal::NobodyLeft);
    }
    let mut named = BTreeSet::new();
    for entry in target {
        let id = entry.id.clone();
        if !named.insert(&entry.id) {
            return Err(ChangeRefusal::NamedTwice { id });
        }
        if let Err(what) = check_member(entry) {
            return Err(ChangeRefusal::InvalidMember { id, what });
        }
        if let Some(member) = current.member(&entry.id) {
            let is_same =
                (member.directory_id, &member.address) == (entry.directory_id, &entry.address);
            if !is_same {
                return Err(ChangeRefusal::OtherNode { id });
            }
            continue;
        }
        let mut others = current.members.iter().chain(target);
        let holder = others.find(|it| it.address == entry.address && it.id != entry.id);
        if let Some(holder) = holder {
            return Err(ChangeRefusal::AddressTaken {
                id,
                holder: holder.id.clone(),
                address: entry.address.clone(),
            });
        }
    }
    let is_as_before = |entry: &Member| current.member(&entry.id) == Some(entry);
    match target.len() == current.members.len() && target.iter().all(is_as_before) {
        true => Err(ChangeRefusal::NothingChanges),
        false => Ok(()),
    }
}

/// The ring in which the new owners are read. `None` unless a change has begun.
pub fn read_new(current: &RingDocument) -> Option<RingDocument> {
    let change = current.change()?;
    let is_begun = change.phase == ChangePhase::WriteBoth;
    let mut next = successor(current).filter(|_| is_begun)?;
    next.step = Step::Changing(Change {
        phase: ChangePhase::ReadNew,
        ..change.clone()
    });
    Some(next)
}

/// The ring after the change. `None` unless the new owners are read.
pub fn finish(current: &RingDocument) -> Option<RingDocument> {
    let change = current.change()?;
    let is_read = change.phase == ChangePhase::ReadNew;
    ended(current, &current.read_members()).filter(|_| is_read)
}

/// The ring of before the change. `None` once the new owners are read: what was written since may be with them alone. And
/// where those that are not gone are no majority of it: it could never be changed again.
pub fn give_up(current: &RingDocument) -> Option<RingDocument> {
    taken_back(current).filter(|back| current.voters().count() >= back.majority())
}

/// The same, whoever could change it.
pub(super) fn taken_back(current: &RingDocument) -> Option<RingDocument> {
    let change = current.change()?;
    let is_begun = change.phase == ChangePhase::WriteBoth;
    ended(current, &current.members).filter(|_| is_begun)
}

/// The ring in which nobody waits any more for this member, which is to go and is gone. `None` unless that is news.
pub fn stop_waiting_for(current: &RingDocument, gone: &NodeId) -> Option<RingDocument> {
    let change = current.change()?;
    if !current.is_leaving(gone) || current.is_stopped(gone) {
        return None;
    }
    let mut next = successor(current)?;
    let stopped = change.stopped.iter().chain([gone]);
    next.step = Step::Changing(Change {
        stopped: in_order(stopped.cloned()),
        ..change.clone()
    });
    Some(next)
}

fn ended(current: &RingDocument, members: &[Member]) -> Option<RingDocument> {
    let staying = members.iter().filter(|member| member.weight > 0);
    let mut next = successor(current)?;
    next.members = staying.cloned().collect();
    next.step = Step::Final;
    Some(next)
}

/// Whether a change takes this step.
pub(super) fn is_step(current: &RingDocument, next: &RingDocument) -> bool {
    match (&current.step, &next.step) {
        // The list of the target is in the proposed ring itself, and the ring is the one that is made from it.
        (Step::Final, Step::Changing(change)) if change.phase == ChangePhase::WriteBoth => {
            let target = next.also_written_members().unwrap_or_default();
            let target: Vec<Member> = target.iter().filter(|it| it.weight > 0).cloned().collect();
            let begun = begin(current, &target, &change.stopped, |_| Reads::Changes);
            begun.is_ok_and(|begun| begun == *next)
        }
        (Step::Changing(_), Step::Changing(then)) => {
            let mut gone = then.stopped.iter();
            read_new(current).as_ref() == Some(next)
                || gone.any(|id| stop_waiting_for(current, id).as_ref() == Some(next))
        }
        (Step::Changing(_), Step::Final) => {
            [finish(current), give_up(current)].contains(&Some(next.clone()))
        }
        _ => false,
    }
}

/// Whether this node has copies that count under a ring: it is a member, and not one that is only being taken in.
pub fn holds_copies(ring: &RingDocument, id: &NodeId) -> bool {
    let member = ring.member(id);
    member.is_some_and(|member| !is_coming_in(ring, member))
}

/// Whether a member is being taken in, and is nobody yet whose copies count.
pub(super) fn is_coming_in(current: &RingDocument, member: &Member) -> bool {
    let phase = current.change().map(|change| change.phase);
    phase == Some(ChangePhase::WriteBoth) && member.weight == 0
}

#[cfg(test)]
mod tests;
