//! The ring that an operator wishes for: which change of the present one it is, or why there is none.

use std::collections::BTreeSet;

use dynakv_protocol::change_ring::{MemberWish, RingWish};
use dynakv_protocol::gossip::MemberState;
use dynakv_protocol::hash::Segment;
use dynakv_protocol::ids::{NodeId, RingVersion};
use dynakv_protocol::ring_document::{ChangePhase, Member, RingDocument};

use super::change::{self, ChangeRefusal, Reads};
use super::force;
use crate::engine::placement::ring::{MemberIndex, Ring};
use crate::engine::quorum::copies_that_meet_every_write;

/// Why a wish is not carried out. The text tells the operator what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishRefusal {
    /// No change to these members begins.
    #[error(transparent)]
    Change(#[from] ChangeRefusal),
    /// Somebody else has changed it since.
    #[error("this was planned on ring {planned_on}, and the ring is {present} by now: plan again")]
    OtherRing {
        /// The ring that was looked at.
        planned_on: RingVersion,
        /// The present one.
        present: RingVersion,
    },
    /// There is no such member.
    #[error("{id} is no member of this cluster: `dynakv status` names them")]
    NoMember {
        /// The name.
        id: NodeId,
    },
    /// It is one already.
    #[error("{id} is a member of this cluster already: nothing is to be done")]
    MemberAlready {
        /// The member.
        id: NodeId,
    },
    /// A member is named twice.
    #[error("{id} is named twice: name each member once")]
    NamedTwice {
        /// The member.
        id: NodeId,
    },
    /// Who is to hand on what it has must be there.
    #[error(
        "{id} is dead and hands on nothing: start it, or, if it is gone for good, take it away with `dynakv cluster \
         remove {id}`"
    )]
    Dead {
        /// The member.
        id: NodeId,
    },
    /// Nobody waits for who is removed, so it must be gone.
    #[error(
        "{id} is not dead: have it hand on what it has with `dynakv cluster leave {id}`; or stop it, if it is never \
         to come back, and ask again once `dynakv status` says that it is dead"
    )]
    NotDead {
        /// The member.
        id: NodeId,
    },
    /// Too few copies would be left to be sure.
    #[error(
        "without {} acknowledged writes may be lost: of some keys fewer than {needed} copies are left, and a write \
         with w = {w} need be on no other. Start it, or accept that with --accept-loss",
        .gone.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
    )]
    WritesMayBeLost {
        /// Who is gone.
        gone: Vec<NodeId>,
        /// How many copies would have every acknowledged write among them.
        needed: usize,
        /// The ring's w.
        w: u8,
    },
    /// It may have the only copy that an acknowledged write counts on.
    #[error(
        "{id} kept {hints} keys for other nodes when it was last heard of, and writes that were acknowledged while those \
         were down count on it. Start it, or accept that they may be lost with --accept-loss"
    )]
    HintsMayBeLost {
        /// Who is gone.
        id: NodeId,
        /// How many keys.
        hints: u64,
    },
    /// It is done without force.
    #[error(
        "{there} of the {voters} members that decide are there, which is enough to decide without force: leave --force \
         away"
    )]
    ForceNotNeeded {
        /// How many of them are not dead.
        there: usize,
        /// How many there are.
        voters: usize,
    },
    /// Nobody can tell what else was decided and written.
    #[error(
        "this node decides by itself, and cannot know what was decided and written without it after ring {version}: make \
         sure that nobody who is left follows a later one, and accept that acknowledged writes may be lost with \
         --accept-loss"
    )]
    ForcedBlindly {
        /// The ring that it follows.
        version: RingVersion,
    },
    /// What else is wished for can wait until somebody can decide again.
    #[error(
        "with force members can only be removed: remove those that are gone, and ask for the rest afterwards"
    )]
    ForcedOther,
    /// Who would decide is none of those that may.
    #[error("{id} would not be left in the ring to decide on anything: ask a member that stays")]
    ForcedByOther {
        /// Who was asked.
        id: NodeId,
    },
    /// Nobody waits for it.
    #[error("{id} counts as gone already, and nobody waits for it: nothing is to be done")]
    GoneAlready {
        /// The member.
        id: NodeId,
    },
    /// Nothing is under way.
    #[error("the ring does not change: there is nothing to give up")]
    NothingToGiveUp,
    /// Nobody could change the ring any more.
    #[error(
        "of the ring before this change too many members are gone for anybody to change it again: this change can only be \
         finished. Start whom it waits for; or, if that one is gone for good, have one node decide without it with \
         `dynakv cluster remove ID --force`"
    )]
    NoMajorityBehind,
    /// It only goes forward.
    #[error(
        "the new owners are read already, and what was written since may be with them alone: this change can only \
         be finished. Ask for another one afterwards"
    )]
    TooLate,
}

