//! Which of a key's owners does what: the preference list, seen from one node.

use smallvec::SmallVec;

use crate::engine::quorum::{Place, Sides};

/// A node as this process knows it: a small number, never reused while the process lives.
///
/// Ring documents come and go; an operation that has begun keeps talking to the nodes it began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSlot(pub u16);

/// This node itself.
pub const SELF: NodeSlot = NodeSlot(0);

/// What is known of the way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Connected, or about to be; nothing speaks against it.
    Usable,
    /// The last attempt to connect failed, or the node is suspected: asked only when there is no
    /// other way, and then at once, without waiting for a back-off.
    Doubtful,
}

/// The owners of one key in the order of preference. While the ring changes those that are read come first, and who
/// is only written follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    owners: SmallVec<[NodeSlot; 4]>,
    sides: Sides,
}

/// Who coordinates a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// This node, at this place of the preference list.
    Here {
        /// Its own place.
        place: Place,
    },
    /// The owner at this place; the request has not been forwarded before.
    Forward {
        /// Whose place.
        place: Place,
    },
    /// This node owns no copy, no owner can be reached, and the quorum may be sloppy: it stands in for
    /// the owner at this place.
    StandIn {
        /// Whose place.
        place: Place,
    },
    /// It was forwarded here although this node is no owner: the two rings differ.
    NotOwner,
}

/// What matters about a request for its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A read, or a write that carries a context: any owner will do.
    AnyOwner,
    /// A write without a context: the first owner that can be reached, so that one blind write after
    /// another meets what the one before it left.
    FirstOwner,
}

/// Who counts towards a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Owners only.
    Strict,
    /// While owners are down, the next nodes of the ring in their places.
    Sloppy,
}

impl Preference {
    /// The owners in order, of a ring that does not change.
    pub fn new(owners: impl IntoIterator<Item = NodeSlot>) -> Self {
        let owners: SmallVec<_> = owners.into_iter().collect();
        // Ring documents hold N to 32.
        let sides = Sides::of(owners.len() as u8);
        Self { owners, sides }
    }

    /// The owners in order, of which these count for reads and those for writes.
    pub fn joint(owners: impl IntoIterator<Item = NodeSlot>, sides: Sides) -> Self {
        let owners = owners.into_iter().collect();
        Self { owners, sides }
    }

    /// How many owners there are.
    pub fn len(&self) -> u8 {
        // Ring documents hold N to 32, and two rings have twice as many.
        self.owners.len() as u8
    }

    /// Which of them count for what.
    pub fn sides(&self) -> Sides {
        self.sides
    }

    /// Those that are read, alone.
    #[must_use]
    pub fn into_readers(mut self) -> Self {
        self.owners.truncate(usize::from(self.sides.readers));
        self.sides = Sides::of(self.len());
        self
    }

    /// At which place a node stands that may coordinate: one that is read. A copy that is not complete yet is no
    /// ground for a write, and one that is to go will not be there to mend it.
    pub fn coordinating_place_of(&self, node: NodeSlot) -> Option<Place> {
        self.place_of(node)
            .filter(|&place| place < self.sides.readers)
    }

