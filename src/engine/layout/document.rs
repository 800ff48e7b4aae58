//! Which ring may follow which.
//!
//! Every change is one step from version v to v + 1, and [`check_next`] holds the whole table:
//!
//! | From | To | Members | Made by |
//! |---|---|---|---|
//! | nothing | `Open`, version 1 | the founder | [`found`] |
//! | `Open` | `Open` | one joins, or one entry is renewed | [`admit`] |
//! | `Open` | `Final` | the same | [`seal`], before the first data is written |
//! | `Final` | `WriteBoth` | the same, and those that come in | [`begin`](super::change::begin) |
//! | `WriteBoth` | `ReadNew` | the same | [`read_new`](super::change::read_new) |
//! | `WriteBoth` | `Final` | those of before the change | [`give_up`](super::change::give_up) |
//! | `ReadNew` | `Final` | those of the change's target | [`finish`](super::change::finish) |
//! | `WriteBoth`, `ReadNew` | the same | one that goes is gone | [`stop_waiting_for`](super::change::stop_waiting_for) |
//! | any but `Open` | the same | one lives in another directory | [`admit`] |
//!
//! While a ring is open no data exists, so a member can be added without moving any. Once it is final
//! the owners of a key are settled, and a change streams segments between them first: see
//! [`change`].

use dynakv_protocol::gossip::Join;
use dynakv_protocol::ids::{ClusterId, NodeId, RingVersion};
use dynakv_protocol::limits::MEMBERS_MAX;
use dynakv_protocol::ring_document::{Member, RingDocument, Step};

use super::change;
use super::entry::{check_entry, check_member, successor};
use crate::engine::counters;

/// Why a node is not taken into the ring. The text is meant for whoever started that node: it says
/// what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// It is in the ring already, with this very entry. No failure: hand it the present document.
    #[error(
        "{id} is already a member of ring version {version}: no new version is needed, take that one"
    )]
    AlreadyMember {
        /// Who asked.
        id: NodeId,
        /// The ring it is in.
        version: RingVersion,
    },
    /// Data may have been written under the ring: it takes a [`change`] to come in.
    #[error("the cluster holds data: a node comes in by a change of its ring")]
    HoldsData,
    /// It was started with another number of copies.
    #[error(
        "the ring keeps n = {ring} copies of a key, but this node was started with -n {asked}: start it \
         with -n {ring} or without -n"
    )]
    DifferentN {
        /// The ring's n.
        ring: u8,
        /// What the node was started with.
        asked: u8,
    },
    /// It would write to, or read from, fewer replicas than the ring promises to clients.
    #[error(
        "the ring promises {name} = {promised} at least, but this node was started with -{name} {asked}: \
         start it with -{name} {promised} or more, or without -{name}"
    )]
    QuorumBelowPromise {
        /// `w` or `r`.
        name: char,
        /// The ring's promise.
        promised: u8,
        /// What the node was started with.
        asked: u8,
    },
    /// It asks for more answers than there are copies.
    #[error(
        "{name} = {asked} can never be met where the ring keeps n = {n} copies of a key: start this node \
         with -{name} between {promised} and {n}, or without -{name}"
    )]
    QuorumBeyondN {
        /// `w` or `r`.
        name: char,
        /// The ring's promise.
        promised: u8,
        /// The ring's n.
        n: u8,
        /// What the node was started with.
        asked: u8,
    },
    /// Another member is reached at the same address.
    #[error(
        "member {holder} is already reached at {address}: give this node an address of its own (--port, \
         --host or --advertise), or start it as {holder} if it is that node"
    )]
    AddressTaken {
        /// The address.
        address: String,
        /// Who has it.
        holder: NodeId,
    },
    /// The member's directory is another one than the ring says, and it does not say that it rebuilds
    /// what it lost.
    #[error(
        "{id} is a member of this cluster with another data directory: it was wiped or replaced, and is \
         let in once it has noted that it has lost its data"
    )]
    DirectoryLost {
        /// The node.
        id: NodeId,
    },
    /// It is being taken in with another directory.
    #[error(
        "{id} is being taken into this cluster with another data directory: start it with that one, or wait until \
         that change is given up"
    )]
    ComingIn {
        /// The node.
        id: NodeId,
    },
    /// The ring is full.
    #[error("the ring has {MEMBERS_MAX} members, the most it can have: found a second cluster")]
    TooManyMembers,
    /// The entry it asks for cannot stand in a ring.
    #[error("{what}: correct it and start the node again")]
    InvalidMember {
        /// What is wrong, with its limits.
        what: String,
    },
    /// The ring's number cannot grow any more.
    #[error("the ring's version number is exhausted: found a new cluster")]
    VersionsExhausted,
}

