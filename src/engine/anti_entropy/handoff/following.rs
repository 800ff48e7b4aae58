//! Whom a hint is owed to when the ring changes.
//!
//! | Hint | Owed to | Ends |
//! |---|---|---|
//! | that counted | all owners of the present ring, this node among them where it is one: its own store gets it like any other | once W of them have it, and while the ring changes W of the old and W of the new ones |
//! | that counts for nothing | those of its names that own the key still: who gains a key fetches it for itself | once nobody is left |
//!
//! A name that is no owner is owed nothing: it refuses the hint, and its copy would be one of N for nobody.

use std::sync::Arc;

use dynakv_protocol::hash::Segment;
use dynakv_protocol::ids::NodeId;
use dynakv_protocol::ring_document::{Member, RingDocument};

use super::hint::Hint;
use crate::engine::placement::ring::{MemberIndex, Ring};

/// Who is owed a hint under a ring, and how many of them are needed; `None` where nothing changes.
///
/// A hint that is owed to others than before needs the ring's W at least. Its own number may be a rest of that, which an
/// earlier version left once some of the former owners had said that they have it.
pub(super) fn owed_under<T: Clone + PartialEq>(
    (owed, needed): (&[T], u8),
    owners: &[T],
    w: u8,
) -> Option<(Vec<T>, u8)> {
    let is_owner = |it: &&T| owners.contains(it);
    if needed == 0 {
        let staying: Vec<_> = owed.iter().filter(is_owner).cloned().collect();
        return (staying.len() < owed.len()).then_some((staying, 0));
    }
    let is_so = owed.len() == owners.len() && owed.iter().all(|it| is_owner(&it));
    (!is_so).then(|| (owners.to_vec(), needed.max(w)))
}

impl Hint {
    /// Owes it to whom a hint of this key is owed under this ring. Whether that is another thing than before; nobody
    /// may be left.
    pub fn follow(&mut self, ring: &Ring, key: &[u8]) -> bool {
        let id = |&owner: &MemberIndex| ring.member(owner).id.clone();
        let owners: Vec<NodeId> = ring.owners(Segment::of_key(key)).iter().map(id).collect();
        let owed: Vec<NodeId> = self.owed.iter().cloned().collect();
        match owed_under((&owed, self.needed), &owners, ring.document().w) {
            Some((owed, needed)) => {
                (self.owed, self.needed) = (owed.into_iter().collect(), needed);
                true
            }
            None => false,
        }
    }
}

/// The ring that a book follows.
#[derive(Debug)]
pub(super) struct Followed<Name> {
    pub(super) ring: Arc<Ring>,
    /// Its members, in the words of the book.
    names: Vec<Name>,
}

impl<Name: Copy> Followed<Name> {
    pub(super) fn new(ring: Arc<Ring>, name_of: impl FnMut(&NodeId) -> Name) -> Self {
        let members = ring.document().members.iter();
        let names = members.map(|member| &member.id).map(name_of).collect();
        Self { ring, names }
    }

    /// The owners of a key.
    pub(super) fn owners(&self, key: &[u8]) -> Vec<Name> {
        let owners = self.ring.owners(Segment::of_key(key)).iter();
        owners.map(|owner| self.names[owner.slot()]).collect()
    }
}

/// Whether every key has the same owners under both rings, and they count alike: a member that returned with another
/// directory, say, is all that differs.
pub(super) fn have_same_owners(one: &RingDocument, other: &RingDocument) -> bool {
    let are_alike = |one: &[Member], other: &[Member]| stakes(one).eq(stakes(other));
    let are_also_alike = match (one.also_written_members(), other.also_written_members()) {
        (Some(one), Some(other)) => are_alike(&one, &other),
        (one, other) => one.is_none() && other.is_none(),
    };
    (one.n, one.w) == (other.n, other.w)
        && are_alike(&one.read_members(), &other.read_members())
        && are_also_alike
}

/// What decides who owns what.
fn stakes(members: &[Member]) -> impl Iterator<Item = (&NodeId, u16, &str)> {
    let members = members.iter().filter(|member| member.weight > 0);
    members.map(|member| (&member.id, member.weight, member.zone.as_str()))
}