/// What is known of the members, for a wish to be looked at.
pub struct Known<'a> {
    /// The ring that the operator has looked at.
    pub planned_on: RingVersion,
    /// That writes may be lost is accepted.
    pub accept_loss: bool,
    /// Who decides on the ring by itself, if an operator has it do so.
    pub forced_by: Option<&'a NodeId>,
    /// How a member stands.
    pub state: &'a dyn Fn(&NodeId) -> MemberState,
    /// How many keys it keeps for others that an acknowledged write counts on.
    pub hints: &'a dyn Fn(&NodeId) -> u64,
    /// What it can read.
    pub reads: &'a dyn Fn(&NodeId) -> Reads,
}

/// The ring to decide on next.
///
/// # Errors
/// [`WishRefusal`].
pub fn wished(
    current: &RingDocument,
    wish: &RingWish,
    known: &Known<'_>,
) -> Result<RingDocument, WishRefusal> {
    if known.planned_on != current.version {
        let (planned_on, present) = (known.planned_on, current.version);
        return Err(WishRefusal::OtherRing {
            planned_on,
            present,
        });
    }
    let wishes = match (wish, known.forced_by) {
        (RingWish::Members(wishes), Some(me)) => return forced(current, me, wishes, known),
        (RingWish::Abort, Some(_)) => return Err(WishRefusal::ForcedOther),
        (RingWish::Members(wishes), None) => wishes,
        (RingWish::Abort, None) => return given_up(current),
    };
    if let [MemberWish::IsGone(id)] = &wishes[..]
        && current.is_leaving(id)
    {
        check_dead(id, known)?;
        let next = change::stop_waiting_for(current, id);
        let next = next.ok_or_else(|| WishRefusal::GoneAlready { id: id.clone() })?;
        return checked(current, next, known);
    }
    let (target, gone) = target(current, wishes, known)?;
    let next = change::begin(current, &target, &gone, known.reads)?;
    checked(current, next, known)
}

/// The ring that `me` decides by itself.
fn forced(
    current: &RingDocument,
    me: &NodeId,
    wishes: &[MemberWish],
    known: &Known<'_>,
) -> Result<RingDocument, WishRefusal> {
    let voters = current.voters().count();
    let is_there = |member: &&Member| (known.state)(&member.id) != MemberState::Dead;
    let there = current.voters().filter(is_there).count();
    // Whom a change waits for that cannot be given up nobody takes away otherwise.
    let phase = current.change().map(|change| change.phase);
    let is_begun = phase == Some(ChangePhase::WriteBoth);
    let is_held_up = is_begun && change::give_up(current).is_none();
    if there >= current.majority() && !is_held_up {
        return Err(WishRefusal::ForceNotNeeded { there, voters });
    }
    let mut gone = BTreeSet::new();
    for wish in wishes {
        let MemberWish::IsGone(id) = wish else {
            return Err(WishRefusal::ForcedOther);
        };
        if current.member(id).is_none() {
            return Err(WishRefusal::NoMember { id: id.clone() });
        }
        check_dead(id, known)?;
        if !gone.insert(id.clone()) {
            return Err(WishRefusal::NamedTwice { id: id.clone() });
        }
    }
    if !known.accept_loss {
        let version = current.version;
        return Err(WishRefusal::ForcedBlindly { version });
    }
    let others = current.members.iter().map(|member| &member.id);
    let others = others.filter(|id| !gone.contains(id) && (known.state)(id) != MemberState::Dead);
    let ids: Vec<NodeId> = others
        .filter(|id| (known.reads)(id) == Reads::TooOld)
        .cloned()
        .collect();
    if !ids.is_empty() {
        return Err(ChangeRefusal::TooOld { ids }.into());
    }
    let next = force::forced(current, &gone)?;
    if !next.is_voter(me) {
        return Err(WishRefusal::ForcedByOther { id: me.clone() });
    }
    Ok(next)
}