/// Why a document cannot be the one after the present one. Whoever proposed it has a defect or runs
/// another release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStep {
    /// The document belongs to another cluster, or changes the cluster's name.
    #[error(
        "the proposed ring belongs to another cluster: check the seeds of the node that proposed it"
    )]
    OtherCluster,
    /// It does not carry the next number.
    #[error(
        "the proposed ring has version {got}, the next is {expected}: fetch the newest ring first"
    )]
    WrongVersion {
        /// The version that comes next.
        expected: RingVersion,
        /// The version it has.
        got: RingVersion,
    },
    /// It changes n, w or r.
    #[error("the proposed ring changes n, w or r: they are fixed when a cluster is founded")]
    QuorumChanged,
    /// Members of a ring with data change step by step, and the proposed ring is no step from this one.
    #[error(
        "the ring holds data, and the proposed one is no step that a change of its members can take"
    )]
    NoStep,
    /// It drops a member, or changes more than one at once.
    #[error("the proposed ring does not differ by exactly one member that joined or was renewed")]
    NotOneMember,
    /// It seals the ring and changes the members in one step.
    #[error("the proposed ring is sealed with other members: join first, then seal")]
    SealedOthers,
    /// The members are not in the order of distinct ids, too many, share an address, or one has an
    /// entry out of bounds.
    #[error("the proposed ring has an invalid list of members")]
    InvalidMembers,
}

/// The first ring of a new cluster: version 1, open, its founder the only member.
///
/// The settings that reach it have been checked: `cluster_id` is not none, 1 ≤ `w`, `r` ≤ `n`.
pub fn found(
    cluster_id: ClusterId,
    cluster_name: &str,
    member: Member,
    n: u8,
    w: u8,
    r: u8,
) -> RingDocument {
    RingDocument {
        cluster_id,
        cluster_name: cluster_name.to_owned(),
        version: RingVersion(1),
        step: Step::Open,
        n,
        w,
        r,
        members: vec![member],
    }
}

/// The ring with one more member, or with the renewed entry of a member that it has.
///
/// A node that was wiped or moved while the ring is open asks again under its old id, and its address,
/// directory, weight and zone are replaced. That no other process lives under the id is for the caller to find
/// out: a document can't tell.
///
/// # Errors
/// [`JoinRefusal`], whose text tells the operator of the refused node what to do. On
/// [`JoinRefusal::AlreadyMember`] nothing needs to be decided.
pub fn admit(current: &RingDocument, join: &Join) -> Result<RingDocument, JoinRefusal> {
    check_quorums(current, join)?;
    check_member(&join.member).map_err(|what| JoinRefusal::InvalidMember { what })?;
    let asker = &join.member;
    if current.member(&asker.id) == Some(asker) {
        return Err(JoinRefusal::AlreadyMember {
            id: asker.id.clone(),
            version: current.version,
        });
    }
    if current.step != Step::Open {
        let renewed = current
            .member(&asker.id)
            .filter(|member| member.directory_id != asker.directory_id);
        if let Some(member) = renewed {
            return match change::is_coming_in(current, member) {
                true => Err(JoinRefusal::ComingIn {
                    id: asker.id.clone(),
                }),
                false => renew(current, join),
            };
        }
        // Also for a member whose address changed: the document keeps the old one, gossip carries
        // the new one.
        return Err(match current.member(&asker.id) {
            Some(_) => JoinRefusal::AlreadyMember {
                id: asker.id.clone(),
                version: current.version,
            },
            None => JoinRefusal::HoldsData,
        });
    }
    let others = current.members.iter().filter(|m| m.id != asker.id);
    if let Some(holder) = others.clone().find(|m| m.address == asker.address) {
        return Err(JoinRefusal::AddressTaken {
            address: asker.address.clone(),
            holder: holder.id.clone(),
        });
    }
    let mut next = successor(current).ok_or(JoinRefusal::VersionsExhausted)?;
    match next.members.binary_search_by(|m| m.id.cmp(&asker.id)) {
        Ok(at) => next.members[at] = asker.clone(),
        Err(_) if next.members.len() >= MEMBERS_MAX => return Err(JoinRefusal::TooManyMembers),
        Err(at) => next.members.insert(at, asker.clone()),
    }
    Ok(next)
}

/// A ring with data in which a member lives in another directory: it has lost what was in the former one. All
/// else stays, so that nobody's keys change their owners; a new address is carried by gossip.
fn renew(current: &RingDocument, join: &Join) -> Result<RingDocument, JoinRefusal> {
    if !join.is_rebuilding {
        return Err(JoinRefusal::DirectoryLost {
            id: join.member.id.clone(),
        });
    }
    let mut next = successor(current).ok_or(JoinRefusal::VersionsExhausted)?;
    for member in next.members.iter_mut().filter(|it| it.id == join.member.id) {
        member.directory_id = join.member.directory_id;
    }
    Ok(next)
}

/// The same ring, final: decided before the first data is written, so that nobody joins beside it.
///
/// `None` when data may have been written already, and nothing needs to be decided.
pub fn seal(current: &RingDocument) -> Option<RingDocument> {
    if current.step != Step::Open {
        return None;
    }
    let mut next = successor(current)?;
    next.step = Step::Final;
    Some(next)
}