    /// Those that may coordinate, in order, with their places.
    pub fn coordinators(&self) -> impl Iterator<Item = (Place, NodeSlot)> + '_ {
        (0..self.sides.readers).zip(self.iter())
    }

    /// True for no owners at all; a ring always gives at least one.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeSlot> + '_ {
        self.owners.iter().copied()
    }

    /// Who stands at a place.
    pub fn at(&self, place: Place) -> Option<NodeSlot> {
        self.owners.get(usize::from(place)).copied()
    }

    /// At which place a node stands.
    pub fn place_of(&self, node: NodeSlot) -> Option<Place> {
        let place = self.owners.iter().position(|&owner| owner == node)?;
        Some(place as Place)
    }

    /// The places of all owners but the node itself, in order, beginning at a turn that the caller
    /// changes from request to request, so that the load is shared.
    pub fn others(&self, own: Place, turn: usize) -> impl Iterator<Item = (Place, NodeSlot)> + '_ {
        let count = self.owners.len();
        (0..count)
            .map(move |step| (turn + step) % count.max(1))
            .filter(move |&place| place != usize::from(own))
            .map(|place| (place as Place, self.owners[place]))
    }

    /// The place of the best coordinator besides this node: the first in reach, or else the first.
    pub fn first_other(&self, reach: impl Fn(NodeSlot) -> Reach) -> Option<Place> {
        let others = || self.coordinators().filter(|&(_, node)| node != SELF);
        let usable = others().find(|&(_, node)| reach(node) == Reach::Usable);
        usable.or_else(|| others().next()).map(|(place, _)| place)
    }

    /// Decides who coordinates a request that has arrived here. A node that owns no copy stands in only where it may.
    pub fn route(
        &self,
        access: Access,
        may_stand_in: bool,
        forwarded: bool,
        reach: impl Fn(NodeSlot) -> Reach,
    ) -> Route {
        let own = self.coordinating_place_of(SELF);
        let usable = |&(_, node): &(Place, NodeSlot)| node == SELF || reach(node) == Reach::Usable;
        let first_usable = self.coordinators().find(usable).map(|(place, _)| place);
        let first = first_usable.unwrap_or(0);
        match (own, access) {
            (Some(place), Access::AnyOwner) => Route::Here { place },
            (Some(place), Access::FirstOwner) if forwarded || place == first => {
                Route::Here { place }
            }
            (None, _) if forwarded => Route::NotOwner,
            (None, _)
                if may_stand_in && first_usable.is_none() && self.place_of(SELF).is_none() =>
            {
                Route::StandIn { place: 0 }
            }
            (_, _) => Route::Forward { place: first },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeSlot = NodeSlot(1);
    const B: NodeSlot = NodeSlot(2);

    fn all_usable(_: NodeSlot) -> Reach {
        Reach::Usable
    }

    fn here(place: Place) -> Route {
        Route::Here { place }
    }

    #[test]
    fn any_owner_coordinates_a_read() {
        let owners = Preference::new([A, SELF, B]);
        let route = owners.route(Access::AnyOwner, false, false, all_usable);
        assert_eq!(route, here(1));
        let strangers = Preference::new([A, B]);
        let route = strangers.route(Access::AnyOwner, false, false, all_usable);
        assert_eq!(route, Route::Forward { place: 0 });
    }

    #[test]
    fn blind_writes_go_to_the_first_owner_that_can_be_reached() {
        let owners = Preference::new([A, SELF, B]);
        let route = owners.route(Access::FirstOwner, false, false, all_usable);
        assert_eq!(route, Route::Forward { place: 0 });
        let a_is_gone = |node| {
            if node == A {
                Reach::Doubtful
            } else {
                Reach::Usable
            }
        };
        let route = owners.route(Access::FirstOwner, false, false, a_is_gone);
        assert_eq!(route, here(1));
        let first = Preference::new([SELF, A, B]);
        let route = first.route(Access::FirstOwner, false, false, all_usable);
        assert_eq!(route, here(0));
    }

    #[test]
    fn a_request_is_forwarded_once() {
        let owners = Preference::new([A, SELF, B]);
        let route = owners.route(Access::FirstOwner, false, true, all_usable);
        assert_eq!(route, here(1));
        let strangers = Preference::new([A, B]);
        for access in [Access::AnyOwner, Access::FirstOwner] {
            assert_eq!(
                strangers.route(access, false, true, all_usable),
                Route::NotOwner
            );
        }
    }

    #[test]
    fn with_nobody_in_reach_the_first_owner_is_tried_all_the_same() {
        let strangers = Preference::new([A, B]);
        let route = strangers.route(Access::AnyOwner, false, false, |_| Reach::Doubtful);
        assert_eq!(route, Route::Forward { place: 0 });
    }

    #[test]
    fn a_stranger_stands_in_only_when_no_owner_is_in_reach_and_only_for_sloppy_writes() {
        let strangers = Preference::new([A, B]);
        let route = |reach: fn(NodeSlot) -> Reach, forwarded| {
            strangers.route(Access::FirstOwner, true, forwarded, reach)
        };
        assert_eq!(
            route(|_| Reach::Doubtful, false),
            Route::StandIn { place: 0 }
        );
        assert_eq!(route(all_usable, false), Route::Forward { place: 0 });
        assert_eq!(route(|_| Reach::Doubtful, true), Route::NotOwner);
        // An owner coordinates by itself.
        let owners = Preference::new([A, SELF, B]);
        let doubtful = |_| Reach::Doubtful;
        let route = owners.route(Access::FirstOwner, true, false, doubtful);
        assert_eq!(route, here(1));
    }

    /// A, this node and B hold a key; B and C are to. While the old owners are read, C is only written.
    #[test]
    fn who_is_only_written_coordinates_nothing() {
        const C: NodeSlot = NodeSlot(3);
        let sides = Sides {
            readers: 2,
            others: 0b110,
        };
        let gains = Preference::joint([A, B, SELF], sides);
        for access in [Access::AnyOwner, Access::FirstOwner] {
            let route = |forwarded| gains.route(access, false, forwarded, all_usable);
            assert_eq!(route(false), Route::Forward { place: 0 });
            assert_eq!(route(true), Route::NotOwner);
        }
        assert_eq!(gains.coordinating_place_of(B), Some(1));
        assert_eq!((gains.place_of(SELF), gains.len()), (Some(2), 3));
        let keeps = Preference::joint([A, SELF, C], sides);
        assert_eq!(keeps.first_other(|_| Reach::Doubtful), Some(0));
        let only_c = |node| match node == C {
            true => Reach::Usable,
            false => Reach::Doubtful,
        };
        assert_eq!(keeps.first_other(only_c), Some(0), "C has not all of it");
        assert_eq!(keeps.into_readers(), Preference::new([A, SELF]));
    }

    #[test]
    fn turns_share_the_load() {
        let owners = Preference::new([SELF, A, B]);
        let first = |turn| owners.others(0, turn).next().map(|(_, node)| node);
        assert_eq!(first(1), Some(A));
        assert_eq!(first(2), Some(B));
        assert_eq!(owners.others(0, 5).count(), 2);
    }
}