/// The next ring, unless writes may be lost by it and that is not accepted.
fn checked(
    current: &RingDocument,
    next: RingDocument,
    known: &Known<'_>,
) -> Result<RingDocument, WishRefusal> {
    let Some(change) = next.change().filter(|_| !known.accept_loss) else {
        return Ok(next);
    };
    let mut news = change.stopped.iter().filter(|id| !current.is_stopped(id));
    if let Some(id) = news.find(|id| (known.hints)(id) > 0) {
        let (id, hints) = (id.clone(), (known.hints)(id));
        return Err(WishRefusal::HintsMayBeLost { id, hints });
    }
    // Once the new owners are read they have what the others had.
    if change.phase == ChangePhase::WriteBoth && may_lose_writes(&next) {
        let owners = current.effective_n();
        return Err(WishRefusal::WritesMayBeLost {
            gone: change.stopped.clone(),
            needed: copies_that_meet_every_write(owners, usize::from(current.w)),
            w: current.w,
        });
    }
    Ok(next)
}

fn given_up(current: &RingDocument) -> Result<RingDocument, WishRefusal> {
    let phase = current.change().map(|change| change.phase);
    change::give_up(current).ok_or(match phase {
        Some(ChangePhase::ReadNew) => WishRefusal::TooLate,
        Some(ChangePhase::WriteBoth) => WishRefusal::NoMajorityBehind,
        None => WishRefusal::NothingToGiveUp,
    })
}

fn check_dead(id: &NodeId, known: &Known<'_>) -> Result<(), WishRefusal> {
    match (known.state)(id) {
        MemberState::Dead => Ok(()),
        MemberState::Alive | MemberState::Suspected => Err(WishRefusal::NotDead { id: id.clone() }),
    }
}

/// The members that are to be, and those that go and are gone.
fn target(
    current: &RingDocument,
    wishes: &[MemberWish],
    known: &Known<'_>,
) -> Result<(Vec<Member>, Vec<NodeId>), WishRefusal> {
    let mut target = current.members.clone();
    let mut gone = Vec::new();
    for (number, wish) in wishes.iter().enumerate() {
        let id = id_of(wish);
        if wishes[..number].iter().any(|earlier| id_of(earlier) == id) {
            return Err(WishRefusal::NamedTwice { id: id.clone() });
        }
        let member = current.member(id);
        match (wish, member) {
            (MemberWish::Joins(_), Some(_)) => {
                return Err(WishRefusal::MemberAlready { id: id.clone() });
            }
            (MemberWish::Joins(member), None) => target.push(member.clone()),
            (_, None) => return Err(WishRefusal::NoMember { id: id.clone() }),
            (MemberWish::Leaves(_), Some(_)) => {
                if (known.state)(id) == MemberState::Dead {
                    return Err(WishRefusal::Dead { id: id.clone() });
                }
                target.retain(|member| member.id != *id);
            }
            (MemberWish::IsGone(_), Some(_)) => {
                check_dead(id, known)?;
                target.retain(|member| member.id != *id);
                gone.push(id.clone());
            }
            (MemberWish::HasStake(_, stake), Some(_)) => {
                for entry in target.iter_mut().filter(|member| member.id == *id) {
                    *entry = entry.with_stake(stake);
                }
            }
        }
    }
    Ok((target, gone))
}