/// Holds the table of this module against a proposed document.
///
/// # Errors
/// [`InvalidStep`] names the first rule it breaks.
pub fn check_next(current: &RingDocument, next: &RingDocument) -> Result<(), InvalidStep> {
    if next.cluster_id != current.cluster_id || next.cluster_name != current.cluster_name {
        return Err(InvalidStep::OtherCluster);
    }
    let expected = RingVersion(current.version.0.saturating_add(1));
    if next.version != expected || next.version == current.version {
        return Err(InvalidStep::WrongVersion {
            expected,
            got: next.version,
        });
    }
    if (next.n, next.w, next.r) != (current.n, current.w, current.r) {
        return Err(InvalidStep::QuorumChanged);
    }
    match (&current.step, &next.step) {
        (Step::Open, Step::Open) => check_one_member(current, next),
        (Step::Open, Step::Final) if next.members == current.members => Ok(()),
        (Step::Open, Step::Final) => Err(InvalidStep::SealedOthers),
        (now, then) if now == then && is_renewal(current, next) => Ok(()),
        _ if change::is_step(current, next) => Ok(()),
        _ => Err(InvalidStep::NoStep),
    }
}

/// Whether this can be a later ring of the same cluster, by one step or by many: what nodes that have missed some
/// take over from a member that has not.
///
/// # Errors
/// [`InvalidStep`] names the first rule it breaks.
pub fn check_later(current: &RingDocument, later: &RingDocument) -> Result<(), InvalidStep> {
    if later.cluster_id != current.cluster_id || later.cluster_name != current.cluster_name {
        return Err(InvalidStep::OtherCluster);
    }
    let is_possible = counters::check_ring_version_after(current.version, later.version).is_ok();
    if later.version <= current.version || !is_possible {
        return Err(InvalidStep::WrongVersion {
            expected: RingVersion(current.version.0.saturating_add(1)),
            got: later.version,
        });
    }
    let members = &later.members;
    let in_order = members.windows(2).all(|two| two[0].id < two[1].id);
    let is_readable = in_order && !members.is_empty() && members.len() <= MEMBERS_MAX;
    let is_possible = later.has_possible_stakes();
    if !is_readable || !is_possible || !members.iter().all(|it| check_entry(it).is_ok()) {
        return Err(InvalidStep::InvalidMembers);
    }
    Ok(())
}

/// Whether exactly one member has another directory, and all else is the same. Who is being taken in has none to lose.
fn is_renewal(current: &RingDocument, next: &RingDocument) -> bool {
    let pairs = || current.members.iter().zip(&next.members);
    let is_changed = |(old, new): &(&Member, &Member)| old != new;
    let is_same_but_directory = |(old, new): (&Member, &Member)| {
        let directory_id = old.directory_id;
        let restored = Member {
            directory_id,
            ..new.clone()
        };
        *old == restored
    };
    current.members.len() == next.members.len()
        && pairs().all(is_same_but_directory)
        && pairs().filter(is_changed).count() == 1
        && !pairs().any(|pair| is_changed(&pair) && change::is_coming_in(current, pair.0))
}

/// Exactly one entry is new, all others are as they were, and the list is one that every node can read.
fn check_one_member(current: &RingDocument, next: &RingDocument) -> Result<(), InvalidStep> {
    let in_order = next.members.windows(2).all(|two| two[0].id < two[1].id);
    if !in_order || next.members.len() > MEMBERS_MAX {
        return Err(InvalidStep::InvalidMembers);
    }
    // Ids are distinct, so a lost member and an added one can't hide each other.
    let kept = |member: &&Member| next.member(&member.id).is_some();
    let is_new = |member: &&Member| current.member(&member.id) != Some(*member);
    let mut new = next.members.iter().filter(is_new);
    let (Some(newcomer), None) = (new.next(), new.next()) else {
        return Err(InvalidStep::NotOneMember);
    };
    if !current.members.iter().all(|member| kept(&member)) {
        return Err(InvalidStep::NotOneMember);
    }
    let others = next.members.iter().filter(|m| m.id != newcomer.id);
    let shares_address = others.clone().any(|m| m.address == newcomer.address);
    if shares_address || check_member(newcomer).is_err() {
        return Err(InvalidStep::InvalidMembers);
    }
    Ok(())
}

/// N belongs to the ring; W and R of a node may be stricter than the ring's, never laxer: clients were
/// promised that a read meets the last write.
fn check_quorums(current: &RingDocument, join: &Join) -> Result<(), JoinRefusal> {
    if let Some(asked) = join.n.filter(|n| *n != current.n) {
        return Err(JoinRefusal::DifferentN {
            ring: current.n,
            asked,
        });
    }
    for (name, asked, promised) in [('w', join.w, current.w), ('r', join.r, current.r)] {
        match asked {
            Some(asked) if asked < promised => {
                return Err(JoinRefusal::QuorumBelowPromise {
                    name,
                    promised,
                    asked,
                });
            }
            Some(asked) if asked > current.n => {
                return Err(JoinRefusal::QuorumBeyondN {
                    name,
                    promised,
                    n: current.n,
                    asked,
                });
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