fn id_of(wish: &MemberWish) -> &NodeId {
    match wish {
        MemberWish::Joins(member) => &member.id,
        MemberWish::Leaves(id) | MemberWish::IsGone(id) | MemberWish::HasStake(id, _) => id,
    }
}

/// Whether an acknowledged write may be on no copy that is left, of the owners that are read, without those that are gone.
pub fn may_lose_writes(next: &RingDocument) -> bool {
    if next.change().is_none_or(|change| change.stopped.is_empty()) {
        return false;
    }
    let ring = Ring::new(next.clone());
    let is_left = |&&owner: &&MemberIndex| !next.is_stopped(&ring.member(owner).id);
    let is_enough = |segment| {
        let owners = ring.readers(segment);
        let needed = copies_that_meet_every_write(owners.len(), usize::from(next.w));
        owners.iter().filter(is_left).count() >= needed
    };
    !(0..=u16::MAX).map(Segment).all(is_enough)
}

#[cfg(test)]
mod tests {
    use dynakv_protocol::ids::ClusterId;
    use dynakv_protocol::ring_document::{Stake, Step};

    use super::*;
    use crate::engine::layout::check_next;
    use crate::engine::layout::made_up::{id, member, members};

    fn ring(names: &str, (n, w, r): (u8, u8, u8)) -> RingDocument {
        RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "c".to_owned(),
            version: RingVersion(9),
            step: Step::Final,
            n,
            w,
            r,
            members: members(names),
        }
    }

    /// What comes of it while these are dead.
    fn asked(
        ring: &RingDocument,
        wish: &RingWish,
        dead: &str,
        accept_loss: bool,
    ) -> Result<RingDocument, WishRefusal> {
        let state = |id: &NodeId| match dead.contains(id.as_str()) {
            true => MemberState::Dead,
            false => MemberState::Alive,
        };
        let known = Known {
            planned_on: RingVersion(9),
            accept_loss,
            forced_by: None,
            state: &state,
            // Named so for that.
            hints: &|id| u64::from(id.as_str() == "h"),
            reads: &|_| Reads::Changes,
        };
        let next = wished(ring, wish, &known)?;
        assert_eq!(check_next(ring, &next), Ok(()));
        Ok(next)
    }

    fn leaves(name: &str) -> MemberWish {
        MemberWish::Leaves(id(name))
    }

    fn is_gone(name: &str) -> MemberWish {
        MemberWish::IsGone(id(name))
    }

    fn all(wishes: &[MemberWish]) -> RingWish {
        RingWish::Members(wishes.to_vec())
    }

    #[test]
    fn all_that_is_wished_for_is_one_change() {
        let ring = ring("abcd", (3, 2, 2));
        let stake = Stake {
            weight: 2,
            zone: "east".to_owned(),
        };
        let wish = all(&[
            MemberWish::Joins(member("e")),
            leaves("a"),
            is_gone("b"),
            MemberWish::HasStake(id("c"), stake.clone()),
        ]);
        let next = asked(&ring, &wish, "b", false).unwrap();
        assert_eq!(next.change().unwrap().stopped, [id("b")]);
        assert!(next.is_leaving(&id("a")) && next.is_leaving(&id("b")));
        assert_eq!(next.target_of(&id("c")), Some(&stake));
        assert_eq!(next.target_of(&id("d")).unwrap().weight, 1);
        assert_eq!(next.target_of(&id("e")).unwrap().weight, 1);
    }

    #[test]
    fn who_hands_on_is_there_and_who_is_removed_is_not() {
        let ring = ring("abcd", (3, 2, 2));
        let refused = |wish, dead| asked(&ring, &all(&[wish]), dead, false).unwrap_err();
        assert_eq!(refused(leaves("b"), "b"), WishRefusal::Dead { id: id("b") });
        let refusal = refused(is_gone("b"), "");
        assert_eq!(refusal, WishRefusal::NotDead { id: id("b") });
        let refusal = refused(leaves("x"), "");
        assert_eq!(refusal, WishRefusal::NoMember { id: id("x") });
        let refusal = refused(MemberWish::Joins(member("b")), "");
        assert_eq!(refusal, WishRefusal::MemberAlready { id: id("b") });
        let twice = all(&[leaves("b"), is_gone("b")]);
        let refusal = asked(&ring, &twice, "", false).unwrap_err();
        assert_eq!(refusal, WishRefusal::NamedTwice { id: id("b") });
        let nothing = asked(&ring, &all(&[]), "", false).unwrap_err();
        let nothing_changes = WishRefusal::Change(ChangeRefusal::NothingChanges);
        assert_eq!(nothing, nothing_changes);
    }

    /// With w = 1 any node may be the only one that has a write.
    #[test]
    fn that_writes_may_be_lost_takes_a_word_of_its_own() {
        for (quorums, gone, is_sure) in [
            ((3, 2, 2), "b", true),
            ((3, 2, 2), "bc", false),
            ((3, 3, 1), "bc", true),
            ((3, 1, 3), "b", false),
        ] {
            let ring = ring("abcdef", quorums);
            let wishes: Vec<_> = gone.chars().map(|it| is_gone(&it.to_string())).collect();
            let outcome = asked(&ring, &all(&wishes), gone, false);
            match is_sure {
                true => assert!(outcome.is_ok(), "{quorums:?}"),
                false => {
                    let refusal = outcome.unwrap_err();
                    assert!(matches!(refusal, WishRefusal::WritesMayBeLost { .. }));
                    assert!(refusal.to_string().contains("--accept-loss"));
                }
            }
            assert!(asked(&ring, &all(&wishes), gone, true).is_ok());
        }
    }

    /// One node decides what takes more than half of them otherwise.
    #[test]
    fn force_is_for_those_that_are_left_without_a_majority() {
        let ring = ring("abc", (3, 2, 2));
        let forced = |wishes: &[MemberWish], dead: &str, by: &str, accept_loss| {
            let (by, state) = (id(by), |id: &NodeId| match dead.contains(id.as_str()) {
                true => MemberState::Dead,
                false => MemberState::Alive,
            });
            let known = Known {
                planned_on: RingVersion(9),
                accept_loss,
                forced_by: Some(&by),
                state: &state,
                hints: &|_| 0,
                reads: &|_| Reads::Changes,
            };
            wished(&ring, &all(wishes), &known)
        };
        let both = [is_gone("b"), is_gone("c")];
        let refusal = forced(&both, "bc", "a", false).unwrap_err();
        let version = ring.version;
        assert_eq!(refusal, WishRefusal::ForcedBlindly { version });
        assert!(refusal.to_string().contains("--accept-loss"));
        let next = forced(&both, "bc", "a", true).unwrap();
        assert!(next.is_voter(&id("a")) && next.majority() == 1);
        let refusal = forced(&[is_gone("c")], "c", "a", true).unwrap_err();
        let (there, voters) = (2, 3);
        assert_eq!(refusal, WishRefusal::ForceNotNeeded { there, voters });
        let refusal = forced(&[leaves("b")], "bc", "a", true).unwrap_err();
        assert_eq!(refusal, WishRefusal::ForcedOther);
        let refusal = forced(&[is_gone("a"), is_gone("b")], "ab", "a", true).unwrap_err();
        assert_eq!(refusal, WishRefusal::ForcedByOther { id: id("a") });
        let refusal = forced(&[is_gone("a"), is_gone("b")], "bc", "c", true).unwrap_err();
        assert_eq!(refusal, WishRefusal::NotDead { id: id("a") });
        let refusal = forced(&[is_gone("b"), is_gone("b")], "bc", "a", true).unwrap_err();
        assert_eq!(refusal, WishRefusal::NamedTwice { id: id("b") });
    }

    /// In either step: nobody fetches hints.
    #[test]
    fn a_stand_in_is_not_given_up_without_a_word() {
        let ring = ring("abch", (3, 2, 2));
        let wish = all(&[is_gone("h")]);
        let refusal = asked(&ring, &wish, "h", false).unwrap_err();
        assert_eq!(
            refusal,
            WishRefusal::HintsMayBeLost {
                id: id("h"),
                hints: 1
            }
        );
        assert!(asked(&ring, &wish, "h", true).is_ok());
        let begun = asked(&ring, &all(&[leaves("h")]), "", false).unwrap();
        let mut read = change::read_new(&begun).unwrap();
        read.version = RingVersion(9);
        let refusal = asked(&read, &wish, "h", false).unwrap_err();
        assert!(matches!(refusal, WishRefusal::HintsMayBeLost { .. }));
        assert!(asked(&read, &wish, "h", true).is_ok());
    }

    #[test]
    fn a_change_is_given_up_until_the_new_owners_are_read() {
        let ring = ring("abc", (3, 2, 2));
        let refusal = asked(&ring, &RingWish::Abort, "", false).unwrap_err();
        assert_eq!(refusal, WishRefusal::NothingToGiveUp);
        let begun = asked(&ring, &all(&[leaves("c")]), "", false).unwrap();
        let now = |ring: &RingDocument| RingDocument {
            version: RingVersion(9),
            ..ring.clone()
        };
        let begun = now(&begun);
        let back = asked(&begun, &RingWish::Abort, "", false).unwrap();
        assert_eq!((&back.step, &back.members), (&Step::Final, &ring.members));
        let read = now(&change::read_new(&begun).unwrap());
        let refusal = asked(&read, &RingWish::Abort, "", false).unwrap_err();
        assert_eq!(refusal, WishRefusal::TooLate);
        // A leaver that dies in mid-change: from now on nobody waits for it.
        for ring in [&begun, &read] {
            let wish = all(&[is_gone("c")]);
            let refusal = asked(ring, &wish, "", false).unwrap_err();
            assert_eq!(refusal, WishRefusal::NotDead { id: id("c") });
            let next = asked(ring, &wish, "c", false).unwrap();
            assert!(next.is_stopped(&id("c")));
            let other = asked(ring, &all(&[leaves("a")]), "c", false).unwrap_err();
            assert!(matches!(
                other,
                WishRefusal::Change(ChangeRefusal::Running { .. })
            ));
        }
    }

    /// What it alone has nobody fetches any more, until the new owners are read.
    #[test]
    fn a_leaver_that_dies_with_what_it_alone_has_takes_a_word_of_its_own() {
        let ring = ring("abc", (3, 1, 3));
        let begun = asked(&ring, &all(&[leaves("c")]), "", false).unwrap();
        let now = |ring: RingDocument| RingDocument {
            version: RingVersion(9),
            ..ring
        };
        let begun = now(begun);
        let wish = all(&[is_gone("c")]);
        let refusal = asked(&begun, &wish, "c", false).unwrap_err();
        assert!(matches!(refusal, WishRefusal::WritesMayBeLost { .. }));
        assert!(asked(&begun, &wish, "c", true).is_ok());
        let read = now(change::read_new(&begun).unwrap());
        assert!(asked(&read, &wish, "c", false).is_ok());
    }

    #[test]
    fn what_was_planned_on_another_ring_is_planned_again() {
        let mut ring = ring("abc", (3, 2, 2));
        ring.version = RingVersion(10);
        let refusal = asked(&ring, &all(&[leaves("c")]), "", false).unwrap_err();
        assert!(refusal.to_string().ends_with("plan again"));
    }
}
